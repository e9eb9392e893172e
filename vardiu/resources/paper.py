r"""The memory of adapters on one frozen network of any size, by its configuration alone.

The network is built without memory, on torch's `meta` device, where shapes alone are computed.
Weights, gradients and moments are sums over shapes. Activations are what autograd keeps of
one call, seen by the same hooks as in `footprint`; where blocks are run again, the largest block's
own come on top. Attention keeps what a fused kernel keeps: queries, keys, values, the output
and a number a query; of shapes alone torch itself would keep the products of all pairs. Student
and fake are adapters on the network that the teacher is, the anchor is a copy of the student's
adapter.

.. math:: M = M_\mathrm{base} + \sum_\mathrm{networks} (w + g + m) + w_\mathrm{anchor}
    + w_\mathrm{average} + \max(a_\mathrm{student}, a_\mathrm{fake})

A phase frees its activations before the next one begins. Not counted are what an operation needs
for an instant, the allocator's own and the driver's: some two gigabytes on a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..denoisers.lora import LoRA
from ..errors import ConfigError, known, require, shown
from ..nn.attention import AttentionBy
from ..nn.diffusers import DiffusersNetwork
from ..nn.diffusers_calls import CLASSES
from ..storage.bounded import read_json
from ..teachers.families import family_of
from .footprint import Count, weights

__all__ = ["MOMENTS", "Paper", "on_paper"]


# Bytes of an optimiser's moments for each number; of eight bits, with a scale of 256 each.
MOMENTS: Mapping[str, float] = {
    "adam": 8.0,
    "adamw": 8.0,
    "radam": 8.0,
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
    tokens: int | None = None,
    size: Sequence[int] = (),
    precision: str = "bfloat16",
    optimizer: str = "adam",
    checkpoint: bool = False,
    quantise: bool = False,
) -> Paper:
    r"""Returns what a network, with student, fake and anchor as adapters on it, asks for.

    Weights are held in float32, or those of linear layers in eight bits, and computed with in
    `precision`, as a run does.

    Arguments:
        config: The configuration of a network of diffusers, of a class in
            `vardiu.nn.diffusers_calls.CLASSES`, or its file.
        rank: The rank of the adapters.
        batch: The rows that are visited at a time.
        tokens: The tokens of a prompt; by default as many as the stock pipeline takes.
        size: Height and width of a sample as the network sees it (of latents), of a video the
            frames before; by default what the configuration or the stock pipeline says.
        precision: What networks compute in.
        optimizer: One of `MOMENTS`.
        checkpoint: Whether blocks are run again in place of keeping their activations.
        quantise: Whether the frozen network's linear layers are held in eight bits.

    Raises:
        ConfigError: The network is of a class that is not known, or a number is out of its range.
    """
    name = str(config) if isinstance(config, str | Path) else "the configuration"
    settings = read_json(config) if isinstance(config, str | Path) else dict(config)
    for word, value in (("rank", rank), ("batch", batch), ("tokens", tokens)):
        if value is not None and value < 1:
            raise ConfigError(f"--{word} must be at least 1, got {value}")
    moments = MOMENTS[known(optimizer, MOMENTS, "value of --optimizer:")]
    width = BYTES[known(precision, BYTES, "value of --precision:")]
    kind = known(settings.get("_class_name", "UNet2DConditionModel"), CLASSES, f"class in {name}:")
    model = _built(kind, settings, name)
    base = sum(p.numel() * p.element_size() for p in weights(model))
    if quantise:
        layers = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
        base -= sum(3 * w.numel() - 4 * len(w) for w in layers)
    numbers = sum(p.numel() for p in model.parameters())
    network = DiffusersNetwork(kind, dict(model.config), model).to(getattr(torch, precision))
    adapter = LoRA(network, rank)
    found = sum(p.numel() for p in adapter.parameters())
    shape = network.channels, *_sides(kind, model.config, size, name)
    tokens = tokens or _tokens(kind, model.config)
    with _naming(f"a {kind} of {shown(name)}", shape, tokens):
        inputs = _inputs(network, shape, batch, tokens)
        kept = _activations(adapter, inputs, width, checkpoint)
    trained = int(found * (4 + 4 + moments))
    return Paper(numbers, found, base, trained + 4 * found, trained, 4 * found, kept)


@contextlib.contextmanager
def _naming(network: str, shape: Sequence[int], tokens: int) -> Iterator[None]:
    r"""Says in a line that a network cannot be called so."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{network} cannot be called with samples of {list(shape)} and prompts of {tokens} "
            f"tokens (--size, --tokens): {shown(reason)}"
        ) from error


