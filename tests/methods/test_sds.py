"""SDS against closed forms: its gradient, where it stops, and how it gets there."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from cases import student
from problems import Affine, LinearGaussian, mixture_teacher, standard_error
from torch import Tensor

from vardiu.data.batch import Batch
from vardiu.denoisers.exact import MixtureDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.methods.sds import SDS, Settings, recipe
from vardiu.problems.linear import LinearProblem
from vardiu.runs.stages import Stages
from vardiu.settings.fields import LevelSettings, WeightSettings
from vardiu.training.stage import Context
from vardiu.training.trainer import Trainer

RATE, ROWS = 0.5, 16_384


def gradients(objective: SDS, draws: int, rows: int) -> list[Tensor]:
    """By parameter, the gradients of so many independent batches."""
    parameters = list(objective.generator.parameters())
    found = []
    for _ in range(draws):
        value = objective.loss(objective.prepare(Batch(rows), 0), 0).value
        found.append(torch.autograd.grad(value, parameters))
    return [torch.stack(column) for column in zip(*found, strict=True)]


def test_the_mean_gradient_of_a_gaussian_is_the_closed_form():
    """E = H (A, b - m) with H = E[s w(s) (C + s^2 I)^-1], of teacher N(m, C) and g(z) = A z + b."""
    problem = LinearGaussian(3, 3)
    objective = SDS(problem.teacher, problem.generator, LogUniform(0.3, 3.0), lambda s: 1 + s**2)
    sigma = 0.3 * 10 ** ((torch.arange(2000) + 0.5) / 2000)  # the midpoint rule, exact to 1e-6
    covered = problem.covariance + sigma[:, None, None] ** 2 * torch.eye(3)
    h = ((sigma * (1 + sigma**2))[:, None, None] * torch.linalg.inv(covered)).mean(0)
    exact = (h @ problem.matrix, h @ (problem.shift - problem.mean))
    # Five standard errors: one of twelve numbers misses by chance in 1.4e5 seeds.
    for got, wanted in zip(gradients(objective, 400, 64), exact, strict=True):
        assert bool(((got.mean(0) - wanted).abs() < 5 * standard_error(got)).all())
        assert float(wanted.abs().max()) > 20 * float(standard_error(got).max())


def test_the_gradient_is_equation_3_row_by_row():
    """Literally, with the two noises, on the draws that a twin takes from the same streams."""

    def weight(sigma: Tensor) -> Tensor:
        return 1 + sigma**3

    objective = SDS(mixture_teacher(), student(), LogUniform(0.2, 5.0), weight)
    twin = copy.deepcopy(objective)
    objective.loss(Batch(16), 0).value.backward()
    x = twin.generator(twin.latents(16))
    sigma = (0.2 * 25 ** twin.uniform(16))[:, None]
    noise = twin.noise_like(x)
    x_t = x.detach() + sigma * noise
    predicted = (x_t - twin.teacher(x_t, sigma[:, 0])) / sigma
    (weight(sigma) * (predicted - noise) * x).sum(1).mean().backward()
    for a, b in zip(objective.generator.parameters(), twin.generator.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# Where x = a E tanh(a (x + s e) / (v + s^2)) for two modes at -a, a = 2 of variance v = 0.25: not
# at the mode 2, nor at that of the noised density (1.9932 at level 1).
@pytest.mark.parametrize("level, stop", [(0.5, 1.9993), (1.0, 1.7427), (1.25, 1.0054)])
def test_a_constant_student_stops_at_a_mode_of_the_density_that_is_noised_twice(level, stop):
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    inner = np.tanh(2 * (stop + level * nodes) / (0.25 + level**2))
    assert abs(2 * weights @ inner / math.sqrt(2 * math.pi) - stop) < 1e-4
    teacher = MixtureDenoiser(torch.tensor([[2.0], [-2.0]]), 0.5)
    levels = LogUniform(level, level * (1 + 1e-9))
    found = []
    for x in (stop, stop + 0.2):
        constant = Affine(torch.zeros(1, 1), torch.tensor([x]))
        shift = gradients(SDS(teacher, constant, levels, torch.ones_like), 100, 2000)[1]
        found.append(float(shift.mean() / standard_error(shift)))
    assert abs(found[0]) < 5 < 10 < found[1]


def trained(problem: LinearProblem, steps: int) -> Affine:
    settings = Settings(
        steps=steps,
        batch=ROWS,
        lr=RATE,
        optimizer="sgd",
        beta_1=0.0,
        decay="constant",
        clip=1e9,
        halflife=0.0,
        levels=LevelSettings(sigma_min=1.0, sigma_max=1.0 + 1e-9),
        weight=WeightSettings(kind="constant"),
    )
    stages = Stages(recipe(problem, settings, Context()))
    stage = stages.first()
    trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
    trainer.fit(stage.batches)
    assert stages.after(trainer) is None
    return stages.result.requires_grad_(False)


@pytest.mark.parametrize("steps", [5, 60])
def test_a_linear_student_contracts_to_the_mean_at_the_known_rate(steps):
    """A step at level 1 is A <- (1 - r H) A, b - m <- (1 - r H) (b - m), H = (C + I)^-1, on average:
    it ends at the point m, whatever C is."""
    problem = LinearProblem(2, 2, seed=1)
    law, eye = problem.law, torch.eye(2)
    h = torch.linalg.inv(law.covariance + eye)
    rate = eye - RATE * h
    found, start = trained(problem, steps), problem.networks.student().requires_grad_(False)
    shrunk = torch.linalg.matrix_power(rate, steps)
    a, b = shrunk @ start.matrix, shrunk @ (start.shift - law.mean)
    # A row's gradient has a deviation below 1 in every coordinate: 3 |h A|^2 + |h (b - m)|^2 + |C h|^2
    # is 0.9 at the start, and falls. Five standard errors of the sum over steps that contract.
    slow = float(torch.linalg.eigvalsh(rate).max())
    slack = 5 * RATE / math.sqrt(ROWS * (1 - slow**2))
    assert slack < 0.04 and float((start.matrix - a).abs().max()) > 10 * slack
    assert float((found.matrix - a).abs().max()) < slack
    assert float((found.shift - law.mean - b).abs().max()) < slack
    if steps == 60:  # a thousandth of the teacher's variance
        assert float(found.matrix.square().sum()) < 1e-3 * float(law.covariance.trace())
