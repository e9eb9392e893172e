r"""Score distillation sampling (SDS): the teacher alone moves each sample to where it is likely.

.. math:: \nabla_\theta \mathcal{L} = \mathbb{E} [ w(\sigma) (\hat\varepsilon - \varepsilon)^\top
    \nabla_\theta g(z) ], \qquad \hat\varepsilon - \varepsilon = (x - D(x_t, \sigma)) / \sigma

(DreamFusion, Equation 3.) It descends :math:`-\mathbb{E} [\sigma w(\sigma) \log q_\sigma(x_t)]`,
which no entropy of the student opposes: samples gather at modes. Needs a teacher only. Deviations:
log-uniform levels, and a student of latents in place of a scene that random cameras look at.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.levels import Levels
from ..functional.scores import Weight, surrogate
from ..functional.tensors import expand_like
from ..problems.base import Problem
from ..settings import build
from ..settings.fields import LevelSettings, Training, WeightSettings
from ..students.base import Generator
from ..training.objective import Loss, Objective, Phase
from ..training.stage import Context, Recipe, Stage
from .base import Example, Method
from .diff_instruct import score_difference

__all__ = ["METHOD", "SDS", "Settings"]


class SDS(Objective):
    r"""A teacher and a student; `weight` is Equation 3's, of a difference of two noises."""

    def __init__(self, teacher: Denoiser, g: Generator, levels: Levels, weight: Weight) -> None:
        super().__init__(teacher, g)
        self.levels, self.weight = levels, weight

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("student", self.loss, updates=("generator",)),)

    def loss(self, batch: Batch, step: int) -> Loss:
        x = self.generator(self.latents(batch.rows), **batch.cond)
        sigma = self.levels(self.uniform(batch.rows), step)
        with torch.no_grad():  # Diff-Instruct's difference, with each sample in the fake's place
            x_t = x + expand_like(sigma, x) * self.noise_like(x)
            scores = score_difference(x, self.teacher(x_t, sigma, **batch.cond), sigma)
        return Loss((sigma * self.weight(sigma) * surrogate(x, scores)).mean())


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""Score distillation sampling."""

    levels: LevelSettings = LevelSettings(sigma_min=0.2, sigma_max=20.0)
    """The noise levels."""
    weight: WeightSettings = WeightSettings(kind="bounded")
    """The weight of a level; bounded with scale 1 is the paper's sigma_t^2."""


def recipe(problem: Problem, settings: Settings, context: Context) -> Recipe:
    levels, weight = build.levels(settings.levels, settings.steps), build.weight(settings.weight)
    objective = SDS(problem.known_teacher, problem.networks.student(), levels, weight)
    batches, row = problem.data.free(settings.batch, context.seed), build.optimisation(settings)
    return (yield Stage("sds", objective, settings.steps, batches, row, of=1)).network


POOLE = """@inproceedings{poole2023dreamfusion, year = {2023},
  title = {{DreamFusion}: Text-to-{3D} using {2D} Diffusion},
  author = {Poole, Ben and Jain, Ajay and Barron, Jonathan T. and Mildenhall, Ben},
  booktitle = {International Conference on Learning Representations}}"""
TINY = Settings(steps=10, batch=8, levels=LevelSettings(sigma_min=0.2, sigma_max=5.0))
METHOD = Method(name="sds", title="SDS", year=2022, address="https://arxiv.org/abs/2209.14988",
    networks=("student",), settings=Settings, recipe=recipe, bibtex={"dreamfusion": POOLE},
    cures={"collapse": "another --method: this one seeks modes"},
    examples={"sds": Example(TINY), "sds-classes": Example(TINY, classes=2)},
)  # fmt: skip
