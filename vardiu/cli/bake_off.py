r"""`vardiu bake-off`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..comparison.contests import CONTESTS, Contest, entered, load_contest
from ..comparison.plan import BUDGETS, BakeOff, cells, plan, record, refuse_changed_runs, untimed
from ..comparison.study import study
from ..comparison.tables import write
from ..comparison.workers import alone, carry_out
from ..errors import ConfigError, RunError, known
from ..runs.listeners import console_listeners
from ..runs.presets import PRESETS
from ..runs.task import task_from_preset
from ..runs.teach import ensure_teacher
from .console import console, print_rows
from .options import Parser, chosen_names, codes_of


def bake_off(arguments: list[str]) -> None:
    r"""Compares the arms of a contest under equal budgets; goes on where it stopped."""
    parser = Parser(prog="bake-off")
    parser.add_argument("contest", nargs="?", help=f"one of: {', '.join(CONTESTS)}")
    parser.add_argument("--contest", dest="source", help="a contest of your own, FILE.py:NAME")
    parser.add_argument("--method", action="append", help="a method of your own, FILE.py:NAME")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each arm (5)")
    parser.add_argument("--seconds", type=float, help="budget of a run, in seconds of training")
    parser.add_argument("--calls", type=int, help="budget of a run, in rows of the teacher")
    parser.add_argument("--budgets", help=f"some of {','.join(BUDGETS)} (the contest's)")
    parser.add_argument("--teachers", help="some of the contest's, by commas (all)")
    parser.add_argument("--arms", help="some of the contest's, by commas (all)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run on a CPU (1)")
    parser.add_argument("--samples", type=int, default=0, help="of the final measurement")
    parser.add_argument("--evaluations", type=int, default=6, help="on the way, of each run (6)")
    parser.add_argument("--no-study", action="store_true", help="leave out the gradients' study")
    parser.add_argument("--out", help="the folder to work in (runs/bake-off-CONTEST)")
    chosen = parser.parse_args(arguments)
    if chosen.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {chosen.jobs}")
    name, contest = _contest(chosen.contest, chosen.source)
    contest = entered(name, contest, codes_of(chosen.method))
    bake = BakeOff(
        name=name,
        contest=contest,
        out=Path(chosen.out or f"runs/bake-off-{name}"),
        seeds=chosen.seeds,
        seconds=contest.seconds if chosen.seconds is None else chosen.seconds,
        rows=contest.rows if chosen.calls is None else chosen.calls,
        budgets=contest.budgets
        if chosen.budgets is None
        else chosen_names(chosen.budgets, BUDGETS, "--budgets"),
        teachers=chosen_names(chosen.teachers, contest.teachers, "--teachers"),
        arms=chosen_names(chosen.arms, contest.arms, "--arms"),
        threads=chosen.threads,
        samples=chosen.samples,
        evaluations=chosen.evaluations,
    )
    for teacher in bake.teachers:
        task = task_from_preset("distill", next(iter(PRESETS)))
        task = dataclasses.replace(task, problem=contest.teachers[teacher])
        ensure_teacher(task, console_listeners(console))
    bake.out.mkdir(parents=True, exist_ok=True)
    with alone(bake.out):
        planned = plan(bake, console)
        failed = planned["failed"]
        todo = list(cells(bake, planned["prices"], failed))
        refuse_changed_runs(todo)
        failures = untimed(bake, failed) + carry_out(todo, chosen.jobs, console)
        found = {} if chosen.no_study else study(bake, todo, console)
        words, page, tables = write(bake, todo, found, failed)
        more = {"gradients": found, "failures": failures}
        path = record(bake, todo, ["vardiu", "bake-off", *arguments], more)
    for title, lines in tables:
        print_rows(title, lines)
    where = f"table:   {words}\nnumbers: {path}\nreport:  {page}"
    console.print(where, highlight=False, soft_wrap=True)
    if failures:
        raise RunError(f"{len(failures)} runs failed:\n" + "\n".join(failures))


def _contest(name: str | None, source: str | None) -> tuple[str, Contest]:
    r"""Returns the contest of a command line, and its name."""
    if (name is None) == (source is None):
        raise ConfigError(
            f"which contest? One of: {', '.join(CONTESTS)}; or --contest FILE.py:NAME"
        )
    if source is not None:
        return load_contest(source)
    assert name is not None
    name = known(name, CONTESTS, "contest")
    return name, CONTESTS[name]


COMMANDS = {"bake-off": bake_off}
