"""SDXL- and SD3-shaped pipelines: trained small, probed, distilled, exported, run as stock ones.

    python benchmarks/families.py                  # both, some minutes on one core
    python benchmarks/families.py sd3 --share 0.1

The real classes, made small: two CLIPs, T5, U-Net or joint transformer, autoencoder. The
encoders of texts keep their random weights; autoencoder and network are trained here without this
library on patches of photographs, whose captions say of which. Then the commands of a user:
`vardiu probe`, `vardiu distill` twice (a full student of one call, an adapter of four), `vardiu
export`, and the stock pipeline with what was written: one call, and the teacher's own pipeline
with the adapter. Every part is kept in the folder: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import diffusers
import end_to_end
import numpy as np
import small
import torch
from torch import Tensor

from vardiu.data.photos import patches
from vardiu.reports.samples import image_grid

SIDE, SHOWN, SCALE, BATCH = 16, 18, 2.0, 24
PROMPTS = end_to_end.PROMPTS


def sdxl(folder: Path, vae: diffusers.AutoencoderKL) -> diffusers.DiffusionPipeline:
    schedule = small.scheduler("v_prediction", **small.SCALED)
    return small.sdxl(folder, schedule, vae, length=24, widths=(32, 64))


def sd3(folder: Path, vae: diffusers.AutoencoderKL) -> diffusers.DiffusionPipeline:
    return small.sd3(folder, vae=vae, heads=4, width=12, layers=3, length=24)


KINDS = {"sdxl": sdxl, "sd3": sd3}


def answered(pipeline: Any, x_t: Tensor, t: Tensor, rows: Tensor, given: Any) -> Tensor:  # noqa: ANN401
    """What the network answers, called as its stock pipeline calls it."""
    words, pooled = (value[rows] for value in given)
    if hasattr(pipeline, "unet"):
        sizes = torch.tensor([[SIDE, SIDE, 0.0, 0.0, SIDE, SIDE]]).expand(len(rows), -1)
        added = {"text_embeds": pooled, "time_ids": sizes}
        return pipeline.unet(x_t, t, words, added_cond_kwargs=added).sample
    return pipeline.transformer(x_t, words, pooled, t).sample


def texts(pipeline: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """States and vectors of the prompts, and of what stands for none of them in the last row."""
    said = {"prompt": list(PROMPTS), "prompt_2": None, "device": "cpu", "negative_prompt": None}
    said |= {} if hasattr(pipeline, "unet") else {"prompt_3": None}
    with torch.no_grad():
        words, none, pooled, no = pipeline.encode_prompt(**said)
    return torch.cat([words, none[:1]]), torch.cat([pooled, no[:1]])


def teach(name: str, folder: Path, share: float) -> float:
    """Trains autoencoder and network and saves the pipeline; returns the seconds."""
    started = time.monotonic()
    torch.manual_seed(0)
    found = [patches(photo, SIDE) for photo in end_to_end.NAMES]
    x = torch.cat(found)
    label = torch.repeat_interleave(
        torch.arange(len(found)), torch.tensor([len(part) for part in found])
    )
    kind = end_to_end.Kind(SIDE, lambda n: None, small.scheduler, 0, vae=(16, 32))
    vae = end_to_end.autoencoder(kind, x, max(2, int(600 * share)))
    vae.register_to_config(shift_factor=0.0)
    with torch.no_grad():
        z = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(500)])
    z = z * vae.config.scaling_factor
    pipeline = KINDS[name](folder, vae)
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    given, steps = texts(pipeline), max(2, int(2000 * share))
    optimizer = torch.optim.Adam(network.train().parameters(), lr=1e-3)
    rate = torch.optim.swa_utils.get_ema_multi_avg_fn(max(0.0, 1 - 0.005 / share))
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=rate)
    for step in range(steps):
        end_to_end.falling(optimizer, 1e-3, (step + 1) / (steps + 1))
        rows = torch.randint(len(z), (BATCH,))
        said = torch.where(torch.rand(BATCH) < 0.15, len(PROMPTS), label[rows])
        x_t, t, target = end_to_end.noised(pipeline.scheduler, z[rows])
        loss = (answered(pipeline, x_t, t, said, given) - target).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(network)
        if step % 100 == 0:
            print(f"{name}: step {step} of {steps}, {loss.item():.3f}", flush=True)
    network.load_state_dict(average.module.state_dict())
    network.eval()
    pipeline.save_pretrained(folder / "teacher")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    np.save(folder / "data.npy", x[torch.randperm(len(x))[:SHOWN]].numpy())
    return time.monotonic() - started


PAIRS = ("--pairs.pairs", "512", "--pairs.solver-steps", "8", "--pairs.steps", "400")
PAIRS = (*PAIRS, "--pairs.batch", "32", "--batch", "16")
STEPS = "--steps", "200"
STUDENTS = {
    "full": ((*PAIRS, *STEPS), "diffusers"),
    "lora": (("--student", "lora", "--calls", "4", *PAIRS, *STEPS), "lora"),
}


def distil(folder: Path, options: list[str]) -> None:
    """Probes the teacher, distils both students, and exports each."""
    common = ["--teacher", folder / "teacher", "--prompts", folder / "prompts.txt"]
    common += ["--guidance", SCALE, "--threads", 1]
    end_to_end.vardiu("probe", *common)
    for name, (words, form) in STUDENTS.items():
        run = folder / name
        if not (run / "result.json").is_file():
            end_to_end.vardiu("distill", *common, *words, *options, "--out", run)
        if not (run / f"export-{form}").is_dir():
            end_to_end.vardiu("export", run, "--to", form)


def stock(folder: Path) -> dict[str, np.ndarray]:
    """Images by stock diffusers: of the teacher, the student, and the teacher with the adapter."""
    said = [PROMPTS[i % len(PROMPTS)] for i in range(SHOWN)]
    given = {"prompt": said, "output_type": "np"}

    def drawn(pipeline: Any, **more: Any) -> np.ndarray:  # noqa: ANN401
        pipeline.set_progress_bar_config(disable=True)
        random = torch.Generator().manual_seed(5)
        torch.manual_seed(5)
        images = pipeline(**given, generator=random, **more).images
        return images.transpose(0, 3, 1, 2) * 2 - 1

    load = diffusers.DiffusionPipeline.from_pretrained
    teacher = load(folder / "teacher")
    found = {"teacher, 20 steps": drawn(teacher, guidance_scale=SCALE, num_inference_steps=20)}
    one = load(folder / "full" / "export-diffusers")
    more = {} if hasattr(one, "unet") else {"guidance_scale": 1.0}
    found["full student, one call"] = drawn(one, **more)
    adapter = folder / "lora" / "export-lora"
    teacher.load_lora_weights(str(adapter))
    about = json.loads((adapter / "scheduler" / "scheduler_config.json").read_text())
    teacher.scheduler = getattr(diffusers, about["_class_name"]).from_pretrained(
        adapter, subfolder="scheduler"
    )
    # The card has the levels in its lines.
    card = (adapter / "README.md").read_text()
    word = "timesteps" if "timesteps=" in card else "sigmas"
    levels = json.loads("[" + card.split(f"{word}=[")[1].split("]")[0] + "]")
    found["adapter, four calls"] = drawn(teacher, guidance_scale=1.0, **{word: levels})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    parser.add_argument("--share", type=float, default=1.0, help="of the teachers' updates")
    chosen, options = parser.parse_known_args()
    if unknown := set(chosen.kinds) - set(KINDS):
        parser.error(f"unknown kinds {sorted(unknown)}; those that are: {', '.join(KINDS)}")
    torch.set_num_threads(1)
    rows = []
    for name in chosen.kinds:
        folder = chosen.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "teacher" / "model_index.json").is_file():
            print(f"{name}: taught in {teach(name, folder, chosen.share):.0f} s")
        distil(folder, options)
        rows.append((f"{name}: data", np.load(folder / "data.npy")))
        rows += [(f"{name}: {title}", x) for title, x in stock(folder).items()]
    print(image_grid(rows, chosen.out / "families.png"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
