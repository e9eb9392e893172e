r"""Contests: methods that are compared on one ground, see `vardiu.comparison.plan`.

A contest fixes teachers, networks, noise levels, weights and the rows of a batch; its arms differ
in the objective alone, and in what the objective needs beside the student. Each method says in its
own file how it enters a contest (`Method.arms`). Where it does not, the contest's `grounds` say
whose arms it enters with instead: any density takes those of `mog40`, with noise levels as the
same multiples of its own lengths; images of any teacher take those of `digits`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ..data.densities import DENSITIES
from ..errors import ConfigError, known
from ..methods import METHODS, Arm, Code, Method
from ..problems.targets import target_of
from ..runs.presets import PRESETS, is_points, lengths, lengths_of, on_points
from ..settings.fields import (
    DensitySettings,
    DigitsSettings,
    ImageSettings,
    PairSettings,
    Training,
    VectorSettings,
)
from ..settings.grounds import DIGIT_PAIRS, MOG40, PATCHES, rescaled
from ..storage.code import is_source, load_code, load_object

__all__ = ["CONTESTS", "OPEN", "Competitor", "Contest", "Ground", "contest_of", "entered"]
__all__ += ["load_contest", "without_data"]


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


S = TypeVar("S")


@dataclass(frozen=True)
class Ground:
    r"""Another contest, whose arms a method enters with where it has none of its own.

    Arguments:
        name: The name that methods know it by.
        grain: The smallest length of the data here over that of the data there.
        spread: The standard deviation of the data here over that there.
        solver_steps: How many steps solve a pair of the teacher there, where that was measured.
    """

    name: str
    grain: float = 1.0
    spread: float = 1.0
    solver_steps: int | None = None


@dataclass(frozen=True)
class Contest:
    r"""A row of the table.

    Arguments:
        about: One line.
        teachers: The problem's settings, by the name of the teacher.
        arms: Competitors beside those that the methods bring, by a short name.
        grounds: Other contests, nearest first, whose arms stand in for those of this one.
        seconds: The budget of a run in seconds of training, its start included.
        rows: The budget of a run in rows that the teacher evaluates.
        budgets: The budgets that its arms are given where none are asked for.
    """

    about: str
    teachers: Mapping[str, DensitySettings | DigitsSettings | ImageSettings | VectorSettings]
    arms: Mapping[str, Competitor] = field(default_factory=dict)
    grounds: tuple[Ground, ...] = ()
    seconds: float = field(kw_only=True)
    rows: int = field(kw_only=True)
    budgets: tuple[str, ...] = field(default=("time", "calls"), kw_only=True)


IMAGES = (Ground("images"), Ground("digits", solver_steps=DIGIT_PAIRS.solver_steps))


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
    "patches": Contest(
        "16x16 patches of photographs, in colour and without classes",
        {"learned": PATCHES},
        grounds=IMAGES,
        seconds=300.0,
        rows=2_000_000,
    ),
}


# Contests of the user's own teacher (`--teacher`), and the problem's settings.
OPEN: Mapping[str, ImageSettings | VectorSettings] = {
    "images": ImageSettings(),
    # A fresh student: one of the teacher's weights has no latent that a posterior could find.
    "vectors": VectorSettings(student="fresh"),
}


def contest_of(
    word: str, settings: ImageSettings | VectorSettings | None = None
) -> tuple[str, Contest]:
    r"""Returns the contest of a name, of a density or of a table of points; and its name.

    Arguments:
        word: The name of a contest or of a density; a table of points, or `FILE.py:NAME` of a
            density, which the command line has named; `images` or `vectors`.
        settings: Of `images` and `vectors`, the problem's settings.

    Raises:
        ConfigError: There is no such contest or file, or the contest needs a teacher.
    """
    if is_points(word):
        code = load_code(word) if is_source(word) else None
        row = on_points("distill", word, code).problem
        assert isinstance(row, DensitySettings)
        theirs = lengths_of(target_of(row, code))
        return row.name, _density(f"the points of {word}", {"exact": row}, theirs)
    name = known(word, dict.fromkeys([*CONTESTS, *OPEN, *DENSITIES, "mixture"]), "contest")
    if name in OPEN:
        return name, _open(name, OPEN[name] if settings is None else settings)
    if name in CONTESTS:
        return name, CONTESTS[name]
    row = PRESETS[name].problem
    assert isinstance(row, DensitySettings)
    teachers = {"exact": row, "kde": replace(row, teacher="kde")}
    if name in DENSITIES:
        teachers["learned"] = replace(row, teacher="learned")
    return name, _density(PRESETS[name].about, teachers, lengths(row))


def _density(
    about: str, teachers: Mapping[str, DensitySettings], theirs: tuple[float, float]
) -> Contest:
    grain, spread = (new / old for new, old in zip(theirs, lengths(MOG40), strict=True))
    grounds = (Ground("mog40", grain, spread),)
    return replace(CONTESTS["mog40"], about=about, teachers=teachers, grounds=grounds)


def _open(name: str, problem: ImageSettings | VectorSettings) -> Contest:
    if problem.teacher is None:
        raise ConfigError(
            f"the contest {name} is of a teacher of your own: give --teacher, and --data for the "
            "arms that need clean data"
        )
    about, grounds = f"{name} of {problem.teacher}", IMAGES[1:]
    if isinstance(problem, VectorSettings):
        # Levels of vectors are multiples of the data's standard deviation.
        unit = 1 / lengths(MOG40)[1]
        grounds = (Ground("mog40", unit, unit),)
    return Contest(about, {"given": problem}, grounds=grounds, seconds=300.0, rows=2_000_000)


def arms_of(method: Method, name: str, contest: Contest) -> Mapping[str, Arm]:
    r"""Returns a method's arms in a contest: its own, else those of the nearest ground."""
    for ground in (Ground(name), *contest.grounds):
        if ground.name in method.arms:
            arms = method.arms[ground.name].items()
            if ground.name == name:
                return dict(arms)
            return {key: replace(arm, settings=moved(arm.settings, ground)) for key, arm in arms}
    return {}


def moved(settings: S, ground: Ground) -> S:
    r"""Returns settings for other data and another teacher than those that they are of: how many
    steps solve a pair was measured of that teacher, of others it is the usual number."""
    settings = rescaled(settings, ground.grain, ground.spread)
    row: Any = settings
    pairs = getattr(row, "pairs", None)
    if not isinstance(pairs, PairSettings) or pairs.solver_steps != ground.solver_steps:
        return settings
    found: S = replace(row, pairs=replace(pairs, solver_steps=PairSettings().solver_steps))
    return found


def without_data(contest: Contest, teacher: str) -> list[str]:
    r"""Returns the arms that need clean data where a teacher's problem has none."""
    if getattr(contest.teachers[teacher], "data", "on board") is not None:
        return []
    methods = {
        name: METHODS[arm.method] if arm.code is None else arm.code.method
        for name, arm in contest.arms.items()
    }
    return [name for name, method in methods.items() if method.needs.data]


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
        for key, arm in arms_of(method, name, contest).items():
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
