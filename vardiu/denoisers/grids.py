r"""Grids of levels from a denoiser's largest down to its smallest, where the data are."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from .base import Denoiser
from .levels import karras_grid
from .schedules import VariancePreserving

__all__ = ["high_of", "skipped_levels", "spaced_levels"]


def high_of(network: Denoiser, high: float | None) -> float:
    r"""Returns the largest level of a grid.

    Raises:
        ConfigError: The one that is asked for is none of the network's.
    """
    low, most = network.sigma_min, network.sigma_max
    if high is not None and not low < high <= most:
        raise ConfigError(
            f"grid_max must be above {low:g} and at most {most:g}, the levels of the teacher, got "
            f"{high:g}"
        )
    return most if high is None else high


def spaced_levels(network: Denoiser, grid: int, rho: float, high: float | None = None) -> Tensor:
    r"""Returns the levels of EDM's grid, :math:`(N)`, from a denoiser's largest to its smallest.

    The ends are exact: roots and powers round, and the boundary is at one of them.

    Arguments:
        network: The denoiser.
        grid: Their number :math:`N`.
        rho: The exponent of their spacing.
        high: The largest level, if it is not the denoiser's.
    """
    high = network.sigma_max if high is None else high
    levels = karras_grid(grid, network.sigma_min, high, rho)[:-1]
    if grid > 1:
        levels[-1] = network.sigma_min
    levels[0] = high
    return levels


def skipped_levels(network: Denoiser, grid: int, rho: float, high: float) -> Tensor:
    r"""Returns the levels of a grid, decreasing, with shape :math:`(N)`.

    Those of evenly spaced times where the network has a discrete, variance-preserving schedule: of
    all its times for a grid of as many. Those of EDM's grid else.

    Raises:
        ConfigError: The schedule has fewer times.
    """
    found = (m for m in network.modules() if isinstance(m, VariancePreserving))
    coordinates = next(found, None)
    if coordinates is None:
        return spaced_levels(network, grid, rho, high)
    table = [s for s in coordinates.arguments["sigmas"] if s <= high * (1 + 1e-6)]
    if grid > len(table):
        raise ConfigError(
            f"grid must be at most {len(table):,}, the times of the teacher's schedule, got "
            f"{grid:,}: give --grid {len(table)}"
        )
    times = [round(i * (len(table) - 1) / (grid - 1)) for i in reversed(range(grid))]
    return torch.tensor([table[time] for time in times], dtype=torch.float64)
