r"""What is left out of a data set: how many, why, and the name of one."""

from __future__ import annotations

import warnings

from ..errors import shown

__all__ = ["LeftOut"]


class LeftOut:
    r"""Counts what is left out, by the reason."""

    MOST = 12

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, name: object, count: int = 1) -> None:
        r"""Counts something.

        Arguments:
            reason: Why it is left out.
            name: The name of what is left out.
            count: How much of it there is.
        """
        before, example = self._found.get(reason, (0, str(name)))
        self._found[reason] = (before + count, example)

    @property
    def lines(self) -> list[str]:
        r"""A line for each reason, the most frequent first."""
        rows = sorted(self._found.items(), key=lambda row: -row[1][0])
        lines = [
            f"left out: {count:,} {reason}, such as {shown(example)}"
            for reason, (count, example) in rows[: self.MOST]
        ]
        rest = rows[self.MOST :]
        if rest:
            total = sum(count for _, (count, _) in rest)
            lines.append(f"left out: {total:,} for {len(rest):,} other reasons")
        return lines

    def warn(self, source: object) -> None:
        r"""Warns of each line: once a process, whoever asks for the source again."""
        for line in self.lines:
            # From one place: Python tells the same line of the same place once.
            warnings.warn(f"{shown(source)}: {line}", stacklevel=2)
