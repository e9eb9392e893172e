r"""`vardiu teach` and `vardiu distill`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..runs.task import Task, refuse_unasked_teacher
from ..storage import processes
from ..storage.files import append_line
from ..storage.run_folder import RunFolder
from .console import console, print_settings
from .options import Request, parse_request

if TYPE_CHECKING:
    from ..runs.events import Listener


def record_changed_code(folder: RunFolder, task: Task) -> None:
    r"""Adds to `code-changes.jsonl` that a run goes on with a changed file, if it does."""
    codes = [*([] if task.code is None else [task.code]), *task.own.values()]
    for code in codes:
        if code.executed != code.sha256:
            row = {"source": code.source, "sha256": code.executed}
            append_line(folder.file("code-changes.jsonl"), json.dumps(row))


def listeners_of(request: Request) -> list[Listener]:
    r"""Returns who hears of a run on this command line: of several processes the writer's
    console and trackers."""
    from ..runs.listeners import console_listeners
    from ..runs.tracking import trackers_of

    trackers = trackers_of(request.track)
    return [*console_listeners(console), *trackers] if processes.is_writer() else []


def teach(arguments: list[str]) -> None:
    r"""Trains a teacher."""
    request = parse_request("teach", arguments)
    if request.dry_run:
        print_settings(request.task)
        return
    # A dry run does not pay for what draws and prints a run.
    from ..runs import teach as teaching

    typed = ["vardiu", "teach", *arguments]
    teaching.teach(request.task, request.out, listeners_of(request), typed)


def distill(arguments: list[str]) -> None:
    r"""Distils a teacher; trains the one of a preset on board first if it is not there."""
    request = parse_request("distill", arguments)
    refuse_unasked_teacher(request.task)
    if request.dry_run:
        print_settings(request.task)
        return
    from ..runs import distill as distilling
    from ..runs import teach as teaching

    listeners = listeners_of(request)
    teaching.ensure_teacher(request.task, listeners)
    if processes.is_writer():
        record_changed_code(RunFolder(request.out), request.task)
    typed = ["vardiu", "distill", *arguments]
    distilling.distill(request.task, request.out, listeners, typed)


COMMANDS = {"teach": teach, "distill": distill}
