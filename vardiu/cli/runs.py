r"""`vardiu teach` and `vardiu distill`."""

from __future__ import annotations

from ..runs import distill as distilling
from ..runs import teach as teaching
from ..runs.listeners import console_listeners
from .console import console, print_settings
from .options import parse_request


def teach(arguments: list[str]) -> None:
    r"""Trains a teacher."""
    request = parse_request("teach", arguments)
    if request.dry_run:
        print_settings(request.task)
        return
    typed = ["vardiu", "teach", *arguments]
    teaching.teach(request.task, request.out, console_listeners(console), typed)


def distill(arguments: list[str]) -> None:
    r"""Distils a teacher; trains the one of a preset on board first if it is not there."""
    request = parse_request("distill", arguments)
    if request.dry_run:
        print_settings(request.task)
        return
    listeners = console_listeners(console)
    teaching.ensure_teacher(request.task, listeners)
    typed = ["vardiu", "distill", *arguments]
    distilling.distill(request.task, request.out, listeners, typed)


COMMANDS = {"teach": teach, "distill": distill}
