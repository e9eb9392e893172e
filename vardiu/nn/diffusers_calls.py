r"""How networks of diffusers are called: a row a class.

Samples are `(B, C, H, W)`, of videos `(B, C, T, H, W)`. What a class wants else (tokens in the
place of a map, time before channels, places of tokens, its own unit of time) is made within its
call. Conditions go by these names:

==========  =======================================================================================
`label`     the number of a class, `(B)`
`text`      states of prompts, one a token, `(B, L, W)`
`mask`      which of the tokens count, `(B, L)`
`pooled`    one vector a prompt, `(B, W)`
`sizes`     of SDXL height and width of the image before its cut, its place in the cut and the size
            wanted, `(B, 6)`; of PixArt height and width, `(B, 2)`; in pixels
`guidance`  the scale of guidance that a network is told, `(B)`; not listed, see `Steerable`
==========  =======================================================================================
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import require

__all__ = ["CLASSES", "Call", "packed", "scale_embedding", "unpacked"]


Config = Mapping[str, Any]


def _channels(config: Config) -> int:
    return int(config["in_channels"])


class Call(NamedTuple):
    r"""How a class is called, and where it is tapped.

    Attributes:
        output: Calls it.
        conditions: The names of the conditions that it may take, by its configuration.
        stages: The paths of the modules whose outputs are its taps, in the order of a call; a
            list of modules stands for each of them, as in `down_blocks.0`.
        middle: The stage of the bottleneck: of a list the module in its middle.
        tap: Which output of a module that has several is its tap: that of the sample.
        channels: The channels of a sample, by its configuration.
        told: Whether it is told a scale of guidance, by its configuration.
        widths: The last sides of `text`, `pooled` and `sizes`, by its configuration.
    """

    output: Callable[[nn.Module, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
    conditions: Callable[[Config], tuple[str, ...]]
    stages: tuple[str, ...]
    middle: str
    tap: int = 0
    channels: Callable[[Config], int] = _channels
    told: Callable[[Config], bool] = lambda config: False
    widths: Callable[[Config], Mapping[str, int]] = lambda config: {}


# ---------------------------------------------------------------- U-Nets


def _unet(model: nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    return model(x, time, class_labels=cond.get("label"), return_dict=False)[0]


def _text_unet(model: nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    words, label, guidance = cond["text"].to(x.dtype), cond.get("label"), cond.get("guidance")
    told = None if guidance is None else scale_embedding(model, guidance).to(x.dtype)
    added = None
    if "pooled" in cond:
        added = {"text_embeds": cond["pooled"].to(x.dtype), "time_ids": cond["sizes"].to(x.dtype)}
    return model(
        x,
        time,
        words,
        timestep_cond=told,
        class_labels=label,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


def scale_embedding(model: Any, guidance: Tensor) -> Tensor:  # noqa: ANN401 (a model of diffusers)
    r"""Returns sines and cosines of scales of guidance `(B,)`, `(B, width)`, as stock pipelines
    tell them a network: those of a thousand times :math:`w - 1`.

    Raises:
        ValueError: The network is told none.
    """
    width = model.config.time_cond_proj_dim
    if width is None:
        raise ValueError(f"this {type(model).__name__} is told no scale of guidance")
    half = width // 2
    rates = torch.arange(half, device=guidance.device, dtype=torch.float32)
    rates = (rates * (-math.log(10_000.0) / (half - 1))).exp()
    angles = 1000.0 * (guidance.float() - 1.0)[:, None] * rates
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def _classes(config: Config) -> tuple[str, ...]:
    return ("label",) if config.get("num_class_embeds") else ()


def _text_conditions(config: Config) -> tuple[str, ...]:
    added = ("pooled", "sizes") if config.get("addition_embed_type") == "text_time" else ()
    return ("text", *added, *_classes(config))


def _text_widths(config: Config) -> dict[str, int]:
    found = {"text": int(config["cross_attention_dim"])}
    if "pooled" in _text_conditions(config):
        both, sizes = int(config["projection_class_embeddings_input_dim"]), 6
        pooled = both - sizes * int(config["addition_time_embed_dim"])
        found |= {"pooled": pooled, "sizes": sizes}
    return found


# ---------------------------------------------------------------- transformers of images


def _dit(model: nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    return model(x, timestep=time, class_labels=cond["label"], return_dict=False)[0]


def _pixart(model: nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if "sizes" in cond:
        size = cond["sizes"].to(x.dtype)
        added = {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}
    return model(
        x,
        encoder_hidden_states=cond["text"].to(x.dtype),
        timestep=time,
        encoder_attention_mask=cond["mask"].to(x.dtype),
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


def _pixart_conditions(config: Config) -> tuple[str, ...]:
    r"""Without the setting a network of 1,024 pixels takes the sizes, as diffusers has it."""
    sized = config.get("use_additional_conditions")
    if sized is None:
        sized = config.get("sample_size") == 128
    return ("text", "mask", *(("sizes",) if sized else ()))


def _sana(model: Any, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:  # noqa: ANN401
    return model(
        x,
        encoder_hidden_states=cond["text"].to(x.dtype),
        timestep=time * model.config.timestep_scale,
        encoder_attention_mask=cond["mask"].to(x.dtype),
        return_dict=False,
    )[0]


def _joint(model: nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    return model(
        hidden_states=x,
        timestep=time,
        encoder_hidden_states=cond["text"].to(x.dtype),
        pooled_projections=cond["pooled"].to(x.dtype),
        return_dict=False,
    )[0]


def _flux(model: nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    r"""Squares of two by two are tokens, and each is told its row and its column."""
    height, width = (side // 2 for side in x.shape[-2:])
    words, guidance = cond["text"].to(x.dtype), cond.get("guidance")
    rows = torch.arange(height, device=x.device, dtype=x.dtype).repeat_interleave(width)
    columns = torch.arange(width, device=x.device, dtype=x.dtype).repeat(height)
    output = model(
        hidden_states=packed(x),
        timestep=time.to(x.dtype) / 1000,
        guidance=None if guidance is None else guidance.to(x.dtype),
        encoder_hidden_states=words,
        pooled_projections=cond["pooled"].to(x.dtype),
        txt_ids=x.new_zeros(words.shape[1], 3),
        img_ids=torch.stack([torch.zeros_like(rows), rows, columns], dim=1),
        return_dict=False,
    )[0]
    return unpacked(output, height, width)


def packed(x: Tensor) -> Tensor:
    r"""Returns squares of two by two, `(B, C, 2 H, 2 W)`, as tokens, `(B, H W, 4 C)`."""
    squares = x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    r"""Returns the map `(B, C, 2 H, 2 W)` of tokens, `(B, H W, 4 C)`; see `packed`."""
    squares = tokens.unflatten(1, (height, width)).unflatten(-1, (-1, 2, 2))
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


# ---------------------------------------------------------------- transformers of videos


def _cogvideo(model: Any, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:  # noqa: ANN401
    return model(
        hidden_states=x.transpose(1, 2),
        timestep=time,
        encoder_hidden_states=cond["text"].to(x.dtype),
        image_rotary_emb=_rotations(model.config, tuple(x.shape[2:]), x.device),
        return_dict=False,
    )[0].transpose(1, 2)


def _rotations(
    config: Any,  # noqa: ANN401
    shape: tuple[int, ...],
    device: torch.device,
) -> tuple[Tensor, Tensor] | None:
    r"""Returns cosines and sines of the places of tokens, as the stock pipeline makes them."""
    if not config.use_rotary_positional_embeddings:
        return None
    patch, base = config.patch_size, (config.sample_height, config.sample_width)
    return _turned(
        config.attention_head_dim,
        (shape[0], shape[1] // patch, shape[2] // patch),
        (base[0] // patch, base[1] // patch),
        config.patch_size_t,
        device,
    )


@functools.lru_cache(maxsize=8)
def _turned(
    width: int,
    grid: tuple[int, int, int],
    base: tuple[int, int],
    frames: int | None,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    rotary = require("diffusers.models.embeddings", "hub").get_3d_rotary_pos_embed
    number, *sides = grid
    common = {"embed_dim": width, "grid_size": tuple(sides), "device": device}
    if frames is None:  # CogVideoX 1.0: places within the largest cut of the trained size
        stock = require("diffusers.pipelines.cogvideo.pipeline_cogvideox", "hub")
        crops = stock.get_resize_crop_region_for_grid(tuple(sides), base[1], base[0])
        return rotary(**common, crops_coords=crops, temporal_size=number)
    number = (number + frames - 1) // frames
    return rotary(
        **common, crops_coords=None, temporal_size=number, grid_type="slice", max_size=base
    )


def _wan(model: nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    words = cond["text"].to(x.dtype)
    return model(hidden_states=x, timestep=time, encoder_hidden_states=words, return_dict=False)[0]


# ---------------------------------------------------------------- the table


def _widths(**entries: str) -> Callable[[Config], dict[str, int]]:
    r"""Returns what reads widths from entries of a configuration."""
    return lambda config: {name: int(config[entry]) for name, entry in entries.items()}


TEXT_AND_POOLED = _widths(text="joint_attention_dim", pooled="pooled_projection_dim")


UNET = ("down_blocks", "mid_block", "up_blocks"), "mid_block"


TRANSFORMER = ("transformer_blocks",), "transformer_blocks"


CLASSES: Mapping[str, Call] = {
    "UNet2DModel": Call(_unet, _classes, *UNET),
    "UNet2DConditionModel": Call(_text_unet, _text_conditions, *UNET, widths=_text_widths),
    "DiTTransformer2DModel": Call(_dit, lambda config: ("label",), *TRANSFORMER),
    "PixArtTransformer2DModel": Call(
        _pixart,
        _pixart_conditions,
        *TRANSFORMER,
        widths=lambda config: {"text": int(config["caption_channels"]), "sizes": 2},
    ),
    "SD3Transformer2DModel": Call(
        _joint, lambda config: ("text", "pooled"), *TRANSFORMER, tap=1, widths=TEXT_AND_POOLED
    ),
    "FluxTransformer2DModel": Call(
        _flux,
        lambda config: ("text", "pooled"),
        ("transformer_blocks", "single_transformer_blocks"),
        "transformer_blocks",
        tap=1,
        channels=lambda config: int(config["in_channels"]) // 4,
        told=lambda config: bool(config.get("guidance_embeds")),
        widths=TEXT_AND_POOLED,
    ),
    "SanaTransformer2DModel": Call(
        _sana,
        lambda config: ("text", "mask"),
        *TRANSFORMER,
        widths=_widths(text="caption_channels"),
    ),
    "CogVideoXTransformer3DModel": Call(
        _cogvideo, lambda config: ("text",), *TRANSFORMER, widths=_widths(text="text_embed_dim")
    ),
    "WanTransformer3DModel": Call(
        _wan, lambda config: ("text",), ("blocks",), "blocks", widths=_widths(text="text_dim")
    ),
}
