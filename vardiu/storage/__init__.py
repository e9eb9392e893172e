r"""Files, checkpoints, run folders, provenance; knows nothing of models."""
