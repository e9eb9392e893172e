r"""Denoisers, E[x | x_t], of every kind, and noise levels."""
