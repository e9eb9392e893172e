r"""Settings: dataclasses at the surface, read strictly, and the objects that they stand for."""
