"""What the instruments cost: their part of the processor time of a whole run.

    python benchmarks/instruments.py mog40 mog40-gaussian mog40-diff-instruct
    python benchmarks/instruments.py digits-framed --teacher-run runs/teach-digits

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

from vardiu.methods import METHODS
from vardiu.monitoring.measures import gradient_snr, measure_convergence
from vardiu.problems.base import Problem
from vardiu.runs.measuring import evaluation_due, gradient_draws
from vardiu.runs.task import RunSettings, problem_of, task_from_preset
from vardiu.training.objective import Objective
from vardiu.training.stage import Context
from vardiu.training.trainer import Trainer


def seconds(work: Callable[[], object]) -> float:
    """Returns the processor time of some work."""
    started = time.process_time()
    work()
    return time.process_time() - started


def parts(preset: str, teacher_run: str | None, rounds: int, steps: int) -> dict[str, float]:
    """Returns the processor time of a step, and of a whole run's steps and instruments, in s."""
    task = task_from_preset("distill", preset)
    problem = problem_of(
        dataclasses.replace(
            task, problem=dataclasses.replace(task.problem, teacher_run=teacher_run)
        )
    )
    torch.manual_seed(0)
    settings = task.settings
    if getattr(settings, "regression_weight", 0.0):  # the last stage alone
        pairs = dataclasses.replace(settings.pairs, pairs=0)
        settings = dataclasses.replace(settings, regression_weight=0.0, pairs=pairs)
    stage = next(METHODS[task.method].recipe(problem, settings, Context()))
    trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
    rows = []
    for _ in range(rounds + 1):
        row = {"step": seconds(lambda: [trainer.advance(stage.batches) for _ in range(steps)])}
        rows.append({"step": row["step"] / steps} | once(problem, trainer))
    median = {name: statistics.median(row[name] for row in rows[1:]) for name in rows[0]}
    count = counts(stage.steps)
    return median | {f"all {name}": median[name] * count[name] for name in median}


def once(problem: Problem, trainer: Trainer) -> dict[str, float]:
    """Returns the processor time of each instrument, once; of the gradients, of one."""
    source = problem.student_source(trainer.average.module)
    drawn = source(problem.scores.quick, torch.Generator().manual_seed(0))
    objective, batch = trainer.objective, trainer.batch
    arguments = (problem, objective, drawn, batch, trainer.step)
    return {
        "gradients": seconds(lambda: gradient_snr(objective, batch, trainer.step, 4)) / 4,
        "looks": seconds(lambda: measure_convergence(*arguments, draws=0)),
        "diagnostics": seconds(trainer.summary),
        "metrics": seconds(lambda: problem.scores.measure(source, problem.scores.quick)),
    }


def counts(steps: int) -> dict[str, int]:
    """Returns how often a stage of so many steps does each of them, with a run's own settings."""
    run = RunSettings()
    every = max(1, steps // run.reports)
    told = [s for s in range(1, steps + 1) if s % every == 0 or s == steps]
    due = [s for s in told if evaluation_due(s, steps, run)]
    n = Objective.diagnostics_every
    dear = [s for s in told if s // n > (s - every) // n or s == steps]
    return {
        "step": steps,
        "gradients": sum(gradient_draws(s, steps, run.evaluations) for s in due),
        "looks": len(due),
        "diagnostics": len(dear),
        "metrics": len(due),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="+")
    parser.add_argument("--teacher-run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    chosen = parser.parse_args()
    names = ("gradients", "looks", "diagnostics", "metrics")
    print("| preset | a step |", " | ".join(names), "| all but the metrics |")
    print("|---" * (len(names) + 3) + "|")
    for preset in chosen.presets:
        row = parts(preset, chosen.teacher_run, chosen.rounds, chosen.steps)
        shares = [row[f"all {name}"] / row["all step"] for name in names]
        cells = [f"{1e3 * row['step']:.1f} ms", *(f"{s:.1%}" for s in [*shares, sum(shares[:3])])]
        print(f"| {preset} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
