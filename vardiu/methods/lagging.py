r"""The anchor: a lagging copy of the student, and how far the student has left it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..settings.fields import AnchorSettings
from ..students.base import Generator
from ..training.distributed import averaged
from ..training.memory import Count, Target
from .diff_instruct import Fakes

if TYPE_CHECKING:
    from .anchored import AnchoredVarDiU

__all__ = ["Anchor", "nats", "steps_of"]


def nats(x: Tensor, anchored: Tensor, sigma: Tensor) -> Tensor:
    r"""Returns :math:`\| g(z) - g_a(z) \|^2 / 2 \sigma^2`, one a row, with shape `(B,)`.

    Its mean bounds :math:`\mathrm{KL}(p_\sigma \,\|\, p_{a, \sigma})`, by the convexity of the
    divergence, and the slack of the bound.
    """
    return (x - anchored).square().flatten(1).sum(1) / (2 * sigma.square())


def steps_of(row: AnchorSettings, updates: int, ratio: int) -> int:
    r"""Returns the steps of a training: the fake's updates, those after refreshes among them."""
    held = math.ceil(updates / row.refresh) * row.settle if row.refresh else 0
    return updates * ratio + held


class Anchor(Target):
    r"""A lagging copy of the student.

    A moving average takes a share of the student after each of its updates; one that is held
    becomes the student at a refresh, after which the fake alone is trained for some steps.

    Arguments:
        network: The student.
        row: How it follows.
        ratio: The steps from one update of the student to the next.
        steps: The steps of the training.

    Raises:
        ValueError: Two numbers exclude each other.
    """

    def __init__(self, network: Generator, row: AnchorSettings, ratio: int, steps: int) -> None:
        super().__init__("generator", network, 0.0)
        if not row.refresh and (row.settle or row.trust is not None):
            raise ValueError(
                "only an anchor that is held settles, or is refreshed by trust: give a refresh, "
                "the updates of the student from one refresh to the next"
            )
        self.row, self.ratio, self.steps = row, ratio, steps
        # Steps since the last refresh; the fake settles on the first student too.
        self.since = Count()

    @property
    def period(self) -> int:
        r"""The steps after which the turns of the phases repeat."""
        return self.held if self.row.settle else self.ratio

    @property
    def turns(self) -> int:
        r"""The updates of the student in a period."""
        return self.row.refresh if self.row.settle else 1

    def rate(self, step: int) -> float:
        r"""Returns the share of the student that a moving average takes: geometric in the step."""
        first, last = self.row.rate, self.row.rate_end
        return first if last is None else first * (last / first) ** (step / self.steps)

    @property
    def held(self) -> int:
        r"""The steps from one refresh to the next of an anchor that is held."""
        return self.row.settle + self.row.refresh * self.ratio

    def moves(self, step: int) -> bool:
        r"""Whether the student is updated at a step."""
        passed = self.since.value - self.row.settle if self.row.refresh else step
        return passed >= 0 and passed % self.ratio == 0

    def follow(self, objective: Any, drawn: list[Any], step: int) -> None:  # noqa: ANN401
        network, moved = objective.network(self.source), self.moves(step)
        if not self.row.refresh:
            if moved:
                self.move(network, self.rate(step))
            return
        self.since.value += 1
        if self.since.value >= self.held or (moved and self.left(objective, drawn, step)):
            self.move(network, 1.0)
            self.since.value = 0

    def left(self, objective: AnchoredVarDiU, drawn: list[Fakes], step: int) -> bool:
        r"""Whether the student has left the anchor by more than is trusted, at the level in the
        middle of the step's."""
        if self.row.trust is None:
            return False
        sigma = objective.levels(drawn[0].x.new_full((1,), 0.5), step)
        new = [objective.generator.call(d.call, d.z, **d.batch.cond) for d in drawn]
        measured = [nats(x, d.x, sigma).mean() for x, d in zip(new, drawn, strict=True)]
        return bool(averaged(torch.stack(measured).mean()) > self.row.trust)
