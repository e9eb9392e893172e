r"""Presets: named rows of settings, collected from the methods, and one for each density.

Any field can be overridden on the command line. A density's row is MoG-40's with every noise
level as the same multiple of the density's own lengths, see `vardiu.settings.grounds.rescaled`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..data.densities import DENSITIES, MixtureSpec
from ..data.points import SUFFIXES
from ..methods import METHODS, Method
from ..problems.targets import Target, target_of
from ..settings.fields import (
    DensitySettings,
    DigitsSettings,
    ImageSettings,
    Training,
    VectorSettings,
    WeightSettings,
)
from ..settings.grounds import MOG40, rescaled
from ..storage.code import OwnCode, is_source

__all__ = [
    "PRESETS",
    "TEACHERS",
    "TUNED",
    "PresetRow",
    "Presets",
    "fitted",
    "is_points",
    "on_density",
    "on_points",
    "rows_of",
]


# The density whose presets were tuned: those of the others are its rows, rescaled.
TUNED = "mog40"


# Where modes are twenty grains apart, a weight that is bounded loses some: docs/usage/points.md.
WEIGHTS: Mapping[str, WeightSettings] = {"grid25": WeightSettings(kind="square")}


# And the weight of small levels is then small: more of the training is at the smallest one.
ANNEAL: Mapping[str, float] = {"grid25": 0.6}


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
    return lengths_of(target_of(problem))


def lengths_of(target: Target) -> tuple[float, float]:
    r"""Returns the smallest length of what is distilled and its spread."""
    return target.spec.grain, target.spec.spread


def fitted(
    settings: Any,  # noqa: ANN401 (any row)
    old: Any,  # noqa: ANN401
    new: Any,  # noqa: ANN401
    code: OwnCode | None = None,
) -> Any:  # noqa: ANN401
    r"""Returns settings that were made for one problem as they are for another.

    Where both are densities, noise levels are the same multiples of their lengths; else they are
    left as they are.

    Arguments:
        settings: The settings, of a method or of a problem.
        old: The settings of the problem that they were made for.
        new: The settings of the other problem.
        code: The own code that the other problem's source names, if it names code.
    """
    if not isinstance(old, DensitySettings) or not isinstance(new, DensitySettings):
        return settings
    theirs = lengths(new) if new.source is None else lengths_of(target_of(new, code))
    ratios = [b / a for a, b in zip(lengths(old), theirs, strict=True)]
    return rescaled(settings, *ratios)


def on_density(
    row: PresetRow,
    about: str,
    code: OwnCode | None = None,
    **changes: Any,  # noqa: ANN401 (any field)
) -> PresetRow:
    r"""Returns a row for another density, with noise levels that fit it.

    Arguments:
        row: The row of a density.
        about: One line on the other density.
        code: The own code that its source names, if it names code.
        changes: Fields of the problem: the density's name, or where it is from.
    """
    changed = replace(row.problem, **changes)
    problem = fitted(changed, row.problem, changed, code)
    settings = fitted(row.settings, row.problem, changed, code)
    return PresetRow(about, row.method, problem, settings)


def on_points(command: str, source: str, code: OwnCode | None = None) -> PresetRow:
    r"""Returns the row of a table of points, or of a density of one's own.

    In three dimensions or less it is MoG-40's, in more that of a student that starts as spread as
    the data.

    Arguments:
        command: `distill` or `teach`.
        source: The table, or `FILE.py:NAME`.
        code: The own code, if it is that.

    Raises:
        ConfigError: It cannot be read or distilled.
    """
    target = target_of(replace(MOG40, source=source), code)
    dim = target.spec.means.shape[1]
    table = TEACHERS if command == "teach" else PRESETS
    few = dim <= 3
    row = table[TUNED if few or command == "teach" else "mixture-residual"]
    about = f"{source}, {dim} dimensions"
    form: dict[str, Any] = {"latent": max(dim, 2)} if few else {"latent": dim}
    if not few:
        form |= {"residual": True, "fourier": 0}
    return on_density(row, about, code, source=source, name=name_of(source), **form)


def name_of(source: str) -> str:
    r"""Returns the name of a problem from a file: that of the table, or of the object in code."""
    stem = source.rpartition(":")[2] if is_source(source) else Path(source).stem
    name = re.sub(r"[^A-Za-z0-9_-]", "_", stem) or "points"
    taken = name in DENSITIES or name in PRESETS or name in TEACHERS
    return f"{name}-points" if taken else name


def is_points(text: str) -> bool:
    r"""Whether a text, in the place of a preset, names a table of points or code."""
    return is_source(text) or Path(text).suffix.lower() in SUFFIXES


class Presets(Mapping[str, PresetRow]):
    r"""The presets of a command: those of the methods in the table that it offers.

    Arguments:
        teaches: Whether a preset's method makes teachers (`teach`), or students (`distill`).
    """

    def __init__(self, *, teaches: bool) -> None:
        self.teaches = teaches

    def __getitem__(self, name: str) -> PresetRow:
        own = self._own()
        return own[name] if name in own or TUNED not in own else _density_row(own[TUNED], name)

    def __iter__(self) -> Iterator[str]:
        own = self._own()
        return iter([*own, *(name for name in DENSITIES if name not in own and TUNED in own)])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _own(self) -> dict[str, PresetRow]:
        return rows_of(m for m in METHODS.values() if m.teaches == self.teaches)


def _density_row(tuned: PresetRow, name: str) -> PresetRow:
    r"""Returns the row of a density by its name, made of the one that was tuned."""
    row = on_density(tuned, about_density(DENSITIES[name]), name=name)
    own = WEIGHTS.get(name) if hasattr(row.settings, "weight") else None
    changes: dict[str, Any] = {} if own is None else {"weight": own}
    if name in ANNEAL and hasattr(row.settings, "levels"):
        changes["levels"] = replace(row.settings.levels, anneal=ANNEAL[name])
    return row._replace(settings=replace(row.settings, **changes))


def about_density(make: Callable[[], MixtureSpec]) -> str:
    r"""Returns one line on a density: the first of its docstring, which begins with a verb."""
    line = (make.__doc__ or "").split("\n")[0].strip(" .")
    return line.removeprefix("Returns ")


PRESETS = Presets(teaches=False)


TEACHERS = Presets(teaches=True)
