r"""`vardiu compare`."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..comparison.series import differences, series_names
from ..errors import ConfigError, RunError, known, shown
from ..metrics.metric import title_of
from ..monitoring.verdicts import best_first, verdict_of
from ..problems.base import Judged
from ..reports.comparisons import Series, comparison, quality_charts
from ..reports.html import write_tables
from ..reports.tables import value_with_error
from ..runs.task import PROBLEMS, Task
from ..storage.bounded import read_json
from ..storage.files import new_file
from ..storage.finished import describe, refuse_place, sole_writer
from ..storage.run_folder import RunFolder
from .console import console, print_rows
from .folders import existing_run
from .options import add_code_options, task_of_run
from .parser import Parser

# What a comparison is of, by which it is known again.
DESCRIPTION = "comparison.json"


WRITTEN = ("comparison.png", "comparison.html", DESCRIPTION)


def parser_of() -> Parser:
    r"""Returns the command's parser."""
    parser = Parser(prog="compare")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--metric", help="the metric of the plot; the problem's first by default")
    parser.add_argument(
        "--out",
        help="the folder to write to, with no other comparison; by default runs/compare, or where "
        "that holds another one runs/compare-2, -3, ...",
    )
    add_code_options(parser)
    return parser


def compare(arguments: list[str]) -> None:
    r"""Puts finished runs in one table and one plot."""
    chosen = parser_of().parse_args(arguments)
    if chosen.out:
        refuse_place(Path(chosen.out))
        refuse_run(Path(chosen.out))
    folders = folders_of(chosen.runs)
    rows, tasks, costs = [], [], []
    for folder in folders:
        result = folder.result()
        if result is None:
            raise RunError(f"{folder.path} is not finished: only finished runs are compared")
        task = task_of_run(folder, chosen)
        tasks.append(task)
        costs.append(result["cost"])
        rows.append(_row(folder, task, result))
    names = {task.problem.name for task in tasks}
    if len(names) > 1:
        raise ConfigError(f"the runs are of different problems: {', '.join(sorted(names))}")
    judged = PROBLEMS[type(tasks[0].problem)].judged
    metric = chosen.metric or judged.metric
    names = {m["name"] for folder in folders for m in (folder.result() or {})["metrics"]}
    metric = known(metric, names, "metric")
    labels = series_names(tasks)
    series = [
        Series(label, task.method, folder.metrics(), cost)
        for label, task, folder, cost in zip(labels, tasks, folders, costs, strict=True)
    ]
    verdicts = [verdict_of(folder, judged) for folder in folders]
    ranked = best_first(
        list(zip(labels, verdicts, rows, folders, strict=True)),
        lambda entry: entry[1],
        lambda entry: headline_value(entry[3], judged),
    )
    rows = [{"series": label, "verdict": v.name, **row} for label, v, row, _ in ranked]
    why = [{"series": label, "verdict": v.name, "why": v.sentence} for label, v, _, _ in ranked]
    count = f"Measured: {len(rows)} of {len(rows)} runs are complete"
    out = Path(chosen.out) if chosen.out else free_place(folders, metric)
    if not holds_the_same(out, folders, metric):
        for name in WRITTEN:
            new_file(out / name)
    with sole_writer(out):
        describe(out / DESCRIPTION, compared(folders, metric, out))
        picture = comparison(series, [f"metric/{metric}"], out / "comparison.png")
        page = write_tables(
            out / "comparison.html",
            title="Comparison",
            tables=[(count, rows), ("Verdicts", why), ("Series", differences(tasks))],
            pictures=[("As one picture", picture)],
            charts=[(f"{title_of(metric)} against cost", quality_charts(series, metric))],
            methods=[task.method for task in tasks],
        )
    print_rows(count, rows)
    print_rows("Series, and the settings in which they differ", differences(tasks))
    console.print(f"picture: {picture}\nreport:  {page}", highlight=False, soft_wrap=True)


def refuse_run(out: Path) -> None:
    r"""Raises a `RunError` if a folder is a run's, whose files are its own."""
    if RunFolder(out).exists:
        raise RunError(
            f"--out {shown(out)} is the folder of a run (it holds config.yaml), and a comparison "
            "has one of its own: give another folder, or leave --out out"
        )


def folders_of(paths: Sequence[str]) -> list[RunFolder]:
    r"""Returns the folders of runs.

    Raises:
        RunError: One is no run.
        ConfigError: One is named twice, and would count as two.
    """
    folders = [existing_run(path) for path in paths]
    places = dict[Path, RunFolder]()
    for folder in folders:
        other = places.setdefault(folder.path.resolve(), folder)
        if other is not folder:
            also = "" if other.path == folder.path else f", also as {shown(other.path)}"
            raise ConfigError(f"{shown(folder.path)} is named twice{also}: name each run once")
    return folders


def compared(folders: Sequence[RunFolder], metric: str, out: Path) -> dict[str, Any]:
    r"""Returns what a comparison in a folder is of: the runs, seen from there, in no order."""
    runs = sorted(os.path.relpath(folder.path.resolve(), out.resolve()) for folder in folders)
    return {"runs": runs, "metric": metric}


def free_place(folders: Sequence[RunFolder], metric: str) -> Path:
    r"""Returns the first of `runs/compare`, `runs/compare-2`, ... that holds no other comparison:
    the same one is made anew in its place."""
    for number in itertools.count(1):
        out = Path(f"runs/compare{f'-{number}' * (number > 1)}")
        if not any(os.path.lexists(out / name) for name in WRITTEN):
            break
        if holds_the_same(out, folders, metric):
            break
    return out


def holds_the_same(out: Path, folders: Sequence[RunFolder], metric: str) -> bool:
    r"""Whether a folder holds the same comparison, whole or as far as it was written: it is known
    by its description, which is written first."""
    with contextlib.suppress(ConfigError, FileNotFoundError):  # what is damaged is left as it is
        return bool(read_json(out / DESCRIPTION) == compared(folders, metric, out))
    return False


def headline_value(folder: RunFolder, judged: Judged) -> float:
    r"""Returns the headline metric of a finished run, the smaller the better; NaN without one."""
    metrics = (folder.result() or {}).get("metrics", [])
    value = next((m["value"] for m in metrics if m["name"] == judged.metric), math.nan)
    return value if judged.lower_is_better else -value


def _row(folder: RunFolder, task: Task, result: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"run": shown(folder.path), "method": task.method, "seed": task.run.seed}
    counts = {metric["n"] for metric in result["metrics"]}
    for metric in result["metrics"]:
        text = value_with_error(metric["value"], metric["error"])
        row[metric["name"]] = text if len(counts) == 1 else f"{text} (n {metric['n']:,})"
    if len(counts) == 1:
        row["n"] = f"{counts.pop():,}"
    cost = result["cost"]
    return row | {"seconds": round(cost["seconds"]), "teacher calls": cost["teacher_calls"]}


COMMANDS = {"compare": compare}
