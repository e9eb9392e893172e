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
    from ..reports.estimates import print_estimate
    from ..resources import estimate as estimates

    if any(word.partition("=")[0] == "--network" for word in arguments):
        estimate_on_paper(arguments)
        return
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


def estimate_on_paper(arguments: list[str]) -> None:
    r"""Says what adapters on a network ask for, by its configuration alone."""
    from ..reports.estimates import paper_table
    from ..resources.paper import on_paper

    parser = Parser(prog="estimate")
    parser.add_argument("--network", required=True, metavar="CONFIG.json")
    for name, value in (("rank", 16), ("batch", 1), ("tokens", None)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--size", type=int, nargs="+", default=(), metavar="N")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--checkpoint", action="store_true")
    parser.add_argument("--quantise", action="store_true")
    parser.add_argument("--json", action="store_true")
    chosen = vars(parser.parse_args(arguments))
    as_json, network = chosen.pop("json"), chosen.pop("network")
    found = on_paper(network, **chosen)
    if as_json:
        print(json.dumps({**found._asdict(), "total": found.total}, indent=2))
    else:
        console.print(paper_table({**found._asdict(), "total": found.total}))


COMMANDS = {"estimate": estimate}
