"""Makes the reference curves of a preset from finished runs of it, one a seed.

    python benchmarks/references.py runs/seeds/mog40-0 runs/seeds/mog40-1 ... --preset mog40

Writes `vardiu/monitoring/reference/PRESET.json`, which the package ships: curves over progress,
and what they were made from. Runs whose method or problem is not the preset's own are refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vardiu
from vardiu.errors import RunError
from vardiu.monitoring import references
from vardiu.runs.task import Task, load_task, task_from_preset
from vardiu.storage.files import write_text_atomic
from vardiu.storage.run_folder import RunFolder

FOLDER = Path(vardiu.__file__).parent / "reference"


def checked(run: RunFolder, preset: str, changed: bool) -> Task:
    """Returns a run's task.

    Raises:
        RunError: It is not finished, or not of this preset, or something of it was changed.
    """
    if run.result() is None:
        raise RunError(f"{run.path} is not finished: the same command goes on with it")
    task = load_task(run.file("config.yaml"))
    if task.command != "distill" or task.preset != preset:
        raise RunError(f"{run.path} is {task.command} {task.preset}, not distill {preset}")
    row = task_from_preset("distill", preset)
    where = getattr(task.problem, "teacher_run", None)
    own = dataclasses.replace(row.problem, teacher_run=where)
    if (task.method, task.settings, task.problem) != (row.method, row.settings, own):
        if not changed:
            raise RunError(
                f"{run.path} has other settings than {preset}; --changed takes it all the same"
            )
    return task


def document(runs: Sequence[RunFolder], preset: str, changed: bool = False) -> dict[str, Any]:
    """Returns the curves of finished runs, and their provenance.

    Raises:
        RunError: A run does not fit, see `checked`, or two have the same seed or other settings.
    """
    tasks = [checked(run, preset, changed) for run in runs]
    seeds = [task.run.seed for task in tasks]
    if len(set(seeds)) != len(seeds):
        raise RunError(f"the seeds {seeds} are not distinct")
    if any(
        (task.settings, task.problem) != (tasks[0].settings, tasks[0].problem) for task in tasks
    ):
        raise RunError("the runs have different settings")
    logs = []
    for run in runs:
        rows = run.metrics()
        logs.append([row for row in rows if row["stage"] == rows[-1]["stage"]])
    origin = [json.loads(run.file("provenance.json").read_text()) for run in runs]
    about = {
        "preset": preset,
        "changed": changed,
        "command": shlex.join(["python", "benchmarks/references.py", *sys.argv[1:]]),
        "runs": [_about(entry) for entry in origin],
        "seconds": [run.result()["cost"]["seconds"] for run in runs],
    }
    return {"provenance": about, "curves": references.summary(logs)}


def _about(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("command", "seed", "started", "versions", "machine", "sha256")
    return {name: entry[name] for name in kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--changed", action="store_true", help="take runs with other settings")
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args()
    found = document([RunFolder(path) for path in chosen.runs], chosen.preset, chosen.changed)
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / f"{chosen.preset}.json"
    write_text_atomic(path, json.dumps(found, separators=(",", ":")) + "\n")
    print(f"{path}: {len(found['curves'])} curves of {len(chosen.runs)} runs")


if __name__ == "__main__":
    main()
