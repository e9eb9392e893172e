r"""Distances of samples, of their difference: one number a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["DISTANCES", "Distance", "absolute", "distance_of", "pseudo_huber", "squared"]


# From a difference, `(B, *)`, to the distance of each row, `(B,)`.
Distance = Callable[[Tensor], Tensor]


def squared(difference: Tensor) -> Tensor:
    r"""Returns :math:`\|v\|^2 / d` of each row, with shape `(B,)`."""
    return difference.flatten(1).square().mean(1)


def absolute(difference: Tensor) -> Tensor:
    r"""Returns :math:`\|v\|_1 / d` of each row, with shape `(B,)`."""
    return difference.flatten(1).abs().mean(1)


def pseudo_huber(difference: Tensor, softness: float = 0.03) -> Tensor:
    r"""Returns :math:`\sqrt{\|v\|^2 / d + c^2} - c` of each row, with shape `(B,)`.

    References:
        | Improved Techniques for Training Consistency Models (Song and Dhariwal, 2023)
        | https://arxiv.org/abs/2310.14189, Section 3.3
    """
    square = squared(difference)
    # The difference of the two roots, without its cancellation.
    return square / ((square + softness**2).sqrt() + softness)


@dataclass(frozen=True)
class PseudoHuber:
    r"""`pseudo_huber` of one softness."""

    softness: float

    def __call__(self, difference: Tensor) -> Tensor:
        return pseudo_huber(difference, self.softness)


DISTANCES: Mapping[str, Callable[[float], Distance]] = {
    "l2": lambda softness: squared,
    "l1": lambda softness: absolute,
    "pseudo_huber": PseudoHuber,
}


def distance_of(name: str, softness: float) -> Distance:
    r"""Returns the distance of a name of `DISTANCES`.

    Arguments:
        name: The name.
        softness: The length :math:`c` below which a pseudo-Huber distance is squared.
    """
    return DISTANCES[name](softness)
