r"""Noise of each row by itself: what becomes of a row does not depend on what else is with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["RowNoise"]


class RowNoise:
    r"""Standard normal noise, of each row from a source of its own: the same in any batch, and on
    every device.

    Arguments:
        seeds: The seed of each row.
        ahead: How many calls' noise is drawn at once. Of small rows a call takes longer to begin
            than to draw. Other numbers give other noise.
    """

    def __init__(self, seeds: Sequence[int], ahead: int = 1) -> None:
        self.sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.ahead = ahead
        self._drawn: list[Tensor] = []

    def __call__(self, like: Tensor) -> Tensor:
        r"""Returns noise of the shape, type and device of a batch."""
        if not self._drawn:
            shape = (self.ahead, *like.shape[1:])
            rows = [torch.randn(shape, generator=s, dtype=like.dtype) for s in self.sources]
            self._drawn = list(torch.stack(rows, dim=1))
        return self._drawn.pop(0).to(like.device)
