r"""What a run measures on the way: of which network, how often, and what it is compared with."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..methods import Method
from ..monitoring import references
from ..monitoring.measures import measure_convergence
from ..problems.base import Problem
from ..problems.sampled_teachers import SampleStore
from ..storage import processes
from ..storage.artefacts import Artefacts
from ..students.base import Generator
from ..training.cures import CURES
from ..training.trainer import Trainer
from .events import ArtefactProgress, Listener, StopAsked, WorkProgress
from .presets import PRESETS
from .task import RunSettings, Task

__all__ = [
    "announced_calls",
    "cures_of",
    "evaluation_due",
    "gradient_draws",
    "kept_samples",
    "reference_curves",
    "student_values",
    "trained_features",
]


@contextlib.contextmanager
def announced_calls(
    broadcast: Listener, name: str, network: nn.Module | None, total: int | None = None
) -> Iterator[None]:
    r"""Tells how many rows a network has evaluated within the context; nothing if it has none.

    Arguments:
        broadcast: Is told.
        name: What the work is.
        network: The network; none where there is yet to be one.
        total: The number of rows that it is going to evaluate, if that is known.
    """
    done = 0

    def count(module: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        nonlocal done
        done += len(output)
        broadcast(WorkProgress(name, done, None if total is None else max(done, total)))

    handle = None if network is None else network.register_forward_hook(count)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
        if done:
            broadcast(WorkProgress(name, done, total, finished=True))


@contextlib.contextmanager
def kept_samples(
    place: Path, problem: Problem, task: Task, tell: Listener, *, told: bool = False
) -> Iterator[None]:
    r"""Keeps large samples of the teacher, a portion at a time, until what is measured of them is
    written at the end of the context. A kill loses one portion.

    Arguments:
        place: The folder that they are in, which goes at the end; it may never be there.
        problem: Its problem.
        task: What it is of.
        tell: Is told that a stop was asked for.
        told: Whether each portion is told as well, where nothing else shows how far it is.
    """
    teacher = problem.data.teacher

    def about() -> Mapping[str, Any]:
        return {**problem.hashes(), "problem": repr(task.problem), "chosen": problem.data.chosen}

    def progress(name: str, done: int, total: int) -> None:
        if told:
            tell(ArtefactProgress(f"{name} of the teacher", done, total))

    artefacts = Artefacts(place, progress, stopping=lambda: tell(StopAsked("portion")))
    teacher.store = SampleStore(artefacts, about)
    try:
        yield
    finally:
        teacher.store = None
    processes.wait()  # for those that still read
    if processes.is_writer() and place.is_dir():
        shutil.rmtree(place)


def evaluation_due(step: int, steps: int, run: RunSettings) -> bool:
    r"""Whether a report is the first one in another of `evaluations` equal parts of a stage."""
    every = max(1, steps // run.reports)
    before = (step - 1) // every * every
    return step * run.evaluations // steps > before * run.evaluations // steps


def gradient_draws(step: int, steps: int, evaluations: int) -> int:
    r"""Returns of how many gradients an evaluation is to take signal and noise.

    A gradient costs as much as a step: there are at most four in a hundred steps, except for the
    last of a stage.
    """
    between = max(1, steps // evaluations)
    due = step // 100 > (step - between) // 100 or step == steps
    return (8 if between >= 200 else 4) if due else 0


def student_values(
    problem: Problem, trainer: Trainer, student: Generator, draws: int
) -> dict[str, Any]:
    r"""Returns metrics of a student in training, and what the instruments show.

    Arguments:
        problem: The problem.
        trainer: The trainer, after a step at least.
        student: The student, see `Objective.student_of`.
        draws: The number of gradients for their signal and noise; 0 for none.
    """
    assert trainer.batch is not None
    samples = problem.student_source(student, measured=True)(
        problem.scores.quick, torch.Generator().manual_seed(0)
    )
    values: dict[str, Any] = {}
    for metric in problem.scores.measure(lambda n, random: samples, problem.scores.quick):
        values[f"metric/{metric.name}"] = metric.value
        if metric.error is not None:
            values[f"metric/{metric.name}_error"] = metric.error
    return values | measure_convergence(
        problem, trainer.objective, samples, trainer.batch, trainer.step, draws
    )


def trained_features(method: Method, problem: Problem) -> str:
    r"""Returns the name of the features that students of a method are trained in; empty for
    none."""
    ground = problem.scores.training_ground() if method.trained_on else None
    return "" if ground is None else ground.space.name


def cures_of(method: Method) -> Mapping[str, str]:
    r"""Returns what to try against each alarm: the method's own cures, and general ones."""
    return {**CURES, **method.cures}


def reference_curves(task: Task) -> Mapping[str, Mapping[str, Sequence[float]]] | None:
    r"""Returns the curves of a task's preset; none for another problem or method."""
    row = PRESETS.get(task.preset)
    if row is None or task.method != row.method:
        return None
    own = {f.name: getattr(task.problem, f.name) for f in dataclasses.fields(task.problem)}
    theirs = {f.name: getattr(row.problem, f.name) for f in dataclasses.fields(row.problem)}
    # The same teacher may lie in another folder.
    same = own | {"teacher_run": None} == theirs | {"teacher_run": None}
    return references.preset_curves(task.preset) if same else None
