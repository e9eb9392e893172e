r"""One colour a method, in every picture and on every page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Colour", "colour_of", "style_of"]


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
    "regression": Colour("#9A7400", "#E3BC3F"),
    "denoising": Colour("#5F6368", "#AEB4BA"),
}


# Of methods that are not on board, by the hash of their name.
OTHERS: Sequence[Colour] = (
    Colour("#6A4BBC", "#B49CFA"),
    Colour("#8A4B22", "#D79A6B"),
    Colour("#3F6F21", "#97C96F"),
    Colour("#B3203F", "#FF8299"),
    Colour("#12737D", "#62C6D0"),
    Colour("#55508F", "#A9A4E8"),
)


# Series of one method differ in these.
DASHES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v", "P")


def colour_of(method: str) -> Colour:
    r"""Returns the colour of a method: from the table, or by the SHA-256 of its name."""
    if method in METHODS:
        return METHODS[method]
    digest = hashlib.sha256(method.encode()).digest()
    return OTHERS[int.from_bytes(digest[:8], "big") % len(OTHERS)]


def style_of(method: str, index: int) -> dict[str, Any]:
    r"""Returns colour, dashes and mark of a method's series of this index, for matplotlib."""
    return {
        "color": colour_of(method).light,
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4,
    }
