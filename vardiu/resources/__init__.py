r"""Memory, hours and disk of a run, before it starts."""
