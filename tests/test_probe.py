"""The probe on teachers with classes, at its limits, and on teachers of another coordinate."""

from __future__ import annotations

import pytest
import torch
from problems import LinearGaussian

from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.errors import NotADenoiser
from vardiu.nn import MLP
from vardiu.teachers.probe import probe


class Changed(Denoiser):
    """A denoiser whose answer is changed by a function of it, the input and the level."""

    def __init__(self, inner: Denoiser, function) -> None:
        super().__init__()
        self.inner, self.function = inner, function
        self.shape, self.conditions = inner.shape, inner.conditions
        self.sigma_min, self.sigma_max = inner.sigma_min, inner.sigma_max

    def forward(self, x_t, sigma, **cond):
        return self.function(self.inner(x_t, sigma, **cond), x_t, sigma[:, None])


def classes() -> tuple[MixtureDenoiser, torch.Tensor, torch.Tensor]:
    """Two far classes: only with the right label is the error that of one class."""
    means = torch.tensor([[10.0, 0.0], [-10.0, 0.0]])
    teacher = MixtureDenoiser(means, 0.5, labels=torch.arange(2), sigma_min=0.1, sigma_max=50.0)
    label = torch.arange(4000) % 2
    return teacher, means[label] + 0.5 * torch.randn(4000, 2), label


def test_conditions_reach_the_teacher():
    teacher, x, label = classes()
    rows = probe(teacher, x, {"label": label})
    for row in rows:
        wanted = 0.25 * row.sigma**2 / (0.25 + row.sigma**2)  # of the class's own variance
        assert abs(row.error - wanted) < 5 * row.deviation
    with pytest.raises(ValueError, match="give `label`"):
        probe(teacher, x)
    with pytest.raises(NotADenoiser, match="does not denoise: at sigma="):
        probe(teacher, x, {"label": 1 - label})


def test_the_linear_errors_are_the_best_linear_denoisers():
    """Of isotropic data the best linear denoiser is exact: both columns agree."""
    n, variance = 20_000, 2.25
    teacher = GaussianDenoiser(
        torch.ones(2), torch.full((2,), variance), sigma_min=0.1, sigma_max=10.0
    )
    rows = probe(teacher, 1 + variance**0.5 * torch.randn(n, 2), levels=5)
    assert len(rows) == 5
    assert [rows[0].sigma, rows[-1].sigma] == pytest.approx([0.1, 10.0])
    for row in rows:
        # The variance is estimated, with the relative standard error (2 / 2n)^(1/2).
        slack = 5 * row.deviation + 5 * row.linear / n**0.5
        assert abs(row.error - row.linear) < slack


def test_the_factor_is_where_a_teacher_is_refused():
    """Noise added to an exact answer raises the error by a known share of the linear one."""
    variance = 1.0
    exact = GaussianDenoiser(
        torch.zeros(2), torch.full((2,), variance), sigma_min=0.1, sigma_max=10.0
    )

    def noisy(share):
        def function(denoised, x_t, sigma):
            linear = variance * sigma**2 / (variance + sigma**2)
            return denoised + (share * linear).sqrt() * torch.randn_like(x_t)

        return Changed(exact, function)

    x = torch.randn(20_000, 2)
    assert len(probe(noisy(0.4), x)) == 7
    with pytest.raises(NotADenoiser):
        probe(noisy(0.6), x)
    assert len(probe(noisy(0.6), x, factor=1.7)) == 7


@pytest.mark.parametrize(
    "function",
    [
        lambda denoised, x_t, sigma: (x_t - denoised) / sigma,  # a prediction of noise
        lambda denoised, x_t, sigma: (x_t - denoised) / sigma - denoised,  # of velocity
        lambda denoised, x_t, sigma: denoised / (1 + sigma.square()).sqrt(),  # other scaling
        lambda denoised, x_t, sigma: denoised.flip(1),  # permuted axes
        lambda denoised, x_t, sigma: denoised.flip(0),  # permuted rows
        lambda denoised, x_t, sigma: 127.5 * (denoised + 1),  # bytes
    ],
)
def test_other_predictions_and_scalings_are_refused(function):
    problem = LinearGaussian()
    root = torch.linalg.cholesky(problem.covariance)
    x = 3 * problem.mean + torch.randn(2000, 3) @ root.T
    teacher = GaussianDenoiser(3 * problem.mean, problem.covariance, sigma_min=0.1, sigma_max=10.0)
    assert probe(teacher, x)
    with pytest.raises(NotADenoiser, match="prediction of noise or velocity"):
        probe(Changed(teacher, function), x)


def test_a_silent_network_passes_only_with_the_right_spread():
    """Then preconditioning is the linear denoiser: exact for data of its spread, and no other."""
    network = MLP((2,), (2,), width=8, depth=1, noisy=True)
    torch.nn.init.zeros_(network.last.weight)
    torch.nn.init.zeros_(network.last.bias)
    options = {"shape": (2,), "sigma_min": 0.05, "sigma_max": 20.0}
    x = 2 * torch.randn(3000, 2)
    assert probe(PreconditionedDenoiser(network, sigma_data=2.0, **options), x)
    with pytest.raises(NotADenoiser):
        probe(PreconditionedDenoiser(network, sigma_data=0.2, **options), x)


def test_one_value_that_is_not_finite_is_enough():
    teacher, x, label = classes()

    def function(denoised, x_t, sigma):
        denoised = denoised.clone()
        denoised[17, 1] = torch.where(sigma[17, 0] > 20, torch.inf, denoised[17, 1])
        return denoised

    with pytest.raises(NotADenoiser, match="returned 1 values that are not finite, at sigma=50"):
        probe(Changed(teacher, function), x, {"label": label})


def test_it_asks_each_level_once_and_leaves_torchs_generator_alone():
    problem = LinearGaussian()
    levels = []

    def function(denoised, x_t, sigma):
        levels.append(sigma.unique().tolist())
        return denoised

    torch.manual_seed(2)
    before = torch.get_rng_state()
    x = problem.mean + torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) @ (
        torch.linalg.cholesky(problem.covariance).T
    )
    probe(Changed(problem.teacher, function), x, levels=4)
    wanted = torch.logspace(-1, 1, 4).tolist()
    assert [a for (a,) in levels] == pytest.approx(wanted)
    assert torch.equal(torch.get_rng_state(), before)
