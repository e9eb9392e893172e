"""Peak memory and time of exact denoisers, up to a million components.

    python benchmarks/memory.py [--components 10000 1000000] [--batch 256 1024] [--dim 2 8]

Each row is a fresh process: its peak resident size, less that of the imports and of the components
themselves. If memory grew with batch times components, a million by 1,024 would take 4 GB a
temporary tensor in float32.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vardiu.denoisers.exact import EmpiricalDenoiser
from vardiu.functional.scores import score


def resident() -> int:
    """Returns the resident size of this process, in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def watch(function: Callable[[], object]) -> tuple[float, float]:
    """Returns the seconds of a call, and the megabytes it needed beyond what was there."""
    before, most, done = resident(), [resident()], threading.Event()

    def look() -> None:
        while not done.wait(0.001):
            most[0] = max(most[0], resident())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    started = time.process_time()
    function()
    seconds = time.process_time() - started
    done.set()
    thread.join()
    return seconds, (most[0] - before) / 2**20


def measure(components: int, batch: int, dim: int) -> str:
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    points = torch.randn(components, dim, generator=random)
    denoiser = EmpiricalDenoiser(points, sigma_min=0.01)
    x = torch.randn(batch, dim, generator=random)
    sigma = torch.full((batch,), 0.5)
    cells = []
    for function in (
        lambda: denoiser(x, sigma),
        lambda: score(denoiser, x, sigma),
        lambda: denoiser.log_prob(x, sigma),
    ):
        seconds, megabytes = watch(function)
        cells.append(f"{seconds:.1f} s, {megabytes:.0f} MB")
    return f"| {components:,} | {batch:,} | {dim} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--components", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--dim", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--one", action="store_true", help="measure here, in this process")
    args = parser.parse_args()
    if args.one:
        print(measure(args.components[0], args.batch[0], args.dim[0]))
        return
    print("| components | batch | dimensions | denoise | score | log-density |")
    print("|---|---|---|---|---|---|", flush=True)
    for n, batch, dim in itertools.product(args.components, args.batch, args.dim):
        words = ["--components", str(n), "--batch", str(batch), "--dim", str(dim), "--one"]
        subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
