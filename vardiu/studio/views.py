r"""What the page shows of runs, made of their logs: charts, tables and samples, as HTML."""

from __future__ import annotations

import math
import random
import statistics
import string
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError, RunError
from ..metrics.metric import title_of
from ..metrics.paired import paired
from ..reports.charts import Line, Point, Target, chart, is_finite
from ..reports.colours import colour_of, css_name
from ..reports.curves import stages_joined
from ..reports.panels import sample_panels
from ..runs.snapshots import Snapshot, read_snapshot, snapshots_of
from .library import SeenRun

__all__ = ["compared", "modes", "run_charts", "samples_at", "unnamed"]


# Points of a band of several seeds, and runs that are compared at once.
BAND, MOST = 24, 60


COSTS: Mapping[str, str] = {
    "seconds": "seconds of training",
    "calls": "calls of the teacher",
    "updates": "updates of the student",
}


def points(rows: Sequence[Mapping[str, Any]], x: str, y: str, error: str = "") -> list[Point]:
    r"""Returns what rows of a log have of a value, where both are finite."""
    return [
        Point(row[x], row[y], row[error] if is_finite(row.get(error)) else 0.0)
        for row in rows
        if is_finite(row.get(x)) and is_finite(row.get(y))
    ]


def reference_of(run: SeenRun, metric: str) -> Target | None:
    r"""Returns what a finished run is to reach in a metric."""
    reference = (run.folder.result() or {}).get("reference", {})
    for row in reference.get("metrics", ()):
        if row["name"] == metric and is_finite(row["value"]):
            return Target(row["value"], row["error"] or 0.0, reference.get("name", "reference"))
    return None


def run_charts(run: SeenRun, about: Mapping[str, Any]) -> list[str]:
    r"""Returns a figure of each metric that a run measures on the way, and of its losses."""
    rows = stages_joined(run.rows())
    names = list(dict.fromkeys(key for row in rows for key in row))
    metrics = [n[7:] for n in names if n.startswith("metric/") and not n.endswith("_error")]
    metrics.sort(key=lambda name: name != about.get("metric"))
    colour = css_name(str(about.get("method")))
    figures = []
    for name in metrics:
        key = f"metric/{name}"
        line = Line("", points(rows, "updates", key, f"{key}_error"), colour)
        target = reference_of(run, name)
        figures.append(chart(title_of(name), [line], COSTS["updates"], target))
    losses = [name for name in names if name.endswith("/loss")][:4]
    lines = [Line(name, points(rows, "updates", name), colour, i) for i, name in enumerate(losses)]
    return [*figures, chart("losses", lines, COSTS["updates"])]


def modes(run: SeenRun) -> dict[str, Any]:
    r"""Returns the shares of modes or classes that samples had, at each measurement."""
    found = [row for row in run.rows() if isinstance(row.get("histogram"), list)]
    return {
        "steps": [row["step"] for row in found],
        "shares": [row["histogram"] for row in found],
    }


def samples_at(run: SeenRun, index: int, method: str) -> dict[str, Any]:
    r"""Returns the samples of a moment as a figure, and which moments there are.

    Raises:
        RunError: There is no such moment, or its file is damaged.
    """
    kept = snapshots_of(run.folder)
    moments = [{"stage": row.stage, "step": row.step} for row in kept]
    if not kept:
        return {"moments": [], "index": 0, "html": ""}
    if not -1 <= index < len(kept):
        raise RunError(f"there are {len(kept):,} moments with samples, and not number {index:,}")
    index = index % len(kept)
    return {"moments": moments, "index": index, "html": panel(kept[index], method)}


def panel(snapshot: Snapshot, method: str) -> str:
    r"""Returns the figure of a moment's samples."""
    title = f"student, {snapshot.stage}, step {snapshot.step:,}"
    x = read_snapshot(snapshot.path).numpy()
    return sample_panels([(title, css_name(method), x)])[0]


# ---------------------------------------------------------------- several runs


def unnamed(snapshots: Sequence[Snapshot]) -> str:
    r"""Returns figures A, B, ... of half of the samples of runs, in one colour and on one scale.

    Which half is drawn anew each time, the same latents of each run: a figure that was told of
    before is not known again.
    """
    found = [read_snapshot(one.path).numpy() for one in snapshots]
    n = min(len(x) for x in found)
    rows = random.sample(range(n), max(1, n // 2))
    letters = string.ascii_uppercase
    return "".join(
        sample_panels(
            [(letter, "soft", x[rows]) for letter, x in zip(letters, found, strict=False)]
        )
    )


def compared(runs: Sequence[SeenRun], cost: str) -> dict[str, Any]:
    r"""Returns quality against cost of runs, seeds of one series as a band, and what pairs of
    series differ by over common seeds.

    Raises:
        ConfigError: They are of several problems, too many, or the cost is none.
    """
    if cost not in COSTS:
        raise ConfigError(f"quality is drawn against {', '.join(COSTS)}, not {cost[:60]!r}")
    if len(runs) > MOST:
        raise ConfigError(f"choose at most {MOST} runs, got {len(runs):,}")
    abouts = [run.summary() for run in runs]
    unread = next((a for a in abouts if a["state"] == "unreadable"), None)
    if unread is not None:
        raise RunError(f"{unread['name']} cannot be read: {unread['why']}")
    grounds = dict.fromkeys((a["problem"], a["metric"]) for a in abouts)
    if len(grounds) > 1:
        names = ", ".join(f"{problem} by {metric}" for problem, metric in grounds)
        raise ConfigError(f"the runs are of different problems: {names}")
    if not runs:
        return {"html": "", "pairs": [], "series": []}
    metric = str(abouts[0]["metric"])
    series: dict[tuple[str, str], list[tuple[SeenRun, dict[str, Any]]]] = {}
    for run, about in zip(runs, abouts, strict=True):
        series.setdefault((str(about["method"]), series_of(run, about)), []).append((run, about))
    lines, table = [], []
    counts: dict[str, int] = {}
    for (method, label), members in series.items():
        place = counts[method] = counts.get(method, -1) + 1
        curves = [
            points(stages_joined(run.rows()), cost, f"metric/{metric}", f"metric/{metric}_error")
            for run, _ in members
        ]
        name = label if len(members) == 1 else f"{label} ({len(members)} seeds)"
        lines.append(Line(name, band(curves), css_name(method), place))
        table.append((label, finals(members, metric)))
    figure = chart(f"{title_of(metric)} against {COSTS[cost]}", lines, COSTS[cost])
    better = 1.0 if abouts[0]["lower_is_better"] else -1.0
    return {"html": figure, "pairs": pairs(table, better), "metric": title_of(metric)}


def series_of(run: SeenRun, about: Mapping[str, Any]) -> str:
    r"""Returns the name of a run's series: its preset and method, and the folder above where the
    folder is named by its seed alone."""
    name, seed = str(run.name), about.get("seed")
    for ending in (f"seed{seed}", f"seed-{seed}", f"-s{seed}", f"-{seed}", f"/{seed}"):
        if name.endswith(ending):
            return name.removesuffix(ending).rstrip("-_/") or str(about["method"])
    return name


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


def pairs(table: Sequence[tuple[str, Mapping[int, float]]], sign: float) -> list[dict[str, Any]]:
    r"""Returns the paired difference of each two series, the first less the second."""
    found = []
    for i, (one, mine) in enumerate(table):
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


def colours(methods: Sequence[str]) -> str:
    r"""Returns the style of methods' colours that have none in the page's sheet yet."""
    return "".join(f"--{css_name(m)}:{colour_of(m).light};" for m in methods)
