"""Discriminators: small heads on the features of denoisers."""

from .diffusion import (
    DiffusionDiscriminator,
    EncodedDiscriminator,
    discriminator_on,
    named_taps,
)
from .heads import ConvHead, Head, MLPHead, TokenHead, head_for
from .hybrid import HybridDiscriminator

__all__ = [
    "DiffusionDiscriminator",
    "EncodedDiscriminator",
    "discriminator_on",
    "named_taps",
    "HybridDiscriminator",
    "ConvHead",
    "Head",
    "MLPHead",
    "TokenHead",
    "head_for",
]
