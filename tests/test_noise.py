"""Noise levels: quantile functions against their distributions."""

from __future__ import annotations

import math

import pytest
import torch

from vardiu.denoisers.levels import (
    Geometric,
    Linear,
    LogNormal,
    LogUniform,
    PowerLaw,
    Staircase,
    karras_grid,
    log_grid,
)

U = torch.linspace(0, 0.999999, 1001)


def test_log_uniform_is_uniform_in_the_logarithm():
    sigma = LogUniform(0.1, 10.0)(U)
    torch.testing.assert_close((sigma.log() - math.log(0.1)) / math.log(100), U)


def test_log_normal_inverts_its_distribution_function():
    levels = LogNormal(-0.5, 1.3, sigma_min=0.02, sigma_max=30.0)
    sigma = levels(U)
    cdf = torch.special.ndtr((sigma.log() + 0.5) / 1.3)
    low, high = (torch.special.ndtr(torch.tensor((math.log(s) + 0.5) / 1.3)) for s in (0.02, 30.0))
    torch.testing.assert_close((cdf - low) / (high - low), U, atol=1e-7, rtol=1e-5)
    assert sigma.min() >= 0.02 - 1e-12 and sigma.max() <= 30 + 1e-9


@pytest.mark.parametrize("low, high", [(5.0, 20.0), (1e-4, 4e-3), (0.2, 0.4)])
def test_a_log_normal_is_cut_anywhere(low, high):
    """Far from the mean the share of the range is far below what 1 can be told from."""
    levels = LogNormal(-1.2, 0.3, sigma_min=low, sigma_max=high)
    u = torch.linspace(0.001, 0.999, 21, dtype=torch.float64)
    normal = torch.distributions.Normal(-1.2, 0.3)
    fine = torch.linspace(math.log(low), math.log(high), 400_001, dtype=torch.float64)
    density = (normal.log_prob(fine) - normal.log_prob(fine).max()).exp()
    share = torch.cumulative_trapezoid(density, fine)
    share = torch.cat([share.new_zeros(1), share]) / share[-1]
    wanted = fine[torch.searchsorted(share, u).clamp_max(len(fine) - 1)].exp()
    torch.testing.assert_close(levels(u), wanted, rtol=1e-4, atol=0)


def test_power_law_is_the_papers():
    levels = PowerLaw(0.1, 20.0, Staircase(0.1, 2.0, 0.01, every=1000))
    torch.testing.assert_close(levels(U, 0), 0.1 + U**0.1 * 19.9)
    torch.testing.assert_close(levels(U, 5_999), 0.1 + U**0.15 * 19.9)
    torch.testing.assert_close(levels(U, 10**6), 0.1 + U**2.0 * 19.9)
    # Coarse first: nine tenths of the first levels are above three quarters of the range.
    assert (levels(U, 0) > 15).double().mean() > 0.9


def test_schedules_are_constant_after_their_end():
    for schedule in (Linear(2.0, 5.0, 10), Geometric(2.0, 5.0, 10)):
        assert schedule(0) == pytest.approx(2.0)
        assert schedule(10) == schedule(1000) == pytest.approx(5.0)
    assert Geometric(1.0, 100.0, 10)(5) == pytest.approx(10.0)
    annealed = LogUniform(Geometric(5.0, 0.1, 100), 10.0)
    assert annealed(U, 0).min() == pytest.approx(5.0)
    assert annealed(U, 100).min() == pytest.approx(0.1)


def test_grids_decrease_from_the_largest_level_to_zero():
    grid = karras_grid(18, 0.002, 80.0)
    i = torch.arange(18)
    wanted = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(grid[:-1], wanted)
    for sigmas in (grid, log_grid(5, 0.1, 10.0)):
        assert bool((sigmas.diff() < 0).all()) and sigmas[-1] == 0
    assert karras_grid(1, 0.002, 80.0).tolist() == pytest.approx([80.0, 0.0])


@pytest.mark.parametrize("make", [LogUniform, PowerLaw])
def test_a_range_that_is_none_is_refused(make):
    with pytest.raises(ValueError, match="sigma_min must be positive and below sigma_max"):
        make(2.0, 1.0)
    with pytest.raises(ValueError, match="sigma_min=0"):
        make(0.0, 1.0)
    with pytest.raises(ValueError, match="rho must be positive"):
        PowerLaw(0.1, 1.0, rho=0.0)
    with pytest.raises(ValueError, match="n must be at least 1"):
        karras_grid(0, 0.1, 1.0)
