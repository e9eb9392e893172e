r"""Pure functions of tensors: scores, bounds, sums and distances."""
