r"""Denoisers of data in another range than [-1, 1].

A network of data :math:`y \in [a, b]` is one of :math:`x \in [-1, 1]`, with :math:`y = c x + m`,
:math:`c = (b - a) / 2` and :math:`m = (a + b) / 2`:

.. math:: D(x_t, \sigma) = \frac{D_y(c \, x_t + m, \, c \, \sigma) - m}{c}
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .base import Denoiser

__all__ = ["OURS", "Affine", "Rescaled", "rescaled"]


# The range of images here.
OURS = (-1.0, 1.0)


class Affine(NamedTuple):
    r"""The map :math:`y = c x + m` from [-1, 1] to another range."""

    scale: float
    shift: float

    @classmethod
    def onto(cls, data_range: Sequence[float]) -> Affine:
        r"""Returns the map onto a range.

        Raises:
            ValueError: It is no range of two finite numbers, the smaller one first.
        """
        if len(data_range) != 2 or not all(math.isfinite(value) for value in data_range):
            raise ValueError(f"data_range must be two finite numbers, got {tuple(data_range)}")
        low, high = data_range
        if not low < high:
            raise ValueError(f"data_range must have the smaller number first, got {low}, {high}")
        return cls((high - low) / 2, (high + low) / 2)

    def there(self, x: Tensor) -> Tensor:
        r"""Returns :math:`c x + m`."""
        return self.scale * x + self.shift

    def back(self, y: Tensor) -> Tensor:
        r"""Returns :math:`(y - m) / c`."""
        return (y - self.shift) / self.scale


class Rescaled(Denoiser):
    r"""A denoiser of data in another range, as one of data in [-1, 1].

    Arguments:
        denoiser: The denoiser :math:`D_y`, whose levels are those of its own data.
        data_range: The range of its data, for instance `(0, 1)`.

    Raises:
        ValueError: It is no range.
    """

    def __init__(self, denoiser: Denoiser, data_range: Sequence[float]) -> None:
        super().__init__()
        self.denoiser, self.map = denoiser, Affine.onto(data_range)
        self.shape, self.conditions = tuple(denoiser.shape), tuple(denoiser.conditions)
        self.sigma_min = denoiser.sigma_min / self.map.scale
        self.sigma_max = denoiser.sigma_max / self.map.scale
        self.terminal, self.origin = denoiser.terminal, denoiser.origin
        self.arguments = {"data_range": [float(value) for value in data_range]}

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.check(x_t, sigma)
        y = self.denoiser(self.map.there(x_t), self.map.scale * sigma, **cond)
        return self.map.back(y)

    @property
    def taps(self) -> tuple[str, ...]:
        return self.denoiser.taps

    @property
    def bottleneck(self) -> str:
        return self.denoiser.bottleneck

    def features(
        self, x_t: Tensor, sigma: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.check(x_t, sigma)
        there = self.map.there(x_t), self.map.scale * sigma
        y, kept = self.denoiser.features(*there, at, **cond)
        return self.map.back(y), kept

    def generate(self, z: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        return self.map.back(self.denoiser.generate(z, self.map.scale * sigma, **cond))

    def pure_noise(self, z: Tensor, sigma: float) -> Tensor:
        return self.map.back(self.denoiser.pure_noise(z, self.map.scale * sigma))

    def noise_gain(self, sigma: float) -> float:
        return self.denoiser.noise_gain(self.map.scale * sigma) / self.map.scale

    def whole(self, sigma: float) -> float:
        return self.denoiser.whole(self.map.scale * sigma) / self.map.scale

    @property
    def latent_sigma(self) -> float:
        return self.denoiser.latent_sigma / self.map.scale

    def extra_repr(self) -> str:
        return f"data_range={tuple(self.arguments['data_range'])}"


def rescaled(denoiser: Denoiser, data_range: Sequence[float]) -> Denoiser:
    r"""Returns a denoiser of data in a range as one of data in [-1, 1]: itself where it is."""
    return denoiser if tuple(data_range) == OURS else Rescaled(denoiser, data_range)
