"""Small pipelines of every class that is read, with random weights, as stock diffusers saves them."""

import json
import math
from pathlib import Path

import diffusers
import torch
import transformers


def scheduler(prediction="epsilon", **settings):
    settings = {"clip_sample": False, "timestep_spacing": "trailing", **settings}
    return diffusers.DDIMScheduler(prediction_type=prediction, **settings)


def unet(classes=10, channels=1, side=8, attention=True):
    down, up = ("AttnDownBlock2D", "AttnUpBlock2D") if attention else ("DownBlock2D", "UpBlock2D")
    return diffusers.UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", down),
        up_block_types=(up, "UpBlock2D"),
        num_class_embeds=classes or None,
    ).eval()


def pixels(path, prediction="epsilon", classes=10, schedule=None, **settings):
    schedule = schedule or scheduler(prediction, **settings)
    network = unet(classes)
    diffusers.ConsistencyModelPipeline(network, schedule).save_pretrained(path)
    return network, schedule


def tokenizer(folder):
    """CLIP's tokenizer of single characters."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    end = "<|endoftext|>"
    return transformers.CLIPTokenizer(*files, model_max_length=12, pad_token=end)


def text_encoder(tokens):
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=12,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return transformers.CLIPTextModel(config).eval()


def autoencoder():
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
        scaling_factor=0.7,
    ).eval()


def text_unet():
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
    ).eval()


def stable(
    path, prediction="epsilon", network=None, vae=None, tokens=None, texts=None, **settings
):
    tokens = tokens or tokenizer(Path(path) / "tokens")
    ends = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae or autoencoder(),
        text_encoder=texts or text_encoder(tokens),
        tokenizer=tokens,
        unet=network or text_unet(),
        scheduler=scheduler(prediction, **ends, **settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def dit(path):
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_type="ada_norm_zero",
    ).eval()
    # Fresh ones end in a layer of zeros: they would not tell one input from another.
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    diffusers.DiTPipeline(network, autoencoder(), scheduler()).save_pretrained(path)
    return network


def pixart(path):
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters += [(c, -math.log(30)) for c in "▁abcdefghijklmnopqrstuvwxyz"]
    tokens = transformers.T5Tokenizer(vocab=letters, extra_ids=0)
    config = transformers.T5Config(
        vocab_size=32, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    )
    texts = transformers.T5EncoderModel(config).eval()
    network = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        caption_channels=32,
        cross_attention_dim=16,
        use_additional_conditions=False,
    ).eval()
    pipeline = diffusers.PixArtAlphaPipeline(tokens, texts, autoencoder(), network, scheduler())
    pipeline.save_pretrained(path)
    return pipeline
