"""A latent text-to-image pipeline, made small, distilled, exported and run by stock diffusers.

    python benchmarks/latent.py --out runs/latent

Trains an autoencoder of patches of photographs (16x16x3 to 8x8x4), then a conditional U-Net of
its latents with a small text encoder, whose prompts say which photograph a patch is of; saves them
as a `StableDiffusionPipeline` by diffusers itself; distils it with `vardiu distill`, guidance
included; exports the student with `vardiu export`; loads it with stock diffusers, and draws both,
a row a prompt. Every part is kept in the folder: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

from vardiu import cli, plots
from vardiu.data import photos as module
from vardiu.data.photos import PHOTOS, REDUCTIONS, photo

PROMPTS = tuple(f"a patch of {name.split('_')[0]}" for name in PHOTOS)


def patches(side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the patches of `vardiu.data.photos`, and which photograph each is of."""
    counts = []
    for name in PHOTOS:
        n = 0
        for block, stride in REDUCTIONS[side]:
            small = torch.nn.functional.avg_pool2d(photo(name)[None], block)[0]
            height, width = small.shape[1], int(0.8 * small.shape[2])
            n += ((height - side) // stride + 1) * ((width - side) // stride + 1)
        counts.append(n)
    x = module.photos(side)
    assert sum(counts) == len(x)
    return x, torch.repeat_interleave(torch.arange(len(PHOTOS)), torch.tensor(counts))


def tokenizer(folder: Path) -> transformers.CLIPTokenizer:
    """CLIP's tokenizer of single characters."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return transformers.CLIPTokenizer(*files, model_max_length=24, pad_token="<|endoftext|>")


def text_encoder(tokens: transformers.CLIPTokenizer) -> transformers.CLIPTextModel:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=24,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return transformers.CLIPTextModel(config)


def autoencoder(x: torch.Tensor, steps: int) -> diffusers.AutoencoderKL:
    """Trains the autoencoder: absolute error, and a slight pull of latents to unit variance."""
    vae = diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = x[torch.randint(len(x), (64,))]
        posterior = vae.encode(batch).latent_dist
        error = (vae.decode(posterior.sample()).sample - batch).abs().mean()
        (error + 1e-4 * posterior.kl().mean() / 256).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"autoencoder: step {step} of {steps}, absolute error {error.item():.3f}")
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        z = vae.encode(x[torch.randint(len(x), (2000,))]).latent_dist.mode()
    vae.register_to_config(scaling_factor=1 / z.std().item())
    return vae


def teach(folder: Path, vae_steps: int, steps: int) -> Path:
    """Trains the parts and saves them as a pipeline; returns its folder."""
    out = folder / "teacher"
    if (out / "model_index.json").is_file():
        return out
    torch.manual_seed(0)
    x, label = patches()
    vae = autoencoder(x, vae_steps)
    with torch.no_grad():
        z = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(500)])
    z = z * vae.config.scaling_factor
    tokens = tokenizer(folder / "tokens")
    texts = text_encoder(tokens)
    network = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
    )
    schedule = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    ids = tokens(
        [*PROMPTS, ""], padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    ).input_ids
    free = [*network.parameters(), *texts.parameters()]
    optimizer = torch.optim.Adam(free, lr=1e-3)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 100, 2 * (1 - step / steps))
        rows, t = torch.randint(len(z), (64,)), torch.randint(1000, (64,))
        noise = torch.randn(64, 4, 8, 8)
        said = torch.where(torch.rand(64) < 0.15, len(PROMPTS), label[rows])
        words = texts(ids)[0][said]
        target = schedule.get_velocity(z[rows], noise, t)
        loss = (network(schedule.add_noise(z[rows], noise, t), t, words).sample - target).square()
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(free, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(network)
        if step % 100 == 0:
            seconds = time.monotonic() - started
            print(f"teacher: step {step} of {steps}, {loss.mean().item():.3f}, {seconds:.0f} s")
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=texts.eval(),
        tokenizer=tokens,
        unet=average.module.eval(),
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
    return out


def drawn(pipeline: diffusers.DiffusionPipeline, each: int, **settings: object) -> np.ndarray:
    """Returns images of each prompt, as (N, 3, 16, 16) in [-1, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    words = [prompt for prompt in PROMPTS for _ in range(each)]
    images = pipeline(words, generator=torch.manual_seed(0), output_type="np", **settings).images
    return images.transpose(0, 3, 1, 2) * 2 - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/latent"))
    parser.add_argument("--vae-steps", type=int, default=1000)
    parser.add_argument("--teacher-steps", type=int, default=2500)
    parser.add_argument("--pairs", default="3000")
    parser.add_argument("--pair-steps", default="1000")
    parser.add_argument("--steps", default="200")
    parser.add_argument("--samples", default="1000", help="of the measurements")
    parser.add_argument("--guidance", default="2.0")
    parser.add_argument("--threads", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    teacher = teach(chosen.out, chosen.vae_steps, chosen.teacher_steps)
    prompts, run = chosen.out / "prompts.txt", chosen.out / "run"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    words = ["distill", "--teacher", str(teacher), "--prompts", str(prompts), "--data", "photos"]
    words += ["--guidance", chosen.guidance, "--pairs.pairs", chosen.pairs]
    words += ["--pairs.steps", chosen.pair_steps, "--steps", chosen.steps, "--out", str(run)]
    words += ["--reference", chosen.samples, "--samples", chosen.samples]
    words += ["--threads", str(chosen.threads)]
    if cli.main(words) != 0:
        return 1
    if not (run / "export-diffusers").is_dir() and cli.main(
        ["export", str(run), "--to", "diffusers"]
    ):
        return 1
    load = diffusers.DiffusionPipeline.from_pretrained
    each, rows = 20, []
    many = load(teacher)
    guided = drawn(many, each, num_inference_steps=50, guidance_scale=float(chosen.guidance))
    one = load(run / "export-diffusers")
    calls: list[int] = []
    one.unet.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    single = drawn(one, each)
    assert calls == [each * len(PROMPTS)], calls
    for i, prompt in enumerate(PROMPTS):
        part = slice(i * each, (i + 1) * each)
        rows.append((f"“{prompt}”: teacher, 50 steps of two calls", guided[part]))
        rows.append(("student, stock diffusers, one call", single[part]))
    print(plots.image_grid(rows, chosen.out / "latent.png", columns=20))
    return 0


if __name__ == "__main__":
    sys.exit(main())
