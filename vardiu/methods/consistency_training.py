r"""Consistency training: a consistency function from data alone, without a teacher.

.. math:: \mathcal{L} = \mathbb{E} \left[ \frac{1}{t_i - t_{i+1}} \, d \big( f_\theta(x_0 + t_i
    \varepsilon, t_i), f_{\theta^-}(x_0 + t_{i+1} \varepsilon, t_{i+1}) \big) \right]

The same noise at two neighbouring levels of a grid stands for a step of a solver: in the mean over
data it is one, to first order in the distance of the levels, which falls during the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.consistency import ConsistencyDenoiser
from ..denoisers.grids import spaced_levels
from ..errors import ConfigError
from ..functional.consistency import doubling, growing_decay, log_normal_shares, square_root
from ..functional.distances import Distance, distance_of, squared
from ..functional.tensors import expand_like, sent
from ..settings import build
from ..settings.fields import DigitsSettings
from ..settings.grounds import MOG40, PATCHES
from ..training.objective import denoiser_of
from ..training.stage import Context, Recipe
from .base import Arm, Example, Method, Needs, Preset
from .self_consistency import (
    SONG,
    ConsistencySettings,
    Neighbours,
    SelfConsistency,
)

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "ConsistencyTraining", "Settings", "recipe"]


# Of a step, the number of levels of the grid.
Curriculum = Callable[[int], int]


CURRICULA: Mapping[str, Callable[[int, int, int, int], int]] = {
    "doubling": doubling,
    "square_root": square_root,
}


class ConsistencyTraining(SelfConsistency):
    r"""Consistency training.

    Needs:
        Data, and no teacher: a run compares its student with one, and never asks it here.

    Deviations:
        - The target network is in evaluation mode: no dropout mask is shared with it.
        - The pseudo-Huber distance is of the mean square, which is the paper's over the root of
          the dimension.

    References:
        | Consistency Models (Song et al., 2023), https://arxiv.org/abs/2303.01469, Algorithm 3
        | Improved Techniques for Training Consistency Models (Song and Dhariwal, 2023)
        | https://arxiv.org/abs/2310.14189

    Arguments:
        network: The consistency function to train.
        curriculum: Of a step, the number of levels of its grid.
        most: The number of levels at the end, of which the student's are.
        rho: The exponent of their spacing.
        mean: The mean of the logarithm of a level that is drawn; intervals of a grid are drawn by
            their share of a log-normal law.
        std: The standard deviation of that logarithm.
        target_decay: Of a step, the rate of the target network; 0 for none but a copy.
        distance: The distance of neighbours.
        calls: The number of calls of the student, fewer than levels.
    """

    def __init__(
        self,
        network: ConsistencyDenoiser,
        *,
        curriculum: Curriculum,
        most: int,
        rho: float = 7.0,
        mean: float = -1.1,
        std: float = 2.0,
        target_decay: float | Callable[[int], float] = 0.0,
        distance: Distance = squared,
        calls: int = 1,
    ) -> None:
        if not 1 <= calls < most:
            raise ValueError(f"calls must be at least 1 and below {most}, the levels, got {calls}")
        levels = spaced_levels(network, most, rho)
        super().__init__(None, network, levels, target_decay, distance, calls)
        self.curriculum, self.rho, self.mean, self.std = curriculum, rho, mean, std

    def levels_at(self, step: int) -> Tensor:
        r"""Returns the levels of the grid of a step, decreasing."""
        levels = spaced_levels(denoiser_of(self), self.curriculum(step), self.rho)
        return sent(levels.to(self.like.dtype), self.like.device)

    def prepare(self, batch: Batch, step: int) -> Neighbours:
        levels, cond = self.levels_at(step), batch.cond
        reached = log_normal_shares(levels, self.mean, self.std).cumsum(0)
        i = torch.searchsorted(reached, self.quantiles(batch.rows), right=True)
        i = i.clamp_max(len(levels) - 2)
        sigma, lower, left = levels[i], levels[i + 1], len(levels) - 1 - i
        x, noise, x_t = self.noised(batch, sigma)
        x_next = x + expand_like(lower, x) * noise
        value = self.answer(self.target, x_next, lower, left - 1, cond)
        return Neighbours(x_t, sigma, value, cond, lower, left)

    def weighting(self, drawn: Neighbours) -> Tensor:
        return 1 / (drawn.sigma - drawn.lower)


@dataclass(frozen=True, kw_only=True)
class Settings(ConsistencySettings):
    r"""Consistency training; the defaults are those of the improved techniques for CIFAR-10."""

    curriculum: Literal["doubling", "square_root"] = "doubling"
    """How the number of levels grows: it doubles at equal intervals, or its square grows evenly,
    as in the first paper."""
    grid_start: int = 10
    """The intervals of levels at the first step."""
    grid: int = 1_280
    """Those at the end."""
    level_mean: float = -0.41
    """The mean of the logarithm of a level, over the data's standard deviation."""
    level_std: float = 2.0
    """The standard deviation of that logarithm."""
    target_decay: float = 0.0
    """The rate of the target network at the first step, which grows with the grid; 0 for none but
    a copy of the student."""
    distance: Literal["l2", "l1", "pseudo_huber"] = "pseudo_huber"
    """The distance of neighbours: squared, absolute, or between the two."""
    softness: float = 0.00054
    """pseudo_huber: the length below which it is squared, in units of the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        first, last = self.grid_start, self.grid
        if not 1 <= first <= last:
            raise ConfigError(f"grid_start must be within [1, grid={last:,}], got {first:,}")
        if not 1 <= (calls := self.sampling_steps) <= last:
            raise ConfigError(f"sampling_steps must be within [1, grid={last:,}], got {calls}")


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains a denoiser on data, in one stage: a fresh one, or the one of `--start-from`."""
    networks, first, last = problem.networks, config.grid_start, config.grid
    elsewhere = networks.begins_elsewhere
    denoiser = networks.student_denoiser() if elsewhere else networks.denoiser()

    def curriculum(step: int) -> int:
        return CURRICULA[config.curriculum](step, config.steps, first, last)

    def decay(step: int) -> float:
        return growing_decay(curriculum(step), first, config.target_decay)

    objective = ConsistencyTraining(
        ConsistencyDenoiser(denoiser, sigma_max=config.grid_max),
        curriculum=curriculum,
        most=last + 1,
        rho=config.rho,
        mean=config.level_mean + math.log(problem.space.sigma_data),
        std=config.level_std,
        target_decay=decay if config.target_decay else 0.0,
        distance=distance_of(config.distance, config.softness),
        calls=config.sampling_steps,
    )
    batches = problem.data.clean(config.batch, context.seed)
    trained = yield build.last_stage("consistency", objective, batches, config)
    return objective.student_of(trained.network)


