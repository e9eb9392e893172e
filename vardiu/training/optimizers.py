r"""How networks are updated: Adam, the course of its learning rate, and clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from .objective import Objective

__all__ = ["Optimisation", "constant", "cosine", "trapezoid"]


def constant(progress: float) -> float:
    r"""The learning rate's factor, always one."""
    return 1.0


def cosine(progress: float) -> float:
    r"""The learning rate's factor, :math:`\tfrac12 (1 + \cos \pi t)` at progress :math:`t`.

    Example:
        >>> cosine(0.0), cosine(1.0)
        (1.0, 0.0)
    """
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def trapezoid(progress: float) -> float:
    r"""The learning rate's factor: one until 3/8 of the run, then linear to 1/50.

    Example:
        >>> trapezoid(0.3), trapezoid(1.0)
        (1.0, 0.02)
    """
    return max(0.02, min(1.0, 1.6 * (1 - progress)))


@dataclass(frozen=True)
class Optimisation:
    r"""How the networks of a stage are updated: Adam, one optimiser a network.

    Arguments:
        rates: The learning rate of each network that a phase updates.
        betas: Adam's decay rates of its two moments; `first_moment` may differ by network.
        momenta: The first decay rate of networks for which it differs.
        decay: The factor of the learning rate, of the progress in [0, 1].
        warmup: The number of steps in which the rate grows from zero.
        delays: The number of steps before a network's first update.
        clip: The largest norm of a network's gradient.
        halflife: The half-life of the student's average, in samples.
    """

    rates: Mapping[str, float]
    betas: tuple[float, float] = (0.9, 0.999)
    momenta: Mapping[str, float] = field(default_factory=dict)
    decay: Callable[[float], float] = constant
    warmup: int = 0
    delays: Mapping[str, int] = field(default_factory=dict)
    clip: float = math.inf
    halflife: float = 0.0

    def optimizers(self, objective: Objective) -> dict[str, torch.optim.Optimizer]:
        r"""Returns an Adam for each network; parameters that the user froze are left out."""
        result: dict[str, torch.optim.Optimizer] = {}
        for name, rate in self.rates.items():
            free = [p for p in objective.network(name).parameters() if p.requires_grad]
            betas = (self.momenta.get(name, self.betas[0]), self.betas[1])
            # Fused updates are the same arithmetic in one kernel, on CPU and CUDA.
            result[name] = torch.optim.Adam(free, lr=rate, betas=betas, fused=True)
        return result
