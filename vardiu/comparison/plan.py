r"""A bake-off: the arms of a contest, each with several seeds, under equal budgets.

Budgets are `time` (equal seconds of training), `calls` (equal rows of the teacher) and `own` (each
arm's own number of updates). Seconds are turned into numbers of updates *before* the runs: all
arms are timed in turn, in one process, and the result is kept in `plan.json`. So a run is a
function of its settings and its seed, is not cut by a clock, and can be killed and gone on with.

Each run is a folder of its own, carried out by a process of its own; finished runs are kept, and
the same command again does what is missing.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.batches import Batches
from ..errors import ConfigError, Diverged
from ..runs.execute import device_of
from ..runs.stages import stages_of
from ..runs.task import RunSettings, Task, problem_of
from ..storage.files import write_text_atomic
from ..storage.provenance import provenance
from ..storage.run_folder import RunFolder
from ..training.trainer import Trainer
from .contests import Competitor, Contest

__all__ = ["BUDGETS", "BakeOff", "Cell", "Result", "calibrate", "results"]


BUDGETS = ("time", "calls", "own")


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

    def group(self, budget: str) -> str:
        r"""Returns a budget with its amount, the name of a folder."""
        amount = {"time": f"-{self.seconds:g}s", "calls": f"-{self.rows}rows", "own": ""}
        return budget + amount[budget]


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
    r"""What the finished runs of an arm say."""

    arm: str
    title: str
    runs: list[dict[str, Any]]
    missing: int

    def values(self, metric: str) -> list[float]:
        return [run["metrics"][metric] for run in self.runs]

    def cost(self, name: str) -> list[float]:
        return [run["cost"][name] for run in self.runs]


# ---------------------------------------------------------------- the plan


def updates_of(arm: Competitor, rates: dict[str, float], bake: BakeOff, budget: str) -> int:
    r"""Returns the number of student updates that a budget pays for.

    Raises:
        ConfigError: It pays for fewer than `LEAST_STEPS`.
    """
    if budget == "own":
        return arm.settings.steps
    unit, amount = ("seconds", bake.seconds) if budget == "time" else ("rows", bake.rows)
    price = rates[unit]
    steps = round(amount / price)
    if steps < LEAST_STEPS:
        raise ConfigError(
            f"{amount:g} {unit} pay for {steps} updates of {arm.title}, at {price:.3g} {unit} "
            f"each; at least {LEAST_STEPS} are needed: raise "
            f"--{'calls' if unit == 'rows' else unit}"
        )
    return steps


def calibrate(bake: BakeOff, teacher: str, rounds: int = 5) -> dict[str, dict[str, float]]:
    r"""Times a student update of every arm of the contest, in turn.

    Returns:
        For each arm the median `seconds` of an update over the rounds (none without rounds), and
        the `rows` that the teacher evaluates in it.

    Raises:
        ConfigError: An arm has several stages, whose length does not follow from one number.
    """
    torch.set_num_threads(bake.threads)
    trainers = {}
    for name, arm in bake.contest.arms.items():
        task = _task(bake, teacher, arm, 0, arm.settings.steps)
        problem = problem_of(task)
        torch.manual_seed(0)
        stage = stages_of(task, problem).first()
        if stage.name != arm.method:
            raise ConfigError(
                f"{arm.title} begins with a stage {stage.name!r}: its time does not follow from "
                "the number of updates. Take --budgets own"
            )
        device = device_of("auto")
        trainer = Trainer(stage.objective.to(device), stage.optimisation, steps=stage.steps)
        trainers[name] = (trainer, stage.batches, stage.steps // arm.settings.steps)
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(rounds + 1):
        for name, (trainer, batches, ratio) in trainers.items():
            started, updates = time.perf_counter(), 0
            while updates < 3 or (rounds and time.perf_counter() - started < 0.25):
                for _ in range(ratio):
                    _advance(trainer, batches, bake.contest.arms[name].title)
                updates += 1
            if turn:  # the first one warms up
                seconds[name].append((time.perf_counter() - started) / updates)
    return {
        name: {
            "rows": trainer.objective.teacher_cost[1] * ratio / trainer.step,
            **({"seconds": statistics.median(seconds[name])} if rounds else {}),
        }
        for name, (trainer, _, ratio) in trainers.items()
    }


def _advance(trainer: Trainer, batches: Batches, title: str) -> None:
    try:
        trainer.advance(batches)
    except Diverged as error:
        raise Diverged(f"{title} cannot be timed: {error}") from error


def plan(bake: BakeOff) -> dict[str, Any]:
    r"""Returns the prices of all arms by teacher: from `plan.json`, measured where it has none."""
    path = bake.out / "plan.json"
    known = json.loads(path.read_text()) if path.is_file() else {"prices": {}}
    if set(bake.budgets) == {"own"}:
        return known
    units = {"rows"} | ({"seconds"} if "time" in bake.budgets else set())
    for teacher in bake.teachers:
        prices = known["prices"].get(teacher, {})
        if any(not units <= set(prices.get(name, {})) for name in bake.contest.arms):
            rounds = 5 if "time" in bake.budgets else 0
            known["prices"][teacher] = calibrate(bake, teacher, rounds)
            write_text_atomic(path, json.dumps(known, indent=1) + "\n")
    return known


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
    return Task("distill", arm.title, problem, arm.method, settings, run, arm.code)


def cells(bake: BakeOff, prices: dict[str, Any]) -> Iterator[Cell]:
    r"""Yields the runs, seed by seed, so that an unfinished table is even."""
    for budget in bake.budgets:
        for teacher in bake.teachers:
            for seed in range(bake.seeds):
                for name in bake.arms:
                    arm = bake.contest.arms[name]
                    rates = prices.get(teacher, {}).get(name, {})
                    steps = updates_of(arm, rates, bake, budget)
                    folder = bake.out / "runs" / bake.group(budget) / teacher / f"{name}-{seed}"
                    task = _task(bake, teacher, arm, seed, steps)
                    yield Cell(budget, teacher, name, seed, folder, task)


# ---------------------------------------------------------------- the results


def results(bake: BakeOff, todo: Sequence[Cell], budget: str, teacher: str) -> list[Result]:
    r"""Returns what the finished runs of each arm say, under one budget with one teacher."""
    table = []
    for name in bake.arms:
        mine = [c for c in todo if (c.budget, c.teacher, c.arm) == (budget, teacher, name)]
        runs = []
        for cell in mine:
            result = RunFolder(cell.folder).result()
            if result is not None:
                metrics = {m["name"]: m["value"] for m in result["metrics"]}
                about = {"seed": cell.seed, "folder": str(cell.folder), "cost": result["cost"]}
                runs.append({**about, "metrics": metrics})
        title = bake.contest.arms[name].title
        table.append(Result(name, title, runs, len(mine) - len(runs)))
    return table


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
