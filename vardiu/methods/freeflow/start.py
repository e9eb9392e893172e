r"""The start of a flow map: a regression on the paths of the teacher's solver."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...functional.distances import pseudo_huber
from ...functional.tensors import expand_like
from ...samplers.pairs import Pairs
from ...students.flow_map import FlowMap
from ...training.objective import Loss, Objective, Phase
from ..regression import drawn_pairs

__all__ = ["PathRegression"]


class PathRegression(Objective):
    r"""Regression of a flow map on the teacher's paths.

    .. math:: \mathcal{L} = \mathbb{E} \left[ \sqrt{ \tfrac1d \| G(x_T, T, s_i) - G_i \|^2 + c^2 }
        - c \right], \qquad G_i = \frac{x_{s_i} - (s_i / T) \, x_T}{1 - s_i / T}

    where :math:`x_{s_i}` are the states of a solver at its levels :math:`s_i < T`, the sample at
    :math:`s_n = 0` among them: what the map answers there if it is the solver's own.

    Needs:
        Paths of the teacher, no data, no further call of the teacher.

    Arguments:
        teacher: The teacher, whose solver made the paths.
        generator: The flow map.
        paths: The paths, with the states `(N, n, *)`.
        sigmas: The solver's levels :math:`T > s_1 > \ldots > s_n`.
        share: The share of the rows that ask for the sample; the others spread over the other
            states.
        softness: The constant :math:`c`.

    Raises:
        ValueError: There are other levels than states, or the map starts elsewhere.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: FlowMap,
        paths: Pairs,
        sigmas: Sequence[float],
        *,
        share: float = 0.5,
        softness: float = 0.03,
    ) -> None:
        super().__init__(teacher, generator)
        top, *below = map(float, sigmas)
        if len(below) != paths.x.shape[1] or top != generator.sigmas[0]:
            raise ValueError(
                f"a path of {paths.x.shape[1]} states from the map's level "
                f"{generator.sigmas[0]:g} was expected, got levels {[top, *below]}"
            )
        if not 0 < share <= 1:
            raise ValueError(f"share must be within (0, 1], got {share:g}")
        # An artefact of the run: known to whoever made the objective, and in no checkpoint.
        self.paths, self.top, self.below = paths, top, below
        self.share, self.softness = share if len(below) > 1 else 1.0, softness

    @property
    def flow(self) -> FlowMap:
        r"""The student."""
        assert isinstance(self.generator, FlowMap)
        return self.generator

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("regression", self.loss, updates=("generator",)),)

    def prepare(self, batch: Batch, step: int) -> tuple[Pairs, Tensor]:
        paths = drawn_pairs(self, self.paths, batch.rows)
        u, last = self.uniform(batch.rows, "state"), len(self.below) - 1
        # Of [share, 1) equal parts belong to the states on the way.
        on_way = ((u - self.share) / max(1 - self.share, 1e-9) * last).long().clamp(0, last)
        return paths, torch.where(u < self.share, last, on_way)

    def answers(self, paths: Pairs, states: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns what the map answers at states of paths, and what the solver's map does there,
        each `(B, *)`.

        Arguments:
            paths: Paths, `(B, n, *)`.
            states: The number of a state of each, `(B,)`.
        """
        s = paths.z.new_tensor(self.below)[states]
        t, x_t = torch.full_like(s, self.top), self.top * paths.z
        rows = torch.arange(len(states), device=states.device)
        share = expand_like(s / t, x_t)
        known = (paths.x[rows, states] - share * x_t) / (1 - share)
        return self.flow.answer(x_t, t, s, **paths.cond), known

    def loss(self, drawn: tuple[Pairs, Tensor], step: int) -> Loss:
        found, known = self.answers(*drawn)
        error = (found - known).flatten(1).square().mean(1).detach()
        return Loss(
            pseudo_huber(found - known, self.softness).mean(), {"squared_error": error.mean()}
        )
