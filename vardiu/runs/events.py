r"""What a run tells while it is carried out: events, and who listens to them.

A listener is a function of one event. Every listener hears every event, in the same order; an
error in a listener ends the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..metrics import Metric
from ..metrics.sets import trained_warning
from ..monitoring.alarms import Alarm
from ..monitoring.verdicts import Verdict
from ..problems.base import Source
from ..students.base import Generator
from ..teachers.probe import Probe

__all__ = [
    "AlarmRaised",
    "ArtefactProgress",
    "Broadcaster",
    "DataRead",
    "Event",
    "FinalMeasurementStarted",
    "Listener",
    "Measured",
    "Reported",
    "Results",
    "RunAlreadyFinished",
    "RunFailed",
    "RunFinished",
    "RunInterrupted",
    "RunStarted",
    "Saved",
    "Shipped",
    "StageFinished",
    "StageStarted",
    "StepTaken",
    "StopAsked",
    "StudentMeasurementStarted",
    "TeacherNeeded",
    "TeacherProbed",
    "WorkProgress",
]


@dataclass(frozen=True)
class Event:
    r"""Something that happened in a run."""


Listener = Callable[[Event], None]


class Broadcaster:
    r"""Tells each event to every listener.

    What a listener broadcasts while it hears an event is told after that event, to all of them.

    Arguments:
        listeners: They hear an event in this order.
    """

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self.listeners = list(listeners)
        self._waiting: deque[Event] = deque()
        self._busy = False

    def __call__(self, event: Event) -> None:
        self._waiting.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                event = self._waiting.popleft()
                for listener in self.listeners:
                    listener(event)
        finally:
            self._busy = False
            self._waiting.clear()


# ---------------------------------------------------------------- a run


@dataclass(frozen=True)
class Results:
    r"""What a finished run has measured.

    Arguments:
        metrics: Those of what was trained.
        reference: Those of what it is compared with.
        reference_name: What that is, for instance "true samples".
        cost: Seconds, teacher calls and rows, student updates and steps.
        verdict: What the student is worth; `None` for a teacher.
        alarms: What was raised on the way, as in the log.
        trained_on: The metric that the student was trained on, and its features; empty for none.
    """

    metrics: Sequence[Metric]
    reference: Sequence[Metric]
    reference_name: str
    cost: Mapping[str, Any]
    verdict: Verdict | None = None
    alarms: Sequence[Mapping[str, Any]] = ()
    trained_on: str = ""

    @property
    def warning(self) -> str:
        r"""What a reader of the numbers must know; empty for nothing."""
        return trained_warning(self.trained_on)

    def metric_rows(self) -> list[dict[str, Any]]:
        return [metric.row() for metric in self.metrics]

    def reference_rows(self) -> list[dict[str, Any]]:
        return [metric.row() for metric in self.reference]


@dataclass(frozen=True)
class DataRead(Event):
    r"""The user's data have been found.

    Arguments:
        lines: What is read of them, with the classes and their rule.
    """

    lines: tuple[str, ...]


@dataclass(frozen=True)
class RunStarted(Event):
    r"""A run starts, or goes on after a stop.

    Arguments:
        command: `distill` or `teach`.
        preset: The name of the row that it started from.
        method: The name of the method.
        folder: Its folder.
        metric: The headline metric.
        lower_is_better: Its direction.
        problem: The name of what is distilled.
        seed: The seed.
        lost: What of a finished run was lost or damaged since, and is made again from the
            checkpoint.
    """

    command: str
    preset: str
    method: str
    folder: Path
    metric: str = ""
    lower_is_better: bool = True
    problem: str = ""
    seed: int = 0
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunAlreadyFinished(Event):
    r"""The folder holds this run, finished: nothing is done."""

    folder: Path


@dataclass(frozen=True)
class FinalMeasurementStarted(Event):
    r"""The training is over; `subject` is measured with the full number of samples."""

    subject: str


@dataclass(frozen=True)
class Shipped(Event):
    r"""What was trained is measured and on the disk.

    Arguments:
        source: Draws its samples.
        title: What it is, and how many calls a sample takes.
        results: What was measured.
        student: The student itself; `None` where a teacher was trained.
    """

    source: Source
    title: str
    results: Results
    student: Generator | None = None


@dataclass(frozen=True)
class RunFinished(Event):
    r"""The run is finished, and its folder says so."""

    folder: Path
    results: Results


@dataclass(frozen=True)
class StopAsked(Event):
    r"""SIGINT or SIGTERM came; the run stops as soon as what is at hand is done and saved.

    Arguments:
        work: What is at hand: a step, a portion.
    """

    work: str


@dataclass(frozen=True)
class RunInterrupted(Event):
    r"""The run was asked to stop, and has been saved."""

    reason: str


@dataclass(frozen=True)
class RunFailed(Event):
    r"""An error ends the run; it is raised after this event."""

    error: BaseException


# ---------------------------------------------------------------- a stage of it


@dataclass(frozen=True)
class StageStarted(Event):
    r"""A stage starts at its first step, or goes on from a checkpoint.

    Arguments:
        stage: Its name.
        step: The number of steps that it has taken before.
        steps: The number of steps that it takes in all.
        report_every: The number of steps between reports.
        latent: The dimensions of the input of a call of the student; `None` where no student is
            trained.
        skipped: Why newer checkpoints could not be used.
        index: Which stage of the recipe it is, from one.
        of: The number of stages of the recipe; 0 where that is not known.
        cycle: The number of steps to an update of the student: what was asked for with `--steps`
            are updates.
        device: Where it is trained.
    """

    stage: str
    step: int
    steps: int
    report_every: int
    latent: int | None
    skipped: tuple[str, ...] = ()
    index: int = 1
    of: int = 0
    cycle: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class StepTaken(Event):
    r"""A step has been taken, and what it gave rise to has been told."""

    stage: str
    step: int
    steps: int


@dataclass(frozen=True)
class StudentMeasurementStarted(Event):
    r"""The averaged student is about to be measured on the way."""

    stage: str
    step: int


@dataclass(frozen=True)
class Measured(Event):
    r"""The averaged student was measured on the way.

    Arguments:
        stage: The stage.
        step: The number of steps taken.
        values: Metrics (`metric/...`) with their errors, and what the instruments show.
    """

    stage: str
    step: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Reported(Event):
    r"""Losses and diagnostics; where the student was measured at this step, those values too.

    Arguments:
        stage: The stage.
        step: The number of steps taken.
        steps: The number of steps that the stage takes.
        updates: The number of updates of the student.
        seconds: The time spent in steps.
        calls: The number of evaluations of the teacher.
        values: The values by name.
    """

    stage: str
    step: int
    steps: int
    updates: int
    seconds: float
    calls: int
    values: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        r"""Returns the report as a row of the log."""
        names = ("stage", "step", "updates", "seconds", "calls")
        return {name: getattr(self, name) for name in names} | dict(self.values)


@dataclass(frozen=True)
class AlarmRaised(Event):
    r"""A report gives reason for an alarm that this stage has not raised before."""

    stage: str
    alarm: Alarm


@dataclass(frozen=True)
class Saved(Event):
    r"""A checkpoint has been written and verified."""

    stage: str
    step: int
    folder: Path


@dataclass(frozen=True)
class StageFinished(Event):
    r"""A stage has taken all of its steps."""

    stage: str
    steps: int


@dataclass(frozen=True)
class ArtefactProgress(Event):
    r"""Something that the run makes once, before or between its stages, has come so far.

    Arguments:
        name: What it is: pairs, a frame.
        done: The number of portions that there are.
        total: The number that there will be.
    """

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class WorkProgress(Event):
    r"""Work beside the training has come so far: sampling, measuring, probing.

    Arguments:
        name: What it is.
        done: The rows that a network has evaluated.
        total: The rows that it will have; `None` where that is not known.
        finished: Whether the work is over.
    """

    name: str
    done: int
    total: int | None = None
    finished: bool = False


# ---------------------------------------------------------------- a teacher


@dataclass(frozen=True)
class TeacherNeeded(Event):
    r"""There is no teacher on board of this name: it is trained first."""

    name: str
    folder: Path


@dataclass(frozen=True)
class TeacherProbed(Event):
    r"""The denoising error of a trained teacher, a row for each level."""

    rows: Sequence[Probe]
