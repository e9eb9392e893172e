r"""Files, checkpoints, run folders, provenance; knows nothing of models.

Its modules are imported by their names: every command reads `launch`, and checkpoints take torch,
whose import takes seconds.
"""
