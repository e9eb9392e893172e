r"""Networks that are told a number beside their level: a map's end, or a scale of guidance."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from .taps import Wrapper, with_child

__all__ = ["Numbered", "NumberEmbedding", "TakesNumbers", "with_number"]


# By the keyword of a call, the constructor's argument that makes room for the number.
ARGUMENTS: Mapping[str, str] = {"end": "ends", "guidance": "guided"}


@runtime_checkable
class TakesNumbers(Protocol):
    r"""A network that has room for numbers beside its level."""

    def with_number(self, name: str) -> nn.Module:
        r"""Returns a copy that is told a number by this keyword, `(B,)`, and starts by not heeding
        it."""


class NumberEmbedding(nn.Module):
    r"""A linear map of a number, and of its cosines and sines; it starts at zero.

    A network that a student takes from a teacher so starts as the teacher's, whatever the number.

    Arguments:
        width: The width of what it returns.
        octaves: The number of frequencies :math:`\tfrac12, 1, 2, \ldots`, in radians.
        scale: What the number is divided by.
    """

    def __init__(self, width: int, octaves: int = 6, scale: float = 1.0) -> None:
        super().__init__()
        self.frequencies = [2.0 ** (i - 1) / scale for i in range(octaves)]
        self.scale = scale
        self.linear = nn.Linear(1 + 2 * octaves, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, number: Tensor) -> Tensor:
        r"""Returns the embedding of numbers `(B,)`, with shape `(B, width)`."""
        angles = torch.stack([f * number for f in self.frequencies], dim=1)
        first = (number / self.scale)[:, None]
        return self.linear(torch.cat([first, angles.cos(), angles.sin()], dim=1))


class Numbered(nn.Module):
    r"""A network of the library with room for the numbers of `ARGUMENTS`.

    Where a level is in the feature of a quarter of its logarithm, a scale of guidance is divided
    by four as well: from one scale to the next an embedding changes smoothly.
    """

    OCTAVES: Mapping[str, tuple[int, float]] = {"end": (6, 1.0), "guidance": (3, 4.0)}

    arguments: dict[str, Any]
    numbers_width: int

    def make_room(self, width: int, **wanted: bool) -> None:
        r"""Makes the embeddings of the numbers that are wanted, by their keywords."""
        self.numbers_width = width
        for name in ARGUMENTS:
            setattr(self, name, self._embedding(name) if wanted[name] else None)

    def _embedding(self, name: str) -> NumberEmbedding:
        octaves, scale = self.OCTAVES[name]
        return NumberEmbedding(self.numbers_width, octaves, scale)

    def with_number(self, name: str) -> Self:
        r"""Returns a copy that is told a number by this keyword, and starts by not heeding it."""
        twin = copy.deepcopy(self)
        if getattr(twin, name) is None:
            setattr(twin, name, self._embedding(name).to(next(self.parameters())))
            twin.arguments = {**self.arguments, ARGUMENTS[name]: True}
        return twin

    def embedded_numbers(self, h: Tensor, **given: Tensor | None) -> Tensor:
        r"""Returns a hidden state, `(B, width)`, with the embeddings of numbers added.

        Raises:
            ValueError: A number is given to a network that has no room for it, or the reverse.
        """
        for name, number in given.items():
            embedding = getattr(self, name)
            if (number is not None) != (embedding is not None):
                raise ValueError(
                    f"the number {name!r} must be given where the network takes "
                    f"`{ARGUMENTS[name]}`, and nowhere else"
                )
            if number is not None:
                h = h + embedding(number)
        return h


def with_number(network: nn.Module, name: str) -> nn.Module:
    r"""Returns a copy of a network that is told a number as well.

    Raises:
        TypeError: The network has no room for one.
    """
    inner = network._modules.get("network")
    if isinstance(network, Wrapper) and inner is not None:
        return with_child(network, "network", with_number(inner, name))
    if not isinstance(network, TakesNumbers):
        what = "where a map ends" if name == "end" else "a scale of guidance"
        raise TypeError(f"{type(network).__name__} cannot be told {what}")
    return network.with_number(name)
