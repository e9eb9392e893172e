r"""Low-rank adapters: several networks on one frozen base.

.. math:: W' = W + \tfrac{\alpha}{r} B A, \qquad A \in \mathbb{R}^{r \times n}, \quad
    B \in \mathbb{R}^{m \times r}

Teacher, student and fake can share one set of weights, with two adapters that are trained. One
holds its base outside of its parameters and its state: a copy or a checkpoint of it is small, and
copies share the base. The base itself is never changed; while an adapter is called, hooks add its
part to the base's layers.

References:
    | LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021)
    | https://arxiv.org/abs/2106.09685
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .base import Denoiser

__all__ = ["LoRA", "adapt", "adapters", "merge"]


# The adapter whose call is under way, so that a recomputation in the backward pass finds it.
_CALLED: list[LoRA] = []


class LoRA(nn.Module):
    r"""A frozen network with trainable low-rank changes of its linear and convolutional layers.

    Arguments:
        network: The base; it is frozen, shared and not saved.
        rank: The rank :math:`r`.
        alpha: The scale :math:`\alpha`; the rank by default.
        targets: A regular expression; the layers whose names it is found in are adapted.

    Raises:
        ValueError: The rank is not positive, or no layer is found.
    """

    def __init__(
        self, network: nn.Module, rank: int = 8, alpha: float | None = None, targets: str = ""
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.__dict__["_held"] = (network.requires_grad_(False),)
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        self.targets = targets
        layers = {
            name: layer
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d) and re.search(targets, name)
        }
        layers = {
            name: layer for name, layer in layers.items() if getattr(layer, "groups", 1) == 1
        }
        if not layers:
            raise ValueError(f"the network has no linear or convolutional layer named {targets!r}")
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, layer in layers.items():
            m, *rest = layer.weight.shape
            like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
            down = nn.Parameter(torch.empty(rank, *rest, **like))
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            ones = [1] * (len(rest) - 1)
            self.down[key(name)] = down
            self.up[key(name)] = nn.Parameter(torch.zeros(m, rank, *ones, **like))

    @property
    def network(self) -> nn.Module:
        return self.__dict__["_held"][0]

    @property
    def names(self) -> list[str]:
        r"""The names of the layers that are adapted."""
        return [name.replace("/", ".") for name in self.down]

    def forward(self, *arguments: Any, **cond: Any) -> Tensor:  # noqa: ANN401
        with self.active():
            return self.network(*arguments, **cond)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        r"""Adds this adapter's part to the base's layers."""
        layers = dict(self.network.named_modules())
        hooks = [layers[name].register_forward_hook(self._hook(name)) for name in self.names]
        _CALLED.append(self)
        try:
            yield
        finally:
            _CALLED.remove(self)
            for hook in hooks:
                hook.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
        down, up, scale = self.down[key(name)], self.up[key(name)], self.alpha / self.rank

        def add(layer: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            x = inputs[0]
            if isinstance(layer, nn.Linear):
                low = nn.functional.linear(nn.functional.linear(x, down), up)
            else:
                h = nn.functional.conv2d(
                    x, down, None, layer.stride, layer.padding, layer.dilation
                )
                low = nn.functional.conv2d(h, up)
            return output + scale * low

        return add

    def change(self, name: str) -> Tensor:
        r"""Returns :math:`\tfrac{\alpha}{r} B A` of a layer, with the shape of its weight."""
        down, up = self.down[key(name)], self.up[key(name)]
        product = up.flatten(1) @ down.flatten(1)
        return self.alpha / self.rank * product.unflatten(1, down.shape[1:])

    @torch.no_grad()
    def merged(self) -> nn.Module:
        r"""Returns a copy of the base with the adapter in its weights."""
        network = copy.deepcopy(self.network)
        layers = dict(network.named_modules())
        for name in self.names:
            layers[name].weight += self.change(name)
        return network

    def enable_gradient_checkpointing(self) -> None:
        r"""Has the base recompute activations, each under the adapter of its forward pass."""
        self.network.enable_gradient_checkpointing(_recompute)

    def __deepcopy__(self, memo: dict[int, Any]) -> LoRA:
        twin = LoRA(self.network, self.rank, self.alpha, self.targets)
        with torch.no_grad():
            twin.load_state_dict(self.state_dict())
        for mine, its in zip(self.parameters(), twin.parameters(), strict=True):
            its.requires_grad_(mine.requires_grad)
        return twin.train(self.training)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha:g}, layers={len(self.down)}"


def key(name: str) -> str:
    r"""Returns a layer's name without dots, which a parameter's name must not have."""
    return name.replace(".", "/")


def _recompute(function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
    r"""Checkpoints a block; what is recomputed in the backward pass has the same adapter."""
    called = _CALLED[-1] if _CALLED else None
    again = contextlib.nullcontext() if called is None else called.active()
    contexts = (contextlib.nullcontext(), again)
    return checkpoint(function, *arguments, use_reentrant=False, context_fn=lambda: contexts)


def with_child(module: nn.Module, name: str, value: nn.Module) -> nn.Module:
    r"""Returns a shallow copy of a module with another child of this name."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, name: value}
    twin._buffers = dict(module._buffers)
    return twin


def adapt(
    denoiser: Denoiser, rank: int, alpha: float | None = None, targets: str = ""
) -> Denoiser:
    r"""Returns the denoiser with an adapter on its network, which both share.

    Raises:
        TypeError: The denoiser has no network.
    """
    for name in ("denoiser", "network"):
        inner = denoiser._modules.get(name)
        if isinstance(inner, Denoiser):
            return with_child(denoiser, name, adapt(inner, rank, alpha, targets))
        if inner is not None:
            return with_child(denoiser, name, LoRA(inner, rank, alpha, targets))
    raise TypeError(f"{type(denoiser).__name__} has no network that could be adapted")


def adapters(module: nn.Module) -> list[LoRA]:
    r"""Returns the adapters in a module."""
    return [m for m in module.modules() if isinstance(m, LoRA)]


def merge(module: nn.Module) -> nn.Module:
    r"""Returns a copy of a module with every adapter merged into a copy of its base."""
    if isinstance(module, LoRA):
        return module.merged()
    twin = copy.copy(module)
    twin._modules = {name: merge(m) if m is not None else m for name, m in module._modules.items()}
    return twin
