r"""What a run's folder keeps of its events: `events.jsonl`, one record a line.

The records are a stable schema, `events.schema.json` beside this file and
`docs/usage/events.md`: fields may be added, and none changes its meaning or goes while `FORMAT`
is the same. Numbers that were measured are not repeated here; they are in `metrics.jsonl`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .. import __version__
from ..errors import shown
from ..storage.run_folder import RunFolder
from . import events

__all__ = ["FORMAT", "EventLog", "record_of"]


# Of the records: another number is another meaning of a field.
FORMAT = 1


class EventLog:
    r"""Appends the events of a run to `events.jsonl`.

    Arguments:
        folder: The run's folder.
        clock: The time in seconds since 1970, UTC.
    """

    def __init__(self, folder: RunFolder, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.clock = folder, clock

    def __call__(self, event: events.Event) -> None:
        record = record_of(event)
        if record is not None:
            name, fields = record
            row = {"event": name, "time": round(self.clock(), 3), **fields}
            self.folder.log(row, "events.jsonl")


def record_of(event: events.Event) -> tuple[str, dict[str, Any]] | None:
    r"""Returns the name of an event and its fields as JSON has them; `None` for one that is not
    kept: steps and rows of networks come thousands of times, and a finished run does nothing."""
    match event:
        case events.RunStarted():
            about = {"format": FORMAT, "version": __version__, "command": event.command}
            about |= {"preset": event.preset, "method": event.method, "metric": event.metric}
            lower = {"lower_is_better": event.lower_is_better}
            return "run_started", about | lower | {"problem": event.problem, "seed": event.seed}
        case events.DataRead():
            return "data_read", {"lines": list(event.lines)}
        case events.FinalMeasurementStarted():
            return "final_measurement_started", {"subject": event.subject}
        case events.Shipped():
            return "shipped", {"title": event.title}
        case events.RunFinished():
            verdict = event.results.verdict
            return "run_finished", {"verdict": None if verdict is None else verdict._asdict()}
        case events.StopAsked():
            return "stop_asked", {"work": event.work}
        case events.RunInterrupted():
            return "run_interrupted", {"reason": event.reason}
        case events.RunFailed():
            kind = type(event.error).__name__
            return "run_failed", {"kind": kind, "reason": shown(str(event.error))}
        case events.TeacherProbed():
            levels = [{"sigma": row.sigma, "status": row.status} for row in event.rows]
            return "teacher_probed", {"levels": levels}
    return stage_record(event)


def stage_record(event: events.Event) -> tuple[str, dict[str, Any]] | None:
    r"""Returns the record of an event of a stage, see `record_of`."""
    match event:
        case events.StageStarted():
            place = {"stage": event.stage, "index": event.index, "of": event.of}
            steps = {"step": event.step, "steps": event.steps, "cycle": event.cycle}
            more = {"device": event.device, "skipped": list(event.skipped)}
            return "stage_started", place | steps | more
        case events.Reported():
            names = ("stage", "step", "steps", "updates", "seconds", "calls")
            return "reported", {name: getattr(event, name) for name in names}
        case events.AlarmRaised():
            return "alarm_raised", {"stage": event.stage, **event.alarm._asdict()}
        case events.Saved():
            return "saved", {"stage": event.stage, "step": event.step}
        case events.StageFinished():
            return "stage_finished", {"stage": event.stage, "steps": event.steps}
        case events.ArtefactProgress():
            made = {"name": event.name, "done": event.done, "total": event.total}
            return "artefact_progress", made
    return None
