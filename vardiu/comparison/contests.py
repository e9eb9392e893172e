r"""Contests: methods that are compared on one ground, see `vardiu.comparison.plan`.

A contest fixes teachers, networks, noise levels, weights and the rows of a batch; its arms differ
in the objective alone, and in what the objective needs beside the student. Each method says in its
own file how it enters a contest (`Method.arms`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import ConfigError
from ..methods import METHODS, Code
from ..settings.fields import (
    DensitySettings,
    DigitsSettings,
    ImageSettings,
    Training,
    VectorSettings,
)
from ..settings.grounds import MOG40
from ..storage.code import load_object

__all__ = ["CONTESTS", "Competitor", "Contest", "entered", "load_contest"]


@dataclass(frozen=True)
class Competitor:
    r"""An arm of a contest.

    Arguments:
        title: Its name in tables and pictures.
        method: The name of its method.
        settings: The method's settings; the number of steps follows from the budget.
        code: The file that the method is from; none for a method of the table.
    """

    title: str
    method: str
    settings: Training
    code: Code | None = None


@dataclass(frozen=True)
class Contest:
    r"""A row of the table.

    Arguments:
        about: One line.
        teachers: The problem's settings, by the name of the teacher.
        arms: Competitors beside those that the methods bring, by a short name.
        seconds: The budget of a run in seconds of training, its start included.
        rows: The budget of a run in rows that the teacher evaluates.
        budgets: The budgets that its arms are given where none are asked for.
    """

    about: str
    teachers: Mapping[str, DensitySettings | DigitsSettings | ImageSettings | VectorSettings]
    arms: Mapping[str, Competitor] = field(default_factory=dict)
    seconds: float = field(kw_only=True)
    rows: int = field(kw_only=True)
    budgets: tuple[str, ...] = field(default=("time", "calls"), kw_only=True)


CONTESTS: dict[str, Contest] = {
    "mog40": Contest(
        "VarDiU's bounds and Diff-Instruct on 40 Gaussians: the comparison of the paper",
        {
            "exact": MOG40,
            "learned": replace(MOG40, teacher="learned"),
            "kde": replace(MOG40, teacher="kde"),
        },
        seconds=20.0,
        rows=256_000,
    ),
    "digits": Contest(
        "real 8x8 images by class: Diff-Instruct and regression on pairs, VarDiU on a frame",
        {"learned": DigitsSettings()},
        seconds=120.0,
        rows=1_000_000,
        budgets=("own",),
    ),
}


def entered(name: str, contest: Contest, codes: Sequence[Code] = ()) -> Contest:
    r"""Returns a contest with the arms that the methods bring to it.

    Arguments:
        name: The contest's name, which methods know it by.
        contest: The contest.
        codes: Methods from files, which enter it too.

    Raises:
        ConfigError: Two arms share a name, a method is unknown, or settings are of another method.
    """
    arms: dict[str, Competitor] = {}
    for method, code in [(m, None) for m in METHODS.values()] + [(c.method, c) for c in codes]:
        for key, arm in method.arms.get(name, {}).items():
            if key in arms or key in contest.arms:
                raise ConfigError(f"contest {name!r}: two arms are named {key!r}: rename one")
            arms[key] = Competitor(arm.title, method.name, arm.settings, code)
    files = {code.method.name: code for code in codes}
    for key, own in contest.arms.items():
        code = own.code or files.get(own.method)
        if code is None and own.method not in METHODS:
            raise ConfigError(
                f"contest {name!r}, arm {key!r}: unknown method {own.method!r}; one from a file "
                "is given with --method FILE.py:NAME"
            )
        settings = (METHODS[own.method] if code is None else code.method).settings
        if type(own.settings) is not settings:
            raise ConfigError(
                f"contest {name!r}, arm {key!r}: its settings are of "
                f"{type(own.settings).__module__}, not of the method {own.method!r}"
            )
        arms[key] = dataclasses.replace(own, code=code)
    return dataclasses.replace(contest, arms=arms)


def load_contest(source: str) -> tuple[str, Contest]:
    r"""Returns the contest that a name in the user's own code stands for, and its name.

    Raises:
        ConfigError: There is no such file or name, it is no contest, or it has a name on board.
    """
    found, _ = load_object(source)
    if not isinstance(found, Contest):
        raise ConfigError(f"{source} must be a Contest, got {type(found).__name__}")
    name = source.rpartition(":")[2].lower().replace("_", "-")
    if name in CONTESTS:
        raise ConfigError(f"{source}: {name!r} is a contest on board: rename it in the file")
    return name, found
