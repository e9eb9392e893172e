r"""Pictures of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .figures import new_figure, save_figure

__all__ = ["image_grid", "scatter_grid"]


# Of samples: no method's colour, whose panels are told apart by their titles.
INK = "#333333"


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
    figure = new_figure(figsize=(5.2 * columns, 5.4 * lines))
    axis = np.linspace(-reach, reach, 240)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    field = None
    if log_density is not None:
        field = log_density(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    for i, (title, samples) in enumerate(panels):
        ax = figure.add_subplot(lines, columns, i + 1)
        if field is not None:
            levels = field.max() + np.array([-30, -20, -12, -7, -4, -2.5, -1.5, -0.7])
            ax.contour(
                axis,
                axis,
                field,
                levels=levels,
                colors="#999999",
                linewidths=0.6,
                linestyles="solid",
            )
        x, y = samples.T
        ax.scatter(x, y, s=4, alpha=0.35, color=INK, linewidths=0)
        outside = int((~(np.abs(samples) <= reach).all(axis=1)).sum())
        title = f"{title} ({outside:,} outside)" if outside else title
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)
    return save_figure(figure, path, cut=True)


def image_grid(rows: Sequence[tuple[str, np.ndarray]], path: Path, columns: int = 20) -> Path:
    r"""Draws titled blocks of images `(N, C, H, W)` in [-1, 1], one above another."""
    heights = [math.ceil(len(images) / columns) for _, images in rows]
    figure = new_figure(figsize=(0.5 * columns, 0.5 * sum(heights) + 0.45 * len(rows)))
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
    return save_figure(figure, path, cut=True)
