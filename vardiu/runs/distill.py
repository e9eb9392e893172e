r"""From a task to a finished student."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import models
from ..metrics import Metric
from ..metrics.sets import marked_trained
from ..monitoring.verdicts import judge
from ..problems.sampled_teachers import SOLVER_CALLS
from ..storage import processes
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..teachers.probe import LEVELS, PROBED, check_gradient, checked
from .events import FinalMeasurementStarted, Listener, Results
from .execute import Execution, execution
from .listeners import Alarms, ReportPage
from .measuring import announced_calls, kept_samples, trained_features
from .task import Task

__all__ = ["distill"]


def distill(
    task: Task,
    out: str | Path,
    listeners: Sequence[Listener] = (),
    command: Sequence[str] = (),
    artefacts: Path | None = None,
) -> RunFolder:
    r"""Carries out a `distill` task, from where it stands; does nothing if it is finished.

    Arguments:
        task: What to do.
        out: The folder of the run.
        listeners: They hear the run's events, see `vardiu.runs.events`, beside log and report.
        command: What was typed, for the provenance.
        artefacts: The folder where what is made once is kept (pairs, a frame), of which several
            runs may take it; none for the run's own. A run counts what it took, whoever made it.

    Raises:
        ConfigError: The task cannot be carried out.
        RunError: The folder holds something else, or another process writes to it.
        NotADenoiser: The teacher does not denoise.
        Diverged: A loss or a gradient was not finite.
        Interrupted: SIGINT or SIGTERM came; the run has been saved.
    """
    with execution(task, out, listeners, command, artefacts) as run:
        if run.is_finished:
            return run.folder
        problem = run.problem
        if problem.teacher is not None:
            probe(run)
        run.rehearse()
        torch.manual_seed(task.run.seed)
        title = f"{task.preset}: {task.chosen.heading}"
        run.broadcast.listeners += [
            Alarms(task, run.folder, problem, run.broadcast),
            ReportPage(task, run.folder, problem, title, True, run.broadcast),
        ]
        for stage in run.stages():
            stage.trainer.fit(stage.batches, **stage.fit_options())
        with kept_samples(run.folder.file("measuring"), run.problem, task, run.broadcast):
            ship_student(run)
    return run.folder


def probe(run: Execution) -> None:
    r"""Tries whether the teacher denoises.

    Raises:
        NotADenoiser: It does not.
    """
    problem, chosen = run.problem, run.task.chosen
    teacher, data = problem.data.unguided.to(run.device), problem.data.reference(PROBED)
    rows = LEVELS * len(data[0])
    with announced_calls(run.broadcast, "probing the teacher", teacher, rows):
        checked(teacher, *data, problem.data.resample)
        if chosen.needs.gradient:
            check_gradient(problem.known_teacher, *data, chosen.name)


def judged_results(
    run: Execution, metrics: Sequence[Metric], reference: Sequence[Metric], who: str
) -> Results:
    r"""Returns what a run has measured, with the verdict on it."""
    results = Results(metrics, reference, who, run.cost)
    measured, compared = results.metric_rows(), results.reference_rows()
    judged = run.problem.scores.judged
    log = run.folder.metrics()
    verdict = judge(log, measured, compared, who, judged)
    raised = [alarm for row in log for alarm in row.get("alarms", ())]
    return dataclasses.replace(results, verdict=verdict, alarms=raised)


def ship_student(run: Execution) -> None:
    r"""Measures the trained student, writes it, and finishes the run with what is read back."""
    task, problem = run.task, run.problem
    student = run.result.to(run.device)
    assert isinstance(student, Generator)
    run.broadcast(FinalMeasurementStarted("the student"))
    n = task.run.samples or problem.scores.samples
    with announced_calls(run.broadcast, "measuring the student", student, n):
        metrics = problem.scores.measure(problem.student_source(student, measured=True), n)
    features = trained_features(task.chosen, problem)
    metrics = marked_trained(metrics, features)
    rows = SOLVER_CALLS * n
    with announced_calls(run.broadcast, "measuring the teacher", problem.teacher, rows):
        reference = problem.scores.teacher_metrics(n)
    results = judged_results(run, metrics, *reference)
    if features:
        words = f"{task.chosen.trained_on} in {features}"
        results = dataclasses.replace(results, trained_on=words)
    about: dict[str, Any] = {"cost": run.cost, "preset": task.preset, "method": task.method}
    about["metrics"] = results.metric_rows()
    processes.by_writer(lambda: problem.save(student, run.folder, about))
    codes = [*task.own.values()]
    shipped = models.load(run.folder.file("student"), codes, accept_changed=True)
    assert isinstance(shipped, Generator)
    student = problem.with_prompts(shipped).to(run.device)
    run.finish(results, problem.student_source(student), f"student, {shipped.words}", student)
