r"""Runs that a command line names."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import __version__, models
from ..data.sources import records
from ..errors import ConfigError, RunError, shown
from ..metrics import Metric
from ..problems.base import Problem
from ..problems.image_teachers import ImageTeacher
from ..problems.kept import KeptTeacher, prompts_in
from ..runs.execute import device_of
from ..runs.task import Task, problem_of, task_from_preset, untaught_problem
from ..settings.fields import DensitySettings, ImageSettings, VectorSettings
from ..storage.bounded import read_json
from ..storage.code import CODE_ERRORS, is_source, load_code
from ..storage.files import write_text_atomic
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..students.steered import guided_by
from ..teachers import few_steps, saved
from ..teachers.few_steps import student_of
from .options import code_in, task_of_run

__all__ = [
    "asked",
    "existing_run",
    "is_measured",
    "reference_of",
    "refuse_foreign_files",
    "run_or_published",
    "shipped_student",
    "stored_reference",
    "trained_student",
    "trained_teacher",
    "write_measured",
]


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
    r"""Returns the student of a finished run on the device that is asked for, with the conditions
    of its problem, that, and the task.

    Arguments:
        folder: The run's folder.
        chosen: A command line that has the options of `add_student_options`.
        prompts: Texts to take in place of those of the training.

    Raises:
        RunError: The run is not finished, or is that of a teacher.
        ConfigError: The student's network is own code that the command line does not name, or
            something of the teacher is needed that is not there.
    """
    if few_steps.matches(chosen.run):
        student, problem, task = published_student(chosen, prompts)
    else:
        student, problem, task = shipped_student(folder, chosen)
        if prompts:
            problem.set_prompts(prompts)
    device = device_of(chosen.device, task.run.economy.tf32)
    problem.compute_on(device)
    return problem.with_prompts(student).to(device), problem, task


def trained_teacher(folder: RunFolder, chosen: argparse.Namespace) -> tuple[Problem, Task]:
    r"""Returns the problem of a finished run of `vardiu teach` with its teacher, on the device
    that is asked for, and the task.

    Arguments and errors are those of `trained_student`.
    """
    device_of(chosen.device)  # one that is not here is refused before anything is read
    task = task_of_run(folder, chosen)
    device = device_of(chosen.device, task.run.economy.tf32)
    _refuse_unfinished(folder, "teach")
    task = dataclasses.replace(task, problem=_found_again(folder, task.problem, chosen))
    problem = untaught_problem(task)
    problem.teacher = saved.load(str(folder.file("teacher"))).to(device)
    problem.compute_on(device)
    return problem, task


def _refuse_unfinished(folder: RunFolder, command: str) -> None:
    r"""Raises a `RunError` if a run of a command has not come to its end."""
    if folder.result() is None:
        raise RunError(
            f"{folder.path} is not finished: run `vardiu {command} --config "
            f"{folder.file('config.yaml')} --out {folder.path}` to go on with it"
        )


def run_or_published(path: str) -> RunFolder:
    r"""Returns the folder of a run; of a published student, a folder of diffusers, one in `runs`
    to write to, of its name.

    Raises:
        RunError: There is neither.
    """
    if few_steps.matches(path):
        return RunFolder(Path("runs") / Path(path).resolve().name)
    return existing_run(path)


def published_student(
    chosen: argparse.Namespace, prompts: Sequence[str] | None
) -> tuple[Generator, Problem, Task]:
    r"""Returns a published student, its problem, and the task of latent consistency on it.

    Raises:
        ConfigError: The folder cannot be read, or takes texts and none are given.
    """
    if few_steps.takes_text(chosen.run) and not prompts:
        raise ConfigError(f"{shown(chosen.run)} takes texts: give --prompt, with vardiu sample")
    changes: dict[str, Any] = {"teacher": chosen.run, "data": getattr(chosen, "data", None)}
    task = task_from_preset("distill", "images", "lcm")
    with tempfile.TemporaryDirectory() as folder:
        if prompts:
            path = Path(folder) / "prompts.txt"
            path.write_text("\n".join(" ".join(prompt.split()) for prompt in prompts))
            changes["prompts"] = str(path)
        settings = dataclasses.replace(task.problem, **changes)
        task = dataclasses.replace(task, problem=settings)
        problem = problem_of(task)
    teacher = problem.data.teacher
    assert isinstance(teacher, ImageTeacher) and teacher.inner is not None
    return student_of(teacher.inner), problem, task


def shipped_student(
    folder: RunFolder, chosen: argparse.Namespace
) -> tuple[Generator, Problem, Task]:
    r"""Returns the student of a finished run as it was shipped, its problem, and the task.

    Nothing of the teacher is read, and no code executed that the command line does not name.

    Arguments and errors are those of `trained_student`.
    """
    device_of(chosen.device)  # one that is not here is refused before anything is read
    own = code_in(["--teacher", chosen.teacher or ""])
    task = task_of_run(folder, chosen, own)
    _refuse_unfinished(folder, "distill")
    codes = [*own.values(), *([] if chosen.network is None else [load_code(chosen.network)])]
    place = folder.student_of(getattr(chosen, "calls", None))
    student = models.load(place, codes, accept_changed=chosen.accept_changed_code)
    if not isinstance(student, Generator):
        raise RunError(f"{folder.path} holds a {type(student).__name__}, not a generator")
    _refuse_unusable(student, place)
    kept = KeptTeacher.read(models.about_of(place), str(place / "model.json"))
    kept = dataclasses.replace(kept, is_named=chosen.teacher is not None)
    task = dataclasses.replace(task, problem=_found_again(folder, task.problem, chosen))
    return student, problem_of(task, kept), task


def _refuse_unusable(student: Generator, place: Path) -> None:
    r"""Raises a `ConfigError` if a student of a folder makes no sample: what describes it may be
    well-formed, and its parts not fit each other."""
    if not set(student.conditions) <= {"label"}:
        return  # conditions of another kind are the problem's to make
    cond = {name: torch.zeros(1, dtype=torch.long) for name in student.conditions}
    try:
        with torch.no_grad():
            x = student(student.tried_on(1, torch.Generator().manual_seed(0)), **cond)
        good = tuple(x.shape[1:]) == tuple(student.shape) and bool(x.isfinite().all())
        why = f"a sample has shape {tuple(x.shape[1:])}, or is not finite"
    except CODE_ERRORS as error:
        good, why = False, f"{type(error).__name__}: {shown(str(error))}"
    if not good:
        raise ConfigError(
            f"{shown(place / 'model.json')} describes a student that makes no sample ({why}): "
            "take a copy that is whole"
        )


def _found_again(folder: RunFolder, settings: Any, chosen: argparse.Namespace) -> Any:  # noqa: ANN401
    r"""Returns a problem's settings with what the command line names, and the run's own prompts.

    Raises:
        ConfigError: The problem has no such setting, or there are no such images.
    """
    changes: dict[str, Any] = {}
    for name in ("teacher", "data"):
        value = getattr(chosen, name, None)
        if value is not None:
            if not isinstance(settings, ImageSettings | VectorSettings):
                raise ConfigError(f"--{name}: this student needs none; leave the option out")
            changes[name] = value
    if isinstance(settings, ImageSettings) and "data" in changes:
        records(changes["data"])  # what cannot be read is refused before anything is measured
    if chosen.source is not None and not is_source(chosen.source):
        if not isinstance(settings, DensitySettings) or settings.source is None:
            raise ConfigError("--source: this student is of no table of points; leave it out")
        changes["source"] = chosen.source
    if isinstance(settings, ImageSettings) and settings.prompts is not None:
        prompts = prompts_in(folder, settings.prompts)
        changes |= {"prompts": str(prompts)} if prompts.is_file() else {}
    return dataclasses.replace(settings, **changes)


def asked(student: Generator, calls: int | None, guidance: float | None = None) -> Generator:
    r"""Returns a student of so many calls, guided so much; as it is where that is not asked for.

    Raises:
        ConfigError: It knows no such number, or no such scale.
    """
    try:
        student = student if calls is None else student.with_calls(calls)
    except ValueError as error:
        raise ConfigError(f"--calls: {error}") from error
    try:
        return student if guidance is None else guided_by(student, guidance)
    except ValueError as error:
        raise ConfigError(f"--guidance: {error}") from error


def write_measured(path: Path, words: Sequence[str], content: Mapping[str, Any]) -> None:
    r"""Writes what a command measured or drew, with what was typed and the version.

    Arguments:
        path: The file.
        words: What was typed after `vardiu`.
        content: What there is to be kept.
    """
    row = {"command": ["vardiu", *words], "version": __version__, **content}
    write_text_atomic(path, json.dumps(row, indent=2) + "\n")


def is_measured(path: Path) -> bool:
    r"""Whether a file is one that `write_measured` wrote."""
    try:
        row = read_json(path)
    except ConfigError:
        return False
    command = row.get("command")
    return isinstance(command, list) and command[:1] == ["vardiu"] and "version" in row


def refuse_foreign_files(
    path: Path, is_own: Callable[[Path], bool], suffixes: Sequence[str] = (), cure: str = ""
) -> None:
    r"""Raises a `ConfigError` if a file that a command names itself is there and is not its own:
    what the same command wrote before is written anew. A link is replaced, and none is followed.

    Arguments:
        path: The file.
        is_own: Whether a file is one that the command wrote.
        suffixes: Those of files beside it, which are taken to be as it is.
        cure: What helps beside moving the file away.
    """
    known = path.is_file() and not path.is_symlink() and is_own(path)
    for file in (path, *(path.with_suffix(suffix) for suffix in suffixes)):
        if os.path.lexists(file) and not file.is_symlink() and not (known and file.is_file()):
            raise ConfigError(
                f"{shown(file)} was not written by this command, and is not written over: move it "
                f"away{cure}"
            )


def stored_reference(folder: RunFolder) -> tuple[list[Metric], str]:
    r"""Returns what a run's student was compared with at its end, and who that is."""
    result = folder.result() or {}
    reference = result.get("reference", {})
    return [Metric(**row) for row in reference.get("metrics", ())], reference.get("name", "")


def reference_of(
    folder: RunFolder, problem: Problem, n: int, *, other_data: bool
) -> tuple[list[Metric], str]:
    r"""Returns what a student is compared with, and who that is: as it was measured at the run's
    end if that was of as many samples and of the same data, else measured now; nothing if that
    needs a teacher that is not there.

    Arguments:
        folder: The run.
        problem: Its problem.
        n: The number of samples that the student is measured with.
        other_data: Whether the data are named anew.
    """
    stored, who = stored_reference(folder)
    headline = problem.scores.judged.metric
    if not other_data and all(m.n == n for m in stored if m.name == headline):
        return stored, who
    return problem.scores.teacher_metrics(n) if problem.data.teacher.is_there else ([], "")
