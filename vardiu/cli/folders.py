r"""Runs that a command line names."""

from __future__ import annotations

from collections.abc import Sequence

from .. import models
from ..errors import RunError
from ..problems.base import Problem
from ..runs.task import load_task, problem_of
from ..storage.run_folder import RunFolder
from ..students.base import Generator

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
    folder: RunFolder, prompts: Sequence[str] | None = None
) -> tuple[Generator, Problem]:
    r"""Returns the student of a finished run, with the conditions of its problem, and that.

    Arguments:
        folder: The run's folder.
        prompts: Texts to take in place of those of the training.

    Raises:
        RunError: The run is not finished, or is that of a teacher.
    """
    if folder.result() is None:
        raise RunError(
            f"{folder.path} is not finished: run `vardiu distill --config "
            f"{folder.file('config.yaml')} --out {folder.path}` to go on with it"
        )
    student = models.load(folder.file("student"))
    if not isinstance(student, Generator):
        raise RunError(f"{folder.path} holds a {type(student).__name__}, not a generator")
    problem = problem_of(load_task(folder.file("config.yaml")))
    if prompts:
        problem.set_prompts(prompts)
    return problem.with_prompts(student), problem
