r"""A halving: its stages, and where it begins, which is with the teacher on its grid or with the
student of another run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from ..errors import ConfigError
from ..settings import build
from ..training.stage import apportioned

if TYPE_CHECKING:
    from ..problems.base import Problem
    from .progressive import Settings

__all__ = ["begin", "plan"]


def plan(config: Settings, fold: bool) -> list[tuple[int, int, float, int]]:
    r"""Returns of each stage the student's calls, the teacher's steps in one, share and length."""
    calls = config.grid
    # Where nothing is to be halved the student still learns the teacher's answers on its grid.
    rows = [(calls, 1, config.fold)] if fold or calls == config.sampling_steps else []
    while calls > config.sampling_steps:
        calls //= 2
        rows.append((calls, 2, config.late if calls <= 2 else 1.0))
    total = sum(length for *_, length in rows)
    steps = apportioned(config.steps, [length / total for *_, length in rows])
    return [(*row[:2], row[2] / total, own) for row, own in zip(rows, steps, strict=True)]


def begin(problem: Problem, config: Settings) -> tuple[Denoiser, Denoiser, Tensor]:
    r"""Returns the first teacher, the first student's network, and the levels of the teacher's
    steps, decreasing to zero; of a student of another run its own denoiser and levels.

    Raises:
        ConfigError: That student is of another number of calls, or draws noise between them.
    """
    begun = problem.networks.begun(config.grid, "grid")
    if begun is None:
        teacher = problem.known_teacher
        grid = build.grid(teacher, config.grid, config.grid_max, config.rho)
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
