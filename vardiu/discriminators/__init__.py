"""Discriminators: small heads on the features of denoisers."""

from .diffusion import (
    DiffusionDiscriminator,
    EncodedDiscriminator,
    discriminator_on,
    named_taps,
)
from .encoders import encoder_of
from .heads import (
    ConvHead,
    Head,
    MLPHead,
    PositionHead,
    TokenHead,
    head_for,
    position_head,
)
from .hybrid import HybridDiscriminator

__all__ = [
    "DiffusionDiscriminator",
    "EncodedDiscriminator",
    "encoder_of",
    "discriminator_on",
    "named_taps",
    "HybridDiscriminator",
    "ConvHead",
    "Head",
    "MLPHead",
    "PositionHead",
    "TokenHead",
    "head_for",
    "position_head",
]
