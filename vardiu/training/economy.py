r"""Time and memory of networks, without a change of what they compute.

Three of the six options act on the *backbones*, the networks inside of the denoisers, generators
and encoders that give their outputs a meaning. All act in place, on modules as they are: weights
keep their names, and what was trained with an option is loaded without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from ..denoisers.exact import ExactDenoiser
from ..denoisers.lora import LoRA, adapters
from ..errors import ConfigError, nearest
from ..nn.backbones import backbones
from ..nn.diffusers import DiffusersNetwork
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
        if self.offload and "teacher" in words(self.checkpoint):
            raise ConfigError(
                "a teacher that is offloaded cannot run its blocks again: its weights are gone by "
                "then. Name the other networks in --economy.checkpoint, or leave out "
                "--economy.offload"
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
            ConfigError: A network that is named has no blocks to run again or is differentiated
                forward, or there is nothing to offload.
        """
        self.refuse_forward(objective.forward_mode)
        backward = [n for n in networks(objective) if n not in objective.forward_mode]
        trained = [name for name in objective.trained if name in backward]
        options: tuple[tuple[str, Callable[[nn.Module], object], Iterable[str]], ...] = (
            (self.channels_last, channels_last, networks(objective)),
            (self.checkpoint, recompute, trained),
            (self.compile, lambda network: network.compile(backend=self.backend), backward),
        )
        for text, function, every in options:
            found = [n for m in chosen(objective, text, every) for n in backbones(m)]
            if function is recompute and words(text) == ["all"]:
                found = with_blocks(found)
            for network in found:
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

    def refuse(self, objective: Objective) -> None:
        r"""Raises a `ConfigError` if a network that is named cannot do what it is named for; does
        nothing else."""
        self.refuse_forward(objective.forward_mode)
        there = networks(objective)
        for name in set(words(self.checkpoint)) & there.keys():
            for network in backbones(there[name]):
                refuse_without_blocks(network)

    def refuse_forward(self, names: Sequence[str]) -> None:
        r"""Raises a `ConfigError` if a network that is differentiated forward is to be compiled
        or to run its blocks again: torch has no such derivative of either.

        Arguments:
            names: Those networks, see `Objective.forward_mode`.
        """
        for option in ("compile", "checkpoint"):
            found = next((n for n in words(getattr(self, option)) if n in names), None)
            if found is not None:
                raise ConfigError(
                    f"--economy.{option} {found}: the {found} is differentiated forward, and "
                    "torch cannot do both: give --derivative difference, or leave it out"
                )


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


def chosen(objective: Objective, text: str, every: Iterable[str]) -> Iterable[nn.Module]:
    r"""Yields the networks that a setting names; `every` has the names that `all` stands for."""
    there = networks(objective)
    if words(text) == ["all"]:
        yield from (there[name] for name in every)
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
    r"""Has a network run its blocks again for the gradient, see `refuse_without_blocks`."""
    refuse_without_blocks(network)
    assert isinstance(network, Recomputing)
    network.enable_gradient_checkpointing()


def refuse_without_blocks(network: nn.Module) -> None:
    r"""Raises a `ConfigError` if a network has no blocks to run again."""
    if not has_blocks(network):
        raise ConfigError(
            f"a {type(of_blocks(network)).__name__} has no blocks to run again; networks that "
            "have are UNet, MLP and those with a method enable_gradient_checkpointing, as "
            "diffusers'. Leave it out of --economy.checkpoint"
        )


def has_blocks(network: nn.Module) -> bool:
    r"""Whether a network has blocks to run again."""
    inner = of_blocks(network)
    # Each model of diffusers has the method, and some raise an error in it.
    can = getattr(inner, "_supports_gradient_checkpointing", True)
    return isinstance(inner, Recomputing) and bool(can)


def of_blocks(network: nn.Module) -> nn.Module:
    r"""Returns what of a network would have the blocks: of an adapter its base, of diffusers the
    model itself."""
    inner = network.network if isinstance(network, LoRA) else network
    return inner.model if isinstance(inner, DiffusersNetwork) else inner


def with_blocks(found: Sequence[nn.Module]) -> list[nn.Module]:
    r"""Returns the networks that have blocks to run again, with a warning where none has."""
    kept = [network for network in found if has_blocks(network)]
    if not kept:
        warnings.warn(
            "--economy.checkpoint all: no network here can run blocks again", stacklevel=3
        )
    return kept
