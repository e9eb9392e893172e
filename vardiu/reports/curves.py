r"""Pictures: samples, curves, comparisons. Each function writes a PNG and returns its path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import COLOURS, new_figure, panel_figure, save_figure, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["convergence", "curves", "stages_joined"]


# What a row holds besides quantities to draw.
HIDDEN = {
    "step",
    "updates",
    "seconds",
    "calls",
    "stage",
    "nonfinite",
    "histogram",
    "expected_shares",
    "alarms",
}


def stages_joined(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    r"""Returns rows whose updates, seconds and calls go on counting from stage to stage."""
    axes = ("updates", "seconds", "calls")
    result: list[dict[str, Any]] = []
    before = dict.fromkeys(axes, 0.0)
    stage = rows[0].get("stage") if rows else None
    for row in rows:
        if row.get("stage") != stage:
            stage, last = row.get("stage"), result[-1]
            before = {axis: last.get(axis, 0.0) for axis in axes}
        result.append(dict(row) | {a: before[a] + row[a] for a in axes if a in row})
    return result


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    r"""Returns the panels of a log: names that differ in what follows the last slash share one."""
    groups: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        if key in HIDDEN or "_error" in key:
            continue
        head, _, tail = key.rpartition("/")
        level = tail.replace(".", "").replace("e-", "").replace("e+", "").isdigit()
        groups.setdefault(head if level else key, []).append(key)
    return groups


def curves(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    headline: Sequence[str] = (),
    reference: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> Path:
    r"""Draws what a run logged, a panel for each quantity, against the student's updates.

    Arguments:
        rows: The rows of the log.
        path: The file to write.
        headline: The metrics that are drawn against the seconds of training too, in a row of
            their own.
        reference: For some quantities `progress` in [0, 1] of the last stage, and `low`, `median`
            and `high` of finished runs, drawn below.
    """
    rows = stages_joined(rows)
    groups = _groups(rows)
    timed = [f"metric/{name}" for name in headline if f"metric/{name}" in groups]
    panels = [(group, keys, "updates") for group, keys in groups.items()]
    columns = min(4, max(1, len(panels)))
    places = list(range(len(panels)))
    places += [math.ceil(len(panels) / columns) * columns + i for i in range(len(timed))]
    panels += [(key, [key], "seconds") for key in timed]
    lines = max(1, math.ceil((max(places, default=0) + 1) / columns))
    figure = panel_figure(columns, lines)
    for place, (group, keys, axis) in zip(places, panels, strict=True):
        ax = figure.add_subplot(lines, columns, place + 1)
        _reference(ax, rows, keys, axis, reference or {})
        _lines(ax, rows, keys, axis)
        ax.set_title(group, fontsize=10)
        ax.set_xlabel("student updates" if axis == "updates" else "seconds", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.25)
        if len(keys) > 1:
            title = None if group.endswith("quantile") else "sigma"
            ax.legend(title=title, fontsize=6, title_fontsize=7, ncols=2)
    return save_figure(figure, path)


def _reference(
    ax: Axes,
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    axis: str,
    reference: Mapping[str, Mapping[str, Sequence[float]]],
) -> None:
    r"""Draws reference curves over the last stage: a band, or medians alone of several lines."""
    stage = rows[-1].get("stage") if rows else None
    before = [row[axis] for row in rows if row.get("stage") != stage]
    start, end = max(before, default=0.0), rows[-1][axis] if rows else 0.0
    for j, key in enumerate(keys):
        known = reference.get(key)
        if known is None:
            continue
        x = start + (end - start) * np.array(known["progress"])
        if len(keys) > 1:
            ax.plot(x, known["median"], "--", color=_colour(j, len(keys)), linewidth=0.8)
            continue
        ax.fill_between(x, known["low"], known["high"], color="#BBBBBB", alpha=0.6, linewidth=0)
        ax.plot(x, known["median"], color="#777777", linewidth=1)


def _colour(index: int, of: int) -> Any:  # noqa: ANN401 (whatever a colour is)
    return COLOURS[0] if of == 1 else shade(index / (of - 1))


def _lines(ax: Axes, rows: Sequence[Mapping[str, Any]], keys: Sequence[str], axis: str) -> None:
    for j, key in enumerate(keys):
        shown = [row for row in rows if row.get(key) is not None]
        if not shown:
            continue
        x, y = np.array([(row[axis], row[key]) for row in shown], dtype=float).T
        colour = _colour(j, len(keys))
        label = key.rpartition("/")[2] if len(keys) > 1 else None
        ax.plot(x, y, color=colour, linewidth=1.2, label=label)
        head, _, tail = key.rpartition("/")
        names = (f"{key}_error", f"{head}_error/{tail}")
        name = next((name for name in names if all(name in row for row in shown)), None)
        if name is not None:
            e = np.array([row[name] for row in shown], dtype=float)
            ax.fill_between(x, y - e, y + e, color=colour, alpha=0.2, linewidth=0)
    values = [row[k] for row in rows for k in keys if row.get(k) is not None]
    if values and min(values) > 0 and max(values) > 50 * min(values):
        ax.set_yscale("log")
    elif values and (sizes := np.abs(values)).max() > 50 * np.median(sizes) > 0:
        # A bound that is about zero at a large level may be a little below: linear around zero.
        ax.set_yscale("symlog", linthresh=float(np.quantile(sizes[sizes > 0], 0.25)))


def convergence(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    r"""Draws the share of each mode or class over the evaluations, and the last one as bars.

    Shares are relative to those of the data: one is what is expected of a mode.
    """
    seen = [row for row in rows if "histogram" in row]
    stage = seen[-1]["stage"]
    seen = [row for row in seen if row["stage"] == stage]
    shares = np.array([row["histogram"] for row in seen], dtype=float)
    shares = shares / np.array(seen[-1]["expected_shares"], dtype=float)
    figure = new_figure(figsize=(11, 4))
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.14, top=0.9, wspace=0.1)
    ax = figure.add_subplot(1, 2, 1)
    image = ax.imshow(
        np.clip(shares.T, 0, 2), aspect="auto", cmap="RdBu", vmin=0, vmax=2, origin="lower"
    )
    ax.set_xticks(range(len(seen)), [f"{row['updates']:,}" for row in seen], fontsize=7)
    ax.set(xlabel="student updates", ylabel="mode or class", title="share, relative to the data's")
    figure.colorbar(image, ax=ax)
    ax = figure.add_subplot(1, 2, 2)
    ax.bar(range(shares.shape[1]), shares[-1], color=COLOURS[0])
    ax.axhline(1, color="#888888", linewidth=0.8)
    ax.set(xlabel="mode or class", title=f"after {seen[-1]['updates']:,} updates")
    ax.grid(alpha=0.25, axis="y")
    return save_figure(figure, path)
