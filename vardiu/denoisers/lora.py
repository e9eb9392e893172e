r"""Low-rank adapters: several networks on one frozen base.

.. math:: W' = W + \tfrac{\alpha}{r} B A, \qquad A \in \mathbb{R}^{r \times n}, \quad
    B \in \mathbb{R}^{m \times r}

Teacher, student and fake can share one set of weights, with two adapters that are trained. One
holds its base outside of its parameters and its state: a copy or a checkpoint of it is small, and
copies share the base. The base itself is never changed, nor told of an adapter: each adapter has
a twin of the base, a second tree of modules around the same weights. What a compiler has seen of
one is not taken for another, and what is recomputed in a backward pass has the adapter it had.

References:
    | LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021)
    | https://arxiv.org/abs/2106.09685
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..nn.quantised import dequantised
from ..nn.recompute import Recomputing
from ..nn.taps import Features, Wrapper, ask_features, with_child
from .base import Denoiser

__all__ = ["LoRA", "adapt", "adapters", "merge"]


M = TypeVar("M", bound=nn.Module)


class Adapted(nn.Module):
    r"""A layer of the base with the adapter's part added to its output.

    It is a shallow copy of the layer: it has the layer's own weights, and nothing of its own but
    who the adapter is.
    """

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        adapter, name = self.__dict__["_part"]
        # Asked for at each call: the parameters may have been swapped, by torch.func for one.
        down, up = adapter.down[name], adapter.up[name]
        if isinstance(self, nn.Linear):
            low = nn.functional.linear(nn.functional.linear(x, down), up)
        else:
            assert isinstance(self, nn.Conv2d)  # as all other layers that are adapted
            h = nn.functional.conv2d(x, down, None, self.stride, self.padding, self.dilation)
            low = nn.functional.conv2d(h, up)
        return output + adapter.alpha / adapter.rank * low


ADAPTED: dict[type[nn.Module], type[nn.Module]] = {}


def adapted_class(cls: type[nn.Module]) -> type[nn.Module]:
    r"""Returns a class of layers with the adapter's part added to their output, one of each."""
    if cls not in ADAPTED:
        ADAPTED[cls] = type(f"Adapted{cls.__name__}", (Adapted, cls), {})
    return ADAPTED[cls]


class LoRA(Wrapper):
    r"""A frozen network with trainable low-rank changes of its linear and convolutional layers.

    Arguments:
        network: The base; it is frozen, shared and not saved.
        rank: The rank :math:`r`.
        alpha: The scale :math:`\alpha`; the rank by default.
        targets: A regular expression; the layers whose names it is found in are adapted.

    Raises:
        ValueError: The rank is not positive, or no layer is found.

    Attributes:
        network: The base.
        twin: The base with this adapter: its layers, weights and buffers are the base's own, and
            what leads to an adapted layer is a shallow copy.
    """

    twin: nn.Module

    def __init__(
        self, network: nn.Module, rank: int = 8, alpha: float | None = None, targets: str = ""
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        # In __dict__ a module escapes nn.Module's registration.
        self.__dict__["network"] = network.requires_grad_(False)
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
            device, dtype = layer.weight.device, layer.weight.dtype
            down = nn.Parameter(torch.empty(rank, *rest, device=device, dtype=dtype))
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            ones = [1] * (len(rest) - 1)
            self.down[key(name)] = down
            up = torch.zeros(m, rank, *ones, device=device, dtype=dtype)
            self.up[key(name)] = nn.Parameter(up)
        self._copies: dict[nn.Module, nn.Module] = {}
        self.__dict__["twin"] = self._copied(network, self._copies)

    @property
    def names(self) -> list[str]:
        r"""The names of the layers that are adapted."""
        return [name.replace("/", ".") for name in self.down]

    def forward(self, *arguments: Any, **cond: Any) -> Tensor:  # noqa: ANN401
        return self.twin(*arguments, **cond)

    def features(
        self, x: Tensor, c_noise: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> Features:
        r"""Returns the output of a plain call, and the features of the base under the adapter."""
        return ask_features(self.twin, x, c_noise, at, cond)

    def _copied(self, network: nn.Module, copies: dict[nn.Module, nn.Module]) -> nn.Module:
        r"""Returns the twin of a base, and keeps in `copies` which module each copy is of."""
        layers = dict(network.named_modules())
        parts = {layers[name]: key(name) for name in self.names}

        def copied(module: nn.Module) -> nn.Module:
            if module in copies:
                return copies[module]
            children = {n: copied(m) for n, m in module._modules.items() if m is not None}
            if module not in parts and all(module._modules[n] is m for n, m in children.items()):
                return module
            twin = copies[module] = copy.copy(module)
            twin._modules = {**module._modules, **children}
            if module in parts:
                twin.__class__ = adapted_class(type(module))
                twin.__dict__["_part"] = (self, parts[module])
            return twin

        return copied(network)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LoRA:
        # The base is nobody's child here, and an adapter on another device could not be called.
        self.network._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def train(self, mode: bool = True) -> LoRA:
        r"""Sets the adapter's mode; the base keeps its own, which the twin follows from here."""
        for module, twin in self._copies.items():
            twin.training = module.training
        return super().train(mode)

    def change(self, name: str) -> Tensor:
        r"""Returns :math:`\tfrac{\alpha}{r} B A` of a layer, with the shape of its weight."""
        down, up = self.down[key(name)], self.up[key(name)]
        product = up.flatten(1) @ down.flatten(1)
        return self.alpha / self.rank * product.unflatten(1, down.shape[1:])

    @torch.no_grad()
    def merged(self) -> nn.Module:
        r"""Returns a copy of the base with the adapter in its weights."""
        network = dequantised(copy.deepcopy(self.network))
        layers = dict(network.named_modules())
        for name in self.names:
            layers[name].weight += self.change(name)
        return network

    def enable_gradient_checkpointing(self) -> None:
        r"""Has the twin recompute activations: with its adapter, as it has no other.

        Raises:
            TypeError: The base has no blocks to run again.
        """
        if not isinstance(self.twin, Recomputing):
            raise TypeError(f"a {type(self.network).__name__} has no blocks to run again")
        self.twin.enable_gradient_checkpointing()

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


def merge(module: M) -> M:
    r"""Returns a copy of a module with every adapter in it merged into a copy of its base.

    Raises:
        TypeError: The module is an adapter itself, see `LoRA.merged`.
    """
    if isinstance(module, LoRA):
        raise TypeError("an adapter becomes its base: call its own merged()")
    twin = copy.copy(module)
    twin._modules = {**module._modules}
    for name, child in module._modules.items():
        if child is not None:
            twin._modules[name] = child.merged() if isinstance(child, LoRA) else merge(child)
    return twin
