r"""The start of a flow map: a regression on the paths of the teacher's solver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...functional.tensors import expand_like, sent
from ...samplers.pairs import Pairs
from ...students.flow_map import FlowMap
from ..regression import Regression

__all__ = ["Asked", "PathRegression"]


class Asked(NamedTuple):
    r"""Where rows start on their paths, and where they are to end."""

    paths: Pairs
    starts: Tensor
    """The number of a level of each, from 0 for :math:`T`, `(B,)`."""
    ends: Tensor
    """That of a lower level, `(B,)`."""


class PathRegression(Regression):
    r"""Regression of a flow map on the teacher's paths.

    .. math:: \mathcal{L} = \mathbb{E} \left[ \sqrt{ \tfrac1d \| G(x_t, t, s) - G^* \|^2 + c^2 }
        - c \right], \qquad G^* = \frac{x_s - (s / t) \, x_t}{1 - s / t}

    where :math:`x_t` and :math:`x_s` are the states of a solver's path at two of its levels
    :math:`t > s`, the noise at :math:`T` and the sample at zero among them: what the map answers
    there if it is the solver's own.

    Needs:
        Paths of the teacher, no data, no further call of the teacher.

    Arguments:
        teacher: The teacher, whose solver made the paths.
        generator: The flow map, of one call.
        paths: The paths, with the states `(N, n, *)`.
        sigmas: The solver's levels :math:`T > s_1 > \ldots > s_n`.
        below: The share of the rows that start below :math:`T`, at each level alike.
        share: The share of the rows that ask for the sample; the others ask for each state on the
            way to it alike.
        softness: The constant :math:`c`, in `unit`.
        unit: The length that differences are measured in.

    Raises:
        ValueError: There are other levels than states, the map starts elsewhere, or a share is out
            of its range.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: FlowMap,
        paths: Pairs,
        sigmas: Sequence[float],
        *,
        below: float = 0.0,
        share: float = 0.5,
        softness: float = 0.03,
        unit: float = 1.0,
    ) -> None:
        super().__init__(teacher, generator, paths, softness=softness, unit=unit)
        self.sigmas = [float(sigma) for sigma in sigmas]
        if len(sigmas) != paths.x.shape[1] + 1 or self.sigmas[0] != generator.sigmas[0]:
            raise ValueError(
                f"a path of {paths.x.shape[1]} states from the map's level "
                f"{generator.sigmas[0]:g} was expected, got levels {self.sigmas}"
            )
        if not (0 < share <= 1 and 0 <= below < 1):
            raise ValueError(
                f"share must be within (0, 1] and below within [0, 1), got {share:g} and {below:g}"
            )
        self.below, self.share = below, share

    def prepare(self, batch: Batch, step: int) -> Asked:
        paths, last = super().prepare(batch, step), len(self.sigmas) - 1
        lower, on_way = self.uniform(batch.rows, "start"), self.uniform(batch.rows, "state")
        # Of [0, below) and of [share, 1) equal parts belong to the levels between.
        between = (lower / (self.below or 1) * (last - 1)).long() + 1
        starts = torch.where(lower < self.below, between.clamp_max(last - 1), 0)
        wide = (on_way - self.share) / ((1 - self.share) or 1)
        ends = starts + 1 + (wide * (last - 1 - starts)).long()
        sample = (on_way < self.share) | (starts == last - 1)
        return Asked(paths, starts, torch.where(sample, last, ends.clamp_max(last - 1)))

    def answers(self, asked: Asked) -> tuple[Tensor, Tensor]:
        r"""Returns what the map answers, and what the solver's map does, each `(B, *)`."""
        paths, starts, ends = asked
        levels = sent(paths.z.new_tensor(self.sigmas, device="cpu"), paths.z.device)
        rows = torch.arange(len(ends), device=ends.device)
        # The state at T is the latent's own.
        states = torch.cat([(self.sigmas[0] * paths.z)[:, None], paths.x], 1)
        (t, x_t), (s, x_s) = ((levels[at], states[rows, at]) for at in (starts, ends))
        ratio = expand_like(s / t, x_t)
        known = (x_s - ratio * x_t) / (1 - ratio)
        assert isinstance(self.generator, FlowMap)
        return self.generator.answer(x_t, t, s, **paths.cond), known
