r"""`vardiu sample` and `vardiu evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..errors import ConfigError, shown
from ..metrics.sets import marked_trained, trained_warning
from ..problems.base import inputs_of
from ..runs.console import print_metrics, print_spaces
from ..runs.inputs import refuse_changed_inputs
from ..runs.measuring import trained_features
from ..settings.ranges import RANGES, Range
from ..storage.files import new_file, refuse_unwritable, whole_file, write_text_atomic
from .by_calls import calls_in, evaluate_by_calls
from .console import console
from .folders import asked, reference_of, run_or_published, stored_reference, trained_student
from .guiding import add_guide_options, guide_rows, guided, tag_of
from .options import add_student_options
from .parser import Parser

# Classes that a line names.
MOST = 8


NOT_COMPARED = (
    "not compared with the teacher: what the run keeps of it is of other images or of another "
    "number of samples, and the teacher is not there: name it with --teacher"
)


def sample(arguments: list[str]) -> None:
    r"""Draws samples; writes an array and a picture."""
    parser = _sample_parser()
    chosen = parser.parse_args(arguments)
    _refuse_out_of_range(chosen.num, chosen.seed, 1, chosen.calls)
    folder = run_or_published(chosen.run)
    if chosen.out:
        path = Path(chosen.out)
        if path.suffix != ".npz":
            raise ConfigError(f"--out must end in .npz, got {shown(path)}")
        for suffix in (".npz", ".png", *([".json"] if chosen.guide else [])):
            new_file(path.with_suffix(suffix))
    student, problem, _ = trained_student(folder, chosen, chosen.prompt)
    student = asked(student, chosen.calls, chosen.guidance)
    guide = guided(student, chosen, problem)
    if chosen.label:
        problem.data.choose_classes(chosen.label)
    numbers, names = problem.data.chosen or (), problem.data.names
    if not chosen.out:
        of = "".join(f"-label{number}" for number in numbers)
        of = of_calls(chosen.calls, chosen.guidance) + tag_of(guide) + of
        path = folder.file(f"samples-{chosen.num}-seed{chosen.seed}{of}.npz")
    picture = path.with_suffix(".png")
    refuse_unwritable(path.parent)
    random = torch.Generator().manual_seed(chosen.seed)
    sampled = student if guide is None else guide.student
    x, cond = problem.student_source(sampled)(chosen.num, random)
    arrays = {
        "x": problem.space.images(x).numpy(),
        **{name: value.numpy() for name, value in cond.items()},
    }
    if chosen.guidance is not None:
        arrays["guidance"] = np.array(chosen.guidance)
    if "label" in arrays and names:
        arrays["names"] = np.array(names)
    with whole_file(path) as partial:
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]  # no array is its flag
    told = f"samples: {shown(path)}\npicture: {shown(picture)}"
    of = ""
    if numbers:
        of = f" of {in_words(numbers, names)}"
        told += f"\nclasses: {in_words(numbers, names, numbered=True)}"
    if guide is not None:
        content = {"num": chosen.num, "seed": chosen.seed, **guide_rows(guide)}
        told += f"\n{_written(path, ['sample', *arguments], content)}\n{guide.told()}"
    problem.scores.plot_samples(x, picture, of)
    console.print(told, highlight=False, markup=False, soft_wrap=True)


def _sample_parser() -> Parser:
    parser = Parser(prog="sample")
    parser.add_argument("run")
    parser.add_argument("--num", type=int, default=64, help="number of samples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents")
    parser.add_argument(
        "--out", help="the .npz file to write; a new one beside the run by default"
    )
    parser.add_argument("--prompt", action="append", help="a text; may be given several times")
    parser.add_argument(
        "--label",
        metavar="CLASS",
        action="append",
        help="a class, by its name or number; may be given several times; all of them in turn by "
        "default",
    )
    add_calls_option(parser)
    add_guide_options(parser)
    add_student_options(parser)
    return parser


def _written(path: Path, words: Sequence[str], content: Mapping[str, Any]) -> str:
    r"""Writes what a file of samples is of beside it; returns the line that names it."""
    beside = path.with_suffix(".json")
    row = {"command": ["vardiu", *words], "version": __version__, **content}
    write_text_atomic(beside, json.dumps(row, indent=2) + "\n")
    return f"written: {shown(beside)}"


def in_words(numbers: Sequence[int], names: Sequence[str], *, numbered: bool = False) -> str:
    r"""Returns classes as one line shows them: by their names where they have some.

    Arguments:
        numbers: Their numbers, in turn.
        names: The names of all classes.
        numbered: Whether the numbers are shown beside the names.
    """
    once = dict.fromkeys(numbers)
    words = [
        f"{shown(names[i])}{f' (number {i})' if numbered else ''}" if names else f"class {i}"
        for i in once
    ]
    return ", ".join([*words[:MOST], *(["..."] if len(words) > MOST else [])])


def evaluate(arguments: list[str]) -> None:
    r"""Measures a student; writes the numbers beside it."""
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
    _refuse_out_of_range(number, chosen.seed, 100, None)
    folder = run_or_published(chosen.run)
    if len(calls) > 1:
        return evaluate_by_calls(folder, chosen, calls, arguments)
    chosen.calls = calls[0] if calls else None
    student, problem, task = trained_student(folder, chosen)
    student = asked(student, chosen.calls, chosen.guidance)
    guide = guided(student, chosen, problem)
    if folder.exists:  # a published student was begun with nothing
        refuse_changed_inputs(folder, inputs_of(problem))
    refuse_unwritable(folder.path)
    features = trained_features(task.chosen, problem)
    n = problem.scores.samples if chosen.num is None else chosen.num
    source = problem.student_source(student if guide is None else guide.student)
    metrics = marked_trained(problem.scores.measure(source, n, chosen.seed), features)
    reference, who = reference_of(folder, problem, n, other_data=chosen.data is not None)
    print_metrics(console, metrics, reference, who)
    if not reference and stored_reference(folder)[0]:
        console.print(NOT_COMPARED, highlight=False, markup=False, soft_wrap=True)
    spaces = marked_trained(problem.scores.measure_spaces(source, n, chosen.seed), features)
    print_spaces(console, spaces)
    of = of_calls(chosen.calls, chosen.guidance) + tag_of(guide)
    path = folder.file(f"evaluation-{n}-seed{chosen.seed}{of}.json")
    content = {
        "command": ["vardiu", "evaluate", *arguments],
        "version": __version__,
        "metrics": [metric.row() for metric in metrics],
        "reference": {"name": who, "metrics": [metric.row() for metric in reference]},
        "spaces": [metric.row() for metric in spaces],
        **guide_rows(guide),
    }
    if guide is not None:
        console.print(guide.told(), highlight=False, markup=False, soft_wrap=True)
    if features:
        words = f"{task.chosen.trained_on} in {features}"
        content["trained_on"] = words
        console.print(trained_warning(words), highlight=False, markup=False, soft_wrap=True)
    write_text_atomic(path, json.dumps(content, indent=2) + "\n")
    console.print(f"written: {shown(path)}", highlight=False, markup=False, soft_wrap=True)


def add_calls_option(parser: Parser, several: bool = False) -> None:
    parser.add_argument(
        "--calls",
        type=str if several else int,
        metavar="N,M,..." if several else "N",
        help="calls of the network a sample; of a student that knows more than one number of them"
        + ("; several for a figure of quality against calls, beside the teacher" * several),
    )
    parser.add_argument(
        "--guidance",
        type=float,
        metavar="SCALE",
        help="the scale of guidance, of a student whose network is told it (--method lcm); 1 for "
        "none",
    )


def of_calls(calls: int | None, guidance: float | None = None) -> str:
    r"""Returns what the name of a file has of the calls and the scale that are asked for."""
    told = "" if guidance is None else f"-guidance{guidance:g}"
    return ("" if calls is None else f"-calls{calls}") + told


def _refuse_out_of_range(num: int, seed: int, least: int, calls: int | None) -> None:
    for option, value, allowed in (
        ("--num", num, Range(least, 1_000_000_000)),
        ("--seed", seed, RANGES["seed"]),
        ("--calls", calls, RANGES["calls"]),
    ):
        refusal = None if value is None else allowed.refusal(value)
        if refusal is not None:
            raise ConfigError(f"{option} must {refusal}, got {value:,}")


COMMANDS = {"sample": sample, "evaluate": evaluate}
