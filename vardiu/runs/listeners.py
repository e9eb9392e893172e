r"""Who listens to a run by default: the console, the log, the alarms and the report."""

from __future__ import annotations

import functools
from typing import Any

from rich.console import Console

from ..monitoring.alarms import alarms
from ..problems.base import Problem
from ..problems.sampled_teachers import SOLVER_CALLS
from ..reports.curves import convergence, curves
from ..reports.html import write_report
from ..storage.run_folder import RunFolder
from . import events
from .console import ConsoleLines
from .measuring import announced_calls, cures_of, reference_curves
from .progress import ProgressBar
from .task import Task

__all__ = [
    "Alarms",
    "Log",
    "ReportPage",
    "console_listeners",
]


class Log:
    r"""Writes each report into `metrics.jsonl`, with what was measured and the alarms it raised.

    Arguments:
        folder: The run's folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.row: dict[str, Any] = {}

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.StageStarted():
                # Steps after the checkpoint are taken, and logged, again.
                self.folder.truncate_metrics(event.stage, event.step)
            case events.Reported():
                self.row = event.row()
            case events.AlarmRaised():
                self.row.setdefault("alarms", []).append(event.alarm._asdict())
            case events.StepTaken() if self.row:
                self.folder.log(self.row)
                self.row = {}


class Alarms:
    r"""Judges each report together with the log of its stage, and raises alarms.

    Arguments:
        task: The run's task.
        folder: The run's folder, with the log.
        problem: The problem, whose headline metric is judged.
        broadcast: Tells the alarms.
    """

    def __init__(
        self, task: Task, folder: RunFolder, problem: Problem, broadcast: events.Listener
    ) -> None:
        self.folder, self.problem, self.broadcast = folder, problem, broadcast
        self.cures = cures_of(task.chosen)
        self.metric, self.scores = problem.scores.judged.metric, problem.scores
        self.latent: int | None = None

    @functools.cached_property
    def best(self) -> float | None:
        r"""The headline metric of the best a student can be, measured when it is first asked."""
        teacher, rows = self.problem.teacher, SOLVER_CALLS * self.scores.quick
        with announced_calls(self.broadcast, "measuring the teacher", teacher, rows):
            return self.scores.best_value()

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.StageStarted():
                self.latent = event.latent
            case events.Reported():
                self.judge(event)

    def judge(self, report: events.Reported) -> None:
        r"""Raises the alarms to which a report is the first to give reason."""
        rows = [row for row in self.folder.metrics() if row["stage"] == report.stage]
        old = {alarm["name"] for row in rows for alarm in row.get("alarms", ())}
        rows.append(report.row())
        found = alarms(rows, report.steps, self.latent, self.metric, lambda: self.best, self.cures)
        for alarm in found:
            if alarm.name not in old:
                self.broadcast(events.AlarmRaised(report.stage, alarm))


class ReportPage:
    r"""Draws what was shipped and the log, and writes `report.html`.

    Arguments:
        task: The run's task.
        folder: The run's folder.
        problem: The problem, which draws samples.
        title: The heading.
        has_alarms: Whether alarms were looked for.
    """

    def __init__(
        self, task: Task, folder: RunFolder, problem: Problem, title: str, has_alarms: bool
    ) -> None:
        self.task, self.folder, self.problem = task, folder, problem
        self.title, self.has_alarms = title, has_alarms

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.Shipped():
                self.write(event)

    def write(self, shipped: events.Shipped) -> None:
        r"""Writes the pictures and the page."""
        folder, rows = self.folder, self.folder.metrics()
        samples = folder.file("samples.png")
        self.problem.scores.plot_beside_data(shipped.source, samples, shipped.title)
        known = reference_curves(self.task)
        drawn = curves(rows, folder.file("curves.png"), self.problem.scores.headline, known)
        pictures = [("Samples", samples), ("Training", drawn)]
        if any("histogram" in row for row in rows):
            shown = convergence(rows, folder.file("convergence.png"))
            pictures.insert(1, ("Share of each mode or class on the way, and at the end", shown))
        raised = [alarm for row in rows for alarm in row.get("alarms", ())]
        write_report(
            folder,
            title=self.title,
            metrics=shipped.results.metric_rows(),
            reference=shipped.results.reference_rows(),
            reference_name=shipped.results.reference_name,
            cost=shipped.results.cost,
            pictures=pictures,
            alarms=raised if self.has_alarms else None,
        )


# ---------------------------------------------------------------- the console


def console_listeners(console: Console) -> list[events.Listener]:
    r"""Returns the listeners that print on a console."""
    return [ConsoleLines(console), ProgressBar(console)]
