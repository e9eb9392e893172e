"""A pipeline of each class that is read: trained small, distilled, exported, run by what loads it.

    python benchmarks/end_to_end.py                     # all of them, hours on one core
    python benchmarks/end_to_end.py dit --threads 1     # one

Each teacher is trained here without this library (its scheduler gives the noise and the targets)
and saved by stock diffusers. Then, by the commands that a user would give: `vardiu distill` by
Diff-Instruct and by VarDiU, `vardiu export` to ONNX and, where the student fits, to diffusers, and
images by stock diffusers and by onnxruntime from the student's own latents. Every part is kept in
the folder: the same command goes on where it stopped.

======  =====================================  =========================  =======  ================
kind    network                                of                         answers  scheduler
======  =====================================  =========================  =======  ================
digits  UNet2DModel, ten classes               digits, 1x8x8              noise    DDIM, linear
flow    UNet2DModel                            patches, 3x16x16           flow     flow matching
pixels  UNet2DModel, six classes               patches, 3x32x32           v        DDIM, ending at
                                                                                   noise alone
text    UNet2DConditionModel, CLIP's texts,    latents of patches, 4x8x8  v        DDIM, scaled
        guidance of 2                          of 3x16x16                          linear
dit     DiTTransformer2DModel, six classes     latents of patches, 4x8x8  noise    DDIM, linear
                                               of 3x32x32
pixart  PixArtTransformer2DModel, T5's texts   the same                   noise    DDIM, linear
======  =====================================  =========================  =======  ================

Patches are of six photographs; the class or the prompt says of which.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import small
import torch
from torch import Tensor, nn

import vardiu.cli.main as cli
from vardiu import models
from vardiu.data.digits import digits
from vardiu.data.photos import PHOTOS, patches
from vardiu.problems.images import ImageProblem
from vardiu.reports.samples import image_grid
from vardiu.runs.task import load_task, problem_of

# One states no licence, and its patches are to be published.
NAMES = tuple(name for name in PHOTOS if name != "motorcycle_left")
PROMPTS = tuple(f"a patch of {name}" for name in NAMES)


@dataclass(frozen=True)
class Kind:
    """What a pipeline is made of, and how long each part of it is trained."""

    side: int
    network: Callable[[int], nn.Module]  # of the number of classes, or of the width of texts
    schedule: Callable[[], Any]
    steps: int
    batch: int = 96
    lr: float = 1e-3
    condition: str = "label"
    vae: tuple[int, ...] = ()
    distill: tuple[str, ...] = ()


@dataclass
class Texts:
    """A tokenizer and an encoder that is trained with the network; a row more for no text."""

    tokens: Any
    encoder: nn.Module
    given: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        about = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        coded = self.tokens([*PROMPTS, ""], max_length=24, **about)
        place = next(self.encoder.parameters()).device
        self.given = {name: coded[name].to(place) for name in ("input_ids", "attention_mask")}


KINDS: Mapping[str, Kind] = {
    "digits": Kind(8, lambda n: small.unet(n, 1, 8, (32, 64)), small.scheduler, 2500, 128, 2e-3),
    "flow": Kind(
        16,
        lambda n: small.unet(0, 3, 16, (32, 64)),
        diffusers.FlowMatchEulerDiscreteScheduler,
        2000,
        64,
        condition="",
    ),
    "pixels": Kind(
        32,
        lambda n: small.unet(n, 3, 32, (16, 32, 64)),
        lambda: small.scheduler("v_prediction", rescale_betas_zero_snr=True),
        2500,
        64,
        # The regression leaves these images far from the teacher's: more of the method.
        distill=("--batch", "64", "--steps", "500"),
    ),
    "text": Kind(
        16,
        lambda width: small.text_unet(width, (32, 64), 8),
        lambda: small.scheduler("v_prediction", **small.SCALED),
        2500,
        64,
        condition="text",
        vae=(16, 32),
        distill=("--guidance", "2.0"),
    ),
    "dit": Kind(
        32,
        lambda n: small.dit(n, 6, 16, 4, 4),
        small.scheduler,
        3000,
        128,
        vae=(16, 32, 32),
    ),
    "pixart": Kind(
        32,
        lambda width: small.pixart(width, 6, 16, 4, 4),
        small.scheduler,
        3000,
        128,
        condition="text",
        vae=(16, 32, 32),
    ),
}

PAIRS = ("--pairs.pairs", "1500", "--pairs.steps", "600", "--steps", "200")
METHODS: Mapping[str, tuple[str, ...]] = {
    "diff_instruct": PAIRS,
    "vardiu": ("--method", "vardiu", *PAIRS),
}
FORMS = ("onnx", "diffusers")


# ---------------------------------------------------------------- data and teachers


def data(kind: Kind, out: Path) -> tuple[Tensor, Tensor]:
    """Returns images and their classes, and writes them as an array that any loader reads."""
    if kind.side == 8:
        x, label = digits()
    else:
        found = [patches(name, kind.side) for name in NAMES]
        x = torch.cat(found)
        label = torch.repeat_interleave(
            torch.arange(len(found)), torch.tensor([len(part) for part in found])
        )
    if not out.is_file():
        given = {"label": label.numpy()} if kind.condition == "label" else {}
        np.savez(out, x=x.numpy(), **given)
    return x, label


def falling(optimizer: torch.optim.Optimizer, lr: float, done: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * min(1, 50 * done, 2 * (1 - done))


def autoencoder(kind: Kind, x: Tensor, steps: int) -> diffusers.AutoencoderKL:
    """Trains the autoencoder: absolute error, and a slight pull of latents to unit variance."""
    vae = small.autoencoder(kind.side, kind.vae)
    optimizer = torch.optim.Adam(vae.train().parameters(), lr=2e-3)
    for step in range(steps):
        falling(optimizer, 2e-3, (step + 1) / (steps + 1))
        batch = x[torch.randint(len(x), (64,))]
        posterior = vae.encode(batch).latent_dist
        error = (vae.decode(posterior.sample()).sample - batch).abs().mean()
        (error + 1e-4 * posterior.kl().mean() / batch[0].numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"autoencoder: step {step} of {steps}, absolute error {error.item():.3f}")
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        z = vae.encode(x[torch.randint(len(x), (2000,))]).latent_dist.mode()
    vae.register_to_config(scaling_factor=1 / z.std().item())
    return vae


def noised(schedule: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    """Returns noisy samples, their times and what the network is to answer."""
    noise = torch.randn_like(x)
    if isinstance(schedule, diffusers.FlowMatchEulerDiscreteScheduler):
        s = torch.sigmoid(torch.randn(len(x)))
        weight = s.view(-1, *[1] * (x.dim() - 1))
        return x + weight * (noise - x), 1000 * s, noise - x
    t = torch.randint(1000, (len(x),))
    v = schedule.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(x, noise, t) if v else noise
    return schedule.add_noise(x, noise, t), t, target


def asked(network: nn.Module, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    name = type(network).__name__
    if name == "PixArtTransformer2DModel":
        words = {"encoder_hidden_states": cond["text"], "encoder_attention_mask": cond["mask"]}
        return network(x_t, timestep=t, **words).sample
    if name == "UNet2DConditionModel":
        return network(x_t, t, cond["text"]).sample
    given = {"class_labels": cond["label"]} if "label" in cond else {}
    return network(x_t, t, **given).sample


def teach(name: str, folder: Path, share: float) -> Path:
    """Trains the parts and saves them as a pipeline; returns its folder."""
    kind, out = KINDS[name], folder / "teacher"
    torch.manual_seed(0)
    x, label = data(kind, folder / "data.npz")
    if (out / "model_index.json").is_file():
        return out
    with torch.device("cuda" if torch.cuda.is_available() else "cpu") as device:
        seconds = taught(name, x.to(device), label.to(device), folder, share)
    (folder / "teacher.json").write_text(json.dumps({"seconds": seconds}))
    return out


def taught(name: str, x: Tensor, label: Tensor, folder: Path, share: float) -> float:
    """Trains the parts where the data are, and saves the pipeline; returns the seconds."""
    kind, started = KINDS[name], time.monotonic()
    vae, texts = None, None
    if kind.vae:
        vae = autoencoder(kind, x, max(2, int(1000 * share)))
        with torch.no_grad():
            x = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(500)])
        x = x * vae.config.scaling_factor
    if kind.condition == "text":
        tokens = small.clip_tokenizer(folder / "tokens", 24)
        texts = Texts(tokens, small.clip(tokens, 64))
        if name == "pixart":
            texts = Texts(small.t5_tokenizer(), small.t5(64))
    network = kind.network(64 if texts else int(label.max()) + 1).train()
    schedule, steps = kind.schedule(), max(2, int(kind.steps * share))
    free = [*network.parameters(), *(texts.encoder.parameters() if texts else ())]
    optimizer = torch.optim.Adam(free, lr=kind.lr)
    rate = torch.optim.swa_utils.get_ema_multi_avg_fn(max(0.0, 1 - 0.002 / share))
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=rate)
    for step in range(steps):
        falling(optimizer, kind.lr, (step + 1) / (steps + 1))
        rows = torch.randint(len(x), (kind.batch,))
        cond = {"label": label[rows]} if kind.condition == "label" else {}
        if texts:
            said = torch.where(torch.rand(kind.batch) < 0.15, len(PROMPTS), label[rows])
            mask = texts.given["attention_mask"][said]
            cond = {"text": texts.encoder(**texts.given)[0][said], "mask": mask}
        x_t, t, target = noised(schedule, x[rows])
        loss = (asked(network, x_t, t, cond) - target).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(free, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(network)
        if step % 100 == 0:
            seconds = time.monotonic() - started
            print(
                f"{name}: step {step} of {steps}, {loss.item():.3f}, {seconds:.0f} s", flush=True
            )
    network.load_state_dict(average.module.state_dict())
    for part in (network, vae, texts and texts.encoder):
        if part is not None:
            part.cpu()
    saved(name, network.eval(), schedule, vae, texts).save_pretrained(folder / "teacher")
    return time.monotonic() - started


def saved(name, network, schedule, vae, texts) -> diffusers.DiffusionPipeline:
    if name == "text":
        return small.stable(vae, texts.encoder.eval(), texts.tokens, network, schedule)
    if name == "pixart":
        parts = texts.tokens, texts.encoder.eval(), vae, network, schedule
        return diffusers.PixArtAlphaPipeline(*parts)
    if name == "dit":
        return diffusers.DiTPipeline(network, vae, schedule)
    return diffusers.ConsistencyModelPipeline(network, schedule)


# ---------------------------------------------------------------- students


def vardiu(*words: object) -> None:
    if cli.main([str(word) for word in words]) != 0:
        raise SystemExit(f"vardiu {' '.join(map(str, words))} did not end well")


def distil(name: str, method: str, folder: Path, options: list[str]) -> Path:
    run, kind = folder / method, KINDS[name]
    words = ["--teacher", folder / "teacher", "--data", folder / "data.npz"]
    if kind.condition == "text":
        (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
        words += ["--prompts", folder / "prompts.txt"]
    vardiu("distill", *words, *METHODS[method], *kind.distill, *options, "--out", run)
    for form in FORMS:
        if not (run / f"export-{form}").is_dir():
            vardiu("export", run, "--to", form)
    return run


def images_of(name: str, run: Path, form: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (N, C, H, W) by what reads the export, and those of the student itself."""
    problem = problem_of(load_task(run / "config.yaml"))
    assert isinstance(problem, ImageProblem)
    student = models.load(run / "student")
    label = torch.arange(n) % max(problem.space.classes, 1)
    z = torch.randn(n, *student.latent_shape, generator=torch.manual_seed(5))
    cond = {"label": label} if student.conditions else {}
    if problem.networks.teacher.captions is not None:
        cond = problem.networks.teacher.captions(label)
    with torch.no_grad():
        own = problem.space.images(student(z, **cond)).numpy()
    if form == "onnx":
        import onnxruntime  # what stands above serves benchmarks that run without it

        session = onnxruntime.InferenceSession(run / "export-onnx" / "model.onnx")
        given = {"z": z.numpy(), **{key: value.numpy() for key, value in cond.items()}}
        (x,) = session.run(["x"], given)
        return problem.space.images(torch.from_numpy(x)).numpy(), own
    loaded = diffusers.DiffusionPipeline.from_pretrained(run / "export-diffusers")
    loaded.set_progress_bar_config(disable=True)
    said = (
        [PROMPTS[i] for i in label.tolist()]
        if problem.networks.teacher.captions is not None
        else []
    )
    given = {
        "text": {"prompt": said},
        "pixart": {"prompt": said, "guidance_scale": 1.0, "use_resolution_binning": False},
        "dit": {"class_labels": label.tolist(), "guidance_scale": 1.0},
        "flow": {"batch_size": n},
    }.get(name, {"batch_size": n, "class_labels": label})
    x = loaded(**given, output_type="np", generator=torch.manual_seed(5)).images
    return x.transpose(0, 3, 1, 2) * 2 - 1, own


