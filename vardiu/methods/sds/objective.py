r"""Score distillation of whatever is moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...denoisers.levels import Levels
from ...functional.scores import Weight, score_difference, surrogate
from ...functional.tensors import expand_like
from ...samplers.trajectories import inversion
from ...students.base import Generator
from ...training.objective import Loss, Objective, Phase

__all__ = ["OfNoises", "SDS"]


class SDS(Objective):
    r"""Score distillation without a fake.

    Arguments:
        teacher: The denoiser :math:`D`.
        g: What is moved.
        levels: The distribution of noise levels.
        weight: The weight :math:`w(\sigma)` of a difference of two noises.
        steps: The steps of the inversion that makes :math:`x_t`; with 0 it is drawn.
        eta: The share of fresh noise in the steps of the inversion.
        lattice: Whether rows are spread evenly, see `Objective`.
    """

    def __init__(
        self,
        teacher: Denoiser,
        g: Generator,
        levels: Levels,
        weight: Weight,
        *,
        steps: int = 0,
        eta: float = 0.0,
        lattice: bool = False,
    ) -> None:
        super().__init__(teacher, g)
        self.levels, self.weight, self.lattice = levels, weight, lattice
        self.steps, self.eta = steps, eta

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("student", self.loss, updates=("generator",)),)

    def loss(self, batch: Batch, step: int) -> Loss:
        x = self.generator(self.latents(batch.rows), **batch.cond)
        sigma = self.levels(self.quantiles(batch.rows), step)
        with torch.no_grad():  # Diff-Instruct's difference, with each sample in the fake's place
            x_t = self.noised(x, sigma, batch.cond)
            scores = score_difference(x, self.teacher(x_t, sigma, **batch.cond), sigma)
        return Loss((sigma * self.weight(sigma) * surrogate(x, scores)).mean())

    def noised(self, x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r"""Returns what the teacher is shown: noisy samples, or their inversion."""
        if not self.steps:
            return x + expand_like(sigma, x) * self.noise_like(x)
        noise = (self.noise_like(x) for _ in range(self.steps))
        # Below a hundredth of the level nothing is to be inverted.
        low = torch.maximum(sigma / 100, torch.full_like(sigma, self.teacher.module.sigma_min))
        grid = [low * (sigma / low) ** (i / self.steps) for i in range(self.steps + 1)]
        return inversion(
            self.teacher,
            x,
            torch.stack(grid),
            eta=self.eta,
            noise=noise,
            checked=True,
            **cond,
        )


@dataclass(frozen=True)
class OfNoises:
    r"""A weight of a difference of noises as one of scores: :math:`\sigma w(\sigma)`."""

    weight: Weight

    def __call__(self, sigma: Tensor) -> Tensor:
        return sigma * self.weight(sigma)
