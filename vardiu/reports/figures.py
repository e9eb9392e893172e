r"""Colours, and files of figures."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..storage.files import whole_file

__all__ = ["COLOURS", "save_figure"]


# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def save_figure(figure: Figure, path: Path) -> Path:
    r"""Writes a figure whole or not at all."""
    path = Path(path)
    with whole_file(path) as partial:
        # A layout leaves no margin to cut, which would take a second drawing.
        margins = "tight" if figure.get_layout_engine() is None else None
        figure.savefig(partial, format="png", dpi=120, bbox_inches=margins)
    return path
