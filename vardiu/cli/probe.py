r"""`vardiu probe`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..errors import NotADenoiser
from ..runs.console import probe_table
from ..runs.errors import errors
from ..runs.events import Broadcaster
from ..runs.execute import device_of
from ..runs.listeners import console_listeners
from ..runs.measuring import announced_calls
from ..runs.task import problem_of
from ..teachers.probe import LEVELS, PROBED, Probe, checked, innermost, verdict
from .console import console
from .options import parse_request
from .parser import Parser

__all__: list[str] = []


def probe(arguments: list[str]) -> None:
    r"""Measures the denoising error of a preset's teacher, level by level."""
    head = Parser(prog="probe", add_help=False)
    head.add_argument("--json", action="store_true")
    known, rest = head.parse_known_args(arguments)
    told = errors if known.json else console  # beside the numbers
    task = parse_request("distill", rest, "probe").task
    device = device_of(task.run.device, task.run.economy.tf32)
    problem = problem_of(task)
    problem.compute_on(device)
    for line in problem.data.account():
        told.print(f"data: {line}", highlight=False, markup=False, soft_wrap=True)
    teacher = problem.data.unguided.to(device)
    broadcast = Broadcaster(console_listeners(told))
    own = problem.data.resample is not None
    doing = "drawing its own samples, as there is no --data" if own else "probing the teacher"
    try:
        with announced_calls(broadcast, doing, innermost(teacher)):
            data = problem.data.reference(PROBED)
        total = LEVELS * len(data[0])
        with announced_calls(broadcast, "probing the teacher", innermost(teacher), total):
            rows = checked(teacher, *data, problem.data.resample)
    except NotADenoiser as error:
        if error.rows:
            print_rows(error.rows, str(error), as_json=known.json)
        raise
    print_rows(rows, verdict(rows), as_json=known.json)


def print_rows(rows: Sequence[Probe], sentence: str, *, as_json: bool) -> None:
    r"""Prints what was found at each level; a refusal's sentence is told where commands end."""
    if as_json:
        found = {"levels": [row._asdict() for row in rows], "verdict": sentence}
        print(json.dumps(found, indent=2))
        return
    console.print(probe_table(rows))
    if all(row.status != "fails" for row in rows):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


COMMANDS = {"probe": probe}
