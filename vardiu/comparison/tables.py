r"""What a bake-off found: tables, pictures, one page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import models
from ..methods import METHODS
from ..metrics.metric import title_of
from ..reports import comparisons
from ..reports.comparisons import Series, comparison, gradients, quality_charts
from ..reports.html import write_tables
from ..reports.tables import value_with_error
from ..runs.task import PROBLEMS, problem_of
from ..storage.files import write_text_atomic
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from .contests import Competitor
from .plan import FAILED, SCREENED, BakeOff, Cell, group_key, kept_arms
from .results import Difference, Result, differences, in_order, results
from .screening import heat

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


def table(rows: Sequence[Result], metrics: Sequence[str], by: str) -> list[dict[str, str]]:
    r"""Returns the rows of a table: median and range of each metric and of the cost.

    An arm with a run that collapsed comes after all others.

    Arguments:
        rows: The arms.
        metrics: The metrics to show.
        by: The metric of whose values they are in the order, which is to be low.
    """
    lines = []
    for row in in_order(rows, by):
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


def complete(row: Result) -> str:
    r"""Returns how many runs of an arm are complete, and what the others lack."""
    if row.why:
        kinds = (FAILED, SCREENED)
        return next((text.rstrip(": ") for text in kinds if row.why.startswith(text)), "left out")
    total = len(row.runs) + row.missing + row.idle
    lacking = [f"{row.missing} missing"] if row.missing else []
    lacking += [f"{row.idle} never updated: not ranked"] if row.idle else []
    return f"{len(row.runs)} of {total}" + (f" ({', '.join(lacking)})" if lacking else "")


def left_out(bake: BakeOff, groups: Mapping[str, Sequence[Result]]) -> list[dict[str, str]]:
    r"""Returns the rows of the table of arms that have no runs, with the reason.

    Arguments:
        bake: What was asked for.
        groups: The arms, by budget and teacher in words.
    """
    return [
        {"arm": row.title, "of": words, "why": row.why.removeprefix("left out: ")}
        for words, rows in groups.items()
        for row in rows
        if row.why
    ]


def differences_table(found: Sequence[Difference], titles: Mapping[str, str]) -> list[dict]:
    r"""Returns the rows of the table of paired differences."""
    lines = []
    for row in found:
        interval = "–" if row.seeds < 2 else f"{row.mean:+.3g} ± {row.half:.2g}"
        words = f"{row.verdict} than" if row.verdict != "undecided" else "undecided against"
        lines.append(
            {
                "arm": titles[row.arm],
                "is": words,
                "other arm": titles[row.other],
                "difference, 95 % interval": interval,
                "common seeds": str(row.seeds),
            }
        )
    return lines


def screening_table(
    bake: BakeOff, todo: Sequence[Cell], budget: str, teacher: str, planned: Mapping[str, Any]
) -> tuple[str, list[dict[str, str]]]:
    r"""Returns the heading and the rows of the table of a screening; which arms go on."""
    first = heat(bake)
    rows = results(first, todo, budget, teacher, planned)
    problem = PROBLEMS[type(bake.contest.teachers[teacher])]
    metric = problem.judged.metric
    kept = kept_arms(bake, planned, budget, teacher) or []
    lines = table(rows, problem.headline, metric)
    for line, row in zip(lines, in_order(rows, metric), strict=True):
        line["goes on"] = "no" if row.arm not in kept else "yes"
        if row.arm == bake.baseline:
            line["goes on"] = "yes, the baseline"
    return f"{first.title(budget, teacher)}: {how_many(rows)}", lines


def how_many(rows: Sequence[Result]) -> str:
    r"""Returns how many runs of all arms are complete, in words."""
    done, total = counted(rows)
    return f"{done} of {total} runs are complete"


def counted(rows: Sequence[Result]) -> tuple[int, int]:
    r"""Returns how many runs of all arms are complete, and how many there are to be."""
    done = sum(len(row.runs) for row in rows)
    return done, done + sum(row.missing + row.idle for row in rows)


def markdown(lines: Sequence[Mapping[str, str]]) -> str:
    r"""Returns a table in Markdown."""
    names = list(lines[0])
    body = ["| " + " | ".join(line[name] for name in names) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(names) + " |", "|---" * len(names) + "|", *body])


# ---------------------------------------------------------------- pictures and the page


def family_of(arm: Competitor) -> str:
    r"""Returns the family of an arm's method."""
    return (METHODS[arm.method] if arm.code is None else arm.code.method).kin


def series_of(bake: BakeOff, rows: Sequence[Result]) -> list[Series]:
    r"""Returns the finished runs of all arms, those of one arm under one name, in the colour of
    their family: so many arms are not told apart by colours of their own."""
    families = {name: family_of(arm) for name, arm in bake.contest.arms.items()}
    return [
        Series(row.title, families[row.arm], RunFolder(run["folder"]).metrics(), run["cost"])
        for row in rows
        for run in row.runs
    ]


