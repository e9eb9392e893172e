r"""Does a projection on the state's directions make step sizes matter less, and what else holds?

    python benchmarks/restore.py photos --seed 0 --out FILE.json

One part and one seed a command; the file is added to, and drawn. `picture` draws it again.

*photos*: grey patches of two photographs, whose left halves give a mean and a covariance and whose
right halves are restored: the denoiser is exact for that Gaussian, and so are the posterior's mean
and samples. DPS of 200 steps, noise .05, 48 patches of 16x16; and of 32x32.
*solvers*: the other three on 8 of the same patches, inpainting.
*digits*: 8x8 digits under a kernel density of 1,500 of them; denoiser and posterior are exact.
*mixture*: 40 Gaussians in the plane, other ones for each seed; one coordinate is measured. The
sliced W2 of 2,000 samples to the exact posterior.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vardiu.data.digits import digits
from vardiu.data.operators import (
    Blur,
    Downsampling,
    Inpainting,
    box_mask,
    dense_matrix,
    gaussian_kernel,
)
from vardiu.data.photos import photo
from vardiu.denoisers.exact import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from vardiu.functional.inverse import Mixture, gaussian_posterior, mixture_posterior
from vardiu.metrics.fidelity import psnr
from vardiu.metrics.transport import wasserstein2_sliced
from vardiu.reports.figures import COLOURS, save_figure
from vardiu.reports.restorations import restored_grid
from vardiu.samplers.inverse import (
    DAPS,
    DPS,
    PSLD,
    SOLVERS,
    DiffStateGrad,
    GaussianInner,
    Gradients,
    ReSample,
    RowNoise,
    Unprojected,
)
from vardiu.storage.files import write_text_atomic

NOISE, ZETAS = 0.05, (0.3, 1.0, 3.0, 10.0)
VARIANTS = ("none", "tau .99", "tau .9", "random")


def gradients(variant: str, seed: int) -> Gradients:
    if variant == "none":
        return Unprojected()
    if variant == "random":
        return DiffStateGrad(0.99, control=1000 + seed)
    name, _, period = variant.partition(", P ")
    return DiffStateGrad(float(name.removeprefix("tau ")), int(period or 1))


def grey(side: int, left: bool, stride: int) -> Tensor:
    found = []
    for name in ("china", "flower"):
        small = torch.nn.functional.avg_pool2d(photo(name).mean(0)[None, None], 2)[0]
        half = small.shape[2] // 2
        part = small[:, :, :half] if left else small[:, :, half:]
        cut = part.unfold(1, side, stride).unfold(2, side, stride)
        found.append(cut.permute(1, 2, 0, 3, 4).reshape(-1, 1, side, side))
    return torch.cat(found)


class Photos:
    """Patches, the Gaussian of their halves, and measurements of some."""

    def __init__(self, side: int, count: int, seed: int) -> None:
        train = grey(side, True, 4).double()
        mean = train.mean(0)
        rows = (train - mean).flatten(1)
        self.cov = rows.T @ rows / len(rows) + 1e-4 * torch.eye(side**2, dtype=torch.float64)
        self.mean, self.shape, self.seed = mean, (1, side, side), seed
        self.denoiser = GaussianDenoiser(mean.float(), self.cov.float(), sigma_max=1000.0)
        self.random = torch.Generator().manual_seed(seed)
        test = grey(side, False, 4)
        self.x = test[torch.randperm(len(test), generator=self.random)[:count]]

    def measured(self, operator: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Measurements, the posterior's means, and samples of it."""
        y = operator.A(self.x)
        y = y + NOISE * torch.randn(y.shape, generator=self.random)
        matrix, flat = dense_matrix(operator, self.shape), self.mean.flatten()
        means, cov = gaussian_posterior(
            flat.expand(len(y), -1), self.cov, matrix, y.flatten(1).double(), NOISE
        )
        values, vectors = torch.linalg.eigh(cov)
        drawn = torch.randn(means.shape, generator=self.random).double()
        samples = means + (drawn * values.clamp_min(0).sqrt()) @ vectors.mT
        return y, means.reshape(self.x.shape), samples.reshape(self.x.shape)