IMPROVED = """@inproceedings{song2024improved,
  title     = {Improved Techniques for Training Consistency Models},
  author    = {Song, Yang and Dhariwal, Prafulla},
  booktitle = {International Conference on Learning Representations},
  year      = {2024}
}"""

CURES: Mapping[str, str] = {
    "collapse": "lower --grid: the end of the trajectory comes late",
    "saturation": "more of --steps or --sampling-steps: one call may be too few",
    "noise": "raise --batch, or lower --lr",
    "worsening": "lower --lr, or --grid",
    "divergence": "lower --lr, or raise --softness",
}

# Small networks and short trainings: fewer levels than the paper's 1,280.
SMALL = Settings(grid_start=8, grid=64, softness=0.03, clip=1.0, sampling_steps=2, beta_2=0.99)
MIXTURE = replace(SMALL, steps=8_000, batch=256, lr=3e-3, halflife=1e5)
IMAGES = replace(SMALL, steps=6_000, batch=128, lr=1e-3, halflife=44_000.0)
PRESETS = {
    "mog40-consistency-training": Preset(
        "consistency training, two calls, from data alone", MOG40, MIXTURE
    ),
    "digits-consistency-training": Preset(
        "8x8 real images by class; consistency training, two calls, from data alone",
        DigitsSettings(),
        IMAGES,
    ),
    "patches-consistency-training": Preset(
        "16x16 patches of photographs; consistency training, two calls, from data alone",
        PATCHES,
        IMAGES,
    ),
}

TINY = Settings(steps=10, batch=8, grid_start=2, grid=8)

METHOD = Method(
    name="consistency_training",
    title="Consistency training",
    year=2023,
    address="https://arxiv.org/abs/2310.14189",
    family="trajectory",
    networks=("student",),
    needs=Needs(data=True, teacher=False),
    settings=Settings,
    recipe=recipe,
    bibtex={"consistency": SONG, "improved": IMPROVED},
    presets=PRESETS,
    cures=CURES,
    arms={
        "mog40": {"consistency-training": Arm("Consistency training (data alone)", MIXTURE)},
        "digits": {"consistency-training": Arm("Consistency training (data alone)", IMAGES)},
    },
    examples={
        "consistency-training": Example(TINY),
        "consistency-training-classes": Example(
            replace(TINY, curriculum="square_root", target_decay=0.9, sampling_steps=2), classes=2
        ),
    },
)
