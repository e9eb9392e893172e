r"""`vardiu estimate`."""

from __future__ import annotations

import json

from .console import console
from .options import Parser, parse_request


def estimate(arguments: list[str]) -> None:
    r"""Says what a run will need, before it starts."""
    from ..resources import estimate as estimates
    from ..resources.tables import print_estimate

    head = Parser(prog="estimate", add_help=False)
    head.add_argument("--json", action="store_true")
    head.add_argument("--teach", action="store_true")
    known, rest = head.parse_known_args(arguments)
    request = parse_request("teach" if known.teach else "distill", rest, "estimate")
    found = estimates.estimate(request.task)
    if known.json:
        print(json.dumps(found, indent=2))
    else:
        print_estimate(found, console)


COMMANDS = {"estimate": estimate}
