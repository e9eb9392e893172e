r"""Who listens to a run by default: the console, the log, the alarms and the report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ..monitoring.alarms import alarms
from ..monitoring.cures import cure_options
from ..problems.base import Problem
from ..problems.sampled_teachers import SOLVER_CALLS, TEACHER
from ..reports.colours import css_name
from ..reports.curves import convergence, curves
from ..reports.html import FirstScreen, write_report
from ..reports.overview import Measurements, overview
from ..reports.panels import sample_panels
from ..settings.idle import cure_of_idle
from ..storage.run_folder import RunFolder
from ..students.base import Generator
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
    "told_progress",
]


# Of the first screen of a report.
SHOWN_IMAGES, SHOWN_POINTS = 24, 1_000


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
        broadcast: Is told how far the teacher's samples are.
    """

    def __init__(
        self,
        task: Task,
        folder: RunFolder,
        problem: Problem,
        title: str,
        has_alarms: bool,
        broadcast: events.Listener,
    ) -> None:
        self.task, self.folder, self.problem = task, folder, problem
        self.broadcast = broadcast
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
        pictures = [("Samples beside data", samples), ("All curves", drawn)]
        if any("histogram" in row for row in rows):
            shown = convergence(rows, folder.file("convergence.png"))
            pictures.insert(1, ("Modes or classes", shown))
        write_report(
            folder,
            title=self.title,
            metrics=shipped.results.metric_rows(),
            reference=shipped.results.reference_rows(),
            reference_name=shipped.results.reference_name,
            cost=shipped.results.cost,
            pictures=pictures,
            alarms=self.alarms(rows) if self.has_alarms else None,
            first=self.first_screen(shipped, rows),
        )

    def alarms(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        r"""Returns the alarms of a log, each with the options that may cure it."""
        method, settings = self.task.method, self.task.settings

        def is_idle(option: str) -> bool:
            return cure_of_idle(method, settings, option) is not None

        raised = [alarm for row in rows for alarm in row.get("alarms", ())]
        had = dataclasses.asdict(settings)
        return [{**a, "options": cure_options(a["cure"], had, is_idle)} for a in raised]

    def first_screen(
        self, shipped: events.Shipped, rows: Sequence[Mapping[str, Any]]
    ) -> FirstScreen:
        r"""Returns verdict, samples and curves."""
        results, method = shipped.results, self.task.chosen
        if shipped.student is None or results.verdict is None:
            x = shipped.source(SHOWN_IMAGES, torch.Generator().manual_seed(0))[0]
            data = self.problem.data.reference(SHOWN_IMAGES)[0]
            return FirstScreen(panels=self.panels(("data", data), (shipped.title, x)))
        judged = self.problem.scores.judged
        measured = Measurements(
            rows, results.metric_rows(), results.reference_rows(), results.reference_name
        )
        beside, other, same = self.beside(shipped, shipped.student)
        return FirstScreen(
            verdict=(results.verdict.name, results.verdict.sentence),
            panels=self.panels(beside, (shipped.title, other)),
            charts=overview(
                measured, judged.metric, judged.coverage, method.instruments, method.name
            ),
            methods=[method.name],
            note=" ".join([same, results.warning]).strip(),
        )

    def beside(
        self, shipped: events.Shipped, student: Generator
    ) -> tuple[tuple[str, Tensor], Tensor, str]:
        r"""Returns titled samples that a student's are shown beside, those, and how the two go
        together: of the teacher, or of data where there is none."""
        problem = self.problem
        n = SHOWN_IMAGES if len(problem.space.shape) == 3 else SHOWN_POINTS
        if problem.teacher is None:
            x = shipped.source(n, torch.Generator().manual_seed(0))[0]
            return ("data", problem.data.reference(n)[0]), x, ""
        with announced_calls(
            self.broadcast, "drawing the teacher", problem.teacher, SOLVER_CALLS * n
        ):
            shown = problem.beside(student, n, 0)
        same = "Both of the same latents." if shown.same_latents else "Each of its own latents."
        same = same if shown.who == TEACHER else "Both of the same images."
        return (shown.who, shown.teacher), shown.student, same

    def panels(self, *samples: tuple[str, Tensor]) -> list[str]:
        r"""Returns a figure for each titled set of samples, the student's in its colour."""
        colours = ("soft", css_name(self.task.chosen.name))
        images = self.problem.space.images
        return sample_panels(
            [
                (title, colour, images(x).float().numpy())
                for (title, x), colour in zip(samples, colours, strict=True)
            ]
        )


# ---------------------------------------------------------------- the console


@contextlib.contextmanager
def told_progress(console: Console) -> Iterator[events.Listener]:
    r"""Gives what shows on a console how far work is that belongs to no run: a bar on a terminal,
    a line now and then elsewhere."""
    bar = ProgressBar(console)
    try:
        yield events.Broadcaster([ConsoleLines(console), bar])
    finally:
        bar.stop()


def console_listeners(console: Console) -> list[events.Listener]:
    r"""Returns the listeners that print on a console."""
    return [ConsoleLines(console), ProgressBar(console)]
