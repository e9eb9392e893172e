r"""What the page shows of runs, made of their logs: charts, tables and samples, as HTML."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RunError
from ..metrics.metric import title_of
from ..reports.charts import Line, Point, Target, chart, is_finite
from ..reports.colours import css_name
from ..reports.curves import stages_joined
from ..reports.panels import sample_panels
from ..runs.snapshots import Snapshot, read_snapshot, snapshots_of
from .library import SeenRun

__all__ = ["COSTS", "modes", "points", "run_charts", "samples_at", "unnamed"]


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


def run_charts(
    run: SeenRun, about: Mapping[str, Any], log: Sequence[Mapping[str, Any]]
) -> list[str]:
    r"""Returns a figure of each metric that a run measures on the way, and of its losses.

    Arguments:
        run: The run.
        about: Its summary.
        log: Rows of its log.
    """
    rows = stages_joined(log)
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


def modes(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    r"""Returns the shares of modes or classes that samples had at each measurement, and the ones
    that the data have."""
    found = [row for row in log if isinstance(row.get("histogram"), list)]
    return {
        "steps": [row["step"] for row in found],
        "shares": [row["histogram"] for row in found],
        "expected": found[-1].get("expected_shares") if found else None,
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
