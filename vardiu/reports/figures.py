r"""Colours, and files of figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "new_figure", "save_figure", "shade"]


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


def shade(share: float) -> tuple[float, float, float, float]:
    r"""Returns the colour (red, green, blue, opacity) of a share in [0, 1], dark to light."""
    import matplotlib as mpl

    return mpl.colormaps["viridis"](share)


def save_figure(figure: Figure, path: Path) -> Path:
    r"""Writes a figure whole or not at all."""
    path = Path(path)
    with whole_file(path) as partial:
        # A layout leaves no margin to cut, which would take a second drawing.
        margins = "tight" if figure.get_layout_engine() is None else None
        figure.savefig(partial, format="png", dpi=120, bbox_inches=margins)
    return path
