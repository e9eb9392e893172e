r"""What a bake-off found: tables, pictures, one page, and a study of the gradients."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from . import build, estimators, pipeline, plots, report, store
from .bakeoff import BakeOff, Cell, Result, results
from .checkpoint import Checkpoints
from .denoise import EmpiricalDenoiser
from .generate import Generator
from .methods.vardiu import VarDiU
from .noise import Levels
from .problems import Problem
from .runs import RunFolder, write_text_atomic
from .train import Stage, Trainer

__all__ = ["markdown", "study", "table", "write"]

MARGINAL = 65_536  # samples that stand for the student's own marginal
ROWS, DRAWS = 16_384, 128  # noisy samples of the reference, estimates of the gradient


# ---------------------------------------------------------------- tables


def interval(values: Sequence[float], form: str = ".4g") -> str:
    r"""Returns the median and the range of some values.

    The range of five covers the median of their distribution with a probability of 15/16.
    """
    if not values:
        return "–"
    middle = f"{statistics.median(values):{form}}"
    if len(values) == 1:
        return middle
    return f"{middle} [{min(values):{form}}, {max(values):{form}}]"


def table(rows: Sequence[Result], metrics: Sequence[str]) -> list[dict[str, str]]:
    r"""Returns the rows of a table: median and range of each metric and of the cost."""
    lines = []
    for row in rows:
        line = {"arm": row.title}
        line |= {name: interval(row.values(name)) for name in metrics}
        line |= {
            "seconds": interval(row.cost("seconds"), ".0f"),
            "teacher rows": interval(row.cost("teacher_rows")[:1], ",.0f"),
            "updates": interval(row.cost("student_updates")[:1], ",.0f"),
            "runs": f"{len(row.runs)}" + (f" ({row.missing} missing)" if row.missing else ""),
        }
        lines.append(line)
    return lines


def markdown(lines: Sequence[Mapping[str, str]]) -> str:
    r"""Returns a table in Markdown."""
    names = list(lines[0])
    body = ["| " + " | ".join(line[name] for name in names) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(names) + " |", "|---" * len(names) + "|", *body])


# ---------------------------------------------------------------- the study of gradients


def milestones(cell: Cell) -> Iterator[tuple[Problem, Stage, Trainer]]:
    r"""Yields a finished run's objective as it was at each of its milestones."""
    for folder in sorted((cell.folder / "milestones").glob("0-*")):
        store = Checkpoints(folder)
        for step in store.steps():
            problem = pipeline.problem_of(cell.task)
            torch.manual_seed(cell.seed)
            method = pipeline.method_of("distill", cell.task.method)
            stage = next(method.recipe(problem, cell.task.settings, cell.seed))
            trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
            trainer.load_state_dict(store.load(step), stage.batches)
            yield problem, stage, trainer


def gradients(cell: Cell) -> list[dict[str, Any]]:
    r"""Returns bias and variance of a run's gradient at its milestones, and the bound's slack."""
    rows = []
    for problem, stage, trainer in milestones(cell):
        objective, step = trainer.objective, max(0, trainer.step - 1)
        random = torch.Generator().manual_seed(1234)
        student = estimators.student_marginal(objective.generator, MARGINAL, random)
        reference, error = estimators.reference_gradient(
            objective.generator,
            student,
            problem.teacher,
            levels=estimators.at_step(objective.levels, step),
            weight=objective.weight,
            random=random,
            rows=ROWS,
        )
        quality = estimators.gradient_quality(
            objective, next(stage.batches), step, reference, error, DRAWS
        )
        row = {"progress": trainer.step / stage.steps, **dataclasses.asdict(quality)}
        if isinstance(objective, VarDiU) and trainer.step == stage.steps:
            row["slack"] = _slack(objective, student, build.levels(cell.task.settings.levels, 1))
        rows.append(row)
    return rows


