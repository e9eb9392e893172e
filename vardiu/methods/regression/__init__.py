r"""Regression on the teacher's pairs: the start of a student, and the plainest distillation.

.. math:: \mathcal{L} = \mathbb{E}_z \left[ \sqrt{ \tfrac1d \| g(z) - x(z) \|^2 + c^2 } - c \right]

where :math:`x(z)` solves the teacher's probability-flow equation from :math:`\sigma_\max z`. The
student's latent must be the teacher's noise. Its minimum over smooth networks is blurred where the
teacher's map is steep, but it is spread over all modes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ...samplers.pairs import Pairs
from ...settings import build
from ...settings.fields import DigitsSettings, OnPairs, PairSettings, Training
from ...settings.grounds import DIGIT_PAIRS
from ...students.base import Generator
from ...training.objective import Objective
from ...training.stage import Context, Recipe, Stage, Stages
from ..base import Arm, Example, Method, Needs, Preset

if TYPE_CHECKING:
    from ...problems.base import Problem
    from ...problems.linear import LinearProblem
    from ...students.affine import Affine
from .objective import Regression
from .pairs import PORTION, beside_method, drawn_pairs, make_pairs

__all__ = [
    "CURES",
    "METHOD",
    "PORTION",
    "Regression",
    "Settings",
    "TINY",
    "beside_method",
    "drawn_pairs",
    "fitted",
    "make_pairs",
    "recipe",
    "train_on_pairs",
]


# What to try against each alarm, see `vardiu.monitoring.alarms`: the regression has settings of
# its own.
CURES: Mapping[str, str] = {
    "collapse": "more --pairs.pairs, or more --steps",
    "saturation": "the gradient is not noise: the network may be too small for more",
    "noise": "raise --pairs.batch or lower --pairs.lr",
    "worsening": "fewer --steps, or a lower --pairs.lr",
    "divergence": "lower --pairs.lr",
}


def train_on_pairs(
    problem: Problem,
    student: Generator,
    row: PairSettings,
    training: Training,
    context: Context,
    share: float = 0.0,
) -> Stages[tuple[Generator, Pairs | None]]:
    r"""Yields the stage that fits a student to pairs; none where no pairs are asked for.

    Arguments:
        problem: The problem.
        student: The student.
        row: The pairs and their regression.
        training: How the method is trained that comes after.
        context: The run's seed, device and artefacts.
        share: The stage's share of the run's updates; a start has a length of its own.

    Returns:
        The student, and the pairs or `None`.
    """
    if not row.pairs:
        return student, None
    pairs = make_pairs(problem, row, context)
    objective = Regression(problem.known_teacher, student, pairs, unit=problem.space.unit)
    network = yield from fitted(objective, problem, row, training, context, share)
    return network, pairs


def fitted(
    objective: Objective,
    problem: Problem,
    row: PairSettings,
    training: Training,
    context: Context,
    share: float = 0.0,
) -> Stages[Generator]:
    r"""Yields the stage of a regression on the teacher's pairs or paths; returns the student.

    Arguments:
        objective: The regression.
        problem: The problem.
        row: The number of its updates, their batch and their rate.
        training: How the method is trained that comes after.
        context: The run's seed.
        share: The stage's share of the run's updates; a start has a length of its own.
    """
    settings = replace(
        training,
        optimizer="adam",
        lr=row.lr,
        weight_decay=0.0,
        decay="trapezoid",
        warmup=50,
        delay=0,
        clip=1.0,
        beta_1=0.9,
        beta_2=0.99,
    )
    batches = problem.data.free(row.batch, context.seed)
    optimisation = build.optimisation(settings)
    stages = 1 if share else 2  # a start has the method's own stage behind it
    trained = yield Stage("pairs", objective, row.steps, batches, optimisation, share, stages)
    return trained.network


@dataclass(frozen=True, kw_only=True)
class Settings(OnPairs):
    r"""Regression on pairs, and nothing after it. Of the training, the number of updates and the
    half-life are used."""

    steps: int = PairSettings.steps
    """Updates of the regression, in place of --pairs.steps."""
    pairs: PairSettings = PairSettings(pairs=16_000)
    """The pairs and their regression; the number of its updates is --steps."""


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Fits the student to the teacher's pairs, in one stage."""
    row = replace(config.pairs, steps=config.steps)
    student = problem.networks.student()
    student, _ = yield from train_on_pairs(problem, student, row, config, context, share=1.0)
    return student


def ideal(problem: LinearProblem, student: Affine) -> Regression:
    r"""Returns the regression on pairs of the teacher's own map, from infinite noise."""
    random = torch.Generator().manual_seed(problem.seed)
    z = torch.randn(4_096, *student.latent_shape, generator=random, dtype=student.shift.dtype)
    with torch.no_grad():
        x = problem.networks.matched_student()(z)
    return Regression(problem.known_teacher, student, Pairs(z, x, {}))


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
        Settings(steps=2_500, halflife=17_700.0, pairs=DIGIT_PAIRS),
    ),
}


TINY = Settings(steps=10, batch=8, pairs=PairSettings(pairs=20, solver_steps=3, steps=10, batch=8))


METHOD = Method(
    name="regression",
    title="Regression on pairs",
    year=2021,
    address="https://arxiv.org/abs/2101.02388",
    family="trajectory",
    networks=("student",),
    needs=Needs(pairs=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"luhman": LUHMAN},
    presets=PRESETS,
    cures=CURES,
    arms={"digits": {"pairs": Arm("Regression on pairs", PRESETS["digits-pairs"].settings)}},
    examples={
        "regression": Example(TINY, student="one_step"),
        "regression-classes": Example(TINY, classes=2, student="one_step"),
    },
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
)
