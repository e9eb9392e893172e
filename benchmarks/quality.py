r"""How long until a student of MoG-40 is good? Ours against the published procedure, capped.

    python benchmarks/quality.py --cap 1200 --seeds 0 --out runs/quality.json

Good: of 10,000 samples the mean log-density is at least -12 and the biased MMD^2 at most 5e-3. The
two run one after the other in one process, ours first; with `--only` in two processes, and the
file joins them. Evaluations stand outside of both clocks. The clocks are wall-clock and the
processor's time of this process: where other work shares the core the second is the one to read.
The published procedure stops at the target or at the cap, and is counted at the cap: its ratio is
then a lower bound. Results are written as they come.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from published import PROCEDURES
from step import stage_of
from torch import Tensor

from vardiu.data.densities import mog40
from vardiu.metrics.density import log_density, modes_covered
from vardiu.metrics.mmd import mmd2_biased
from vardiu.training.trainer import Trainer

LOG_DENSITY, MMD2 = -12.0, 5e-3
TARGET = f"log-density >= {LOG_DENSITY:g} and biased MMD^2 <= {MMD2:g}"


@dataclass
class Clock:
    """Wall-clock and the processor's seconds, running only inside `with`."""

    wall: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> Clock:
        self.wall -= time.perf_counter()
        self.cpu -= time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.wall += time.perf_counter()
        self.cpu += time.process_time()


def measure(sample: Callable[[int, torch.Generator], Tensor], n: int, seed: int) -> dict:
    """The metrics of a student, on samples that training never drew."""
    spec = mog40()
    x = sample(n, torch.Generator().manual_seed(10_000 + seed))
    truth = spec.sample(n, torch.Generator().manual_seed(20_000 + seed))
    return {
        "log_density": log_density(x, spec.log_prob).value,
        "mmd2": mmd2_biased(x, truth).value,
        "modes": modes_covered(x, spec.means).value,
    }


def good(metrics: dict) -> bool:
    return metrics["log_density"] >= LOG_DENSITY and metrics["mmd2"] <= MMD2


def run_ours(
    preset: str, precision: str | None, changes: dict, seed: int, n: int, cap: float
) -> dict:
    """Trains the preset on a schedule of its own length, and measures its averaged student.

    The schedule is fixed beforehand: the whole of it is counted, and set-up too.
    """
    clock = Clock()
    with clock:
        stage = stage_of(preset, precision, seed, **changes)
        trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps, seed=seed)
        while trainer.step < trainer.steps and clock_cpu(clock) < cap:
            trainer.advance(stage.batches)
    student = trainer.average.module
    metrics = measure(lambda m, random: student.sample(m, generator=random).cpu(), n, seed)
    row = {"who": f"{preset}, {trainer.steps} steps", "steps": trainer.step, **metrics}
    return {**row, "wall": clock.wall, "cpu": clock.cpu, "reached": good(metrics)}


def clock_cpu(clock: Clock) -> float:
    """The seconds of a clock that is running now."""
    return clock.cpu + time.process_time()


def run_published(
    procedure: str, seed: int, n: int, cap: float, every: float, tell: Callable[[dict], None]
) -> dict:
    """Runs the published procedure in blocks of some seconds, until the target or the cap."""
    clock = Clock()
    with clock:
        run = PROCEDURES[procedure](seed)
    row: dict = {"who": f"published {procedure}", "course": []}
    while True:
        until = min(cap, clock.wall + every)
        with clock:
            while clock.wall + time.perf_counter() < until:
                run.step()
        metrics = measure(run.sample, n, seed)
        point = {"steps": run.iteration, **metrics, "wall": clock.wall, "cpu": clock.cpu}
        row["course"].append(point)
        row |= {**point, "reached": good(metrics)}
        tell(row)
        if row["reached"] or clock.wall >= cap:
            return row


def table(result: dict) -> str:
    """The rows of a result, and the ratio where both sides are there."""
    lines = [
        "| who | seed | steps | log-density | MMD^2 | modes | seconds | processor s | good |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for seed, sides in result["seeds"].items():
        for row in sides.values():
            lines.append(
                f"| {row['who']} | {seed} | {row['steps']:,} | {row['log_density']:.2f} | "
                f"{row['mmd2']:.2e} | {row['modes']:.0f} | {row['wall']:.1f} | {row['cpu']:.1f} | "
                f"{'yes' if row['reached'] else 'no'} |"
            )
        if {"ours", "published"} <= set(sides) and sides["ours"]["reached"]:
            ours, theirs = sides["ours"], sides["published"]
            bound = "" if theirs["reached"] else "at most "
            ratios.append(
                f"seed {seed}: ours / published {bound}1/{theirs['cpu'] / ours['cpu']:.1f} of "
                f"the processor's time, {bound}1/{theirs['wall'] / ours['wall']:.1f} of wall-clock"
            )
    return "\n".join([*lines, "", *ratios])


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cap", type=float, default=1200.0, help="seconds of wall-clock")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between evaluations")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--preset", default="mog40")
    parser.add_argument("--steps", type=int, default=800, help="the length of our schedule")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="the preset's")
    parser.add_argument("--procedure", choices=PROCEDURES, default="vardiu")
    parser.add_argument("--only", choices=["ours", "published"])
    parser.add_argument("--out", type=Path, default=Path("runs/quality.json"))
    chosen = parser.parse_args(words)
    result: dict = {"target": TARGET, "cap": chosen.cap, "seeds": {}}
    if chosen.only is not None and chosen.out.exists():
        result = json.loads(chosen.out.read_text())
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    changes = {"steps": chosen.steps, "batch": chosen.batch}
    for seed in chosen.seeds:
        sides = result["seeds"].setdefault(str(seed), {})

        def keep(row: dict, side: str = "published", sides: dict = sides) -> None:
            sides[side] = row
            chosen.out.write_text(json.dumps(result, indent=1) + "\n")

        if chosen.only != "published":
            args = (chosen.preset, chosen.precision, changes, seed, chosen.samples, chosen.cap)
            keep(run_ours(*args), "ours")
            print(table(result), flush=True)
        if chosen.only != "ours":
            args = (chosen.procedure, seed, chosen.samples, chosen.cap, chosen.every)
            keep(run_published(*args, keep))
    print(table(result))


if __name__ == "__main__":
    main()
