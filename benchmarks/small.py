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


def autoencoder(
    side: int = 16,
    widths: tuple[int, ...] = (16, 32),
    scaling: float = 0.7,
    shift: float | None = None,
):
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
        shift_factor=shift,
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
    captions: int = 32,
    heads: int = 2,
    width: int = 8,
    layers: int = 2,
    outputs: int = 8,
    additional: bool = False,
    side: int = 8,
) -> diffusers.PixArtTransformer2DModel:
    """`captions` is the width of the texts; `additional` is whether it is told the sizes."""
    return diffusers.PixArtTransformer2DModel(
        **{**_tokens(heads, width, layers, outputs), "sample_size": side},
        caption_channels=captions,
        cross_attention_dim=heads * width,
        use_additional_conditions=additional,
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


# ---------------------------------------------------------------- families of today


def projected(tokens: transformers.CLIPTokenizer, width: int = 32, out: int = 16):
    """CLIP's text model with a projection."""
    config = clip(tokens, width).config
    config.projection_dim = out
    return transformers.CLIPTextModelWithProjection(config).eval()


def xl_unet(texts: int = 64, pooled: int = 16, widths: tuple[int, int] = (16, 32), side: int = 8):
    """SDXL's U-Net: `texts` is the width of both CLIPs together, `pooled` that of the second."""
    return diffusers.UNet2DConditionModel(
        sample_size=side,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=widths,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=texts,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=pooled + 6 * 8,
    ).eval()


def sdxl(folder: str | Path, schedule=None, vae=None, length: int = 12, **options: Any):
    tokens = clip_tokenizer(Path(folder) / "tokens", length)
    return diffusers.StableDiffusionXLPipeline(
        vae=vae or autoencoder(),
        text_encoder=clip(tokens),
        text_encoder_2=projected(tokens),
        tokenizer=tokens,
        tokenizer_2=tokens,
        unet=xl_unet(**options),
        scheduler=schedule or scheduler(**SCALED),
        add_watermarker=False,
    )


def sd3_transformer(
    heads: int = 4, width: int = 8, layers: int = 2, side: int = 8, texts: int = 72
):
    return diffusers.SD3Transformer2DModel(
        sample_size=side,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=width,
        num_attention_heads=heads,
        joint_attention_dim=texts,
        caption_projection_dim=heads * width,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    ).eval()


def sd3(folder: str | Path, t5s: bool = True, vae=None, length: int = 12, **options: Any):
    tokens = clip_tokenizer(Path(folder) / "tokens", length)
    network = sd3_transformer(**options)
    return diffusers.StableDiffusion3Pipeline(
        transformer=network,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae or autoencoder(shift=0.1),
        text_encoder=projected(tokens),
        tokenizer=tokens,
        text_encoder_2=projected(tokens),
        tokenizer_2=tokens,
        text_encoder_3=t5(72) if t5s else None,
        tokenizer_3=t5_tokenizer() if t5s else None,
    )


def flux_transformer(told: bool = True):
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=told,
        axes_dims_rope=(4, 4, 8),
    ).eval()


def flux(folder: str | Path, told: bool = True):
    tokens = clip_tokenizer(Path(folder) / "tokens")
    network = flux_transformer(told)
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(shift=0.1),
        text_encoder=clip(tokens),
        tokenizer=tokens,
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=network,
    )


def gemma_tokenizer() -> transformers.GemmaTokenizer:
    """Gemma's tokenizer of single characters."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *map(chr, range(32, 127)), "▁"]
    return transformers.GemmaTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[])


def gemma(width: int = 24) -> transformers.Gemma2Model:
    config = transformers.Gemma2Config(
        vocab_size=128,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=2048,
        sliding_window=256,
    )
    return transformers.Gemma2Model(config).eval()


def sana_transformer(texts: int = 24):
    return diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=texts,
        sample_size=8,
        timestep_scale=0.5,
    ).eval()


def sana(schedule=None):
    network = sana_transformer()
    vae = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "EfficientViTBlock", "ResBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock", "ResBlock"),
        encoder_block_out_channels=(4, 8, 8),
        decoder_block_out_channels=(4, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (5,), ()),
        decoder_qkv_multiscales=((), (5,), ()),
        scaling_factor=0.41,
    ).eval()
    schedule = schedule or diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    return diffusers.SanaPipeline(gemma_tokenizer(), gemma(), vae, network, schedule)


def cogvideo_transformer(rotary: bool = True, patch: int | None = None):
    return diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=2,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        patch_size=2,
        patch_size_t=patch,
        patch_bias=patch is None,
        temporal_compression_ratio=4,
        max_text_seq_length=226,
        use_rotary_positional_embeddings=rotary,
    ).eval()


def cogvideo(rotary: bool = True, patch: int | None = None):
    network = cogvideo_transformer(rotary, patch)
    vae = diffusers.AutoencoderKLCogVideoX(
        in_channels=3,
        out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        scaling_factor=0.7,
    ).eval()
    schedule = diffusers.CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        snr_shift_scale=1.0,
    )
    return diffusers.CogVideoXPipeline(t5_tokenizer(), t5(), vae, network, schedule)


def wan_transformer():
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    ).eval()


def wan(schedule=None):
    network = wan_transformer()
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.7, 1.1, 2.0],
    ).eval()
    config = transformers.UMT5Config(
        vocab_size=32, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    )
    texts = transformers.UMT5EncoderModel(config).eval()
    schedule = schedule or diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    return diffusers.WanPipeline(t5_tokenizer(), texts, vae, schedule, network)
