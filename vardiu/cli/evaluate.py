r"""`vardiu evaluate`: what a student, or a teacher of this library, is worth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from .. import models
from ..errors import ConfigError, shown
from ..metrics import Metric
from ..metrics.sets import marked_trained, trained_warning
from ..problems.sampled_teachers import TEACHER
from ..runs.console import print_metrics, print_spaces
from ..runs.inputs import other_data, refuse_other_inputs
from ..runs.measuring import announced_calls, trained_features
from ..storage.files import refuse_unwritable
from ..storage.run_folder import RunFolder
from .by_calls import (
    calls_in,
    evaluate_by_calls,
    evaluate_teacher_by_calls,
    evaluation_of,
    kept_while_measured,
)
from .console import console
from .folders import (
    asked,
    is_measured,
    reference_of,
    refuse_foreign_files,
    run_or_published,
    stored_reference,
    trained_student,
    trained_teacher,
    write_measured,
)
from .guiding import add_guide_options, guide_rows, guided, tag_of
from .options import add_student_options
from .parser import Parser
from .sample import add_calls_option, of_calls, refuse_out_of_range

NOT_COMPARED = (
    "not compared with the teacher: what the run keeps of it is of other images or of another "
    "number of samples, and the teacher is not there: name it with --teacher"
)


def evaluate(arguments: list[str]) -> None:
    r"""Measures the student or the teacher of a run; writes the numbers beside it."""
    parser = Parser(prog="evaluate")
    parser.add_argument("run")
    parser.add_argument("--num", type=int, help="number of samples; the preset's own by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents")
    parser.add_argument("--data", help="where the images to compare with are now")
    add_calls_option(parser, several=True)
    add_guide_options(parser)
    add_student_options(parser)
    chosen = parser.parse_args(arguments)
    calls = calls_in(chosen.calls)
    number = 100 if chosen.num is None else chosen.num
    refuse_out_of_range(number, chosen.seed, 100, None)
    folder = run_or_published(chosen.run)
    if folder.exists and folder.config().get("command") == "teach":
        refuse_students_options(folder, chosen)
        if calls:
            evaluate_teacher_by_calls(folder, chosen, calls, arguments)
        else:
            evaluate_teacher(folder, chosen, arguments)
    elif len(calls) > 1:
        evaluate_by_calls(folder, chosen, calls, arguments)
    else:
        chosen.calls = calls[0] if calls else None
        evaluate_student(folder, chosen, arguments)


def evaluate_student(folder: RunFolder, chosen: argparse.Namespace, words: Sequence[str]) -> None:
    r"""Measures a run's student, beside what it is compared with.

    Arguments:
        folder: The run.
        chosen: The command line.
        words: What was typed.
    """
    student, problem, task = trained_student(folder, chosen)
    student = asked(student, chosen.calls, chosen.guidance)
    guide = guided(student, chosen, problem)
    other = other_data(folder, chosen.data)
    refuse_other_inputs(folder, problem, other)
    refuse_unwritable(folder.path)
    features = trained_features(task.chosen, problem)
    n = problem.scores.samples if chosen.num is None else chosen.num
    sampled = student if guide is None else guide.student
    source = problem.student_source(sampled, measured=True)
    of = of_calls(chosen.calls, chosen.guidance) + tag_of(guide)
    path = evaluation_of(folder, n, chosen.seed, of, other)
    refuse_foreign_files(path, is_measured)
    with kept_while_measured(path, problem, task) as tell:
        with announced_calls(tell, "measuring the student", sampled):
            metrics = marked_trained(problem.scores.measure(source, n, chosen.seed), features)
        reference, who = reference_of(folder, problem, n, other_data=other is not None)
        spaces = marked_trained(problem.scores.measure_spaces(source, n, chosen.seed), features)
        content: dict[str, Any] = {
            "metrics": rows_of(metrics),
            "reference": {"name": who, "metrics": rows_of(reference)},
            "spaces": rows_of(spaces),
            **guide_rows(guide),
        }
        if features:
            content["trained_on"] = f"{task.chosen.trained_on} in {features}"
        write_measured(path, ["evaluate", *words], content)
    print_metrics(console, metrics, reference, who)
    if not reference and stored_reference(folder)[0]:
        say(NOT_COMPARED)
    print_spaces(console, spaces)
    if guide is not None:
        say(guide.told())
    if features:
        say(trained_warning(content["trained_on"]))
    say(f"written: {shown(path)}")


def evaluate_teacher(folder: RunFolder, chosen: argparse.Namespace, words: Sequence[str]) -> None:
    r"""Measures a teacher that this library trained, with the calls that students of it are
    compared with. They take these numbers where theirs are of as many samples, and seed 0.

    Arguments:
        folder: The run of `vardiu teach`.
        chosen: The command line.
        words: What was typed.
    """
    problem, task = trained_teacher(folder, chosen)
    refuse_unwritable(folder.path)
    n = problem.scores.samples if chosen.num is None else chosen.num
    source = problem.teacher_source(measured=True)
    path = evaluation_of(folder, n, chosen.seed, data=other_data(folder, chosen.data))
    refuse_foreign_files(path, is_measured)
    with kept_while_measured(path, problem, task):
        metrics = problem.scores.measure(source, n, chosen.seed)
        spaces = problem.scores.measure_spaces(source, n, chosen.seed)
        content = {
            "of": TEACHER,
            "weights": models.weights_of(folder.file("teacher")),
            "metrics": rows_of(metrics),
            "spaces": rows_of(spaces),
        }
        write_measured(path, ["evaluate", *words], content)
    print_metrics(console, metrics, [], "", "teacher")
    print_spaces(console, spaces, "teacher")
    say(f"written: {shown(path)}")


def refuse_students_options(folder: RunFolder, chosen: argparse.Namespace) -> None:
    r"""Raises a `ConfigError` if a teacher is to be measured with an option of students."""
    idle = ("guidance", "guide", "network", "teacher")
    for name in (name for name in idle if getattr(chosen, name, None)):
        raise ConfigError(
            f"{shown(folder.path)} holds a teacher, which is measured as it is: --{name} is an "
            "option of students, leave it out"
        )


def rows_of(metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    r"""Returns metrics as JSON has them."""
    return [metric.row() for metric in metrics]


def say(text: str) -> None:
    r"""Prints a line."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


COMMANDS = {"evaluate": evaluate}
