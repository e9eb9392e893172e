r"""Several runs of one problem, side by side: series of seeds, and how they differ."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import ConfigError, RunError, amount, shown
from ..metrics.metric import title_of
from ..metrics.paired import paired
from ..reports.charts import Line, Point, chart, is_finite
from ..reports.colours import css_name
from ..reports.curves import stages_joined
from .library import ROWS, SeenRun
from .views import COSTS, points

__all__ = ["MOST", "Series", "compared", "series_of"]


# Points of a band of several seeds, runs that are compared at once, and rows of all their logs.
BAND, MOST, ALL_ROWS = 24, 60, 6_000


# Series of which each two are compared.
EACH = 8


# Settings that a label names before it says how many more there are, and letters of each.
NAMED, LETTERS = 3, 24


class Series(NamedTuple):
    r"""Runs that differ in their seed.

    Arguments:
        label: The method, and the settings in which other series of it differ.
        method: The method.
        members: The runs, each with its summary.
    """

    label: str
    method: str
    members: Sequence[tuple[SeenRun, Mapping[str, Any]]]


def compared(runs: Sequence[SeenRun], cost: str) -> dict[str, Any]:
    r"""Returns quality against cost of runs, seeds of one series as a band, and what pairs of
    series differ by over common seeds.

    Raises:
        ConfigError: They are of several problems, too many, or the cost is none.
        RunError: One of them cannot be read.
    """
    if cost not in COSTS:
        raise ConfigError(f"quality is drawn against {', '.join(COSTS)}, not {shown(cost)}")
    if len(runs) > MOST:
        raise ConfigError(f"choose at most {MOST} runs, got {len(runs):,}")
    abouts = [run.summary() for run in runs]
    metric = common_metric(abouts)
    named = [{"id": run.id, "name": run.name} for run in runs]
    if not runs:
        return {"html": "", "pairs": [], "runs": named, "most": MOST}
    most = min(ROWS, max(40, ALL_ROWS // len(runs)))
    lines, table = [], []
    counts: dict[str, int] = {}
    for label, method, members in series_of(list(zip(runs, abouts, strict=True))):
        place = counts[method] = counts.get(method, -1) + 1
        curves = [
            points(
                stages_joined(run.rows(most)),
                cost,
                f"metric/{metric}",
                f"metric/{metric}_error",
            )
            for run, _ in members
        ]
        name = label if len(members) == 1 else f"{label} ({amount(len(members), 'seed')})"
        lines.append(Line(name, band(curves), css_name(method), place))
        table.append((label, finals(members, metric)))
    figure = chart(f"{title_of(metric)} against {COSTS[cost]}", lines, COSTS[cost])
    better = 1.0 if abouts[0]["lower_is_better"] else -1.0
    found = pairs(table, better)
    title = title_of(metric)
    return {"html": figure, "pairs": found, "metric": title, "runs": named, "most": MOST}


def common_metric(abouts: Sequence[Mapping[str, Any]]) -> str:
    r"""Returns the metric by which runs are compared; empty for none.

    Raises:
        ConfigError: They are of several problems, or are judged by nothing.
        RunError: One of them cannot be read.
    """
    unread = next((a for a in abouts if a["state"] == "unreadable"), None)
    if unread is not None:
        raise RunError(f"{unread['name']} cannot be read: {unread['why']}")
    grounds = dict.fromkeys((a["problem"], a["metric"]) for a in abouts)
    if len(grounds) > 1:
        names = ", ".join(f"{problem} by {metric}" for problem, metric in grounds)
        raise ConfigError(f"the runs are of different problems: {shown(names)}")
    judged = next((a for a in abouts if a["command"] == "teach" or not a["metric"]), None)
    if judged is not None:
        raise ConfigError(f"{judged['name']} is no student: students are compared")
    return str(abouts[0]["metric"]) if abouts else ""


def series_of(runs: Sequence[tuple[SeenRun, Mapping[str, Any]]]) -> list[Series]:
    r"""Returns runs in series: those of one method whose settings are the same but for the seed.

    Where runs of one series have the same seed, those of different folders are different series.
    """
    settings = {run.id: run.settings() for run, _ in runs}
    groups: dict[tuple[str, ...], list[tuple[SeenRun, Mapping[str, Any]]]] = {}
    for run, about in runs:
        key: tuple[str, ...] = (
            str(about["method"]),
            json.dumps(settings[run.id], sort_keys=True, default=str),
        )
        groups.setdefault(key, []).append((run, about))
    for name in (stem, lambda run, _: run.name):
        parts: dict[tuple[str, ...], list[tuple[SeenRun, Mapping[str, Any]]]] = {}
        for key, members in groups.items():
            seeds = {about["seed"] for _, about in members}
            for run, about in members:
                more = () if len(seeds) == len(members) else (name(run, about),)
                parts.setdefault((*key, *more), []).append((run, about))
        groups = parts
    found = []
    for (method, _, *places), members in groups.items():
        others = [settings[other[0][0].id] for key, other in groups.items() if key[0] == method]
        words = differing(settings[members[0][0].id], others)
        label = ", ".join([method, *words, *places[-1:]])  # the place, if seeds are the same
        found.append(Series(label, method, members))
    return found


def stem(run: SeenRun, about: Mapping[str, Any]) -> str:
    r"""Returns the name of a run's folder without the seed at its end."""
    name, seed = str(run.name), about.get("seed")
    for ending in (f"seed{seed}", f"seed-{seed}", f"-s{seed}", f"-{seed}", f"/{seed}"):
        if name.endswith(ending):
            return name.removesuffix(ending).rstrip("-_/") or name
    return name


