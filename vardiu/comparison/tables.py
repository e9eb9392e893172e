r"""What a bake-off found: tables, pictures, one page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import models
from ..monitoring.verdicts import COLLAPSED, Verdict, best_first
from ..reports import comparisons
from ..reports.comparisons import Series, comparison, gradients, quality_charts
from ..reports.html import write_tables
from ..reports.tables import value_with_error
from ..runs.task import PROBLEMS, problem_of
from ..storage.files import write_text_atomic
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from .plan import BakeOff, Cell, Result, results

__all__ = ["markdown", "table", "write"]


# ---------------------------------------------------------------- tables


def interval(
    values: Sequence[float], form: str = ".4g", errors: Sequence[float | None] = ()
) -> str:
    r"""Returns the median and the range of some values; of one value its standard error.

    The range of five covers the median of their distribution with a probability of 15/16.
    """
    if not values:
        return "–"
    middle = f"{statistics.median(values):{form}}"
    if len(values) == 1:
        return value_with_error(values[0], errors[0]) if errors else middle
    return f"{middle} [{min(values):{form}}, {max(values):{form}}]"


def table(rows: Sequence[Result], metrics: Sequence[str]) -> list[dict[str, str]]:
    r"""Returns the rows of a table: median and range of each metric and of the cost.

    They are in the order of the first metric, which is to be low; an arm with a run that collapsed
    comes after all others.
    """
    lines = []
    for row in best_first(rows, worst_verdict, lambda row: middle_value(row, metrics[0])):
        line = {"arm": row.title, "verdict": row.verdict}
        line |= {n: interval(row.values(n), errors=row.errors(n)) for n in metrics}
        counts = sorted({run["samples"] for run in row.runs})
        line["samples"] = " to ".join(f"{n:,}" for n in dict.fromkeys(counts[:1] + counts[-1:]))
        line |= {
            "seconds": interval(row.cost("seconds"), ".0f"),
            "teacher rows": interval(row.cost("teacher_rows")[:1], ",.0f"),
            "updates": interval(row.cost("student_updates")[:1], ",.0f"),
            "runs": complete(row),
        }
        lines.append(line)
    return lines


def worst_verdict(row: Result) -> Verdict:
    r"""Returns the verdict on an arm: that it collapsed if any of its runs did."""
    names = [run["verdict"] for run in row.runs]
    return Verdict(COLLAPSED if COLLAPSED in names else row.verdict, "")


def middle_value(row: Result, metric: str) -> float:
    r"""Returns the median of a metric over an arm's runs; NaN without runs."""
    values = row.values(metric)
    known = bool(values) and all(math.isfinite(value) for value in values)
    return statistics.median(values) if known else math.nan


def complete(row: Result) -> str:
    r"""Returns how many runs of an arm are complete, and what the others lack."""
    if row.failed:
        return "failed: it diverged while it was timed"
    total = len(row.runs) + row.missing + row.idle
    lacking = [f"{row.missing} missing"] if row.missing else []
    lacking += [f"{row.idle} never updated: not ranked"] if row.idle else []
    return f"{len(row.runs)} of {total}" + (f" ({', '.join(lacking)})" if lacking else "")


def markdown(lines: Sequence[Mapping[str, str]]) -> str:
    r"""Returns a table in Markdown."""
    names = list(lines[0])
    body = ["| " + " | ".join(line[name] for name in names) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(names) + " |", "|---" * len(names) + "|", *body])


# ---------------------------------------------------------------- pictures and the page


def series_of(bake: BakeOff, rows: Sequence[Result]) -> list[Series]:
    r"""Returns the finished runs of all arms, those of one arm under one name."""
    methods = {name: arm.method for name, arm in bake.contest.arms.items()}
    return [
        Series(row.title, methods[row.arm], RunFolder(run["folder"]).metrics())
        for row in rows
        for run in row.runs
    ]


