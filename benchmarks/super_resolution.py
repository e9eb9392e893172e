r"""What does the discriminator bring to restored patches, at equal length?

    python benchmarks/super_resolution.py --seed 0 --teacher runs/teach-patches --out runs/sr
    python benchmarks/super_resolution.py --report runs/sr

The ground is that of the preset `patches-d3sr`: patches of photographs, 16x16, reduced four times
with a little noise. Of each seed one student is trained by the squared error alone; every arm goes
on from a copy of it, with the same number of updates. What is measured of an arm is kept as a file
of its own, and is not measured again. A second feature space beside the random filters: means and
deviations over places of the teacher's own bottleneck, at its smallest levels.

About four minutes a seed on one thread. `--report` writes `docs/results/super_resolution.json`
and its picture, and says whether the bars of the preset are reached.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vardiu.methods import METHODS
from vardiu.metrics.frechet import frechet
from vardiu.problems.restoration import RestorationProblem
from vardiu.reports.samples import image_grid
from vardiu.runs.presets import PRESETS
from vardiu.training.stage import Context
from vardiu.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
SHOWN = 16
D3SR, OSEDIFF = PRESETS["patches-d3sr"].settings, PRESETS["patches-osediff"].settings
ALL = replace(D3SR.levels, sigma_max=20.0)

# By arm: its title, method, settings, and whether it is of the first seed only.
ARMS: Mapping[str, tuple[str, str, Any, bool]] = {
    "control": ("squared error", "d3sr", replace(D3SR, adversarial_weight=0.0), False),
    "d3sr": ("with the discriminator", "d3sr", D3SR, False),
    "edges": (
        "with EA-DISTS",
        "d3sr",
        replace(D3SR, adversarial_weight=0.0, perceptual_weight=0.1),
        False,
    ),
    "osediff": ("OSEDiff", "osediff", OSEDIFF, False),
    "fresh": ("discriminator of fresh weights", "d3sr", replace(D3SR, critic="fresh"), True),
    "levels": ("discriminator at all levels", "d3sr", replace(D3SR, levels=ALL), True),
}


class Length(NamedTuple):
    """Updates of the start and of each arm, and steps of the discriminator alone among these."""

    start: int = D3SR.start_steps
    steps: int = D3SR.steps
    delay: int = D3SR.delay


def problem_of(teacher: str, seed: int) -> RestorationProblem:
    row = replace(PRESETS["patches-d3sr"].problem, teacher=teacher)
    return RestorationProblem(row, seed)


@torch.no_grad()
def encoded(problem: RestorationProblem, images: Tensor) -> Tensor:
    """Means and deviations over places of the teacher's bottleneck, `(N, 2 C)`."""
    teacher, found = problem.known_teacher, []
    level = max(0.05, teacher.sigma_min)
    for part in images.split(250):
        sigma = part.new_full((len(part),), level)
        _, kept = teacher.features(part, sigma, (teacher.bottleneck,))
        places = kept[teacher.bottleneck].float().flatten(2)
        found.append(torch.cat([places.mean(2), places.std(2)], dim=1))
    return torch.cat(found)


def measured(problem: RestorationProblem, images: Tensor) -> dict[str, float]:
    images = images.clamp(-1, 1)
    truth = problem.data.pairs(len(images)).truth
    rows = {m.name: m.value for m in problem.scores.measure_images(images)}
    own = frechet(encoded(problem, truth), encoded(problem, images), features="teacher's encoder")
    return {**rows, "frechet_encoder": own.value}


