"""Does `vardiu estimate` tell the truth? What it predicts, over what the run then takes.

    python benchmarks/estimate.py [--presets mog40 mog40-gaussian images] [--out runs/estimate]

Each run is one of some hundred steps, in a fresh process, on one thread. The processor's time of
the steps is compared beside the clock's, in which others' load is, too. `images` distils a U-Net
on synthetic images of 32x32x3 by Diff-Instruct: three networks whose activations matter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from vardiu.data.batches import Batches, Shuffled
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.methods import diff_instruct
from vardiu.metrics import Metric
from vardiu.nn import UNet
from vardiu.posteriors.encoder import Encoder, UnitScale
from vardiu.problems.base import Data, KnownSpace, Networks, Problem, Scores, Space
from vardiu.problems.sampled_teachers import SampledTeacher, Source
from vardiu.reports.figures import save_figure
from vardiu.resources import estimate
from vardiu.runs.allocator import peak
from vardiu.runs.distill import distill
from vardiu.runs.execute import device_of
from vardiu.runs.listeners import console_listeners
from vardiu.runs.task import PROBLEM_KINDS, PROBLEMS, RunSettings, Task, task_from_preset, task_of
from vardiu.settings.fields import LevelSettings
from vardiu.storage.provenance import provenance
from vardiu.students.base import Generator
from vardiu.students.few_step import OneStep
from vardiu.training.trainer import Trainer

SHAPE = (3, 32, 32)


@dataclass(frozen=True, kw_only=True)
class ImagesSettings:
    """Synthetic images."""

    name: str = "images"
    widths: tuple[int, int] = (16, 48)


class ImagesNetworks(Networks):
    def __init__(self, space: Space, teacher: SampledTeacher, widths: tuple[int, int]) -> None:
        super().__init__(space, teacher)
        self.widths = widths

    def denoiser(self) -> Denoiser:
        return unet(self.widths)

    def student(self) -> Generator:
        return OneStep.like(self.teacher.known)

    def encoder(self) -> Encoder:
        network = UNet(3, widths=self.widths, final=False)
        return Encoder(network, self.widths[1] * 16 * 16, UnitScale(0.5))


class ImagesData(Data):
    def clean(self, size: int, seed: int) -> Batches:
        return Shuffled(0.5 * torch.randn(1024, *SHAPE), {}, size, seed=seed)

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        # A probe of more rows than are trained on would set the peak.
        n = min(n, 64)
        return 0.5 * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1)), {}


class ImagesScores(Scores):
    headline = ("variance",)
    quick, samples = 64, 128

    def __init__(self, data: ImagesData) -> None:
        self.data = data

    def measure(self, source: Source, n: int, seed: int = 0) -> list[Metric]:
        x, _ = source(n, torch.Generator().manual_seed(seed))
        return [Metric("variance", float(x.var()), 0.01, n, None)]

    def histogram(self, x: Tensor) -> list[float]:
        return [1.0]

    @property
    def expected_shares(self) -> list[float]:
        return [1.0]

    def plot_samples(self, x: Tensor, path: Path) -> Path:
        return self.plot_side_by_side([("samples", x)], path)

    def plot_beside_data(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        return self.plot_samples(source(16, torch.Generator().manual_seed(seed))[0], path)

    def plot_side_by_side(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        figure = Figure(figsize=(4, 4))
        for i, (title, x) in enumerate(samples):
            ax = figure.add_subplot(1, len(samples), i + 1, title=title)
            ax.imshow(x[0].movedim(0, -1).clamp(0, 1).numpy())
        return save_figure(figure, path)

    def teacher_metrics(self, n: int) -> tuple[list[Metric], str]:
        return self.measure(lambda m, random: self.data.reference(m), n), "true samples"


class Images(Problem):
    """Gaussian images; the teacher is a fresh U-Net, which denoises them linearly."""

    headline = ImagesScores.headline

    def __init__(self, settings: ImagesSettings, seed: int = 0, **teacher: object) -> None:
        self.settings, self.seed = settings, seed
        self.space = KnownSpace(SHAPE, torch.zeros(()), 0.5, 0.25)
        teacher = SampledTeacher(unet(settings.widths))
        self.networks = ImagesNetworks(self.space, teacher, settings.widths)
        self.data = ImagesData(self.space, teacher)
        self.scores = ImagesScores(self.data)


def unet(widths: tuple[int, int]) -> Denoiser:
    levels = {"sigma_data": 0.5, "sigma_min": 0.02, "sigma_max": 20.0}
    return PreconditionedDenoiser(UNet(3, widths=widths), shape=SHAPE, **levels)


PROBLEM_KINDS["images"] = ImagesSettings
PROBLEMS[ImagesSettings] = Images


def short_task(name: str) -> Task:
    """Returns the task of a few hundred steps, on one thread."""
    run = RunSettings(threads=1, evaluations=4, reports=10)
    if name != "images":
        task = task_from_preset("distill", name)
        return replace(task, settings=replace(task.settings, steps=600), run=run)
    settings = diff_instruct.Settings(
        steps=40, batch=64, ratio=1, levels=LevelSettings(sigma_min=0.1, sigma_max=5.0)
    )
    run = replace(run, evaluations=2)
    return Task("distill", "images", ImagesSettings(), "diff_instruct", settings, run)


def child(out: str) -> None:
    """Estimates (without a folder), or carries out the task on the standard input."""
    if not out:
        estimate.main()
        return
    task = task_of(json.loads(sys.stdin.read()), "the standard input")
    advance, work = Trainer.advance, [0.0]

    def watched(trainer: Trainer, batches: Batches) -> None:
        started = time.process_time()
        advance(trainer, batches)
        work[0] += time.process_time() - started

    Trainer.advance = watched
    distill(task, Path(out), console_listeners(Console(stderr=True)), ["benchmark"])
    print(json.dumps([peak(device_of(task.run.device)), work[0]]))


def compare(name: str, out: Path) -> dict[str, float]:
    """Returns predictions, measurements and their ratios."""
    task = short_task(name)
    me = [sys.executable, __file__, "--child"]
    found = estimate.estimate(task, [*me, ""])
    started = time.perf_counter()
    text = json.dumps(task.to_mapping())
    done = subprocess.run(
        [*me, str(out)], input=text, stdout=subprocess.PIPE, text=True, check=True
    )
    wall = time.perf_counter() - started
    cost = json.loads((out / "result.json").read_text())["cost"]
    newest = max(out.glob("checkpoints/*/*"), key=lambda path: path.name)
    written = sum(path.stat().st_size for path in newest.iterdir())
    peak, work = json.loads(done.stdout.splitlines()[-1])
    predicted = sum(row["steps"] * row["processor"] for row in found["stages"])
    pairs = {
        "memory": (found["memory"]["peak"], peak),
        "training, processor": (predicted, work),
        "training": (found["seconds"]["training"], cost["seconds"]),
        "whole run": (found["seconds"]["total"], wall),
        "checkpoints": (found["disk"]["checkpoint"], written),
    }
    row = {"preset": name, "steps": cost["steps"]}
    for key, (predicted, measured) in pairs.items():
        row |= {f"{key}, predicted": predicted, f"{key}, measured": measured}
        row[f"{key}, ratio"] = predicted / measured
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["mog40", "mog40-gaussian", "images"])
    parser.add_argument("--out", type=Path, default=Path("runs/estimate"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(args.child)
        return
    rows = []
    for name in args.presets:
        rows.append(compare(name, args.out / name))
        print(json.dumps(rows[-1], indent=1), flush=True)
    about = provenance(["python", "benchmarks/estimate.py"], 0)
    content = {"provenance": about, "rows": rows}
    (args.out / "estimate.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