def pictures(
    bake: BakeOff, todo: Sequence[Cell], rows: Sequence[Result], group: str, names: Sequence[str]
) -> list[tuple[str, Path]]:
    r"""Draws quality against cost, and samples of the first seed."""
    cell, runs = todo[0], series_of(bake, rows)
    words, stem = bake.title(cell.budget, cell.teacher), group.replace("/", "-")
    quality = bake.out / f"quality-{stem}.png"
    comparison(runs, [f"metric/{name}" for name in names], quality)
    first = [(row.title, row.runs[0]) for row in rows if row.runs]
    problem = problem_of(cell.task)
    panels = []
    for title, run in first:
        student = models.load(Path(run["folder"]) / "student", [*cell.task.own.values()])
        assert isinstance(student, Generator)
        x, _ = problem.student_source(student)(4000, torch.Generator().manual_seed(0))
        panels.append((title, x))
    samples = problem.scores.plot_side_by_side(panels, bake.out / f"samples-{stem}.png")
    return [
        (f"{words}: quality against cost; median and range of the seeds", quality),
        (f"{words}: samples of seed {first[0][1]['seed']}", samples),
    ]


def study_pictures(bake: BakeOff, found: Mapping[str, Any]) -> list[tuple[str, Path]]:
    r"""Draws bias and deviation of the gradients, and the bounds' slack."""
    drawn = []
    for teacher, arms in found.items():
        titled = {bake.contest.arms[name].title: rows for name, rows in arms.items()}
        methods = {arm.title: arm.method for arm in bake.contest.arms.values()}
        path = gradients(titled, bake.out / f"gradients-{teacher}.png")
        drawn.append((f"{teacher} teacher: bias and deviation of the student's gradient", path))
        slacks = [
            (title, methods[title], rows[-1]["slack"])
            for title, rows in titled.items()
            if "slack" in rows[-1]
        ]
        if slacks:
            path = comparisons.slacks(slacks, bake.out / f"slack-{teacher}.png")
            drawn.append((f"{teacher} teacher: slack of each bound at the end of training", path))
    return drawn


def study_table(bake: BakeOff, arms: Mapping[str, Any]) -> list[dict[str, str]]:
    r"""Returns the rows of the table of gradients."""
    lines = []
    for name, rows in arms.items():
        line = {"arm": bake.contest.arms[name].title}
        for i, row in enumerate(rows, start=1):
            at = f"at {i}/{len(rows)}"
            line[f"bias {at}"] = f"{row['bias']:.3f} ± {row['bias_error']:.3f}"
            line[f"deviation {at}"] = f"{row['deviation']:.2f}"
            line[f"cosine {at}"] = f"{row['cosine']:.3f}"
        lines.append(line)
    return lines


def write(
    bake: BakeOff,
    todo: Sequence[Cell],
    found: Mapping[str, Any],
    failed: Mapping[str, Any] | None = None,
) -> tuple[Path, Path, list[tuple[str, list[dict[str, str]]]]]:
    r"""Writes `results.md` and `bakeoff.html`; returns both and the tables.

    Arguments:
        bake: What was asked for.
        todo: The runs.
        found: The study of the gradients.
        failed: Why arms failed while they were timed, by teacher and arm.
    """
    tables, drawn, charts = [], [], []
    for budget in bake.budgets:
        for teacher in bake.teachers:
            found_rows = results(bake, todo, budget, teacher, failed)
            rows = [r for r in found_rows if r.runs]
            if not rows:
                continue
            done = sum(len(row.runs) for row in found_rows)
            total = done + sum(row.missing + row.idle for row in found_rows)
            headline = PROBLEMS[type(todo[0].task.problem)].headline
            group = f"{bake.group(budget)}/{teacher}"
            words = bake.title(budget, teacher)
            title = f"{words}: {done} of {total} runs are complete"
            tables.append((title, table(found_rows, headline)))
            mine = [c for c in todo if (c.budget, c.teacher) == (budget, teacher)]
            drawn += pictures(bake, mine, rows, group, headline[:2])
            charts.append((words, quality_charts(series_of(bake, rows), headline[0])))
    for teacher, arms in found.items():
        tables.append((f"gradients, {teacher} teacher, seed 0", study_table(bake, arms)))
    drawn += study_pictures(bake, found)
    text = [
        f"# Bake-off: {bake.contest.about}\n",
        "Median of the seeds, and their range; of one seed its standard error.",
    ]
    text += [f"\n## {title}\n\n{markdown(lines)}" for title, lines in tables]
    text += [f"\n![{caption}]({path.name})" for caption, path in drawn]
    markdown_file = write_text_atomic(bake.out / "results.md", "\n".join(text) + "\n")
    page = write_tables(
        bake.out / "bakeoff.html",
        title=f"Bake-off: {bake.contest.about}",
        tables=tables,
        pictures=drawn,
        charts=charts,
        methods=[arm.method for arm in bake.contest.arms.values()],
    )
    return markdown_file, page, tables
