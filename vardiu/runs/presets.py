r"""Presets: named rows of settings, collected from the methods, and one for each density.

Any field can be overridden on the command line. A density's row is MoG-40's with every noise
level as the same multiple of the density's own lengths, see `vardiu.settings.grounds.rescaled`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ..data.densities import DENSITIES, MixtureSpec
from ..methods import METHODS, Method
from ..problems.densities import spec_of
from ..settings.fields import (
    DensitySettings,
    DigitsSettings,
    ImageSettings,
    Training,
    VectorSettings,
)
from ..settings.grounds import rescaled

__all__ = ["PRESETS", "TEACHERS", "PresetRow", "Presets", "fitted", "on_density", "rows_of"]


# The density whose presets were tuned: those of the others are its rows, rescaled.
TUNED = "mog40"


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


@functools.cache
def lengths(problem: DensitySettings) -> tuple[float, float]:
    r"""Returns the smallest length of a density and its spread."""
    spec = spec_of(problem)
    return spec.grain, spec.spread


def fitted(settings: Any, old: Any, new: Any) -> Any:  # noqa: ANN401 (any row)
    r"""Returns settings that were made for one problem as they are for another.

    Where both are densities, noise levels are the same multiples of their lengths; else they are
    left as they are.

    Arguments:
        settings: The settings, of a method or of a problem.
        old: The settings of the problem that they were made for.
        new: The settings of the other problem.
    """
    if not isinstance(old, DensitySettings) or not isinstance(new, DensitySettings):
        return settings
    ratios = [b / a for a, b in zip(lengths(old), lengths(new), strict=True)]
    return rescaled(settings, *ratios)


def on_density(row: PresetRow, about: str, **changes: Any) -> PresetRow:  # noqa: ANN401
    r"""Returns a row for another density, with noise levels that fit it.

    Arguments:
        row: The row of a density.
        about: One line on the other density.
        changes: Fields of the problem: the density's name, or where it is from.
    """
    changed = replace(row.problem, **changes)
    problem = fitted(changed, row.problem, changed)
    settings = fitted(row.settings, row.problem, changed)
    return PresetRow(about, row.method, problem, settings)


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
        rows = rows_of(m for m in METHODS.values() if m.needs.teacher == self.teacher)
        if TUNED in rows:
            for name, make in DENSITIES.items():
                if name not in rows:
                    rows[name] = on_density(rows[TUNED], about_density(make), name=name)
        return rows


def about_density(make: Callable[[], MixtureSpec]) -> str:
    r"""Returns one line on a density: the first of its docstring, which begins with a verb."""
    line = (make.__doc__ or "").split("\n")[0].strip(" .")
    return line.removeprefix("Returns ")


PRESETS = Presets(teacher=True)


TEACHERS = Presets(teacher=False)
