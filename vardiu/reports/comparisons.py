r"""Pictures that compare runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import amount
from ..metrics.metric import title_of
from .charts import Line, Point, chart, is_finite, spans_orders
from .colours import css_name, style_of
from .curves import stages_joined
from .figures import COLOURS, new_figure, save_figure, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Series", "comparison", "gradients", "quality_charts", "slacks"]


class Series(NamedTuple):
    r"""One run among those that are compared.

    Arguments:
        label: What it is called; runs of one label are seeds of one series.
        method: The name of its method, which gives the colour.
        rows: The rows of its log.
        cost: What the finished run took, as its `result.json` has it: `seconds` and
            `teacher_calls`. What the log lacks of it went into pairs and the like, and is drawn
            as spent before the first update.
    """

    label: str
    method: str
    rows: Sequence[Mapping[str, Any]]
    cost: Mapping[str, float] | None = None

    def whole(self) -> Series:
        r"""Returns the run with its stages joined, and all that it took."""
        rows = stages_joined(self.rows)
        if self.cost is None or not rows:
            return self._replace(rows=rows)
        before = {
            axis: max(0.0, self.cost[counter] - rows[-1].get(axis, 0.0))
            for axis, counter in (("seconds", "seconds"), ("calls", "teacher_calls"))
        }
        moved = [
            row | {axis: row[axis] + more for axis, more in before.items() if axis in row}
            for row in rows
        ]
        return self._replace(rows=moved)


def styles(runs: Sequence[Series]) -> dict[str, dict[str, Any]]:
    r"""Returns how each label is drawn: in its method's colour, dashed and marked apart from the
    method's other labels."""
    methods = {run.label: run.method for run in runs}
    return {label: style_of(methods[label], place) for label, place in _places(runs)}


def comparison(runs: Sequence[Series], metrics: Sequence[str], path: Path) -> Path:
    r"""Draws metrics against wall-clock and against teacher calls, a row of panels for each.

    Runs of the same label (seeds) share a colour; where there are several, the median is a thick
    line and their range a band.
    """
    figure = new_figure(figsize=(11, 4 * len(metrics)), layout="constrained")
    runs = [run.whole() for run in runs]
    panels = (("seconds", "seconds of training"), ("calls", "calls of the teacher"))
    first = figure.add_subplot(len(metrics), 2, 1)
    for row, metric in enumerate(metrics):
        for column, (axis, title) in enumerate(panels):
            place = 2 * row + column + 1
            ax = first if place == 1 else figure.add_subplot(len(metrics), 2, place)
            _bands(ax, runs, axis, metric)
            ax.set(xlabel=title, ylabel=title_of(metric.removeprefix("metric/")))
            ax.grid(alpha=0.25)
    handles, labels = first.get_legend_handles_labels()
    if len(labels) > 4:  # so many would hide the curves
        columns = columns_of(labels, figure.get_figwidth())
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)
    elif labels:
        first.legend(fontsize=8)
    return save_figure(figure, path)


def columns_of(labels: Sequence[str], width: float) -> int:
    r"""Returns the number of columns, at most four, in which a legend of eight points fits a
    width in inches: a letter is half as wide as high, a line before it takes 0.6 inches."""
    widest = 0.6 + max(map(len, labels)) * 0.5 * 8 / 72
    return max(1, min(4, int(width / widest)))


def line_style(index: int) -> dict[str, Any]:
    r"""Returns colour and dashes: told apart beyond the palette's length too."""
    dashes = ("-", "--", ":", "-.")
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": dashes[index // len(COLOURS) % len(dashes)],
    }


def quality_charts(runs: Sequence[Series], metric: str) -> list[str]:
    r"""Returns figures of a metric against seconds of training and against calls of the teacher,
    for a page: each run in its method's colour, seeds of one label alike.

    Arguments:
        runs: The runs.
        metric: The name of the metric, as in the log's `metric/NAME`.
    """
    runs = [run.whole() for run in runs]
    series = {label: i for label, i in _places(runs)}
    figures = []
    for axis, title in (("seconds", "seconds of training"), ("calls", "calls of the teacher")):
        lines, named = [], set[str]()
        for run in runs:
            points = [
                Point(row[axis], row[f"metric/{metric}"], row.get(f"metric/{metric}_error") or 0.0)
                for row in run.rows
                if is_finite(row.get(f"metric/{metric}"))
            ]
            label = "" if run.label in named else run.label
            named |= {run.label} if points else set()
            lines.append(Line(label, points, css_name(run.method), series[run.label]))
        figures.append(chart(f"{title_of(metric)} against {title}", lines, title))
    return figures


