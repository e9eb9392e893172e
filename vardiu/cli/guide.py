r"""`vardiu guide`: what a guide is worth, at which strength, and beside more calls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import __version__
from ..denoisers.base import Denoiser, place_of
from ..errors import ConfigError, RunError, shown
from ..metrics.metric import Metric, title_of
from ..problems.base import Problem, hash_of
from ..reports.html import write_tables
from ..reports.strengths import series_of, strength_curves
from ..reports.tables import value_with_error
from ..runs.progress import counted
from ..runs.task import PROBLEMS
from ..samplers.guided import LEVELS, RENOISE, denoised_by
from ..settings.ranges import RANGES, Range
from ..storage.bounded import read_json, read_text
from ..storage.files import append_line, write_text_atomic
from ..students.base import Generator, rows_at_once
from .console import console, print_rows
from .folders import asked, run_or_published, trained_student
from .guiding import SETTINGS, guide_teacher, guided_by, steps_in
from .options import add_student_options, chosen_names
from .parser import Parser
from .sample import add_calls_option, of_calls

STRENGTHS = "0.05,0.1,0.2,0.3,0.5"


# In the folder of a sweep beside what it is of: its points one a line, and what is made of them.
POINTS, RESULT = "points.jsonl", "guide.json"


# Beside the headline of a problem, where there are such.
BESIDE = ("agreement", "residual")


class Point(NamedTuple):
    r"""A student to measure.

    Arguments:
        calls: The calls of the student itself a sample.
        strength: The strength of its guide; none for no guide.
        noise: The noise that the guide is shown.
        level: The level that it is asked at.
    """

    calls: int
    strength: float | None = None
    noise: str = ""
    level: str = ""


class Sweep(NamedTuple):
    r"""What is measured with.

    Arguments:
        student: The student, without a guide.
        teacher: The guide's teacher.
        source: What the command line named it.
        steps: The guided steps; none for all.
        problem: The student's problem.
        num: The number of samples of a point.
        seed: The seed of the latents, the same for all points.
    """

    student: Generator
    teacher: Denoiser
    source: str
    steps: tuple[int, ...] | None
    problem: Problem
    num: int
    seed: int


def guide(arguments: list[str]) -> None:
    r"""Measures a student under a guide of several strengths, and without at more calls."""
    chosen = _parser().parse_args(arguments)
    strengths = strengths_in(chosen.strengths)
    noises = chosen_names(chosen.noises, RENOISE, "--noises")
    levels = chosen_names(chosen.levels, LEVELS, "--levels")
    for option, value, allowed in (
        ("--num", chosen.num, Range(100, 1_000_000_000)),
        ("--seed", chosen.seed, RANGES["seed"]),
        ("--calls", chosen.calls, RANGES["calls"]),
    ):
        refusal = None if value is None else allowed.refusal(value)
        if refusal is not None:
            raise ConfigError(f"{option} must {refusal}, got {value:,}")
    folder = run_or_published(chosen.run)
    student, problem, task = trained_student(folder, chosen)
    student = asked(student, chosen.calls, chosen.guidance)
    teacher = guide_teacher(chosen.guide, chosen.run, student, problem)
    num = problem.scores.samples if chosen.num is None else chosen.num
    steps = steps_in(chosen.guide_steps)
    sweep = Sweep(student, teacher, chosen.guide, steps, problem, num, chosen.seed)
    kinds = [(noise, level) for level in levels for noise in noises]
    # Whatever is refused is refused before the first point.
    evaluations = 0
    for noise, level in kinds:
        for strength in strengths:
            made = guided_by(student, teacher, chosen.guide, strength, steps, noise, level)
            evaluations = made.student.calls - student.calls
    points = [*_plain(student, evaluations)]
    points += [Point(student.calls, s, *kind) for kind in kinds for s in strengths]
    of = of_calls(chosen.calls, chosen.guidance)
    out = Path(chosen.out or folder.file(f"guide{of}-{num}-seed{chosen.seed}"))
    rows = _measured(sweep, points, out, arguments)
    _shown(rows, told_apart(rows, [*PROBLEMS[type(task.problem)].headline, *BESIDE]), out)


def _parser() -> Parser:
    parser = Parser(prog="guide")
    parser.add_argument("run")
    parser.add_argument(
        "--guide",
        default="teacher",
        metavar="TEACHER",
        help="the guide: teacher (the run's own, the default), or a folder, a hub id, an EDM "
        "pickle or FILE.py:NAME",
    )
    parser.add_argument(
        "--guide-steps",
        metavar="I,J,...",
        help="the calls after which it corrects, from 0, or all; 0 by default",
    )
    parser.add_argument(
        "--strengths",
        default=STRENGTHS,
        metavar="X,Y,...",
        help=f"the strengths, each above 0 and at most 1; {STRENGTHS} by default",
    )
    parser.add_argument(
        "--noises", default=RENOISE[0], help=f"the noise that the guide is shown: {_or(RENOISE)}"
    )
    parser.add_argument(
        "--levels", default=LEVELS[0], help=f"the level that it is asked at: {_or(LEVELS)}"
    )
    parser.add_argument("--num", type=int, help="samples of a point; the preset's own by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents of all points")
    parser.add_argument("--out", help="the folder to write; RUN/guide-NUM-seedSEED by default")
    add_calls_option(parser)
    add_student_options(parser)
    return parser


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names)} or both, with a comma; {names[0]} by default"


def strengths_in(text: str) -> list[float]:
    r"""Returns the strengths that an option lists, in order.

    Raises:
        ConfigError: They are no numbers above 0 and at most 1, or one is there twice.
    """
    try:
        found = sorted(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--strengths must be numbers with commas between, got {shown(text)}"
        ) from error
    if not all(0 < strength <= 1 for strength in found):
        raise ConfigError(
            f"--strengths must be above 0 and at most 1, got {shown(text)}: strength 0 is the "
            "student without a guide, which is measured anyway"
        )
    if len(set(found)) < len(found):
        raise ConfigError(f"--strengths names a strength twice: {shown(text)}")
    return found


def _plain(student: Generator, evaluations: int) -> Iterator[Point]:
    r"""Yields the student without a guide: at its own calls, at as many as the guided one makes in
    all, and at one more; where it knows no other number, at its own alone."""
    yield Point(student.calls)
    for calls in (student.calls + evaluations, student.calls + evaluations + 1):
        try:
            student.with_calls(calls)
        except ValueError:
            return
        yield Point(calls)


# ---------------------------------------------------------------- measuring


def _measured(
    sweep: Sweep, points: Sequence[Point], out: Path, arguments: Sequence[str]
) -> list[dict[str, Any]]:
    r"""Returns the rows of all points: those of a sweep that was stopped, and what is left.

    Raises:
        RunError: The folder holds something else, or another sweep.
    """
    settings = {
        "student": hash_of(sweep.student),
        "guide": {"teacher": sweep.source, "hash": hash_of(sweep.teacher)},
        "steps": "all" if sweep.steps is None else list(sweep.steps),
        "points": [list(point) for point in points],
        "num": sweep.num,
        "seed": sweep.seed,
    }
    rows = _begun(out, settings, ["vardiu", "guide", *arguments])
    done = {_key(row) for row in rows}
    left = [point for point in points if point not in done]
    if left:
        _source(sweep, left[0])[0](min(16, sweep.num), torch.Generator().manual_seed(0))  # warm
    with counted(console, "points", len(points), "point") as tell:
        for i, point in enumerate(left):
            row = _measure(sweep, point)
            append_line(out / POINTS, json.dumps(row))
            rows.append(row)
            tell(len(points) - len(left) + i + 1)
    order = {point: i for i, point in enumerate(points)}
    return sorted(rows, key=lambda row: order[_key(row)])


def _key(row: Mapping[str, Any]) -> Point:
    return Point(row["student_calls"], row["strength"], row["noise"], row["level"])


def _begun(out: Path, settings: dict[str, Any], words: Sequence[str]) -> list[dict[str, Any]]:
    r"""Makes the folder of a sweep, or finds that it is this one's; returns its points so far."""
    path, log = out / SETTINGS, out / POINTS
    if not path.is_file():
        if out.exists() and any(out.iterdir()):
            raise RunError(f"{shown(out)} holds something else: give another folder with --out")
        out.mkdir(parents=True, exist_ok=True)
        row = {"command": list(words), "version": __version__, **settings}
        write_text_atomic(path, json.dumps(row, indent=2) + "\n")
        return []
    found = read_json(path)
    for name, value in json.loads(json.dumps(settings)).items():
        if found.get(name) != value:
            raise RunError(
                f"{shown(out)} holds another sweep: {name} is another one; give another folder "
                "with --out, or move this one away"
            )
    lines = read_text(log).splitlines() if log.is_file() else []
    rows = []
    for i, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if i + 1 < len(lines):
                raise RunError(f"{shown(log)} is damaged in line {i + 1}") from error
            # A point that was cut off while it was written is measured again.
            write_text_atomic(log, "".join(f"{kept}\n" for kept in lines[:i]))
    return rows


