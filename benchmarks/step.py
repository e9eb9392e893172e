"""A training step of the library against the published procedure's: updates a second, and memory.

    python benchmarks/step.py [--precision bfloat16] [--threads 2] [--compile] [--device cuda]

Both train the published networks (400 wide, four hidden layers, Gaussian posterior) on 1,024 rows.
Blocks of steps alternate in one process, so that a noisy machine disturbs both; the median ratio
is printed with its range. The clock is the process's own where it has one thread. Peak memory is
that of a fresh process a side, less what the imports take.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from published import Published, mog40

from vardiu.methods import METHODS
from vardiu.presets import PRESETS
from vardiu.problems import DensityProblem
from vardiu.train import Trainer


def library(precision: str, device: str, compiled: bool, seed: int = 0) -> Callable[[], None]:
    """Returns one step of the library with the published networks and batch."""
    preset = PRESETS["mog40-paper"]
    problem = DensityProblem(replace(preset.problem, precision=precision))
    torch.manual_seed(seed)
    stage = next(METHODS["vardiu"].recipe(problem, preset.settings, seed))
    trainer = Trainer(stage.objective.to(device), stage.optimisation, steps=stage.steps, seed=seed)
    if compiled:
        stage.objective.generator.compile()
        stage.objective.posterior.encoder.compile()
    return lambda: trainer.advance(stage.batches)


def published(device: str, seed: int = 0) -> Callable[[], None]:
    return Published(mog40(device), seed, device=device).step


def clock(threads: int, device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if threads == 1 else time.perf_counter()


def compare(sides: dict[str, Callable[[], None]], args: argparse.Namespace) -> dict:
    """Times blocks of steps of both sides in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(args.repeats + 1):
        for name, step in sides.items():
            started = clock(args.threads, args.device)
            for _ in range(args.steps):
                step()
            if repeat:  # the first block warms up
                seconds[name].append((clock(args.threads, args.device) - started) / args.steps)
    pairs = zip(seconds["published"], seconds["library"], strict=True)
    ratios = sorted(theirs / ours for theirs, ours in pairs)
    return {
        "milliseconds": {name: 1e3 * statistics.median(v) for name, v in seconds.items()},
        "ratio": statistics.median(ratios),
        "range": [ratios[0], ratios[-1]],
    }


def peak(side: str, args: argparse.Namespace) -> float:
    """Returns the megabytes that a fresh process needs for some steps, above its imports."""
    words = [sys.executable, __file__, "--memory", side, "--precision", args.precision]
    words += ["--threads", str(args.threads), "--device", args.device]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
    return float(done.stdout.strip().splitlines()[-1])


def measure_peak(side: str, args: argparse.Namespace) -> None:
    if args.device != "cpu":
        step = side_of(side, args)
        for _ in range(20):
            step()
        print(torch.cuda.max_memory_allocated() / 2**20)
        return
    before, seen, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            seen[0] = max(seen[0], resident())

    threading.Thread(target=watch, daemon=True).start()
    step = side_of(side, args)
    for _ in range(60):
        step()
    done.set()
    print((seen[0] - before) / 2**20)


def resident() -> int:
    """Returns the resident size of this process, in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def side_of(name: str, args: argparse.Namespace) -> Callable[[], None]:
    if name == "published":
        return published(args.device)
    return library(args.precision, args.device, args.compile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--memory", choices=("published", "library"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        measure_peak(args.memory, args)
        return
    found = compare({name: side_of(name, args) for name in ("published", "library")}, args)
    found["megabytes"] = {side: peak(side, args) for side in ("published", "library")}
    found["memory"] = found["megabytes"]["library"] / found["megabytes"]["published"]
    found["setting"] = {k: getattr(args, k) for k in ("precision", "threads", "device", "compile")}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