def distilled(name: str, method: str, folder: Path, options: list[str]) -> dict[str, Any]:
    """Distils, exports, draws by what reads the exports; returns what came of it."""
    run = distil(name, method, folder, options)
    result = json.loads((run / "result.json").read_text())
    differences, shown = {}, np.empty(0)
    for form in FORMS:
        shown, own = images_of(name, run, form, 20)
        # Of images in [0, 1], as exports are compared.
        differences[form] = float(np.abs(np.clip(shown, -1, 1) - own).max()) / 2
        assert differences[form] < 1e-4, differences
    np.save(run / "shown.npy", shown)
    values = {m["name"]: (m["value"], m["error"]) for m in result["metrics"]}
    teacher = {m["name"]: (m["value"], m["error"]) for m in result["reference"]["metrics"]}
    return {
        "features": result["metrics"][0]["features"],
        "samples": result["metrics"][0]["n"],
        "student": values,
        "teacher": teacher,
        "teacher calls": result["cost"]["teacher_calls"],
        "differences": differences,
    }


def drawn_by_teacher(run: Path, n: int) -> np.ndarray:
    problem = problem_of(load_task(run / "config.yaml"))
    x, _ = problem.teacher_source()(n, torch.manual_seed(5))
    return problem.space.images(x).numpy()


