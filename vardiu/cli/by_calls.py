r"""`vardiu evaluate RUN --calls 1,2,4`: quality against calls, of students and of teachers."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import __version__
from ..denoisers.base import Denoiser, place_of
from ..denoisers.levels import karras_grid
from ..errors import ConfigError, amount, shown
from ..metrics import Metric
from ..metrics.sets import marked_trained
from ..problems.base import Problem, hash_of
from ..problems.sampled_teachers import Source
from ..reports.by_calls import Measured, by_calls
from ..reports.tables import show_table, value_with_error
from ..runs.events import Listener
from ..runs.inputs import other_data, refuse_other_inputs
from ..runs.listeners import told_progress
from ..runs.measuring import announced_calls, kept_samples, trained_features
from ..runs.task import Task
from ..samplers.ode import DDIM
from ..settings.ranges import RANGES
from ..storage.artefacts import Artefacts
from ..storage.bounded import read_json
from ..storage.files import refuse_unwritable, write_text_atomic
from ..storage.run_folder import RunFolder, is_metric
from ..students.base import Generator, rows_at_once
from .console import console
from .folders import (
    asked,
    is_measured,
    reference_of,
    refuse_foreign_files,
    trained_student,
    trained_teacher,
    write_measured,
)
from .sample import of_calls

__all__ = ["calls_in", "evaluate_by_calls", "evaluate_teacher_by_calls", "evaluation_of"]
__all__ += ["kept_while_measured"]


# Numbers of calls that one command measures at most.
MOST = 16


STUDENT, DDIM_STEPS, HEUN_STEPS = "student", "teacher, DDIM", "teacher, Heun"


def calls_in(text: str | None) -> list[int]:
    r"""Returns the numbers of calls of an option, in increasing order; none where there is none.

    Raises:
        ConfigError: They are no numbers of calls.
    """
    if text is None:
        return []
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError as error:
        raise ConfigError(
            f"--calls must be whole numbers, such as 1,2,4, got {shown(text)}"
        ) from error
    for value in found:
        refusal = RANGES["calls"].refusal(value)
        if refusal is not None:
            raise ConfigError(f"--calls must {refusal}, got {value:,}")
    if len(found) > MOST:
        raise ConfigError(f"--calls must be at most {MOST} numbers, got {len(found)}")
    return found


def evaluate_by_calls(
    folder: RunFolder,
    chosen: argparse.Namespace,
    calls: Sequence[int],
    words: Sequence[str],
) -> None:
    r"""Measures a run's students of several numbers of calls, and the teacher at the same; writes
    a table of them and a figure.

    Arguments:
        folder: The run.
        chosen: The command line.
        calls: The numbers of calls.
        words: What was typed.

    Raises:
        ConfigError: The run has no student of one of the numbers, or it is to be guided.
    """
    if getattr(chosen, "guide", None):
        raise ConfigError("--guide: a guided student is measured with one number of --calls")
    students: dict[int, Generator] = {}
    for number in calls:  # whatever is refused is refused before anything is measured
        chosen.calls = number
        student, problem, task = trained_student(folder, chosen)
        students[number] = asked(student, number, chosen.guidance)
    other = other_data(folder, chosen.data)
    refuse_other_inputs(folder, problem, other)
    refuse_unwritable(folder.path)
    n = problem.scores.samples if chosen.num is None else chosen.num
    features = trained_features(task.chosen, problem)
    lines: list[Line] = []
    for number, student in students.items():
        own = {"how": student.words, "weights": hash_of(student)}
        source = problem.student_source(student, measured=True)
        lines.append(Line(STUDENT, number, source, student, own, features))
        if problem.teacher is not None:
            lines.append(Line(DDIM_STEPS, number, _ddim(problem, number), problem.teacher))
    reference = partial(reference_of, folder, problem, n, other_data=other is not None)
    of = of_calls(_dashed(calls), chosen.guidance)
    path = evaluation_of(folder, n, chosen.seed, of, other)
    title = f"{task.preset}: {task.chosen.title}"
    _measure(Sheet(problem, task, path, title, n, chosen.seed), lines, reference, words)


def evaluate_teacher_by_calls(
    folder: RunFolder,
    chosen: argparse.Namespace,
    calls: Sequence[int],
    words: Sequence[str],
) -> None:
    r"""Measures a teacher of this library with several numbers of calls, by Heun's method and by
    DDIM: how many steps are to solve a pair, or to teach the first student of a halving.

    Arguments and the files are those of `evaluate_by_calls`.

    Raises:
        ConfigError: Heun's method has no step count of so many calls.
    """
    for number in calls:
        if number % 2 == 0:
            raise ConfigError(
                f"--calls {number}: n steps of Heun's method are 2n - 1 calls, of a teacher; give "
                f"odd numbers, such as {number - 1} or {number + 1}"
            )
    problem, task = trained_teacher(folder, chosen)
    refuse_unwritable(folder.path)
    n = problem.scores.samples if chosen.num is None else chosen.num
    teacher, lines = problem.known_teacher, list[Line]()
    for number in calls:
        steps = (number + 1) // 2
        how = {"how": f"{steps} step{'s' * (steps > 1)} of Heun's method"}
        lines.append(
            Line(HEUN_STEPS, number, problem.teacher_source(steps, measured=True), teacher, how)
        )
        lines.append(Line(DDIM_STEPS, number, _ddim(problem, number), teacher))
    other = other_data(folder, chosen.data)
    path = evaluation_of(folder, n, chosen.seed, of_calls(_dashed(calls)), other)
    sheet = Sheet(problem, task, path, f"teacher: {task.preset}", n, chosen.seed)
    _measure(sheet, lines, lambda: ([], ""), words)


def _dashed(calls: Sequence[int]) -> str:
    return "-".join(map(str, calls))


def evaluation_of(
    folder: RunFolder, n: int, seed: int, of: str = "", data: str | None = None
) -> Path:
    r"""Returns the file of an evaluation of a run.

    Arguments:
        folder: The run.
        n: The number of samples.
        seed: The seed of the latents.
        of: What else tells it apart from others, see `of_calls`.
        data: The data that it is compared with in the place of the run's own, see
            `runs.inputs.other_data`: comparisons with several data lie beside each other.
    """
    return folder.file(f"evaluation-{n}-seed{seed}{of}{_of_data(data)}.json")


def _of_data(data: str | None) -> str:
    r"""Returns what the name of a file has of data: nothing of the run's own, the name of built-in
    ones, and of others their last name with a few digits that stand for the place."""
    if data is None:
        return ""
    place = Path(data)
    if not place.exists() and re.fullmatch(r"[\w.-]+", data):
        return f"-data-{data}"
    named = re.sub(r"[^\w.]+", "-", place.name)
    where = hashlib.sha256(os.fsencode(place.resolve() if place.exists() else data)).hexdigest()
    return f"-data-{named}-{where[:6]}"


def unfinished(path: Path) -> Path:
    r"""Returns the folder that an evaluation keeps what it has in, until its file is written."""
    return path.with_name(f"unfinished-{path.stem}")


@contextlib.contextmanager
def kept_while_measured(path: Path, problem: Problem, task: Task) -> Iterator[Listener]:
    r"""Keeps large samples of the teacher until the file of an evaluation is written, see
    `kept_samples`; gives what shows how far it is."""
    with told_progress(console) as tell:
        with kept_samples(unfinished(path), problem, task, tell, told=True):
            yield tell


class Sheet(NamedTuple):
    r"""What is measured by several numbers of calls, and where that is written."""

    problem: Problem
    task: Task
    path: Path
    title: str
    n: int
    seed: int


class Line(NamedTuple):
    r"""What is to be measured: samples of one kind, of so many calls each.

    Arguments:
        who: Who makes them: a line of the figure.
        calls: The number of calls a sample.
        source: Makes them.
        network: Is called for them.
        about: What the file says of them besides.
        features: The features that they were trained in; empty for none.
    """

    who: str
    calls: int
    source: Source
    network: Denoiser | Generator
    about: Mapping[str, Any] = {}
    features: str = ""


class Row(NamedTuple):
    r"""What one student, or the teacher, is worth in so many calls."""

    content: dict[str, Any]
    metrics: Sequence[Metric]

    def drawn(self, names: Sequence[str]) -> Measured:
        kept = [m for name in names for m in self.metrics if m.name == name]
        return Measured(self.content["who"], self.content["calls"], kept)


def _measure(
    sheet: Sheet,
    lines: Sequence[Line],
    reference: Callable[[], tuple[Sequence[Metric], str]],
    words: Sequence[str],
) -> None:
    r"""Measures lines, and what they are compared with; writes that and a figure of it into a run,
    and prints a table."""
    problem, path = sheet.problem, sheet.path
    refuse_foreign_files(path, is_measured, [".png"])
    hashes = problem.hashes()
    with kept_while_measured(path, problem, sheet.task) as tell:
        rows = [_measured(sheet, line, hashes, tell) for line in lines]
        beside, who = reference()
        content = {
            "hashes": hashes,
            "rows": [row.content for row in rows],
            "reference": {"name": who, "metrics": [metric.row() for metric in beside]},
        }
        write_measured(path, ["evaluate", *words], content)
    names = problem.headline[:3]
    measured = [row.drawn(names) for row in rows]
    known = {metric.name: metric for metric in beside}
    title = f"{sheet.title}, {sheet.n:,} samples"
    picture = by_calls(measured, known, who, path.with_suffix(".png"), title)
    show_table(console, "", [_line(row, names) for row in measured])
    told = f"written: {shown(path)}\npicture: {shown(picture)}"
    console.print(told, highlight=False, markup=False, soft_wrap=True)


def _measured(sheet: Sheet, line: Line, hashes: Mapping[str, str], tell: Listener) -> Row:
    r"""Measures a line's samples, and prints that as soon as it is done. What it is worth is kept;
    the same command takes it from there if it was broken off."""
    about = {"who": line.who, "calls": line.calls, **line.about}
    of = {"version": __version__, "n": sheet.n, "seed": sheet.seed, "features": line.features}
    place = unfinished(sheet.path)
    path = place / f"{Artefacts.address({**about, **of, **hashes}, 1)}.json"
    if path.is_file():
        content = read_json(path)
        if all(is_metric(row) for row in content.get("metrics", [None])):
            return Row(content, [Metric(**row) for row in content["metrics"]])
    calls = amount(line.calls, "call")
    with announced_calls(tell, f"measuring {line.who}, {calls}", line.network):
        metrics = sheet.problem.scores.measure(line.source, sheet.n, sheet.seed)
    metrics = marked_trained(metrics, line.features)
    console.print(f"measured: {line.who}, {calls}", highlight=False, markup=False)
    row = Row({**about, "metrics": [metric.row() for metric in metrics]}, metrics)
    place.mkdir(exist_ok=True, parents=True)
    write_text_atomic(path, json.dumps(row.content) + "\n")
    return row


def _line(row: Measured, names: Sequence[str]) -> dict[str, str]:
    known = {m.name: value_with_error(m.value, m.error) for m in row.metrics}
    return {"who": row.who, "calls": str(row.calls), **{n: known.get(n, "") for n in names}}


def _ddim(problem: Problem, calls: int) -> Source:
    r"""Returns the source that the teacher is in so many steps of DDIM, on EDM's grid."""
    teacher = problem.known_teacher
    device = problem.data.teacher.device or place_of(teacher)
    rows = rows_at_once(problem.space.shape, problem.part)
    sampler = DDIM(teacher.to(device), karras_grid(calls, teacher.sigma_min, teacher.sigma_max))

    def draw(n: int, random: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        asked = bool(teacher.conditions)
        cond = problem.data.conditions(n, random, measured=True) if asked else {}
        given = {name: value.to(device) for name, value in cond.items()}
        x = sampler.sample(
            n, generator=random, device=device, dtype=torch.float32, batch=rows, **given
        )
        return x.cpu(), cond

    return draw
