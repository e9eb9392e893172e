r"""How much faster is a step of ours than the published one, on the same networks and rows?

    python benchmarks/step.py [--precision bfloat16] [--compile] [--device cpu] [--repeats 9]

Both train the published networks (400 wide, four hidden layers) on 1,024 rows, each in a process
of its own, so that neither has the other's allocator and peak. The two take blocks of steps in
turn, one at work and one asleep, so that a noisy machine disturbs both. Printed are the median of
the blocks' ratios with its range, updates a second, and the ratio of peak memory above that of a
process that has only imported what it needs (on CUDA: of allocated memory). `--presets` times our
presets alone. The processor's time is the one to read where other work shares the core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from published import PROCEDURES

from vardiu.methods import METHODS
from vardiu.problems.densities import DensityProblem
from vardiu.runs.allocator import keep_freed_memory
from vardiu.runs.presets import PRESETS
from vardiu.training.stage import Context, Stage
from vardiu.training.trainer import Trainer


def stage_of(preset: str, precision: str | None, seed: int = 0, **changes: object) -> Stage:
    """The stage of a preset: what `vardiu distill` would train."""
    chosen = PRESETS[preset]
    row = chosen.problem if precision is None else replace(chosen.problem, precision=precision)
    torch.manual_seed(seed)
    recipe = METHODS[chosen.method].recipe
    return next(
        recipe(DensityProblem(row, seed), replace(chosen.settings, **changes), Context(seed))
    )


def ours(preset: str, precision: str | None, device: str, compiled: bool) -> Callable[[], None]:
    """A step of a preset. Compiled on CUDA, networks run as captured graphs."""
    stage = stage_of(preset, precision)
    trainer = Trainer(stage.objective.to(device), stage.optimisation, steps=stage.steps)
    if compiled:
        mode = "reduce-overhead" if device.startswith("cuda") else "default"
        for name in stage.objective.trained:
            for module in stage.objective.network(name).modules():
                if type(module).__name__ == "MLP":
                    module.compile(mode=mode)
    return lambda: trainer.advance(stage.batches)


def peak(device: str) -> int:
    """The peak of memory so far, in bytes: allocated on CUDA, resident of this process else."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def worker(chosen: argparse.Namespace) -> None:
    """Runs as many steps as each line of the input says, and tells the time of each block."""
    base = peak(chosen.device)
    if chosen.worker == "published":
        step = PROCEDURES[chosen.procedure](device=chosen.device).step
    else:
        keep_freed_memory()
        step = ours(chosen.worker, chosen.precision, chosen.device, chosen.compile)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        if chosen.device.startswith("cuda"):
            torch.cuda.synchronize()
        row = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps({**row, "peak": peak(chosen.device) - base}), flush=True)


class Worker:
    """A process that takes steps when told to."""

    def __init__(self, who: str, words: list[str]) -> None:
        command = [sys.executable, __file__, "--worker", who, *words]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __call__(self, steps: int) -> dict[str, float]:
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self.process.wait()}: see its message")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(names: list[str], words: list[str], repeats: int, steps: int) -> dict[str, list[dict]]:
    """Blocks of steps of each process in turn, after one block that warms up."""
    workers = {name: Worker(name, words) for name in names}
    rows: dict[str, list[dict]] = {name: [] for name in names}
    for repeat in range(repeats + 1):
        for name, run in workers.items():
            row = run(steps)
            if repeat:
                rows[name].append(row)
    for run in workers.values():
        run.close()
    return rows


def report(rows: dict[str, list[dict]], steps: int, first: str = "published") -> list[str]:
    """A line for each process, and its ratio to the first where that one ran."""
    lines = []
    for name, blocks in rows.items():
        cpu = statistics.median(block["cpu"] for block in blocks) / steps
        wall = statistics.median(block["wall"] for block in blocks) / steps
        megabytes = blocks[-1]["peak"] / 2**20
        lines.append(
            f"{name}: {1e3 * cpu:.2f} ms of processor a step ({1 / cpu:.1f} updates/s), "
            f"{1e3 * wall:.2f} ms of wall-clock, peak {megabytes:.0f} MiB"
        )
        if first in rows and name != first:
            for clock in ("cpu", "wall"):
                pairs = zip(rows[first], blocks, strict=True)
                ratios = sorted(a[clock] / b[clock] for a, b in pairs)
                low, middle, high = ratios[0], statistics.median(ratios), ratios[-1]
                lines.append(f"  {clock}: {middle:.2f} times as fast ({low:.2f} to {high:.2f})")
            lines.append(f"  memory: {blocks[-1]['peak'] / rows[first][-1]['peak']:.2f} times")
    return lines


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--procedure", choices=PROCEDURES, default="vardiu")
    parser.add_argument("--presets", nargs="+", help="time these alone")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=15, help="the steps of a block")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = parser.parse_args(words)
    if chosen.worker:
        return worker(chosen)
    common = ["--device", chosen.device, "--procedure", chosen.procedure]
    common += ["--precision", chosen.precision] if chosen.precision else []
    common += ["--compile"] if chosen.compile else []
    names = chosen.presets or ["published", "mog40-paper"]
    print(*report(compare(names, common, chosen.repeats, chosen.steps), chosen.steps), sep="\n")


if __name__ == "__main__":
    main()