def picture(folders: Mapping[str, Path], path: Path) -> Path:
    rows = []
    for name, folder in folders.items():
        with np.load(folder / "data.npz") as file:
            x = file["x"][np.random.default_rng(0).permutation(len(file["x"]))[:20]]
        rows.append((f"{name}: data", x))
        rows.append(("teacher, 69 calls", drawn_by_teacher(folder / "diff_instruct", 20)))
        one = np.load(folder / "diff_instruct" / "shown.npy")
        rows.append(("Diff-Instruct, one call, stock diffusers", one))
        rows.append(
            ("VarDiU, one call, stock diffusers", np.load(folder / "vardiu" / "shown.npy"))
        )
    return image_grid(rows, path)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| pipeline | Fréchet: teacher | Diff-Instruct | VarDiU | recall | difference |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in results.items():
        di, var = rows["diff_instruct"], rows["vardiu"]
        three = di["teacher"], di["student"], var["student"]
        distances = [f"{d:.3g} ± {error:.2g}" for d, error in (row["frechet"] for row in three)]
        recall = " / ".join(f"{row['recall'][0]:.2f}" for row in three)
        off = max(*di["differences"].values(), *var["differences"].values())
        lines.append(f"| {name} | {' | '.join(distances)} | {recall} | {off:.0e} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        usage="%(prog)s [KIND ...] [options, those of `vardiu distill` too]",
        epilog=f"kinds: {', '.join(KINDS)}; all of them by default",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/pipelines"))
    parser.add_argument("--teachers", action="store_true", help="train the teachers and stop")
    parser.add_argument("--share", type=float, default=1.0, help="of the teachers' updates")
    parser.add_argument("--threads", type=int, default=0)
    # Further options are those of `vardiu distill`.
    kinds = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    for name in kinds:
        if name not in KINDS:
            parser.error(f"unknown kind {name!r}; one of: {', '.join(KINDS)}")
    chosen, options = parser.parse_known_args(sys.argv[1 + len(kinds) :])
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
        options += ["--threads", str(chosen.threads)]
    results, folders = {}, {name: chosen.out / name for name in kinds or KINDS}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        teach(name, folder, chosen.share)
        if not chosen.teachers:
            results[name] = {m: distilled(name, m, folder, options) for m in METHODS}
            text = json.dumps(results, indent=1)
            (chosen.out / "pipelines.json").write_text(text + "\n")
    if results:
        print(table(results))
        print(picture(folders, chosen.out / "pipelines.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
