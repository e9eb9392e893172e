r"""Objects of the library from rows of settings: one table for each choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.batches import Batches
from ..denoisers.base import Denoiser
from ..denoisers.grids import high_of, skipped_levels
from ..denoisers.levels import (
    Geometric,
    Levels,
    LogNormal,
    LogUniform,
    PowerLaw,
    Schedule,
    Staircase,
)
from ..functional.scores import Weight
from ..training.objective import Objective
from ..training.optimizers import Optimisation, OptimizerRow, constant, cosine, trapezoid
from ..training.stage import Stage
from .fields import LevelSettings, NetworkOptimizer, Training, WeightSettings

__all__ = ["grid", "last_stage", "levels", "optimisation", "optimisation_of", "weight"]


@dataclass(frozen=True)
class Bounded:
    r""":math:`\sigma^2 / (\sigma^2 + c^2)`: that of a small level, and one for a large."""

    scale: float

    def __call__(self, sigma: Tensor) -> Tensor:
        return sigma.square() / (sigma.square() + self.scale**2)


@dataclass(frozen=True)
class Power:
    r""":math:`\sigma^p`."""

    power: float

    def __call__(self, sigma: Tensor) -> Tensor:
        return sigma**self.power


def _low(row: LevelSettings, steps: int) -> Schedule:
    if row.start_min is None:
        return row.sigma_min
    return Geometric(row.start_min, row.sigma_min, max(1, round(row.anneal * steps)))


def _log_uniform(row: LevelSettings, steps: int) -> Levels:
    return LogUniform(_low(row, steps), row.sigma_max)


def _power_law(row: LevelSettings, steps: int) -> Levels:
    rho: Schedule = row.rho
    if row.rho_end is not None:
        rho = Staircase(row.rho, row.rho_end, row.rho_increment, row.rho_every)
    return PowerLaw(_low(row, steps), row.sigma_max, rho)


def _log_normal(row: LevelSettings, steps: int) -> Levels:
    return LogNormal(row.mean, row.std, _low(row, steps), row.sigma_max)


LEVELS: Mapping[str, Callable[[LevelSettings, int], Levels]] = {
    "log_uniform": _log_uniform,
    "power_law": _power_law,
    "log_normal": _log_normal,
}


WEIGHTS: Mapping[str, Callable[[WeightSettings], Weight]] = {
    "square": lambda row: torch.square,
    "bounded": lambda row: Bounded(row.scale),
    "power": lambda row: Power(row.power),
    "constant": lambda row: torch.ones_like,
}


DECAYS: Mapping[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "trapezoid": trapezoid,
}


def levels(row: LevelSettings, steps: int) -> Levels:
    r"""Returns the distribution of levels of a run of so many steps."""
    return LEVELS[row.kind](row, steps)


def grid(denoiser: Denoiser, n: int, high: float | None, rho: float) -> Tensor:
    r"""Returns EDM's grid of so many levels and zero, `(n + 1,)`, in float64; of a network of
    whole times that of evenly spaced times.

    Arguments:
        denoiser: The denoiser, whose smallest level is the last above zero.
        n: The number of levels.
        high: The first level; none for the largest.
        rho: The exponent of the spacing of EDM's.

    Raises:
        ConfigError: The first level is none of the denoiser, or there are more levels than its
            network has times.
    """
    levels = skipped_levels(denoiser, n, rho, high_of(denoiser, high))
    return torch.cat([levels, levels.new_zeros(1)])


def weight(row: WeightSettings) -> Weight:
    r"""Returns the weight of a level."""
    return WEIGHTS[row.kind](row)


def student_row(row: Training) -> OptimizerRow:
    r"""Returns how the student is updated."""
    return OptimizerRow(
        kind=row.optimizer,
        lr=row.lr,
        betas=(row.beta_1, row.beta_2),
        weight_decay=row.weight_decay,
        warmup=row.warmup,
        delay=row.delay,
        clip=row.clip,
    )


def network_row(row: NetworkOptimizer, student: OptimizerRow) -> OptimizerRow:
    r"""Returns how another network is updated: as the student, but for what its own row says."""
    first, second = student.betas
    return OptimizerRow(
        kind=row.kind or student.kind,
        lr=row.lr or student.lr,
        betas=(
            first if row.beta_1 is None else row.beta_1,
            second if row.beta_2 is None else row.beta_2,
        ),
        weight_decay=student.weight_decay if row.weight_decay is None else row.weight_decay,
        warmup=student.warmup if row.warmup is None else row.warmup,
        delay=row.delay,
        clip=row.clip or student.clip,
    )


def optimisation(row: Training, **others: NetworkOptimizer) -> Optimisation:
    r"""Returns how a stage is updated.

    Arguments:
        row: The method's settings, which hold the student's row.
        others: The rows of the other networks, by their names.
    """
    student = student_row(row)
    rows = {name: network_row(other, student) for name, other in others.items()}
    return Optimisation({"generator": student, **rows}, DECAYS[row.decay], row.halflife)


def last_stage(
    name: str,
    objective: Objective,
    batches: Batches,
    row: Training,
    *,
    steps: int | None = None,
    of: int | None = None,
) -> Stage:
    r"""Returns the method's own stage, the last one of its recipe.

    Arguments:
        name: The stage's name.
        objective: What it trains; each network by its own row, see `optimisation_of`.
        batches: The data.
        row: The method's settings.
        steps: The number of steps; none for the settings' number of updates.
        of: The number of stages; none for two where the settings ask for a regression on pairs
            before, and one where they do not.
    """
    if of is None:
        pairs = getattr(row, "pairs", None)
        of = 2 if pairs is not None and pairs.pairs else 1
    n = row.steps if steps is None else steps
    return Stage(name, objective, n, batches, optimisation_of(objective, row), of=of)


def optimisation_of(objective: Objective, row: Training) -> Optimisation:
    r"""Returns how a stage is updated: each network that its objective trains beside the student
    by the settings' row `NETWORK_optimizer`."""
    others = [name for name in objective.trained if name != "generator"]
    return optimisation(row, **{name: getattr(row, f"{name}_optimizer") for name in others})
