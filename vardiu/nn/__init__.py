"""Small networks, those of EDM and EDM2, wrappers, and the taps that networks list."""

from .adm import DhariwalUNet
from .backbones import Interface, backbones
from .edm import SongUNet
from .edm2 import EDM2UNet
from .mlp import MLP
from .perceptual import PerceptualNet, perceptual_net
from .precision import Precision, has_bfloat16, with_precision
from .recompute import Recomputed
from .taps import Tapped, Wrapper
from .trunk import Trunk
from .unet import UNet

__all__ = [
    "EDM2UNet",
    "DhariwalUNet",
    "Interface",
    "MLP",
    "PerceptualNet",
    "Precision",
    "Recomputed",
    "SongUNet",
    "Tapped",
    "Trunk",
    "UNet",
    "Wrapper",
    "backbones",
    "has_bfloat16",
    "perceptual_net",
    "with_precision",
]
