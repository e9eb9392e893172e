r"""Classes as people write them: numbers, words, names of folders; and the names of columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import shown
from ..storage.limits import limit

__all__ = ["CAPTIONS", "IMAGES", "LABELS", "absent", "mapping", "natural", "numbered", "whole"]


# Names of columns, arrays and keys, the first that is there before the others.
LABELS = ("label", "labels", "class", "cls", "y", "target")
CAPTIONS = ("text", "caption", "prompt")
IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")


def natural(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    r"""Returns the key of the natural order, in which numbers within names count as numbers.

    Example:
        >>> sorted(["class10", "class9", "b"], key=natural)
        ['b', 'class9', 'class10']
    """
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+", name)
    key = tuple((0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts)
    return key, name


def whole(value: object) -> int:
    r"""Returns the number of a class.

    Raises:
        ValueError: It is no whole number, or beyond the limit of classes.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"its class is {shown(value)}, and must be a whole number")
    # What is not a number lies within no bounds.
    if not -limit("classes") <= value <= limit("classes") or value != int(value):
        raise ValueError(
            f"its class is {shown(value)}, and must be a whole number of at most "
            f"{limit('classes'):,}"
        )
    return int(value)


def absent(value: object) -> bool:
    r"""Whether a cell of a table states nothing."""
    return value is None or isinstance(value, str) and not value.strip()


def numbered(values: Sequence[object]) -> tuple[list[int | None], list[str]]:
    r"""Returns the classes of a column, and their names where it holds words.

    Numbers, also as text, stand for themselves; words are counted from 0 in natural order;
    nothing stands for no class.

    Raises:
        ValueError: A value is neither, or there are both.
    """
    there = [v for v in values if not absent(v)]
    words = sorted({v for v in there if isinstance(v, str)}, key=natural)
    if any(not re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", word) for word in words):
        other = next((v for v in there if not isinstance(v, str)), None)
        if other is not None:
            raise ValueError(f"classes are words and others: {shown(words[0])} and {shown(other)}")
        place = {word: i for i, word in enumerate(words)}
        return [None if absent(v) else place[str(v)] for v in values], words
    return [None if absent(v) else whole(v) for v in values], []


def mapping(names: Sequence[str], most: int = 20) -> str:
    r"""Returns classes and their names as one line shows them.

    Example:
        >>> mapping(["cat", "dog"])
        '0 = cat, 1 = dog'
    """
    rows = [f"{i} = {shown(name)}" for i, name in enumerate(names)]
    if len(rows) > most:
        rows = [*rows[: most // 2], "...", *rows[-most // 2 :]]
    return ", ".join(rows)
