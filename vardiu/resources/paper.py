r"""The memory of adapters on one frozen network of any size, by its configuration alone.

The network is built without memory, on torch's `meta` device, where shapes alone are computed.
Weights, gradients and moments are sums over shapes. Activations are what autograd keeps of
one call, seen by the same hooks as in `footprint`; where blocks are run again, the largest block's
own come on top. Student and fake are adapters on the network that the teacher is, the anchor is a
copy of the student's adapter.

.. math:: M = M_\mathrm{base} + \sum_\mathrm{networks} (w + g + m) + w_\mathrm{anchor}
    + w_\mathrm{average} + \max(a_\mathrm{student}, a_\mathrm{fake})

A phase frees its activations before the next one begins. Not counted are what an operation needs
for an instant, the allocator's own and the driver's: some two gigabytes on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..denoisers.lora import LoRA
from ..errors import ConfigError, known, require, shown
from ..nn.diffusers import DiffusersNetwork
from ..storage.bounded import read_json
from .footprint import Count, weights

__all__ = ["MOMENTS", "Paper", "on_paper"]


# Bytes of an optimiser's moments for each number; of eight bits, with a scale of 256 each.
MOMENTS: Mapping[str, float] = {
    "adam": 8.0,
    "adamw": 8.0,
    "sgd": 4.0,
    "adam8bit": 2 + 2 * 4 / 256,
    "adamw8bit": 2 + 2 * 4 / 256,
}


BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Paper(NamedTuple):
    r"""Bytes, by what they are of.

    Arguments:
        numbers: The numbers of the network.
        adapter: The numbers of one adapter.
        base: The bytes of the frozen network.
        student: Weights, gradient, moments and average of the student's adapter.
        fake: Those of the fake's, which has no average.
        anchor: The weights of the anchor.
        activations: What one trained call keeps, at most.
    """

    numbers: int
    adapter: int
    base: int
    student: int
    fake: int
    anchor: int
    activations: int

    @property
    def total(self) -> int:
        r"""The sum of all bytes."""
        return self.base + self.student + self.fake + self.anchor + self.activations


@torch.no_grad()
def on_paper(
    config: Mapping[str, Any] | str | Path,
    *,
    rank: int = 16,
    batch: int = 1,
    tokens: int = 77,
    precision: str = "bfloat16",
    optimizer: str = "adam",
    checkpoint: bool = False,
    quantise: bool = False,
) -> Paper:
    r"""Returns what a U-Net of texts, with student, fake and anchor as adapters on it, asks for.

    Weights are held in float32, or those of linear layers in eight bits, and computed with in
    `precision`, as a run does.

    Arguments:
        config: The configuration of a `UNet2DConditionModel` of diffusers, or its file.
        rank: The rank of the adapters.
        batch: The rows that are visited at a time.
        tokens: The tokens of a prompt.
        precision: What networks compute in.
        optimizer: One of `MOMENTS`.
        checkpoint: Whether blocks are run again in place of keeping their activations.
        quantise: Whether the frozen network's linear layers are held in eight bits.

    Raises:
        ConfigError: The network is of another class, or a number is out of its range.
    """
    name = str(config) if isinstance(config, str | Path) else "the configuration"
    settings = read_json(config) if isinstance(config, str | Path) else dict(config)
    for word, value in (("rank", rank), ("batch", batch), ("tokens", tokens)):
        if value < 1:
            raise ConfigError(f"--{word} must be at least 1, got {value}")
    moments = MOMENTS[known(optimizer, MOMENTS, "value of --optimizer:")]
    width = BYTES[known(precision, BYTES, "value of --precision:")]
    model = _built(settings, name)
    base = sum(p.numel() * p.element_size() for p in weights(model))
    if quantise:
        layers = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
        base -= sum(3 * w.numel() - 4 * len(w) for w in layers)
    numbers = sum(p.numel() for p in model.parameters())
    network = DiffusersNetwork("UNet2DConditionModel", dict(model.config), model)
    adapter = LoRA(network.to(getattr(torch, precision)), rank)
    size = sum(p.numel() for p in adapter.parameters())
    kept = _activations(adapter, batch, tokens, width, checkpoint)
    trained = int(size * (4 + 4 + moments))
    return Paper(numbers, size, base, trained + 4 * size, trained, 4 * size, kept)


def _built(settings: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 (a model)
    found = settings.get("_class_name", "UNet2DConditionModel")
    if found != "UNet2DConditionModel":
        raise ConfigError(
            f"{shown(name)} is of a {shown(found)}; on paper a UNet2DConditionModel is predicted, "
            "others by vardiu estimate PRESET"
        )
    try:
        with torch.device("meta"):
            return require("diffusers", "hub").UNet2DConditionModel.from_config(dict(settings))
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"diffusers makes no network of {shown(name)}: {error}") from error


def _activations(adapter: LoRA, batch: int, tokens: int, width: int, checkpoint: bool) -> int:
    r"""Returns the bytes that one trained call keeps, with autocast's copies of weights."""
    blocks = {name: m for name, m in adapter.twin.named_modules() if _is_block(m)}
    found = _counted(adapter, batch, tokens, blocks)
    if not checkpoint:
        copies = width * sum(p.numel() for p in adapter.network.parameters()) if width < 4 else 0
        return sum(found.values()) + copies
    largest = max(found.get(name, 0) for name in blocks)
    most = max(sum(p.numel() for p in block.parameters()) for block in blocks.values())
    adapter.enable_gradient_checkpointing()
    adapter.twin.train()
    again = _counted(adapter, batch, tokens, {})
    return sum(again.values()) + largest + (width * most if width < 4 else 0)


def _is_block(module: nn.Module) -> bool:
    # What diffusers runs again at a time, whether or not a layer in it is adapted.
    return type(module).__name__ in ("ResnetBlock2D", "BasicTransformerBlock")


def _counted(
    adapter: LoRA, batch: int, tokens: int, blocks: Mapping[str, nn.Module]
) -> dict[str, int]:
    count = Count([*weights(adapter.network), *weights(adapter)])
    inputs, cond = _inputs(adapter.network, batch, tokens)
    with torch.enable_grad(), count.counting(blocks):
        adapter(*inputs, **cond)
    return count.found


def _inputs(network: Any, batch: int, tokens: int) -> tuple[list[Tensor], dict[str, Tensor]]:  # noqa: ANN401
    config, dtype = network.model.config, next(network.parameters()).dtype
    side = config.sample_size
    sides = (side, side) if isinstance(side, int) else tuple(side)

    def empty(*shape: int) -> Tensor:
        return torch.empty(batch, *shape, device="meta", dtype=dtype)

    cond = {"text": empty(tokens, config.cross_attention_dim)}
    if "pooled" in network.conditions:
        sizes = 6
        pooled = config.projection_class_embeddings_input_dim
        pooled -= sizes * config.addition_time_embed_dim
        cond |= {"pooled": empty(pooled), "sizes": empty(sizes)}
    if "label" in network.conditions:
        cond["label"] = torch.zeros(batch, device="meta", dtype=torch.long)
    return [empty(config.in_channels, *sides), torch.empty(batch, device="meta")], cond
