r"""A student of small images on a large one: tiles that overlap, blended, a band at a time.

A tile counts nothing near its own edges and fades over some pixels beside them, where its
neighbour takes over. So a network that sees no further than the margin gives what it would give of
the whole image; one that does, as where it has attention or normalises a whole tile, has no seam
but a fade.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Tiles", "bands", "tiled"]


class Tiles(NamedTuple):
    r"""How tiles lie.

    Arguments:
        side: The side of a tile, in pixels.
        margin: The pixels beside an inner edge that count nothing.
        ramp: The pixels after these in which a tile fades in.
    """

    side: int
    margin: int
    ramp: int

    @classmethod
    def of_side(cls, side: int) -> Tiles:
        r"""Returns tiles whose margin and ramp are an eighth of their side each."""
        return cls(side, max(1, side // 8), max(1, side // 8))

    @property
    def stride(self) -> int:
        r"""The pixels from a tile to the next one."""
        return self.side - 2 * self.margin - self.ramp

    def starts(self, length: int) -> list[int]:
        r"""Returns where the tiles of a line of so many pixels begin; the last one ends it.

        Raises:
            ValueError: The line is shorter than a tile, or tiles have nothing but margins.
        """
        if length < self.side or self.stride < 1 or min(self.margin, self.ramp) < 0:
            raise ValueError(
                f"tiles of {self.side} pixels with a margin of {self.margin} and a ramp of "
                f"{self.ramp} cannot cover {length} pixels"
            )
        found = list(range(0, length - self.side, self.stride))
        return [*found, length - self.side]

    def weight(self, start: int, length: int) -> Tensor:
        r"""Returns the weight of each pixel of a tile in a line, `(side,)`: full at the line's own
        ends."""
        place = torch.arange(self.side, dtype=torch.float32) - self.margin
        rise = ((place + 1) / (self.ramp + 1)).clamp(0, 1)
        left = rise if start > 0 else torch.ones(self.side)
        right = rise.flip(0) if start + self.side < length else torch.ones(self.side)
        return left * right


def bands(
    function: Callable[[Tensor], Tensor],
    rows: Callable[[int, int], Tensor],
    size: tuple[int, int],
    tiles: Tiles,
    batch: int = 256,
) -> Iterator[Tensor]:
    r"""Yields a large image that is made tile by tile, in bands of rows from the top.

    No more than two bands of tiles are held at once.

    Arguments:
        function: Makes of tiles, `(B, C, side, side)`, others of the same shape.
        rows: Returns the rows of the input from one to another, `(C, rows, W)`.
        size: Height and width of the input.
        tiles: How tiles lie.
        batch: The largest number of tiles at once.

    Yields:
        Bands, each with shape :math:`(C, h, W)`, that together are the image.
    """
    height, width = size
    downs = tiles.starts(height)
    places = [(start, tiles.weight(start, width)) for start in tiles.starts(width)]
    held = total = torch.empty(0)
    for index, top in enumerate(downs):
        band = across(function, rows(top, top + tiles.side), places, batch)
        weight = tiles.weight(top, height)[:, None]
        if index == 0:
            held, total = weight * band, weight.clone()
        else:
            kept = downs[index - 1] + tiles.side - top  # rows that are there already
            more = tiles.side - kept
            held = torch.cat([held, held.new_zeros(len(held), more, width)], dim=1)
            total = torch.cat([total, total.new_zeros(more, 1)])
            held, total = held + weight * band, total + weight
        following = downs[index + 1] if index + 1 < len(downs) else height
        ready = following - top
        yield held[:, :ready] / total[:ready]
        held, total = held[:, ready:], total[ready:]


def across(
    function: Callable[[Tensor], Tensor],
    band: Tensor,
    places: Sequence[tuple[int, Tensor]],
    batch: int,
) -> Tensor:
    r"""Returns a band of tiles, blended from left to right, `(C, side, W)`.

    Arguments:
        function: Makes tiles of tiles.
        band: The input's band.
        places: Where each tile begins, and the weight of its columns.
        batch: The largest number of tiles at once.
    """
    found, total = torch.zeros_like(band), band.new_zeros(band.shape[2])
    for begin in range(0, len(places), batch):
        chosen, side = places[begin : begin + batch], band.shape[1]
        made = function(torch.stack([band[:, :, s : s + side] for s, _ in chosen]))
        for (start, weight), tile in zip(chosen, made, strict=True):
            found[:, :, start : start + side] += weight * tile
            total[start : start + side] += weight
    return found / total


def tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, tiles: Tiles, batch: int = 256
) -> Tensor:
    r"""Returns a large image, `(C, H, W)`, made tile by tile, see `bands`."""
    size = x.shape[1], x.shape[2]
    parts = bands(function, lambda a, b: x[:, a:b], size, tiles, batch)
    return torch.cat(list(parts), dim=1)
