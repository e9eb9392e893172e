r"""Denoising score matching: how a teacher is trained on data.

.. math:: \mathcal{L} = \mathbb{E}_{x, \sigma, \varepsilon} \left[ \lambda(\sigma) \,
    \| D(x + \sigma \varepsilon, \sigma) - x \|^2 \right]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.levels import Levels
from ..functional.scores import denoising, edm_weight
from ..functional.tensors import expand_like
from ..settings import build
from ..settings.fields import LevelSettings, Training
from ..training.objective import Loss, Objective, Phase
from ..training.stage import Recipe, Stage

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["Settings", "Denoising", "recipe"]


class Denoising(Objective):
    r"""Denoising score matching with EDM's weight.

    Needs:
        Data, no teacher.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364, Equation 2 and Table 1

    Arguments:
        denoiser: The denoiser to train.
        levels: The distribution of noise levels.
        sigma_data: The data's standard deviation in the weight.
    """

    def __init__(self, denoiser: Denoiser, *, levels: Levels, sigma_data: float) -> None:
        super().__init__(None, denoiser)
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}")
        self.levels, self.sigma_data = levels, sigma_data

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("denoising", self.loss, updates=("generator",)),)

    def loss(self, batch: Batch, step: int) -> Loss:
        x = batch.x.to(self.device, self.dtype)
        sigma = self.levels(self.uniform(len(x)), step)
        x_t = x + expand_like(sigma, x) * self.noise_like(x)
        weight = edm_weight(sigma, self.sigma_data)
        return Loss(denoising(self.generator(x_t, sigma, **batch.cond), x, weight).mean())


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""A teacher's training."""

    levels: LevelSettings = LevelSettings()
    """The noise levels."""


def recipe(problem: Problem, config: Settings, seed: int) -> Recipe:
    r"""Trains a fresh denoiser on the problem's data, in one stage."""
    objective = Denoising(
        problem.network(),
        levels=build.levels(config.levels, config.steps),
        sigma_data=problem.sigma_data,
    )
    batches = problem.data(config.batch, seed)
    optimisation = build.optimisation(config, {"generator": config.lr})
    return (yield Stage("denoising", objective, config.steps, batches, optimisation))
