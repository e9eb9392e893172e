r"""`vardiu bake-off`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..comparison.contests import CONTESTS, OPEN, Contest, contest_of, entered, load_contest
from ..comparison.plan import (
    BUDGETS,
    BakeOff,
    Cell,
    cells,
    plan,
    refuse_arms,
    refuse_changed_runs,
    refuse_other_folder,
    supposed,
    untimed,
)
from ..comparison.results import record
from ..comparison.screening import decide, heat, planned_work
from ..comparison.study import study
from ..comparison.tables import write
from ..comparison.workers import carry_out
from ..errors import ConfigError, RunError, amount, known, shown
from ..runs.execute import device_of
from ..runs.listeners import console_listeners
from ..runs.presets import PRESETS
from ..runs.task import Task, task_from_preset
from ..runs.teach import ensure_teacher, missing_teacher
from ..settings.fields import DensitySettings
from ..storage.finished import sole_writer
from .console import console, print_rows
from .options import chosen_names, codes_of
from .parser import COLLECTING, Collected, Parser
from .rows import parse_rows


def parser_of() -> Parser:
    r"""Returns the parser of all options but the problem's own."""
    parser = Parser(prog="bake-off")
    parser.add_argument(
        "contest",
        nargs="?",
        help=f"one of: {', '.join(CONTESTS)}; a density; a table of points; or, with --teacher "
        f"and --data, one of: {', '.join(OPEN)}. Images and vectors take all options of their "
        "problem",
    )
    parser.add_argument("--contest", dest="source", help="a contest of your own, FILE.py:NAME")
    parser.add_argument("--method", action="append", help="a method of your own, FILE.py:NAME")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each arm (5)")
    parser.add_argument("--seconds", type=float, help="budget of a run, in seconds of training")
    parser.add_argument("--calls", type=int, help="budget of a run, in rows of the teacher")
    parser.add_argument("--budgets", help=f"some of {','.join(BUDGETS)} (the contest's)")
    parser.add_argument("--teachers", help="some of the contest's, by commas (all)")
    parser.add_argument("--arms", help="some of the contest's, by commas (all)")
    parser.add_argument(
        "--screen",
        type=int,
        help="first a run of a quarter of the budget for each arm; so many go on (all)",
    )
    parser.add_argument(
        "--baseline", help="the arm that the others are compared with, and that always goes on"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run on a CPU (1)")
    parser.add_argument("--device", default="auto", help="where to train (auto)")
    parser.add_argument("--samples", type=int, default=0, help="of the final measurement")
    parser.add_argument("--evaluations", type=int, default=6, help="on the way, of each run (6)")
    parser.add_argument("--no-study", action="store_true", help="leave out the gradients' study")
    parser.add_argument(
        "--report", action="store_true", help="write the tables of what is complete, run nothing"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what is to be run, and stop")
    parser.add_argument("--out", help="the folder to work in (runs/bake-off-CONTEST)")
    return parser


def bake_off(arguments: list[str]) -> None:
    r"""Compares the arms of a contest under equal budgets; goes on where it stopped."""
    parser = parser_of()
    if COLLECTING.get():
        raise Collected(parser)
    # What does not stand first is no contest: it may be the value of an option of the problem.
    first = [] if arguments and not arguments[0].startswith("-") else [""]
    chosen, rest = parser.parse_known_args([*first, *arguments])
    for name in ("jobs", "screen"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} must be at least 1, got {value}")
    device_of(chosen.device)
    bake = _asked_for(parser, chosen, rest)
    if chosen.report and not (bake.out / "plan.json").is_file():
        raise ConfigError(f"--report: {shown(bake.out)} is no bake-off: it has no plan.json")
    refuse_other_folder(bake)
    if chosen.dry_run:
        _foretell(bake, chosen.jobs)
        return
    with sole_writer(
        bake.out
    ):  # a folder that cannot be written is told before a teacher is trained
        _say([] if chosen.report else _to_be_trained(bake))
        for task in () if chosen.report else _problems(bake, bake.teachers):
            ensure_teacher(task, console_listeners(console))
        planned = plan(bake, console, timing=not chosen.report)
        refuse_arms(bake, planned)
        _say(planned_work(bake, planned, chosen.jobs))
        jobs = 0 if chosen.report else chosen.jobs
        heats, todo, failures = _carried_out(bake, planned, jobs)
        found = {} if chosen.no_study or chosen.report else study(bake, todo, console)
        words, page, tables = write(bake, todo, heats, found, planned)
        more = {"gradients": found, "failures": failures, "screening": planned["screening"]}
        path = record(bake, todo, planned, ["vardiu", "bake-off", *arguments], more)
    for title, lines in tables:
        print_rows(title, lines)
    where = f"table:   {words}\nnumbers: {path}\nreport:  {page}"
    console.print(where, highlight=False, soft_wrap=True)
    if failures:
        raise RunError(f"{amount(len(failures), 'run')} failed:\n" + "\n".join(failures))


def _problems(bake: BakeOff, teachers: Sequence[str]) -> list[Task]:
    r"""Returns a task of each teacher's problem."""
    task = task_from_preset("distill", next(iter(PRESETS)))
    return [dataclasses.replace(task, problem=bake.contest.teachers[t]) for t in teachers]


def _to_be_trained(bake: BakeOff) -> list[str]:
    r"""Returns a line for each teacher that is missing: its folder, its number of updates, and the
    teachers of the contest that need no training."""
    names = list(bake.contest.teachers)
    missing = dict(zip(names, map(missing_teacher, _problems(bake, names)), strict=True))
    there = ",".join(name for name in names if missing[name] is None)
    cure = f" (--teachers {there} needs none)" if there else ""
    lines = []
    for name in bake.teachers:
        if (folder := missing[name]) is not None:
            task = task_from_preset("teach", bake.contest.teachers[name].name)
            lines.append(
                f"to be trained first: the {name} teacher, {shown(folder.path)}, by "
                f"{amount(task.settings.steps, 'update')}{cure}"
            )
    return lines


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _foretell(bake: BakeOff, jobs: int) -> None:
    r"""Says what is to be run as far as it is known, and what has to be trained and timed first;
    trains, times and writes nothing."""
    planned = plan(bake, console, timing=False)
    refuse_arms(bake, supposed(bake, planned))
    _say(_to_be_trained(bake))
    _say(planned_work(bake, planned, jobs, timed=False))


def _carried_out(
    bake: BakeOff, planned: dict[str, Any], jobs: int
) -> tuple[list[Cell], list[Cell], list[str]]:
    r"""Carries out the runs of the screening and the others; returns both and what failed.

    Arguments:
        bake: What is asked for.
        planned: The plan, which takes what the screening decides.
        jobs: Runs at a time; with 0 none is carried out, and nothing decided.
    """
    heats: list[Cell] = []
    failures = untimed(bake, planned)
    if bake.screen:
        first = heat(bake)
        heats = list(cells(first, planned))
        if jobs:
            refuse_arms(first, planned)
            refuse_changed_runs(heats)
            failures += carry_out(heats, jobs, console)
            decide(bake, planned, heats)
    todo = list(cells(bake, planned))
    if not jobs:
        return heats, todo, failures
    refuse_changed_runs(todo)
    return heats, todo, failures + carry_out(todo, jobs, console)


def _asked_for(parser: Parser, chosen: argparse.Namespace, rest: Sequence[str]) -> BakeOff:
    r"""Returns what a command line asks for.

    Raises:
        ConfigError: There is no such contest, teacher or arm, or a number is out of its range.
    """
    name, contest = _contest(parser, chosen, rest)
    contest = entered(name, contest, codes_of(chosen.method))
    if chosen.baseline is None:
        theirs = [key for key, arm in contest.arms.items() if arm.method == "diff_instruct"]
        baseline = theirs[0] if theirs else ""
    else:
        baseline = known(chosen.baseline, contest.arms, "arm of --baseline:")
    arms = chosen_names(chosen.arms, contest.arms, "--arms")
    if chosen.baseline is not None and baseline not in arms:
        raise ConfigError(f"--baseline {baseline} is none of --arms: name it there too")
    return BakeOff(
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
        arms=arms,
        threads=chosen.threads,
        samples=chosen.samples,
        evaluations=chosen.evaluations,
        device=chosen.device,
        named=chosen.arms is not None,
        screen=chosen.screen or 0,
        baseline=baseline if baseline in arms else "",
    )


def _contest(
    parser: Parser, chosen: argparse.Namespace, rest: Sequence[str]
) -> tuple[str, Contest]:
    r"""Returns the contest of a command line, and its name."""
    word = chosen.contest or None
    if word is None and chosen.source is None and "--teacher" in {w.split("=")[0] for w in rest}:
        word = "images"
    if (word is None) == (chosen.source is None):
        raise ConfigError(
            f"which contest? One of: {', '.join(CONTESTS)}; a density or a table of points; "
            "--teacher SOURCE; or --contest FILE.py:NAME"
        )
    if chosen.source is not None:
        parser.refuse(rest)
        return load_contest(chosen.source)
    assert word is not None
    if word in OPEN:
        others = list(parser._option_string_actions)
        about = f"The problem of the contest {word}."
        rows = {"problem": OPEN[word]}
        program = f"vardiu bake-off {word}"
        return contest_of(word, parse_rows(rows, rest, program, about, others)["problem"])
    name, contest = contest_of(word)
    if not rest or any(isinstance(r, DensitySettings) for r in contest.teachers.values()):
        parser.refuse(rest)
        return name, contest
    program, about = f"vardiu bake-off {name}", f"The problem of the contest {name}."
    others = list(parser._option_string_actions)
    found = parse_rows(dict(contest.teachers), rest, program, about, others)
    return name, dataclasses.replace(contest, teachers=found)


COMMANDS = {"bake-off": bake_off}
