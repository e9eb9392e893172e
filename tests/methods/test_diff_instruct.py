"""Diff-Instruct against closed forms."""

from __future__ import annotations

import pytest
import torch
from cases import denoiser, student
from problems import LinearGaussian, mixture_teacher, standard_error

from vardiu.denoise import GaussianDenoiser
from vardiu.methods.diff_instruct import DiffInstruct, score_difference
from vardiu.noise import LogUniform
from vardiu.objective import Batch

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
        drawn = objective.prepare(Batch(torch.zeros(64, 3)), 0)
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
            drawn = objective.prepare(Batch(torch.zeros(50_000, 3)), 0)
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
