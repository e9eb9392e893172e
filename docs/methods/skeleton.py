r"""A method in one file, to be copied: the teacher's score against that of a second denoiser.

.. math:: \nabla_\theta \mathcal{L} = \mathbb{E} \left[ \left( D_\phi(x_t, \sigma) -
    D(x_t, \sigma) \right)^\top \nabla_\theta g(z) \right], \qquad x_t = g(z) + \sigma \varepsilon
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vardiu.data.batch import Batch
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.levels import Levels
from vardiu.functional.scores import denoising, edm_weight, surrogate
from vardiu.functional.tensors import expand_like
from vardiu.methods.base import Example, Method
from vardiu.problems.base import Problem
from vardiu.settings import build
from vardiu.settings.fields import LevelSettings, NetworkOptimizer, Training
from vardiu.students.base import Generator
from vardiu.training.objective import Loss, Objective, Phase
from vardiu.training.stage import Context, Recipe, Stage


class Skeleton(Objective):
    r"""Two denoisers and a student; the second one, `fake`, learns the student's samples."""

    def __init__(self, teacher: Denoiser, g: Generator, fake: Denoiser, levels: Levels) -> None:
        super().__init__(teacher, g)
        self.fake, self.levels = fake, levels

    @property
    def phases(self) -> tuple[Phase, ...]:
        fake = Phase("fake", self.fake_loss, updates=("fake",))
        return (fake, Phase("student", self.student_loss, updates=("generator",)))

    def fake_loss(self, batch: Batch, step: int) -> Loss:
        x, x_t, sigma = self.noisy(batch, step)
        error = denoising(self.fake(x_t, sigma, **batch.cond), x.detach(), edm_weight(sigma, 1.0))
        return Loss(error.mean())

    def student_loss(self, batch: Batch, step: int) -> Loss:
        x, x_t, sigma = self.noisy(batch, step)
        with torch.no_grad():
            fake, real = (d(x_t, sigma, **batch.cond) for d in (self.fake, self.teacher))
        return Loss(surrogate(x, fake - real).mean())

    def noisy(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        x = self.generator(self.latents(batch.rows), **batch.cond)
        sigma = self.levels(self.uniform(batch.rows), step)
        return x, (x + expand_like(sigma, x) * self.noise_like(x)).detach(), sigma


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""The skeleton."""

    levels: LevelSettings = LevelSettings(sigma_min=0.2, sigma_max=20.0)
    """The noise levels."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """The fake's optimiser."""


def recipe(problem: Problem, settings: Settings, context: Context) -> Recipe:
    networks, row = problem.networks, build.optimisation(settings, fake=settings.fake_optimizer)
    levels = build.levels(settings.levels, settings.steps)
    objective = Skeleton(problem.known_teacher, networks.student(), networks.fake(), levels)
    batches = problem.data.free(settings.batch, context.seed)
    trained = yield Stage("skeleton", objective, settings.steps, batches, row)
    return trained.network


TINY = Settings(steps=10, batch=8)
METHOD = Method(name="skeleton", title="A skeleton", year=2023, networks=("student", "fake"),
    address="https://arxiv.org/abs/2305.18455", settings=Settings, recipe=recipe,
    examples={"skeleton": Example(TINY), "skeleton-classes": Example(TINY, classes=2)},
)  # fmt: skip
