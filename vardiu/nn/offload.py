r"""Weights that wait in host memory and are on a device only while they are used.

A frozen network is not written to: nothing has to be copied back. Its copy on the device lives as
long as the call, and as the graph of a gradient through it. On CUDA the host's copy is pinned, and
a call pays for one transfer of the weights; on a CPU nothing is moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["Method", "call", "move_to_host", "returning_to_host"]


def move_to_host(module: nn.Module) -> None:
    r"""Moves the weights and buffers of a module to host memory, pinned where CUDA is there."""
    module._apply(_pinned)


def _pinned(tensor: Tensor) -> Tensor:
    tensor = tensor.cpu()
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def returning_to_host(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    r"""Returns the function that `nn.Module.to` applies, followed by a return to the host.

    One tensor at a time is on the device: changes of type are made, and moves undone.
    """
    return lambda tensor: _pinned(function(tensor))


def copied_to(tensor: Tensor, device: torch.device) -> Tensor:
    r"""Returns a copy on the device; from pinned memory the host does not wait for it."""
    return tensor.to(device, non_blocking=True)


def is_elsewhere(state: Mapping[str, Tensor], device: torch.device) -> bool:
    r"""Returns whether some tensor is not on the device."""
    return any(tensor.device.type != device.type for tensor in state.values())


class Method(nn.Module):
    r"""A module whose call is a method of another one, for `call` to lend its weights to.

    Arguments:
        module: The other module.
        name: The name of the method.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        return getattr(self.module, self.name)(*arguments, **named)


def call(module: nn.Module, device: torch.device, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
    r"""Returns what a module that lies in host memory gives on a device."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if not is_elsewhere(state, device):
        return module(*arguments, **named)
    copies = {name: copied_to(tensor, device) for name, tensor in state.items()}
    return functional_call(module, copies, arguments, named)
