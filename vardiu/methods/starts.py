r"""Where a student of few calls starts: the teacher, asked at few levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..data.batches import Shuffled
from ..functional.scores import edm_weight
from ..samplers.pairs import Pairs
from ..settings import build
from ..settings.fields import PairSettings, Training
from ..students.few_step import FewStep
from ..training.stage import Context, Stage, Stages
from .progressive import ProgressiveDistillation

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["teacher_at_few_levels"]


def teacher_at_few_levels(
    problem: Problem,
    levels: Sequence[float],
    pairs: Pairs,
    row: PairSettings,
    training: Training,
    context: Context,
) -> Stages[FewStep]:
    r"""Returns a deterministic student of the teacher's weights; where it does not start as the
    teacher, after the stage that teaches it the teacher's answers at these levels.

    Arguments:
        problem: The problem.
        levels: The student's levels, decreasing.
        pairs: The teacher's samples, which the stage adds noise to.
        row: The number of updates, the batch and the rate of that stage.
        training: How the method is trained that comes after.
        context: The run's seed.

    Of a run that starts from another run's student it is that one, by the deterministic rule at
    its own levels.

    Raises:
        ConfigError: That student is of another number of calls, or asks no denoiser.
    """
    begun = problem.networks.begun(len(levels), "sampling_steps")
    if begun is not None:
        return FewStep(begun.denoiser, begun.sigmas, "ddim")
    network = problem.networks.student_denoiser()
    if not problem.networks.starts_as_teacher:
        sigmas = torch.tensor([*levels, 0.0], dtype=torch.float64)
        weight = partial(edm_weight, sigma_data=problem.space.sigma_data)
        objective = ProgressiveDistillation(
            problem.known_teacher, network, sigmas, stride=1, weight=weight
        )
        # A batch may be larger than a few pairs: their rows are then met several times.
        many = pairs.select(torch.arange(len(pairs.x)).repeat(-(-row.batch // len(pairs.x))))
        batches = Shuffled(many.x, many.cond, row.batch, seed=context.seed)
        own = replace(training, optimizer="adam", lr=row.lr, decay="trapezoid", warmup=50, delay=0)
        optimisation = build.optimisation(own)
        trained = yield Stage("start", objective, row.steps, batches, optimisation, 0.0, 2)
        network = trained.network
    return FewStep(network, levels, "ddim")
