r"""Denoisers whose network is told where a map ends, beside the level at which it starts."""

from __future__ import annotations

from ..nn.numbers import with_number
from ..nn.precision import Precision
from ..nn.taps import with_child
from .base import Denoiser

__all__ = ["told_ends"]


def told_ends(denoiser: Denoiser) -> Denoiser:
    r"""Returns a denoiser that takes the keyword `end`, a feature with shape `(B,)`.

    Its network is a copy with an embedding of that, which starts at zero: until it is trained,
    the denoiser answers as the given one at any end. It computes in the type of its weights:
    a derivative by the end is lost in the eight bits of bfloat16, and torch has no forward mode
    of convolutions under autocast.

    Raises:
        TypeError: The denoiser has no network, or one that cannot be told.
    """
    for name in ("denoiser", "network"):
        inner = denoiser._modules.get(name)
        if isinstance(inner, Denoiser):
            return with_child(denoiser, name, told_ends(inner))
        if isinstance(inner, Precision):
            return with_child(denoiser, name, with_number(inner.network, "end"))
        if inner is not None:
            return with_child(denoiser, name, with_number(inner, "end"))
    raise TypeError(
        f"{type(denoiser).__name__} has no network that could be told where a map ends"
    )
