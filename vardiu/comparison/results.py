r"""What the finished runs of a bake-off say: of each arm, and of pairs of arms.

Two arms are compared over their common seeds :math:`i = 1, \dots, n`: of the differences
:math:`d_i` of the headline metric the mean has the interval

.. math:: \bar d \pm t_{n - 1, 0.975} \, \frac{s}{\sqrt n},

:math:`s` their standard deviation and :math:`t` the quantile of Student's distribution. It covers
the expected difference with a probability of 0.95 where the differences are normal; each pair is
judged by itself.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..metrics.paired import Paired, paired
from ..monitoring.verdicts import COLLAPSED, Verdict, best_first, verdict_of
from ..runs.task import PROBLEMS
from ..storage.files import write_text_atomic
from ..storage.provenance import provenance
from ..storage.run_folder import RunFolder
from .plan import BakeOff, Cell, group_key, why_not

__all__ = ["Difference", "Result", "differences", "in_order", "record", "results"]


@dataclass(frozen=True)
class Result:
    r"""What the finished runs of an arm say.

    Arguments:
        arm: Its short name.
        title: Its name in tables.
        runs: Its finished runs.
        missing: The number of runs that are not finished.
        idle: The number of finished runs whose student was never updated: they are not ranked.
        why: Why it has no runs, see `vardiu.comparison.plan.why_not`; empty where it has.
    """

    arm: str
    title: str
    runs: list[dict[str, Any]]
    missing: int
    idle: int = 0
    why: str = ""

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


# ---------------------------------------------------------------- the results


def results(
    bake: BakeOff,
    todo: Sequence[Cell],
    budget: str,
    teacher: str,
    planned: Mapping[str, Any],
) -> list[Result]:
    r"""Returns what the finished runs of each arm say, under one budget with one teacher; and
    why an arm has none."""
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
        why = why_not(bake, planned, budget, teacher, name)
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


def worst_verdict(row: Result) -> Verdict:
    r"""Returns the verdict on an arm: that it collapsed if any of its runs did."""
    names = [run["verdict"] for run in row.runs]
    return Verdict(COLLAPSED if COLLAPSED in names else row.verdict, "")


def middle_value(row: Result, metric: str) -> float:
    r"""Returns the median of a metric over an arm's runs; NaN without runs."""
    values = row.values(metric) if row.runs else []
    known = bool(values) and all(math.isfinite(value) for value in values)
    return statistics.median(values) if known else math.nan


def in_order(rows: Sequence[Result], metric: str) -> list[Result]:
    r"""Returns arms from the best to the worst by a metric that is to be low; one with a run that
    collapsed comes after all others."""
    return best_first(rows, worst_verdict, lambda row: middle_value(row, metric))


class Difference(NamedTuple):
    r"""By how much one arm's metric is above another's, over their common seeds.

    Arguments:
        arm: The one.
        other: The other.
        seeds: The number of common seeds.
        mean: The mean difference; NaN without common seeds.
        half: Half of its 95 % interval; infinite of fewer than two seeds.
    """

    arm: str
    other: str
    seeds: int
    mean: float
    half: float

    @property
    def verdict(self) -> str:
        r"""`better` or `worse` where the interval leaves out zero, else `undecided`. The metric
        is to be low."""
        return Paired(self.seeds, self.mean, self.half).verdict


def difference(row: Result, other: Result, metric: str) -> Difference:
    r"""Returns the paired difference of two arms in a metric."""
    mine, theirs = (
        {run["seed"]: run["metrics"][metric] for run in result.runs} for result in (row, other)
    )
    return Difference(row.arm, other.arm, *paired(mine, theirs))


def differences(rows: Sequence[Result], metric: str, baseline: str = "") -> list[Difference]:
    r"""Returns the paired differences of each arm from the best one and from a baseline.

    Arguments:
        rows: The arms.
        metric: The metric, which is to be low.
        baseline: The name of an arm.
    """
    ordered = [row for row in in_order(rows, metric) if row.runs]
    others = {row.arm: row for row in (*ordered[:1], *(r for r in ordered if r.arm == baseline))}
    return [
        difference(row, other, metric)
        for other in others.values()
        for row in ordered
        if row is not other and not (other.arm == baseline and row is ordered[0])
    ]


def record(
    bake: BakeOff,
    todo: Sequence[Cell],
    planned: Mapping[str, Any],
    command: Sequence[str],
    more: Mapping[str, Any],
) -> Path:
    r"""Writes `results.json`: every number of every run, and what it depends on."""
    groups, pairs, left_out = {}, {}, {}
    for budget in bake.budgets:
        for teacher in bake.teachers:
            rows = results(bake, todo, budget, teacher, planned)
            key = group_key(bake, budget, teacher)
            metric = PROBLEMS[type(bake.contest.teachers[teacher])].judged.metric
            groups[key] = {row.arm: [_plain(run, bake.out) for run in row.runs] for row in rows}
            left_out[key] = {row.arm: row.why for row in rows if row.why}
            there = [row for row in rows if row.runs]
            pairs[key] = [
                {**difference(row, other, metric)._asdict(), "metric": metric}
                for i, row in enumerate(there)
                for other in there[i + 1 :]
                if len(row.runs) > 1 and len(other.runs) > 1
            ]
    content = {
        "provenance": provenance(command, 0),
        "contest": bake.name,
        "seeds": bake.seeds,
        "groups": groups,
        "left_out": left_out,
        "differences": pairs,
        **more,
    }
    return write_text_atomic(bake.out / "results.json", json.dumps(content, indent=1) + "\n")


def _plain(run: dict[str, Any], out: Path) -> dict[str, Any]:
    return {**run, "folder": str(Path(run["folder"]).relative_to(out))}