def operators(shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "inpaint": Inpainting(box_mask(6 * shape[1] // 16, shape), shape),
        "superresolve": Downsampling(2, shape),
        "blur": Blur(gaussian_kernel(1.5, 15), shape),
    }


def quality(x: Tensor, truth: Tensor) -> dict[str, float]:
    values = psnr(x, truth)
    return {
        "psnr": values.mean().item(),
        "error": (values.std() / math.sqrt(len(values))).item(),
        "tenth": values.quantile(0.1).item(),
    }


def restored(solver: Any, y: Tensor, seed: int) -> tuple[Tensor, dict[str, Any]]:
    started = time.monotonic()
    *_, last = solver(y, RowNoise(range(1000 * seed, 1000 * seed + len(y))))
    about: dict[str, Any] = {"seconds": round(time.monotonic() - started, 1)}
    passed = getattr(solver.gradients, "passed", [])
    if passed:
        about["rank"] = torch.stack([one.rank.float() for one in passed]).mean().item()
        about["rank_first"] = passed[0].rank.float().mean().item()
        about["rank_last"] = passed[-1].rank.float().mean().item()
    made = solver.operator.A(last.clean)
    about["residual"] = (y - made).square().mean().sqrt().item()
    return last.clean, about


def photos(seed: int, out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for side, count, zetas, variants in (
        (16, 48, ZETAS, VARIANTS),
        (32, 24, (1.0, 3.0), ("none", "tau .99", "tau .999")),
    ):
        if side == 32 and seed > 0:
            continue
        if seed > 0:  # that far a projection is no question of seeds
            variants = tuple(v for v in variants if v != "tau .9")
        ground = Photos(side, count, seed)
        for name, operator in operators(ground.shape).items():
            if side == 32 and name != "inpaint":
                continue
            y, means, samples = ground.measured(operator)
            about = {"part": "photos", "seed": seed, "side": side, "operator": name}
            rows += [
                {**about, "variant": "posterior mean", **quality(means, ground.x)},
                {**about, "variant": "posterior sample", **quality(samples, ground.x)},
            ]
            sets = [("measured", y.numpy())]
            for zeta in zetas:
                for variant in variants:
                    solver = DPS(
                        ground.denoiser,
                        operator,
                        steps=200,
                        step=zeta,
                        noise=NOISE,
                        gradients=gradients(variant, seed),
                    )
                    x, more = restored(solver, y, seed)
                    row = {**about, "solver": "dps", "step": zeta, "variant": variant, **more}
                    rows.append({**row, **quality(x, ground.x)})
                    print(json.dumps(rows[-1]), flush=True)
                    sets.append((f"zeta {zeta:g}, {variant}", x.numpy()))
            if seed == 0 and side == 16:
                kept = [s for s in sets if s[0].endswith(("measured", "none", "tau .99"))]
                kept.append(("truth", ground.x.numpy()))
                restored_grid(kept, out.with_name(f"{out.stem}-{name}.png"), most=12, size=0.7)
    return rows


def solvers(seed: int, out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    ground = Photos(16, 8, seed)
    for name, operator in operators(ground.shape).items():
        if name != "inpaint":
            continue
        y, _, _ = ground.measured(operator)
        for kind, steps, sizes in (
            (PSLD, 100, (0.3, 1.0, 3.0, 10.0)),
            (ReSample, 100, (0.3, 1.0, 3.0, 10.0)),
            (DAPS, 50, (0.1, 0.3, 1.0, 1.9)),
        ):
            for size in sizes:
                for variant in ("none", "tau .99"):
                    solver = kind(
                        ground.denoiser,
                        operator,
                        steps=steps,
                        step=size,
                        noise=NOISE,
                        gradients=gradients(variant, seed),
                    )
                    if isinstance(solver, ReSample):
                        solver.pixels = solver.pixels._replace(most=200)
                        solver.latents = solver.latents._replace(most=100)
                    if isinstance(solver, DAPS):
                        solver.langevin_steps = 60
                    x, more = restored(solver, y, seed)
                    row = {"part": "solvers", "seed": seed, "side": 16, "operator": name}
                    row |= {"solver": solver.NAME, "step": size, "variant": variant}
                    rows.append({**row, **more, **quality(x, ground.x)})
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def digit_posterior(points: Tensor, y: Tensor, matrix: Tensor, random: torch.Generator) -> Tensor:
    """Samples of the posterior under the kernel density, one a measurement."""
    width, seen = 0.15, points.flatten(1).double() @ matrix.mT
    d = matrix.shape[1]
    spread = width**2 * matrix @ matrix.mT + NOISE**2 * torch.eye(len(matrix)).double()
    found = []
    for row in y.flatten(1).double():
        gap = row - seen
        logits = -0.5 * (gap @ torch.linalg.inv(spread) * gap).sum(1)
        which = int(torch.multinomial(logits.softmax(0), 1, generator=random))
        mean, cov = gaussian_posterior(
            points[which].flatten().double(), width**2 * torch.eye(d).double(), matrix, row, NOISE
        )
        values, vectors = torch.linalg.eigh(cov)
        drawn = torch.randn(d, generator=random).double()
        found.append(mean + vectors @ (drawn * values.clamp_min(0).sqrt()))
    return torch.stack(found)


def digit_rows(seed: int, out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    x, _ = digits()
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = x[order[:1500]], x[order[1500:]]
    test = test[torch.randperm(len(test), generator=random)[:48]]
    prior = EmpiricalDenoiser(train, bandwidth=0.15, sigma_min=0.0, sigma_max=1000.0)
    shape = (1, 8, 8)
    tasks = {
        "inpaint": Inpainting(box_mask(4, shape), shape),
        "blur": Blur(gaussian_kernel(1.0, 7), shape),
    }
    for name, operator in tasks.items():
        y = operator.A(test)
        y = y + NOISE * torch.randn(y.shape, generator=random)
        about = {"part": "digits", "seed": seed, "side": 8, "operator": name}
        exact = digit_posterior(train, y, dense_matrix(operator, shape), random)
        sample = exact.reshape(test.shape)
        rows.append({**about, "variant": "posterior sample", **quality(sample, test)})
        runs = [("daps", 0.5, v) for v in ("none", "tau .99", "tau .99, P 5", "random")]
        if name == "inpaint":
            runs += [("dps", z, v) for z in (0.3, 1.0, 3.0, 10.0) for v in ("none", "tau .99")]
        for kind, size, variant in runs:
            solver = SOLVERS[kind](
                prior,
                operator,
                steps=200 if kind == "dps" else 50,
                step=size,
                noise=NOISE,
                gradients=gradients(variant, seed),
            )
            if isinstance(solver, DAPS):
                solver.langevin_steps = 60
            made, more = restored(solver, y, seed)
            row = {**about, "solver": kind, "step": size, "variant": variant, **more}
            rows.append({**row, **quality(made, test)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


class OneNoise(RowNoise):
    """The noise of all rows from one source: two thousand of them have no names."""

    def __init__(self, seed: int) -> None:
        super().__init__([seed])

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.sources[0], dtype=like.dtype)


class Coordinate:
    """The first coordinate of points in the plane."""

    def A(self, x: Tensor) -> Tensor:
        return x[:, :1]

    def A_adjoint(self, y: Tensor) -> Tensor:
        return torch.cat([y, torch.zeros_like(y)], dim=1)


class ExactInner:
    """Samples of the clean point given the state of a level and the measurement, exactly."""

    def __init__(self, prior: Mixture, matrix: Tensor, noise: float, seed: int) -> None:
        self.prior, self.matrix, self.noise = prior, matrix, noise
        self.random = torch.Generator().manual_seed(seed)

    def __call__(self, clean: Tensor, y: Tensor, r: float, noise: RowNoise) -> Tensor:
        d = clean.shape[1]
        both = torch.cat([torch.eye(d).to(clean) / r, self.matrix / self.noise])
        return torch.cat(
            [
                mixture_posterior(self.prior, both, seen, 1.0).sample(1, self.random)
                for seen in torch.cat([clean / r, y / self.noise], dim=1)
            ]
        )


class State(DAPS):
    """The inner law is told the state itself in place of an estimate."""

    def estimate(self, x: Tensor, sigma: float, cond: dict[str, Tensor]) -> Tensor:
        return x


class OneStep(DAPS):
    """The clean estimate of a level is one call of the denoiser."""

    def estimate(self, x: Tensor, sigma: float, cond: dict[str, Tensor]) -> Tensor:
        return self.denoiser(x, x.new_full((len(x),), sigma), **cond)


def mixture(seed: int, out: Path) -> list[dict[str, Any]]:
    n, noise, value = 2000, 0.2, 1.0
    random = torch.Generator().manual_seed(seed)
    means = 8 * torch.rand(40, 2, generator=random).double() - 4
    covs = (0.3**2 * torch.eye(2).double()).expand(40, 2, 2)
    prior = Mixture(torch.full((40,), 1 / 40).double(), means, covs)
    matrix = torch.tensor([[1.0, 0.0]]).double()
    exact = mixture_posterior(prior, matrix, torch.tensor([value]).double(), noise)
    truth = exact.sample(n, random)
    denoiser = MixtureDenoiser(means, 0.3, sigma_max=1000.0)
    y = torch.full((n, 1), value).double()
    rows = []

    def add(name: str, x: Tensor, seconds: float = 0.0) -> None:
        metric = wasserstein2_sliced(x, truth)
        row = {"part": "mixture", "seed": seed, "variant": name, "w2": metric.value}
        rows.append({**row, "error": metric.error, "seconds": round(seconds, 1)})
        print(json.dumps(rows[-1]), flush=True)

    add("floor", exact.sample(n, random))
    add("prior", prior.sample(n, random))
    runs: list[tuple[str, type, dict[str, Any]]] = [
        ("DAPS, exact law of a level, 10 levels", State, {"steps": 10}),
        ("DAPS, exact Gaussian inner, 50 levels", DAPS, {"steps": 50}),
        ("DAPS, exact Gaussian inner, 200 levels", DAPS, {"steps": 200}),
        ("DAPS, Langevin, 50 levels", DAPS, {"steps": 50, "step": 0.5}),
        ("DAPS, one Tweedie step, 50 levels", OneStep, {"steps": 50}),
        *((f"DPS, zeta {z:g}", DPS, {"steps": 200, "step": z}) for z in (0.03, 0.1, 0.3, 1.0)),
    ]
    for name, kind, more in runs:
        solver = kind(denoiser, Coordinate(), noise=noise, **more)
        if kind is State:
            solver.inner = ExactInner(prior, matrix, noise, seed)
        elif "Gaussian" in name or "Tweedie" in name:
            solver.inner = GaussianInner(matrix, noise)
        started = time.monotonic()
        *_, last = solver(y, OneNoise(seed))
        add(name, last.clean, time.monotonic() - started)
    return rows


def median(rows: list[dict[str, Any]], key: str, **fixed: Any) -> float | None:
    values = [r[key] for r in rows if all(r.get(k) == v for k, v in fixed.items())]
    return statistics.median(values) if values else None


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR by step size on photos, median over seeds and range."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4))
    for place, name in enumerate(("inpaint", "superresolve", "blur")):
        ax = figure.add_subplot(1, 3, place + 1)
        for colour, variant in zip(COLOURS, VARIANTS, strict=False):
            fixed = {"part": "photos", "side": 16, "operator": name, "variant": variant}
            known = [z for z in ZETAS if median(rows, "psnr", step=z, **fixed) is not None]
            middle = [median(rows, "psnr", step=z, **fixed) for z in known]
            all_of = [
                [
                    r["psnr"]
                    for r in rows
                    if all(r.get(k) == v for k, v in {**fixed, "step": z}.items())
                ]
                for z in known
            ]
            ax.plot(known, middle, "o-", color=colour, label=variant)
            low, high = [min(v) for v in all_of], [max(v) for v in all_of]
            ax.fill_between(known, low, high, color=colour, alpha=0.15, linewidth=0)
        for line, dash in (("posterior mean", ":"), ("posterior sample", "--")):
            at = median(rows, "psnr", part="photos", side=16, operator=name, variant=line)
            if at is not None:
                ax.axhline(at, color="#777777", linestyle=dash, linewidth=1, label=line)
        ax.set(xscale="log", xlabel="step size", title=name)
    figure.axes[0].set_ylabel("PSNR, dB")
    figure.axes[0].legend(fontsize=8)
    save_figure(figure, path)


PARTS = {"photos": photos, "solvers": solvers, "digits": digit_rows, "mixture": mixture}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "picture"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(chosen.out.read_text())["restorations"] if chosen.out.exists() else []
    if chosen.part != "picture":
        fresh = PARTS[chosen.part](chosen.seed, chosen.out)
        there = [r for r in rows if (r["part"], r["seed"]) != (chosen.part, chosen.seed)]
        rows = there + [
            {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            for row in fresh
        ]
        write_text_atomic(chosen.out, json.dumps({"restorations": rows}, indent=1) + "\n")
    if any(row["part"] == "photos" for row in rows):
        picture(rows, chosen.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