def _sides(
    kind: str, config: Mapping[str, Any], size: Sequence[int], name: str
) -> tuple[int, ...]:
    stated = family_of("", kind, config).sizes(config)
    usual = tuple(stated) if isinstance(stated, list | tuple) else ()
    sides = tuple(size) or usual
    if len(sides) != len(usual) or not all(isinstance(n, int) and n > 0 for n in sides):
        wanted = "frames, height and width" if len(usual) == 3 else "height and width"
        raise ConfigError(
            f"--size must be {wanted} of a {kind}'s samples, got {' '.join(map(str, size))}"
            if size
            else f"{shown(name)} does not say {wanted} of samples: give --size"
        )
    return sides


def _tokens(kind: str, config: Mapping[str, Any]) -> int:
    if fixed := config.get("max_text_seq_length"):  # of places that were learnt
        return int(fixed)
    clip, encoders = 77, family_of("", kind, config).encoders
    after = [e.length or clip for e in encoders if e.states is not None and not e.beside]
    return sum(after) or clip


def _built(kind: str, settings: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 (a model)
    try:
        with torch.device("meta"):
            return getattr(require("diffusers", "hub"), kind).from_config(dict(settings))
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"diffusers makes no network of {shown(name)}: {error}") from error


Inputs = tuple[list[Tensor], dict[str, Tensor]]


def _activations(adapter: LoRA, inputs: Inputs, width: int, checkpoint: bool) -> int:
    r"""Returns the bytes that one trained call keeps, with autocast's copies of weights."""
    blocks = _blocks(adapter.twin)
    found = _counted(adapter, inputs, blocks)
    if not checkpoint:
        copies = width * sum(p.numel() for p in adapter.network.parameters()) if width < 4 else 0
        return sum(found.values()) + copies
    largest = max(found.get(name, 0) for name in blocks)
    most = max(sum(p.numel() for p in block.parameters()) for block in blocks.values())
    adapter.enable_gradient_checkpointing()
    adapter.twin.train()
    again = _counted(adapter, inputs, {})
    return sum(again.values()) + largest + (width * most if width < 4 else 0)


def _blocks(twin: Any) -> dict[str, nn.Module]:  # noqa: ANN401 (a network of diffusers)
    r"""Returns what diffusers runs again at a time, whether or not a layer in it is adapted: of a
    U-Net the parts of its stages, of a transformer its blocks, which are its taps."""
    if "mid_block" not in CLASSES[twin.name].stages:
        return {f"model.{tap}": twin.model.get_submodule(tap) for tap in twin.taps}
    parts = ("ResnetBlock2D", "BasicTransformerBlock")
    return {name: m for name, m in twin.named_modules() if type(m).__name__ in parts}


def _counted(adapter: LoRA, inputs: Inputs, blocks: Mapping[str, nn.Module]) -> dict[str, int]:
    count = Count([*weights(adapter.network), *weights(adapter)])
    given, cond = inputs
    with torch.enable_grad(), count.counting(blocks), AttentionBy(_kept):
        adapter(*given, **cond)
    return count.found


class _Attention(torch.autograd.Function):
    r"""Attention of shapes alone, which keeps what a fused kernel keeps."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ANN401
        output = q.new_empty(*q.shape[:-1], v.shape[-1])
        sums = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, output, sums, *([] if mask is None else [mask]))
        return output


def _kept(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *_: Any,  # noqa: ANN401
    **__: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    r"""Torch's attention, as `_Attention` counts it."""
    return _Attention.apply(query, key, value, attn_mask)


def _inputs(network: Any, shape: Sequence[int], batch: int, tokens: int) -> Inputs:  # noqa: ANN401
    config, dtype = network.model.config, next(network.parameters()).dtype
    row = CLASSES[network.name]
    shapes: dict[str, tuple[int, ...]] = {
        name: (width,) for name, width in row.widths(config).items() if name in network.conditions
    }
    shapes |= {"mask": (tokens,)} if "mask" in network.conditions else {}
    shapes |= {"text": (tokens, *shapes["text"])} if "text" in shapes else {}
    shapes |= {"guidance": ()} if row.told(config) else {}

    def empty(*sides: int) -> Tensor:
        return torch.empty(batch, *sides, device="meta", dtype=dtype)

    cond = {name: empty(*sides) for name, sides in shapes.items()}
    if "label" in network.conditions:
        cond["label"] = torch.zeros(batch, device="meta", dtype=torch.long)
    return [empty(*shape), torch.empty(batch, device="meta")], cond
