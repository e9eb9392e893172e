r"""Many calls of a denoiser, from noise to a sample."""
