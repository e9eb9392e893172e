r"""What a run prints: lines that a terminal, a pipe and a log can hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import with_error
from ..metrics import Metric
from ..metrics.metric import title_of
from ..metrics.sets import judges, mean_ratio
from ..monitoring.verdicts import COLLAPSED, GOOD, IMPROVING, STUCK, Verdict
from ..reports.tables import show_table, value_with_error
from ..teachers.probe import Probe
from . import events
from .progress import Headline, Pace, duration, stage_name

__all__ = ["VERDICT_STYLES", "ConsoleLines", "print_metrics", "print_spaces", "probe_table"]


VERDICT_STYLES: Mapping[str, str] = {
    GOOD: "bold green",
    IMPROVING: "bold cyan",
    STUCK: "bold yellow",
    COLLAPSED: "bold red",
}


# Seconds between two lines of a pipe, where there is nothing new to say.
QUIET = 30.0


class ConsoleLines:
    r"""Prints what a user wants to know of a run. In a pipe, where there is no bar, it prints how
    far the run is: with each measurement, at the end of a stage, and at least twice a minute.

    Arguments:
        console: Where to print.
        clock: The time in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.headline = Headline()
        self.stage, self.cycle, self.pace = "", 1, Pace(0, None, clock)
        self.work: dict[str, Pace] = {}
        self.printed = clock()
        self.is_news = False
        self.who = "student"

    def __call__(self, event: events.Event) -> None:
        self.headline(event)
        match event:
            case events.RunStarted():
                self.who = "teacher" if event.command == "teach" else "student"
                for line in event.lost:
                    self.line(f"[yellow]made again from the checkpoint:[/] {escape(line)}")
            case events.RunAlreadyFinished():
                self.line(f"{event.folder} is finished; nothing to do.")
                self.print_paths(event.folder)
            case events.TeacherNeeded():
                self.line(f"there is no teacher in {event.folder} yet: vardiu teach {event.name}")
            case events.DataRead():
                for line in event.lines:
                    self.console.print(
                        f"data: {line}", highlight=False, markup=False, soft_wrap=True
                    )
            case events.ArtefactProgress():
                self.print_work(f"making {event.name}", event.done, event.total, "portion")
            case events.WorkProgress():
                self.print_work(event.name, event.done, event.total, "row", event.finished)
            case events.StageStarted():
                self.print_start(event)
            case events.Measured():
                self.is_news = True
            case events.StepTaken():
                self.print_step(event)
            case events.AlarmRaised():
                self.print_alarm(event.alarm._asdict())
            case events.StopAsked():
                self.line(f"stopping after this {event.work}, saving ...")
            case events.TeacherProbed():
                self.console.print(probe_table(event.rows))
            case events.FinalMeasurementStarted():
                self.line(f"measuring {event.subject} ...")
            case events.RunFinished():
                self.print_end(event)

    def line(self, text: str) -> None:
        r"""Prints a line, which may have marks of style."""
        self.printed = self.clock()
        self.console.print(text, highlight=False, soft_wrap=True)

    # ---------------------------------------------------------------- how far it is

    def print_start(self, event: events.StageStarted) -> None:
        r"""Prints which stage starts, and from where."""
        self.stage, self.cycle = stage_name(event), event.cycle
        self.pace = Pace(event.step // event.cycle, event.steps // event.cycle, self.clock)
        for message in event.skipped:
            self.line(f"[yellow]skipped:[/] {message}")
        if 0 < event.step < event.steps:
            self.line(f"going on with {event.stage} from step {event.step:,} of {event.steps:,}")

    def print_step(self, event: events.StepTaken) -> None:
        r"""Prints how far the stage is, if it is time to and no bar shows it."""
        last, late = event.step == event.steps, self.clock() - self.printed >= QUIET
        if self.console.is_terminal or not (self.is_news or last or late):
            return
        self.is_news = False
        done, total = event.step // self.cycle, event.steps // self.cycle
        where = f"{self.stage}: update {done:,} of {total:,}"
        parts = [where, duration(self.pace.elapsed), self.pace.words(done, "update")]
        self.line(", ".join([*(part for part in parts if part), self.headline.words()]))

    def print_work(
        self, name: str, done: int, total: int | None, unit: str, finished: bool = False
    ) -> None:
        r"""Prints how far work beside the training is, if it is time to and no bar shows it."""
        if self.console.is_terminal:
            return
        made_once = unit == "portion"  # what is short and comes often is told if it takes long
        is_news = made_once and (name not in self.work or done == total)
        pace = self.work.setdefault(name, Pace(done, total, self.clock))
        if finished or (made_once and done == total):
            del self.work[name]
        if not is_news and self.clock() - self.printed < QUIET:
            return
        place = f"{done:,} {unit}s" if total is None else f"{done:,} of {total:,} {unit}s"
        words = pace.words(done, unit)
        self.line(", ".join([f"{name}: {place}", *([words] if words else [])]))

    # ---------------------------------------------------------------- what came of it

    def print_alarm(self, alarm: Mapping[str, Any]) -> None:
        r"""Prints an alarm and what to try."""
        message, cure = escape(alarm["message"]), escape(alarm["cure"])
        self.line(f"[yellow]{alarm['name']}:[/] {message}. To try: {cure}")

    def print_end(self, event: events.RunFinished) -> None:
        r"""Prints metrics, cost, all alarms again, the verdict and where to look."""
        results = event.results
        cost = results.cost
        name = results.reference_name
        print_metrics(self.console, results.metrics, results.reference, name, self.who)
        calls = f", {cost['teacher_calls']:,} teacher calls of {cost['teacher_rows']:,} rows"
        self.line(f"{cost['seconds']:.0f} s of training{calls if cost['teacher_calls'] else ''}")
        for alarm in results.alarms:
            self.print_alarm(alarm)
        if results.warning:
            self.line(escape(results.warning))
        if results.verdict is not None:
            self.print_verdict(results.verdict)
        self.print_paths(event.folder)

    def print_verdict(self, verdict: Verdict) -> None:
        r"""Prints a verdict in its colour."""
        style = VERDICT_STYLES.get(verdict.name, "bold")
        self.line(f"[{style}]{verdict.name}[/]: {escape(verdict.sentence)}")

    def print_paths(self, folder: Path) -> None:
        r"""Prints where the picture and the report are."""
        self.line(f"picture: {folder / 'samples.png'}")
        self.line(f"report:  {folder / 'report.html'}")


def print_metrics(
    console: Console,
    metrics: Sequence[Metric],
    reference: Sequence[Metric],
    reference_name: str,
    who: str = "student",
) -> None:
    r"""Prints metrics beside those of a reference.

    Arguments:
        console: Where to print.
        metrics: What was measured.
        reference: What it is compared with; may be empty.
        reference_name: Who that is.
        who: Of whom the metrics are.
    """
    known = {metric.name: metric for metric in reference}
    rows = []
    for metric in metrics:
        other = known.get(metric.name)
        beside = "" if other is None else value_with_error(other.value, other.error)
        rows.append(
            {
                "metric": title_of(metric.name),
                who: value_with_error(metric.value, metric.error),
                **({reference_name: beside} if reference_name else {}),
                "better": {True: "higher", False: "lower", None: ""}[metric.higher_is_better],
                "n": f"{metric.n:,}",
            }
        )
    if rows:
        show_table(console, "", rows)


def print_spaces(console: Console, metrics: Sequence[Metric], who: str = "student") -> None:
    r"""Prints Fréchet distances in several spaces, each beside that of real images.

    Arguments:
        console: Where to print.
        metrics: Those of `Scores.measure_spaces`; nothing is printed where there are none.
        who: Whose samples they are of.
    """
    if not metrics:
        return
    table = Table(box=None, header_style="bold")
    table.add_column("Fréchet distance in")
    for name in (who, "real images", "ratio", "n"):
        table.add_column(name, justify="right")
    for features in dict.fromkeys(metric.features for metric in metrics):
        row = [metric for metric in metrics if metric.features == features]
        cells = [with_error(metric.value, metric.error or 0) for metric in row]
        table.add_row(features, *cells, f"{row[0].n:,}")
    console.print(table)
    if not any(judges(metric.features) for metric in metrics):
        return
    mean = f"geometric mean of the ratios: {mean_ratio(metrics):.3g}; real images have 1"
    console.print(mean, highlight=False, soft_wrap=True)


def probe_table(rows: Sequence[Probe]) -> Table:
    r"""Returns the table of a teacher's denoising error."""
    table = Table(box=None, header_style="bold")
    for name in ("sigma", "squared error", "a linear denoiser's", "allowed", ""):
        table.add_column(name, justify="right")
    for row in rows:
        error = with_error(row.error, row.deviation)
        numbers = f"{row.sigma:.3g}", error, f"{row.linear:.4g}", f"{row.allowed:.4g}"
        table.add_row(*numbers, row.status)
    return table
