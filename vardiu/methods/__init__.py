r"""Methods: one file a paper, each with one object `METHOD` that says all of it.

A method of more than 250 lines is a folder: its objective, its settings and its presets apart.
"""

from __future__ import annotations

from .base import Arm, Example, Method, Needs, Preset
from .registry import METHODS, Code, load_method

__all__ = [
    "METHODS",
    "Arm",
    "Code",
    "Example",
    "Method",
    "Needs",
    "Preset",
    "load_method",
]
