r"""`vardiu compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigError, RunError, known, shown
from ..reports.comparisons import Series, comparison
from ..reports.html import write_tables
from ..runs.task import PROBLEMS, Task
from ..storage.files import new_file
from ..storage.run_folder import RunFolder
from .console import console, print_rows
from .folders import existing_run
from .options import Parser, add_code_options, task_of_run


def compare(arguments: list[str]) -> None:
    r"""Puts finished runs in one table and one plot."""
    parser = Parser(prog="compare")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--metric", help="the metric of the plot; the problem's first by default")
    parser.add_argument("--out", help="the folder to write to; runs/compare by default")
    add_code_options(parser)
    chosen = parser.parse_args(arguments)
    out = Path(chosen.out or "runs/compare")
    if chosen.out:
        new_file(out / "comparison.png"), new_file(out / "comparison.html")
    folders = [existing_run(path) for path in chosen.runs]
    rows, series, tasks = [], [], []
    for folder in folders:
        result = folder.result()
        if result is None:
            raise RunError(f"{folder.path} is not finished: only finished runs are compared")
        task = task_of_run(folder, chosen)
        tasks.append(task)
        rows.append(_row(folder, task, result))
        series.append(Series(task.preset, task.method, folder.metrics()))
    names = {task.problem.name for task in tasks}
    if len(names) > 1:
        raise ConfigError(f"the runs are of different problems: {', '.join(sorted(names))}")
    headline = PROBLEMS[type(tasks[0].problem)].headline
    metric = chosen.metric or headline[0]
    names = {m["name"] for folder in folders for m in (folder.result() or {})["metrics"]}
    metric = known(metric, names, "metric")
    out.mkdir(parents=True, exist_ok=True)
    picture = comparison(series, [f"metric/{metric}"], out / "comparison.png")
    page = write_tables(
        out / "comparison.html",
        title="Comparison",
        tables=[("Measured", rows)],
        pictures=[(f"{metric} against cost", picture)],
    )
    print_rows("", rows)
    console.print(f"picture: {picture}\nreport:  {page}", highlight=False, soft_wrap=True)


def _row(folder: RunFolder, task: Task, result: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"run": shown(folder.path), "method": task.method, "seed": task.run.seed}
    for metric in result["metrics"]:
        error = "" if metric["error"] is None else f" ± {metric['error']:.1g}"
        row[metric["name"]] = f"{metric['value']:.4g}{error}"
    cost = result.get("cost", {})
    for name in ("seconds", "teacher_calls"):
        if name not in cost:
            raise RunError(f"{shown(folder.file('result.json'))} is damaged: cost has no {name}")
    return row | {"seconds": round(cost["seconds"]), "teacher calls": cost["teacher_calls"]}


COMMANDS = {"compare": compare}
