"""How much faster is one call than the teacher's 35 steps of Heun's method? A ratio, in one run.

    python benchmarks/sampling.py runs/digits [--batch 256] [--repeats 7]

The two are timed in turn, so that a noisy machine disturbs both; the median ratio is printed with
its range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from vardiu import models
from vardiu.runs.task import load_task, problem_of


def timed(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    task = load_task(chosen.run / "config.yaml")
    problem = problem_of(task)
    student = models.load(chosen.run / "student")
    random = torch.Generator().manual_seed(0)
    one, many = problem.student_source(student), problem.teacher_source(35)
    one(chosen.batch, random)
    rows = [
        (timed(lambda: one(chosen.batch, random)), timed(lambda: many(chosen.batch, random)))
        for _ in range(chosen.repeats)
    ]
    ratios = sorted(b / a for a, b in rows)
    a, b = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"batch {chosen.batch}, {torch.get_num_threads()} threads, {chosen.repeats} repeats")
    print(f"student {1e3 * a:.1f} ms, teacher {1e3 * b:.1f} ms a batch")
    print(f"ratio {statistics.median(ratios):.1f} (from {ratios[0]:.1f} to {ratios[-1]:.1f})")


if __name__ == "__main__":
    main()
