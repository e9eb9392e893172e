r"""Layout of the U-Nets of the EDM family: the places of their blocks, and shared operations.

Each resolution of the encoder has `num_blocks` blocks, and begins with one that halves the image;
each resolution of the decoder has one block more, and begins with one that doubles it, but for
the lowest, which begins with two plain blocks. Every output of the encoder is kept, the stem's
too, and handed to one block of the decoder, the last to the first. Blocks are named after their
resolution, as in the published files: `32x32_block0`, `16x16_down`, `8x8_in1`, `16x16_up`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention import attention

__all__ = [
    "Mode",
    "Place",
    "attend",
    "decoder",
    "encoder",
    "one_hot",
    "constructor_arguments",
    "resample",
    "tap_names",
    "taps_2d",
]


Mode = Literal["keep", "up", "down"]


class Place(NamedTuple):
    r"""A block's place in a U-Net.

    Attributes:
        kind: `block0`, `block1`, ..., `down`, `up`, `in0` or `in1`.
        side: The side of its output, in pixels.
        inputs: The number of its input's channels, those of the skip connection included.
        outputs: The number of its output's channels.
        mode: How it resamples.
        attention: Whether it attends.
    """

    kind: str
    side: int
    inputs: int
    outputs: int
    mode: Mode = "keep"
    attention: bool = False

    @property
    def name(self) -> str:
        return f"{self.side}x{self.side}_{self.kind}"

    @property
    def joins(self) -> bool:
        r"""Whether a block of the decoder takes a skip connection."""
        return self.kind.startswith("block")


def encoder(
    side: int, stem: int, widths: Sequence[int], blocks: int, attention: Sequence[int]
) -> list[Place]:
    r"""Returns the places after the stem.

    Arguments:
        side: The side of an image, in pixels.
        stem: The number of channels of the stem's output.
        widths: The number of channels of each resolution, from full size down.
        blocks: The number of blocks of each resolution.
        attention: The sides at which the blocks attend.
    """
    places, channels = [], stem
    for level, width in enumerate(widths):
        here = side >> level
        if level:
            places.append(Place("down", here, channels, channels, "down"))
        for i in range(blocks):
            places.append(Place(f"block{i}", here, channels, width, attention=here in attention))
            channels = width
    return places


def decoder(
    side: int,
    stem: int,
    widths: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    *,
    only_last: bool = False,
) -> list[Place]:
    r"""Returns the decoder's places; with `only_last` a resolution's last block attends alone."""
    skips = [stem] + [place.outputs for place in encoder(side, stem, widths, blocks, ())]
    channels, places = widths[-1], []
    for level in reversed(range(len(widths))):
        here = side >> level
        if level == len(widths) - 1:
            places.append(Place("in0", here, channels, channels, attention=True))
            places.append(Place("in1", here, channels, channels))
        else:
            places.append(Place("up", here, channels, channels, "up"))
        for i in range(blocks + 1):
            attends = here in attention and (i == blocks or not only_last)
            inputs = channels + skips.pop()
            places.append(Place(f"block{i}", here, inputs, widths[level], attention=attends))
            channels = widths[level]
    return places


def tap_names(stem: str, encoder: Iterable[Place], decoder: Iterable[Place]) -> tuple[str, ...]:
    r"""Returns the names of the outputs of the stem and of all places, in the order of a call."""
    inwards = (f"enc.{place.name}" for place in encoder)
    return (f"enc.{stem}", *inwards, *(f"dec.{place.name}" for place in decoder))


def taps_2d(taps: Sequence[float], device: torch.device | None = None) -> Tensor:
    r"""Returns the separable filter of given taps, of unit sum, with shape `(1, 1, k, k)`."""
    # Each is filled in where it is asked for: to copy a list to an accelerator is to wait for it.
    line = torch.stack([torch.full((), float(tap), device=device) for tap in taps])
    return (line.outer(line) / line.sum().square())[None, None]


def resample(x: Tensor, kernel: Tensor, mode: Mode, padding: int | None = None) -> Tensor:
    r"""Halves or doubles images, `(B, C, H, W)`, with a low-pass filter, `(1, 1, k, k)`.

    Doubling is the adjoint of halving times four, so that both keep constants (but at borders,
    where wide filters meet zeros). With the taps [1, 1] they are the mean of four pixels and
    nearest neighbours.
    """
    if mode == "keep":
        return x
    channels = x.shape[1]
    padding = (kernel.shape[-1] - 1) // 2 if padding is None else padding
    kernel = kernel.to(x.dtype).expand(channels, -1, -1, -1)
    if mode == "down":
        return F.conv2d(x, kernel, stride=2, padding=padding, groups=channels)
    return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=padding, groups=channels)


def attend(qkv: Tensor, heads: int, normalise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    r"""Returns self-attention over the pixels, `(B, 3 C, H, W) -> (B, C, H, W)`.

    The channels of `qkv` are ordered by head, then by feature, then by query, key and value.

    Arguments:
        qkv: Queries, keys and values.
        heads: The number of heads.
        normalise: Applied to each of them over the features, dimension 2 of five.
    """
    b, channels, h, w = qkv.shape
    parts = qkv.reshape(b, heads, channels // (3 * heads), 3, h * w)
    parts = parts if normalise is None else normalise(parts)
    q, k, v = parts.transpose(2, 4).unbind(3)  # each (B, heads, pixels, features)
    y = attention(q, k, v)
    return y.transpose(-1, -2).reshape(b, channels // 3, h, w)


def one_hot(label: Tensor | None, classes: int, like: Tensor) -> Tensor | None:
    r"""Returns a label's indicator, `(B, classes)`, or none for a network without classes.

    The label `classes` stands for none of them: a row of zeros. Another number makes a row that is
    not a number on an accelerator and in a compiled graph, which neither wait to be looked at.

    Raises:
        ValueError: The label is missing or not expected, or not an integer of `0, ..., classes`
            for each row.
    """
    if (label is None) != (classes == 0):
        raise ValueError(
            f"this network has {classes} classes: give `label`, with shape (B,)"
            if label is None
            else "this network has no classes, `label` must not be given"
        )
    if label is None:
        return None
    if label.is_floating_point() or label.ndim != 1:
        raise ValueError(
            f"label must be integers with shape (B,), got {label.dtype}, {tuple(label.shape)}"
        )
    unknown = (label < 0) | (label > classes)
    hot = (label[:, None] == torch.arange(classes, device=label.device)).to(like)
    if label.device.type != "cpu" or torch.compiler.is_compiling():
        return hot.masked_fill(unknown[:, None], math.nan)
    if bool(unknown.any()):
        low, high = int(label.min()), int(label.max())
        raise ValueError(f"label must be within 0..{classes}, got {low}..{high}")
    return hot


def constructor_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    r"""Returns the `locals()` at the start of a constructor as its arguments, ready for JSON."""
    return {
        name: list(value) if isinstance(value, (list, tuple)) else value
        for name, value in arguments.items()
        if name not in ("self", "__class__")
    }
