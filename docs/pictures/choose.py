"""Draws which method fits which case: `python docs/pictures/choose.py`.

The numbers are read from the tables of `docs/usage/choose.md`, which are made of the kept runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/usage/choose.md"
INK, PALE = "#1f2933", "#4b5763"
ASKED, TAKEN = ("#dbeafe", "#2563eb"), ("#dcfce7", "#15803d")


# The column of a distance over that of its teacher.
RATIO = "over the teacher's"


class Case(NamedTuple):
    """What somebody has, what to take, and the beginning of the row that measured it."""

    have: str
    take: str
    run: str
    measures: tuple[str, ...]


CASES = (
    Case(
        "points, or a density\nof a few dimensions",
        "VarDiU, shared posterior,\na student that jumps",
        "`mog40-codes ",
        ("MMD²", "modes"),
    ),
    Case(
        "images, and a teacher",
        "VarDiU, anchored\n(images-vardiu; the number:\ndigits-vardiu-long)",
        "`digits-vardiu-long`",
        (RATIO, "recall"),
    ),
    Case(
        "the same, without\nanchor and posterior",
        "Diff-Instruct, the default",
        "`digits`",
        (RATIO, "recall"),
    ),
    Case(
        "images, a teacher, and\none network to train",
        "a regression on pairs",
        "`digits-pairs --pairs.solver-steps 8`",
        (RATIO, "recall"),
    ),
    Case(
        "images, and little memory",
        "VarDiU, framed\n(preset images-framed)",
        "`digits-framed`",
        (RATIO, "recall"),
    ),
    Case(
        "a few calls are allowed",
        "relational distillation\n(the number: its one call)",
        "`digits-rdd --steps 4000`",
        (RATIO, "recall"),
    ),
)


def measured(case: Case, page: str) -> str:
    """The numbers of a case, from the one row that begins with its run.

    Raises:
        KeyError: The page has no such row, or not these columns.
    """
    heads: list[str] = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| run |"):
            heads = cells
        elif line.startswith(f"| {case.run}") and heads:
            row = dict(zip(heads, cells, strict=True))
            found = ", ".join(
                f"{row[name]} × the teacher's distance" if name == RATIO else f"{name} {row[name]}"
                for name in case.measures
            )
            seeds = row["seeds"]
            return f"{found}\n{seeds} seed{'' if seeds == '1' else 's'}, {row['training']}"
    raise KeyError(case.run)


def draw(path: Path) -> None:
    """Writes the figure."""
    page = PAGE.read_text()
    figure = Figure(figsize=(9.4, 1.05 * len(CASES) + 0.6))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 9.4), ylim=(0, 1.05 * len(CASES) + 0.6))
    ax.set_axis_off()
    top = 1.05 * len(CASES) + 0.3
    for x, title in ((1.6, "you have"), (4.9, "take"), (7.9, "what it measured")):
        ax.text(x, top, title, ha="center", va="center", color=PALE, fontsize=11)
    for i, case in enumerate(CASES):
        y = top - 0.85 - 1.05 * i
        for x, text, (face, edge) in ((1.6, case.have, ASKED), (4.9, case.take, TAKEN)):
            ax.add_patch(
                FancyBboxPatch(
                    (x - 1.4, y - 0.36), 2.8, 0.72, boxstyle="round,pad=0.03", fc=face, ec=edge
                )
            )
            ax.text(x, y, text, ha="center", va="center", color=INK, fontsize=10)
        ax.annotate("", (3.45, y), (3.05, y), arrowprops={"arrowstyle": "->", "color": PALE})
        told = measured(case, page).replace(", recall", ",\nrecall")  # a line is short
        ax.text(6.55, y, told, ha="left", va="center", color=INK, fontsize=10)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
