"""Did a change of the code change what is trained? The SHA-256 of students after a few steps.

    OMP_NUM_THREADS=1 python benchmarks/weights.py before.json     # before the change: records
    OMP_NUM_THREADS=1 python benchmarks/weights.py before.json     # after it: prints what differs
    python benchmarks/weights.py before.json --of presets          # ten steps of every preset

The methods' examples, which the contract's tests run on too, take three steps of each stage.
Presets of images have small random teachers, and each of their stages is cut to ten steps. The
numbers are those of one processor and one version of torch: they are compared on the machine that
wrote them, and none are kept here.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from vardiu import models
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.nn import MLP, UNet
from vardiu.runs.presets import PRESETS, TEACHERS
from vardiu.runs.task import Task, problem_of, task_from_preset
from vardiu.training.stage import Context, Trained
from vardiu.training.trainer import Trainer

TESTS = Path(__file__).parent.parent / "tests"
STEPS, FEW = 10, 3


def write_teachers(folder: Path) -> None:
    """Random teachers where presets look for theirs."""
    torch.manual_seed(0)
    levels = {"sigma_min": 0.02, "sigma_max": 20.0}
    teachers = {
        "digits": PreconditionedDenoiser(
            UNet(1, widths=(16, 64), depth=3, classes=10),
            shape=(1, 8, 8),
            sigma_data=0.6,
            mean=-0.4,
            conditions=("label",),
            **levels,
        ),
        "patches": PreconditionedDenoiser(
            UNet(3, widths=(24, 64), depth=3), shape=(3, 16, 16), sigma_data=0.5, **levels
        ),
        "mog40": PreconditionedDenoiser(
            MLP((2,), (2,), width=64, depth=2, noisy=True),
            shape=(2,),
            sigma_data=23.0,
            sigma_min=0.1,
            sigma_max=40.0,
        ),
    }
    for name, teacher in teachers.items():
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        models.save(teacher, folder / "runs" / f"teach-{name}" / "teacher")


def shortened(task: Task) -> Task:
    """The task in ten steps, with few pairs, a small frame and a teacher on board."""
    settings, problem = task.settings, task.problem
    changes = {"steps": STEPS, "delay": min(settings.delay, 2)}
    if getattr(settings, "pairs", None) is not None and settings.pairs.pairs:
        changes["pairs"] = dataclasses.replace(settings.pairs, pairs=256, steps=STEPS)
    if hasattr(settings, "frame"):
        changes["frame"] = dataclasses.replace(settings.frame, samples=2000, solver_steps=3)
    if task.preset.startswith("images"):
        problem = dataclasses.replace(problem, teacher="runs/teach-patches")
    if hasattr(problem, "reference"):
        problem = dataclasses.replace(problem, reference=200)
    settings = dataclasses.replace(settings, **changes)
    return dataclasses.replace(task, settings=settings, problem=problem)


def digest(module: nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        found.update(name.encode() + content.numpy().tobytes())
    return found.hexdigest()[:32]


def stages(task: Task) -> list[dict[str, str]]:
    """The hashes of a task's stages: of the student, and of its average."""
    problem = problem_of(task)
    torch.manual_seed(0)
    recipe = task.chosen.recipe(problem, task.settings, Context())
    stage, found = next(recipe), []
    while True:
        trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
        for _ in range(min(STEPS, stage.steps)):
            trainer.advance(stage.batches)
        average = trainer.average.module
        row = {"student": digest(trainer.objective.generator), "average": digest(average)}
        found.append({"stage": stage.name, **row})
        network = copy.deepcopy(average).requires_grad_(True).train()
        try:
            stage = recipe.send(Trained(network, trainer.objective))
        except StopIteration:
            return found


def of_presets() -> dict[str, list[dict[str, str]]]:
    """The hashes of all presets, by command and name."""
    here, rows = Path.cwd(), {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_teachers(Path(folder))
        for command, table in (("distill", PRESETS), ("teach", TEACHERS)):
            for name in table:
                if name.startswith("vectors"):  # their teacher is always the user's own
                    continue
                rows[f"{command} {name}"] = stages(shortened(task_from_preset(command, name)))
        os.chdir(here)
    return rows


def of_examples() -> dict[str, list[dict[str, str]]]:
    """The hashes of all networks of the methods' examples, by their names."""
    sys.path.insert(0, str(TESTS))
    from cases import EXAMPLES, stages_of

    rows = {}
    for name, (method, example) in EXAMPLES.items():
        rows[name] = []
        for stage in stages_of(method, example):
            torch.manual_seed(0)
            trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
            for _ in range(FEW):
                trainer.advance(stage.batches)
            row = {"stage": stage.name, "of": str(stage.of), "steps": str(stage.steps)}
            rows[name].append({**row, "weights": digest(trainer.objective)})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="written if it is not there, else compared with")
    parser.add_argument("--of", choices=("examples", "presets"), default="examples")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = of_presets() if chosen.of == "presets" else of_examples()
    if not chosen.file.exists():
        about = {"torch": torch.__version__, "of": chosen.of}
        chosen.file.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
        print(f"{len(rows)} {chosen.of} are recorded in {chosen.file}")
        return 0
    known = json.loads(chosen.file.read_text())["rows"]
    changed = [name for name in sorted({*rows, *known}) if rows.get(name) != known.get(name)]
    same = f"{len(rows)} {chosen.of} are as recorded, bit for bit"
    print("\n".join(f"differs: {name}" for name in changed) or same)
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
