r"""From a task to a finished student."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from .. import models
from ..metrics import Metric
from ..monitoring import references
from ..monitoring.alarms import alarms
from ..monitoring.measures import look
from ..problems.base import Problem
from ..reports.curves import convergence, curves
from ..reports.html import write_report
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..teachers.probe import checked
from ..training.trainer import Report, Trainer
from .execute import _where, begin, device_of, show, train
from .presets import PRESETS
from .task import RunSettings, Task, problem_of

__all__ = ["distill"]


def distill(task: Task, out: Path, command: Sequence[str], console: Console) -> RunFolder:
    r"""Carries out a `distill` task, from where it stands; does nothing if it is finished."""
    folder = RunFolder(out)
    problem = problem_of(task)
    device_of(task.run.device)
    with folder.lock():
        status = folder.open(task.to_mapping())
        if status == "finished":
            console.print(f"{out} is finished; nothing to do.", highlight=False)
            _where(folder, console)
            return folder
        begin(task, folder, command, problem)
        checked(problem.probed, *problem.reference(512), problem.redraw)
        torch.manual_seed(task.run.seed)
        floor = problem.floor()

        def listen(stage: str, trainer: Trainer, told: Report) -> None:
            row: dict[str, Any] = {
                "stage": stage,
                "step": told.step,
                "updates": trainer.updates.get("generator", 0),
                "seconds": told.seconds,
                "calls": told.calls,
                **told.values,
            }
            due = _due(told.step, trainer.steps, task.run)
            if isinstance(trainer.average.module, Generator) and due:
                random = torch.Generator().manual_seed(0)
                drawn = problem.from_generator(trainer.average.module)(problem.QUICK, random)
                for metric in problem.measure(lambda n, random: drawn, problem.QUICK):
                    row[f"metric/{metric.name}"] = metric.value
                    if metric.error is not None:
                        row[f"metric/{metric.name}_error"] = metric.error
                row |= _look(problem, trainer, drawn, task.run.evaluations)
            _warn(folder, row, trainer, problem, floor, console)
            folder.log(row)

        recipe = task.chosen.recipe(problem, task.settings, task.run.seed)
        student, cost = train(recipe, problem.teacher, folder, task.run, console, listen)
        assert isinstance(student, Generator)
        console.print("measuring ...")
        student = student.cpu()
        source = problem.from_generator(student)
        n = task.run.samples or problem.samples
        metrics = problem.measure(source, n)
        reference, who = problem.compared_with(n)
        rows = [metric.row() for metric in metrics]
        about = {"metrics": rows, "cost": cost, "preset": task.preset, "method": task.method}
        problem.save(student, folder, about)
        _finish(task, folder, problem, metrics, reference, who, cost)
        show(console, metrics, reference, who)
        calls = f"{cost['teacher_calls']:,} teacher calls of {cost['teacher_rows']:,} rows"
        console.print(f"{cost['seconds']:.0f} s of training, {calls}", highlight=False)
        _where(folder, console)
    return folder


def _due(step: int, steps: int, run: RunSettings) -> bool:
    r"""Whether a report is the first one in another of `evaluations` equal parts of a stage."""
    every = max(1, steps // run.reports)
    before = (step - 1) // every * every
    return step * run.evaluations // steps > before * run.evaluations // steps


def _draws(step: int, steps: int, times: int) -> int:
    r"""Returns of how many gradients an evaluation is to take signal and noise.

    A gradient is as dear as a step: they are four in a hundred steps at most, but for the last.
    """
    between = max(1, steps // times)
    due = step // 100 > (step - between) // 100 or step == steps
    return (8 if between >= 200 else 4) if due else 0


def _look(
    problem: Problem, trainer: Trainer, drawn: tuple[Tensor, Mapping[str, Tensor]], times: int
) -> dict[str, Any]:
    assert trainer.batch is not None
    draws = _draws(trainer.step, trainer.steps, times)
    return look(problem, trainer.objective, drawn, trainer.batch, trainer.step, draws)


def _warn(
    folder: RunFolder,
    row: dict[str, Any],
    trainer: Trainer,
    problem: Problem,
    floor: float,
    console: Console,
) -> None:
    r"""Adds to a row the alarms that it raises first, and tells them."""
    rows = [r for r in folder.metrics() if r["stage"] == row["stage"]]
    latent = math.prod(trainer.objective.generator.latent_shape)
    metric = problem.headline[0]
    old = {alarm["name"] for r in rows for alarm in r.get("alarms", ())}
    found = alarms([*rows, row], trainer.steps, latent, metric, floor)
    new = [alarm for alarm in found if alarm.name not in old]
    if new:
        row["alarms"] = [alarm._asdict() for alarm in new]
    for alarm in new:
        text = f"[yellow]{alarm.name}:[/] {alarm.message}. To try: {alarm.cure}"
        console.print(text, highlight=False, soft_wrap=True)


def _finish(
    task: Task,
    folder: RunFolder,
    problem: Problem,
    metrics: Sequence[Metric],
    reference: Sequence[Metric],
    who: str,
    cost: Mapping[str, Any],
) -> None:
    student = models.load(folder.file("student"))
    assert isinstance(student, Generator)
    student = problem.dress(student)
    call = "1 call" if student.calls == 1 else f"{student.calls} calls"
    title = f"student, {call}"
    samples = folder.file("samples.png")
    problem.picture(problem.from_generator(student), samples, title)
    log = folder.metrics()
    known = _reference(task)
    drawn = curves(log, folder.file("curves.png"), problem.headline, known)
    pictures = [("Samples", samples), ("Training", drawn)]
    if any("histogram" in row for row in log):
        shown = convergence(log, folder.file("convergence.png"))
        pictures.insert(1, ("Share of each mode or class on the way, and at the end", shown))
    rows = [metric.row() for metric in metrics]
    others = [metric.row() for metric in reference]
    write_report(
        folder,
        title=f"{task.preset}: {task.chosen.heading}",
        metrics=rows,
        reference=others,
        reference_name=who,
        cost=cost,
        pictures=pictures,
        alarms=[alarm for row in log for alarm in row.get("alarms", ())],
    )
    folder.finish({"metrics": rows, "reference": {"name": who, "metrics": others}, "cost": cost})


def _reference(task: Task) -> Mapping[str, Mapping[str, Sequence[float]]] | None:
    r"""Returns the curves of a task's preset; none for another problem or method."""
    row = PRESETS.get(task.preset)
    if row is None or task.method != row.method or task.code is not None:
        return None
    own = {f.name: getattr(task.problem, f.name) for f in dataclasses.fields(task.problem)}
    theirs = {f.name: getattr(row.problem, f.name) for f in dataclasses.fields(row.problem)}
    # The same teacher may lie in another folder.
    same = own | {"teacher_run": None} == theirs | {"teacher_run": None}
    return references.of(task.preset) if same else None
