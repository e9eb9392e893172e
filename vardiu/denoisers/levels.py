r"""Noise levels: distributions to train on, and grids to sample on.

A distribution of levels is a small frozen callable `levels(u, step)`: the quantile function of
:math:`\sigma` at uniform numbers :math:`u`, with shape :math:`(B)`. Whoever calls it owns the
random numbers, so that a loss can be computed twice on the same draws. Every parameter is a
number or a schedule, that is a function of the training step; "coarse to fine" is a schedule and
nothing else.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

__all__ = [
    "CubicTime",
    "Geometric",
    "LevelRange",
    "Levels",
    "Linear",
    "LogNormal",
    "LogUniform",
    "PowerLaw",
    "Schedule",
    "Staircase",
    "karras_grid",
    "linear_beta_grid",
    "log_grid",
]


Schedule = float | Callable[[int], float]


class LevelRange(TypedDict):
    r"""The smallest and the largest noise level, as arguments of a denoiser."""

    sigma_min: float
    sigma_max: float


def value_at_step(value: Schedule, step: int) -> float:
    r"""Returns the value of a schedule at a step; a number is constant."""
    return value(step) if callable(value) else value


@dataclass(frozen=True)
class Linear:
    r"""Goes from `start` to `end` in `steps` steps, then stays.

    Example:
        >>> Linear(0.0, 1.0, 10)(5)
        0.5
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        t = min(step / self.steps, 1.0)
        return (1 - t) * self.start + t * self.end