def trained(problem: RestorationProblem, method: str, settings: Any, seed: int) -> Any:
    """The averaged student of the only stage of a recipe, its losses, and the seconds it took."""
    torch.manual_seed(seed)
    recipe = METHODS[method].recipe(problem, settings, Context(seed))
    stage = next(recipe)
    trainer, log = Trainer(stage.objective, stage.optimisation, steps=stage.steps), []
    begun = time.perf_counter()
    options = {"report_every": max(1, stage.steps // 20)}
    trainer.fit(stage.batches, report=lambda r: log.append((r.step, dict(r.values))), **options)
    seconds = time.perf_counter() - begun
    student = copy.deepcopy(trainer.average.module).eval()
    return student, log, seconds


def arm_of(
    problem: RestorationProblem, name: str, start: Any, seed: int, out: Path, length: Length
) -> None:
    file = out / f"{name}-{seed}.json"
    if file.is_file():
        return
    _, method, settings, _ = ARMS[name]
    problem.networks.student = lambda: copy.deepcopy(start).train().requires_grad_(True)
    settings = replace(settings, start_steps=0, steps=length.steps, delay=length.delay)
    student, log, seconds = trained(problem, method, settings, seed)
    keep(problem, name, seed, student, out, seconds, log)


def keep(
    problem: RestorationProblem,
    name: str,
    seed: int,
    student: Any,
    out: Path,
    seconds: float = 0.0,
    log: Any = (),
) -> None:
    """Writes what a student is worth, and some of the images that it made."""
    if student is None:
        images = problem.data.pairs(10**6).x
    else:
        images, _ = problem.student_source(student)(10**6, torch.Generator())
    found = {"metrics": measured(problem, images), "seconds": seconds}
    rows = torch.linspace(0, len(images) - 1, 3 * SHOWN).long()
    np.savez_compressed(out / f"{name}-{seed}.npz", x=images[rows].numpy())
    curves = [
        [step, {k: v for k, v in values.items() if isinstance(v, float)}] for step, values in log
    ]
    (out / f"{name}-{seed}.json").write_text(json.dumps({**found, "log": curves}) + "\n")
    shown = ", ".join(f"{k} {v:.4g}" for k, v in found["metrics"].items())
    print(f"seed {seed} {name}: {shown} ({seconds:.0f} s)", flush=True)


def run(seed: int, teacher: str, out: Path, arms: list[str], length: Length) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "length.json").write_text(json.dumps(length._asdict()) + "\n")
    torch.set_num_threads(1)
    problem = problem_of(teacher, seed)
    if not (out / f"bicubic-{seed}.json").is_file():
        keep(problem, "bicubic", seed, None, out)
        truth = problem.data.pairs(10**6).truth
        rows = torch.linspace(0, len(truth) - 1, 3 * SHOWN).long()
        np.savez_compressed(out / f"clean-{seed}.npz", x=truth[rows].numpy())
    file = out / f"start-{seed}.pt.npz"
    torch.manual_seed(seed)
    start = problem.networks.student()
    if file.is_file():
        with np.load(file) as held:
            start.load_state_dict({k: torch.from_numpy(held[k]) for k in held.files})
    else:
        problem.networks.student = lambda: start
        settings = replace(
            D3SR,
            adversarial_weight=0.0,
            start_steps=0,
            steps=length.start,
            lr=D3SR.start_lr,
            delay=0,
        )
        start, log, seconds = trained(problem, "d3sr", settings, seed)
        np.savez(file, **{k: v.numpy() for k, v in start.state_dict().items()})
        keep(problem, "start", seed, start, out, seconds, log)
    for name in arms:
        if seed == 0 or not ARMS[name][3]:
            arm_of(problem, name, start, seed, out, length)


def report(out: Path) -> None:
    """Writes numbers and picture, and prints the bars."""
    names = ["bicubic", "start", *ARMS]
    found = {name: {} for name in names}
    for name in names:
        for file in sorted(out.glob(f"{name}-[0-9]*.json")):
            found[name][file.stem.rpartition("-")[2]] = json.loads(file.read_text())
    found = {name: seeds for name, seeds in found.items() if seeds}
    titles = {"bicubic": "bicubic", "start": "squared error, where all start"}
    titles |= {name: row[0] for name, row in ARMS.items()}
    arms = {
        name: {"title": titles[name], "runs": {s: r["metrics"] for s, r in seeds.items()}}
        for name, seeds in found.items()
    }
    results = ROOT / "docs" / "results"
    length = json.loads((out / "length.json").read_text())
    content = {"command": "python benchmarks/super_resolution.py", **length}
    content["adversarial_weight"] = D3SR.adversarial_weight
    text = json.dumps({**content, "arms": arms, "bars": bars(arms)}, indent=1) + "\n"
    (results / "super_resolution.json").write_text(text)
    rows = []
    for name in ("bicubic", "control", "d3sr", "osediff", "clean"):
        file = out / f"{name}-0.npz"
        if file.is_file():
            with np.load(file) as held:
                rows.append((titles.get(name, name), held["x"][: 2 * SHOWN]))
    image_grid(rows, results / "super_resolution.png", SHOWN)


BARS = (
    ("PSNR of the squared error over bicubic, dB", "start", "bicubic", "psnr", 0.5, None),
    ("high frequencies over the control's", "d3sr", "control", "high_frequencies", 1.1, None),
    (
        "Fréchet distance over the control's, random filters",
        "d3sr",
        "control",
        "frechet",
        None,
        0.9,
    ),
    (
        "Fréchet distance over the control's, teacher's encoder",
        "d3sr",
        "control",
        "frechet_encoder",
        None,
        0.9,
    ),
    ("PSNR over the control's, dB", "d3sr", "control", "psnr", -1.5, None),
    ("edges by EA-DISTS over the control's", "edges", "control", "edges", 1.05, None),
)


def bars(arms: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each bar that was measured: its words, the median of the seeds, and its limits."""
    found = []
    for words, arm, other, name, least, most in BARS:
        if arm not in arms or other not in arms:
            continue
        a, b = arms[arm]["runs"], arms[other]["runs"]
        seeds = sorted(a.keys() & b.keys())
        pairs = [(a[s][name], b[s][name]) for s in seeds]
        values = [x - y if name == "psnr" else x / y for x, y in pairs]
        value = statistics.median(values)
        reached = (least is None or value >= least) and (most is None or value <= most)
        row = {"bar": words, "median": value, "seeds": values, "least": least, "most": most}
        found.append({**row, "reached": reached})
        print(f"{words}: {value:.3f} of {values}: {'reached' if reached else 'MISSED'}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teacher", default="runs/teach-patches")
    parser.add_argument("--out", default="runs/sr")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--start", type=int, default=Length().start)
    parser.add_argument("--steps", type=int, default=Length().steps)
    parser.add_argument("--delay", type=int, default=Length().delay)
    parser.add_argument("--report", metavar="FOLDER")
    chosen = parser.parse_args()
    if chosen.report:
        report(Path(chosen.report))
    else:
        length = Length(chosen.start, chosen.steps, chosen.delay)
        run(chosen.seed, chosen.teacher, Path(chosen.out), chosen.arms.split(","), length)


if __name__ == "__main__":
    main()
