r"""One colour a method, in every picture and on every page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Colour", "Shape", "colour_of", "css_name", "css_variables", "shape_of", "style_of"]


class Colour(NamedTuple):
    r"""A colour on white paper, and the same one on a dark ground."""

    light: str
    dark: str


# After Okabe and Ito, told apart by colour-blind readers too.
METHODS: Mapping[str, Colour] = {
    "vardiu": Colour("#0072B2", "#5BB8F0"),
    "diff_instruct": Colour("#D55E00", "#FF9248"),
    "dmd2": Colour("#00855F", "#2CC9A0"),
    "consistency": Colour("#B0478D", "#EB8FCB"),
    "lcm": Colour("#8A3FA0", "#CE93D8"),
    "consistency_training": Colour("#C0392B", "#F1948A"),
    "regression": Colour("#9A7400", "#E3BC3F"),
    "emd": Colour("#A65300", "#E8A05C"),
    "sid": Colour("#00798A", "#4DD0E1"),
    "adm": Colour("#C2185B", "#FF80AB"),
    "f_distill": Colour("#5D7A00", "#B5D24A"),
    "freeflow": Colour("#7B1FA2", "#D58BEA"),
    "sds": Colour("#6A4BBC", "#B49CFA"),
    "mean_shift": Colour("#8C3D10", "#F0A27A"),
    "fd_loss": Colour("#3D5A80", "#9DB8DC"),
    "diff_ratio": Colour("#A3004F", "#FF6FA8"),
    "d3sr": Colour("#00636B", "#52C7D0"),
    "osediff": Colour("#8A5A00", "#DDB25A"),
    "energy": Colour("#2E6B4F", "#7FCBA6"),
    "redif": Colour("#8A1538", "#F48CA7"),
    "progressive": Colour("#4E5BA6", "#A3AEF5"),
    "rdd": Colour("#1B6F8A", "#7CC7DF"),
    "ddil": Colour("#8A5A1B", "#DDB57C"),
    "denoising": Colour("#5F6368", "#AEB4BA"),
}


# Of families of methods, where a picture has too many for a colour each.
FAMILIES: Mapping[str, Colour] = {
    "matching": Colour("#D55E00", "#FF9248"),
    "bound": Colour("#0072B2", "#5BB8F0"),
    "adversarial": Colour("#00855F", "#2CC9A0"),
    "trajectory": Colour("#B0478D", "#EB8FCB"),
    "other": Colour("#5F6368", "#AEB4BA"),
}


# Of methods that are not on board, by the hash of their name.
OTHERS: Sequence[Colour] = (
    Colour("#8A4B22", "#D79A6B"),
    Colour("#3F6F21", "#97C96F"),
    Colour("#B3203F", "#FF8299"),
    Colour("#12737D", "#62C6D0"),
    Colour("#55508F", "#A9A4E8"),
)


class Shape(NamedTuple):
    r"""Dashes and mark of a series: for matplotlib, and for SVG."""

    dashes: str
    marker: str
    svg_dashes: str
    svg_mark: str


DASHES = (("-", ""), ("--", "7 4"), (":", "2 3"), ("-.", "8 3 2 3"))


MARKS = (
    ("o", "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0"),
    ("s", "M-3-3h6v6h-6z"),
    ("^", "M0-4L4 3H-4z"),
    ("D", "M0-4L4 0 0 4-4 0z"),
    ("v", "M0 4L-4-3H4z"),
    ("P", "M-1-3h2v2h2v2h-2v2h-2v-2h-2v-2h2z"),
)


# Series of one colour differ in these.
SHAPES: Sequence[Shape] = tuple(
    Shape(DASHES[i % 4][0], MARKS[i % 6][0], DASHES[i % 4][1], MARKS[i % 6][1]) for i in range(12)
)


def shape_of(index: int) -> Shape:
    r"""Returns dashes and mark of a method's series of this index."""
    return SHAPES[index % len(SHAPES)]


def colour_of(method: str) -> Colour:
    r"""Returns the colour of a method or family: of a table, or by the SHA-256 of its name."""
    known = {**METHODS, **FAMILIES}
    if method in known:
        return known[method]
    digest = hashlib.sha256(method.encode()).digest()
    return OTHERS[int.from_bytes(digest[:8], "big") % len(OTHERS)]


def style_of(method: str, index: int) -> dict[str, Any]:
    r"""Returns colour, dashes and mark of a method's series of this index, for matplotlib."""
    shape = shape_of(index)
    return {
        "color": colour_of(method).light,
        "linestyle": shape.dashes,
        "marker": shape.marker,
        "markersize": 4,
    }


def css_name(method: str) -> str:
    r"""Returns the CSS variable of a method's colour, without its two dashes."""
    return "m-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in method)


def css_variables(methods: Sequence[str]) -> str:
    r"""Returns the style that sets the variables of methods' colours, in the light and dark."""
    known = {css_name(method): colour_of(method) for method in methods}
    light = "".join(f"--{name}:{colour.light};" for name, colour in known.items())
    dark = "".join(f"--{name}:{colour.dark};" for name, colour in known.items())
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
