r"""Taps: the activations that a network lists by name, and gives beside its output.

A network of the library runs its layers in one place, and hands what has a name to a function
`tap(name, activation)`. A plain call taps nothing; `features` keeps what was asked for. The output
is the same, bit for bit, and gradients flow through what is kept.

References:
    | Improved Distribution Matching Distillation for Fast Image Synthesis (Yin et al., 2024)
    | https://arxiv.org/abs/2405.14867, Section 4.2
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self, TypeVar, runtime_checkable

from torch import Tensor, nn

from ..errors import nearest

__all__ = [
    "Activation",
    "Features",
    "GivesFeatures",
    "Tap",
    "Tapped",
    "Wrapper",
    "ask_features",
    "check_taps",
    "required_level",
    "with_child",
]


M = TypeVar("M", bound=nn.Module)


Tap = Callable[[str, Tensor], None]


# An output, and activations by the name of their tap.
Features = tuple[Tensor, dict[str, Tensor]]


@runtime_checkable
class GivesFeatures(Protocol):
    r"""A network or a denoiser that can be asked for activations beside its output."""

    def features(
        self, x: Tensor, level: Tensor, at: Sequence[str] = (), /, **cond: Tensor
    ) -> Features:
        r"""Returns the output of a plain call, and activations by name."""


def untapped(name: str, activation: Tensor) -> None:
    r"""Keeps nothing."""


def check_taps(at: Sequence[str], taps: Sequence[str], owner: object) -> None:
    r"""Raises a `ValueError` that names what was asked for and is not among the taps, if any."""
    if isinstance(at, str):
        raise ValueError(f"at must be a sequence of taps, got the string {at!r}: give ({at!r},)")
    for name in at:
        if name not in taps:
            raise ValueError(f"{type(owner).__name__} has no tap {name!r}; {nearest(name, taps)}")


def required_level(c_noise: Tensor | None, owner: object) -> Tensor:
    r"""Returns the feature of a level, for networks that cannot do without.

    Raises:
        ValueError: There is none.
    """
    if c_noise is None:
        raise ValueError(f"{type(owner).__name__} takes the feature of a level: give c_noise")
    return c_noise


class Tapped(nn.Module, abc.ABC):
    r"""A network :math:`F(x, c_\mathrm{noise}, \ldots)` that lists its taps.

    Attributes:
        taps: The names of its activations, in the order of the forward pass.
        bottleneck: The one of them that stands for the whole: the end of the middle of a U-Net,
            the middle layer of others.
    """

    taps: tuple[str, ...]
    bottleneck: str

    @abc.abstractmethod
    def run_layers(
        self, tap: Tap, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        r"""Returns the output, and calls `tap` with every activation that has a name."""

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor | None = None,
        label: Tensor | None = None,
        **cond: Tensor,
    ) -> Tensor:
        # Beside the class, a network may take more, see `vardiu.nn.numbers`.
        return self.run_layers(untapped, x, c_noise, **{"label": label, **cond})

    def features(
        self, x: Tensor, c_noise: Tensor | None = None, at: Sequence[str] = (), **cond: Tensor
    ) -> Features:
        r"""Returns the output of a plain call, and activations by name.

        Arguments:
            x: The input, with shape :math:`(B, *)`.
            c_noise: The level's feature, with shape :math:`(B)`, as a plain call takes it.
            at: The names of the activations, each one of `taps`.
            cond: The conditions, by name.

        Raises:
            ValueError: There is no tap of a name in `at`.
        """
        check_taps(at, self.taps, self)
        kept: dict[str, Tensor] = {}

        def tap(name: str, activation: Tensor) -> None:
            if name in at:
                kept[name] = activation

        output = self.run_layers(tap, x, c_noise, **cond)
        return output, {name: kept[name] for name in at}


class Wrapper(nn.Module):
    r"""A module around a `network`, whose taps are its own."""

    network: nn.Module

    @property
    def taps(self) -> tuple[str, ...]:
        return getattr(self.network, "taps", ())

    @property
    def bottleneck(self) -> str:
        return getattr(self.network, "bottleneck", "")


def with_child(module: M, name: str, value: nn.Module) -> M:
    r"""Returns a shallow copy of a module with another child of this name."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, name: value}
    twin._buffers = dict(module._buffers)
    return twin


def ask_features(
    network: nn.Module, x: Tensor, c_noise: Tensor, at: Sequence[str], cond: Mapping[str, Tensor]
) -> Features:
    r"""Returns the features of a network.

    Raises:
        TypeError: The network lists no taps.
        ValueError: There is no tap of a name in `at`.
    """
    if not isinstance(network, GivesFeatures):
        raise TypeError(
            f"{type(network).__name__} lists no taps: a network whose features are asked for is "
            "a vardiu.nn.Tapped, or has `taps`, `bottleneck` and `features(x, c_noise, at)`"
        )
    return network.features(x, c_noise, at, **cond)


class Activation(nn.Module):
    r"""What a part of any module returns when the module is called, with its gradient.

    The module is held in evaluation mode and needs no gradient of its own. What the part returned
    is copied at once: a rectifier after it that works in place does not change what is kept.

    Arguments:
        module: The module, of one tensor.
        tap: The name of the part, as `named_modules` gives it.

    Raises:
        ValueError: There is no part of this name.
    """

    def __init__(self, module: nn.Module, tap: str) -> None:
        super().__init__()
        check_taps((tap,), [name for name, _ in module.named_modules() if name], module)
        self.module, self.tap = module.eval().requires_grad_(False), tap

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        handle = self.module.get_submodule(self.tap).register_forward_hook(
            lambda part, given, output: kept.append(output.clone())
        )
        try:
            self.module(x)
        finally:
            handle.remove()
        return kept[-1]

    def train(self, mode: bool = True) -> Self:
        return super().train(False)
