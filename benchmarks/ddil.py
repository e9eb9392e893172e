r"""The covariate shift of a student of few steps, against where its training states come from.

    python benchmarks/ddil.py --out docs/results/ddil.json

MoG-40 with the exact score. A small network learns four steps of a sampler, each taught by eight
steps of the teacher (progressive distillation with eight in place of two), at states of mixtures
of noised data, of the teacher's path and of the student's own, shares constant from the start. Of
each: the student's error against the teacher in its last step, as the root of the mean square, at
its own states and at noised data, and their ratio; and of its samples the mean log-density, half
the sum of absolute errors of the modes' masses (TV), MMD^2 and the modes. A picture beside the
file has the errors by the share of the student's own states.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import matplotlib as mpl
import torch

from vardiu.data.batch import Batch
from vardiu.data.batches import Shuffled
from vardiu.data.densities import DENSITIES
from vardiu.denoisers.exact import MixtureDenoiser
from vardiu.denoisers.levels import karras_grid
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.functional.scores import truncated_snr
from vardiu.methods.progressive import ProgressiveDistillation, noised
from vardiu.metrics.density import log_density, mode_masses, modes_covered
from vardiu.metrics.mmd import PAPER_BANDWIDTHS, mmd2
from vardiu.nn import MLP
from vardiu.training.optimizers import Optimisation, cosine
from vardiu.training.states import Mixture, Shares
from vardiu.training.states import Path as StatePath
from vardiu.training.trainer import Trainer

mpl.use("Agg")

# The shares of the teacher's and of the student's states.
MIXTURES = [(0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.2, 0.4), (1.0, 0.0)]
CALLS, STRIDE = 4, 8


def distilled(shares: tuple[float, float], chosen: argparse.Namespace, seed: int) -> dict:
    """Trains one student and measures it."""
    spec, range_ = DENSITIES["mog40"](), {"sigma_min": 0.1, "sigma_max": 80.0}
    teacher = MixtureDenoiser(spec.means, spec.stds, spec.weights, **range_)
    grid = karras_grid(CALLS * STRIDE, 0.1, 80.0, rho=4.0)
    torch.manual_seed(seed)
    network = PreconditionedDenoiser(
        MLP((2,), (2,), width=chosen.width, depth=3, noisy=True),
        shape=(2,),
        sigma_data=spec.spread,
        mean=spec.mean,
        **range_,
    )
    stops = torch.arange(CALLS) * STRIDE
    states = Mixture(
        noised,
        Shares(*shares),
        StatePath(grid[: int(stops[-1]) + 1], stops),
        (2,),
        {},
        batch=chosen.batch,
        replay=chosen.replay,
        refill=CALLS,
    )
    weight = partial(truncated_snr, sigma_data=spec.spread)
    objective = ProgressiveDistillation(
        teacher, network, grid, stride=STRIDE, weight=weight, states=states
    )
    row = Optimisation.adam({"generator": 3e-3}, decay=cosine, halflife=0.0, clip=1.0, warmup=50)
    trainer = Trainer(objective, row, steps=chosen.steps, seed=seed)
    x = spec.sample(20_000, torch.Generator().manual_seed(seed))
    began = time.perf_counter()
    trainer.fit(Shuffled(x, {}, chosen.batch, seed=seed))
    seconds = time.perf_counter() - began
    with torch.no_grad():
        found = objective.diagnostics(Batch.of(x[:8_000]), chosen.steps)
    student = objective.student_of(trainer.average.module)
    drawn = student.sample(10_000, generator=torch.Generator().manual_seed(9))
    truth = spec.sample(10_000, torch.Generator().manual_seed(99))
    wanted = mode_masses(truth, spec.means)
    metrics = [
        log_density(drawn, spec.log_prob),
        modes_covered(drawn, spec.means, threshold=0.01),
        *mmd2(drawn[:4000], truth[:4000], PAPER_BANDWIDTHS),
    ]
    return {
        **{name: float(value) for name, value in found.items()},
        **{metric.name: metric.value for metric in metrics},
        "tv": float((mode_masses(drawn, spec.means) - wanted).abs().sum() / 2),
        "seconds": seconds,
    }


def draw(means: dict[str, dict[str, float]], file: Path) -> None:
    from matplotlib import pyplot as plt

    own = [row for row in means.values() if row["teacher"] == 0]
    fig, axes = plt.subplots(1, 2, figsize=(8, 3))
    shares = [row["student"] for row in own]
    for name, title in (("student", "at its own states"), ("forward", "at noised data")):
        axes[0].plot(shares, [row[f"shift/{name}"] for row in own], marker="o", label=title)
    axes[0].set_ylabel("error of the last step")
    axes[0].legend(fontsize=8)
    axes[1].plot(shares, [row["shift/ratio"] for row in own], marker="o", c="tab:red")
    axes[1].set_ylabel("ratio: the covariate shift")
    for axis in axes:
        axis.set_xlabel("share of the student's own states")
    fig.tight_layout()
    fig.savefig(file, dpi=90)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--replay", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="docs/results/ddil.json")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    runs: dict[str, list[dict]] = {}
    for seed in range(chosen.seeds):
        for teacher, student in MIXTURES:
            name = f"teacher {teacher:g}, student {student:g}"
            found = distilled((teacher, student), chosen, seed)
            runs.setdefault(name, []).append({"teacher": teacher, "student": student, **found})
            print(seed, name, {k: round(v, 4) for k, v in found.items()}, flush=True)
    means = {
        name: {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
        for name, rows in runs.items()
    }
    kept = {
        "command": "python benchmarks/ddil.py",
        "torch": torch.__version__,
        **{key: getattr(chosen, key) for key in ("steps", "batch", "width", "replay", "seeds")},
        "means": means,
        "runs": runs,
    }
    file = Path(chosen.out)
    file.write_text(json.dumps(kept, indent=1) + "\n")
    draw(means, file.with_suffix(".png"))


if __name__ == "__main__":
    main()
