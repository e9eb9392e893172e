"""Parts of small pipelines, untrained, built by stock diffusers and transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import diffusers
import transformers

SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def scheduler(prediction: str = "epsilon", **settings: Any) -> diffusers.DDIMScheduler:
    settings = {"clip_sample": False, "timestep_spacing": "trailing", **settings}
    return diffusers.DDIMScheduler(prediction_type=prediction, **settings)


def unet(
    classes: int = 10,
    channels: int = 1,
    side: int = 8,
    widths: tuple[int, ...] = (16, 32),
    attention: bool = True,
) -> diffusers.UNet2DModel:
    between = ("DownBlock2D",) * (len(widths) - 1), ("UpBlock2D",) * (len(widths) - 1)
    down, up = ("AttnDownBlock2D", "AttnUpBlock2D") if attention else ("DownBlock2D", "UpBlock2D")
    return diffusers.UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=widths,
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=(*between[0], down),
        up_block_types=(up, *between[1]),
        num_class_embeds=classes or None,
    ).eval()


def text_unet(width: int = 32, widths: tuple[int, int] = (16, 32), heads: int = 4):
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=widths,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=heads,
    ).eval()


def autoencoder(side: int = 16, widths: tuple[int, ...] = (16, 32), scaling: float = 0.7):
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=side,
        scaling_factor=scaling,
    ).eval()


def clip_tokenizer(folder: str | Path, length: int = 12) -> transformers.CLIPTokenizer:
    """CLIP's tokenizer of single characters."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    end = "<|endoftext|>"
    return transformers.CLIPTokenizer(*files, model_max_length=length, pad_token=end)


def clip(tokens: transformers.CLIPTokenizer, width: int = 32) -> transformers.CLIPTextModel:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokens.model_max_length,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return transformers.CLIPTextModel(config).eval()


def t5_tokenizer() -> transformers.T5Tokenizer:
    """T5's tokenizer of single characters."""
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters += [(c, -math.log(30)) for c in "▁abcdefghijklmnopqrstuvwxyz"]
    return transformers.T5Tokenizer(vocab=letters, extra_ids=0)


def t5(width: int = 32) -> transformers.T5EncoderModel:
    config = transformers.T5Config(
        vocab_size=32, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=4
    )
    return transformers.T5EncoderModel(config).eval()


def _tokens(heads: int, width: int, layers: int, outputs: int) -> dict[str, int]:
    """What transformers of latents, 4x8x8, have in common; `width` is that of a head."""
    return {
        "num_attention_heads": heads,
        "attention_head_dim": width,
        "in_channels": 4,
        "out_channels": outputs,
        "num_layers": layers,
        "sample_size": 8,
        "patch_size": 2,
    }


def dit(classes: int = 10, heads: int = 2, width: int = 8, layers: int = 2, outputs: int = 8):
    return diffusers.DiTTransformer2DModel(
        **_tokens(heads, width, layers, outputs),
        num_embeds_ada_norm=classes,
        norm_type="ada_norm_zero",
    ).eval()


def pixart(
    captions: int = 32, heads: int = 2, width: int = 8, layers: int = 2, outputs: int = 8
) -> diffusers.PixArtTransformer2DModel:
    """`captions` is the width of the texts."""
    return diffusers.PixArtTransformer2DModel(
        **_tokens(heads, width, layers, outputs),
        caption_channels=captions,
        cross_attention_dim=heads * width,
        use_additional_conditions=False,
    ).eval()


def stable(vae, texts, tokens, network, schedule) -> diffusers.StableDiffusionPipeline:
    return diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=texts,
        tokenizer=tokens,
        unet=network,
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