def pictures(
    bake: BakeOff, todo: Sequence[Cell], rows: Sequence[Result], group: str, names: Sequence[str]
) -> list[tuple[str, Path]]:
    r"""Draws quality against cost, and samples of the first seed, of the arms that have runs."""
    done, total = counted(rows)
    rows = [row for row in rows if row.runs]
    cell, runs = todo[0], series_of(bake, rows)
    words, stem = bake.title(cell.budget, cell.teacher), group.replace("/", "-")
    quality = bake.out / f"quality-{stem}.png"
    comparison(runs, [f"metric/{name}" for name in names], quality)
    caption = f"{words}: quality against cost; a colour a family; median and range of the seeds"
    if done < total:
        caption += f"; {done} of {total} runs complete"
    first = [
        (row.title, row.runs[0])
        for row in rows
        if (Path(row.runs[0]["folder"]) / "student").is_dir()  # else it was copied without
    ]
    if not first:
        return [(caption, quality)]
    problem = problem_of(cell.task)
    panels = []
    for title, run in first:
        student = models.load(Path(run["folder"]) / "student", [*cell.task.own.values()])
        assert isinstance(student, Generator)
        x, _ = problem.student_source(student)(4000, torch.Generator().manual_seed(0))
        panels.append((title, x))
    samples = problem.scores.plot_side_by_side(panels, bake.out / f"samples-{stem}.png")
    return [
        (caption, quality),
        (f"{words}: samples of seed {first[0][1]['seed']}", samples),
    ]


def study_pictures(bake: BakeOff, found: Mapping[str, Any]) -> list[tuple[str, Path]]:
    r"""Draws bias and deviation of the gradients, and the bounds' slack."""
    drawn = []
    for teacher, arms in found.items():
        titled = {bake.contest.arms[name].title: rows for name, rows in arms.items()}
        methods = {arm.title: family_of(arm) for arm in bake.contest.arms.values()}
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


class Found(NamedTuple):
    r"""What a page shows: tables with their headings, pictures with captions, charts."""

    tables: list[tuple[str, list[dict[str, str]]]]
    drawn: list[tuple[str, Path]]
    charts: list[tuple[str, list[str]]]


def found_of(
    bake: BakeOff, todo: Sequence[Cell], heats: Sequence[Cell], planned: Mapping[str, Any]
) -> Found:
    r"""Returns tables, pictures and charts of all budgets and teachers."""
    found, groups = Found([], [], []), {}
    titles = {name: arm.title for name, arm in bake.contest.arms.items()}
    for budget in bake.budgets:
        for teacher in bake.teachers:
            words = bake.title(budget, teacher)
            problem = PROBLEMS[type(bake.contest.teachers[teacher])]
            headline, metric = problem.headline, problem.judged.metric
            if bake.screen:
                found.tables.append(screening_table(bake, heats, budget, teacher, planned))
                first = heat(bake)
                groups[first.title(budget, teacher)] = results(
                    first, heats, budget, teacher, planned
                )
            groups[words] = rows = results(bake, todo, budget, teacher, planned)
            found.tables.append((f"{words}: {how_many(rows)}", table(rows, headline, metric)))
            there = [r for r in rows if r.runs]
            if not there:
                continue
            pairs = differences(rows, metric, bake.baseline)
            if pairs:
                title = f"{words}: paired differences in {title_of(metric)}, over seeds"
                found.tables.append((title, differences_table(pairs, titles)))
            mine = [c for c in todo if (c.budget, c.teacher) == (budget, teacher)]
            group = group_key(bake, budget, teacher)
            found.drawn.extend(pictures(bake, mine, rows, group, headline[:2]))
            charts = quality_charts(series_of(bake, there), metric)
            found.charts.append((words, charts))
    if gone := left_out(bake, groups):
        found.tables.append(("arms without runs", gone))
    return found


def write(
    bake: BakeOff,
    todo: Sequence[Cell],
    heats: Sequence[Cell],
    study: Mapping[str, Any],
    planned: Mapping[str, Any],
) -> tuple[Path, Path, list[tuple[str, list[dict[str, str]]]]]:
    r"""Writes `results.md` and `bakeoff.html`; returns both and the tables.

    Arguments:
        bake: What was asked for.
        todo: The runs.
        heats: The runs of the screening.
        study: The study of the gradients.
        planned: The plan, which knows why arms have no runs.
    """
    found = found_of(bake, todo, heats, planned)
    for teacher, arms in study.items():
        found.tables.append((f"gradients, {teacher} teacher, seed 0", study_table(bake, arms)))
    found.drawn.extend(study_pictures(bake, study))
    text = [
        f"# Bake-off: {bake.contest.about}\n",
        "Median of the seeds, and their range; of one seed its standard error.",
    ]
    text += [f"\n## {title}\n\n{markdown(lines)}" for title, lines in found.tables]
    text += [f"\n![{caption}]({path.name})" for caption, path in found.drawn]
    markdown_file = write_text_atomic(bake.out / "results.md", "\n".join(text) + "\n")
    page = write_tables(
        bake.out / "bakeoff.html",
        title=f"Bake-off: {bake.contest.about}",
        tables=found.tables,
        pictures=found.drawn,
        charts=found.charts,
        methods=[family_of(arm) for arm in bake.contest.arms.values()],
    )
    return markdown_file, page, found.tables
