r"""Which runs are seeds of one series, and what a series is called.

Two runs belong together where all their settings are equal but the seed and what says how the run
was carried out on its machine. A series is named by what differs from the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..runs.task import Task
from ..settings.parse import flattened

__all__ = ["MACHINE", "SeriesName", "differences", "series_names"]


# Settings that do not tell series apart: the seed, the machine, what is written and when; and the
# name of the preset, whose settings are what counts.
MACHINE = frozenset(
    {"preset", "run.seed", "run.device", "run.threads", "run.save_every", "run.milestones"}
)


# A series is named by so many settings at most, where its preset names it too.
MOST = 2


SeriesName = str


def settings_of(task: Task) -> dict[str, Any]:
    r"""Returns the settings that make a series, by their names with dots."""
    flat = flattened(json.loads(json.dumps(task.to_mapping())))
    return {name: value for name, value in flat.items() if name not in MACHINE}


def differing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    r"""Returns the settings in which some rows differ; one that a row lacks is none there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [n for n in names if any(row.get(n) != rows[0].get(n) for row in rows)]


def series_names(tasks: Sequence[Task]) -> list[SeriesName]:
    r"""Returns the name of the series of each run; two runs have one name if and only if they are
    of one series.

    A name is that of the method, where there are several, and the settings in which the method's
    series differ: `vardiu, lr 0.002`. Where those are more than two and the presets are not the
    same, it is the preset's.
    """
    rows = [settings_of(task) for task in tasks]
    methods = dict.fromkeys(task.method for task in tasks)
    names: list[SeriesName] = []
    for task, row in zip(tasks, rows, strict=True):
        mine = [(t.preset, r) for t, r in zip(tasks, rows, strict=True) if t.method == task.method]
        changed = differing([other for _, other in mine])
        presets = {preset for preset, other in mine if other == row}
        shared = {preset for preset, other in mine if other != row} & presets
        if not changed:
            name = task.method if len(methods) > 1 else min(presets)
        elif len(changed) > MOST and not shared:
            name = min(presets)
        else:
            parts = [f"{short(key)} {written(row.get(key))}" for key in changed]
            name = ", ".join([task.method, *parts] if len(methods) > 1 else parts)
        names.append(name)
    return names


def differences(tasks: Sequence[Task]) -> list[dict[str, str]]:
    r"""Returns the table of series: the name, its seeds, and all settings in which any differ."""
    rows, names = [settings_of(task) for task in tasks], series_names(tasks)
    changed = differing(rows)
    table = []
    for name in dict.fromkeys(names):
        mine = [i for i, other in enumerate(names) if other == name]
        seeds = sorted(tasks[i].run.seed for i in mine)
        line = {"series": name, "runs": str(len(mine)), "seeds": ", ".join(map(str, seeds))}
        own = rows[mine[0]]
        table.append(line | {short(key): written(own.get(key)) for key in changed})
    return table


def short(key: str) -> str:
    r"""Returns a setting's name as an option has it, without its group."""
    group, _, name = key.partition(".")
    return name if group in ("method", "problem", "run") else key


def written(value: Any) -> str:  # noqa: ANN401 (any setting)
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
