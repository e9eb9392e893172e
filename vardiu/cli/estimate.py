r"""`vardiu estimate`."""

from __future__ import annotations

import json

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..runs.errors import errors
from .console import console
from .options import parse_request
from .parser import Parser


def estimate(arguments: list[str]) -> None:
    r"""Says what a run will need, before it starts."""
    from ..resources import estimate as estimates
    from ..resources.tables import print_estimate

    head = Parser(prog="estimate", add_help=False)
    head.add_argument("--json", action="store_true")
    head.add_argument("--teach", action="store_true")
    known, rest = head.parse_known_args(arguments)
    request = parse_request("teach" if known.teach else "distill", rest, "estimate")
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=errors, transient=True) as bar:
        bar.add_task("taking a few steps of each stage, and measuring once")
        found = estimates.estimate(request.task)
    if known.json:
        print(json.dumps(found, indent=2))
    else:
        print_estimate(found, console)


COMMANDS = {"estimate": estimate}
