"""Draws how a batch flows through the rooms: `python docs/pictures/batch.py`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line

INK, PALE = "#1f2933", "#52606d"
# A colour a band: what is asked for, one step, what comes out.
ASKED, STEP, OUT = ("#dbeafe", "#2563eb"), ("#fef3c7", "#b45309"), ("#dcfce7", "#15803d")


class Box(NamedTuple):
    """A box: its middle, its size, what happens in it, and the rooms where."""

    x: float
    y: float
    title: str
    text: str
    rooms: str
    colours: tuple[str, str]
    width: float = 3.0
    height: float = 1.36


BOXES = {
    "command": Box(1.8, 8.75, "vardiu distill", "words to a task", "cli", ASKED),
    "task": Box(5.6, 8.75, "Task", "preset, settings, seed", "runs, settings", ASKED),
    "problem": Box(
        9.4, 8.75, "Problem", "teacher, networks, data, scores", "problems, teachers", ASKED
    ),
    "recipe": Box(13.2, 8.75, "Recipe", "yields stages, one by one", "methods", ASKED),
    "batch": Box(1.8, 5.75, "Batch", "rows, x, conditions, truth", "data", STEP),
    "prepare": Box(
        5.6,
        5.75,
        "prepare",
        "latents, levels, fakes,\nroll-outs; no gradient",
        "students, denoisers, samplers",
        STEP,
    ),
    "loss": Box(
        9.4,
        5.75,
        "loss of a phase",
        "teacher asked, bound or\nscore difference, a row each",
        "methods, posteriors, functional",
        STEP,
    ),
    "update": Box(
        13.2,
        5.75,
        "update",
        "gradient, clipping, an optimiser\na network, moving average",
        "training",
        STEP,
    ),
    "remember": Box(
        7.5,
        3.65,
        "end of the step",
        "memory follows: lagging copies, queues",
        "training",
        STEP,
        4.6,
        1.2,
    ),
    "report": Box(
        1.8, 1.1, "Report", "measures, alarms, log", "monitoring, metrics, reports", OUT
    ),
    "checkpoint": Box(5.6, 1.1, "Checkpoint", "verified, bit for bit", "storage", OUT),
    "student": Box(9.4, 1.1, "Student", "average, saved and measured", "students, models", OUT),
    "export": Box(13.2, 1.1, "Export", "diffusers, ONNX, adapter", "export", OUT),
}

# Lowest and highest point, title, where the title is.
BANDS = (
    (7.8, 9.95, "asked once", 0.3, ASKED),
    (2.75, 7.25, "each step: Trainer.advance", 2.2, STEP),
    (0.2, 2.3, "now and then, and at the end", 11.7, OUT),
)

# Corners of the ways that are no straight line, what goes along them, and where that is written.
WAYS = (
    (
        ((13.2, 8.07), (13.2, 7.52), (1.8, 7.52), (1.8, 6.43)),
        "a stage: objective, batches, optimisers, steps",
        (7.5, 7.52),
    ),
    (((13.2, 6.43), (13.2, 6.82), (9.4, 6.82), (9.4, 6.43)), "next phase", (11.3, 6.82)),
    (((13.2, 5.07), (13.2, 3.65), (9.8, 3.65)), "after the phases", (11.6, 3.65)),
    (((5.2, 3.65), (1.8, 3.65), (1.8, 5.07)), "next step", (3.5, 3.65)),
    (((6.6, 3.05), (6.6, 2.53), (1.8, 2.53), (1.8, 1.78)), "events", (4.0, 2.53)),
    (((6.6, 3.05), (6.6, 2.53), (5.6, 2.53), (5.6, 1.78)), "all of its state", (5.6, 2.1)),
    (((8.4, 3.05), (8.4, 2.53), (9.4, 2.53), (9.4, 1.78)), "the trained average", (9.4, 2.1)),
)


def draw_band(
    axes: Axes, low: float, high: float, title: str, x: float, colours: tuple[str, str]
) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (0.05, low),
            14.9,
            high - low,
            boxstyle="round,pad=0,rounding_size=0.18",
            facecolor=colours[0],
            edgecolor="none",
            alpha=0.38,
            zorder=0,
        )
    )
    axes.text(x, high - 0.24, title, color=colours[1], fontsize=10, weight="bold", va="center")


def draw_box(axes: Axes, box: Box) -> None:
    low = box.y - box.height / 2
    axes.add_patch(
        FancyBboxPatch(
            (box.x - box.width / 2, low),
            box.width,
            box.height,
            boxstyle="round,pad=0,rounding_size=0.14",
            facecolor="white",
            edgecolor=box.colours[1],
            linewidth=1.3,
            zorder=2,
        )
    )
    middle = {"ha": "center", "va": "center", "zorder": 3}
    top = low + box.height - 0.25
    axes.text(box.x, top, box.title, color=INK, fontsize=11, weight="bold", **middle)
    axes.text(box.x, box.y, box.text, color=PALE, fontsize=8.6, linespacing=1.25, **middle)
    font = {"fontsize": 8.2, "family": "DejaVu Sans Mono", "color": box.colours[1]}
    axes.text(box.x, low + 0.2, box.rooms, **font, **middle)


def draw_way(axes: Axes, corners: Sequence[tuple[float, float]]) -> None:
    codes = [Line.MOVETO] + [Line.LINETO] * (len(corners) - 1)
    axes.add_patch(
        FancyArrowPatch(
            path=Line(corners, codes),
            arrowstyle="-|>",
            mutation_scale=13,
            linewidth=1.4,
            color=PALE,
            joinstyle="round",
            zorder=1,
        )
    )


def picture() -> Figure:
    figure = Figure(figsize=(13, 8.7))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 15), ylim=(0.1, 10.05))
    axes.axis("off")
    for band in BANDS:
        draw_band(axes, *band)
    for box in BOXES.values():
        draw_box(axes, box)
    for row in (
        ("command", "task", "problem", "recipe"),
        ("batch", "prepare", "loss", "update"),
        ("student", "export"),
    ):
        for a, b in pairwise(BOXES[name] for name in row):
            draw_way(axes, ((a.x + a.width / 2, a.y), (b.x - b.width / 2, b.y)))
    for corners, text, (x, y) in WAYS:
        draw_way(axes, corners)
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 2, "alpha": 0.92}
        font = {"fontsize": 8.6, "style": "italic", "color": PALE}
        axes.text(x, y, text, ha="center", va="center", zorder=3, bbox=plate, **font)
    return figure


if __name__ == "__main__":
    picture().savefig(Path(__file__).with_suffix(".png"), dpi=120, facecolor="white")
