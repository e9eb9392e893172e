r"""Methods of few steps as they are trained on states of several sources, see `ddil`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..denoisers.levels import log_grid
from ..functional.tensors import expand_like, sent
from ..students.few_step import FewStep
from ..training.objective import Loss
from ..training.states import Mixture, Path, Shown
from .consistency import ConsistencyDistillation
from .diff_instruct import Fakes, shown
from .dmd2 import DMD2

__all__ = ["FINER", "ImitatedConsistency", "ImitatedDMD2", "noised_call", "path_between"]


Threshold = Callable[[Tensor], Tensor]


class ImitatedConsistency(ConsistencyDistillation):
    r"""Consistency distillation whose target network's answers are thresholded.

    Arguments:
        threshold: The threshold.
        arguments: See `ConsistencyDistillation`, as the other arguments are.
    """

    def __init__(self, *arguments: Any, threshold: Threshold, **named: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **named)
        self.threshold = threshold

    def answer(self, network: nn.Module, *arguments: Any) -> Tensor:  # noqa: ANN401
        value = super().answer(network, *arguments)
        return self.threshold(value) if network is self.target else value


class ImitatedDMD2(DMD2):
    r"""DMD2, whose student is shown states of the mixture before its later calls.

    Its own roll-outs are the student's source; noised data and the teacher's states are added.
    The first call sees noise alone, whatever the source. The fake's estimates are thresholded
    where they are compared with the teacher's, and not in its own training.

    Arguments:
        threshold: The threshold.
        states: The mixture.
        arguments: See `DMD2`, as the other arguments are.
    """

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401
        threshold: Threshold,
        states: Mixture,
        **named: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*arguments, **named)
        self.threshold, self.states = threshold, states

    def prepare(self, batch: Batch, step: int) -> Fakes:
        state, index = shown(self, batch)
        if index:
            place = torch.full((batch.rows,), index, device=state.device)
            given = self.states.forward_states(self, batch, place, step)
            given = self.states.mixed(self, given, batch, step, state)
            state, mixed = given.x_t, Batch(batch.rows, batch.x, given.cond)
            x = self.generator.call(index, state, **given.cond)
            return Fakes(state, x, mixed, index, batch)
        return Fakes(state, self.generator.call(index, state, **batch.cond), batch, index)

    def directed(
        self, x: Tensor, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor], mean: Tensor
    ) -> Loss:
        return super().directed(x, x_t, sigma, cond, self.threshold(mean))


def noised_call(objective: DMD2, batch: Batch, place: Tensor, step: int) -> Shown:
    r"""Returns clean samples with fresh noise of the levels of the student's calls."""
    x, student = batch.clean().to(objective.like), objective.generator
    assert isinstance(student, FewStep)
    sigma = sent(torch.tensor(student.sigmas, dtype=x.dtype), x.device)[place]
    return Shown(x + expand_like(sigma, x) * objective.noise_like(x, "forward"), place, batch.cond)


# Steps of the teacher between two calls of a student of DMD2.
FINER = 8


def path_between(sigmas: Sequence[float]) -> Path:
    r"""Returns the path of a teacher that takes so many steps, of equal ratios of levels, between
    two calls of a student."""
    parts = [log_grid(FINER + 1, low, high) for high, low in zip(sigmas, sigmas[1:], strict=False)]
    levels = torch.cat([*(part[:FINER] for part in parts), parts[-1][FINER : FINER + 1]])
    return Path(levels, torch.arange(0, len(levels), FINER))
