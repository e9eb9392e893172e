r"""Reference curves: what finished runs of a preset looked like on the way.

They are package data, `reference/<preset>.json`, made by `benchmarks/references.py`; a run's own
curves are drawn over them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

__all__ = ["preset_curves", "summary"]


POINTS = 41


# Losses are left out: a method's own, they say less than the bound at a level.
KEPT = ("metric/", "bound/", "negative_entropy/", "score_gap/", "spread", "offset", "gradient_snr")


# The method's loss of the phase `bound`, which are no levels.
PHASE = ("bound/loss", "bound/negative_entropy", "bound/gradient")


def preset_curves(preset: str) -> Mapping[str, Mapping[str, Sequence[float]]] | None:
    r"""Returns the curves of a preset by the name of the quantity, or `None` if there are none."""
    path = resources.files("vardiu.monitoring") / "reference" / f"{preset}.json"
    return json.loads(path.read_text())["curves"] if path.is_file() else None


def summary(logs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, list[float]]]:
    r"""Returns range and median over runs of each quantity that all of them logged, by progress.

    Arguments:
        logs: The rows of each run's last stage. Progress is measured in student updates.
    """
    curves = {}
    # Any row may be the one that was measured.
    for name in dict.fromkeys(k for row in logs[0] for k, v in row.items() if _kept(k, v)):
        series = []
        for rows in logs:
            end = rows[-1]["updates"]
            points = [(r["updates"] / end, r[name]) for r in rows if r.get(name) is not None]
            if len(points) > 1:
                series.append(np.array(points, dtype=float).T)
        if len(series) != len(logs):
            continue
        start = max(s[0][0] for s in series)
        grid = np.linspace(start, 1.0, POINTS)
        values = np.stack([np.interp(grid, *s) for s in series])
        curves[name] = {
            "progress": [round(float(p), 4) for p in grid],
            "low": _short(values.min(0)),
            "median": _short([statistics.median(column) for column in values.T]),
            "high": _short(values.max(0)),
        }
    return curves


def _kept(key: str, value: object) -> bool:
    named = key.startswith(KEPT) and not key.startswith(PHASE) and not key.endswith("_error")
    return named and isinstance(value, float)


def _short(values: Any) -> list[float]:  # noqa: ANN401 (an array or a list)
    return [float(f"{value:.5g}") for value in values]
