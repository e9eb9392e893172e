"""Samplers against the exact flow of a Gaussian."""

from __future__ import annotations

import pytest
import torch

from vardiu.denoise import GaussianDenoiser
from vardiu.noise import karras_grid, log_grid
from vardiu.sample import DDIM, Ancestral, Euler, Heun

STD, MEAN, TOP = 0.8, 0.5, 10.0
TEACHER = GaussianDenoiser(torch.full((3,), MEAN).double(), torch.full((3,), STD**2).double())


def exact(x):
    """x - m shrinks as sqrt(std^2 + sigma^2) along the flow."""
    return MEAN + (x - MEAN) * STD / (STD**2 + TOP**2) ** 0.5


@pytest.mark.parametrize("sampler, order", [(Euler, 1), (Heun, 2)])
def test_error_falls_with_the_order(sampler, order):
    x = TOP * torch.randn(50, 3)
    errors = []
    for n in (40, 80, 160):
        grid = log_grid(n, 1e-3, TOP)
        errors.append((sampler(TEACHER, grid)(x) - exact(x)).abs().mean().item())
    rates = [torch.tensor(a / b).log2().item() for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(rate - order) < 0.35 for rate in rates)


def test_ancestral_samples_have_the_targets_moments():
    n = 20_000
    sampler = Ancestral(TEACHER, karras_grid(300, 1e-3, TOP))
    x = sampler.sample(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert bool(((x.mean(0) - MEAN).abs() < 5 * STD / n**0.5).all())
    # Five standard errors of a standard deviation, and what 300 steps of order one leave.
    assert bool(((x.std(0) - STD).abs() < 5 * STD / (2 * n) ** 0.5 + 0.03).all())


def test_calls_are_counted():
    x = torch.randn(2, 3)
    for make, n, calls in ((Euler, 7, 7), (Heun, 7, 13), (Heun, 35, 69), (Ancestral, 7, 7)):
        sampler = make(TEACHER, karras_grid(n, 0.01, TOP))
        sampler(x)
        assert sampler.calls == calls


def test_one_step_of_euler_is_the_denoiser():
    x = torch.randn(4, 3)
    got = Euler(TEACHER, torch.tensor([TOP, 0.0]))(x)
    torch.testing.assert_close(got, TEACHER(x, torch.full((4,), TOP)))


def test_same_generator_same_samples():
    grid = karras_grid(5, 0.01, TOP)
    a, b = (
        Ancestral(TEACHER, grid).sample(3, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert torch.equal(a, b) and a.dtype == torch.float32


def test_wrong_grids_are_refused():
    with pytest.raises(ValueError, match="sigmas must decrease"):
        Heun(TEACHER, torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"eta must be within \[0, 1\]"):
        DDIM(TEACHER, torch.tensor([2.0, 1.0]), eta=1.5)
