r"""A method in one file, to be copied: the teacher's score against that of a second denoiser.

.. math:: \nabla_\theta \mathcal{L} = \mathbb{E} \left[ \left( D_\phi(x_t, \sigma) -
    D(x_t, \sigma) \right)^\top \nabla_\theta g(z) \right], \qquad x_t = g(z) + \sigma \varepsilon
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vardiu import Batch, Denoiser, Generator, Loss, Objective, Phase
from vardiu.denoisers.levels import Levels
from vardiu.functional.scores import denoising, edm_weight, surrogate
from vardiu.functional.tensors import expand_like
from vardiu.methods import Example, Method
from vardiu.problems.base import Problem
from vardiu.settings import build
from vardiu.settings.fields import LevelSettings, NetworkOptimizer, Training
from vardiu.training.stage import Context, Recipe, Stage


class Skeleton(Objective):
    r"""Two denoisers and a student; the second one, `fake`, learns the student's samples."""

    def __init__(
        self, teacher: Denoiser, student: Generator, fake: Denoiser, levels: Levels
    ) -> None:
        super().__init__(teacher, student)
        self.fake, self.levels = fake, levels

    @property
    def phases(self) -> tuple[Phase, ...]:
        fake = Phase("fake", self.fake_loss, updates=("fake",))
        return (fake, Phase("student", self.student_loss, updates=("generator",)))

    def prepare(self, batch: Batch, step: int) -> tuple[Batch, Tensor]:
        return batch, self.latents(batch.rows)  # once a step, without gradients

    def fake_loss(self, drawn: tuple[Batch, Tensor], step: int) -> Loss:
        x, x_t, sigma, cond = self.noisy(drawn, step)
        weight = edm_weight(sigma, 1.0)
        return Loss(denoising(self.fake(x_t, sigma, **cond), x.detach(), weight).mean())

    def student_loss(self, drawn: tuple[Batch, Tensor], step: int) -> Loss:
        x, x_t, sigma, cond = self.noisy(drawn, step)
        with torch.no_grad():
            direction = self.fake(x_t, sigma, **cond) - self.teacher(x_t, sigma, **cond)
        return Loss(surrogate(x, direction).mean())

    def noisy(self, drawn: tuple[Batch, Tensor], step: int) -> tuple:
        x = self.generator(drawn[1], **drawn[0].cond)
        sigma = self.levels(self.uniform(len(x)), step)
        x_t = (x + expand_like(sigma, x) * self.noise_like(x)).detach()
        return x, x_t, sigma, drawn[0].cond


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""The skeleton."""

    levels: LevelSettings = LevelSettings(sigma_min=0.2, sigma_max=20.0)
    """The noise levels."""


def recipe(problem: Problem, settings: Settings, context: Context) -> Recipe:
    levels, networks = build.levels(settings.levels, settings.steps), problem.networks
    objective = Skeleton(problem.teacher, networks.student(), networks.fake(), levels)
    optimisation = build.optimisation(settings, fake=NetworkOptimizer())
    batches = problem.data.free(settings.batch, context.seed)
    trained = yield Stage("skeleton", objective, settings.steps, batches, optimisation)
    return trained.network


METHOD = Method(name="skeleton", title="A skeleton", year=2023, networks=("student", "fake"),
    address="https://arxiv.org/abs/2305.18455", settings=Settings, recipe=recipe,
    examples={"skeleton": Example(Settings(steps=10, batch=8))},
)  # fmt: skip
