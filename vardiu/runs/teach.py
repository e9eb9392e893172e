r"""From a task to a finished teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from .. import models
from ..reports.curves import curves
from ..reports.html import write_report
from ..storage.run_folder import RunFolder
from ..teachers.probe import probe
from ..training.trainer import Report, Trainer
from .execute import _where, begin, device_of, show, train
from .task import Task, problem_of

__all__ = ["teach"]


def teach(task: Task, out: Path, command: Sequence[str], console: Console) -> RunFolder:
    r"""Carries out a `teach` task; the teacher is written to `teacher/` in the run's folder."""
    folder = RunFolder(out)
    problem = problem_of(task)
    device_of(task.run.device)
    with folder.lock():
        if folder.open(task.to_mapping()) == "finished":
            console.print(f"{out} is finished; nothing to do.", highlight=False)
            return folder
        begin(task, folder, command, problem)
        torch.manual_seed(task.run.seed)

        def listen(stage: str, trainer: Trainer, told: Report) -> None:
            updates = trainer.updates["generator"]
            row = {"stage": stage, "step": told.step, "updates": updates, "calls": 0}
            folder.log({**row, "seconds": told.seconds, **told.values})

        recipe = task.chosen.recipe(problem, task.settings, task.run.seed)
        teacher, cost = train(recipe, None, folder, task.run, console, listen)
        problem.teacher = teacher.cpu()
        rows = probe(problem.teacher, *problem.reference(512))
        table = Table(box=None, header_style="bold")
        for name in ("sigma", "squared error", "a linear denoiser's"):
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(f"{row.sigma:.3g}", f"{row.error:.4g}", f"{row.linear:.4g}")
        console.print(table)
        console.print("measuring 35 steps of Heun's method ...")
        metrics = problem.measure(problem.from_teacher(), problem.samples)
        measured = [metric.row() for metric in metrics]
        about = {"metrics": measured, "cost": cost, "preset": task.preset}
        models.save(teacher, folder.file("teacher"), about)
        problem.picture(problem.from_teacher(), folder.file("samples.png"), "teacher, 69 calls")
        curves(folder.metrics(), folder.file("curves.png"))
        pictures = [
            ("Samples", folder.file("samples.png")),
            ("Training", folder.file("curves.png")),
        ]
        write_report(
            folder,
            title=f"teacher: {task.preset}",
            metrics=measured,
            reference=[],
            reference_name="",
            cost=cost,
            pictures=pictures,
        )
        folder.finish({"metrics": measured, "cost": cost})
        show(console, metrics, [], "-")
        _where(folder, console)
    return folder
