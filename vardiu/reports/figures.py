r"""Colours, and files of figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "new_figure", "panel_figure", "save_figure", "shade"]


# Of a panel of a grid of curves, in inches: its size, and the margins around its axes.
PANEL = 4.6, 3.1
LEFT, RIGHT, BOTTOM, TOP = 0.75, 0.15, 0.5, 0.35

# Dots an inch.
RESOLUTION = 120


# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def new_figure(**settings: Any) -> Figure:  # noqa: ANN401 (matplotlib's own)
    r"""Returns an empty figure. Matplotlib is imported here: commands that draw nothing wait for
    nothing.

    Arguments:
        settings: What `matplotlib.figure.Figure` takes: `figsize` in inches, `layout`.
    """
    from matplotlib.figure import Figure

    return Figure(**settings)


def panel_figure(columns: int, lines: int) -> Figure:
    r"""Returns an empty figure with room for so many panels, with fixed margins around each.

    A layout that looks for the margins measures every label of every panel twice, which takes
    longer than all of the drawing.
    """
    width, height = PANEL
    figure = new_figure(figsize=(width * columns, height * lines))
    figure.subplots_adjust(
        left=LEFT / (width * columns),
        right=1 - RIGHT / (width * columns),
        bottom=BOTTOM / (height * lines),
        top=1 - TOP / (height * lines),
        wspace=(LEFT + RIGHT) / (width - LEFT - RIGHT),
        hspace=(BOTTOM + TOP) / (height - BOTTOM - TOP),
    )
    return figure


def shade(share: float) -> tuple[float, float, float, float]:
    r"""Returns the colour (red, green, blue, opacity) of a share in [0, 1], dark to light."""
    import matplotlib as mpl

    return mpl.colormaps["viridis"](share)


def save_figure(figure: Figure, path: Path, *, cut: bool = False) -> Path:
    r"""Writes a figure whole or not at all.

    Arguments:
        figure: The figure.
        path: The file.
        cut: Whether to cut its margins, which takes a second drawing; where a layout, or
            `panel_figure`, leaves none there is nothing to cut.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    figure.set_dpi(RESOLUTION)
    with whole_file(path) as partial:
        if cut:
            figure.savefig(partial, format="png", dpi=RESOLUTION, bbox_inches="tight")
        else:  # `savefig` would draw it twice
            FigureCanvasAgg(figure).print_png(str(partial))
    return path
