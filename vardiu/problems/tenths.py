r"""Tenths of data, in place of modes that nobody knows."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Tenths"]


class Tenths:
    r"""Intervals that each hold a tenth of some numbers, and what share of others they hold.

    Where numbers are equal there are fewer intervals: none is empty, so that a share of zero tells
    that something is missing.

    Arguments:
        values: The numbers, with shape :math:`(N)`.

    Attributes:
        shares: The share of those numbers in each interval.
    """

    def __init__(self, values: Tensor) -> None:
        self.edges = values.quantile(torch.linspace(0.1, 0.9, 9, dtype=values.dtype)).unique()
        filled = self._counts(values) > 0
        # An empty interval joins the next one; the last one has none and joins the one before.
        self.edges = self.edges[filled[:-1]]
        if not filled[-1]:
            self.edges = self.edges[:-1]
        self.shares = self.of(values)

    def _counts(self, values: Tensor) -> Tensor:
        places = torch.bucketize(values, self.edges)
        return torch.bincount(places, minlength=len(self.edges) + 1)

    def of(self, values: Tensor) -> list[float]:
        r"""Returns the share of numbers `(N,)` in each interval."""
        return (self._counts(values) / len(values)).tolist()
