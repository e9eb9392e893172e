r"""A bake-off: the arms of a contest, each with several seeds, under equal budgets.

Budgets are `time` (equal seconds of training), `calls` (equal rows of the teacher) and `own` (each
arm's own number of updates). Seconds are turned into numbers of updates *before* the runs: all
arms are timed in turn, in one process, all stages of their recipes, and the result is kept in
`plan.json`. So a run is a function of its settings and its seed, is not cut by a clock, and can be
killed and gone on with.

Each run is a folder of its own, carried out by a process of its own; finished runs are kept, and
the same command again does what is missing. An arm that cannot be run is left out, and named.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..errors import ConfigError, Diverged, Interrupted, NotADenoiser, RunError, nearest, shown
from ..problems.base import Input, inputs_of
from ..runs.inputs import refuse_changed_inputs
from ..runs.progress import Told, counted
from ..runs.task import ROLES, RunSettings, Task, named_teacher, problem_of
from ..storage.bounded import read_json
from ..storage.code import CODE_ERRORS, OwnCode, is_source, load_code
from ..storage.files import LEAVINGS, write_text_atomic
from ..storage.finished import refuse_foreign, refuse_place
from ..storage.run_folder import RunFolder, in_words, is_number
from .contests import Competitor, Contest, without_data
from .prices import Price, Rehearsal

__all__ = ["BUDGETS", "BakeOff", "Cell", "calibrate", "cells", "group_key", "plan", "why_not"]


BUDGETS = ("time", "calls", "own")


FORMAT = 5  # of `plan.json`


PLAN = "plan.json"


# What helps where it is damaged.
TIMED_AGAIN = "delete it, and the arms are timed again"


LEAST_STEPS = 50  # an arm that cannot take so many in its budget shows nothing


@dataclass(frozen=True)
class BakeOff:
    r"""What is asked for.

    Arguments:
        name: The contest's name.
        contest: The contest.
        out: The folder to work in.
        seeds: The number of seeds of each arm.
        seconds: The budget of a run in seconds.
        rows: The budget of a run in rows of the teacher.
        budgets: Which of `BUDGETS` to carry out.
        teachers: Which teachers.
        arms: Which arms.
        threads: Threads of torch in each run.
        evaluations: How often a student is measured on the way.
        samples: Samples of a run's final measurement; 0 for the problem's own number.
        device: Where the runs train.
        named: Whether the arms were asked for by name: then none of them is left out.
        screen: The number of arms that a screening leaves; 0 without one.
        baseline: The arm that goes on whatever the screening finds; empty without one.
        share: The share of the budgets that is paid; below 1 in a screening.

    Raises:
        ConfigError: A number is out of its range, or an arm cannot be run with it.
    """

    name: str
    contest: Contest
    out: Path
    seeds: int
    seconds: float
    rows: int
    budgets: tuple[str, ...]
    teachers: tuple[str, ...]
    arms: tuple[str, ...]
    threads: int = 1
    evaluations: int = 6
    samples: int = 0
    device: str = "auto"
    named: bool = False
    screen: int = 0
    baseline: str = ""
    share: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("--seconds", self.seconds), ("--calls", self.rows)):
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a positive, finite number, got {value:g}")
        for name in ("seeds", "threads", "evaluations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.screen < 0:
            raise ConfigError(f"--screen must be at least 1, got {self.screen}")
        unknown = [name for name in self.arms if name not in self.contest.arms]
        if unknown:
            raise ConfigError(f"--arms {unknown[0]}: {nearest(unknown[0], self.contest.arms)}")
        for teacher in self.teachers:
            for name in self.arms:
                arm = self.contest.arms[name]
                _task(self, teacher, arm, self.seeds - 1, arm.settings.steps)

    @functools.cached_property
    def codes(self) -> Mapping[str, Mapping[str, OwnCode]]:
        r"""The own code that the problems name, by teacher and setting: the command line named it,
        or the contest, which is own code itself."""
        return {
            teacher: {
                role: load_code(source)
                for role in ROLES
                if isinstance(source := getattr(problem, role, None), str) and is_source(source)
            }
            for teacher, problem in self.contest.teachers.items()
        }

    def amount(self, budget: str) -> float:
        r"""Returns what a run may spend, in the budget's unit."""
        amount = self.seconds if budget == "time" else self.rows
        return amount * self.share

    def group(self, budget: str) -> str:
        r"""Returns a budget with its amount, the name of a folder."""
        unit = {"time": "s", "calls": "rows"}.get(budget, "")
        words = f"{budget}-{_plain(self.amount(budget))}{unit}" if unit else budget
        return words if self.share == 1 else f"screening-{words}"

    def title(self, budget: str, teacher: str) -> str:
        r"""Returns a budget and a teacher in words, for headings."""
        part = "each arm's own number of updates"
        words = {
            "time": f"{self.amount('time'):g} seconds of training",
            "calls": f"{self.amount('calls'):,.0f} rows of the teacher",
            "own": part if self.share == 1 else f"{self.share:g} of {part}",
        }
        screening = "" if self.share == 1 else "screening: "
        return f"{screening}{words[budget]}, {teacher} teacher"


