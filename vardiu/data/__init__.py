"""Data on board: densities with known scores, digits, and batches that can be resumed."""

from .batch import Batch
from .batches import Batches, DataFree, Shuffled, Stream, check
from .densities import DENSITIES, MixtureSpec, mixture
from .digits import digits
from .images import ImageBatches
from .latents import Encoded
from .sources import open_data, read_data

__all__ = [
    "Batch",
    "Batches",
    "DataFree",
    "Shuffled",
    "Stream",
    "check",
    "DENSITIES",
    "MixtureSpec",
    "mixture",
    "digits",
    "ImageBatches",
    "Encoded",
    "open_data",
    "read_data",
]
