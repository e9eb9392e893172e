"""SDXL- and SD3-shaped pipelines: trained small, probed, distilled, exported, run as stock ones.

    python benchmarks/families.py                  # both, on one core most of an hour
    python benchmarks/families.py sd3 --share 0.1  # a tenth of the teachers' updates

The real classes, made small: two CLIPs, T5, U-Net or joint transformer, autoencoder. The
encoders of texts keep their random weights; autoencoder and network are trained here without this
library on patches of photographs, whose captions say of which. Then the commands of a user:
`vardiu probe`, `vardiu distill` twice (a full student of one call, an adapter of four), `vardiu
export`, and the stock pipeline with what was written: one call, and the teacher's own pipeline
with the adapter. Images of each are compared with patches, and so are other patches, and patches
that went through the autoencoder. Every part is kept in the folder: the same command goes on where
it stopped. What is not named here goes to `vardiu distill`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import end_to_end
import small
import torch
from torch import Tensor

from vardiu.data.photos import patches
from vardiu.metrics.features import PrincipalComponents, RandomFeatures
from vardiu.metrics.frechet import frechet
from vardiu.reports.samples import image_grid
from vardiu.runs.execute import device_of

SIDE, SHOWN, SCALE, AT_ONCE = 16, 18, 2.0, 360
PROMPTS = end_to_end.PROMPTS


def sdxl(folder: Path, vae: diffusers.AutoencoderKL) -> diffusers.DiffusionPipeline:
    schedule = small.scheduler("v_prediction", **small.SCALED)
    return small.sdxl(folder, schedule, vae, length=24, widths=(32, 64))


def sd3(folder: Path, vae: diffusers.AutoencoderKL) -> diffusers.DiffusionPipeline:
    return small.sd3(folder, vae=vae, heads=4, width=12, layers=3, length=24)


KINDS = {"sdxl": sdxl, "sd3": sd3}


def backbone(pipeline: Any) -> torch.nn.Module:  # noqa: ANN401
    return getattr(pipeline, "unet", None) or pipeline.transformer


def answered(pipeline: Any, x_t: Tensor, t: Tensor, rows: Tensor, given: Any) -> Tensor:  # noqa: ANN401
    """What the network answers, called as its stock pipeline calls it."""
    words, pooled = (value[rows] for value in given)
    if hasattr(pipeline, "unet"):
        sizes = x_t.new_tensor([[SIDE, SIDE, 0.0, 0.0, SIDE, SIDE]]).expand(len(rows), -1)
        added = {"text_embeds": pooled, "time_ids": sizes}
        return pipeline.unet(x_t, t, words, added_cond_kwargs=added).sample
    return pipeline.transformer(x_t, words, pooled, t).sample


def texts(pipeline: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """States and vectors of the prompts, and of what stands for none of them in the last row."""
    said = {"prompt": list(PROMPTS), "prompt_2": None, "negative_prompt": None}
    said |= {"device": backbone(pipeline).device}
    said |= {} if hasattr(pipeline, "unet") else {"prompt_3": None}
    with torch.no_grad():
        words, none, pooled, no = pipeline.encode_prompt(**said)
    return torch.cat([words, none[:1]]), torch.cat([pooled, no[:1]])


def photographs() -> tuple[Tensor, Tensor]:
    """Patches of the photographs, and of which each is."""
    found = [patches(photo, SIDE) for photo in end_to_end.NAMES]
    counts = torch.tensor([len(part) for part in found])
    return torch.cat(found), torch.repeat_interleave(torch.arange(len(found)), counts)


def teach(name: str, folder: Path, chosen: argparse.Namespace) -> None:
    """Trains autoencoder and network, and saves the pipeline."""
    torch.manual_seed(0)
    device, share = device_of(chosen.device), chosen.share
    x, label = (part.to(device) for part in photographs())
    kind = end_to_end.Kind(SIDE, lambda n: None, small.scheduler, 0, vae=(16, 32))
    with torch.device(device):
        vae = end_to_end.autoencoder(kind, x, max(LEAST if share > 0 else 2, int(1000 * share)))
    vae.register_to_config(shift_factor=0.0)
    with torch.no_grad():
        z = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(500)])
    pipeline = KINDS[name](folder, vae).to(device)
    given = texts(pipeline)
    with torch.device(device):
        fit(name, pipeline, z * vae.config.scaling_factor, label, given, chosen)
    pipeline.to("cpu").save_pretrained(folder / "teacher")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")


def fit(name, pipeline, z, label, given, chosen: argparse.Namespace) -> None:  # noqa: ANN001
    """Trains the network where its latents are; it ends with its moving average."""
    network, steps = backbone(pipeline), max(2, int(2000 * chosen.share))
    optimizer = torch.optim.Adam(network.train().parameters(), lr=1e-3)
    rate = torch.optim.swa_utils.get_ema_multi_avg_fn(max(0.0, 1 - 10 / steps))
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=rate)
    for step in range(steps):
        end_to_end.falling(optimizer, 1e-3, (step + 1) / (steps + 1))
        rows = torch.randint(len(z), (chosen.rows,))
        said = torch.where(torch.rand(chosen.rows) < 0.15, len(PROMPTS), label[rows])
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


# ---------------------------------------------------------------- students

PAIRS = ("--pairs.pairs", "512", "--pairs.solver-steps", "8", "--pairs.steps", "400")
PAIRS = (*PAIRS, "--pairs.batch", "32", "--batch", "16")
STEPS = "--steps", "200"
STUDENTS = {
    "full": ((*PAIRS, *STEPS), "diffusers"),
    "lora": (("--student", "lora", "--calls", "4", "--rule", "ddim", *PAIRS, *STEPS), "lora"),
}


def distil(folder: Path, chosen: argparse.Namespace, options: Sequence[str]) -> None:
    """Probes the teacher, distils both students, and exports each."""
    place = ["--device", chosen.device, "--threads", chosen.threads]
    common = ["--teacher", folder / "teacher", "--prompts", folder / "prompts.txt"]
    common += ["--guidance", SCALE, "--reference", chosen.reference, *place]
    if "probe" not in seconds_of(folder):
        with timed(folder, "probe"):
            end_to_end.vardiu("probe", *common)
    for name, (words, form) in STUDENTS.items():
        run = folder / name
        if not (run / "result.json").is_file():
            with timed(folder, f"distill {name}"):
                end_to_end.vardiu("distill", *common, *words, *options, "--out", run)
        if not (run / f"export-{form}").is_dir():
            with timed(folder, f"export {name}"):
                end_to_end.vardiu("export", run, "--to", form)


@contextmanager
def timed(folder: Path, part: str) -> Iterator[None]:
    """Keeps the seconds of a part in the folder."""
    started = time.monotonic()
    yield
    known = {**seconds_of(folder), part: round(time.monotonic() - started, 1)}
    (folder / "seconds.json").write_text(json.dumps(known))
    print(f"{folder.name}: {part} took {time.monotonic() - started:.0f} s", flush=True)


def seconds_of(folder: Path) -> dict[str, float]:
    path = folder / "seconds.json"
    return json.loads(path.read_text()) if path.is_file() else {}


# ---------------------------------------------------------------- as stock diffusers runs them


def drawn(pipeline: Any, n: int, **more: Any) -> tuple[Tensor, int]:  # noqa: ANN401
    """Images in [-1, 1] by a stock pipeline, and how often one of them asks its network."""
    pipeline.set_progress_bar_config(disable=True)
    calls: list[int] = []
    hook = backbone(pipeline).register_forward_hook(lambda *_: calls.append(1))
    images = []
    for first in range(0, n, AT_ONCE):
        said = [PROMPTS[i % len(PROMPTS)] for i in range(first, min(n, first + AT_ONCE))]
        random = torch.Generator().manual_seed(5 + first)
        x = pipeline(prompt=said, output_type="np", generator=random, **more).images
        images.append(torch.from_numpy(x).movedim(3, 1) * 2 - 1)
    hook.remove()
    return torch.cat(images), len(calls) // len(images)


def stock(folder: Path, n: int, device: torch.device) -> Iterator[tuple[str, Tensor, int]]:
    """Images by stock diffusers: of the teacher, the student, and the teacher with the adapter."""

    def load(place: Path) -> Any:  # noqa: ANN401
        return diffusers.DiffusionPipeline.from_pretrained(place).to(device)

    teacher = load(folder / "teacher")
    stated = {"guidance_scale": SCALE, "num_inference_steps": 20}
    yield "teacher, 20 steps", *drawn(teacher, n, **stated)
    yield "teacher, 4 steps", *drawn(teacher, n, **{**stated, "num_inference_steps": 4})
    one = load(folder / "full" / "export-diffusers")
    more = {} if hasattr(one, "unet") else {"guidance_scale": 1.0}
    yield "full student, one call", *drawn(one, n, **more)
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
    yield "adapter, four calls", *drawn(teacher, n, guidance_scale=1.0, **{word: levels})


def real(folder: Path, n: int) -> dict[str, Tensor]:
    """Patches to compare with, as many others, and those through the autoencoder."""
    x = photographs()[0]
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(7))]
    x, other = x[:n], x[n : 2 * n]
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "teacher", subfolder="vae")
    with torch.no_grad():
        again = [vae(part).sample for part in other.split(500)]
    return {"patches": x, "other patches": other, "autoencoder": torch.cat(again).clamp(-1, 1)}


def measured(name: str, folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Everything that is found of a kind, and a picture of it."""
    n, device = chosen.images, device_of(chosen.device)
    data = real(folder, n)
    x = data.pop("patches")
    spaces = RandomFeatures(tuple(x.shape[1:]), x), PrincipalComponents(x)
    rows, shown = [], [(f"{name}: patches", x[:SHOWN].numpy())]
    found = [*((title, images, 0) for title, images in data.items()), *stock(folder, n, device)]
    for title, images, calls in found:
        distances = [frechet(space(x), space(images), features=space.name) for space in spaces]
        about = [{"features": m.features, "value": m.value, "error": m.error} for m in distances]
        rows.append({"of": title, "calls": calls, "images": len(images), "frechet": about})
        shown.append((f"{name}: {title}", images[:SHOWN].numpy()))
    image_grid(shown, folder.parent / f"{name}.png")
    sizes = {p: weights(folder / place) for p, place in PLACES[name].items()}
    return {"parameters": sizes, "share": chosen.share, "rows": rows}