def _slack(
    objective: VarDiU, student: EmpiricalDenoiser, levels: Levels
) -> list[tuple[float, float, float]]:
    batch = 256

    def log_marginal(repeat: int, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        z = objective.latents(batch, "slack")
        x = objective.generator(z)
        level = z.new_full((batch,), sigma)
        x_t = x + sigma * objective.noise_like(x, "slack noise")
        return x_t, objective.negative_entropy(z, x, x, x_t, level, {}, "slack particle")

    low, high = levels(torch.tensor([0.0, 1 - 1e-6], dtype=torch.float64), 2**62).log10().tolist()
    sigmas = torch.logspace(low, high, 7).tolist()
    return estimators.slack(log_marginal, student, sigmas)


def study(bake: BakeOff, todo: Sequence[Cell], console: Any) -> dict[str, Any]:  # noqa: ANN401
    r"""Returns the study of the first seed's runs under the first budget, kept as it goes.

    Densities in two dimensions only: elsewhere no large mixture gives the student's score.
    """
    found: dict[str, Any] = {}
    if any(settings.name == "digits" for settings in bake.contest.teachers.values()):
        return found
    for cell in todo:
        if cell.seed or cell.budget != bake.budgets[0]:
            continue
        if RunFolder(cell.folder).result() is None:
            continue
        path = cell.folder / "gradients.json"
        if not path.is_file():
            console.print(f"gradients of {cell.teacher}, {cell.arm}", highlight=False)
            write_text_atomic(path, json.dumps(gradients(cell), indent=1) + "\n")
        found.setdefault(cell.teacher, {})[cell.arm] = json.loads(path.read_text())
    return found


# ---------------------------------------------------------------- pictures and the page


def pictures(
    bake: BakeOff, todo: Sequence[Cell], rows: Sequence[Result], group: str, names: Sequence[str]
) -> list[tuple[str, Path]]:
    r"""Draws quality against cost, and samples of the first seed."""
    runs = [(row.title, RunFolder(run["folder"]).metrics()) for row in rows for run in row.runs]
    stem = group.replace("/", "-")
    quality = bake.out / f"quality-{stem}.png"
    plots.comparison(runs, [f"metric/{name}" for name in names], quality)
    first = [(row.title, row.runs[0]) for row in rows if row.runs]
    cell = todo[0]
    problem = pipeline.problem_of(cell.task)
    panels = []
    for title, run in first:
        student = store.load(Path(run["folder"]) / "student")
        assert isinstance(student, Generator)
        x, _ = problem.from_generator(student)(4000, torch.Generator().manual_seed(0))
        panels.append((title, x))
    samples = problem.panels(panels, bake.out / f"samples-{stem}.png")
    return [
        (f"{group}: quality against cost; median and range of the seeds", quality),
        (f"{group}: samples of seed {first[0][1]['seed']}", samples),
    ]


def study_pictures(bake: BakeOff, found: Mapping[str, Any]) -> list[tuple[str, Path]]:
    r"""Draws bias and deviation of the gradients, and the bounds' slack."""
    drawn = []
    for teacher, arms in found.items():
        titled = {bake.contest.arms[name].title: rows for name, rows in arms.items()}
        path = plots.gradients(titled, bake.out / f"gradients-{teacher}.png")
        drawn.append((f"{teacher} teacher: bias and deviation of the student's gradient", path))
        slacks = {
            title: rows[-1]["slack"] for title, rows in titled.items() if "slack" in rows[-1]
        }
        if slacks:
            path = plots.slacks(slacks, bake.out / f"slack-{teacher}.png")
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
    bake: BakeOff, todo: Sequence[Cell], found: Mapping[str, Any]
) -> tuple[Path, Path, list[tuple[str, list[dict[str, str]]]]]:
    r"""Writes `results.md` and `bakeoff.html`; returns both and the tables."""
    tables, drawn = [], []
    for budget in bake.budgets:
        for teacher in bake.teachers:
            rows = [r for r in results(bake, todo, budget, teacher) if r.runs]
            if not rows:
                continue
            problem = pipeline.PROBLEMS[type(todo[0].task.problem)]
            group = f"{bake.group(budget)}/{teacher}"
            tables.append((group, table(rows, problem.headline)))
            mine = [c for c in todo if (c.budget, c.teacher) == (budget, teacher)]
            drawn += pictures(bake, mine, rows, group, problem.headline[:2])
    for teacher, arms in found.items():
        tables.append((f"gradients, {teacher} teacher, seed 0", study_table(bake, arms)))
    drawn += study_pictures(bake, found)
    text = [f"# Bake-off: {bake.contest.about}\n", "Median of the seeds, and their range."]
    text += [f"\n## {title}\n\n{markdown(lines)}" for title, lines in tables]
    text += [f"\n![{caption}]({path.name})" for caption, path in drawn]
    words = write_text_atomic(bake.out / "results.md", "\n".join(text) + "\n")
    page = report.write_tables(
        bake.out / "bakeoff.html",
        title=f"Bake-off: {bake.contest.about}",
        tables=tables,
        pictures=drawn,
    )
    return words, page, tables
