"""Small networks, and the wrapper that sets the type they compute in."""

from .mlp import MLP
from .precision import Precision
from .unet import UNet

__all__ = ["MLP", "Precision", "UNet"]