PLACES = {
    "sdxl": {"teacher": "teacher/unet", "full": "full/export-diffusers/unet"},
    "sd3": {"teacher": "teacher/transformer", "full": "full/export-diffusers/transformer"},
}
PLACES = {name: {**row, "adapter": "lora/export-lora"} for name, row in PLACES.items()}


def weights(folder: Path) -> int:
    """The number of values in a folder's files."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            count += sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    return count


# Of the autoencoder's updates: with fewer it shows blurred squares, whatever the student is.
LEAST = 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    parser.add_argument("--share", type=float, default=1.0, help="of the teachers' updates")
    parser.add_argument("--rows", type=int, default=24, help="of one of those updates")
    parser.add_argument("--images", type=int, default=180, help="to measure")
    parser.add_argument("--reference", type=int, default=200, help="as of vardiu distill")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    chosen, options = parser.parse_known_args()
    if unknown := set(chosen.kinds) - set(KINDS):
        parser.error(f"unknown kinds {sorted(unknown)}; those that are: {', '.join(KINDS)}")
    torch.set_num_threads(chosen.threads)
    device = device_of(chosen.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    about = {"device": card or device.type, "torch": torch.__version__}
    about |= {"diffusers": diffusers.__version__, "threads": chosen.threads, "options": options}
    for name in chosen.kinds:
        folder = chosen.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "teacher" / "model_index.json").is_file():
            with timed(folder, "teach"):
                teach(name, folder, chosen)
        distil(folder, chosen, options)
        with timed(folder, "measure"):
            found = measured(name, folder, chosen)
        seconds = seconds_of(folder)
        path = chosen.out / f"{name}.json"
        path.write_text(json.dumps({**about, "seconds": seconds, **found}, indent=1) + "\n")
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
