r"""Presets: named rows of settings, collected from the methods.

Any field can be overridden on the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..methods import METHODS, Method
from ..settings.fields import (
    DensitySettings,
    DigitsSettings,
    ImageSettings,
    Training,
    VectorSettings,
)

__all__ = ["PRESETS", "TEACHERS", "PresetRow", "Presets", "rows_of"]


class PresetRow(NamedTuple):
    r"""A preset, and whose it is.

    Arguments:
        about: One line for `vardiu list`.
        method: The name of the method.
        problem: The problem's settings.
        settings: The method's settings.
    """

    about: str
    method: str
    problem: DensitySettings | DigitsSettings | ImageSettings | VectorSettings
    settings: Training


def rows_of(methods: Iterable[Method]) -> dict[str, PresetRow]:
    r"""Returns the presets of some methods by name."""
    return {
        name: PresetRow(preset.about, method.name, preset.problem, preset.settings)
        for method in methods
        for name, preset in method.presets.items()
    }


class Presets(Mapping[str, PresetRow]):
    r"""The presets of a command: those of the methods in the table that it offers.

    Arguments:
        teacher: Whether a preset's method needs a teacher (`distill`), or makes one (`teach`).
    """

    def __init__(self, *, teacher: bool) -> None:
        self.teacher = teacher

    def __getitem__(self, name: str) -> PresetRow:
        return self._rows()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())

    def _rows(self) -> dict[str, PresetRow]:
        return rows_of(m for m in METHODS.values() if m.needs.teacher == self.teacher)


PRESETS = Presets(teacher=True)


TEACHERS = Presets(teacher=False)
