"""Ten steps of every preset: the SHA-256 of the student's weights, to see that nothing changed.

    OMP_NUM_THREADS=1 python benchmarks/preset_hashes.py            # prints what differs
    OMP_NUM_THREADS=1 python benchmarks/preset_hashes.py --write    # records

Presets of images have small random teachers; each stage is cut to ten steps. The
numbers are those of one processor and one version of torch: compare on the machine that wrote
them.
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

FILE = Path(__file__).parent.parent / "docs" / "results" / "preset-hashes.json"
STEPS = 10


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name}")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_teachers(Path(folder))
        rows = {}
        for command, table in (("distill", PRESETS), ("teach", TEACHERS)):
            for name in table:
                if name.startswith("vectors"):  # their teacher is always the user's own
                    continue
                rows[f"{command} {name}"] = stages(shortened(task_from_preset(command, name)))
        os.chdir(here)
    if chosen.write:
        about = {"torch": torch.__version__, "steps": STEPS}
        FILE.write_text(json.dumps({**about, "presets": rows}, indent=1) + "\n")
        return 0
    known = json.loads(FILE.read_text())["presets"]
    changed = [name for name in sorted({*rows, *known}) if rows.get(name) != known.get(name)]
    print("\n".join(f"differs: {name}" for name in changed) or "every preset is as recorded")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
