r"""Objectives, phases and stages, and the trainer that carries them out."""
