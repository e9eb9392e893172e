"""A diffusion model of the latent: its bound against closed forms in float64."""

from __future__ import annotations

import math

import pytest
import torch
from problems import LinearGaussian

from vardiu.denoisers.levels import LogUniform
from vardiu.functional.bounds import diffusion_log_prob, gaussian_kl
from vardiu.methods.vardiu import Draw, VarDiU
from vardiu.nn import MLP
from vardiu.posteriors.affine import AffinePosterior
from vardiu.posteriors.diffusion import DiffusionPosterior
from vardiu.posteriors.encoder import Encoder, UnitScale
from vardiu.posteriors.families import GaussianPosterior


def law(k: int = 3):
    g = torch.Generator().manual_seed(1)
    root = torch.randn(k, k, generator=g)
    return torch.randn(k, generator=g), root @ root.T / k + 0.2 * torch.eye(k)


def gap_at_the_ends(mean, covariance, low, high):
    values = torch.linalg.eigvalsh(covariance)
    eye = torch.eye(len(mean))
    first = 0.5 * (1 + low**2 / values).log().sum()
    last = gaussian_kl(mean, covariance + high**2 * eye, 0 * mean, (1 + high**2) * eye)
    return float(first + last)


@pytest.mark.parametrize(("low", "high"), [(0.3, 3.0), (0.02, 50.0)])
def test_the_bound_is_tight_but_for_its_ends_with_the_exact_denoiser(low, high):
    """All in closed form: the mean error of the denoiser at each level, and a fine grid of them."""
    mean, covariance = law()
    values = torch.linalg.eigvalsh(covariance)
    places = (torch.arange(20_000) + 0.5) / 20_000
    tau = low * (high / low) ** places
    left = (values * tau[:, None] ** 2 / (values + tau[:, None] ** 2)).sum(1)
    # Rows whose error has the norm of the mean error, and whose z the mean square of z.
    k = len(mean)
    error = torch.zeros(len(tau), k)
    error[:, 0] = left.sqrt()
    z = torch.zeros(len(tau), k)
    z[:, 0] = (mean.square().sum() + values.sum()).sqrt()
    got = float(diffusion_log_prob(error, z, tau, low, high).mean())
    entropy = float(torch.distributions.MultivariateNormal(mean, covariance).entropy())
    wanted = gap_at_the_ends(mean, covariance, low, high)
    assert -got - entropy == pytest.approx(wanted, rel=1e-6, abs=1e-7) and wanted > 0
    # A denoiser that misses more loosens it by what it misses more.
    worse = float(diffusion_log_prob(1.1 * error, z, tau, low, high).mean())
    missed = 0.21 * math.log(high / low) * float((left / tau**2).mean())
    assert got - worse == pytest.approx(missed, rel=1e-9)


def encoder(d: int = 3) -> Encoder:
    return Encoder(MLP((d,), (8,), width=8, depth=1, noisy=True, final=False), 8, UnitScale(1.0))


class Exact(DiffusionPosterior):
    """The exact posterior of an affine student as a diffusion model, whitened by one."""

    def __init__(self, student):
        super().__init__(encoder(), 3)
        self.exact = AffinePosterior(student)

    def forward(self, x_t, sigma, **cond):
        self.moments = self.exact.moments(x_t, sigma)
        mean = self.moments[0]
        return type(super().forward(x_t, sigma))(self, mean, 0 * mean, torch.ones_like(mean))

    def denoised(self, w_tau, tau, features):
        mean, covariance = self.moments
        spread = covariance + tau[:, None, None] ** 2 * torch.eye(3)
        away = torch.linalg.solve(spread, (w_tau - mean)[..., None])
        return mean + (covariance @ away).squeeze(-1)


def test_the_value_is_the_divergence_for_the_exact_denoiser():
    problem, sigma, rows = LinearGaussian(3, 3), 0.8, 40_000
    levels = LogUniform(sigma, sigma * (1 + 1e-12))
    objective = VarDiU(problem.teacher, problem.generator, Exact(problem.generator), levels=levels)
    z, noise = torch.randn(rows, 3), torch.randn(rows, 3)
    draw = Draw(z, noise, torch.full((rows,), sigma), {})
    got = objective.bound(draw).detach()
    kl = float(problem.kl(problem.matrix, problem.shift, sigma))
    error = float(got.std()) / rows**0.5
    assert abs(float(got.mean()) - kl) < 4 * error + 0.01 and error < 0.1


def test_it_starts_as_the_gaussian_and_its_samples_are_of_it():
    posterior = DiffusionPosterior(encoder(), 3)
    gaussian = posterior.gaussian
    x_t, sigma = torch.randn(1, 3).expand(4_000, 3), torch.full((4_000,), 0.7)
    with torch.no_grad():
        r, plain = posterior(x_t, sigma), gaussian(x_t, sigma)
        z = plain.sample()
        gap = (plain.log_prob(z) - r.log_prob(z)).mean()
        own = r.sample()
        error = float((plain.log_prob(z) - r.log_prob(z)).std()) / 4_000**0.5
        assert abs(float(gap)) < 4 * error + 1e-3
        mean, std = gaussian.moments(x_t[:1], sigma[:1])
    assert ((own.mean(0) - mean) / std * 4_000**0.5).abs().max() < 5
    assert (own.std(0) / std - 1).abs().max() < 5 / 8_000**0.5 + 0.01
    assert isinstance(gaussian, GaussianPosterior) and not r.has_rsample


def test_draws_are_of_a_stream_and_a_repeat_is_equal():
    problem = LinearGaussian(3, 3)

    def value(seed: int) -> float:
        torch.manual_seed(seed)
        objective = VarDiU(
            problem.teacher,
            problem.generator,
            posterior,
            levels=LogUniform(0.5, 2.0),
        )
        draw = Draw(torch.ones(4, 3), torch.zeros(4, 3), torch.ones(4), {})
        return float(objective.evaluate(draw).value)

    posterior = DiffusionPosterior(encoder(), 3)
    assert value(1) == value(2)


def test_its_samples_have_the_noise_of_the_last_level():
    """A standard normal that is noised, led down to the last level, and noised once more."""

    class Coarse(DiffusionPosterior):
        LOW, HIGH = 0.5, 20.0

    posterior = Coarse(encoder(), 3)
    x_t, sigma = torch.randn(1, 3).expand(1_500, 3), torch.full((1_500,), 0.7)
    with torch.no_grad():
        mean, std = posterior.gaussian.moments(x_t[:1], sigma[:1])
        w = (posterior(x_t, sigma).sample() - mean) / std
    assert float(w.var()) == pytest.approx(1 + 2 * 0.5**2, abs=0.12)
