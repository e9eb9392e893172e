"""Small networks, those of EDM and EDM2, and the wrapper that sets the type they compute in."""

from .adm import DhariwalUNet
from .edm import SongUNet
from .edm2 import EDM2UNet
from .mlp import MLP
from .precision import Precision
from .unet import UNet

__all__ = ["EDM2UNet", "DhariwalUNet", "MLP", "Precision", "SongUNet", "UNet"]
