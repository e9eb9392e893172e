r"""What the processes of one run tell each other; nothing in a lone process."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["everywhere", "share_gradients"]


def everywhere(value: Tensor) -> Tensor:
    r"""Returns the sum over processes: not finite in one is so in all, and none waits for ever."""
    value = value.detach().clone()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


def share_gradients(parameters: list[nn.Parameter]) -> None:
    r"""Averages gradients over processes, in one flat message; nothing in a lone process."""
    if not torch.distributed.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
