"""Where does each bound stop being useful? Slack and training against the number of dimensions.

    python benchmarks/dimensions.py [--part slack|train|fixes|presets|all] [--seconds 10] [--quick]
                                    [--only TEXT ...]

slack: the student is held fixed and its marginal is known (a linear map with a decaying spectrum;
a map onto a mixture), so that the bound less the exact entropy is the slack, in nats. The
posterior is fitted for the same seconds at every dimension and family.
train: VarDiU with every family, and Diff-Instruct, on a random mixture, the same seconds a cell.
fixes: what helps where it fails.
presets: the presets of mixtures, and the anchored posterior with other settings.

Each cell is a line of `cells.jsonl`; finished ones are kept. At the end the pictures are drawn.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.functional.tensors import expand_like
from vardiu.methods import METHODS, diff_instruct, vardiu
from vardiu.methods.vardiu.settings import POSTERIORS
from vardiu.metrics.density import mode_masses
from vardiu.metrics.transport import wasserstein2_sliced
from vardiu.monitoring.measures import variance_ratio
from vardiu.nn import MLP
from vardiu.posteriors.encoder import Encoder, UnitScale
from vardiu.problems.densities import DensityProblem
from vardiu.reports.comparisons import line_style
from vardiu.reports.figures import COLOURS, save_figure
from vardiu.settings.fields import (
    AnchorSettings,
    DensitySettings,
    FrameSettings,
    LevelSettings,
    NetworkOptimizer,
    PairSettings,
    WeightSettings,
)
from vardiu.storage.provenance import provenance
from vardiu.students.base import Generator
from vardiu.training.stage import Context, Trained
from vardiu.training.trainer import Trainer

DIMENSIONS = (2, 8, 32, 128, 512)
SIGMAS = (0.1, 0.3, 1.0, 3.0)
CHOLESKY_LIMIT = 128  # at 512 the factor alone has 131,328 entries a row
BATCH = 256

# ---------------------------------------------------------------- students whose marginal is known


class Linear(Generator):
    """x = Q diag(l) z with a rotation Q and a spectrum l_i^2 ~ 1 / i of mean one."""

    def __init__(self, d: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(d)
        rotation = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
        variance = 1 / torch.arange(1, d + 1)
        self.variance = variance * d / variance.sum()
        self.matrix = nn.Parameter(rotation * self.variance.sqrt())
        self.latent_shape = self.shape = (d,)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        return z @ self.matrix.T

    def marginal(self) -> GaussianDenoiser:
        matrix = self.matrix.detach()
        return GaussianDenoiser(torch.zeros(len(matrix)), matrix @ matrix.T, sigma_min=0.01)

    def information(self, sigma: float) -> float:
        """I(z; x_t) in nats."""
        return 0.5 * float((1 + self.variance / sigma**2).log().sum())


class Clustered(Generator):
    """x = mean of a component + half a unit of noise; the last latent chooses the component."""

    def __init__(self, d: int, components: int = 16) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(d)
        self.means = nn.Parameter(
            math.sqrt(0.75) * torch.randn(components, d, generator=generator)
        )
        self.latent_shape, self.shape = (d + 1,), (d,)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        n = len(self.means)
        chosen = (torch.special.ndtr(z[:, -1]) * n).long().clamp_max(n - 1)
        return self.means[chosen] + 0.5 * z[:, :-1]

    def marginal(self) -> MixtureDenoiser:
        return MixtureDenoiser(self.means.detach(), 0.5, sigma_min=0.01)

    def information(self, sigma: float) -> float:
        """An upper limit of I(z; x_t): that of the noise, and of the choice."""
        d, n = self.means.shape[1], len(self.means)
        return 0.5 * d * math.log(1 + 0.25 / sigma**2) + math.log(n)


STUDENTS: dict[str, Callable[[int], Any]] = {"linear": Linear, "clustered": Clustered}
FAMILIES: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "cholesky": {"posterior": "cholesky"},
    "mixture": {"posterior": "mixture"},
    "flow": {"posterior": "flow"},
    "particles": {"particles": 4},
    "shared": {"posterior": "shared"},
    "shared-lattice": {"posterior": "shared", "lattice": True},
}


def slack_cell(student: str, d: int, family: str, seconds: float) -> dict[str, Any]:
    """Fits a posterior to a fixed student; returns the slack at each level."""
    generator = STUDENTS[student](d)
    config = vardiu.Settings(**FAMILIES[family])
    k = generator.latent_shape[0]
    network = MLP((d,), (256,), width=256, depth=3, noisy=True, final=False)
    posterior = POSTERIORS[config.posterior](Encoder(network, 256, UnitScale(1.0)), k, config)
    objective = vardiu.VarDiU(
        generator.marginal(),
        generator,
        None if family.startswith("shared") else posterior,
        levels=LogUniform(SIGMAS[0], SIGMAS[-1]),
        particles=config.particles,
        shared=family.startswith("shared"),
        lattice=config.lattice,
    )
    generator.requires_grad_(False)
    steps = 0 if objective.shared else fit(objective, seconds)
    exact = generator.marginal()
    rows = {}
    for sigma in SIGMAS:
        values = []
        for _ in range(8):
            z = objective.latents(BATCH, "slack")
            x = generator(z)
            level = z.new_full((BATCH,), sigma)
            x_t = x + expand_like(level, x) * objective.noise_like(x, "slack noise")
            with torch.no_grad():
                bound = objective.negative_entropy(z, x, x, x_t, level, {}, "slack particle")
            values.append(float((bound - exact.log_prob(x_t, level)).mean()))
        rows[f"{sigma:g}"] = [np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))]
    information = {f"{s:g}": generator.information(s) for s in SIGMAS}
    return {"slack": rows, "information": information, "steps": steps}


def fit(objective: vardiu.VarDiU, seconds: float) -> int:
    """Trains the posterior alone, by Adam; returns the number of steps.

    The rate falls to zero over the time, measured on the process's own clock.
    """
    parameters = list(objective.posterior.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    started, steps = time.process_time(), 0
    while (spent := time.process_time() - started) < seconds:
        z = objective.latents(BATCH)
        x = objective.generator(z)
        sigma = objective.levels(objective.quantiles(BATCH), steps)
        x_t = x + expand_like(sigma, x) * objective.noise_like(x)
        # Particles tighten the bound that is reported; the posterior is fitted without.
        loss = -objective.posterior(x_t, sigma).log_prob(z).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.param_groups[0]["lr"] = 1e-3 * max(0.0, 1 - spent / seconds)
        optimizer.step()
        steps += 1
    return steps


# ---------------------------------------------------------------- training

LEVELS = LevelSettings(sigma_min=0.2, sigma_max=10.0, start_min=5.0)
BASE = vardiu.Settings(
    batch=BATCH,
    lr=1e-3,
    lattice=True,
    levels=LEVELS,
    weight=WeightSettings(kind="bounded", scale=1.0),
    halflife=20_000.0,
)
FAKE = diff_instruct.Settings(
    batch=2 * BATCH,
    lr=1e-3,
    fake_optimizer=NetworkOptimizer(lr=2e-3),
    beta_1=0.5,
    beta_2=0.99,
    delay=100,
    ratio=1,
    lattice=True,
    levels=LEVELS,
    weight=BASE.weight,
    halflife=BASE.halflife,
)


ANCHORED = vardiu.Settings(
    posterior="anchored",
    batch=256,
    lr=1e-3,
    fake_optimizer=NetworkOptimizer(lr=2e-3),
    beta_1=0.9,
    beta_2=0.99,
    delay=100,
    anchor=AnchorSettings(rate=0.2),
    lattice=True,
    levels=replace(LEVELS, start_min=None),
    weight=BASE.weight,
    halflife=20_000.0,
)


@dataclass(frozen=True)
class Plan:
    """One training: its method, its settings (none: untrained), changes of the problem's, and that
    (none: the ordinary one)."""

    settings: Any
    method: str = "vardiu"
    problem: tuple[tuple[str, Any], ...] = ()
    row: DensitySettings | None = None


def families(d: int) -> dict[str, Plan]:
    plans = {
        name: Plan(replace(BASE, **changes))
        for name, changes in FAMILIES.items()
        if name != "shared-lattice"
    }
    return {**plans, "diff-instruct": Plan(FAKE, "diff_instruct")}


def fixes(d: int) -> dict[str, Plan]:
    """What could help where a bound is loose."""
    shared = replace(BASE, posterior="shared")
    frame = FrameSettings(clusters=40, components=min(16, d - 1), samples=8_000, sigma=0.5)
    pairs = PairSettings(pairs=8_000, steps=600)
    at_once = replace(LEVELS, start_min=None)
    spread_out = (("residual", True),)
    known = replace(BASE, posterior="residual", levels=at_once)
    return {
        "residual student, untrained": Plan(None, problem=spread_out),
        "residual student, gaussian": Plan(replace(BASE, levels=at_once), problem=spread_out),
        "residual student and posterior": Plan(known, problem=spread_out),
        "the same, 4 particles": Plan(replace(known, particles=4), problem=spread_out),
        "residual student, shared": Plan(replace(shared, levels=at_once), problem=spread_out),
        "residual student, diff-instruct": Plan(
            replace(FAKE, levels=at_once), "diff_instruct", spread_out
        ),
        "gaussian, 8 latents": Plan(BASE, problem=(("latent", 8),)),
        "shared, 8 latents": Plan(shared, problem=(("latent", 8),)),
        "shared, batch 1024": Plan(replace(shared, batch=1024)),
        "gaussian, sigma from 1": Plan(
            replace(BASE, levels=replace(LEVELS, sigma_min=1.0, start_min=5.0))
        ),
        "gaussian, all levels at once": Plan(replace(BASE, levels=at_once)),
        "gaussian, posterior first": Plan(replace(BASE, delay=300)),
        "gaussian after pairs": Plan(replace(BASE, pairs=pairs, levels=at_once)),
        "framed": Plan(replace(BASE, posterior="framed", frame=frame, levels=at_once)),
    }


def presets(d: int) -> dict[str, Plan]:
    """The presets of mixtures, and what the anchored posterior makes of the last one's ground."""
    ours, theirs = vardiu.METHOD.presets, diff_instruct.METHOD.presets
    of = {
        "mixture": ours["mixture"],
        "mixture-residual": ours["mixture-residual"],
        "mixture-diff-instruct": theirs["mixture-diff-instruct"],
    }
    plans = {
        name: Plan(
            row.settings, "vardiu" if row in ours.values() else "diff_instruct", (), row.problem
        )
        for name, row in of.items()
    }
    ground = of["mixture-diff-instruct"].problem
    codes = (("codes", 256),)
    plans["diff-instruct, codes"] = replace(plans["mixture-diff-instruct"], problem=codes)
    for rate in (0.5, 0.2, 0.05):
        for beta in (0.5, 0.9):
            settings = replace(ANCHORED, anchor=AnchorSettings(rate=rate), beta_1=beta)
            plans[f"anchored, rate {rate}, beta {beta}"] = Plan(settings, row=ground)
    plans["anchored, codes"] = Plan(ANCHORED, problem=codes, row=ground)
    falling = replace(ANCHORED, anchor=AnchorSettings(rate=0.5, rate_end=0.02))
    plans["anchored, rate falls"] = Plan(falling, row=ground)
    plans["anchored, lr 5e-4"] = Plan(replace(ANCHORED, lr=5e-4), row=ground)
    low = replace(ANCHORED.levels, sigma_max=5.0)
    plans["anchored, levels to 5"] = Plan(replace(ANCHORED, levels=low), row=ground)
    both = replace(falling, levels=low)
    plans["anchored, rate falls, levels to 5"] = Plan(both, row=ground)
    high = replace(ANCHORED.levels, sigma_min=0.5)
    plans["anchored, levels from 0.5"] = Plan(replace(ANCHORED, levels=high), row=ground)
    long = replace(ANCHORED, halflife=100_000.0)
    plans["anchored, long average"] = Plan(long, row=ground)
    plans["anchored, codes, long average"] = Plan(long, problem=codes, row=ground)
    wide = (("width", 512),)
    plans["anchored, 512 wide"] = Plan(ANCHORED, problem=wide, row=ground)
    return plans


