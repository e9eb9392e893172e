r"""Distances of samples, of their difference: one number a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

__all__ = ["DISTANCES", "Distance", "absolute", "pseudo_huber", "squared"]


# From a difference, `(B, *)`, to the distance of each row, `(B,)`.
Distance = Callable[[Tensor], Tensor]


def squared(difference: Tensor) -> Tensor:
    r"""Returns :math:`\|v\|^2 / d` of each row, with shape `(B,)`."""
    return difference.flatten(1).square().mean(1)


def absolute(difference: Tensor) -> Tensor:
    r"""Returns :math:`\|v\|_1 / d` of each row, with shape `(B,)`."""
    return difference.flatten(1).abs().mean(1)


def pseudo_huber(difference: Tensor, softness: float = 0.03) -> Tensor:
    r"""Returns :math:`\sqrt{\|v\|^2 / d + c^2}` of each row, with shape `(B,)`."""
    return (squared(difference) + softness**2).sqrt()


DISTANCES: Mapping[str, Distance] = {
    "l2": squared,
    "l1": absolute,
    "pseudo_huber": pseudo_huber,
}
