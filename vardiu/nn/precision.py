r"""The one place where a network is run in another type than its inputs."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import shown
from .backbones import Interface
from .taps import Features, Wrapper, ask_features

__all__ = ["Precision", "has_bfloat16", "with_precision"]


# The types that autocast computes in; a description names no other attribute of torch.
TYPES = ("bfloat16", "float16", "float32", "float64")


@functools.cache
def _has_bfloat16(kind: str, index: int | None) -> bool:
    if kind == "cuda":
        card = torch.cuda.get_device_properties(
            torch.cuda.current_device() if index is None else index
        )
        return torch.version.hip is not None or card.major >= 8
    if kind != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is None:  # a torch before it: its library's own word, which counts emulation
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return any(found for name, found in capabilities().items() if "bf16" in name)


def has_bfloat16(kind: str, index: int | None = None) -> bool:
    r"""Returns whether a device multiplies matrices of bfloat16 in hardware.

    Where it does not they are emulated: on a processor without AVX-512's or AMX's bfloat16 a
    U-Net's step takes some twenty times as long as in float32.

    Arguments:
        kind: The type of the device, for instance `cpu` or `cuda`.
        index: Its index; none for the current one.
    """
    return _has_bfloat16(kind, index)


# What `torch.compiler.assume_constant_result` does to a function, without its import of the
# compiler, which takes as long as all other imports of a command.
has_bfloat16._dynamo_marked_constant = True  # type: ignore[attr-defined]  # read by torch


class Precision(Wrapper, Interface):
    r"""Runs a network under autocast, and returns the type of its first input.

    Weights and everything around the network, such as scores, ratios and densities, stay in the
    wider type: small differences at small noise levels do not survive eight bits of mantissa.

    Arguments:
        network: The network.
        dtype: The type to compute in, for instance `torch.bfloat16`, or its name; `auto` is
            bfloat16 on a device that has it, see `has_bfloat16`, and float32 elsewhere.

    Attributes:
        dtype: That type; none for `auto`.

    Raises:
        ValueError: It is neither `auto` nor one of `TYPES`.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype | str) -> None:
        super().__init__()
        self.network = network
        name = str(dtype).removeprefix("torch.")
        if name not in ("auto", *TYPES):
            raise ValueError(f"networks compute in auto, {', '.join(TYPES)}, got {shown(name)}")
        self.dtype: torch.dtype | None = None if name == "auto" else getattr(torch, name)
        self.arguments = {"dtype": name}

    def forward(self, x: Tensor, *args: Tensor, **cond: Tensor) -> Tensor:
        with self._autocast(x.device):
            return self.network(x, *args, **cond).to(x.dtype)

    def features(
        self, x: Tensor, c_noise: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> Features:
        r"""Returns the output and the network's features, all of the type of `x`."""
        with self._autocast(x.device):
            output, kept = ask_features(self.network, x, c_noise, at, cond)
            return output.to(x.dtype), {name: value.to(x.dtype) for name, value in kept.items()}

    def _autocast(self, device: torch.device) -> torch.autocast:
        # The cache of cast weights would outlive an optimiser's step inside an outer autocast.
        kind = device.type
        if self.dtype is not None:
            return torch.autocast(kind, dtype=self.dtype, cache_enabled=False)
        narrow = has_bfloat16(kind, device.index)
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=narrow, cache_enabled=False)

    def extra_repr(self) -> str:
        return f"dtype={self.arguments['dtype']}"


def with_precision(network: nn.Module, precision: str) -> nn.Module:
    r"""Returns a network that computes in the type of this name, or as `auto` says."""
    return network if precision == "float32" else Precision(network, precision)
