r"""Screening: every arm first has one run of a quarter of the budget; the best go on.

What is decided is kept in `plan.json`. It is a function of the finished runs: the arms without a
collapsed or missing run are put in the order of the headline metric, the first ones go on to all
seeds at the full budget, and so does a baseline, whatever it showed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..monitoring.verdicts import COLLAPSED
from ..runs.progress import duration
from ..runs.task import PROBLEMS
from ..storage.run_folder import RunFolder
from .plan import (
    BakeOff,
    Cell,
    asked,
    cells,
    group_key,
    kept_arms,
    supposed,
    unpriced,
    why_not,
    write_plan,
)
from .prices import Price
from .results import Result, in_order, middle_value, results

__all__ = ["SHARE", "decide", "heat", "hours", "planned_work"]


# The share of the budget that a run of the screening has.
SHARE = 0.25


def heat(bake: BakeOff) -> BakeOff:
    r"""Returns what the screening of a bake-off asks for: one seed, a quarter of the budget."""
    return dataclasses.replace(bake, seeds=1, share=SHARE, named=False)


def decide(bake: BakeOff, planned: dict[str, Any], todo: Sequence[Cell]) -> None:
    r"""Notes in the plan which arms go on, under each budget with each teacher.

    A decision that was made for the same arms, number and baseline stays.

    Arguments:
        bake: What is asked for, at the full budget.
        planned: The plan; it is written.
        todo: The runs of the screening, each carried out or failed.
    """
    for budget in bake.budgets:
        for teacher in bake.teachers:
            if kept_arms(bake, planned, budget, teacher) is not None:
                continue
            metric = PROBLEMS[type(bake.contest.teachers[teacher])].judged.metric
            rows = results(heat(bake), todo, budget, teacher, planned)
            best = [row.arm for row in in_order(rows, metric) if may_go_on(row, metric)]
            kept = {*best[: bake.screen], bake.baseline}
            ordered = [arm for arm in bake.arms if arm in kept]
            key = group_key(bake, budget, teacher)
            planned["screening"][key] = {**asked(bake), "kept": ordered}
    write_plan(bake, planned)


def may_go_on(row: Result, metric: str) -> bool:
    r"""Whether an arm's screening has finished, has a number, and has not collapsed."""
    verdicts = {run["verdict"] for run in row.runs}
    return math.isfinite(middle_value(row, metric)) and COLLAPSED not in verdicts


# ---------------------------------------------------------------- what is to be done


def hours(
    bake: BakeOff, planned: Mapping[str, Any], todo: Sequence[Cell]
) -> tuple[int, float, bool]:
    r"""Returns of some runs how many are complete, the seconds of training of the others, one
    after another, and whether those of each are known."""
    done, seconds, known = 0, 0.0, True
    for cell in todo:
        if RunFolder(cell.folder).result() is not None:
            done += 1
            continue
        prices = planned["prices"].get(cell.teacher, {}).get(cell.arm, {})
        row = prices.get("seconds", prices.get("rough"))
        if cell.budget == "time":
            seconds += bake.amount("time")
        elif row is None:
            known = False
        else:
            price = Price(**row)
            seconds += price.fixed + cell.task.settings.steps * price.update
    return done, seconds, known


def planned_work(
    bake: BakeOff, planned: Mapping[str, Any], jobs: int, *, timed: bool = True
) -> list[str]:
    r"""Returns in a line what is to be run: runs, seconds over jobs, and how many are complete;
    and a line for each arm that has no runs.

    Arguments:
        bake: What is asked for.
        planned: The plan.
        jobs: Runs at a time.
        timed: Whether the arms that are to be run are in the plan; else the runs of those that
            are not are counted as far as their budgets may pay for them, and they are named.
    """
    guess = planned if timed else supposed(bake, planned)
    first_timed = [] if timed else _to_be_timed(bake, planned)
    parts, total, sure, most = [], 0.0, True, "at most " if first_timed else ""
    if bake.screen:
        first = heat(bake)
        todo = list(cells(first, guess))
        done, seconds, known = hours(first, planned, todo)
        total, sure = total + seconds, sure and known
        parts.append(f"a screening of {_counted(len(todo), done)}")
    todo = list(cells(bake, guess))
    if bake.screen:
        todo, most = _most(bake, planned, todo)
    done, seconds, known = hours(bake, planned, todo)
    total, sure = total + seconds, sure and known
    parts.append(f"{most}{_counted(len(todo), done)}")
    about = f"about {duration(total / jobs) if total else 'nothing'} of training"
    about = f"{about}, {jobs} at a time"
    if not sure:
        unsure = "those of arms that " + (
            "are not timed yet" if first_timed else "could not be timed"
        )
        about = f"{about}, and {unsure}" if total else f"no time is known of {unsure}"
    words = f"{' and '.join(parts)}; {about}"
    return [f"to be run: {words}", *first_timed, *_without_runs(bake, guess)]


def _to_be_timed(bake: BakeOff, planned: Mapping[str, Any]) -> list[str]:
    found = {teacher: unpriced(bake, planned, teacher) for teacher in bake.teachers}
    return [
        f"to be timed first, {teacher} teacher: {', '.join(names)}"
        for teacher, names in found.items()
        if names
    ]


def _without_runs(bake: BakeOff, planned: Mapping[str, Any]) -> list[str]:
    return [
        f"{which.title(budget, teacher)}: {arm}: {why}"
        for budget in bake.budgets
        for teacher in bake.teachers
        for which in ([heat(bake), bake] if bake.screen else [bake])
        for arm in bake.arms
        if (why := why_not(which, planned, budget, teacher, arm))
    ]


def _counted(runs: int, done: int) -> str:
    return f"{runs:,} runs ({done:,} complete)"


def _most(
    bake: BakeOff, planned: Mapping[str, Any], todo: Sequence[Cell]
) -> tuple[list[Cell], str]:
    r"""Returns the most expensive runs that a screening may leave, where it is not decided yet."""
    found, open_ = [], False
    for budget in bake.budgets:
        for teacher in bake.teachers:
            mine = [c for c in todo if (c.budget, c.teacher) == (budget, teacher)]
            if kept_arms(bake, planned, budget, teacher) is None:
                open_ = True
                first = [c for c in mine if not c.seed]
                first.sort(key=lambda c: -hours(bake, planned, [c])[1])
                arms = [c.arm for c in first if c.arm != bake.baseline][: bake.screen]
                mine = [c for c in mine if c.arm in (*arms, bake.baseline)]
            found += mine
    return found, "at most " if open_ else ""
