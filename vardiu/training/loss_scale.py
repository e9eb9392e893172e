r"""The scale of a loss, without which small gradients are lost in float16.

Half precision knows nothing between 0 and 6e-8, and gradients of deep networks are smaller. The
loss is multiplied by :math:`2^k`, hence every gradient within the networks, and the gradients of
the weights are divided by it before anything reads them. A power of two moves the exponent and
leaves the digits: where nothing under- or overflows, the result is the unscaled one, bit for bit.

The scale is halved whenever a gradient overflows, and that step is left out; it is doubled after
enough steps without one.

References:
    | Mixed Precision Training (Micikevicius et al., 2018), https://arxiv.org/abs/1710.03740,
    | Section 3.2
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..nn import Precision
from .objective import Objective

__all__ = ["LossScale", "scales_of"]


class LossScale:
    r"""The scale of one phase's loss.

    Arguments:
        value: The first scale, a power of two.
        patience: The number of steps without an overflow after which the scale is doubled.

    Attributes:
        value: The scale.
        skipped: The number of steps left out so far.

    Raises:
        ValueError: The scale is not a power of two: digits would be lost.

    Example:
        >>> scale = LossScale(8.0)
        >>> scale.lower(), scale.value, scale.skipped
        (True, 4.0, 1)
    """

    SMALLEST, LARGEST = 2.0**-14, 2.0**24

    def __init__(self, value: float = 2.0**16, patience: int = 2000) -> None:
        if not value > 0 or math.frexp(value)[0] != 0.5:
            raise ValueError(f"the scale of a loss must be a power of two, got {value}")
        self.value, self.patience = value, patience
        self.skipped = self.passes = 0

    def undo(self, gradients: list[Tensor]) -> None:
        r"""Divides gradients by the scale, in place."""
        if gradients:
            torch._foreach_mul_(gradients, 1 / self.value)

    def passed(self) -> None:
        r"""Counts a step without an overflow."""
        self.passes += 1
        if self.passes >= self.patience:
            self.value, self.passes = min(2 * self.value, self.LARGEST), 0

    def lower(self) -> bool:
        r"""Halves the scale after an overflow; returns whether it is still one to go on with."""
        self.value, self.passes = self.value / 2, 0
        self.skipped += 1
        return self.value >= self.SMALLEST

    def info(self) -> dict[str, Tensor]:
        r"""Returns the scale and the number of steps left out, for the log."""
        return {"scale": torch.tensor(self.value), "skipped": torch.tensor(self.skipped)}

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "skipped": self.skipped, "passes": self.passes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value = state["value"]
        self.skipped, self.passes = state["skipped"], state["passes"]


def scales_of(objective: Objective, value: float | None) -> dict[str, LossScale]:
    r"""Returns the scale of each phase; none where no network needs one and no value is given."""
    half = any(isinstance(m, Precision) and m.dtype == torch.float16 for m in objective.modules())
    if value is None and not half:
        return {}
    return {phase.name: LossScale(value or 2.0**16) for phase in objective.phases}
