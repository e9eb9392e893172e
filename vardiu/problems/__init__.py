r"""What there is to distil: densities, digits, images."""
