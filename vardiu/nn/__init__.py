"""Small networks, the wrapper that sets the type they compute in, and blocks computed twice."""

from .mlp import MLP
from .precision import Precision
from .recompute import Recomputed
from .unet import UNet

__all__ = ["MLP", "Precision", "Recomputed", "UNet"]