def _measure(sweep: Sweep, point: Point) -> dict[str, Any]:
    r"""Returns the row of a point: calls, seconds and metrics."""
    source, calls = _source(sweep, point)
    began = time.perf_counter()
    x, cond = source(sweep.num, torch.Generator().manual_seed(sweep.seed))
    seconds = time.perf_counter() - began
    metrics = sweep.problem.scores.measure(lambda n, random: (x, cond), sweep.num, sweep.seed)
    metrics.append(residual(sweep, x, cond))
    return {
        "strength": point.strength,
        "noise": point.noise,
        "level": point.level,
        "calls": calls,
        "student_calls": point.calls,
        "guide_calls": calls - point.calls,
        "seconds": seconds,
        "metrics": [metric.row() for metric in metrics],
    }


def _source(sweep: Sweep, point: Point) -> tuple[Any, int]:
    r"""Returns the source of a point's samples, and its calls a sample."""
    student = sweep.student
    if point.calls != student.calls:  # the one that was shipped may have levels of its own
        student = student.with_calls(point.calls)
    if point.strength is not None:
        kind = (point.strength, sweep.steps, point.noise, point.level)
        student = guided_by(student, sweep.teacher, sweep.source, *kind).student
    return sweep.problem.student_source(student, measured=True), student.calls