def _plain(amount: float) -> str:
    return f"{amount:.0f}" if amount == round(amount) else f"{amount:g}"


@dataclass(frozen=True)
class Cell:
    r"""One run: where it stands in the table, and what it does."""

    budget: str
    teacher: str
    arm: str
    seed: int
    folder: Path
    task: Task
    artefacts: Path  # of all runs: arms with the same pairs take those that the first one made


# ---------------------------------------------------------------- the plan


# Of a budget: its unit, and the option that raises it.
UNITS = {"time": ("seconds", "--seconds"), "calls": ("rows", "--calls")}


def least_amount(prices: Mapping[str, Mapping[str, float]], bake: BakeOff, budget: str) -> float:
    r"""Returns the least of a budget that pays for an arm's start and `LEAST_STEPS` updates."""
    price = Price(**prices[UNITS[budget][0]])
    return (price.before + LEAST_STEPS * price.update) / bake.share


def updates_of(
    arm: Competitor, prices: Mapping[str, Mapping[str, float]], bake: BakeOff, budget: str
) -> int:
    r"""Returns the number of student updates that a budget pays for.

    What is spent before the first update (artefacts, stages of fixed length, a delay) is paid from
    the budget. Where the updates cost nothing, as the teacher's rows of a regression on pairs, an
    arm takes its own number of them.

    Raises:
        ConfigError: It pays for fewer than `LEAST_STEPS` after the first.
    """
    if budget == "own":
        return max(1, round(arm.settings.steps * bake.share))
    unit, option = UNITS[budget]
    amount = bake.amount(budget)
    price = Price(**prices[unit])
    needed = least_amount(prices, bake, budget)
    cure = f"raise {option} to {needed:.6g} at least, or leave it out with --arms"
    if amount < price.before:
        raise ConfigError(
            f"{arm.title} spends {price.before:.6g} {unit} before its first update (pairs, a "
            f"frame, stages of fixed length, a delay), the budget is {amount:g} {unit}: {cure}"
        )
    if not price.update:
        return max(1, round(arm.settings.steps * bake.share))
    steps = round((amount - price.fixed) / price.update)
    if steps < price.delayed + LEAST_STEPS:
        raise ConfigError(
            f"{amount:g} {unit} pay for {max(0, round(steps - price.delayed))} updates of "
            f"{arm.title}, at {price.update:.3g} {unit} each and {price.before:.6g} before the "
            f"first; at least {LEAST_STEPS} are needed: {cure}"
        )
    return steps


