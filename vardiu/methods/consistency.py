r"""Consistency distillation: neighbours on a trajectory of the teacher have one end.

.. math:: \mathcal{L} = \mathbb{E}_{i, x_0, \varepsilon} \left[ \lambda(t_i) \,
    d \big( f_\theta(x_{t_i}, t_i), f_{\theta^-}(\hat x_{t_{i+1}}, t_{i+1}) \big) \right],
    \qquad x_{t_i} = x_0 + t_i \varepsilon

on a grid :math:`t_0 > \ldots > t_{N-1}`, where :math:`\hat x_{t_{i+1}}` is one step of a solver of
the teacher's probability-flow equation from :math:`x_{t_i}`. With :math:`f(x, t_{N-1}) = x` by
construction the minimum is the map to the end of the trajectory *that the solver makes*: its error
at large levels is the student's, see `docs/methods/consistency.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.consistency import ConsistencyDenoiser
from ..denoisers.grids import spaced_levels
from ..errors import ConfigError
from ..functional.distances import Distance, distance_of, squared
from ..functional.scores import Weight
from ..settings import build
from ..settings.fields import DigitsSettings, WeightSettings
from ..settings.grounds import MOG40
from ..training.stage import Context, Recipe
from ..training.states import Shown, States
from .base import Arm, Example, Method, Needs, Preset
from .self_consistency import SONG, ConsistencySettings, Distilled, Neighbours

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "ConsistencyDistillation", "Settings", "noised", "recipe"]


def noised(objective: ConsistencyDistillation, batch: Batch, place: Tensor, step: int) -> Shown:
    r"""Returns clean samples of the batch, with fresh noise of the levels of places."""
    sigma = objective.grid.to(objective.like)[place]
    return Shown(objective.noised(batch, sigma)[-1], place, batch.cond)


class ConsistencyDistillation(Distilled):
    r"""Consistency distillation.

    Needs:
        Data; one call of the teacher a row by Euler's method, two by Heun's.

    Deviations:
        - No LPIPS among the distances: its network knows photographs only.
        - The target network is in evaluation mode: no dropout mask is shared with it.

    References:
        | Consistency Models (Song et al., 2023), https://arxiv.org/abs/2303.01469, Algorithm 2

    Arguments:
        teacher: The teacher.
        network: The consistency function to train.
        grid: The number :math:`N` of levels.
        rho: The exponent of their spacing.
        correct: Whether the solver's step is Heun's; else it is Euler's.
        target_decay: The rate :math:`\mu` of the target network; 0 for a copy.
        distance: The distance :math:`d`.
        weight: The weight :math:`\lambda` of a level.
        calls: The number of calls of the student, fewer than levels.
        states: Where the states come from, see `vardiu.training.states`.
    """

    def __init__(
        self,
        teacher: Denoiser,
        network: ConsistencyDenoiser,
        *,
        grid: int = 40,
        rho: float = 7.0,
        correct: bool = True,
        target_decay: float = 0.95,
        distance: Distance = squared,
        weight: Weight = torch.ones_like,
        calls: int = 1,
        states: States = noised,
    ) -> None:
        if not 1 <= calls < grid:
            raise ValueError(f"calls must be at least 1 and below grid={grid}, got {calls}")
        levels = spaced_levels(network, grid, rho)
        super().__init__(teacher, network, levels, target_decay, distance, calls)
        self.correct, self.weight, self.states = correct, weight, states

    def prepare(self, batch: Batch, step: int) -> Neighbours:
        grid = self.grid.to(self.like)
        i = (self.quantiles(batch.rows) * (len(grid) - 1)).long()
        x_t, i, cond = self.states(self, batch, i, step)
        sigma, lower, left = grid[i], grid[i + 1], len(grid) - 1 - i
        x_next = self.stepped(x_t, sigma, lower, cond)
        value = self.answer(self.target, x_next, lower, left - 1, cond)
        return Neighbours(x_t, sigma, value, cond, lower, left)

    def weighting(self, drawn: Neighbours) -> Tensor:
        return self.weight(drawn.sigma)


@dataclass(frozen=True, kw_only=True)
class Settings(ConsistencySettings):
    r"""Consistency distillation; the defaults are those of the paper for ImageNet-64 and LSUN."""

    grid: int = 40
    """Levels of a trajectory; the paper has 18 for CIFAR-10."""
    solver: Literal["heun", "euler"] = "heun"
    """The step of the teacher: two calls, or one."""
    target_decay: float = 0.95
    """The rate of the target network; 0 copies the student, as the paper does for CIFAR-10."""
    weight: WeightSettings = WeightSettings(kind="constant")
    """The weight of a level."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= (calls := self.sampling_steps) < self.grid:
            raise ConfigError(f"sampling_steps must be within [1, grid={self.grid}), got {calls}")


def recipe(
    problem: Problem,
    config: Settings,
    context: Context,
    make: Callable[..., ConsistencyDistillation] = ConsistencyDistillation,
) -> Recipe:
    r"""Trains a denoiser that starts from the teacher's weights if it has any, in one stage. A
    method that takes other states gives its own `make`."""
    objective = make(
        problem.known_teacher,
        ConsistencyDenoiser(problem.networks.student_denoiser(), sigma_max=config.grid_max),
        grid=config.grid,
        rho=config.rho,
        correct=config.solver == "heun",
        target_decay=config.target_decay,
        distance=distance_of(config.distance, config.softness),
        weight=build.weight(config.weight),
        calls=config.sampling_steps,
    )
    batches = problem.data.clean(config.batch, context.seed)
    trained = yield build.last_stage("consistency", objective, batches, config)
    return objective.student_of(trained.network)


CURES: Mapping[str, str] = {
    "collapse": "raise --grid, or lower --target-decay: the end of the trajectory comes late",
    "saturation": "more of --sampling-steps, or a wider network: one call may be too few",
    "noise": "raise --batch or --target-decay, or lower --lr",
    "worsening": "lower --lr, or raise --target-decay",
    "divergence": "lower --lr, or use --distance pseudo_huber",
}


# Small networks: great rates, few levels, and the error of each level in its own units.
SMALL = Settings(grid=18, clip=1.0, weight=WeightSettings(kind="power", power=-1.0))
MIXTURE = replace(SMALL, steps=8_000, batch=256, lr=5e-3, halflife=1e5)
# Eight steps of Heun's method, as of pairs and of halving.
DIGITS = replace(SMALL, grid=9, steps=4_000, batch=128, lr=5e-4, halflife=44_000.0)
PRESETS = {
    "mog40-consistency": Preset("consistency distillation, with data", MOG40, MIXTURE),
    "digits-consistency": Preset(
        "8x8 real images by class; consistency distillation, with data", DigitsSettings(), DIGITS
    ),
}


TINY = Settings(steps=10, batch=8, grid=6)


METHOD = Method(
    name="consistency",
    title="Consistency distillation",
    year=2023,
    address="https://arxiv.org/abs/2303.01469",
    family="trajectory",
    networks=("student",),
    needs=Needs(data=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"consistency": SONG},
    presets=PRESETS,
    cures=CURES,
    arms={
        "mog40": {"consistency": Arm("Consistency distillation (with data)", MIXTURE)},
        "digits": {"consistency": Arm("Consistency distillation (with data)", DIGITS)},
    },
    examples={
        "consistency": Example(TINY),
        "consistency-classes": Example(TINY, classes=2),
        "consistency-euler": Example(replace(TINY, solver="euler", target_decay=0.0)),
        "consistency-few": Example(replace(TINY, sampling_steps=2)),
        "consistency-l1": Example(replace(TINY, distance="l1")),
    },
)
