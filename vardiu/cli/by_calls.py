r"""`vardiu evaluate RUN --calls 1,2,4`: quality against calls, beside the teacher's own."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import __version__
from ..denoisers.base import place_of
from ..denoisers.levels import karras_grid
from ..errors import ConfigError, shown
from ..metrics import Metric
from ..metrics.sets import marked_trained
from ..problems.base import Problem, hash_of, inputs_of
from ..problems.sampled_teachers import SOLVER_CALLS, Source
from ..reports.by_calls import Measured, by_calls
from ..reports.tables import show_table, value_with_error
from ..runs.events import Listener
from ..runs.inputs import refuse_changed_inputs
from ..runs.listeners import told_progress
from ..runs.measuring import announced_calls, trained_features
from ..samplers.ode import DDIM
from ..settings.ranges import RANGES
from ..storage.files import refuse_unwritable, write_text_atomic
from ..storage.run_folder import RunFolder
from ..students.base import Generator, rows_at_once
from .console import console
from .folders import asked, reference_of, trained_student

__all__ = ["calls_in", "evaluate_by_calls"]


# Numbers of calls that one command measures at most.
MOST = 16


STUDENT, TEACHER = "student", "teacher, DDIM"


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
    if folder.exists:  # a published student was begun with nothing
        refuse_changed_inputs(folder, inputs_of(problem))
    refuse_unwritable(folder.path)
    n = problem.scores.samples if chosen.num is None else chosen.num
    features = trained_features(task.chosen, problem)
    with told_progress(console) as tell:
        rows = list(_measured(problem, students, n, chosen.seed, features, tell))
        with announced_calls(tell, "measuring the teacher", problem.teacher, SOLVER_CALLS * n):
            other = chosen.data is not None
            reference, who = reference_of(folder, problem, n, other_data=other)
    names = problem.headline[:3]
    known = {metric.name: metric for metric in reference}
    scale = "" if chosen.guidance is None else f"-guidance{chosen.guidance:g}"
    of = f"calls{'-'.join(map(str, calls))}{scale}"
    path = folder.file(f"evaluation-{n}-seed{chosen.seed}-{of}.json")
    content = {
        "command": ["vardiu", "evaluate", *words],
        "version": __version__,
        "hashes": problem.hashes(),
        "rows": [row.content for row in rows],
        "reference": {"name": who, "metrics": [metric.row() for metric in reference]},
    }
    write_text_atomic(path, json.dumps(content, indent=2) + "\n")
    title = f"{task.preset}: {task.chosen.title}, {n:,} samples"
    measured = [row.drawn(names) for row in rows]
    picture = by_calls(measured, known, who, path.with_suffix(".png"), title)
    show_table(console, "", [_line(row, names) for row in measured])
    told = f"written: {shown(path)}\npicture: {shown(picture)}"
    console.print(told, highlight=False, markup=False, soft_wrap=True)


class Row(NamedTuple):
    r"""What one student, or the teacher, is worth in so many calls."""

    content: dict[str, Any]
    metrics: Sequence[Metric]

    def drawn(self, names: Sequence[str]) -> Measured:
        kept = [m for name in names for m in self.metrics if m.name == name]
        return Measured(self.content["who"], self.content["calls"], kept)


def _measured(
    problem: Problem,
    students: Mapping[int, Generator],
    n: int,
    seed: int,
    features: str,
    tell: Listener,
) -> Iterator[Row]:
    for calls, student in students.items():
        own = {"how": student.words, "weights": hash_of(student)}
        with announced_calls(tell, "measuring the student", student):
            metrics = problem.scores.measure(problem.student_source(student), n, seed)
        yield _told({"who": STUDENT, "calls": calls, **own}, marked_trained(metrics, features))
        if problem.teacher is not None:
            with announced_calls(tell, "measuring DDIM", problem.teacher, calls * n):
                metrics = problem.scores.measure(_ddim(problem, calls), n, seed)
            yield _told({"who": TEACHER, "calls": calls}, metrics)


def _told(about: Mapping[str, Any], metrics: Sequence[Metric]) -> Row:
    r"""Prints one row as soon as it is known, and returns it."""
    calls = "1 call" if about["calls"] == 1 else f"{about['calls']} calls"
    console.print(f"measured: {about['who']}, {calls}", highlight=False, markup=False)
    return Row({**about, "metrics": [metric.row() for metric in metrics]}, metrics)


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
        cond = problem.data.conditions(n, random) if teacher.conditions else {}
        given = {name: value.to(device) for name, value in cond.items()}
        x = sampler.sample(
            n, generator=random, device=device, dtype=torch.float32, batch=rows, **given
        )
        return x.cpu(), cond

    return draw