def _places(runs: Sequence[Series]) -> list[tuple[str, int]]:
    r"""Returns of each label its index among the labels of its method."""
    places: dict[str, int] = {}
    counts: dict[str, int] = {}
    for run in runs:
        if run.label not in places:
            places[run.label] = counts.get(run.method, 0)
            counts[run.method] = counts.get(run.method, 0) + 1
    return list(places.items())


def _bands(ax: Axes, runs: Sequence[Series], axis: str, metric: str) -> None:
    drawn: list[float] = []
    for label, style in styles(runs).items():
        series = []
        for run in runs:
            pairs = [(r[axis], r[metric]) for r in run.rows if r.get(metric) is not None]
            if run.label == label and pairs:
                series.append(np.array(pairs, dtype=float).T)
        if not series:
            continue
        drawn += [float(end) for _, y in series for end in (y.min(), y.max())]
        start, end = max(s[0][0] for s in series), min(s[0][-1] for s in series)
        if len(series) == 1 or start >= end:  # what does not overlap has no median
            for k, points in enumerate(series):
                shown = None if k else label
                ax.plot(*points, label=shown, linewidth=1.5, **style)
            continue
        x = np.linspace(start, end, 100)
        y = np.stack([np.interp(x, *s) for s in series])
        spaced = {**style, "markevery": 10}  # the median is interpolated: marks tell it apart
        ax.plot(x, np.median(y, axis=0), label=f"{label} ({amount(len(y), 'seed')})", **spaced)
        ax.fill_between(x, y.min(0), y.max(0), color=style["color"], alpha=0.2, linewidth=0)
    if drawn and spans_orders(min(drawn), max(drawn)):
        ax.set_yscale("log")


def gradients(arms: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> Path:
    r"""Draws bias and deviation of gradients at several points of training, a group an arm."""
    figure = new_figure(figsize=(max(8, 1.3 * len(arms)), 7), layout="constrained")
    for i, (key, title) in enumerate((("bias", "bias"), ("deviation", "deviation of one update"))):
        ax = figure.add_subplot(2, 1, i + 1)
        for j, rows in enumerate(arms.values()):
            for k, row in enumerate(rows):
                place = j + 0.8 * ((k + 0.5) / len(rows) - 0.5)
                label = f"at {row['progress']:.0%} of training" if j == 0 else None
                ax.bar(
                    place,
                    row[key],
                    yerr=row["bias_error"] if key == "bias" else None,
                    label=label,
                    capsize=2,
                    width=0.8 / len(rows),
                    color=shade(k / max(1, len(rows) - 1)),
                )
        ax.set_yscale("log")
        ax.set_ylabel(f"{title}, / norm of the gradient")
        ax.set_xticks(range(len(arms)), list(arms), fontsize=8, rotation=15, ha="right")
        ax.grid(alpha=0.25, axis="y")
        if i == 0:
            ax.legend(fontsize=8)
    return save_figure(figure, path)


def slacks(
    arms: Sequence[tuple[str, str, Sequence[tuple[float, float, float]]]], path: Path
) -> Path:
    r"""Draws the slack of bounds against the noise level, with standard errors.

    Arguments:
        arms: Of each its title, its method, and rows of level, slack and standard error.
        path: The file to write.
    """
    figure = new_figure(figsize=(7, 4.5), layout="constrained")
    ax = figure.add_subplot()
    drawn = styles([Series(title, method, ()) for title, method, _ in arms])
    for title, _, rows in arms:
        sigma, value, error = np.array(rows).T
        ax.errorbar(sigma, value, yerr=error, label=title, capsize=2, **drawn[title])
    ax.set(xscale="log", xlabel="sigma", ylabel="bound less divergence, nats")
    ax.axhline(0, color="#888888", linewidth=0.8)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8)
    return save_figure(figure, path)
