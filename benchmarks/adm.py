r"""What does the adversarial start bring to ADM, and does DMD's loss fall while ADM trains?

    python benchmarks/adm.py --seed 0 --share 1 --out docs/results/adm.json

MoG-40, in one process and one thread: ADM without a start, the start alone (ADP), and DMDX, all
with the levels, rates and stride of the preset `mog40-dmdx`. ADM alone takes as many updates as
both stages of DMDX. `--share` is that of the preset's updates. Beside the file a picture of the
samples is written. DMD's loss is the median of blocks of steps: in two dimensions a row's divisor
may be small.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vardiu.problems.densities import DensityProblem
from vardiu.runs.execute import trainer_of
from vardiu.runs.stages import stages_of
from vardiu.runs.task import Task, problem_of, task_from_preset
from vardiu.settings.fields import PairSettings

BLOCKS = 20
SAMPLES = 10_000


def tasks(seed: int, share: float) -> dict[str, Task]:
    """The trainings, by name; the start alone is the first stage of DMDX."""
    task = task_from_preset("distill", "mog40-dmdx")
    row = task.settings
    pairs = dataclasses.replace(row.pairs, steps=max(1, round(share * row.pairs.steps)))
    steps, delay = max(1, round(share * row.steps)), round(share * row.delay)
    both = dataclasses.replace(row, steps=steps, delay=delay, pairs=pairs)
    alone = dataclasses.replace(both, steps=both.steps + pairs.steps, pairs=PairSettings())
    run = dataclasses.replace(task.run, seed=seed)
    return {
        name: dataclasses.replace(task, settings=settings, run=run)
        for name, settings in (("ADM", alone), ("DMDX", both))
    }


def blocks(values: list[float]) -> list[float]:
    """The medians of equal parts of a series."""
    parts = torch.tensor(values).chunk(min(BLOCKS, len(values)))
    return [part.median().item() for part in parts]


def measured(problem: DensityProblem, student: Any, seconds: float) -> tuple[dict, Tensor]:
    """The metrics of a student, with their errors, and samples for the picture."""
    source = problem.student_source(student)
    found = problem.scores.measure(source, SAMPLES, seed=1)
    row = {m.name: {"value": m.value, "error": m.error} for m in found}
    x, _ = source(4_000, torch.Generator().manual_seed(2))
    return {"metrics": row, "seconds": seconds}, x


def trained(name: str, task: Task) -> tuple[dict[str, dict], list[tuple[str, Tensor]]]:
    """Trains all stages of a task, and measures the student after each."""
    torch.manual_seed(task.run.seed)
    problem = problem_of(task)
    recipe = stages_of(task, problem)
    started, stage = time.perf_counter(), recipe.first()
    rows, samples = {}, []
    while stage is not None:
        trainer = trainer_of(stage, task.run, torch.device("cpu"))
        log: dict[str, list[float]] = {}
        while trainer.step < trainer.steps:
            trainer.advance(stage.batches)
            for key in ("head/hinge", "head/gap", "head/dmd"):
                if key in trainer.latest:
                    log.setdefault(key, []).append(float(trainer.latest[key]))
        title = "ADP" if stage.name == "adp" else name
        spent = time.perf_counter() - started
        row, x = measured(problem, trainer.average.module, spent)
        rows[title] = {
            **row,
            "steps": trainer.steps,
            "log": {k: blocks(v) for k, v in log.items()},
        }
        samples.append((title, x))
        print(title, row["metrics"]["modes"], row["metrics"]["mmd2"], flush=True)
        stage = recipe.after(trainer)
    return rows, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/adm.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"torch": torch.__version__, "seed": options.seed, "rows": {}}
    samples: list[tuple[str, Tensor]] = []
    found = tasks(options.seed, options.share)
    for name, task in found.items():
        rows, drawn = trained(name, task)
        result["rows"] |= rows
        samples += drawn
    problem = problem_of(found["DMDX"])
    target = problem.scores.target.truth(4_000, torch.Generator().manual_seed(3))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    problem.scores.plot_side_by_side(
        [("target", target), *samples], options.out.with_suffix(".png")
    )


if __name__ == "__main__":
    main()
