r"""What each command of `vardiu.cli` does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import yaml

from ..methods import Code
from ..runs import distill as distilling
from ..runs import teach as teaching
from ..runs.presets import TEACHERS
from ..runs.task import Task, task_from_preset
from ..storage.run_folder import RunFolder
from .console import console
from .options import _resolve


def _carry_out(command: str, arguments: list[str], function: Callable) -> None:
    task, out, dry = _resolve(command, arguments)
    if dry:
        print(yaml.safe_dump(task.to_mapping(), sort_keys=False), end="")
        return
    if command == "distill":
        _teacher_first(task)
    if task.code is not None and task.code.executed != task.code.sha256:
        _record_change(RunFolder(out), task.code)
    typed = ["vardiu", command, *arguments]
    function(task, out, typed, console)


def _record_change(folder: RunFolder, code: Code) -> None:
    r"""Adds to `code-changes.jsonl` that a run goes on with a changed file."""
    with folder.file("code-changes.jsonl").open("a") as file:
        file.write(json.dumps({"source": code.source, "sha256": code.executed}) + "\n")


def _teacher_first(task: Task) -> None:
    r"""Trains the teacher of a preset on board if it is needed, was not named and is not there."""
    problem, name = task.problem, task.problem.name
    # A density may have an exact teacher, images one from elsewhere.
    needs = getattr(problem, "teacher", None) in (None, "learned")
    if not needs or getattr(problem, "teacher_run", None) is not None or name not in TEACHERS:
        return
    folder = RunFolder(f"runs/teach-{name}")
    if folder.result() is None:
        console.print(f"there is no teacher in {folder.path} yet: vardiu teach {name}")
        teacher = task_from_preset("teach", name)
        run = dataclasses.replace(teacher.run, threads=task.run.threads, device=task.run.device)
        teacher = dataclasses.replace(teacher, run=run)
        teaching.teach(teacher, folder.path, ["vardiu", "teach", name], console)


def teach(arguments: list[str]) -> None:
    r"""Trains a teacher."""
    _carry_out("teach", arguments, teaching.teach)


def distill(arguments: list[str]) -> None:
    r"""Distils a teacher."""
    _carry_out("distill", arguments, distilling.distill)


COMMANDS = {"teach": teach, "distill": distill}