def calibrate(
    bake: BakeOff,
    teacher: str,
    rounds: int = 5,
    tell: Told = lambda done, words="": None,
    failed: dict[str, str] | None = None,
    arms: Sequence[str] | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    r"""Walks through the recipes of arms, in turn.

    Arguments:
        bake: What is asked for.
        teacher: The name of the teacher.
        rounds: The number of times that each is timed; 0 counts the teacher's rows, and times
            once and roughly.
        tell: Is told the number of walks that are done.
        failed: Takes why an arm could not be walked through; the others are timed all the same.
        arms: The arms; those that are asked for without.

    Returns:
        For each arm what a run costs, see `vardiu.comparison.prices`, in `rows` of the teacher
        and, of medians over the rounds, in `seconds`; without rounds these are `rough`.

    Raises:
        Diverged: An arm diverged, and `failed` is none.
        ConfigError: The problem is none for an arm, and `failed` is none.
    """
    torch.set_num_threads(bake.threads)
    rehearsals: dict[str, Rehearsal] = {}
    names = bake.arms if arms is None else arms
    total = len(names)
    for turn in range(rounds + 1):
        for place, name in enumerate(names, start=1):
            if failed is not None and name in failed:
                continue
            try:
                if not turn:
                    arm = bake.contest.arms[name]
                    task = _task(bake, teacher, arm, 0, arm.settings.steps)
                    rehearsals[name] = Rehearsal(task, arm.title)
                rehearsals[name].walk(0.1 if rounds else 0.0)
            except Interrupted:
                raise
            except CODE_ERRORS as error:  # a method may be anybody's
                if failed is None:
                    raise
                failed[name] = _why(error, bake.out / f"timing-{name}.log")
                rehearsals.pop(name, None)
            else:
                if rounds and not turn:  # the first one warms up
                    rehearsals[name].forget_seconds()
            gone = "" if failed is None else failed.get(name, "")
            tell(turn * total + place, f"{name}: {gone}" if gone else "")
        tell((turn + 1) * total, f"{len(rehearsals)} arms, round {turn + 1} of {rounds + 1}")
    units = {"rows": "rows", "seconds" if rounds else "rough": "seconds"}
    found = {}
    for name, rehearsal in rehearsals.items():
        costs = rehearsal.prices(list(units.values()))
        found[name] = {unit: costs[measured]._asdict() for unit, measured in units.items()}
    return found


# What a plan says of an arm that the problem is none for; else it failed.
REFUSED, FAILED = "it cannot be run here: ", "failed while it was timed: "


def _why(error: Exception, log: Path) -> str:
    r"""Returns what a plan says of an arm that could not be timed; the log has what nobody
    foresaw."""
    if isinstance(error, ConfigError | NotADenoiser):
        return f"{REFUSED}{error}"
    if isinstance(error, Diverged):
        return str(error)
    write_text_atomic(log, traceback.format_exc())
    return f"{type(error).__name__}: {shown(str(error))}; see {shown(log)}"


def plan(bake: BakeOff, console: Console, *, timing: bool = True) -> dict[str, Any]:
    r"""Returns the prices of arms by teacher, and why arms failed while they were timed: from
    `plan.json`, measured where it has none.

    Arguments:
        bake: What is asked for.
        console: Where the progress is told.
        timing: Whether arms without a price are timed; else they are left out.

    Raises:
        ConfigError: The file is damaged, or of another problem or version.
    """
    path = bake.out / PLAN
    known: dict[str, Any] = {"format": FORMAT, "problems": {}, "prices": {}, "failed": {}}
    known["screening"] = {}
    if path.is_file():
        try:
            known = read_json(path)
        except ConfigError as error:
            raise ConfigError(f"{error}: {TIMED_AGAIN}") from error
    if known.get("format") != FORMAT:
        raise ConfigError(
            f"{shown(path)} must be of format {FORMAT}, got {shown(known.get('format'))}: an "
            "older version of vardiu timed other things. Work in another folder, with --out"
        )
    refuse_odd_plan(known, shown(path))
    refuse_other_problem(bake, known, shown(path))
    for teacher in bake.teachers:
        prices, failed = (known[part].setdefault(teacher, {}) for part in ("prices", "failed"))
        lacking = unpriced(bake, known, teacher)
        if not lacking or not timing:
            continue
        rounds = 5 if "time" in bake.budgets else 0
        walks = (rounds + 1) * len(lacking)
        with counted(console, f"timing the arms, {teacher} teacher", walks, "walk") as tell:
            found = calibrate(bake, teacher, rounds, tell, failed, lacking)
        for name, row in found.items():
            prices[name] = {**prices.get(name, {}), **row}
        write_plan(bake, known)
    return known


def unpriced(bake: BakeOff, planned: Mapping[str, Any], teacher: str) -> list[str]:
    r"""Returns the arms that are to be timed with a teacher before anything is run."""
    prices = planned["prices"].get(teacher, {})
    units = {"rows", "seconds"} if "time" in bake.budgets else {"rows"}
    return [
        name
        for name in bake.arms
        if name not in planned["failed"].get(teacher, {})
        and name not in without_data(bake.contest, teacher)
        and not units <= set(prices.get(name, {}))
    ]


def supposed(bake: BakeOff, planned: Mapping[str, Any]) -> dict[str, Any]:
    r"""Returns the plan as it may become: each arm that is not timed yet takes its own number of
    updates, and spends the budget on them. It is for counting runs, and not for carrying out."""
    prices = {teacher: dict(planned["prices"].get(teacher, {})) for teacher in bake.teachers}
    for teacher, row in prices.items():
        for name in unpriced(bake, planned, teacher):
            steps = max(bake.contest.arms[name].settings.steps, 10 * LEAST_STEPS)
            amounts = {"seconds": bake.seconds, "rows": float(bake.rows)}
            guess = {unit: Price(0.0, each / steps)._asdict() for unit, each in amounts.items()}
            row[name] = {**guess, **row.get(name, {})}
    return {**planned, "prices": prices}


def refuse_other_folder(bake: BakeOff) -> None:
    r"""Raises a `RunError` if the folder to work in cannot be written, or holds something and no
    bake-off: its tables would be written over what somebody else has there."""
    refuse_place(bake.out)
    # Who deletes a plan that is damaged keeps the runs.
    runs = bake.out.glob("runs/*/*/*-*/config.yaml") if os.path.isdir(bake.out) else ()
    if not any(runs):
        refuse_foreign(bake.out, "bake-off", PLAN, ["timing-*.log", LEAVINGS])


def write_plan(bake: BakeOff, planned: Mapping[str, Any]) -> Path:
    r"""Writes `plan.json`."""
    return write_text_atomic(bake.out / PLAN, json.dumps(planned, indent=1) + "\n")


def refuse_other_problem(bake: BakeOff, planned: dict[str, Any], where: str) -> None:
    r"""Raises a `ConfigError` if a plan was made for other settings of the problem; notes those of
    a new plan. Files may lie elsewhere: what they hold is compared by the runs themselves."""
    for teacher in bake.teachers:
        row = dataclasses.asdict(bake.contest.teachers[teacher])
        row = json.loads(json.dumps({k: v for k, v in row.items() if k not in PLACES}))
        kept = planned["problems"].setdefault(teacher, row)
        if not isinstance(kept, Mapping):
            raise ConfigError(f"{where} is damaged: {TIMED_AGAIN}")
        for name, now in row.items():
            if kept.get(name) != now:
                raise ConfigError(
                    f"{where} was made with another problem.{name}, {shown(kept.get(name))} in "
                    f"place of {shown(now)}: work in another folder, with --out"
                )


# Settings of a problem that say where files lie.
PLACES = (
    "teacher",
    "teacher_run",
    "data",
    "held_out",
    "prompts",
    "weak",
    "source",
    "classifier",
    "reference",
)


def refuse_odd_plan(plan: Mapping[str, Any], where: str) -> None:
    r"""Raises a `ConfigError` if a plan does not hold what `calibrate` returns and finds."""
    fields = set(Price._fields)
    rows = _leaves(plan.get("prices"), 3)  # by teacher, by arm, by unit
    good = all(isinstance(row, Mapping) and set(row) == fields for row in rows)
    good = good and all(is_number(value) for row in rows for value in row.values())
    good = good and all(isinstance(text, str) for text in _leaves(plan.get("failed"), 2))
    kept = _leaves(plan.get("screening"), 1)
    good = good and all(isinstance(row, Mapping) and {"kept", "of"} <= set(row) for row in kept)
    if not good or not isinstance(plan.get("problems"), Mapping):
        raise ConfigError(f"{where} is damaged: {TIMED_AGAIN}")


def _leaves(tree: Any, depth: int) -> list[Any]:  # noqa: ANN401 (JSON)
    r"""Returns the leaves of a tree of mappings; `[None]` where it is none."""
    level = [tree]
    for _ in range(depth):
        good = all(isinstance(group, Mapping) for group in level)
        level = [value for group in level for value in group.values()] if good else [None]
    return level


def _task(bake: BakeOff, teacher: str, arm: Competitor, seed: int, steps: int) -> Task:
    reports = max(bake.evaluations, 12)
    run = RunSettings(
        seed=seed,
        threads=bake.threads,
        device=bake.device,
        reports=reports - reports % bake.evaluations,
        evaluations=bake.evaluations,
        samples=bake.samples,
        # The study of the gradients takes the first seed's.
        milestones=0 if seed or bake.share != 1 else 3,
    )
    settings = dataclasses.replace(arm.settings, steps=steps)
    problem = bake.contest.teachers[teacher]
    own = bake.codes[teacher]
    task = Task("distill", arm.title, problem, arm.method, settings, run, arm.code, own)
    # What asks no teacher is compared with the same one as the others.
    return task if task.has_teacher else dataclasses.replace(task, problem=named_teacher(problem))


def why_not(bake: BakeOff, planned: Mapping[str, Any], budget: str, teacher: str, arm: str) -> str:
    r"""Returns why an arm has no runs under a budget, in words; empty where it has.

    It needs clean data and there are none; it could not be walked through; the budget does not
    pay for it; or the screening left it out.
    """
    if arm in without_data(bake.contest, teacher):
        return "left out: it needs clean data (--data)"
    failure: str = planned["failed"].get(teacher, {}).get(arm, "")
    if failure.startswith(REFUSED):
        return f"left out: {failure}"
    if failure and budget != "own":
        return f"{FAILED}{failure}"
    prices = planned["prices"].get(teacher, {}).get(arm, {})
    if budget != "own" and UNITS[budget][0] not in prices:
        return "left out: it has not been timed"
    try:
        updates_of(bake.contest.arms[arm], prices, bake, budget)
    except ConfigError as error:
        return f"left out: {error}"
    kept = kept_arms(bake, planned, budget, teacher)
    return SCREENED if kept is not None and arm not in kept else ""


SCREENED = "left out by the screening"


def asked(bake: BakeOff) -> dict[str, Any]:
    r"""Returns what a decision of a screening was made for."""
    return {"of": list(bake.arms), "best": bake.screen, "baseline": bake.baseline}


def kept_arms(
    bake: BakeOff, planned: Mapping[str, Any], budget: str, teacher: str
) -> list[str] | None:
    r"""Returns the arms that a screening has left; none where there is none, or none as is asked
    for."""
    row = planned["screening"].get(group_key(bake, budget, teacher), {})
    wanted = asked(bake)
    if not bake.screen or bake.share != 1 or wanted != {name: row.get(name) for name in wanted}:
        return None
    found: list[str] = row["kept"]
    return found


def group_key(bake: BakeOff, budget: str, teacher: str) -> str:
    r"""Returns the name of the runs under one budget with one teacher."""
    return f"{bake.group(budget)}/{teacher}"


def refuse_arms(bake: BakeOff, planned: Mapping[str, Any]) -> None:
    r"""Raises a `ConfigError` if an arm that was asked for by name is left out, or if all are."""
    for budget in bake.budgets:
        for teacher in bake.teachers:
            words = {arm: why_not(bake, planned, budget, teacher, arm) for arm in bake.arms}
            left = {arm: text for arm, text in words.items() if text.startswith("left out: ")}
            if left and (bake.named or len(left) == len(bake.arms)):
                arm, text = next(iter(left.items()))
                others = of_the_others(bake, planned, budget, teacher, [*left])
                raise ConfigError(f"{arm}: {text.removeprefix('left out: ')}{others}")


def of_the_others(
    bake: BakeOff, planned: Mapping[str, Any], budget: str, teacher: str, left: Sequence[str]
) -> str:
    r"""Returns which arms after the first one a budget does not pay for either, and what would pay
    for all: who raises it for one of them would be refused for the next."""
    if budget not in UNITS:
        return ""
    prices = planned["prices"].get(teacher, {})
    least = {
        a: least_amount(prices[a], bake, budget)
        for a in left
        if UNITS[budget][0] in prices.get(a, ())
    }
    short = [a for a in least if least[a] * bake.share > bake.amount(budget)]
    if len(short) < 2 or short[0] != left[0]:
        return ""
    return (
        f"; nor does it pay for {', '.join(short[1:])}, and all are paid for by "
        f"{UNITS[budget][1]} {max(least[a] for a in short):.6g}"
    )


def cells(bake: BakeOff, planned: Mapping[str, Any]) -> Iterator[Cell]:
    r"""Yields the runs, seed by seed, so that an unfinished table is even; none of an arm that
    has no runs, see `why_not`."""
    for budget in bake.budgets:
        for teacher in bake.teachers:
            prices = planned["prices"].get(teacher, {})
            arms = [a for a in bake.arms if not why_not(bake, planned, budget, teacher, a)]
            for seed in range(bake.seeds):
                for name in arms:
                    arm = bake.contest.arms[name]
                    steps = updates_of(arm, prices.get(name, {}), bake, budget)
                    folder = bake.out / "runs" / group_key(bake, budget, teacher)
                    task = _task(bake, teacher, arm, seed, steps)
                    out, made = folder / f"{name}-{seed}", bake.out / "artefacts"
                    yield Cell(budget, teacher, name, seed, out, task, made)


def untimed(bake: BakeOff, planned: Mapping[str, Any]) -> list[str]:
    r"""Returns the arms that are not run, since they failed while they were timed, a line each."""
    return [
        f"{budget}, {teacher}, {arm}: {words.removeprefix(FAILED)}"
        for budget in bake.budgets
        for teacher in bake.teachers
        for arm in bake.arms
        if (words := why_not(bake, planned, budget, teacher, arm)).startswith(FAILED)
    ]


def refuse_changed_runs(todo: Sequence[Cell]) -> None:
    r"""Raises a `RunError` if a run on the disk was begun with other settings, another teacher or
    other data: its numbers would stand beside those of runs that are not comparable."""
    problems: dict[str, Mapping[str, Input]] = {}
    for cell in todo:
        refuse_other_settings(cell)
        if (cell.folder / "checkpoints").is_dir():
            if cell.teacher not in problems:
                problems[cell.teacher] = inputs_of(problem_of(cell.task))
            refuse_changed_inputs(RunFolder(cell.folder), problems[cell.teacher])


def refuse_other_settings(cell: Cell) -> None:
    r"""Raises a `RunError` if the folder of a run holds one of other settings, as another version
    of the library or of the contest's file began.

    A finished run may have been measured otherwise, and have taken as many updates as another
    timing gave it; its method's other settings are those of the arm.
    """
    folder = RunFolder(cell.folder)
    if not folder.exists or folder.is_bare():
        return
    others, kind = folder.differing(cell.task.to_mapping()), "was begun"
    if folder.result() is not None:
        others = {k: v for k, v in others.items() if k.startswith("method.") and k != STEPS}
        kind = "was carried out"
    if others:
        raise RunError(
            f"{shown(folder.path)}: this run {kind} with other settings, by another version of "
            f"vardiu or of the contest: {in_words(others)}. Move this folder away, and the same "
            "command carries the run out anew; or work in another folder, with --out"
        )


STEPS = "method.steps"
