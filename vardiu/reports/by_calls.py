r"""Quality against calls: metrics of samples that took different numbers of network calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..metrics.metric import Metric, title_of
from .figures import COLOURS, new_figure, save_figure

__all__ = ["Measured", "by_calls"]


class Measured(NamedTuple):
    r"""What samples of one number of calls are worth.

    Arguments:
        who: Who made them: a line of the figure.
        calls: The number of calls a sample.
        metrics: Their metrics.
    """

    who: str
    calls: int
    metrics: Sequence[Metric]


def by_calls(
    rows: Sequence[Measured], reference: Mapping[str, Metric], who: str, path: Path, title: str
) -> Path:
    r"""Draws a panel for each metric, with a line and standard errors for each who.

    Arguments:
        rows: What was measured.
        reference: By their names, the metrics that a student is compared with: a band.
        who: What the reference is.
        path: The picture's file.
        title: The heading.
    """
    names = list(dict.fromkeys(metric.name for row in rows for metric in row.metrics))
    figure = new_figure(figsize=(4.2 * len(names), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    calls = sorted({row.calls for row in rows})
    for place, name in enumerate(names):
        ax = figure.add_subplot(1, len(names), place + 1)
        if name in reference:
            value, error = reference[name].value, reference[name].error or 0.0
            ax.axhspan(value - error, value + error, color="#BBBBBB", alpha=0.5, linewidth=0)
            ax.axhline(value, color="#777777", linewidth=1, label=who)
        values = []
        for colour, line in zip(COLOURS, dict.fromkeys(row.who for row in rows), strict=False):
            found = [(r.calls, m) for r in rows if r.who == line for m in r.metrics]
            points = [(n, m.value, m.error or 0.0) for n, m in found if m.name == name]
            if points:
                x, y, e = np.array(points, dtype=float).T
                ax.errorbar(x, y, e, marker="o", markersize=4, capsize=2, color=colour, label=line)
                values += y.tolist()
        ax.set_xscale("log", base=2)
        ax.set_xticks(calls, [str(n) for n in calls])
        ax.minorticks_off()
        if min(values) > 0 and max(values) > 20 * min(values):
            ax.set_yscale("log")
        ax.set_xlabel("calls a sample")
        ax.set_title(title_of(name), fontsize=10)
        ax.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=8)
    return save_figure(figure, path)
