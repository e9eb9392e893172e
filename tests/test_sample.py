"""Samplers against the exact flow of a Gaussian."""

from __future__ import annotations

import pytest
import torch

from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.levels import karras_grid, log_grid
from vardiu.samplers.ode import DDIM, Ancestral, Euler, Heun

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


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_steps_keep_the_marginal_and_mix_as_eta_says(eta):
    """Data at one point: the state stays N(m, sigma^2), and forgets as its covariance tells."""
    n, sigma, target = 100_000, 3.0, 1.2
    teacher = GaussianDenoiser(torch.full((1,), MEAN), torch.zeros(1))
    x = MEAN + sigma * torch.randn(n, 1)
    y = DDIM(teacher, torch.tensor([sigma, target]), eta=eta)(x)
    assert abs(y.var() - target**2) < 5 * target**2 * (2 / n) ** 0.5
    # Of one step the fresh share is eta times that of ancestral sampling, whose mean given x is
    # Bayes' rule: m + (target / sigma)^2 (x - m).
    fresh = eta**2 * target**2 * (1 - target**2 / sigma**2)
    kept = (target**2 - fresh) ** 0.5 / sigma
    slope = ((y - MEAN) * (x - MEAN)).mean() / sigma**2
    assert abs(slope - kept) < 5 * 2 * target / (sigma * n**0.5)
    if eta == 1:
        assert kept == pytest.approx((target / sigma) ** 2)


def test_conditions_and_rows_stay_together():
    means = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])
    teacher = MixtureDenoiser(means, 0.1, labels=torch.arange(3), sigma_min=0.01, sigma_max=20.0)
    label = torch.arange(60) % 3
    for make in (Euler, Heun, Ancestral):
        sampler = make(teacher, karras_grid(30, 0.01, 20.0))
        x = sampler.sample(60, generator=torch.Generator().manual_seed(0), label=label)
        # Ten standard deviations; the other modes are thirty away and more.
        assert (x - means[label]).norm(dim=1).max() < 1.0


def test_a_grid_that_ends_above_zero_ends_there():
    """Of a Gaussian the state at level s is normal with variance std^2 + s^2."""
    x = (STD**2 + TOP**2) ** 0.5 * torch.randn(40, 3)
    sigmas = log_grid(400, 0.5, TOP)[:-1]
    wanted = x * ((STD**2 + 0.5**2) / (STD**2 + TOP**2)) ** 0.5
    got = Heun(TEACHER, sigmas)(x + MEAN) - MEAN
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def test_deterministic_samples_have_the_targets_moments():
    """They remember their start: it must have the spread of the first level."""
    n = 20_000
    sampler = Heun(TEACHER, karras_grid(40, 1e-3, TOP))
    x = sampler.sample(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The start N(0, TOP^2) lacks the target's own mean and variance: both shrink with the flow.
    shrink = STD / (STD**2 + TOP**2) ** 0.5
    assert bool(((x.mean(0) - MEAN * (1 - shrink)).abs() < 5 * STD / n**0.5).all())
    assert bool(((x.std(0) - TOP * shrink).abs() < 5 * STD / (2 * n) ** 0.5 + 5e-3).all())
