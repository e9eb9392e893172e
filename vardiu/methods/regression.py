r"""Regression on the teacher's pairs: the start of a student, and the plainest distillation.

.. math:: \mathcal{L} = \mathbb{E}_z \left[ \sqrt{ \tfrac1d \| g(z) - x(z) \|^2 + c^2 } \right]

where :math:`x(z)` solves the teacher's probability-flow equation from :math:`\sigma_\max z`. The
student's latent must be the teacher's noise. Its minimum over smooth networks is blurred where the
teacher's map is steep, but it is spread over all modes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..samplers.pairs import Pairs, teacher_pairs
from ..settings import build
from ..settings.fields import DigitsSettings, PairSettings, Training
from ..students.base import Generator
from ..training.objective import Loss, Objective, Phase
from ..training.stage import Recipe, Stage
from .base import Arm, Example, Method, Needs, Preset

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "Settings", "Regression", "recipe", "start"]


def pseudo_huber(difference: Tensor, softness: float = 0.03) -> Tensor:
    r"""Returns :math:`\sqrt{\|v\|^2 / d + c^2}` of each row, with shape `(B,)`."""
    return (difference.flatten(1).square().mean(1) + softness**2).sqrt()


class Regression(Objective):
    r"""Regression on pairs of noise and sample (knowledge distillation).

    The pairs are solved in the first steps, a portion a step, and kept with the checkpoint.

    Needs:
        No data, no gradient of the teacher, :math:`2 n - 1` calls a portion of pairs.

    Deviations:
        - The distance is pseudo-Huber over the image, not squared: pairs that the network cannot
          follow weigh less.

    References:
        | Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed
        | (Luhman and Luhman, 2021), https://arxiv.org/abs/2101.02388

    Arguments:
        teacher: The teacher, whose sampler makes the pairs.
        generator: The student; its latent has the teacher's shape.
        pairs: The number of pairs.
        solver_steps: The number of Heun's steps that solve a pair.
        portion: The number of pairs solved at once.
        softness: The constant :math:`c`.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        *,
        pairs: int,
        solver_steps: int = 10,
        portion: int = 512,
        softness: float = 0.03,
    ) -> None:
        super().__init__(teacher, generator)
        if tuple(generator.latent_shape) != tuple(teacher.shape):
            raise ValueError(
                f"regression on pairs needs a latent of the teacher's shape "
                f"{tuple(teacher.shape)}, got {tuple(generator.latent_shape)}"
            )
        if pairs < 1 or solver_steps < 1:
            raise ValueError(f"pairs and solver_steps must be at least 1, got {pairs}")
        self.solver_steps, self.portion, self.softness = solver_steps, portion, softness
        self.register_buffer("z", torch.zeros(pairs, *teacher.shape))
        self.register_buffer("x", torch.zeros(pairs, *teacher.shape))
        self.register_buffer("label", torch.zeros(pairs, dtype=torch.long))
        self.register_buffer("solved", torch.zeros((), dtype=torch.long))

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("regression", self.loss, updates=("generator",)),)

    @property
    def beginnings(self) -> int:
        return math.ceil(len(self.z) / self.portion)

    def begin(self, batch: Batch, step: int) -> None:
        done = int(self.solved)
        if done < len(self.z):
            self.solve(slice(done, min(done + self.portion, len(self.z))), batch)

    def prepare(self, batch: Batch, step: int) -> Batch:
        if not int(self.solved):  # asked by an instrument before the first step
            self.begin(batch, step)
        done = int(self.solved)
        u = self.uniform(len(batch.x), "pair")
        rows = (u * done).long().clamp_max(done - 1)
        cond = {"label": self.label[rows]} if batch.cond else {}
        return Batch(self.x[rows], {"z": self.z[rows], **cond})

    def solve(self, rows: slice, batch: Batch) -> None:
        r"""Solves a portion of the pairs; conditions repeat those of the batch."""
        n = rows.stop - rows.start
        z = self.latent(n, "pair latent").to(self.z)
        cond: Mapping[str, Tensor] = {}
        if batch.cond:
            label = batch.cond["label"]
            self.label[rows] = label.repeat(n // len(label) + 1)[:n]
            cond = {"label": self.label[rows]}
        self.z[rows] = z
        self.x[rows] = teacher_pairs(self.teacher, z, cond, steps=self.solver_steps).x
        self.solved.fill_(rows.stop)

    def loss(self, batch: Batch, step: int) -> Loss:
        cond = dict(batch.cond)
        x = self.generator(cond.pop("z"), **cond)
        error = (x - batch.x).flatten(1).square().mean().detach()
        return Loss(pseudo_huber(x - batch.x, self.softness).mean(), {"squared_error": error})


def start(
    problem: Problem, student: Generator, row: PairSettings, training: Training, seed: int
) -> Recipe:
    r"""The stage that gives a student its start; none if there are no pairs to learn from.

    Returns:
        The student, and the pairs or `None`.
    """
    if not row.pairs:
        return student, None
    objective = Regression(
        problem.teacher, student, pairs=row.pairs, solver_steps=row.solver_steps
    )
    settings = replace(
        training,
        decay="trapezoid",
        warmup=50,
        delay=0,
        clip=1.0,
        beta_1=0.9,
        beta_2=0.99,
    )
    optimisation = build.optimisation(settings, {"generator": row.lr})
    batches = problem.batches(row.batch, seed)
    student = yield Stage("pairs", objective, row.steps, batches, optimisation)
    cond = {name: objective.label for name in student.conditions}
    return student, Pairs(objective.z, objective.x, cond)


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""Regression on pairs, and nothing after it. Of the training, only the half-life is used."""

    pairs: PairSettings = PairSettings(pairs=16_000)
    """The pairs and their regression."""


def recipe(problem: Problem, config: Settings, seed: int) -> Recipe:
    r"""Fits the student to the teacher's pairs, in one stage."""
    student, _ = yield from start(problem, problem.student(), config.pairs, config, seed)
    return student


LUHMAN = """@article{luhman2021knowledge,
  title   = {Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed},
  author  = {Luhman, Eric and Luhman, Troy},
  journal = {arXiv preprint arXiv:2101.02388},
  year    = {2021}
}"""


PRESETS = {
    "digits-pairs": Preset(
        "8x8 real images by class; the regression on pairs alone, for comparison",
        DigitsSettings(),
        Settings(steps=2_500, halflife=17_700.0),
    ),
}


TINY = Settings(steps=10, batch=8, pairs=PairSettings(pairs=20, solver_steps=3, steps=10, batch=8))


METHOD = Method(
    name="regression",
    title="Regression on pairs",
    year=2021,
    address="https://arxiv.org/abs/2101.02388",
    networks=("student",),
    needs=Needs(pairs=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"luhman": LUHMAN},
    presets=PRESETS,
    arms={"digits": {"pairs": Arm("Regression on pairs", PRESETS["digits-pairs"].settings)}},
    examples={
        "regression": Example(TINY, student="one-step"),
        "regression-classes": Example(TINY, classes=2, student="one-step"),
    },
)
