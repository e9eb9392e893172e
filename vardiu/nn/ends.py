r"""Networks that are told a second level: where the map that they are asked for ends."""

from __future__ import annotations

import copy
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["EndEmbedding", "TakesEnd", "check_end", "with_end"]


@runtime_checkable
class TakesEnd(Protocol):
    r"""A network that can be told an end beside its level, as the keyword `end`."""

    def end_embedding(self) -> nn.Module:
        r"""Returns a fresh embedding of an end, of the width that the network adds it to."""


class EndEmbedding(nn.Module):
    r"""A linear map of the feature of a level, and of its cosines and sines; it starts at zero.

    A network that a student takes from a teacher so starts as the teacher's, whatever the end.

    Arguments:
        width: The width of what it returns.
        octaves: The number of frequencies :math:`\tfrac12, 1, 2, \ldots`, in radians.
    """

    def __init__(self, width: int, octaves: int = 6) -> None:
        super().__init__()
        self.frequencies = [2.0 ** (i - 1) for i in range(octaves)]
        self.linear = nn.Linear(1 + 2 * octaves, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, end: Tensor) -> Tensor:
        r"""Returns the embedding of features `(B,)`, with shape `(B, width)`."""
        angles = torch.stack([f * end for f in self.frequencies], dim=1)
        return self.linear(torch.cat([end[:, None], angles.cos(), angles.sin()], dim=1))


def with_end(network: nn.Module) -> nn.Module:
    r"""Returns a copy of a network that is told an end as well, and starts by not heeding it.

    Raises:
        TypeError: The network has no place for one.
    """
    if not isinstance(network, TakesEnd):
        raise TypeError(f"{type(network).__name__} cannot be told where a map ends")
    twin: Any = copy.deepcopy(network)
    if twin.end is None:
        like = next(network.parameters())
        twin.end = twin.end_embedding().to(like)
        twin.arguments = {**twin.arguments, "ends": True}
    found: nn.Module = twin
    return found


def check_end(end: Tensor | None, embedding: nn.Module | None) -> None:
    r"""Raises a `ValueError` where an end is given to a network that takes none, or the
    reverse."""
    if (end is not None) != (embedding is not None):
        raise ValueError("an end must be given where the network takes `ends`, and nowhere else")
