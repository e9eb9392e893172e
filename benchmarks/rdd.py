r"""What does each term of relational distillation add to progressive distillation, at one step?

    python benchmarks/rdd.py runs/teach-digits --out docs/results/rdd.json

Digits by class. From one student of eight steps, which is halved from 32 once, each arm halves to
one step, 8 to 4 to 2 to 1, with equal updates and equal draws of a seed: progressive distillation
alone, with each term of relations beside it, with all three, and all three alone as in the paper.
The classifier whose maps are compared is not the one that measures. Of the students of one step:
the Fréchet distance in the features of the classifier that measures and in those of random
filters, the latter as a ratio to real against real; precision and recall; and the squared error
to the eight steps that they were distilled from, of the same noise.

    python benchmarks/rdd.py runs/teach-digits --study features --updates 750 --seeds 1 \
        --out docs/results/rdd-features.json

compares weights and temperatures of the pooled features, which is the term that counts, and a
single stage from eight steps to one, with eight calls of the teacher a row.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from kept_rows import command_of, rows_before

from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.levels import karras_grid
from vardiu.functional.scores import truncated_snr
from vardiu.methods.progressive import ProgressiveDistillation
from vardiu.methods.rdd import IMAGES, RelationalDistillation
from vardiu.problems.digits import DigitsProblem
from vardiu.settings.fields import DigitsSettings, RelationSettings
from vardiu.storage.files import write_text_atomic
from vardiu.training.optimizers import Optimisation, cosine
from vardiu.training.trainer import Trainer

SIZES = {"queue": 8_192, "contrast": 512}
NONE = {"pixel_weight": 1.0, "feature_weight": 0.0, "pair_weight": 0.0, "memory_weight": 0.0}


class Arm(NamedTuple):
    """What is added to progressive distillation."""

    relations: RelationSettings | None = None
    leap: int = 2
    """The teacher's steps in one of the student's."""
    share: float = 1.0
    """The updates of a stage, in those of a halving."""


def features(weight: float, temperature: float = 0.9) -> Arm:
    row = {**NONE, "feature_weight": weight, "feature_temperature": temperature}
    return Arm(RelationSettings(**row, **SIZES))


STUDIES: dict[str, dict[str, Arm]] = {
    "terms": {
        "progressive": Arm(),
        "with features": features(1.0),
        "with pairs": Arm(RelationSettings(**{**NONE, "pair_weight": 1.0}, **SIZES)),
        "with memory": Arm(RelationSettings(**{**NONE, "memory_weight": 0.1}, **SIZES)),
        "with all three": Arm(RelationSettings(pixel_weight=1.0, **SIZES)),
        "all three alone": Arm(RelationSettings(**SIZES)),
    },
    "features": {
        "progressive": Arm(),
        "features, weight 1": features(1.0),
        "features, weight 4": features(4.0),
        "features, weight 4, temperature 1": features(4.0, 1.0),
        "features, weight 16": features(16.0),
        # A row of eight calls of the teacher costs about what two of two calls do.
        "progressive, 8 to 1 at once": Arm(leap=8, share=1.6),
    },
}


def halved(
    problem: DigitsProblem,
    teacher: Denoiser,
    grid: torch.Tensor,
    calls: int,
    arm: Arm,
    chosen: argparse.Namespace,
    seed: int,
) -> tuple[Denoiser, ProgressiveDistillation]:
    """Halves until so many steps are left."""
    now = len(grid) - 1
    while now > calls:
        options = {
            "stride": arm.leap,
            "weight": partial(truncated_snr, sigma_data=problem.space.sigma_data),
        }
        if arm.relations is not None:
            maps = problem.scores.feature_maps()
            options |= {"classifier": maps, "channels": 64, "relations": arm.relations}
        kind = ProgressiveDistillation if arm.relations is None else RelationalDistillation
        torch.manual_seed(seed)
        objective = kind(teacher, teacher.trainable_copy(), grid, **options)
        rates = dict.fromkeys(objective.trained, IMAGES.lr)
        row = Optimisation.adam(rates, decay=cosine, halflife=0.0, clip=1.0, warmup=20)
        steps = round(arm.share * chosen.updates)
        trainer = Trainer(objective, row, steps=steps, seed=seed)
        trainer.fit(problem.data.clean(chosen.batch, seed))
        teacher = trainer.average.module.eval()
        grid, now = grid[:: arm.leap], now // arm.leap
    return teacher, objective


def scores(problem: DigitsProblem, objective, denoiser: Denoiser, first, n: int) -> dict:
    student = objective.student_of(denoiser)
    source = problem.student_source(student, measured=True)
    found = {m.name: m.value for m in problem.scores.measure(source, n)}
    spaces = [m for m in problem.scores.measure_spaces(source, n) if m.name == "frechet_ratio"]
    found["ratio in random filters"] = spaces[1].value
    random = torch.Generator().manual_seed(5)
    cond = problem.data.conditions(1000, random)
    z = torch.randn(1000, *student.shape, generator=random)
    with torch.no_grad():
        error = (student(z, **cond) - first(z, **cond)).square().mean()
    found["squared error"] = float(error)
    return found


def means(rows: dict[str, dict[str, dict]]) -> dict[str, dict[str, float]]:
    """Over the seeds that are complete; how many they are, beside them."""
    return {
        arm: {"seeds": len(found)}
        | {
            k: statistics.fmean(row[k] for row in found.values())
            for k in next(iter(found.values()))
        }
        for arm, found in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", help="the folder that `vardiu teach digits` wrote")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--study", choices=STUDIES, default="terms")
    parser.add_argument("--arms", help="some of the study's, by semicolons (all)")
    parser.add_argument("--updates", type=int, default=250, help="of each halving")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="docs/results/rdd.json")
    chosen = parser.parse_args()
    study = STUDIES[chosen.study]
    arms = chosen.arms.split(";") if chosen.arms else list(study)
    if unknown := [arm for arm in arms if arm not in study]:
        parser.error(f"--arms has no {unknown[0]!r} in this study; it has {'; '.join(study)}")
    asked = ("study", "updates", "seeds", "batch", "samples", "out")
    command = command_of("python benchmarks/rdd.py runs/teach-digits", parser, asked)
    # Each row is kept when it is measured, so that the same command goes on where it was stopped.
    kept = {
        "torch": torch.__version__,
        "updates": chosen.updates,
        "batch": chosen.batch,
        "samples": chosen.samples,
    }
    out = Path(chosen.out)
    rows: dict[str, dict[str, dict]] = rows_before(out, kept, "runs")

    torch.set_num_threads(chosen.threads)
    problem = DigitsProblem(DigitsSettings(teacher_run=chosen.teacher))
    teacher = problem.known_teacher
    grid = karras_grid(32, teacher.sigma_min, teacher.sigma_max)
    first, objective = halved(problem, teacher, grid, 8, Arm(), chosen, 0)
    eight = objective.student_of(first).requires_grad_(False)

    def keep(arm: str, seed: int, row: dict) -> None:
        rows.setdefault(arm, {})[str(seed)] = row
        print(seed, arm, {k: round(v, 4) for k, v in row.items()}, flush=True)
        found = {"command": command, **kept, "means": means(rows), "runs": rows}
        write_text_atomic(out, json.dumps(found, indent=1) + "\n")

    if "eight steps" not in rows:
        keep("eight steps", 0, scores(problem, objective, first, eight, chosen.samples))
    for seed, arm in itertools.product(range(chosen.seeds), arms):
        if str(seed) not in rows.get(arm, {}):
            began = time.perf_counter()
            last, objective = halved(problem, first, grid[::4], 1, study[arm], chosen, seed)
            seconds = time.perf_counter() - began
            row = scores(problem, objective, last, eight, chosen.samples)
            keep(arm, seed, row | {"seconds": seconds})
    print(json.dumps(means(rows), indent=1))


if __name__ == "__main__":
    main()
