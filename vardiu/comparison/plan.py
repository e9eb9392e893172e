r"""A bake-off: the arms of a contest, each with several seeds, under equal budgets.

Budgets are `time` (equal seconds of training), `calls` (equal rows of the teacher) and `own` (each
arm's own number of updates). Seconds are turned into numbers of updates *before* the runs: all
arms are timed in turn, in one process, all stages of their recipes, and the result is kept in
`plan.json`. So a run is a function of its settings and its seed, is not cut by a clock, and can be
killed and gone on with.

Each run is a folder of its own, carried out by a process of its own; finished runs are kept, and
the same command again does what is missing.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..errors import ConfigError, Diverged, nearest, shown
from ..monitoring.verdicts import verdict_of
from ..problems.base import Input
from ..runs.inputs import refuse_changed_inputs
from ..runs.progress import Told, counted
from ..runs.task import PROBLEMS, ROLES, RunSettings, Task, problem_of
from ..storage.bounded import read_json
from ..storage.code import is_source, load_code
from ..storage.files import write_text_atomic
from ..storage.provenance import provenance
from ..storage.run_folder import RunFolder, is_number
from .contests import Competitor, Contest
from .prices import Price, Rehearsal

__all__ = ["BUDGETS", "BakeOff", "Cell", "Result", "calibrate", "results"]


BUDGETS = ("time", "calls", "own")


FORMAT = 4  # of `plan.json`


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

    def __post_init__(self) -> None:
        for name, value in (("--seconds", self.seconds), ("--calls", self.rows)):
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a positive, finite number, got {value:g}")
        for name in ("seeds", "threads", "evaluations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1, got {getattr(self, name)}")
        unknown = [name for name in self.arms if name not in self.contest.arms]
        if unknown:
            raise ConfigError(f"--arms {unknown[0]}: {nearest(unknown[0], self.contest.arms)}")
        for teacher in self.teachers:
            for name in self.arms:
                arm = self.contest.arms[name]
                _task(self, teacher, arm, self.seeds - 1, arm.settings.steps)

    def group(self, budget: str) -> str:
        r"""Returns a budget with its amount, the name of a folder."""
        amount = {"time": f"-{self.seconds:g}s", "calls": f"-{self.rows}rows", "own": ""}
        return budget + amount[budget]

    def title(self, budget: str, teacher: str) -> str:
        r"""Returns a budget and a teacher in words, for headings."""
        words = {
            "time": f"{self.seconds:g} seconds of training",
            "calls": f"{self.rows:,} rows of the teacher",
            "own": "each arm's own number of updates",
        }
        return f"{words[budget]}, {teacher} teacher"


@dataclass(frozen=True)
class Cell:
    r"""One run: where it stands in the table, and what it does."""

    budget: str
    teacher: str
    arm: str
    seed: int
    folder: Path
    task: Task


@dataclass(frozen=True)
class Result:
    r"""What the finished runs of an arm say.

    Arguments:
        arm: Its short name.
        title: Its name in tables.
        runs: Its finished runs.
        missing: The number of runs that are not finished.
        idle: The number of finished runs whose student was never updated: they are not ranked.
        failed: Why it was never run: it diverged while it was timed.
    """

    arm: str
    title: str
    runs: list[dict[str, Any]]
    missing: int
    idle: int = 0
    failed: str = ""

    def values(self, metric: str) -> list[float]:
        return [run["metrics"][metric] for run in self.runs]

    def errors(self, metric: str) -> list[float | None]:
        return [run["errors"][metric] for run in self.runs]

    @property
    def verdict(self) -> str:
        r"""The verdicts on its runs, with their numbers where they are not the same."""
        counts = Counter(run["verdict"] for run in self.runs)
        if len(counts) < 2:
            return next(iter(counts), "–")
        return ", ".join(f"{name} {n}" for name, n in counts.most_common())

    def cost(self, name: str) -> list[float]:
        return [run["cost"][name] for run in self.runs]


# ---------------------------------------------------------------- the plan


# Of a budget: its unit, and the option that raises it.
UNITS = {"time": ("seconds", "--seconds"), "calls": ("rows", "--calls")}


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
        return arm.settings.steps
    unit, option = UNITS[budget]
    amount = bake.seconds if budget == "time" else bake.rows
    price = Price(**prices[unit])
    needed = price.before + LEAST_STEPS * price.update
    cure = f"raise {option} to {needed:.6g} at least, or leave it out with --arms"
    if amount < price.before:
        raise ConfigError(
            f"{arm.title} spends {price.before:.6g} {unit} before its first update (pairs, a "
            f"frame, stages of fixed length, a delay), the budget is {amount:g} {unit}: {cure}"
        )
    if not price.update:
        return arm.settings.steps
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
) -> dict[str, dict[str, dict[str, float]]]:
    r"""Walks through the recipes of all arms of the contest, in turn.

    Arguments:
        bake: What is asked for.
        teacher: The name of the teacher.
        rounds: The number of times that each is timed; 0 counts the teacher's rows alone.
        tell: Is told the number of walks that are done.
        failed: Takes why an arm diverged, by its name; the others are timed all the same.

    Returns:
        For each arm what a run costs, see `vardiu.comparison.prices`: its `fixed` part and that of
        an `update`, in `rows` of the teacher and, of medians over the rounds, in `seconds`; no
        seconds without rounds.

    Raises:
        Diverged: An arm diverged, and `failed` is none.
    """
    torch.set_num_threads(bake.threads)
    rehearsals = {
        name: Rehearsal(_task(bake, teacher, arm, 0, arm.settings.steps), arm.title)
        for name, arm in bake.contest.arms.items()
    }
    total, done = len(rehearsals), 0
    for turn in range(rounds + 1):
        done = turn * total
        for name, rehearsal in list(rehearsals.items()):
            try:
                rehearsal.walk(0.25 if rounds else 0.0)
            except Diverged as error:
                if failed is None:
                    raise
                failed[name] = str(error)
                del rehearsals[name]
            if rounds and not turn:  # the first one warms up
                rehearsal.forget_seconds()
            done += 1
            tell(done, failed.get(name, "") if failed and name not in rehearsals else "")
        tell((turn + 1) * total, f"{len(rehearsals)} arms, round {turn + 1} of {rounds + 1}")
    units = ("rows", "seconds") if rounds else ("rows",)
    return {
        name: {unit: price._asdict() for unit, price in rehearsal.prices(units).items()}
        for name, rehearsal in rehearsals.items()
    }


def plan(bake: BakeOff, console: Console) -> dict[str, Any]:
    r"""Returns the prices of all arms by teacher, and why arms failed while they were timed: from
    `plan.json`, measured where it has none."""
    path = bake.out / "plan.json"
    known: dict[str, Any] = {"format": FORMAT, "prices": {}, "failed": {}}
    if path.is_file():
        known = read_json(path)
    if known.get("format") != FORMAT:
        raise ConfigError(
            f"{shown(path)} must be of format {FORMAT}, got {shown(known.get('format'))}: an "
            "older version wrote it. Work in another folder, with --out"
        )
    refuse_odd_plan(known, shown(path))
    if set(bake.budgets) == {"own"}:
        return known
    units = {"rows"} | ({"seconds"} if "time" in bake.budgets else set())
    for teacher in bake.teachers:
        prices, failed = (known[part].get(teacher, {}) for part in ("prices", "failed"))
        arms = set(bake.contest.arms) - set(failed)
        if any(not units <= set(prices.get(name, {})) for name in arms):
            rounds = 5 if "time" in bake.budgets else 0
            walks = (rounds + 1) * len(bake.contest.arms)
            with counted(console, f"timing the arms, {teacher} teacher", walks, "walk") as tell:
                known["failed"][teacher] = failed = {}
                known["prices"][teacher] = calibrate(bake, teacher, rounds, tell, failed)
            write_text_atomic(path, json.dumps(known, indent=1) + "\n")
    return known


def refuse_odd_plan(plan: Mapping[str, Any], where: str) -> None:
    r"""Raises a `ConfigError` if a plan does not hold what `calibrate` returns and finds."""
    fields = set(Price._fields)
    rows = _leaves(plan.get("prices"), 3)  # by teacher, by arm, by unit
    good = all(isinstance(row, Mapping) and set(row) == fields for row in rows)
    good = good and all(is_number(value) for row in rows for value in row.values())
    if not good or not all(isinstance(text, str) for text in _leaves(plan.get("failed"), 2)):
        raise ConfigError(f"{where} is damaged: delete it, and the arms are timed again")


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
        reports=reports - reports % bake.evaluations,
        evaluations=bake.evaluations,
        samples=bake.samples,
        milestones=0 if seed else 3,  # the study of the gradients takes the first seed's
    )
    settings = dataclasses.replace(arm.settings, steps=steps)
    problem = bake.contest.teachers[teacher]
    own = {
        role: load_code(source)  # the contest is own code that the command line named
        for role in ROLES
        if isinstance(source := getattr(problem, role, None), str) and is_source(source)
    }
    return Task("distill", arm.title, problem, arm.method, settings, run, arm.code, own)


def cells(
    bake: BakeOff, prices: dict[str, Any], failed: Mapping[str, Any] | None = None
) -> Iterator[Cell]:
    r"""Yields the runs, seed by seed, so that an unfinished table is even; none of an arm that
    failed while it was timed, under a budget that its price is needed for."""
    for budget in bake.budgets:
        for teacher in bake.teachers:
            for seed in range(bake.seeds):
                for name in bake.arms:
                    if _failure(failed, budget, teacher, name):
                        continue
                    arm = bake.contest.arms[name]
                    rates = prices.get(teacher, {}).get(name, {})
                    steps = updates_of(arm, rates, bake, budget)
                    folder = bake.out / "runs" / bake.group(budget) / teacher / f"{name}-{seed}"
                    task = _task(bake, teacher, arm, seed, steps)
                    yield Cell(budget, teacher, name, seed, folder, task)


def untimed(bake: BakeOff, failed: Mapping[str, Any]) -> list[str]:
    r"""Returns the arms that are not run, since they failed while they were timed, a line each."""
    return [
        f"{budget}, {teacher}, {arm}: {words}"
        for budget in bake.budgets
        for teacher in bake.teachers
        for arm in bake.arms
        if (words := _failure(failed, budget, teacher, arm))
    ]


def _failure(failed: Mapping[str, Any] | None, budget: str, teacher: str, arm: str) -> str:
    r"""Returns why an arm has no price where it needs one."""
    return "" if budget == "own" else (failed or {}).get(teacher, {}).get(arm, "")


def refuse_changed_runs(todo: Sequence[Cell]) -> None:
    r"""Raises a `RunError` if a run on the disk was begun with another teacher or other data: its
    numbers would stand beside those of runs that are not comparable."""
    problems: dict[str, Mapping[str, Input]] = {}
    for cell in todo:
        if (cell.folder / "checkpoints").is_dir():
            if cell.teacher not in problems:
                problems[cell.teacher] = problem_of(cell.task).inputs()
            refuse_changed_inputs(RunFolder(cell.folder), problems[cell.teacher])


# ---------------------------------------------------------------- the results


def results(
    bake: BakeOff,
    todo: Sequence[Cell],
    budget: str,
    teacher: str,
    failed: Mapping[str, Any] | None = None,
) -> list[Result]:
    r"""Returns what the finished runs of each arm say, under one budget with one teacher; and
    which arms failed while they were timed, see `plan`."""
    table = []
    for name in bake.arms:
        mine = [c for c in todo if (c.budget, c.teacher, c.arm) == (budget, teacher, name)]
        runs, idle = [], 0
        for cell in mine:
            result = RunFolder(cell.folder).result()
            if result is not None and not result["cost"]["student_updates"]:
                idle += 1
            elif result is not None:
                runs.append(_run(cell, result))
        title = bake.contest.arms[name].title
        why = _failure(failed, budget, teacher, name)
        table.append(Result(name, title, runs, len(mine) - len(runs) - idle, idle, why))
    return table


def _run(cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
    r"""Returns the numbers of a finished run."""
    metrics = result["metrics"]
    judged = PROBLEMS[type(cell.task.problem)].judged
    return {
        "verdict": verdict_of(RunFolder(cell.folder), judged).name,
        "seed": cell.seed,
        "folder": str(cell.folder),
        "cost": result["cost"],
        "metrics": {metric["name"]: metric["value"] for metric in metrics},
        "errors": {metric["name"]: metric["error"] for metric in metrics},
        "samples": max(metric["n"] for metric in metrics),
    }


def record(bake: BakeOff, todo: Sequence[Cell], command: Sequence[str], more: Any) -> Path:  # noqa: ANN401
    r"""Writes `results.json`: every number of every run, and what it depends on."""
    groups = {}
    for budget in bake.budgets:
        for teacher in bake.teachers:
            rows = results(bake, todo, budget, teacher)
            key = f"{bake.group(budget)}/{teacher}"
            groups[key] = {row.arm: [_plain(run, bake.out) for run in row.runs] for row in rows}
    content = {
        "provenance": provenance(command, 0),
        "contest": bake.name,
        "seeds": bake.seeds,
        "groups": groups,
        **more,
    }
    return write_text_atomic(bake.out / "results.json", json.dumps(content, indent=1) + "\n")


def _plain(run: dict[str, Any], out: Path) -> dict[str, Any]:
    return {**run, "folder": str(Path(run["folder"]).relative_to(out))}
