r"""Posteriors r(z | x_t): an encoder, and a family of densities on top of it."""

from .affine import AffinePosterior
from .diffusion import DiffusionPosterior
from .encoder import Encoder, Posterior, RawScale, Scale, UnitScale
from .families import (
    CholeskyPosterior,
    FlowPosterior,
    GaussianPosterior,
    MixturePosterior,
    PriorPosterior,
)
from .framed import FramedPosterior

__all__ = [
    "AffinePosterior",
    "DiffusionPosterior",
    "Encoder",
    "Posterior",
    "RawScale",
    "Scale",
    "UnitScale",
    "CholeskyPosterior",
    "FlowPosterior",
    "GaussianPosterior",
    "MixturePosterior",
    "PriorPosterior",
    "FramedPosterior",
]
