r"""Restored images side by side, and how quality depends on solver, projection and step size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import with_error
from .figures import COLOURS, new_figure, save_figure

__all__ = ["comparison_rows", "restored_grid", "step_curves"]


# Images that a picture shows of a set.
SHOWN = 10


DASHES: Mapping[str, str] = {"none": "-", "core": "--", "tangent": "-.", "random": ":"}


def comparison_rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    r"""Returns the rows of a table: an arm each, with means and standard errors.

    Arguments:
        results: Rows with `solver`, `projection`, `step`, `note` and `metrics`.
    """
    rows = []
    for result in results:
        row: dict[str, Any] = {key: result[key] for key in ("solver", "projection", "step")}
        for metric in result["metrics"]:
            row[metric["name"]] = with_error(metric["value"], metric["error"])
        if result["metrics"]:
            row["n"] = max(metric["n"] for metric in result["metrics"])
        rows.append(row | ({"note": result["note"]} if result["note"] else {}))
    return rows


def step_curves(results: Sequence[Mapping[str, Any]], path: Path) -> Path:
    r"""Draws PSNR (where the truth is known) and residual by step size, a line a solver and
    projection, with standard errors."""
    known = [m["name"] for result in results for m in result["metrics"]]
    panels = [name for name in ("psnr", "residual") if name in known]
    titles = {"psnr": "PSNR, dB", "residual": "residual, rms of y - A(x)"}
    figure = new_figure(figsize=(6.0 * len(panels), 4.4))
    pairs = list(dict.fromkeys((r["solver"], r["projection"]) for r in results))
    solvers = list(dict.fromkeys(r["solver"] for r in results))
    for place, name in enumerate(panels):
        ax = figure.add_subplot(1, len(panels), place + 1)
        for solver, projection in pairs:
            points = [
                (r["step"], m["value"], m["error"] or 0.0)
                for r in results
                if (r["solver"], r["projection"]) == (solver, projection)
                for m in r["metrics"]
                if m["name"] == name
            ]
            if points:
                steps, values, errors = zip(*sorted(points), strict=True)
                colour = COLOURS[solvers.index(solver) % len(COLOURS)]
                style = DASHES.get(projection, "-")
                label = f"{solver}, {projection}"
                ax.errorbar(
                    steps, values, errors, fmt=f"o{style}", color=colour, ms=4, label=label
                )
        ax.set(xscale="log", xlabel="step size", title=titles[name])
        if name == "residual":
            ax.set_yscale("log")
        ax.legend(fontsize=8)
    return save_figure(figure, path, cut=True)


def restored_grid(
    sets: Sequence[tuple[str, np.ndarray]], path: Path, most: int = SHOWN, size: float = 0.9
) -> Path:
    r"""Draws sets of images of any size, one set a row: what was measured, what was restored, and
    the truth.

    Arguments:
        sets: Titles and images `(N, C, H, W)` in [-1, 1]; of each the first are shown.
        path: The file to write.
        most: How many are shown.
        size: The side of an image, in inches.
    """
    columns = min(most, max(len(images) for _, images in sets))
    figure = new_figure(figsize=(size * columns, (size + 0.22) * len(sets)))
    grid = figure.add_gridspec(len(sets), columns, hspace=0.3, wspace=0.04)
    for line, (title, images) in enumerate(sets):
        for place in range(columns):
            ax = figure.add_subplot(grid[line, place])
            ax.set_axis_off()
            if place < len(images):
                pixels = (np.clip(images[place], -1, 1).transpose(1, 2, 0) + 1) / 2
                shown = pixels if pixels.shape[2] == 3 else pixels[..., 0]
                ax.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if place == 0:
                ax.set_title(title, loc="left", fontsize=9)
    return save_figure(figure, path, cut=True)
