r"""From a task to a finished teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import models
from ..denoisers.base import Denoiser
from ..problems.sampled_teachers import SOLVER_CALLS
from ..storage import processes
from ..storage.artefacts import Artefacts
from ..storage.run_folder import RunFolder
from ..teachers.probe import LEVELS, PROBED, measured
from .events import (
    Broadcaster,
    FinalMeasurementStarted,
    Listener,
    Results,
    TeacherNeeded,
    TeacherProbed,
)
from .execute import Execution, execution
from .listeners import ReportPage
from .measuring import announced_calls, kept_samples
from .presets import TEACHERS
from .stages import stages_of
from .task import Task, task_from_preset, untaught_problem

__all__ = ["ensure_teacher", "missing_teacher", "teach"]


def teach(
    task: Task,
    out: str | Path,
    listeners: Sequence[Listener] = (),
    command: Sequence[str] = (),
) -> RunFolder:
    r"""Carries out a `teach` task; the teacher is written to `teacher/` in the run's folder.

    Arguments and errors are those of `vardiu.runs.distill.distill`.
    """
    with execution(task, out, listeners, command) as run:
        if run.is_finished:
            return run.folder
        run.rehearse()
        torch.manual_seed(task.run.seed)
        title = f"teacher: {task.preset}"
        page = ReportPage(task, run.folder, run.problem, title, False, run.broadcast)
        run.broadcast.listeners.append(page)
        for stage in run.stages():
            stage.trainer.fit(stage.batches, **stage.fit_options())
        with kept_samples(run.folder.file("measuring"), run.problem, task, run.broadcast):
            ship_teacher(run)
    return run.folder


def ship_teacher(run: Execution) -> None:
    r"""Measures the trained teacher, writes it, and finishes the run."""
    problem, teacher = run.problem, run.result.to(run.device)
    assert isinstance(teacher, Denoiser)
    problem.teacher = teacher
    data = problem.data.reference(PROBED)
    rows = LEVELS * len(data[0])
    with announced_calls(run.broadcast, "probing the teacher", teacher, rows):
        probed = measured(teacher, *data)
    run.broadcast(TeacherProbed(probed))
    run.broadcast(FinalMeasurementStarted("35 steps of Heun's method"))
    source = problem.teacher_source(measured=True)
    n = run.task.run.samples or problem.scores.samples
    calls = SOLVER_CALLS * n
    with announced_calls(run.broadcast, "measuring the teacher", teacher, calls):
        metrics = problem.scores.measure(source, n)
    results = Results(metrics, [], "", run.cost)
    about: dict[str, Any] = {"metrics": results.metric_rows(), "cost": run.cost}
    about["preset"] = run.task.preset
    about["classes"] = list(problem.data.names)
    if getattr(run.task.settings, "drop", 0):  # a method of the user's own may have none
        about["null"] = problem.networks.null
    processes.by_writer(lambda: models.save(teacher, run.folder.file("teacher"), about))
    run.finish(results, source, "teacher, 69 calls")


def missing_teacher(task: Task) -> RunFolder | None:
    r"""Returns the folder into which `ensure_teacher` would train a teacher; none where nothing is
    missing."""
    problem, name = task.problem, task.problem.name
    # A density may have an exact teacher, images one from elsewhere.
    needs = getattr(problem, "teacher", None) in (None, "learned")
    needs = needs and task.asks_teacher
    if not needs or getattr(problem, "teacher_run", None) is not None or name not in TEACHERS:
        return None
    folder = RunFolder(f"runs/teach-{name}")
    return folder if folder.result() is None else None


def ensure_teacher(task: Task, listeners: Sequence[Listener] = ()) -> None:
    r"""Trains the teacher of a preset on board if a task needs it and it is not there.

    A teacher that the task names itself is not trained.

    Raises:
        ConfigError: The task's method would refuse its settings after that training.
    """
    folder, name = missing_teacher(task), task.problem.name
    if folder is not None:
        refuse_settings(task)
        Broadcaster(listeners)(TeacherNeeded(name, folder.path))
        teacher = task_from_preset("teach", name)
        run = dataclasses.replace(teacher.run, threads=task.run.threads, device=task.run.device)
        command = ["vardiu", "teach", name]
        teach(dataclasses.replace(teacher, run=run), folder.path, listeners, command)


def refuse_settings(task: Task) -> None:
    r"""Refuses what a method refuses with any teacher, before one is trained for it.

    Its first stage is built with a fresh network for a teacher. Where the method begins with the
    teacher's own samples, which would be noise, nothing is tried.

    Raises:
        ConfigError: The method cannot have these settings.
    """
    settings = task.settings
    if task.chosen.needs.pairs or getattr(settings, "frame", None) or task.run.start_from:
        return
    if getattr(getattr(settings, "pairs", None), "pairs", 0):
        return
    problem = untaught_problem(task)
    problem.teacher = problem.networks.denoiser()
    stages_of(task, problem, Artefacts(), torch.device("cpu")).first()
