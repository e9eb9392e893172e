r"""Who listens to a run by default: the console, the log, the alarms and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..metrics import Metric
from ..monitoring.alarms import alarms
from ..problems.base import Problem
from ..reports.curves import convergence, curves
from ..reports.html import write_report
from ..storage.run_folder import RunFolder
from ..teachers.probe import Probe
from . import events
from .measuring import cures_of, reference_curves
from .task import Task

__all__ = [
    "Alarms",
    "ConsoleLines",
    "Log",
    "ProgressBar",
    "ReportPage",
    "console_listeners",
    "print_metrics",
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
        problem: The problem, whose first headline metric is judged.
        broadcast: Tells the alarms.
    """

    def __init__(
        self, task: Task, folder: RunFolder, problem: Problem, broadcast: events.Listener
    ) -> None:
        self.folder, self.broadcast = folder, broadcast
        self.cures = cures_of(task.chosen)
        self.metric, self.floor = problem.scores.headline[0], problem.scores.best_value()
        self.latent: int | None = None

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
        found = alarms(rows, report.steps, self.latent, self.metric, self.floor, self.cures)
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


class ConsoleLines:
    r"""Prints what a user wants to know of a run."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.report_every = 1

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.RunAlreadyFinished():
                self.line(f"{event.folder} is finished; nothing to do.")
                self.print_paths(event.folder)
            case events.TeacherNeeded():
                self.line(f"there is no teacher in {event.folder} yet: vardiu teach {event.name}")
            case events.ArtefactProgress():
                self.print_portions(event)
            case events.StageStarted():
                self.print_start(event)
            case events.Reported():
                self.print_report(event)
            case events.AlarmRaised():
                alarm = event.alarm
                self.line(f"[yellow]{alarm.name}:[/] {alarm.message}. To try: {alarm.cure}")
            case events.TeacherProbed():
                self.console.print(probe_table(event.rows))
            case events.FinalMeasurementStarted():
                self.line(f"measuring {event.subject} ...")
            case events.RunFinished():
                self.print_end(event)

    def line(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def print_start(self, event: events.StageStarted) -> None:
        self.report_every = event.report_every
        for message in event.skipped:
            self.line(f"[yellow]skipped:[/] {message}")
        if 0 < event.step < event.steps:
            self.line(f"going on with {event.stage} from step {event.step:,} of {event.steps:,}")

    def print_portions(self, event: events.ArtefactProgress) -> None:
        if event.done % max(1, event.total // 4) == 0 or event.done == event.total:
            self.line(f"{event.name}: {event.done:,} of {event.total:,} portions are made")

    def print_report(self, event: events.Reported) -> None:
        # A terminal has the progress bar.
        if not self.console.is_terminal and event.step % (4 * self.report_every) == 0:
            place = f"step {event.step:,} of {event.steps:,}"
            self.line(f"{event.stage}: {place}, {event.seconds:.0f} s")

    def print_end(self, event: events.RunFinished) -> None:
        results = event.results
        cost = results.cost
        print_metrics(
            self.console, results.metrics, results.reference, results.reference_name or "-"
        )
        calls = f", {cost['teacher_calls']:,} teacher calls of {cost['teacher_rows']:,} rows"
        self.line(f"{cost['seconds']:.0f} s of training{calls if cost['teacher_calls'] else ''}")
        self.print_paths(event.folder)

    def print_paths(self, folder: Path) -> None:
        self.line(f"picture: {folder / 'samples.png'}")
        self.line(f"report:  {folder / 'report.html'}")


class ProgressBar:
    r"""Shows how far a stage has come, and its latest loss."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None
        self.bar = TaskID(0)

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.StageStarted():
                self.start(event)
            case events.Reported():
                self.show_loss(event.values)
            case events.StepTaken() if self.progress is not None:
                self.progress.update(self.bar, completed=event.step)
            case events.StageFinished() | events.RunInterrupted() | events.RunFailed():
                self.stop()

    def start(self, event: events.StageStarted) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        transient = not self.console.is_terminal
        self.progress = Progress(*columns, console=self.console, transient=transient)
        self.progress.start()
        self.bar = self.progress.add_task(
            event.stage, total=event.steps, completed=event.step, loss=""
        )

    def show_loss(self, values: Mapping[str, Any]) -> None:
        loss = next((value for name, value in values.items() if name.endswith("/loss")), None)
        if self.progress is not None and loss is not None:
            self.progress.update(self.bar, loss=f"loss {loss:.4g}")

    def stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def console_listeners(console: Console) -> list[events.Listener]:
    r"""Returns the listeners that print on a console."""
    return [ConsoleLines(console), ProgressBar(console)]


def print_metrics(
    console: Console, metrics: Sequence[Metric], reference: Sequence[Metric], reference_name: str
) -> None:
    r"""Prints metrics beside those of a reference."""
    table = Table(box=None, header_style="bold")
    for name in ("metric", "student", reference_name, "better", "n"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    known = {metric.name: metric for metric in reference}
    for metric in metrics:
        error = "" if metric.error is None else f" ± {metric.error:.2g}"
        other = known.get(metric.name)
        better = {True: "higher", False: "lower", None: ""}[metric.higher_is_better]
        table.add_row(
            metric.name,
            f"{metric.value:.4g}{error}",
            "" if other is None else f"{other.value:.4g}",
            better,
            f"{metric.n:,}",
        )
    console.print(table)


def probe_table(rows: Sequence[Probe]) -> Table:
    r"""Returns the table of a teacher's denoising error."""
    table = Table(box=None, header_style="bold")
    for name in ("sigma", "squared error", "a linear denoiser's", "allowed", ""):
        table.add_column(name, justify="right")
    for row in rows:
        error = f"{row.error:.4g} ± {row.deviation:.2g}"
        numbers = f"{row.sigma:.3g}", error, f"{row.linear:.4g}", f"{row.allowed:.4g}"
        table.add_row(*numbers, row.status)
    return table
