r"""Students: generators from a latent to a sample, which is what is trained and shipped."""
