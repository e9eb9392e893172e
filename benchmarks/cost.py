"""Cost against work: the time of a step along each axis that can grow, beside its arithmetic.

    python benchmarks/cost.py [--out runs/cost] [--repeats 5] [--precision float32]

Batch, dimensions, particles, depth of the flow, components of the mixture; and the rows of the
minibatch mixture, whose arithmetic is quadratic. All sizes of an axis are timed in turn, and the
median over the repeats is drawn with a line of the arithmetic's own growth through the largest
size. The local exponent between the two largest sizes says whether a term grows faster.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from vardiu.methods import METHODS, vardiu
from vardiu.problems.densities import DensityProblem
from vardiu.reports.figures import COLOURS, save_figure
from vardiu.settings.fields import DensitySettings
from vardiu.storage.provenance import provenance
from vardiu.training.stage import Context
from vardiu.training.trainer import Trainer

BASE = vardiu.Settings(batch=256, steps=1000)


@dataclass(frozen=True)
class Axis:
    """What grows, its sizes, and the settings of each size."""

    sizes: tuple[int, ...]
    settings: Callable[[int], vardiu.Settings]
    dim: Callable[[int], int] = lambda size: 2


AXES = {
    "batch": Axis((64, 128, 256, 512, 1024, 2048), lambda n: replace(BASE, batch=n)),
    "dimensions": Axis((2, 8, 32, 128, 512, 1024), lambda n: BASE, lambda n: n),
    "dimensions, full Gaussian": Axis(
        (2, 8, 32, 64, 128), lambda n: replace(BASE, posterior="cholesky"), lambda n: n
    ),
    "particles": Axis((0, 1, 2, 4, 8), lambda n: replace(BASE, particles=n)),
    "flow, transforms": Axis(
        (1, 2, 3, 4, 6), lambda n: replace(BASE, posterior="flow", transforms=n)
    ),
    "mixture, components": Axis(
        (1, 4, 16, 64, 256), lambda n: replace(BASE, posterior="mixture", components=n)
    ),
    "minibatch mixture, batch": Axis(
        (64, 128, 256, 512, 1024, 2048, 4096), lambda n: replace(BASE, posterior="shared", batch=n)
    ),
}


def trainer_of(axis: Axis, size: int, precision: str) -> Callable[[], None]:
    d = axis.dim(size)
    row = DensitySettings(name="mixture", dim=d, latent=d, precision=precision, sigma_max=20.0)
    problem = DensityProblem(row)
    torch.manual_seed(0)
    settings = axis.settings(size)
    stage = next(METHODS["vardiu"].recipe(problem, settings, Context()))
    trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
    return lambda: trainer.advance(stage.batches)


def work(axis: Axis, size: int) -> float:
    """Returns the arithmetic of a step: of matrix products, and of the pairs of rows."""
    step = trainer_of(axis, size, "float32")
    with FlopCounterMode(display=False) as counter:
        step()
    settings = axis.settings(size)
    # Distances, exponentials and their gradients: some forty operations a pair of rows.
    pairs = 2 * settings.batch**2 if settings.posterior == "shared" else 0
    return counter.get_total_flops() + 40 * pairs


def measure(axis: Axis, repeats: int, precision: str) -> list[float]:
    """Returns the milliseconds of a step at each size."""
    steps = [trainer_of(axis, size, precision) for size in axis.sizes]
    seconds: list[list[float]] = [[] for _ in steps]
    for repeat in range(repeats + 1):
        for step, times in zip(steps, seconds, strict=True):
            started, count = time.process_time(), 0
            while count < 2 or time.process_time() - started < 0.1:
                step()
                count += 1
            if repeat:
                times.append((time.process_time() - started) / count)
    return [1e3 * statistics.median(times) for times in seconds]


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def draw(found: dict[str, dict[str, Any]], path: Path) -> Path:
    figure = Figure(figsize=(15, 7), layout="constrained")
    for i, (name, row) in enumerate(found.items()):
        ax = figure.add_subplot(2, 4, i + 1)
        x = [max(size, 0.5) for size in row["sizes"]]
        ax.plot(x, row["milliseconds"], color=COLOURS[0], marker="o", label="a step")
        scale = row["milliseconds"][-1] / row["work"][-1]
        line = [scale * value for value in row["work"]]
        ax.plot(x, line, color="#999999", linestyle="--", label="its arithmetic")
        title = f"{name}: exponent {row['exponent']:.2f}, arithmetic {row['arithmetic']:.2f}"
        ax.set_title(title, fontsize=9)
        ax.set(xscale="log", yscale="log", xlabel=name, ylabel="milliseconds")
        # None of something stands at a half, which a logarithmic axis can show.
        ax.set_xticks(x, [f"{size:,}" for size in row["sizes"]], fontsize=8)
        ax.minorticks_off()
        low, high = ax.get_ylim()
        steps = [m * 10**k for k in range(-1, 5) for m in (1, 2, 3, 5, 7)]
        ticks = [step for step in steps if low < step < high]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.grid(alpha=0.25)
        if i == 0:
            ax.legend(fontsize=8)
    return save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/cost"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--axes", nargs="+", choices=tuple(AXES), default=list(AXES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in args.axes:
        axis = AXES[name]
        milliseconds = measure(axis, args.repeats, args.precision)
        arithmetic = [work(axis, size) for size in axis.sizes]
        found[name] = {
            "sizes": axis.sizes,
            "milliseconds": milliseconds,
            "work": arithmetic,
            "exponent": exponent(axis.sizes, milliseconds),
            "arithmetic": exponent(axis.sizes, arithmetic),
        }
        print(name, json.dumps(found[name]), flush=True)
    about = provenance(["python", "benchmarks/cost.py"], 0)
    content = {"provenance": about, "axes": found}
    (args.out / "cost.json").write_text(json.dumps(content, indent=1) + "\n")
    print(draw(found, args.out / "cost.png"))


if __name__ == "__main__":
    main()
