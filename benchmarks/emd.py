"""EM distillation on MoG-40: how long a chain, what is cancelled, and what is moved.

    python benchmarks/emd.py --seed 0 --out runs/emd-0.json     # one seed; also 1 and 2
    python benchmarks/emd.py --draw runs/emd-0.json runs/emd-1.json runs/emd-2.json

Each cell trains a fresh student for as many updates, with chains of other lengths or of another
form. Recall, precision and the modes are of its samples; the norm of the student's gradient is an
average over the second half of the training. A cell whose chains ran away has a message instead.
`--draw` writes docs/results/emd.json and emd.png: means over the seeds, with standard errors.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import torch

from vardiu.data.densities import mog40
from vardiu.errors import Diverged
from vardiu.methods.emd import METHOD, Settings
from vardiu.metrics.density import modes_covered
from vardiu.metrics.mmd import mmd2
from vardiu.metrics.neighbours import precision_recall
from vardiu.problems.densities import DensityProblem
from vardiu.runs.stages import Stages
from vardiu.settings.fields import ChainSettings, NetworkOptimizer
from vardiu.settings.grounds import BOUNDED, COARSE_TO_FINE, MOG40
from vardiu.storage.provenance import provenance
from vardiu.training.stage import Context
from vardiu.training.trainer import Report, Trainer

ROOT = Path(__file__).parent.parent
SAMPLES, WIDTH = 4_000, 64

GROUND = Settings(
    steps=500,
    batch=256,
    lr=2e-3,
    ratio=2,
    beta_1=0.5,
    beta_2=0.99,
    levels=COARSE_TO_FINE,
    weight=BOUNDED,
    fake_optimizer=NetworkOptimizer(lr=4e-3),
    lattice=True,
    halflife=5_000.0,
)

SLOW, FAST = ChainSettings(gamma_z=1e-4), ChainSettings(gamma_z=1e-3)
CELLS: Mapping[str, ChainSettings] = {
    **{f"K = {k}": ChainSettings(steps=k) for k in (1, 2, 4, 8, 16)},
    "last cancelled": ChainSettings(cancel="last"),
    "none cancelled": ChainSettings(cancel="none"),
    "noise, 1e-4": SLOW,
    "state, 1e-4": replace(SLOW, form="state"),
    "noise, 1e-3": FAST,
    "state, 1e-3": replace(FAST, form="state"),
}


def trained(settings: Settings, seed: int) -> dict[str, Any]:
    """What a training ends with."""
    torch.manual_seed(seed)
    problem = DensityProblem(replace(MOG40, precision="float32", width=WIDTH))
    stages = Stages(METHOD.recipe(problem, settings, Context(seed)))
    stage = stages.first()
    trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps, seed=seed)
    norms: list[float] = []

    def note(report: Report) -> None:
        if report.step > stage.steps / 2:
            norms.append(report.values["student/gradient/generator"])

    try:
        student = trainer.fit(stage.batches, report_every=4 * settings.ratio, report=note)
    except Diverged as error:
        return {"stopped": str(error), "step": trainer.step}
    spec, random = mog40(), torch.Generator().manual_seed(seed)
    x, truth = student.sample(SAMPLES, generator=random), spec.sample(SAMPLES, random)
    metrics = [
        *precision_recall(truth, x, features="coordinates"),
        modes_covered(x, spec.means, threshold=0.4 / 40),
        mmd2(x, truth)[0],
    ]
    found = {metric.name: metric.value for metric in metrics}
    return {**found, "gradient": statistics.fmean(norms), "seconds": trainer.seconds}


def measure(seed: int, out: Path, cells: Sequence[str], steps: int) -> None:
    """Trains the cells of one seed and writes what was found after each."""
    command = ["python", "benchmarks/emd.py"]
    about = {"seed": seed, "updates": steps, "provenance": provenance(command, seed)}
    found: dict[str, Any] = {}
    for name in cells:
        found[name] = trained(replace(GROUND, steps=steps, chain=CELLS[name]), seed)
        print(name, found[name], flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({**about, "cells": found}, indent=1) + "\n")


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By the name of what was measured its mean and standard error; none where a seed stopped."""
    if any("stopped" in row for row in rows):
        return {"stopped": sum("stopped" in row for row in rows)}
    names = rows[0].keys()
    columns = {name: [float(row[name]) for row in rows] for name in names}
    return {
        name: [
            statistics.fmean(v),
            statistics.stdev(v) / math.sqrt(len(v)) if len(v) > 1 else 0.0,
        ]
        for name, v in columns.items()
    }


def draw(files: Sequence[Path], out: Path) -> None:
    """Writes the means over the seeds, and the figure of them."""
    seeds = [json.loads(file.read_text()) for file in files]
    names = [name for name in CELLS if all(name in seed["cells"] for seed in seeds)]
    cells = {name: over_seeds([seed["cells"][name] for seed in seeds]) for name in names}
    kept = {
        "about": f"python benchmarks/emd.py; {seeds[0]['updates']:,} updates",
        "seeds": [seed["seed"] for seed in seeds],
        "provenance": seeds[0]["provenance"],
        "cells": cells,
    }
    out.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
    picture(cells, out.with_suffix(".png"))


def picture(cells: Mapping[str, Any], path: Path) -> None:
    """Draws the means over the seeds."""
    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415 (after the choice of its backend)

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    lengths = [n for n in cells if n.startswith("K = ") and "stopped" not in cells[n]]
    steps = [int(n[4:]) for n in lengths]
    for name, mark in (("recall", "o"), ("precision", "s")):
        values, errors = zip(*(cells[n][name] for n in lengths), strict=True)
        left.errorbar(steps, values, errors, marker=mark, label=name, capsize=3)
    left.set(xscale="log", xlabel="steps of a chain, K", title="the length of a chain")
    left.set(ylabel="recall, precision", ylim=(0, 1.05))
    left.set_xticks(steps, [str(k) for k in steps])
    left.legend()
    bars(middle, cells, "gradient", ("K = 8", "last cancelled", "none cancelled"))
    middle.set(ylabel="norm", title="norm of the student's gradient, K = 8")
    bars(right, cells, "recall", [n for n in cells if ", 1e-" in n])
    right.set(ylabel="recall", title=r"recall, K = 8, by what is moved and $\gamma_z$")
    figure.savefig(path, dpi=150)


def bars(axes: Any, cells: Mapping[str, Any], what: str, names: Sequence[str]) -> None:
    """Draws one value of some cells; what stopped has no bar and says so."""
    for i, name in enumerate(names):
        value, error = cells[name].get(what, (math.nan, 0.0))
        axes.bar(i, value, yerr=error, capsize=3, color="#A65300")
        if math.isnan(value):
            axes.annotate("stopped", (i, 0), ha="center", va="bottom")
    words = ["all cancelled" if name == "K = 8" else name for name in names]
    axes.set_xticks(range(len(names)), [w.replace(", ", "\n") for w in words])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=GROUND.steps)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--draw", nargs="+", type=Path, metavar="FILE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.draw:
        draw(given.draw, given.out or ROOT / "docs" / "results" / "emd")
        return
    out = given.out or Path(f"runs/emd-{given.seed}.json")
    measure(given.seed, out, given.cells, given.steps)


if __name__ == "__main__":
    main()
