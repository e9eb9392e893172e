"""Nine mistakes that the type checker must report, each on a line that names the code.

This file is read by `tests/test_types.py` and never run. All the rest of it is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

import vardiu
from vardiu.data.batch import Batch
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.posteriors.encoder import Posterior
from vardiu.problems.base import Problem
from vardiu.students.base import Generator
from vardiu.training.objective import Loss, Objective, Phase
from vardiu.training.optimizers import Optimisation
from vardiu.training.stage import Stage


def a_student_in_the_place_of_its_denoiser(student: Generator) -> Generator:
    return vardiu.OneStep(student)  # expect: arg-type


def a_denoiser_that_is_not_told_the_level(denoiser: Denoiser, x_t: Tensor) -> Tensor:
    return denoiser(x_t)  # expect: call-arg


def a_loss_in_the_place_of_a_number(loss: Loss) -> float:
    return loss.value  # expect: return-value


class PointPosterior(Posterior):
    """A posterior that returns a tensor in the place of a distribution."""

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Distribution:
        return x_t / (1 + sigma.square())  # expect: return-value


def a_batch_of_numbers(batch: Batch) -> Batch:
    return batch._replace(x=[0.0, 1.0])  # expect: arg-type


def a_phase_of_letters(loss: Callable[[Any, int], Loss]) -> Phase:
    return Phase("student", loss, updates="generator")  # expect: arg-type


def a_buffer_that_is_no_module(denoiser: GaussianDenoiser) -> Tensor:
    return denoiser.mean.weight  # expect: attr-defined


def a_teacher_that_may_be_missing(problem: Problem) -> float:
    return problem.teacher.sigma_max  # expect: union-attr


def a_stage_without_data(objective: Objective, optimisation: Optimisation) -> Stage:
    return Stage("student", objective, steps=10, optimisation=optimisation)  # expect: call-arg
