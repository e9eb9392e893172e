r"""What does the adversarial start bring to ADM, and does DMD's loss fall while ADM trains?

    python benchmarks/adm.py                    # a fifth of the preset's updates
    python benchmarks/adm.py --share 1          # all of them

MoG-40, in one process and one thread, with the rates and the stride of the preset `mog40-dmdx`:
ADM without a start, the start alone (ADP), and DMDX, which is ADM after that start. ADM alone
takes as many updates as both stages of DMDX. Each is trained twice: with the preset's levels, from
coarse to fine, and with *fine* levels alone, up to one and a half standard deviations of a mode,
at which distant laws have hardly a common support: the case that the start is made for.

Beside the file a picture of the samples is written, and of DMD's loss: the median of blocks of
steps, as in two dimensions a row's divisor may be small.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import Tensor

from vardiu.problems.densities import DensityProblem
from vardiu.runs.execute import trainer_of
from vardiu.runs.stages import stages_of
from vardiu.runs.task import Task, problem_of, task_from_preset
from vardiu.settings import build
from vardiu.settings.fields import LevelSettings, PairSettings
from vardiu.training.trainer import Trainer

mpl.use("Agg")

BLOCKS = 20
SAMPLES = 10_000
FINE = LevelSettings(sigma_min=0.2, sigma_max=2.0)
KINDS = {"coarse to fine": None, "fine": FINE}


def tasks(seed: int, share: float) -> dict[str, Task]:
    """The trainings, by name; the start alone is the first stage of DMDX."""
    task = task_from_preset("distill", "mog40-dmdx")
    row = task.settings
    pairs = dataclasses.replace(row.pairs, steps=max(1, round(share * row.pairs.steps)))
    steps, delay = max(1, round(share * row.steps)), round(share * row.delay)
    both = dataclasses.replace(row, steps=steps, delay=delay, pairs=pairs)
    alone = dataclasses.replace(both, steps=both.steps + pairs.steps, pairs=PairSettings())
    run = dataclasses.replace(task.run, seed=seed)
    return {
        name: dataclasses.replace(task, settings=settings, run=run)
        for name, settings in (("DMDX", both), ("ADM", alone))
    }


def blocks(values: list[float]) -> list[float]:
    """The medians of equal parts of a series."""
    parts = torch.tensor(values).chunk(min(BLOCKS, len(values)))
    return [part.median().item() for part in parts]


def measured(problem: DensityProblem, student: Any) -> tuple[dict, Tensor]:
    """The metrics of a student, with their errors, and samples for the picture."""
    source = problem.student_source(student)
    found = problem.scores.measure(source, SAMPLES, seed=1)
    x, _ = source(4_000, torch.Generator().manual_seed(2))
    return {m.name: {"value": m.value, "error": m.error} for m in found}, x


def trained(
    task: Task, levels: LevelSettings | None, start: Trainer | None
) -> list[tuple[str, Trainer, dict[str, Any]]]:
    """Trains the stages of a task, each with its name, its trainer and what is to be kept.

    Arguments:
        task: The task.
        levels: ADM's levels in place of the task's.
        start: The trainer of the adversarial start, where that was trained before.
    """
    torch.manual_seed(task.run.seed)
    problem = problem_of(task)
    recipe = stages_of(task, problem)
    stage, found = recipe.first(), []
    if start is not None and stage.name == "adp":
        stage = recipe.after(start)
    while stage is not None:
        if levels is not None and stage.name == "adm":
            stage.objective.levels = build.levels(levels, stage.steps)
        trainer = trainer_of(stage, task.run, torch.device("cpu"))
        log: dict[str, list[float]] = {}
        began = time.process_time()
        while trainer.step < trainer.steps:
            trainer.advance(stage.batches)
            for key in ("head/hinge", "head/gap", "head/dmd"):
                if key in trainer.latest:
                    log.setdefault(key, []).append(float(trainer.latest[key]))
        row = {"steps": trainer.steps, "processor_seconds": time.process_time() - began}
        found.append((stage.name, trainer, {**row, "log": {k: blocks(v) for k, v in log.items()}}))
        stage = recipe.after(trainer)
    return found


def draw(rows: dict[str, dict], samples: dict[str, Tensor], file: Path) -> None:
    """The samples of each student, and DMD's loss while ADM trains."""
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(2, 4, figsize=(14, 7))
    places = axes.flatten()
    for axis, (title, x) in zip(places, samples.items(), strict=False):
        axis.scatter(*x.T, s=1, c="tab:blue")
        axis.set(xlim=(-50, 50), ylim=(-50, 50), xticks=[], yticks=[])
        modes = rows[title]["metrics"]["modes"]["value"] if title in rows else 40
        axis.set_title(f"{title}: {modes:.0f} of 40 modes", fontsize=9)
    for title, row in rows.items():
        values = row["log"].get("head/dmd")
        if values:
            places[len(samples)].plot(values, label=title)
    places[len(samples)].set(yscale="log", xlabel="a twentieth of ADM's steps")
    places[len(samples)].set_title("DMD's loss, which nothing descends", fontsize=9)
    places[len(samples)].legend(fontsize=7)
    for axis in places[len(samples) + 1 :]:
        axis.set_axis_off()
    fig.tight_layout()
    fig.savefig(file, dpi=70)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/adm.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = tasks(options.seed, options.share)
    problem = problem_of(found["DMDX"])
    target = problem.scores.target.truth(4_000, torch.Generator().manual_seed(3))
    result: dict[str, Any] = {"command": f"python {' '.join(sys.argv)}", "rows": {}}
    result |= {"torch": torch.__version__, "seed": options.seed, "share": options.share}
    samples = {"the density": target}
    start = None
    for kind, levels in KINDS.items():
        for name, task in found.items():
            for stage, trainer, row in trained(task, levels, start):
                title = "ADP alone" if stage == "adp" else f"{name}, {kind}"
                metrics, samples[title] = measured(problem, trainer.average.module)
                result["rows"][title] = {"metrics": metrics, **row}
                start = trainer if stage == "adp" else start
                print(title, metrics["modes"], metrics["mmd2"], row["steps"], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(result["rows"], samples, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