def train_cell(d: int, plan: Plan, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Trains one student for so many seconds of this process; returns what it became."""
    row = DensitySettings(
        name="mixture", dim=d, modes=40, latent=d, width=256, depth=3, fourier=0, sigma_max=20.0
    )
    row = row if plan.row is None else replace(plan.row, dim=d, latent=d)
    problem = DensityProblem(replace(row, **dict(plan.problem)), seed)
    torch.manual_seed(seed)
    student, steps, cost = problem.networks.student(), 0, 0.0
    if plan.settings is not None:
        student, steps, cost = trained(problem, plan, seconds, seed)
    return quality(problem, student, d) | {"steps": steps, "milliseconds": 1e3 * cost}


def trained(
    problem: DensityProblem, plan: Plan, seconds: float, seed: int
) -> tuple[Generator, int, float]:
    """Trains a student; returns it, its steps, and the seconds of a step."""
    method, clock = METHODS[plan.method], time.process_time
    # A pilot of a few steps tells how many the seconds pay for: annealing needs to know its end.
    started = clock()
    pilot = replace(plan.settings, steps=10, delay=0)
    _, cost = run(method.recipe(problem, pilot, Context(seed)), seed)
    start = clock() - started - cost * 10
    steps = max(20, int((seconds - max(0.0, start)) / cost))
    torch.manual_seed(seed)
    recipe = method.recipe(problem, replace(plan.settings, steps=steps), Context(seed))
    return run(recipe, seed)[0], steps, cost


def quality(problem: DensityProblem, student: Generator, d: int) -> dict[str, float]:
    x, _ = problem.student_source(student.eval())(4000, torch.Generator().manual_seed(0))
    truth = problem.data.target.spec.sample(4000, torch.Generator().manual_seed(1))
    gap = (
        problem.data.target.spec.log_prob(truth).mean()
        - problem.data.target.spec.log_prob(x).mean()
    )
    random = torch.Generator().manual_seed(2)
    sliced = wasserstein2_sliced(x, truth, generator=random).value
    masses = mode_masses(x, problem.data.target.spec.means) / problem.data.target.spec.weights
    return {
        "gap": float(gap) / d,
        "sliced": sliced / problem.space.sigma_data,
        "alive": float((masses > 0.2).double().mean()),
        "spread": variance_ratio(x, problem.space.variance),
    }


def run(recipe: Any, seed: int) -> tuple[Generator, float]:
    """Runs a recipe; returns the student, and the seconds of a step of its last stage."""
    stage = next(recipe)
    while True:
        trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps, seed=seed)
        started = time.process_time()
        student = copy.deepcopy(trainer.fit(stage.batches)).requires_grad_(True).train()
        cost = (time.process_time() - started) / stage.steps
        try:
            stage = recipe.send(Trained(student, trainer.objective))
        except StopIteration as stop:
            return stop.value, cost


# ---------------------------------------------------------------- cells, and what is drawn


def cells(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    dims = (2, 8) if args.quick else DIMENSIONS
    seconds = 0.3 if args.quick else args.seconds
    for d in dims:
        if args.part in ("slack", "all"):
            for student in STUDENTS:
                for family in FAMILIES:
                    if family != "cholesky" or d <= CHOLESKY_LIMIT:
                        given = (student, d, family, seconds / 2)
                        yield f"slack/{student}/{family}/{d}", lambda g=given: slack_cell(*g)
        for part, table in (("train", families), ("fixes", fixes), ("presets", presets)):
            if args.part in (part, "all"):
                for name, plan in table(d).items():
                    if (name == "cholesky" and d > CHOLESKY_LIMIT) or (part != "train" and d < 8):
                        continue
                    for seed in range(args.seeds if not args.quick else 1):
                        given = (d, plan, seconds, seed)
                        key = f"{part}/{name}/{d}/{seed}"
                        yield key, lambda g=given: train_cell(*g)


def known(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    lines = [line for line in path.read_text().split("\n")[:-1] if line]
    return {row.pop("cell"): row for row in map(json.loads, lines)}


def draw_slack(found: dict[str, dict[str, Any]], path: Path) -> Path:
    """Slack in nats against dimension, a panel a student and level."""
    figure = Figure(figsize=(15, 7), layout="constrained")
    for i, student in enumerate(STUDENTS):
        for j, sigma in enumerate(SIGMAS):
            ax = figure.add_subplot(2, len(SIGMAS), i * len(SIGMAS) + j + 1)
            for m, family in enumerate(FAMILIES):
                rows = series(
                    found, f"slack/{student}/{family}", lambda r, s=sigma: r["slack"][f"{s:g}"]
                )
                if rows:
                    d, (value, error) = rows[0], np.array(rows[1]).T
                    style = {"color": COLOURS[m], "marker": "o", "markersize": 3}
                    ax.errorbar(d, np.maximum(value, 1e-3), yerr=error, label=family, **style)
            rows = series(
                found, f"slack/{student}/shared", lambda r, s=sigma: r["information"][f"{s:g}"]
            )
            if rows:
                limit = np.array(rows[1])
                ax.plot(rows[0], limit, color="#999999", linestyle="--", label="I(z; x_t)")
                less = np.maximum(limit - math.log(BATCH), 1e-3)
                ax.plot(rows[0], less, color="#999999", linestyle=":", label="I - log batch")
            ax.set(xscale="log", yscale="log", ylim=(1e-2, None), xlabel="dimensions")
            ax.set_title(f"{student} student, sigma {sigma:g}", fontsize=10)
            ax.grid(alpha=0.25)
            if i == j == 0:
                ax.legend(fontsize=7)
                ax.set_ylabel("slack, nats")
    return save_figure(figure, path)


def draw_training(found: dict[str, dict[str, Any]], part: str, path: Path) -> Path:
    """Quality against dimension for each family or fix; the range of the seeds as bars."""
    names = list(dict.fromkeys(k.split("/")[1] for k in found if k.startswith(f"{part}/")))
    panels = {
        "gap": "log-density short of true samples, nats a dimension",
        "sliced": "sliced Wasserstein-2, / standard deviation of the data",
        "alive": "share of the modes alive",
        "spread": "variance, / that of the data",
    }
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    for i, (key, title) in enumerate(panels.items()):
        ax = figure.add_subplot(1, 4, i + 1)
        for m, name in enumerate(names):
            dims = sorted({int(k.split("/")[2]) for k in found if k.startswith(f"{part}/{name}/")})
            values = [
                [r[key] for k, r in found.items() if k.startswith(f"{part}/{name}/{d}/")]
                for d in dims
            ]
            middle = np.array([np.median(v) for v in values])
            low, high = (np.array([f(v) for v in values]) for f in (min, max))
            bars = [middle - low, high - middle]
            style = line_style(m)
            ax.errorbar(dims, middle, yerr=bars, label=name, marker="o", markersize=3, **style)
        ax.set(xscale="log", xlabel="dimensions")
        ax.set_title(title, fontsize=9)
        ax.grid(alpha=0.25)
        if key == "sliced":
            ax.set_yscale("log")
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    return save_figure(figure, path)


def series(found: dict, prefix: str, value: Callable[[dict], Any]) -> tuple[list, list] | None:
    rows = sorted(
        (int(k.split("/")[3]), value(r)) for k, r in found.items() if k.startswith(f"{prefix}/")
    )
    return ([d for d, _ in rows], [v for _, v in rows]) if rows else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--part", choices=("slack", "train", "fixes", "presets", "all"), default="all"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/dimensions"))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each cell (slack: half)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="cells whose names have one of these"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "cells.jsonl"
    done = known(path)
    for key, compute in cells(args):
        if key not in done and any(part in key for part in args.only):
            torch.manual_seed(0)
            row = {"cell": key, **compute()}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    found = known(path)
    about = provenance(["python", "benchmarks/dimensions.py"], 0)
    content = {"provenance": about, "seconds": args.seconds, "batch": BATCH, "cells": found}
    (args.out / "dimensions.json").write_text(json.dumps(content, indent=1) + "\n")
    if any(key.startswith("slack/") for key in found):
        print(draw_slack(found, args.out / "dimensions-slack.png"))
    for part in ("train", "fixes", "presets"):
        if any(key.startswith(f"{part}/") for key in found):
            print(draw_training(found, part, args.out / f"dimensions-{part}.png"))


if __name__ == "__main__":
    main()
