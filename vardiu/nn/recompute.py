r"""Blocks whose activations are computed twice instead of kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["Recomputed", "Recomputing"]


@runtime_checkable
class Recomputing(Protocol):
    r"""A network that can compute activations twice instead of keeping them, see `Recomputed`."""

    def enable_gradient_checkpointing(self, function: Callable[..., Any] | None = None) -> None:
        r"""Keeps the inputs of the blocks only, from now on."""


class Recomputed:
    r"""What a network of blocks inherits from beside `nn.Module`, to run them by `run`.

    Once `enable_gradient_checkpointing` has been called (the name is that of diffusers' models),
    only the inputs of the blocks are kept for the backward pass, which runs each block again. The
    gradients are the same, bit for bit: blocks must draw nothing.

    References:
        | Training Deep Nets with Sublinear Memory Cost (Chen et al., 2016)
        | https://arxiv.org/abs/1604.06174
    """

    recompute = False

    def enable_gradient_checkpointing(self) -> None:
        r"""Keeps the inputs of the blocks only, from now on."""
        self.recompute = True

    def run(self, block: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        r"""Returns what a block makes of its inputs."""
        if not (self.recompute and torch.is_grad_enabled()):
            return block(*inputs)
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
