r"""Networks that end at a tap: what comes after it is not there, and costs nothing.

A discriminator reads a denoiser's encoder and the middle of it. The way up is neither called nor
trained, nor kept among the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from .taps import Features, Tapped, Wrapper, check_taps

__all__ = ["Trunk", "with_weights"]


# An exception, as `run_layers` tells of its activations by a call: a network, a user's own too, is
# written once, for a plain call and for one that ends early, and only an exception leaves its
# caller. As a generator of activations every network would pay for one that is cut short.
class Reached(Exception):
    r"""The last tap that was asked for has been passed: the rest of a call is left out."""


class Trunk(Wrapper):
    r"""A network that is called up to its taps only; its output is zero.

    Arguments:
        network: The network; what its taps do not depend on may be missing.
        taps: The taps that it still has.
    """

    def __init__(self, network: Tapped, taps: Sequence[str]) -> None:
        super().__init__()
        check_taps(taps, network.taps, network)
        self.network, self.kept = network, tuple(taps)

    @property
    def taps(self) -> tuple[str, ...]:
        return self.kept

    @property
    def bottleneck(self) -> str:
        return self.kept[-1]

    def forward(self, x: Tensor, c_noise: Tensor | None = None, **cond: Tensor) -> Tensor:
        r"""Returns zeros: a trunk has features and no output."""
        return torch.zeros_like(x)

    def features(
        self, x: Tensor, c_noise: Tensor | None = None, at: Sequence[str] = (), **cond: Tensor
    ) -> Features:
        r"""Returns zeros in the output's place, and the activations that are asked for.

        Raises:
            ValueError: There is no tap of a name in `at`.
        """
        check_taps(at, self.kept, self)
        assert isinstance(self.network, Tapped)
        found: dict[str, Tensor] = {}

        def tap(name: str, activation: Tensor) -> None:
            if name in at:
                found[name] = activation
            if len(found) == len(at):
                raise Reached

        try:
            self.network.run_layers(tap, x, c_noise, **cond)
        except Reached:
            pass
        return torch.zeros_like(x), {name: found[name] for name in at}


M = TypeVar("M", bound=nn.Module)


def with_weights(module: M, used: set[int]) -> M:
    r"""Returns a shallow copy of a module without the parts none of whose weights are used.

    Arguments:
        module: The module.
        used: The identities of the weights that stay.
    """
    twin = copy.copy(module)
    twin._modules = {}
    for name, child in module._modules.items():
        weights = [] if child is None else [id(p) for p in child.parameters()]
        unused = bool(weights) and not used.intersection(weights)
        twin._modules[name] = None if child is None or unused else with_weights(child, used)
    return twin
