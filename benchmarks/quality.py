"""Time to a quality on MoG-40: the library against the published procedure, in one run.

    python benchmarks/quality.py [--cap 1200] [--seeds 0] [--threads 1] [--out runs/quality.json]

How many seconds of training until 10,000 samples have a log-density of at least -12 and a biased
MMD^2 of at most 5e-3? The published procedure is stopped at the cap, which then counts as its
time. Both take turns, a block of seconds each, until they are done; measuring is on neither clock.
With one thread the clock is the process's own, which other processes do not move.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from published import Published, mog40

from vardiu.data.densities import DENSITIES
from vardiu.methods import METHODS
from vardiu.metrics.density import log_density
from vardiu.metrics.mmd import mmd2_biased
from vardiu.presets import PRESETS
from vardiu.problems import DensityProblem
from vardiu.train import Trainer

LOG_DENSITY, MMD2, SAMPLES = -12.0, 5e-3, 10_000
UPDATES = 1_000  # of the library's default preset, shortened: its annealing ends there


class Side(NamedTuple):
    """One competitor: a step, how to sample, and how often to measure."""

    step: Callable[[], None]
    sample: Callable[[int, torch.Generator], Tensor]
    every: float


def library(seed: int) -> Side:
    preset = PRESETS["mog40"]
    problem = DensityProblem(preset.problem)
    torch.manual_seed(seed)
    settings = replace(preset.settings, steps=UPDATES)
    stage = next(METHODS["vardiu"].recipe(problem, settings, seed))
    trainer = Trainer(stage.objective, stage.optimisation, steps=UPDATES, seed=seed)

    def sample(n: int, generator: torch.Generator) -> Tensor:
        return trainer.average.module.sample(n, generator=generator)

    return Side(lambda: trainer.advance(stage.batches), sample, every=0.5)


def published(seed: int) -> Side:
    procedure = Published(mog40(), seed)
    return Side(procedure.step, procedure.sample, every=20.0)


def measure(side: Side, spec: object, truth: Tensor) -> dict[str, float]:
    x = side.sample(SAMPLES, torch.Generator().manual_seed(1))
    found = {"log_density": log_density(x, spec.log_prob).value}
    return {**found, "mmd2": mmd2_biased(x, truth).value}


def race(seed: int, cap: float, clock: Callable[[], float]) -> dict[str, list[dict[str, float]]]:
    """Returns the measurements of both sides; the last one of each is at its end."""
    spec = DENSITIES["mog40"]()
    truth = spec.sample(SAMPLES, torch.Generator().manual_seed(10_000))
    sides = {"library": library(seed), "published": published(seed)}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    spent, steps = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)
    open_ = list(sides)
    while open_:
        for name in list(open_):
            side, started = sides[name], clock()
            while clock() - started < side.every:
                side.step()
                steps[name] += 1
            spent[name] += clock() - started
            found = measure(side, spec, truth)
            reached = found["log_density"] >= LOG_DENSITY and found["mmd2"] <= MMD2
            row = {"seconds": spent[name], "updates": steps[name], **found, "reached": reached}
            rows[name].append(row)
            if reached or spent[name] >= cap:
                open_.remove(name)
                print(f"seed {seed}, {name}: {json.dumps(row)}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cap", type=float, default=1200.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/quality.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    found = {}
    for seed in args.seeds:
        found[seed] = race(seed, args.cap, clock)
        ends = {name: rows[-1] for name, rows in found[seed].items()}
        ratio = ends["published"]["seconds"] / ends["library"]["seconds"]
        sign = "" if ends["published"]["reached"] else "at least "
        print(f"seed {seed}: {sign}{ratio:.0f} times as long", flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
