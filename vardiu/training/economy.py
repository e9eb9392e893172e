r"""Time and memory of networks, without a change of what they compute.

Three of the six options act on the *backbones*, the networks inside of the denoisers, generators
and encoders that give their outputs a meaning. All act in place, on modules as they are: weights
keep their names, and what was trained with an option is loaded without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from ..denoisers.exact import ExactDenoiser
from ..denoisers.lora import adapters
from ..errors import ConfigError, nearest
from ..nn.backbones import backbones
from ..nn.quantised import quantise
from .frozen import Frozen
from .objective import Objective, networks

__all__ = ["Economy", "round_products"]


@runtime_checkable
class Recomputing(Protocol):
    r"""A network that can compute its activations twice instead of keeping them."""

    def enable_gradient_checkpointing(self) -> None:
        r"""Keeps the inputs of its blocks only."""


@dataclass(frozen=True)
class Economy:
    r"""How networks save time and memory. Names are separated by commas; `all` for all."""

    compile: str = ""
    """Networks to compile with torch.compile: generator, posterior, fake, teacher, ..."""
    backend: str = "inductor"
    """The compiler: inductor (needs a C++ compiler on CPU), aot_eager or eager."""
    checkpoint: str = ""
    """Networks that keep the inputs of their blocks only, and run them again for the gradient."""
    channels_last: str = ""
    """Networks whose images lie in memory with their channels together."""
    offload: bool = False
    """Whether the teacher waits in host memory and is on the device for its calls only."""
    quantise: bool = False
    """Whether the frozen network's linear layers are held in eight bits, by torchao."""
    tf32: bool = False
    """Whether a GPU may round the factors of float32 products, convolutions' too, to ten bits."""

    def __post_init__(self) -> None:
        if self.backend not in ("inductor", "aot_eager", "eager"):
            known = nearest(self.backend, ("inductor", "aot_eager", "eager"))
            raise ConfigError(f"unknown backend {self.backend!r}; {known}")
        if self.offload and self.quantise:
            raise ConfigError(
                "weights in eight bits stay on the device: leave --economy.offload or "
                "--economy.quantise out"
            )
        if self.offload and {"all", "teacher"} & set(words(self.compile)):
            raise ConfigError(
                "a teacher that is offloaded cannot be compiled: its weights move at each call. "
                "Name the other networks in --economy.compile, or leave out --economy.offload"
            )

    def apply(self, objective: Objective) -> None:
        r"""Makes an objective's networks do so; call it before optimisers and averages are made.

        A name that the objective has no network of is left out with a warning: another stage of
        the same run may have it.

        Raises:
            ConfigError: A network has no blocks to run again, or nothing to offload.
        """
        options: tuple[tuple[str, Callable[[nn.Module], object]], ...] = (
            (self.channels_last, channels_last),
            (self.checkpoint, recompute),
            (self.compile, lambda network: network.compile(backend=self.backend)),
        )
        for text, function in options:
            for module in chosen(objective, text, trained=function is recompute):
                for network in backbones(module):
                    function(network)
        if self.quantise:
            quantise_frozen(objective)
        if self.tf32:
            refuse_rounding(objective)
        round_products(self.tf32)
        held = [m for m in objective.children() if isinstance(m, Frozen)]
        if self.offload:
            refuse_shared(objective, held)
            for frozen in held:
                frozen.offload()


def round_products(rounded: bool) -> None:
    r"""Says whether a GPU may round the factors of products in float32: of matrices, and of
    convolutions, which torch lets it round unless it is told otherwise."""
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    torch.backends.cudnn.allow_tf32 = rounded


def quantise_frozen(objective: Objective) -> None:
    r"""Holds the linear layers of an objective's frozen networks in eight bits.

    Raises:
        ConfigError: There are none.
    """
    held = [m.module for m in objective.children() if isinstance(m, Frozen)]
    if not sum(quantise(network) for module in held for network in backbones(module)):
        raise ConfigError(
            "--economy.quantise: there is no frozen network with linear layers here; leave it out"
        )


def refuse_shared(objective: Objective, held: Iterable[Frozen]) -> None:
    r"""Raises a `ConfigError` where what would wait in host memory is the base of an adapter."""
    bases = {p for adapter in adapters(objective) for p in adapter.network.parameters()}
    if any(p in bases for frozen in held for p in frozen.module.parameters()):
        raise ConfigError(
            "--economy.offload: the student is an adapter on the teacher's own weights, and needs "
            "them on the device: leave it out, or take --student teacher"
        )


def refuse_rounding(objective: Objective) -> None:
    r"""Raises a `ConfigError` where an exact score would be computed with rounded factors."""
    exact = (m for frozen in objective.children() for m in frozen_modules(frozen))
    if any(isinstance(module, ExactDenoiser) for module in exact):
        raise ConfigError(
            "--economy.tf32 would round the means of a density's exact score to ten bits: leave "
            "it out, or take a learned teacher"
        )


def frozen_modules(module: nn.Module) -> Iterable[nn.Module]:
    r"""Yields the modules in one, and in what it holds frozen."""
    yield from (module.module if isinstance(module, Frozen) else module).modules()


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def chosen(objective: Objective, text: str, trained: bool) -> Iterable[nn.Module]:
    r"""Yields the networks that a setting names; `all` may be all that are trained."""
    there = networks(objective)
    if words(text) == ["all"]:
        kept = objective.trained if trained else there
        yield from (there[name] for name in kept)
        return
    for name in words(text):
        if name in there:
            yield there[name]
        else:
            warnings.warn(f"no network {name!r} here; {nearest(name, there)}", stacklevel=3)


def channels_last(network: nn.Module) -> None:
    r"""Lays weights of convolutions out with channels last; their outputs follow."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it


def recompute(network: nn.Module) -> None:
    if not isinstance(network, Recomputing):
        raise ConfigError(
            f"a {type(network).__name__} has no blocks to run again; networks that have are "
            "UNet, MLP and those with a method enable_gradient_checkpointing, as diffusers'. "
            "Leave it out of --economy.checkpoint"
        )
    network.enable_gradient_checkpointing()
