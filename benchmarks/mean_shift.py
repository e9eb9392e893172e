r"""Does mean shift find modes better than SDS and SDI, and its gradient for less?

    python benchmarks/mean_shift.py                                     # all six, small
    python benchmarks/mean_shift.py --densities mog40 --denoisers ideal --particles 2000

A density with a denoiser (`ideal`, or `learned` on samples of it) is a *cell*. The file is written
after each cell and keeps those of other commands; a picture beside it is drawn of all that it
holds. Lengths are in units of the narrowest Gaussian of the density.

*Particles.* From a normal law twice as wide as the data, steps of Adam by each method: mean shift
by the denoiser and by samples of the product with a kernel that narrows from 6 to 0.5 lengths, SDS
and SDI with levels between these. DDIM's samples of 40 steps and samples of the density itself are
the references. NLL, its mean and its median, is under the density; precision and recall are
against samples of it.

*Gradients.* At samples moved by one length of noise, the direction of one draw against the exact
mean shift m(x) = l^2 grad log p_l(x), l of two lengths: 1 - (E<g, m>)^2 / (E|g|^2 E|m|^2). It is
zero of a direction that is exact but for its scale and one of a random one; by the calls of the
teacher that a draw costs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

from vardiu.data.batches import DataFree, Shuffled
from vardiu.data.densities import DENSITIES, MixtureSpec
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import MixtureDenoiser
from vardiu.denoisers.levels import Geometric, LogUniform, karras_grid
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.methods.denoising import Denoising
from vardiu.methods.mean_shift import MeanShift
from vardiu.methods.sds import SDS
from vardiu.metrics.density import log_density
from vardiu.metrics.mmd import mmd2
from vardiu.metrics.neighbours import precision_recall
from vardiu.nn import MLP
from vardiu.samplers.products import product_sample
from vardiu.samplers.trajectories import trajectory
from vardiu.students.table import Table
from vardiu.training.objective import Objective
from vardiu.training.optimizers import Optimisation, cosine
from vardiu.training.trainer import Trainer

mpl.use("Agg")

WIDE, NARROW = 6.0, 0.5
DENOISERS = ("ideal", "learned")
SHOWN = 200  # particles that the file keeps for the picture
TITLES = {
    "msd_denoiser": "mean shift, denoiser",
    "msd_product": "mean shift, product",
    "sds": "SDS",
    "sdi": "SDI",
    "ddim": "DDIM, 40 steps",
}
COSTS = {"product": (5, 10, 20, 40), "sds": (1, 4, 16, 64), "sdi": (1, 2, 4)}


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def levels(spec: MixtureSpec) -> dict[str, float]:
    return {"sigma_min": 0.05 * spec.grain, "sigma_max": 10 * spec.spread}


def learned(spec: MixtureSpec, steps: int, seed: int) -> Denoiser:
    """A network of some ten thousand weights, trained on 20,000 samples."""
    torch.manual_seed(seed)
    network = MLP((2,), (2,), width=128, depth=3, noisy=True, fourier=5)
    fresh = PreconditionedDenoiser(
        network, shape=(2,), sigma_data=spec.spread, mean=spec.mean, **levels(spec)
    )
    x = spec.sample(20_000, torch.Generator().manual_seed(seed))
    low, high = levels(spec).values()
    objective = Denoising(fresh, levels=LogUniform(low, high), sigma_data=spec.spread)
    row = Optimisation.adam({"generator": 3e-3}, decay=cosine, halflife=50_000.0)
    trainer = Trainer(objective, row, steps=steps)
    trainer.fit(Shuffled(x, {}, 1024, seed=seed))
    denoiser = trainer.average.module
    assert isinstance(denoiser, Denoiser)
    return denoiser.requires_grad_(False).eval()


def objectives(
    teacher: Denoiser, table: Table, spec: MixtureSpec, steps: int
) -> dict[str, Objective]:
    wide, narrow = WIDE * spec.grain, NARROW * spec.grain
    width, range_ = Geometric(wide, narrow, steps - 1), LogUniform(narrow, wide)

    def constant(sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    return {
        "msd_denoiser": MeanShift(teacher, table, width=width, solver_steps=0, lattice=True),
        "msd_product": MeanShift(teacher, table, width=width, solver_steps=20, lattice=True),
        "sds": SDS(teacher, table, range_, constant, lattice=True),
        "sdi": SDS(teacher, table, range_, constant, steps=10, eta=0.3, lattice=True),
    }


def moved(objective: Objective, spec: MixtureSpec, steps: int, n: int) -> Tensor:
    rate = 12 * spec.spread / steps  # in all, six times the spread: particles start far out
    # Gradients fall as the square of the width: a longer memory of their size would stop the
    # particles before they arrive.
    betas, decay = (0.5, 0.9), lambda t: 1 - t
    row = Optimisation.adam({"generator": rate}, decay=decay, halflife=0.0, betas=betas)
    trainer = Trainer(objective, row, steps=steps)
    trainer.fit(DataFree(n))
    table = objective.network("generator")
    assert isinstance(table, Table)
    return table.table.detach()


def scores(x: Tensor, spec: MixtureSpec, n: int) -> dict[str, float]:
    truth = spec.sample(2000, torch.Generator().manual_seed(99))
    found = [
        log_density(x, spec.log_prob),
        *mmd2(x, truth, [h * spec.spread for h in (0.1, 0.3, 1.0)]),
        *precision_recall(truth, x[:2000], features="coordinates"),
    ]
    row = {metric.name: metric.value for metric in found}
    # A few particles that did not arrive are all that a mean sees.
    middle = -float(spec.log_prob(x).median())
    return {"nll": -row.pop("log_density"), "nll_median": middle, **row}


def particles(
    spec: MixtureSpec, teacher: Denoiser, n: int, steps: int
) -> tuple[dict[str, dict], dict[str, Tensor]]:
    start = spec.mean + 2 * spec.spread * normal(n, 1)
    rows, drawn = {}, {}
    for name in objectives(teacher, Table.of(start), spec, steps):
        objective = objectives(teacher, Table.of(start), spec, steps)[name]
        objective.streams.reset(0)
        began = time.process_time()
        x = moved(objective, spec, steps, n)
        seconds = time.process_time() - began
        calls = objective.teacher_cost[0] / steps
        rows[name] = {**scores(x, spec, n), "calls_a_step": calls, "seconds": seconds}
        drawn[name] = x
        print(name, {k: round(v, 4) for k, v in rows[name].items()}, flush=True)
    grid = karras_grid(40, teacher.sigma_min, teacher.sigma_max)
    with torch.no_grad():
        *_, x = trajectory(teacher, float(grid[0]) * normal(n, 2), grid)
    rows["ddim"] = {**scores(x, spec, n), "calls_a_step": 40.0, "seconds": math.nan}
    rows["truth"] = scores(spec.sample(n, torch.Generator().manual_seed(98)), spec, n)
    for row in (rows["ddim"], rows["truth"]):
        row.pop("seconds", None)
    drawn["ddim"] = x
    return rows, drawn


def error_of(directions: list[Tensor], exact: Tensor) -> float:
    g = torch.stack(directions)
    inner = (g * exact).sum(-1).mean()
    sizes = g.square().sum(-1).mean() * exact.square().sum(-1).mean()
    return float(1 - inner.clamp_min(0) ** 2 / sizes)


def gradients(
    spec: MixtureSpec, teacher: Denoiser, n: int, draws: int
) -> dict[str, dict[str, float]]:
    """The error of the direction of one draw, by method and calls."""
    width = 2 * spec.grain
    x = spec.sample(n, torch.Generator().manual_seed(5)) + spec.grain * normal(n, 6)
    ideal = MixtureDenoiser(spec.means, spec.stds, spec.weights, **levels(spec))
    sigma = x.new_full((n,), width)
    exact = ideal(x, sigma) - x
    found: dict[str, dict[str, float]] = {name: {} for name in TITLES if name != "ddim"}
    with torch.no_grad():
        found["msd_denoiser"]["1"] = error_of([teacher(x, sigma) - x], exact)
        for steps in COSTS["product"]:
            grid = karras_grid(steps, teacher.sigma_min, teacher.sigma_max)
            noises = [normal(n, 7 + i) for i in range(draws)]
            drawn = [product_sample(teacher, x, z, grid, width) - x for z in noises]
            found["msd_product"][str(steps)] = error_of(drawn, exact)
        for calls in COSTS["sds"]:
            drawn = []
            for i in range(draws):
                noise = [normal(n, 1000 * i + k) for k in range(calls)]
                moves = [teacher(x + width * e, sigma) - x for e in noise]
                drawn.append(torch.stack(moves).mean(0))
            found["sds"][str(calls)] = error_of(drawn, exact)
        for inner in COSTS["sdi"]:
            law = LogUniform(width, 2 * width)  # not drawn from: the level is given below
            one = SDS(teacher, Table.of(x), law, torch.ones_like, steps=10 * inner, eta=0.3)
            one.streams.reset(0)
            drawn = [teacher(one.noised(x, sigma, {}), sigma) - x for _ in range(draws)]
            found["sdi"][str(10 * inner + 1)] = error_of(drawn, exact)
    return found


def draw(found: dict, file: Path) -> None:
    """A row of particles a density, and the errors of gradients by their cost."""
    from matplotlib import pyplot as plt

    rows = sorted(found["cells"])
    fig, axes = plt.subplots(
        len(rows), len(TITLES) + 1, figsize=(3 * (len(TITLES) + 1), 3 * len(rows)), squeeze=False
    )
    for line, cell in zip(axes, rows, strict=True):
        spec = DENSITIES[cell.split("/")[0]]()
        truth = spec.sample(1500, torch.Generator().manual_seed(0))
        kept = found["cells"][cell]["samples"]
        for axis, (name, title) in zip(line, TITLES.items(), strict=False):
            x = torch.tensor(kept[name])
            axis.scatter(*truth.T, s=1, c="0.85")
            axis.scatter(*x.T, s=2, c="tab:red")
            centre, half = spec.mean, 3 * spec.spread
            axis.set_xlim(float(centre[0]) - half, float(centre[0]) + half)
            axis.set_ylim(float(centre[1]) - half, float(centre[1]) + half)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(f"{cell}: {title}", fontsize=8)
        for name, points in found["cells"][cell]["gradients"].items():
            costs = [int(c) for c in points]
            line[-1].plot(costs, list(points.values()), marker="o", ms=3, label=TITLES[name])
        line[-1].set_xscale("log")
        line[-1].set_yscale("log")
        line[-1].set_xlabel("calls of the teacher", fontsize=8)
        line[-1].set_title("error of one direction", fontsize=8)
        line[-1].legend(fontsize=6)
    fig.tight_layout()
    fig.savefig(file, dpi=70)
    plt.close(fig)


def rounded(x: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in row] for row in x.tolist()]


def cell_of(
    density: str, denoiser: str, chosen: argparse.Namespace
) -> dict[str, dict | int | float]:
    """What is measured of one density with one denoiser, and what it cost."""
    began = time.process_time()
    spec = DENSITIES[density]()
    if denoiser == "ideal":
        teacher: Denoiser = MixtureDenoiser(spec.means, spec.stds, spec.weights, **levels(spec))
    else:
        teacher = learned(spec, chosen.teach, 0)
    taught = time.process_time() - began
    rows, drawn = particles(spec, teacher, chosen.particles, chosen.steps)
    errors = gradients(spec, teacher, min(1000, chosen.particles), chosen.draws)
    print(json.dumps(errors, indent=1), flush=True)
    return {
        "particles": chosen.particles,
        "steps": chosen.steps,
        "draws": chosen.draws,
        "teach": 0 if denoiser == "ideal" else chosen.teach,
        "teach_seconds": taught,
        "processor_seconds": time.process_time() - began,
        "scores": rows,
        "gradients": errors,
        "samples": {k: rounded(x[:SHOWN]) for k, x in drawn.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--densities", default="spiral,pinwheel,fractal")
    parser.add_argument("--denoisers", default="ideal,learned")
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--teach", type=int, default=1500, help="steps of the learned denoiser")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/results/mean_shift.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    densities, denoisers = (v.split(",") for v in (chosen.densities, chosen.denoisers))
    for word, table in [(d, DENSITIES) for d in densities] + [(d, DENOISERS) for d in denoisers]:
        if word not in table:
            parser.error(f"{word} must be one of: {', '.join(sorted(table))}")
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    kept = chosen.out.is_file()
    found = json.loads(chosen.out.read_text()) if kept else {"cells": {}}
    about = {"command": f"python {' '.join(sys.argv)}", "torch": torch.__version__}
    for denoiser in denoisers:
        for density in densities:
            row = cell_of(density, denoiser, chosen)
            found["cells"][f"{density}/{denoiser}"] = {**about, **row}
            chosen.out.write_text(json.dumps(found) + "\n")
    draw(found, chosen.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
