r"""Runs that a command line names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .. import models
from ..errors import RunError
from ..problems.base import Problem
from ..runs.task import Task, problem_of
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from .options import task_of_run

__all__ = ["existing_run", "trained_student"]


def existing_run(path: str) -> RunFolder:
    r"""Returns the folder of a run.

    Raises:
        RunError: There is no run.
    """
    folder = RunFolder(path)
    folder.config()
    return folder


def trained_student(
    folder: RunFolder, chosen: argparse.Namespace, prompts: Sequence[str] | None = None
) -> tuple[Generator, Problem, Task]:
    r"""Returns the student of a finished run, with the conditions of its problem, that, and the
    task.

    Arguments:
        folder: The run's folder.
        chosen: A command line that has the options of `add_code_options`.
        prompts: Texts to take in place of those of the training.

    Raises:
        RunError: The run is not finished, or is that of a teacher.
    """
    task = task_of_run(folder, chosen)
    if folder.result() is None:
        raise RunError(
            f"{folder.path} is not finished: run `vardiu distill --config "
            f"{folder.file('config.yaml')} --out {folder.path}` to go on with it"
        )
    student = models.load(folder.file("student"))
    if not isinstance(student, Generator):
        raise RunError(f"{folder.path} holds a {type(student).__name__}, not a generator")
    problem = problem_of(task)
    if prompts:
        problem.set_prompts(prompts)
    return problem.with_prompts(student), problem, task
