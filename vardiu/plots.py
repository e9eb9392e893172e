r"""Pictures: samples, curves, comparisons. Each function writes a PNG and returns its path."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "comparison",
    "convergence",
    "curves",
    "gradients",
    "image_grid",
    "scatter_grid",
    "slacks",
]

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def _save(figure: Figure, path: Path) -> Path:
    r"""Writes a figure whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.part")
    figure.savefig(partial, format="png", dpi=120, bbox_inches="tight")
    partial.replace(path)
    return path


def scatter_grid(
    panels: Sequence[tuple[str, np.ndarray]],
    log_density: Callable[[np.ndarray], np.ndarray] | None,
    reach: float,
    path: Path,
) -> Path:
    r"""Draws panels of 2-D samples `(N, 2)` over the contours of a log-density.

    Arguments:
        panels: Titles and samples.
        log_density: Of points `(M, 2)`, their log-densities `(M,)`; no contours without it.
        reach: Half the side of the square that is shown.
        path: The file to write.
    """
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.2 * columns, 5.4 * lines))
    axis = np.linspace(-reach, reach, 240)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    field = None
    if log_density is not None:
        field = log_density(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    for i, (title, samples) in enumerate(panels):
        ax = figure.add_subplot(lines, columns, i + 1)
        if field is not None:
            levels = field.max() + np.array([-30, -20, -12, -7, -4, -2.5, -1.5, -0.7])
            style = {"colors": "#999999", "linewidths": 0.6, "linestyles": "solid"}
            ax.contour(axis, axis, field, levels=levels, **style)
        ax.scatter(*samples.T, s=4, alpha=0.35, color=COLOURS[i % 2], linewidths=0)
        outside = int((~(np.abs(samples) <= reach).all(axis=1)).sum())
        title = f"{title} ({outside:,} outside)" if outside else title
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)
    return _save(figure, path)


def image_grid(rows: Sequence[tuple[str, np.ndarray]], path: Path, columns: int = 20) -> Path:
    r"""Draws titled blocks of images `(N, C, H, W)` in [-1, 1], one above another."""
    heights = [math.ceil(len(images) / columns) for _, images in rows]
    figure = Figure(figsize=(0.5 * columns, 0.5 * sum(heights) + 0.45 * len(rows)))
    spec = figure.add_gridspec(len(rows), 1, height_ratios=heights, hspace=0.22)
    for i, (title, images) in enumerate(rows):
        n, c, h, w = images.shape
        full = np.ones((heights[i] * columns, c, h + 1, w + 1), dtype=np.float32)
        full[:n, :, :h, :w] = np.clip(images, -1, 1)
        full = full.reshape(heights[i], columns, c, h + 1, w + 1).transpose(0, 3, 1, 4, 2)
        picture = full.reshape(heights[i] * (h + 1), columns * (w + 1), c)
        ax = figure.add_subplot(spec[i])
        ax.imshow(
            (picture.squeeze(-1) if c == 1 else (picture + 1) / 2),
            cmap="gray",
            vmin=-1,
            vmax=1,
            interpolation="nearest",
        )
        ax.set_title(title, loc="left", fontsize=11)
        ax.set_axis_off()
    return _save(figure, path)


# What a row holds besides quantities to draw.
HIDDEN = {
    "step",
    "updates",
    "seconds",
    "calls",
    "stage",
    "nonfinite",
    "histogram",
    "due",
    "alarms",
}


