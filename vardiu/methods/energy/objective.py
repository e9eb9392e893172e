r"""The distance of the student's samples to the teacher's answers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...denoisers.exact import GaussianDenoiser
from ...denoisers.levels import Levels
from ...functional.bounds import same_condition
from ...functional.energy import energy_distance
from ...functional.scores import Weight
from ...functional.tensors import expand_like
from ...samplers.trajectories import trajectory
from ...students.base import Generator
from ...training.objective import Loss, Objective, Phase

__all__ = ["Energy", "Exact"]


class Drawn(NamedTuple):
    r"""Latents, the teacher's answers to what the student makes of them, and their level."""

    z: Tensor
    y: Tensor
    sigma: Tensor
    batch: Batch


class Energy(Objective):
    r"""Energy-distance matching.

    All rows of a step have one level, so that they can be compared; with conditions, rows of one
    condition are.

    Needs:
        No data, no gradient of the teacher; :math:`2 n - 1` calls of it a row.

    Deviations:
        - VarFlow compares noisy samples of the student with noised data; here the teacher answers
          the student's own, and there are no data.

    References:
        | VarFlow: Proper Scoring-Rule Diffusion Distillation via Energy Matching (Shao et al.,
        | 2025), https://openreview.net/forum?id=nSAa6BaJtK

    Arguments:
        teacher: The denoiser to distil.
        generator: The student.
        levels: The distribution of noise levels, from which each step draws one.
        weight: The weight :math:`w(\sigma)` of a level's distance.
        exponent: The exponent of the distance within (0, 2).
        teacher_steps: Heun's steps :math:`n` of the teacher's flow.

    Raises:
        ValueError: A number is out of its range.
    """

    # The exponent of EDM's grid of levels.
    RHO = 7

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        *,
        levels: Levels,
        weight: Weight = torch.ones_like,
        exponent: float = 1.0,
        teacher_steps: int = 6,
    ) -> None:
        super().__init__(teacher, generator)
        if not 0 < exponent < 2:
            raise ValueError(f"exponent must be within (0, 2), got {exponent}")
        if teacher_steps < 1:
            raise ValueError(f"teacher_steps must be at least 1, got {teacher_steps}")
        self.levels, self.weight = levels, weight
        self.exponent, self.teacher_steps = exponent, teacher_steps

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("student", self.loss, updates=("generator",)),)

    @property
    def row_coupling(self) -> str:
        return "each row is compared with the other rows of its batch"

    def prepare(self, batch: Batch, step: int) -> Drawn:
        z, like = self.latents(batch.rows), self.like
        u = self.streams.uniform("level", 1, device=like.device, dtype=like.dtype, shared=True)
        sigma = self.levels(u, step).expand(batch.rows)
        x = self.generator(z, **batch.cond)
        x_t = x + expand_like(sigma, x) * self.noise_like(x)
        return Drawn(z, self.answer(x_t, sigma, batch.cond), sigma, batch)

    def answer(self, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r"""Returns where the teacher's flow takes noisy samples, `(B, *)`.

        Arguments:
            x_t: Noisy samples, with shape :math:`(B, *)`.
            sigma: Their levels, with shape :math:`(B)`.
            cond: Their conditions.
        """
        lowest = (sigma / 2).clamp_max(self.teacher.module.sigma_min)
        places = self.teacher_steps + 1
        share = torch.linspace(0, 1, places, device=sigma.device, dtype=sigma.dtype)[:-1, None]
        share = share * (self.teacher_steps / max(self.teacher_steps - 1, 1))
        high, low = sigma ** (1 / self.RHO), lowest ** (1 / self.RHO)
        sigmas = torch.cat([(high + share * (low - high)) ** self.RHO, 0 * sigma[None]])
        asked = partial(self.teacher, **cond)
        *_, y = trajectory(asked, x_t, sigmas, correct=True, arrives=True)
        return y

    def loss(self, drawn: Drawn, step: int) -> Loss:
        cond = drawn.batch.cond
        x = self.generator(drawn.z, **cond)
        same = same_condition(cond, len(x)) if cond else None
        distance = energy_distance(x, drawn.y, same, exponent=self.exponent)
        value = self.weight(drawn.sigma[0]) * distance
        return Loss(value, {"distance": distance.detach()})


class Exact(Energy):
    r"""With a Gaussian teacher, whose flow is known:
    :math:`m + (C (C + \sigma^2)^{-1})^{1/2} (x_t - m)`."""

    def answer(self, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        teacher = self.teacher.module
        assert isinstance(teacher, GaussianDenoiser)
        gain = (teacher.values / (teacher.values + sigma.square()[:, None])).sqrt()
        along = (x_t - teacher.mean) @ teacher.vectors
        return teacher.mean + (gain * along) @ teacher.vectors.T
