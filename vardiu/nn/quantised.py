r"""Frozen networks whose linear layers are held in eight bits.

.. math:: W_{ij} \approx s_i \, q_{ij}, \qquad q_{ij} \in \{-128, \dots, 127\}

with one scale :math:`s_i` a row, by torchao: a quarter of the memory of single precision. A layer
multiplies by its weight as it is then; gradients flow through it to its input and to adapters
beside it, and there are none of its own. Convolutions, embeddings and norms stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError

__all__ = ["dequantised", "inner_tensors", "is_quantised", "quantise"]


def quantise(network: nn.Module) -> int:
    r"""Holds the weights of a frozen network's linear layers in eight bits, in place.

    Returns:
        The number of layers.

    Raises:
        ConfigError: torchao does not import here, or a layer is not frozen.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"--economy.quantise needs torchao, which does not import here ({error}): pip install "
            "'vardiu[memory]', or leave the option out"
        ) from error
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    if any(layer.weight.requires_grad for layer in layers):
        raise ConfigError("--economy.quantise: a network that is trained is not quantised")
    wanted = {layer for layer in layers if not is_quantised(layer.weight)}
    if wanted:
        quantize_(network, Int8WeightOnlyConfig(), filter_fn=lambda m, name: m in wanted)
    for layer in wanted:
        layer.weight.requires_grad_(False)
    return len(layers)


def is_quantised(weight: Tensor) -> bool:
    r"""Whether a weight is held in fewer bits than it computes in."""
    return hasattr(weight, "dequantize") and hasattr(weight, "__tensor_flatten__")


@torch.no_grad()
def dequantised(network: nn.Module) -> nn.Module:
    r"""Returns the network with plain weights: those that it computed with. In place."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and is_quantised(layer.weight):
            plain = layer.weight.dequantize()
            layer.weight = nn.Parameter(plain, requires_grad=False)
    return network


def inner_tensors(tensor: Tensor) -> list[Tensor]:
    r"""Returns the tensors that hold what a tensor is; itself, if it is a plain one."""
    flatten: Any = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return [tensor]
    names, _ = flatten()
    return [part for name in names for part in inner_tensors(getattr(tensor, name))]
