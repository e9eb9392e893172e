r"""How networks are updated: an optimiser a network, its clipping, and the rates' course."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, nearest

__all__ = ["KINDS", "Optimisation", "OptimizerRow", "constant", "cosine", "trapezoid"]


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


def _adam(free: list[nn.Parameter], row: OptimizerRow) -> torch.optim.Optimizer:
    # Fused updates are the same arithmetic in one kernel, on CPU and CUDA.
    return torch.optim.Adam(
        free, lr=row.lr, betas=row.betas, weight_decay=row.weight_decay, fused=True
    )


def _adamw(free: list[nn.Parameter], row: OptimizerRow) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        free, lr=row.lr, betas=row.betas, weight_decay=row.weight_decay, fused=True
    )


def _radam(free: list[nn.Parameter], row: OptimizerRow) -> torch.optim.Optimizer:
    return torch.optim.RAdam(free, lr=row.lr, betas=row.betas, weight_decay=row.weight_decay)


def _sgd(free: list[nn.Parameter], row: OptimizerRow) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        free, lr=row.lr, momentum=row.betas[0], weight_decay=row.weight_decay, fused=True
    )


def _in_eight_bits(
    name: str,
) -> Callable[[list[nn.Parameter], OptimizerRow], torch.optim.Optimizer]:
    r"""Returns what makes an optimiser of bitsandbytes, whose moments have eight bits a number and
    a scale of 256 numbers; tensors of less than 4,096 numbers keep theirs whole."""

    def make(free: list[nn.Parameter], row: OptimizerRow) -> torch.optim.Optimizer:
        try:
            library = importlib.import_module("bitsandbytes")
        except (ImportError, OSError, RuntimeError) as error:
            raise ConfigError(
                f"the optimizer {row.kind} needs bitsandbytes, which does not import here "
                f"({error}): pip install bitsandbytes, or take {row.kind.removesuffix('8bit')}"
            ) from error
        optimizer: torch.optim.Optimizer = getattr(library.optim, name)(
            free, lr=row.lr, betas=row.betas, weight_decay=row.weight_decay
        )
        return optimizer

    return make


KINDS: Mapping[str, Callable[[list[nn.Parameter], OptimizerRow], torch.optim.Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "radam": _radam,
    "sgd": _sgd,
    "adam8bit": _in_eight_bits("Adam8bit"),
    "adamw8bit": _in_eight_bits("AdamW8bit"),
}


@dataclass(frozen=True, kw_only=True)
class OptimizerRow:
    r"""How one network is updated.

    Arguments:
        kind: The optimiser, one of `KINDS`; `sgd` has `betas[0]` for its momentum.
        lr: The learning rate, before warm-up and decay.
        betas: The decay rates of the two moments.
        weight_decay: The weight decay: added to the gradient by `adam`, `radam` and `sgd`,
            apart from it by `adamw`.
        warmup: The number of steps in which the rate grows from zero.
        delay: The number of steps before the first update.
        clip: The largest norm of the network's gradient.

    Raises:
        ValueError: The kind is unknown, or a number is out of its range.
    """

    kind: str = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: int = 0
    delay: int = 0
    clip: float = math.inf

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown optimizer {self.kind!r}; {nearest(self.kind, KINDS)}")
        if not (self.lr > 0 and self.clip > 0):
            raise ValueError(f"lr and clip must be positive, got {self.lr} and {self.clip}")
        if not (min(self.warmup, self.delay, self.weight_decay) >= 0):
            raise ValueError(
                f"warmup, delay and weight_decay must be at least 0, got {self.warmup}, "
                f"{self.delay} and {self.weight_decay}"
            )

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        r"""Returns the optimiser of a network; parameters that the user froze are left out."""
        return KINDS[self.kind]([p for p in network.parameters() if p.requires_grad], self)

    def set_rate(self, optimizer: torch.optim.Optimizer, decay: float, step: int) -> None:
        r"""Sets the learning rate of a step: warm-up and the decay's factor are in it."""
        warm = (step + 1) / self.warmup if step < self.warmup else 1.0
        for group in optimizer.param_groups:
            group["lr"] = decay * warm * self.lr


@dataclass(frozen=True)
class Optimisation:
    r"""How the networks of a stage are updated: one optimiser a network.

    Arguments:
        rows: How each network that a phase updates is updated, by its name.
        decay: The factor of all learning rates, of the progress in [0, 1].
        halflife: The half-life of the student's average, in samples.

    Example:
        >>> Optimisation.adam({"generator": 1e-3}, clip=1.0).rows["generator"].clip
        1.0
    """

    rows: Mapping[str, OptimizerRow]
    decay: Callable[[float], float] = constant
    halflife: float = 0.0

    @classmethod
    def adam(
        cls,
        rates: Mapping[str, float],
        *,
        decay: Callable[[float], float] = constant,
        halflife: float = 0.0,
        **row: Any,  # noqa: ANN401 (fields of `OptimizerRow`)
    ) -> Optimisation:
        r"""Returns Adam for each network, with learning rates of their own and all else equal."""
        rows = {name: OptimizerRow(lr=lr, **row) for name, lr in rates.items()}
        return cls(rows, decay, halflife)
