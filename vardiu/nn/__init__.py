"""Small networks, those of EDM and EDM2, and wrappers: of precision, and of recomputation."""

from .adm import DhariwalUNet
from .edm import SongUNet
from .edm2 import EDM2UNet
from .mlp import MLP
from .precision import Precision, with_precision
from .recompute import Recomputed
from .unet import UNet

__all__ = [
    "EDM2UNet",
    "DhariwalUNet",
    "MLP",
    "Precision",
    "Recomputed",
    "SongUNet",
    "UNet",
    "with_precision",
]