@torch.no_grad()
def residual(sweep: Sweep, x: Tensor, cond: Mapping[str, Tensor]) -> Metric:
    r"""Returns how far the teacher moves samples that are noised, in mean squares a coordinate.

    .. math:: \frac{1}{d} \, \mathbb{E} \, \| x - D_\psi(x + s \varepsilon, s) \|^2

    at the data's own standard deviation :math:`s`: what the guide descends. The noise is the same
    for all points.
    """
    teacher, device = sweep.teacher, place_of(sweep.student)
    spread = float(sweep.problem.space.sigma_data)
    level = min(max(spread, teacher.sigma_min), teacher.sigma_max)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(sweep.seed), dtype=x.dtype)
    errors = []
    for rows in torch.arange(len(x)).split(rows_at_once(x.shape[1:])):
        part, given = x[rows].to(device), {k: v[rows].to(device) for k, v in cond.items()}
        x_s = part + level * eps[rows].to(part)
        found = denoised_by(teacher, x_s, part.new_full((len(part),), level), given)
        errors.append((part - found).square().flatten(1).mean(1).double().cpu())
    values = torch.cat(errors)
    error = float(values.std() / len(values) ** 0.5)
    return Metric("residual", float(values.mean()), error, len(values), False, "of the guide")


# ---------------------------------------------------------------- showing


def told_apart(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    r"""Returns those of some metrics that were measured, and that are not the same everywhere."""
    values = [{metric["name"]: metric["value"] for metric in row["metrics"]} for row in rows]
    return [
        name for name in names if name in values[0] and len({found[name] for found in values}) > 1
    ]


def _shown(rows: Sequence[Mapping[str, Any]], names: Sequence[str], out: Path) -> None:
    r"""Writes the picture, the page and the numbers of a finished sweep, and prints the table."""
    picture = out / "guide.png"
    strength_curves(rows, names, picture)
    table = [_line(row, names) for row in rows]
    title = f"{rows[0]['student_calls']} calls and a guide; bars and ± are standard errors"
    page = write_tables(
        out / "guide.html",
        title="Guided sampling",
        tables=[(title, table)],
        pictures=[("Against strength", picture)],
    )
    write_text_atomic(out / RESULT, json.dumps({"points": list(rows)}, indent=2) + "\n")
    print_rows(title, table)
    if sum(row["strength"] is None for row in rows) == 1:
        console.print("this student knows no other number of calls to compare with")
    for name, path in (("picture", picture), ("page", page), ("numbers", out / RESULT)):
        console.print(f"{name}: {shown(path)}", highlight=False, markup=False, soft_wrap=True)


def _line(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    metrics = {metric["name"]: metric for metric in row["metrics"]}
    strength = "-" if row["strength"] is None else f"{row['strength']:g}"
    return {
        "series": series_of(row),
        "strength": strength,
        **{
            title_of(name): value_with_error(metrics[name]["value"], metrics[name]["error"])
            for name in names
        },
        "calls": f"{row['student_calls']} + {row['guide_calls']}",
        "seconds": f"{row['seconds']:.1f}",
    }


COMMANDS = {"guide": guide}
