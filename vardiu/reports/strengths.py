r"""Quality of a guided student against the strength of its guide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..metrics.metric import title_of
from .figures import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["series_of", "strength_curves"]


# A point of a sweep: its series, strength, calls a sample, seconds and metrics.
Row = Mapping[str, Any]


def series_of(row: Row) -> str:
    r"""Returns what a point belongs to: an unguided student, or a kind of guide."""
    if row["strength"] is None:
        return f"no guide, {row['calls']} calls"
    return f"{row['noise']} noise, {row['level']} level, {row['calls']} calls"


def strength_curves(rows: Sequence[Row], metrics: Sequence[str], path: Path) -> Path:
    r"""Draws metrics against strength, a panel each; bars are standard errors.

    What an unguided student reaches is a line across with a band, for each number of calls; that
    of the smallest is where the curves start, at strength zero.

    Arguments:
        rows: The points, of which the first is the unguided student of the fewest calls.
        metrics: The names of the metrics.
        path: The file.
    """
    columns = min(len(metrics), 3)
    lines = -(-len(metrics) // columns)
    figure = new_figure(figsize=(4.6 * columns, 3.6 * lines + 0.8), layout="constrained")
    guided = list(dict.fromkeys(series_of(r) for r in rows if r["strength"] is not None))
    for place, name in enumerate(metrics):
        ax = figure.add_subplot(lines, columns, place + 1)
        plain = [row for row in rows if row["strength"] is None]
        for i, row in enumerate(plain):
            _across(ax, row, name, COLOURS[-1 - i % 3], ("-", "--", ":", "-.")[i % 4])
        start = (0.0, *_value(plain[0], name))
        for i, series in enumerate(guided):
            mine = [(r["strength"], *_value(r, name)) for r in rows if series_of(r) == series]
            x, y, error = zip(*sorted([start, *mine]), strict=True)
            style: dict[str, Any] = {"color": COLOURS[i % 4], "marker": "osD^"[i % 4]}
            ax.errorbar(x, y, yerror(error), label=series, capsize=2, markersize=4, **style)
        ax.set(xlabel="strength of the guide", ylabel=title_of(name))
        ax.grid(alpha=0.25)
        if place == 0:
            handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return save_figure(figure, path)


def yerror(errors: Sequence[float | None]) -> list[float]:
    r"""Returns standard errors as bars; what has none has a bar of no length."""
    return [0.0 if error is None else error for error in errors]


def _value(row: Row, name: str) -> tuple[float, float | None]:
    found = next(metric for metric in row["metrics"] if metric["name"] == name)
    return found["value"], found["error"]


def _across(ax: Axes, row: Row, name: str, colour: str, dashes: str) -> None:
    value, error = _value(row, name)
    half = error or 0.0
    ax.axhline(value, color=colour, linestyle=dashes, linewidth=1, label=series_of(row))
    ax.axhspan(value - half, value + half, color=colour, alpha=0.1, linewidth=0)
