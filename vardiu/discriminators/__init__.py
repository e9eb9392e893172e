"""Discriminators: small heads on the features of denoisers."""
