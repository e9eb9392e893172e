"""Data on board: densities with known scores, digits, and batches that can be resumed."""

from .batches import Batches, DataFree, Shuffled, Stream, check
from .densities import DENSITIES, MixtureSpec, mixture
from .digits import digits

__all__ = [
    "DENSITIES",
    "Batches",
    "DataFree",
    "MixtureSpec",
    "Shuffled",
    "Stream",
    "check",
    "digits",
    "mixture",
]
