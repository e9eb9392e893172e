"""Discriminators: small heads on the features of denoisers."""

from .diffusion import DiffusionDiscriminator, discriminator_on
from .heads import ConvHead, Head, MLPHead, TokenHead, head_for

__all__ = [
    "DiffusionDiscriminator",
    "discriminator_on",
    "ConvHead",
    "Head",
    "MLPHead",
    "TokenHead",
    "head_for",
]
