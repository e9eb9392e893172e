r"""Where a halving begins: with the teacher on its grid, or with the student of another run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from ..errors import ConfigError
from ..settings import build

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["begin"]


def begin(
    problem: Problem, calls: int, high: float | None, rho: float
) -> tuple[Denoiser, Denoiser, Tensor]:
    r"""Returns the first teacher, the first student's network, and the levels of the teacher's
    steps, decreasing to zero; of a student of another run its own denoiser and levels.

    Arguments:
        problem: The problem.
        calls: The number of the teacher's steps.
        high: The largest level of the grid; none for the teacher's.
        rho: The exponent of the levels' spacing.

    Raises:
        ConfigError: That student is of another number of calls, or draws noise between them.
    """
    begun = problem.networks.begun(calls, "grid")
    if begun is None:
        teacher = problem.known_teacher
        grid = build.grid(teacher, calls, high, rho)
        return teacher, problem.networks.student_denoiser(), grid
    if begun.rule != "ddim":
        raise ConfigError(
            f"the student to start from steps by the rule {begun.rule}, with fresh noise, and two "
            "of its steps are no map to learn: start from a run of --method progressive, or of "
            "--rule ddim"
        )
    levels = torch.tensor([*begun.sigmas, 0.0], dtype=torch.float64)
    teacher = begun.denoiser.trainable_copy().requires_grad_(False).eval()
    return teacher, begun.denoiser, levels
