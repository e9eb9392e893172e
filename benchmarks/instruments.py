"""What the instruments cost: their part of the processor time of a whole run.

    python benchmarks/instruments.py mog40 mog40-gaussian mog40-diff-instruct
    python benchmarks/instruments.py digits-vardiu --teacher-run runs/teach-digits

Steps and instruments take turns in one process; times are of the process, so that other work on
the machine does not count. The first round is left out: it warms caches.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch

from vardiu import pipeline
from vardiu.methods import METHODS
from vardiu.train import Trainer


def seconds(work: Callable[[], object]) -> float:
    """Returns the processor time of some work."""
    started = time.process_time()
    work()
    return time.process_time() - started


def parts(preset: str, teacher_run: str | None, rounds: int, steps: int) -> dict[str, float]:
    """Returns the processor time of a step, a look, a report and a measurement, in seconds."""
    task = pipeline.task_from_preset("distill", preset)
    problem = pipeline.problem_of(
        dataclasses.replace(
            task, problem=dataclasses.replace(task.problem, teacher_run=teacher_run)
        )
    )
    torch.manual_seed(0)
    settings = task.settings
    if getattr(settings, "anchor", 0.0):  # the last stage alone
        pairs = dataclasses.replace(settings.pairs, pairs=0)
        settings = dataclasses.replace(settings, anchor=0.0, pairs=pairs)
    stage = next(METHODS[task.method].recipe(problem, settings, 0))
    trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
    found: dict[str, list[float]] = {"step": [], "look": [], "report": [], "measure": []}

    def train() -> None:
        for _ in range(steps):
            trainer.advance(stage.batches)

    def measure() -> None:
        problem.measure(problem.from_generator(trainer.average.module), problem.QUICK)

    for i in range(rounds + 1):
        row = {
            "step": seconds(train) / steps,
            "look": seconds(lambda: pipeline._look(problem, trainer)),
            "report": seconds(trainer.summary),
            "measure": seconds(measure),
        }
        if i:
            for name, value in row.items():
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()} | {
        "steps": stage.steps
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="+")
    parser.add_argument("--teacher-run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    chosen = parser.parse_args()
    run = pipeline.RunSettings()
    print("| preset | a step | looks | reports | metrics | all |")
    print("|---|---|---|---|---|---|")
    for preset in chosen.presets:
        row = parts(preset, chosen.teacher_run, chosen.rounds, chosen.steps)
        whole = row["step"] * row["steps"]
        shares = [
            run.evaluations * row["look"] / whole,
            run.reports * row["report"] / whole,
            run.evaluations * row["measure"] / whole,
        ]
        cells = [f"{1e3 * row['step']:.1f} ms", *(f"{s:.1%}" for s in [*shares, sum(shares)])]
        print(f"| {preset} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
