r"""The one place where a network is run in another type than its inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import shown
from .backbones import Interface
from .taps import Features, Wrapper, ask_features

__all__ = ["Precision", "with_precision"]


# The types that autocast computes in; a description names no other attribute of torch.
TYPES = ("bfloat16", "float16", "float32", "float64")


class Precision(Wrapper, Interface):
    r"""Runs a network under autocast, and returns the type of its first input.

    Weights and everything around the network, such as scores, ratios and densities, stay in the
    wider type: small differences at small noise levels do not survive eight bits of mantissa.

    Arguments:
        network: The network.
        dtype: The type to compute in, for instance `torch.bfloat16`, or its name.

    Raises:
        ValueError: It is none of `TYPES`.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype | str) -> None:
        super().__init__()
        self.network = network
        name = str(dtype).removeprefix("torch.")
        if name not in TYPES:
            raise ValueError(f"networks compute in {', '.join(TYPES)}, got {shown(name)}")
        self.dtype: torch.dtype = getattr(torch, name)
        self.arguments = {"dtype": name}

    def forward(self, x: Tensor, *args: Tensor, **cond: Tensor) -> Tensor:
        # The cache of cast weights would outlive an optimiser's step inside an outer autocast.
        with torch.autocast(x.device.type, dtype=self.dtype, cache_enabled=False):
            return self.network(x, *args, **cond).to(x.dtype)

    def features(
        self, x: Tensor, c_noise: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> Features:
        r"""Returns the output and the network's features, all of the type of `x`."""
        with torch.autocast(x.device.type, dtype=self.dtype, cache_enabled=False):
            output, kept = ask_features(self.network, x, c_noise, at, cond)
            return output.to(x.dtype), {name: value.to(x.dtype) for name, value in kept.items()}

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}"


def with_precision(network: nn.Module, precision: str) -> nn.Module:
    r"""Returns a network that computes in the type of this name."""
    return network if precision == "float32" else Precision(network, precision)
