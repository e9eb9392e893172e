"""Diff-Instruct against closed forms."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import denoiser, student
from problems import LinearGaussian, mixture_teacher, standard_error

from vardiu.data.batch import Batch
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.functional.scores import score_difference
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.samplers.pairs import Pairs
from vardiu.training.objective import Loss

LEVELS = LogUniform(0.99, 1.01)


def test_with_an_exact_fake_the_gradient_is_that_of_the_divergence():
    problem = LinearGaussian(3, 3)
    covariance = problem.matrix @ problem.matrix.T
    fake = GaussianDenoiser(problem.shift, covariance)
    objective = DiffInstruct(
        problem.teacher, problem.generator, fake, levels=LEVELS, weight=torch.ones_like
    )
    exact, _ = problem.kl_gradient(1.0)
    sample = []
    for _ in range(400):
        drawn = objective.prepare(Batch(64), 0)
        loss = objective.student_loss(drawn, 0).value
        sample.append(torch.autograd.grad(loss, problem.generator.matrix)[0])
    got = torch.stack(sample)
    # Levels within a per cent of one move the gradient by less than two.
    slack = 5 * standard_error(got) + 0.02 * exact.abs().max()
    assert bool(((got.mean(0) - exact).abs() < slack).all())


def test_the_fake_of_a_gaussian_student_has_its_minimum_at_the_exact_denoiser():
    problem = LinearGaussian(3, 3)
    covariance = problem.matrix @ problem.matrix.T
    exact = GaussianDenoiser(problem.shift, covariance)
    wrong = GaussianDenoiser(problem.shift + 0.1, 1.2 * covariance)
    losses = []
    for fake in (exact, wrong):
        objective = DiffInstruct(problem.teacher, problem.generator, fake, levels=LEVELS)
        with torch.no_grad():
            drawn = objective.prepare(Batch(50_000), 0)
            losses.append(objective.fake_loss(drawn, 0).value)
    assert losses[0] < losses[1]


def test_score_difference_is_by_tweedie():
    x_t, sigma = torch.randn(5, 2), torch.rand(5) + 0.5
    fake, real = torch.randn(5, 2), torch.randn(5, 2)
    wanted = (fake - x_t) / sigma[:, None] ** 2 - (real - x_t) / sigma[:, None] ** 2
    torch.testing.assert_close(score_difference(fake, real, sigma), wanted)


def test_the_student_moves_at_every_ratio_th_step_only():
    objective = DiffInstruct(mixture_teacher(), student(), denoiser(), levels=LEVELS, ratio=5)
    assert [phase.every for phase in objective.phases] == [1, 5]
    with pytest.raises(ValueError, match="ratio must be at least 1, got 0"):
        DiffInstruct(mixture_teacher(), student(), denoiser(), levels=LEVELS, ratio=0)


@pytest.mark.parametrize("normalised", [False, True])
def test_direction_is_the_naive_formula_row_by_row(normalised):
    """With a weight that differs by row, on the draws that a twin takes from the same streams."""

    def weight(sigma):
        return 1 + sigma**3

    objective = DiffInstruct(
        mixture_teacher(),
        student(),
        denoiser(),
        levels=LogUniform(0.2, 5.0),
        weight=weight,
        normalised=normalised,
    )
    twin = copy.deepcopy(objective)
    drawn = objective.prepare(Batch(16), 0)
    objective.student_loss(drawn, 0).value.backward()

    z = twin.latents(16)
    sigma = (0.2 * 25 ** twin.uniform(16))[:, None]
    noise = twin.noise_like(torch.zeros(16, 2))
    x = twin.generator(z)
    x_t = x.detach() + sigma * noise
    fake, real = twin.fake(x_t, sigma[:, 0]).detach(), twin.teacher(x_t, sigma[:, 0])
    score = (fake - x_t) / sigma**2 - (real - x_t) / sigma**2
    if normalised:
        score = score / (real - x.detach()).abs().mean(1, keepdim=True).clamp(min=0.02)
    (weight(sigma) * score * x).sum(1).mean().backward()
    for a, b in zip(objective.generator.parameters(), twin.generator.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_fake_has_levels_and_weight_of_its_own():
    """Within rounding the fake's levels are 3: its loss is the naive one there."""
    objective = DiffInstruct(
        mixture_teacher(),
        student(),
        denoiser(),
        levels=LogUniform(0.2, 0.3),
        fake_levels=LogUniform(3.0, 3.0 + 1e-12),
        sigma_data=2.0,
    )
    twin = copy.deepcopy(objective)
    drawn = objective.prepare(Batch(16), 0)
    loss = objective.fake_loss(drawn, 0).value
    x = twin.generator(twin.latents(16))
    noise = twin.noise_like(torch.zeros(16, 2), "fake noise")
    error = (twin.fake(x + 3 * noise, torch.full((16,), 3.0)) - x).square().mean()
    torch.testing.assert_close(loss, (3.0**2 + 2.0**2) / (3.0 * 2.0) ** 2 * error)


def test_pairs_and_their_weight_go_together():
    pairs = Pairs(torch.zeros(3, 2), torch.zeros(3, 2), {})
    for options in ({"regression": pairs}, {"regression_weight": 0.5}):
        with pytest.raises(ValueError, match="regression_weight go together"):
            DiffInstruct(mixture_teacher(), student(), denoiser(), levels=LEVELS, **options)


def test_the_regression_is_weighted():
    pairs = Pairs(torch.randn(5, 2), torch.randn(5, 2), {})
    objective = DiffInstruct(
        mixture_teacher(),
        student(),
        denoiser(),
        levels=LEVELS,
        regression=pairs,
        regression_weight=0.25,
    )
    twin = copy.deepcopy(objective)
    loss = objective.regressed(Loss(torch.tensor(3.0)), 16)
    distance = twin.distance(pairs, 16)
    assert distance > 0.1
    torch.testing.assert_close(loss.value, 3 + 0.25 * distance)
    torch.testing.assert_close(loss.info["regression"], distance.detach())
