r"""The three curves of a run's first screen: how good, how complete, and by the instrument."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..metrics.metric import title_of
from .charts import Line, Point, Target, chart, is_finite
from .colours import css_name
from .curves import stages_joined

__all__ = ["Measurements", "overview"]


# Of an instrument that is measured at several levels, so many are drawn.
LEVELS = 4


# What people call an instrument, and what a good run shows.
INSTRUMENTS: Mapping[str, tuple[str, str]] = {
    "bound": ("bound of the divergence, nats", "it falls; divergence and slack are left"),
    "negative_entropy": ("bound without the teacher's part, nats", "it falls at every level"),
    "score_gap": ("gap of the scores", "it falls, at large levels first; 1: mean and variance"),
    "spread": ("variance over the data's", "near one"),
    "offset": ("distance of the means, in the data's deviations", "near zero"),
    "gradient_snr": ("signal over noise of the gradient", "falls towards zero at the optimum"),
}


class Measurements(NamedTuple):
    r"""What a run has measured.

    Arguments:
        rows: Its log.
        metrics: Its final metrics, rows of `Metric.row`.
        reference: Those of true samples or of the teacher.
        reference_name: Who that is.
    """

    rows: Sequence[Mapping[str, Any]]
    metrics: Sequence[Mapping[str, Any]]
    reference: Sequence[Mapping[str, Any]]
    reference_name: str


def overview(
    measured: Measurements,
    metric: str,
    coverage: Sequence[str],
    instruments: Sequence[str],
    method: str,
) -> list[str]:
    r"""Returns the figures of the headline metric, of the coverage, and of an instrument.

    Arguments:
        measured: What the run has measured.
        metric: The headline metric.
        coverage: Coverage metrics, of which the first one that was measured is drawn.
        instruments: Prefixes in the log, of which the first one that was measured is drawn.
        method: The method, which gives the colour.
    """
    rows = stages_joined(measured.rows)
    logged = {key.split("/")[0] for row in rows for key in row}
    shown = next((name for name in instruments if name in logged), "score_gap")
    found = {row["name"] for row in measured.metrics}
    covered = next((name for name in coverage if name in found), None)
    figures = [_metric(measured, rows, metric, method)]
    if covered is not None:
        figures.append(_metric(measured, rows, covered, method))
    return [*figures, _instrument(rows, shown, method)]


def _metric(
    measured: Measurements, rows: Sequence[Mapping[str, Any]], name: str, method: str
) -> str:
    colour = css_name(method)
    lines = [Line("on the way", _points(rows, f"metric/{name}", f"metric/{name}_error"), colour)]
    better = ""
    for row in measured.metrics:
        if row["name"] == name and is_finite(row["value"]) and rows:
            end = Point(rows[-1]["updates"], row["value"], row["error"] or 0.0)
            lines.append(Line(f"at the end, {row['n']:,} samples", [end], colour, 3))
            better = {True: ", higher is better", False: ", lower is better"}.get(
                row["higher_is_better"], ""
            )
    target = next(
        (
            Target(row["value"], row["error"] or 0.0, measured.reference_name)
            for row in measured.reference
            if row["name"] == name and is_finite(row["value"])
        ),
        None,
    )
    return chart(f"{title_of(name)}{better}", lines, "updates of the student", target)


def _instrument(rows: Sequence[Mapping[str, Any]], name: str, method: str) -> str:
    title, note = INSTRUMENTS.get(name, (name.replace("_", " "), ""))
    logged = dict.fromkeys(key for row in rows for key in row)
    levels = [key for key in logged if key.startswith(f"{name}/") and _is_level(key)]
    keys = _spaced(sorted(levels, key=_level), LEVELS) if levels else [name]
    lines = []
    for i, key in enumerate(keys):
        level = f"σ = {_level(key):.3g}" if levels else ""
        error = f"{name}_error/{key.rpartition('/')[2]}" if levels else f"{name}_error"
        fade = 0.5 * i / max(1, len(keys) - 1)
        lines.append(Line(level, _points(rows, key, error), css_name(method), i, fade))
    return chart(title, lines, "updates of the student", note=note)


def _points(rows: Sequence[Mapping[str, Any]], key: str, error: str) -> list[Point]:
    return [
        Point(row["updates"], row[key], row[error] if is_finite(row.get(error)) else 0.0)
        for row in rows
        if is_finite(row.get(key))
    ]


def _level(key: str) -> float:
    return float(key.rpartition("/")[2])


def _is_level(key: str) -> bool:
    try:
        return math.isfinite(_level(key))
    except ValueError:
        return False


def _spaced(keys: Sequence[str], count: int) -> list[str]:
    if len(keys) <= count:
        return list(keys)
    return [keys[round(i * (len(keys) - 1) / (count - 1))] for i in range(count)]
