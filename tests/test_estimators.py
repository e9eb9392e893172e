"""Bias, variance and slack against closed forms: the linear-Gaussian problem."""

from __future__ import annotations

import math

import pytest
import torch
from problems import Affine, ExactPosterior, LinearGaussian

from vardiu.data.batch import Batch
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.functional.bounds import gaussian_kl
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.methods.vardiu import VarDiU
from vardiu.monitoring.gradients import (
    gradient_quality,
    reference_gradient,
    slack,
    student_gradient,
    student_marginal,
)

SIGMA = 0.8


def fixed(u, step=0):
    return torch.full_like(u, SIGMA)


def marginal(student: Affine) -> GaussianDenoiser:
    matrix, shift = student.matrix.detach(), student.shift.detach()
    return GaussianDenoiser(shift, matrix @ matrix.T)


def closed_form(problem: LinearGaussian) -> torch.Tensor:
    return torch.cat([part.flatten() for part in problem.kl_gradient(SIGMA)])


def vardiu_of(problem: LinearGaussian, **wrong: float) -> VarDiU:
    posterior = ExactPosterior(problem.generator, **wrong)
    return VarDiU(
        problem.teacher, problem.generator, posterior, levels=fixed, weight=torch.ones_like
    )


def gradient_of_the_bound(problem: LinearGaussian, inflate: float, move: float) -> torch.Tensor:
    """The gradient of E[-log r] - E[log q] for a posterior that does not move with the student."""
    a0, b0 = problem.matrix, problem.shift
    a, b = a0.clone().requires_grad_(True), b0.clone().requires_grad_(True)
    eye = torch.eye(problem.k)
    covariance = torch.linalg.inv(eye + a0.T @ a0 / SIGMA**2)
    pull = covariance @ a0.T / SIGMA**2
    precision = torch.linalg.inv(covariance * inflate**2)
    inner = eye - pull @ a
    offset = -pull @ (b - b0) - move
    spread = inner @ inner.T + SIGMA**2 * pull @ pull.T
    entropy = 0.5 * ((precision @ spread).trace() + offset @ precision @ offset)
    noise = SIGMA**2 * torch.eye(problem.d)
    root = torch.linalg.inv(problem.covariance + noise)
    gap = b - problem.mean
    teacher = 0.5 * ((root @ (a @ a.T + noise)).trace() + gap @ root @ gap)
    parts = torch.autograd.grad(entropy + teacher, (a, b))
    return torch.cat([part.flatten() for part in parts])


def test_reference_is_the_gradient_of_the_divergence():
    problem = LinearGaussian()
    random = torch.Generator().manual_seed(0)
    got, spread = reference_gradient(
        problem.generator,
        marginal(problem.generator),
        problem.teacher,
        levels=fixed,
        weight=torch.ones_like,
        random=random,
        rows=16_384,
    )
    wanted = closed_form(problem)
    # The squared distance has the trace of the covariance for its mean.
    error = spread.square().sum()
    assert (got - wanted).square().sum() < 6 * error
    assert error.sqrt() < 0.02 * wanted.norm()


def test_the_mixture_of_its_samples_is_the_students_marginal():
    student = Affine(torch.tensor([[1.0, 0.3], [0.2, 0.8]]), torch.tensor([1.0, -1.0]))
    random = torch.Generator().manual_seed(0)
    empirical, exact = student_marginal(student, 16_384, random), marginal(student)
    x = student(torch.randn(256, 2)).detach()
    sigma = torch.full((256,), SIGMA)
    x_t = x + SIGMA * torch.randn(256, 2)
    error = (empirical(x_t, sigma) - exact(x_t, sigma)).square().mean().sqrt()
    assert error < 0.01
    difference = empirical.log_prob(x_t, sigma) - exact.log_prob(x_t, sigma)
    assert difference.abs().mean() < 0.01


def test_the_exact_posterior_has_no_bias_and_its_deviation_falls_with_the_batch():
    problem = LinearGaussian()
    wanted = closed_form(problem)
    deviations = []
    for n in (16, 64):
        quality = gradient_quality(vardiu_of(problem), Batch(n), 0, wanted, draws=400)
        assert quality.bias < 4 * quality.bias_error
        assert quality.bias_error < 0.1
        deviations.append(quality.deviation)
    assert deviations[0] / deviations[1] == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("inflate, move", [(1.6, 0.0), (1.0, 0.6)])
def test_the_bias_of_a_wrong_posterior_is_the_gradient_of_its_slack(inflate, move):
    problem = LinearGaussian()
    wanted = closed_form(problem)
    quality = gradient_quality(
        vardiu_of(problem, inflate=inflate, move=move),
        Batch(64),
        0,
        wanted,
        draws=400,
    )
    exact = (gradient_of_the_bound(problem, inflate, move) - wanted).norm() / wanted.norm()
    assert exact > 0.05
    assert abs(quality.bias - exact) < 5 * quality.bias_error
    assert quality.bias_error < 0.3 * exact


def test_a_lagging_fake_has_the_bias_of_its_error():
    problem = LinearGaussian()
    # The fake's denoiser is that of the student as it was: of another mean.
    behind = Affine(problem.matrix, problem.shift + 0.5)
    objective = DiffInstruct(
        problem.teacher,
        problem.generator,
        marginal(behind),
        levels=fixed,
        weight=torch.ones_like,
        ratio=1,
    )
    wanted = closed_form(problem)
    quality = gradient_quality(objective, Batch(64), 0, wanted, draws=400)
    # The score of a Gaussian moves by its precision times the shift, whatever x_t is: the
    # gradient of the matrix stays, that of the shift moves by the same vector.
    total = problem.matrix @ problem.matrix.T + SIGMA**2 * torch.eye(problem.d)
    shift = torch.linalg.solve(total, torch.full((problem.d,), 0.5))
    assert quality.bias == pytest.approx(float(shift.norm() / wanted.norm()), rel=0.15)
    assert quality.bias > 5 * quality.bias_error


def test_slack_of_a_wrong_posterior_is_its_divergence():
    problem = LinearGaussian()
    objective = vardiu_of(problem, inflate=1.5)

    def log_marginal(repeat: int, sigma: float):
        z = torch.randn(512, problem.k)
        x = problem.generator(z)
        level = torch.full((512,), sigma)
        x_t = x + sigma * torch.randn(512, problem.d)
        return x_t, objective.negative_entropy(z, x, x, x_t, level, {})

    posterior = objective.posterior
    for sigma, value, error in slack(log_marginal, marginal(problem.generator), [0.4, 2.0]):
        level = torch.tensor([sigma])
        mean, covariance = posterior.moments(torch.zeros(1, problem.d), level)
        wanted = gaussian_kl(mean[0], covariance[0], mean[0], covariance[0] * 1.5**2)
        assert abs(value - wanted) < 5 * error
        assert error < 0.1 * wanted


def test_the_gradient_leaves_no_trace():
    problem = LinearGaussian()
    objective = vardiu_of(problem)
    gradient = student_gradient(objective, Batch(8), 0)
    assert gradient.shape == (problem.d * problem.k + problem.d,)
    assert math.isfinite(float(gradient.norm()))
    assert all(p.grad is None and p.requires_grad for p in objective.generator.parameters())
