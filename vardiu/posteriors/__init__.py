r"""Posteriors r(z | x_t): an encoder, and a family of densities on top of it."""
