r"""What settings say of Diff-Instruct and of what is made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...samplers.pairs import Pairs
from ...settings import build
from ...settings.fields import (
    LevelSettings,
    NetworkOptimizer,
    OnPairs,
    PairSettings,
    WeightSettings,
)
from .. import regression

if TYPE_CHECKING:
    from ...problems.base import Problem

__all__ = ["beside", "Settings", "cites", "options_of"]


@dataclass(frozen=True, kw_only=True)
class Settings(OnPairs):
    r"""Diff-Instruct."""

    ratio: int = 5
    """The number of updates of the fake for each update of the student."""
    normalised: bool = False
    """Divide each row's direction by the teacher's mean absolute correction, as DMD does."""
    pairs: PairSettings = PairSettings()
    """A regression on the teacher's pairs, before the method's own training."""
    regression_weight: float = 0.0
    """The weight of the regression on pairs in the method's own training, as in DMD."""
    temperature: float = 1.0
    """The temperature of the teacher's law that is matched at each level; above 1 samples
    spread."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the fake is updated."""
    lattice: bool = False
    """Spread the latents and the levels of a batch evenly, by a randomly shifted lattice."""
    levels: LevelSettings = LevelSettings()
    """The noise levels of the student."""
    weight: WeightSettings = WeightSettings()
    """The weight of a noise level."""


class Matching(Protocol):
    r"""Settings of a method that is made from `DiffInstruct`."""

    @property
    def levels(self) -> LevelSettings: ...
    @property
    def weight(self) -> WeightSettings: ...
    @property
    def ratio(self) -> int: ...
    @property
    def normalised(self) -> bool: ...
    @property
    def regression_weight(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def lattice(self) -> bool: ...


def options_of(
    problem: Problem, config: Matching, steps: int, pairs: Pairs | None
) -> dict[str, Any]:
    r"""Returns what settings say of `DiffInstruct` and of what is made from it.

    Arguments:
        problem: The problem.
        config: The settings.
        steps: The steps of the training.
        pairs: The pairs of the student's start, if it had one.
    """
    return {
        "levels": build.levels(config.levels, steps),
        "weight": build.weight(config.weight),
        "ratio": config.ratio,
        "normalised": config.normalised,
        **regression.beside_method(pairs, config.regression_weight)._asdict(),
        "temperature": config.temperature,
        "lattice": config.lattice,
        "sigma_data": problem.space.sigma_data,
        "unit": problem.space.unit,
    }


def cites(settings: Settings) -> Iterator[str]:
    r"""Yields the keys of the papers that a run with these settings uses."""
    yield "diff_instruct"
    yield from beside(settings)


def beside(settings: Settings) -> Iterator[str]:
    r"""Yields the keys of the papers of what may stand beside a method of a fake: DMD's division
    and its regression, and a start on pairs."""
    if settings.regression_weight or settings.normalised:
        yield "dmd"
    if settings.pairs.pairs:
        yield "luhman"
