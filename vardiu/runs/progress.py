r"""How far work has come: its pace, what is left, and a bar of that on a terminal."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ..metrics.metric import title_of
from . import events
from .allocator import peak

__all__ = ["Headline", "Pace", "ProgressBar", "Told", "counted", "duration", "stage_name"]


def duration(seconds: float) -> str:
    r"""Returns a time as people say it: `42 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = round(seconds)
    for unit, below, name, other in ((86400, 3600, "d", "h"), (3600, 60, "h", "min")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // below} {other}"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class Pace:
    r"""The pace of counted work since it was begun, or gone on with, in this process.

    The pauses of measuring count: what is left includes those that are to come.

    Arguments:
        done: What was done before.
        total: What is to be done in all; `None` where that is not known.
        clock: The time in seconds.
    """

    def __init__(
        self, done: int, total: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.first, self.total, self.clock = done, total, clock
        self.started = clock()

    @property
    def elapsed(self) -> float:
        r"""Seconds since the beginning in this process."""
        return self.clock() - self.started

    def rate(self, done: int) -> float | None:
        r"""Returns the work done a second; `None` before there is any."""
        took, made = self.elapsed, done - self.first
        return made / took if made > 0 and took > 0 else None

    def left(self, done: int) -> float | None:
        r"""Returns the seconds that are left at this pace; `None` where they are not known."""
        rate = self.rate(done)
        return None if rate is None or self.total is None else (self.total - done) / rate

    def words(self, done: int, unit: str) -> str:
        r"""Returns rate and time left, as far as they are known."""
        rate, left = self.rate(done), self.left(done)
        parts = [] if rate is None else [_rate(rate, unit)]
        if left is not None and self.total is not None and done < self.total:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)


def _rate(rate: float, unit: str) -> str:
    if rate >= 1:
        return f"{rate:,.0f} {unit}s/s" if rate >= 10 else f"{rate:.1f} {unit}s/s"
    one = f"an {unit}" if unit[0] in "aeiou" else f"a {unit}"
    return f"{duration(1 / rate)} {one}" if rate < 0.1 else f"{1 / rate:.1f} s {one}"


class Headline:
    r"""Hears the headline metric and the memory of a run, to be shown beside how far it is."""

    def __init__(self) -> None:
        self.metric, self.value, self.device = "", "", torch.device("cpu")

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.RunStarted():
                self.metric, self.value = event.metric, ""
            case events.StageStarted():
                self.device = torch.device(event.device)
            case events.Measured():
                self.hear(event.values)

    def hear(self, values: Mapping[str, Any]) -> None:
        number = values.get(f"metric/{self.metric}")
        if number is not None and math.isfinite(number):
            self.value = f"{title_of(self.metric)} {number:.3g}"

    def words(self) -> str:
        r"""Returns the metric, if it was measured, and the most memory held so far."""
        memory = f"{peak(self.device) / 2**30:.1f} GB"
        return f"{self.value}, {memory}" if self.value else memory


class Told(Protocol):
    r"""What counted work is told by: how much is done, and what the latest of it was."""

    def __call__(self, done: int, words: str = "") -> None: ...


@contextlib.contextmanager
def counted(
    console: Console,
    name: str,
    total: int,
    unit: str,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Told]:
    r"""Shows how far counted work is: a bar on a terminal, and lines of what was done everywhere.

    Arguments:
        console: Where to show it.
        name: What the work is.
        total: How much there is to do.
        unit: What is counted, for instance `run`.
        clock: The time in seconds.
    """
    pace = Pace(0, total, clock)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24))
    shown = (TextColumn("{task.fields[place]}"), TextColumn("{task.fields[words]}", style="dim"))
    bar = Progress(*columns, *shown, console=console, disable=not console.is_terminal)
    task = bar.add_task(name, total=total, place=f"0/{total:,}", words="")
    if not console.is_terminal and total:
        console.print(f"{name}: {total:,} {unit}s", highlight=False, soft_wrap=True)

    def tell(done: int, words: str = "") -> None:
        left = pace.words(done, unit)
        bar.update(task, completed=done, place=f"{done:,}/{total:,}", words=left)
        if words:
            more = f" ({left})" if left and done < total else ""
            line = f"{done} of {total}: {words}{more}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    with bar:
        yield tell


def stage_name(event: events.StageStarted) -> str:
    r"""Returns which stage of how many it is, and its name."""
    if event.of == 1 and event.index == 1:
        return event.stage
    place = f"{event.index} of {event.of}" if event.of >= event.index else f"{event.index}"
    return f"stage {place}: {event.stage}"


class ProgressBar:
    r"""Shows on a terminal how far a stage, an artefact or a measurement has come.

    Arguments:
        console: The terminal; elsewhere nothing is shown.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.headline = Headline()
        self.progress: Progress | None = None
        self.stage: tuple[TaskID, Pace] | None = None
        self.cycle = 1
        self.work: dict[str, tuple[TaskID, Pace]] = {}

    def __call__(self, event: events.Event) -> None:
        if not self.console.is_terminal:
            return
        self.headline(event)
        match event:
            case events.StageStarted():
                self.start_stage(event)
            case events.StepTaken():
                self.show_step(event)
            case events.StudentMeasurementStarted():
                self.say("measuring the student ...")
            case events.StopAsked():
                self.say("stopping ...")
            case events.ArtefactProgress():
                self.show_work(f"making {event.name}", event.done, event.total, "portion")
            case events.WorkProgress():
                self.show_work(event.name, event.done, event.total, "row", event.finished)
            case events.StageFinished() | events.RunInterrupted() | events.RunFailed():
                self.stop()

    def live(self) -> Progress:
        r"""Returns the bars on the terminal, which are put there if they are not."""
        if self.progress is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TextColumn("{task.fields[place]}"),
                TextColumn("{task.fields[words]}", style="dim"),
            )
            self.progress = Progress(*columns, console=self.console)
            self.progress.start()
        return self.progress

    def start_stage(self, event: events.StageStarted) -> None:
        r"""Puts up the bar of a stage; those of what was made before it stay as they are."""
        self.cycle = event.cycle
        done, total = event.step // self.cycle, event.steps // self.cycle
        fields: dict[str, Any] = {"place": f"{done:,}/{total:,}", "words": ""}
        bar = self.live().add_task(stage_name(event), total=total, completed=done, **fields)
        self.stage = bar, Pace(done, total)

    def show_step(self, event: events.StepTaken) -> None:
        r"""Moves the bar of the stage, by updates of the student."""
        if self.stage is None or event.step % self.cycle:
            return
        bar, pace = self.stage
        done = event.step // self.cycle
        words = f"{pace.words(done, 'update')}, {self.headline.words()}"
        place = f"{done:,}/{event.steps // self.cycle:,}"
        self.live().update(bar, completed=done, place=place, words=words)

    def say(self, words: str) -> None:
        r"""Says beside the stage's bar what is going on."""
        if self.stage is not None:
            self.live().update(self.stage[0], words=words)

    def show_work(
        self, name: str, done: int, total: int | None, unit: str, finished: bool = False
    ) -> None:
        r"""Moves the bar of work beside the training, which goes when it is finished."""
        if name not in self.work:
            bar = self.live().add_task(name, total=total, place="", words="")
            self.work[name] = bar, Pace(done, total)
        bar, pace = self.work[name]
        place = f"{done:,}" if total is None else f"{done:,}/{total:,}"
        ready = total is not None and done >= total and unit == "row"
        words = "sampled, computing ..." if ready else pace.words(done, unit)
        self.live().update(bar, completed=done, place=place, words=words)
        if finished:
            self.live().remove_task(bar)
            del self.work[name]
            if self.stage is None and not self.work:
                self.stop()
        elif unit == "portion" and done == total:
            del self.work[name]  # its bar stays, full

    def stop(self) -> None:
        r"""Ends the bars; what they showed last stays on the terminal."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
        self.stage, self.work = None, {}
