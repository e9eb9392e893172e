r"""The end of a run, before its beginning: what fails only after the training fails here.

The stages of the recipe are built one after another, without a step; what comes out of the last
one is measured with few samples, written, and read back. Nothing of it stays.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import models
from ..errors import ConfigError
from ..problems.base import Problem
from ..problems.continued import Continued
from ..problems.sampled_teachers import Source
from ..settings.fields import FrameSettings, MemorySettings, PairSettings
from ..storage.artefacts import Artefacts
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..teachers.probe import PROBED, refuse_unjudgeable
from ..training.stage import Stage
from ..training.trainer import Trainer
from .stages import stages_of
from .task import LEAST_SAMPLES, Task

__all__ = ["rehearse"]


PAIRS, SOLVER_STEPS = 4, 2


def rehearse(task: Task, problem: Problem, device: torch.device) -> None:
    r"""Builds every stage of a run, and measures, writes and reads what comes out of it.

    Arguments:
        task: The run.
        problem: Its problem.
        device: Where pairs and samples of the teacher are made, a few of them.

    Raises:
        ConfigError: The run could not be finished with these settings.
        ValueError: The same, as an objective or a network says it.
    """
    settings = with_little_made(task.settings)
    stages = stages_of(dataclasses.replace(task, settings=settings), problem, Artefacts(), device)
    stage: Stage | None = stages.first()
    while stage is not None:
        objective = stage.objective.to(device)
        task.run.economy.refuse(objective)
        accumulate = task.run.accumulate
        trainer = Trainer(objective, stage.optimisation, steps=stage.steps, accumulate=accumulate)
        stage = stages.after(trainer)
    if isinstance(problem.networks, Continued) and not problem.networks.used:
        raise ConfigError(
            f"run.start_from: {task.method} starts its student in a way of its own with these "
            "settings, and takes none of another run: leave --start-from out"
        )
    result = stages.result.requires_grad_(False).eval()
    with tempfile.TemporaryDirectory() as place:
        if isinstance(result, Generator):
            problem.scores.measure(problem.student_source(result, measured=True), LEAST_SAMPLES)
            problem.save(result, RunFolder(place), {})
            codes = models.codes_in(result)
            models.load(Path(place) / "student", codes, accept_changed=True)
        else:
            refuse_unjudgeable(problem.data.reference(PROBED)[0])
            problem.scores.measure(noise_of(problem), LEAST_SAMPLES)
            models.save(result, Path(place) / "teacher")


def noise_of(problem: Problem) -> Source:
    r"""Returns noise in the place of samples of a teacher that is yet to be trained: to solve its
    equation takes long, and what is measured may be anything."""

    def draw(n: int, random: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        cond = problem.data.conditions(n, random)
        return torch.randn((n, *problem.space.shape), generator=random), cond

    return draw


def with_little_made(settings: Any) -> Any:  # noqa: ANN401 (each method has its own)
    r"""Returns a method's settings with a few pairs, and a frame and a memory of a few samples."""
    changes: dict[str, Any] = {}
    pairs, frame = getattr(settings, "pairs", None), getattr(settings, "frame", None)
    if isinstance(pairs, PairSettings) and pairs.pairs:
        steps = min(pairs.solver_steps, SOLVER_STEPS)
        changes["pairs"] = dataclasses.replace(
            pairs, pairs=min(pairs.pairs, PAIRS), solver_steps=steps
        )
    memory = getattr(settings, "memory", None)
    if isinstance(memory, MemorySettings):
        rows = min(memory.rows, max(2, settings.batch))
        changes["memory"] = dataclasses.replace(memory, rows=rows)
    if isinstance(frame, FrameSettings):
        rows = min(frame.samples, 2 * (frame.components + 2))
        changes["frame"] = dataclasses.replace(
            frame, samples=rows, clusters=1, by_class=False, solver_steps=SOLVER_STEPS
        )
    return dataclasses.replace(settings, **changes)