@dataclass(frozen=True)
class Geometric:
    r"""Goes from `start` to `end` along a straight line of the logarithm, then stays.

    Example:
        >>> round(Geometric(1.0, 100.0, 10)(5), 6)
        10.0
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        t = min(step / self.steps, 1.0)
        return math.exp((1 - t) * math.log(self.start) + t * math.log(self.end))


@dataclass(frozen=True)
class Staircase:
    r"""Starts at `start`, adds `increment` every `every` steps, stops at `end`.

    Example:
        >>> round(Staircase(0.1, 2.0, 0.01, every=1000)(2500), 6)
        0.12
    """

    start: float
    end: float
    increment: float
    every: int

    def __call__(self, step: int) -> float:
        return min(self.start + self.increment * (step // self.every), self.end)


class Levels(abc.ABC):
    r"""A distribution of training noise levels."""

    @abc.abstractmethod
    def __call__(self, u: Tensor, step: int = 0) -> Tensor:
        r"""Returns the levels at the quantiles `u` in [0, 1), with the shape of `u`."""


def _check_range(sigma_min: Schedule, sigma_max: Schedule) -> None:
    low, high = value_at_step(sigma_min, 0), value_at_step(sigma_max, 0)
    if not 0 < low < high:
        raise ValueError(
            f"sigma_min must be positive and below sigma_max, got sigma_min={low:g}, "
            f"sigma_max={high:g}"
        )


@dataclass(frozen=True)
class LogUniform(Levels):
    r""":math:`\log \sigma \sim \mathcal{U}(\log \sigma_\min, \log \sigma_\max)`.

    Raises:
        ValueError: `sigma_min` is not positive or not below `sigma_max`.
    """

    sigma_min: Schedule
    sigma_max: Schedule

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)

    def __call__(self, u: Tensor, step: int = 0) -> Tensor:
        low, high = (
            math.log(value_at_step(self.sigma_min, step)),
            math.log(value_at_step(self.sigma_max, step)),
        )
        return (low + (high - low) * u).exp()


@dataclass(frozen=True)
class LogNormal(Levels):
    r""":math:`\log \sigma \sim \mathcal{N}(m, s^2)`, cut to :math:`[\sigma_\min, \sigma_\max]`.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364, Table 1 (m = -1.2, s = 1.2 for data of std 0.5)
    """

    mean: Schedule = -1.2
    std: Schedule = 1.2
    sigma_min: Schedule = 1e-3
    sigma_max: Schedule = 1e3

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)
        if not value_at_step(self.std, 0) > 0:
            raise ValueError(f"std must be positive, got {value_at_step(self.std, 0):g}")

    def __call__(self, u: Tensor, step: int = 0) -> Tensor:
        mean, std = value_at_step(self.mean, step), value_at_step(self.std, step)
        bounds = torch.tensor(
            [
                math.log(value_at_step(self.sigma_min, step)),
                math.log(value_at_step(self.sigma_max, step)),
            ],
            dtype=torch.float64,
        )
        places = (bounds - mean) / std
        # Far above the mean the distribution function is 1, and differences are lost: what lies
        # there is counted from the other end. Its small values are those of erfc: ndtr has none.
        sign = -1.0 if places.sum() > 0 else 1.0
        low, high = (0.5 * torch.special.erfc(-sign * places / math.sqrt(2))).tolist()
        quantile = sign * torch.special.ndtri(low + (high - low) * u.double())
        return (mean + std * quantile).clamp(*bounds.tolist()).exp().to(u.dtype)


@dataclass(frozen=True)
class PowerLaw(Levels):
    r""":math:`\sigma = \sigma_\min + u^\rho (\sigma_\max - \sigma_\min)`.

    With :math:`\rho` near zero nearly all levels are near :math:`\sigma_\max`; with
    :math:`\rho > 1` small levels are favoured.

    References:
        | VarDiU (Wang et al., 2025), https://arxiv.org/abs/2508.20646: rho from 0.1 to 2.0, by
        | 0.01 every 1,000 iterations, `Staircase(0.1, 2.0, 0.01, 1000)`
    """

    sigma_min: Schedule
    sigma_max: Schedule
    rho: Schedule = 1.0

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)
        if not value_at_step(self.rho, 0) > 0:
            raise ValueError(f"rho must be positive, got {value_at_step(self.rho, 0):g}")

    def __call__(self, u: Tensor, step: int = 0) -> Tensor:
        low, high = value_at_step(self.sigma_min, step), value_at_step(self.sigma_max, step)
        return low + u ** value_at_step(self.rho, step) * (high - low)


@dataclass(frozen=True)
class CubicTime(Levels):
    r"""Levels between a sample and its noise, dense at the noise.

    .. math:: (1 - t) x_0 + t \sigma_d z = (1 - t) (x_0 + \sigma z), \qquad \sigma = \sigma_d
        \frac{t}{1 - t}, \qquad t = \left( 1 - (1 - u)^3 \right) t_\max

    on the straight line to noise of the data's spread :math:`\sigma_d`; :math:`t_\max` is the
    time of :math:`\sigma_\max`. The mean of :math:`t / t_\max` is 3/4, and it is above 1/2 with
    a probability of :math:`2^{-1/3}`.

    References:
        | Adversarial Distribution Matching (Lu et al., 2025), https://arxiv.org/abs/2507.18569
    """

    sigma_min: float
    sigma_max: float
    sigma_data: float

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)
        if not (self.sigma_data > 0 and self.sigma_max < math.inf):
            raise ValueError(
                "sigma_data must be positive and sigma_max finite, got "
                f"{self.sigma_data:g} and {self.sigma_max:g}"
            )

    def time(self, u: Tensor) -> Tensor:
        r"""Returns :math:`t / t_\max` at the quantiles `u`, with their shape."""
        return 1 - (1 - u) ** 3

    def __call__(self, u: Tensor, step: int = 0) -> Tensor:
        t = self.time(u) * self.sigma_max / (self.sigma_max + self.sigma_data)
        return (self.sigma_data * t / (1 - t)).clamp(self.sigma_min, self.sigma_max)


def karras_grid(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    r"""Returns :math:`n` decreasing levels and a final zero, `(n + 1,)`, in float64.

    .. math:: \sigma_i = \left( \sigma_\max^{1/\rho} + \frac{i}{n - 1}
        (\sigma_\min^{1/\rho} - \sigma_\max^{1/\rho}) \right)^\rho

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364, Equation 5
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if n > 1:
        _check_range(sigma_min, sigma_max)
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    sigmas = (sigma_max ** (1 / rho) * (1 - t) + sigma_min ** (1 / rho) * t) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def log_grid(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    r"""Returns :math:`n` decreasing levels, evenly spaced in logarithm, and a final zero."""
    _check_range(sigma_min, sigma_max)
    ends = math.log(sigma_max), math.log(sigma_min)
    sigmas = torch.linspace(*ends, n, dtype=torch.float64).exp()
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def linear_beta_grid(n: int, sigma_min: float, sigma_max: float, times: int = 1000) -> Tensor:
    r"""Returns up to :math:`n` decreasing levels of the schedule of DDPM, and a final zero.

    .. math:: \sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}, \qquad \bar\alpha_t =
        \prod_{s \leq t} (1 - \beta_s)

    with :math:`\beta` from 1e-4 to 0.02 on a line over `times`, of which evenly spaced ones within
    the range of levels are taken.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        | https://arxiv.org/abs/2006.11239

    Raises:
        ValueError: The range has fewer than `n` of them.
    """
    beta = torch.linspace(1e-4, 0.02, times, dtype=torch.float64)
    kept = (1 - beta).cumprod(0)
    sigmas = ((1 - kept) / kept).sqrt()
    inside = sigmas[(sigmas >= sigma_min) & (sigmas <= sigma_max)]
    if not 1 <= n <= len(inside):
        raise ValueError(
            f"steps must be within 1 and {len(inside)}, the times of the schedule whose level is "
            f"from {sigma_min:g} to {sigma_max:g}, got {n}"
        )
    places = torch.linspace(len(inside) - 1, 0, n).round().long()
    return torch.cat([inside[places], inside.new_zeros(1)])
