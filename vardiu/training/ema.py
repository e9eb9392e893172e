r"""Moving averages of weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Average"]


M = TypeVar("M", bound=nn.Module)


class Average(Generic[M]):
    r"""An exponential moving average of a module's weights, with its half-life in samples.

    .. math:: \bar{\theta} \leftarrow \beta \bar{\theta} + (1 - \beta) \theta, \qquad
        \beta = 2^{-n / h}, \quad h = \min(\text{half-life}, \text{ramp} \times \text{seen})

    where :math:`n` is the number of samples of an update. Stated in samples, the average does not
    change with the batch. The ramp keeps the first weights out of it.

    References:
        | Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2023)
        | https://arxiv.org/abs/2312.02696, Section 3

    Arguments:
        module: The module to follow.
        halflife: The half-life :math:`h`, in samples; 0 copies the weights.
        ramp: The half-life's cap, as a fraction of the samples seen so far.
    """

    def __init__(self, module: M, halflife: float, ramp: float = 0.05) -> None:
        if halflife < 0 or ramp <= 0:
            raise ValueError(
                f"halflife must be at least 0 and ramp positive, got {halflife}, {ramp}"
            )
        self.module: M = copy.deepcopy(module).requires_grad_(False).eval()
        self.halflife, self.ramp = halflife, ramp
        self.seen = 0

    @torch.no_grad()
    def update(self, module: nn.Module, samples: int) -> None:
        r"""Moves the average toward a module that has just been updated on some samples."""
        self.seen += samples
        halflife = min(self.halflife, self.ramp * self.seen)
        beta = 0.5 ** (samples / halflife) if halflife > 0 else 0.0
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(averages, weights, 1 - beta)
        for ours, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            ours.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "module": self.module.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]
        self.module.load_state_dict(state["module"])