def differing(mine: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    r"""Returns in words the settings in which some differ from others; of many the first ones."""
    names = [
        name
        for name in dict.fromkeys(name for row in (mine, *others) for name in row)
        if any(row.get(name) != mine.get(name) for row in others)
    ]
    words = []
    for name in names[:NAMED]:
        short = name.removeprefix("method.").removeprefix("problem.")
        words.append(f"{short} {shown(mine.get(name))[:LETTERS]}")
    return [*words, f"and {len(names) - NAMED} more"] if len(names) > NAMED else words


def band(curves: Sequence[Sequence[Point]]) -> list[Point]:
    r"""Returns the median of seeds where all of them are known, with half of their range as its
    error; one curve as it is."""
    curves = [curve for curve in curves if curve]
    if len(curves) < 2:
        return list(curves[0]) if curves else []
    start = max(curve[0].x for curve in curves)
    end = min(curve[-1].x for curve in curves)
    if start >= end:
        return [point for curve in curves for point in curve[-1:]]
    found = []
    for i in range(BAND):
        x = start + (end - start) * i / (BAND - 1)
        values = [at(curve, x) for curve in curves]
        found.append(Point(x, statistics.median(values), (max(values) - min(values)) / 2))
    return found


def at(curve: Sequence[Point], x: float) -> float:
    r"""Returns the value of a curve at a place within it, between its points."""
    for left, right in zip(curve, curve[1:], strict=False):
        if left.x <= x <= right.x:
            share = (x - left.x) / (right.x - left.x or 1.0)
            return left.y + share * (right.y - left.y)
    return curve[-1].y if x > curve[-1].x else curve[0].y


def finals(members: Sequence[tuple[SeenRun, Mapping[str, Any]]], metric: str) -> dict[int, float]:
    r"""Returns the final value of each seed that is finished."""
    found = {}
    for run, about in members:
        for row in (run.folder.result() or {}).get("metrics", ()):
            if row["name"] == metric and is_finite(row["value"]):
                found[int(about["seed"] or 0)] = float(row["value"])
    return found


def mean_of(values: Mapping[int, float], sign: float) -> float:
    r"""Returns the mean of seeds, lower for better; infinite of none."""
    return sign * statistics.fmean(values.values()) if values else math.inf


def pairs(table: Sequence[tuple[str, Mapping[int, float]]], sign: float) -> list[dict[str, Any]]:
    r"""Returns the paired difference of each two series, the first less the second; of many
    series those from the best one alone."""
    found = []
    if len(table) > EACH:
        order = {label: mean_of(values, sign) for label, values in table}
        table = sorted(table, key=lambda row: order[row[0]])
    for i, (one, mine) in enumerate(table[:1] if len(table) > EACH else table):
        for other, theirs in table[i + 1 :]:
            told = paired(
                {seed: sign * value for seed, value in mine.items()},
                {seed: sign * value for seed, value in theirs.items()},
            )
            known = math.isfinite(told.mean)
            found.append(
                {
                    "one": one,
                    "other": other,
                    "seeds": told.seeds,
                    "mean": sign * told.mean if known else None,
                    "half": told.half if math.isfinite(told.half) else None,
                    "verdict": told.verdict,
                }
            )
    return found