def _in_a_row(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
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
    rows = _in_a_row(rows)
    groups = _groups(rows)
    timed = [f"metric/{name}" for name in headline if f"metric/{name}" in groups]
    panels = [(group, keys, "updates") for group, keys in groups.items()]
    columns = min(4, max(1, len(panels)))
    places = list(range(len(panels)))
    places += [math.ceil(len(panels) / columns) * columns + i for i in range(len(timed))]
    panels += [(key, [key], "seconds") for key in timed]
    lines = max(1, math.ceil((max(places, default=0) + 1) / columns))
    figure = Figure(figsize=(4.6 * columns, 3.1 * lines), layout="tight")
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
    return _save(figure, path)


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
    return COLOURS[0] if of == 1 else mpl.colormaps["viridis"](index / (of - 1))


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

    Shares are relative to those of the data: one is a mode's due.
    """
    seen = [row for row in rows if "histogram" in row]
    stage = seen[-1]["stage"]
    seen = [row for row in seen if row["stage"] == stage]
    shares = np.array([row["histogram"] for row in seen], dtype=float)
    shares = shares / np.array(seen[-1]["due"], dtype=float)
    figure = Figure(figsize=(11, 4), layout="constrained")
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
    return _save(figure, path)


def comparison(
    runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], metrics: Sequence[str], path: Path
) -> Path:
    r"""Draws metrics against wall-clock and against teacher calls, a row of panels for each.

    Runs of the same label (seeds) share a colour; where there are several, the median is a thick
    line and their range a band.
    """
    figure = Figure(figsize=(11, 4 * len(metrics)), layout="constrained")
    runs = [(label, _in_a_row(rows)) for label, rows in runs]
    panels = (("seconds", "seconds of training"), ("calls", "calls of the teacher"))
    first = figure.add_subplot(len(metrics), 2, 1)
    for row, metric in enumerate(metrics):
        for column, (axis, title) in enumerate(panels):
            place = 2 * row + column + 1
            ax = first if place == 1 else figure.add_subplot(len(metrics), 2, place)
            _bands(ax, runs, axis, metric)
            ax.set(xlabel=title, ylabel=metric.removeprefix("metric/"))
            ax.grid(alpha=0.25)
    handles, labels = first.get_legend_handles_labels()
    if len(labels) > 4:  # so many would hide the curves
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    elif labels:
        first.legend(fontsize=8)
    return _save(figure, path)


def _style(index: int) -> dict[str, Any]:
    r"""Returns colour and dashes: told apart beyond the palette's length too."""
    dashes = ("-", "--", ":", "-.")
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": dashes[index // len(COLOURS) % len(dashes)],
    }


def _bands(
    ax: Axes, runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], axis: str, metric: str
) -> None:
    positive = True
    for j, label in enumerate(dict.fromkeys(label for label, _ in runs)):
        style = _style(j)
        series = []
        for name, rows in runs:
            points = [(r[axis], r[metric]) for r in rows if r.get(metric) is not None]
            if name == label and points:
                series.append(np.array(points, dtype=float).T)
        if not series:
            continue
        positive &= all((y > 0).all() for _, y in series)
        start, end = max(s[0][0] for s in series), min(s[0][-1] for s in series)
        if len(series) == 1 or start >= end:  # what does not overlap has no median
            for k, points in enumerate(series):
                shown = None if k else label
                ax.plot(*points, label=shown, marker=".", linewidth=1.5, **style)
            continue
        x = np.linspace(start, end, 100)
        y = np.stack([np.interp(x, *s) for s in series])
        ax.plot(x, np.median(y, axis=0), label=f"{label} ({len(y)} seeds)", **style)
        ax.fill_between(x, y.min(0), y.max(0), color=style["color"], alpha=0.2, linewidth=0)
    if positive and ax.has_data():
        ax.set_yscale("log")


def gradients(arms: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> Path:
    r"""Draws bias and deviation of gradients at several points of training, a group an arm."""
    figure = Figure(figsize=(max(8, 1.3 * len(arms)), 7), layout="constrained")
    shades = mpl.colormaps["viridis"]
    for i, (key, title) in enumerate((("bias", "bias"), ("deviation", "deviation of one update"))):
        ax = figure.add_subplot(2, 1, i + 1)
        for j, rows in enumerate(arms.values()):
            for k, row in enumerate(rows):
                place = j + 0.8 * ((k + 0.5) / len(rows) - 0.5)
                label = f"at {row['progress']:.0%} of training" if j == 0 else None
                bar = {"width": 0.8 / len(rows), "color": shades(k / max(1, len(rows) - 1))}
                error = row["bias_error"] if key == "bias" else None
                ax.bar(place, row[key], yerr=error, label=label, capsize=2, **bar)
        ax.set_yscale("log")
        ax.set_ylabel(f"{title}, / norm of the gradient")
        ax.set_xticks(range(len(arms)), list(arms), fontsize=8, rotation=15, ha="right")
        ax.grid(alpha=0.25, axis="y")
        if i == 0:
            ax.legend(fontsize=8)
    return _save(figure, path)


def slacks(arms: Mapping[str, Sequence[tuple[float, float, float]]], path: Path) -> Path:
    r"""Draws the slack of bounds against the noise level, with standard errors."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    ax = figure.add_subplot()
    for j, (title, rows) in enumerate(arms.items()):
        sigma, value, error = np.array(rows).T
        ax.errorbar(sigma, value, yerr=error, label=title, capsize=2, marker=".", **_style(j))
    ax.set(xscale="log", xlabel="sigma", ylabel="bound less divergence, nats")
    ax.axhline(0, color="#888888", linewidth=0.8)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8)
    return _save(figure, path)
