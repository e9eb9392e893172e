r"""A command, resolved: which problem, which method, which settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, nearest
from ..methods import METHODS, TEACHING, Method
from ..problems.base import Problem
from ..problems.densities import DensityProblem
from ..problems.digits import DigitsProblem
from ..problems.images import ImageProblem
from ..settings.fields import DensitySettings, DigitsSettings, ImageSettings
from ..settings.parse import from_mapping
from ..training.economy import Economy
from .presets import PRESETS, TEACHERS, Preset

__all__ = ["RunSettings", "Task", "load_task", "problem_of"]


# A problem's settings, of any kind.
ProblemSettings = DensitySettings | DigitsSettings | ImageSettings


PROBLEM_KINDS: Mapping[str, type[ProblemSettings]] = {
    "density": DensitySettings,
    "digits": DigitsSettings,
    "images": ImageSettings,
}


PROBLEMS: Mapping[type[ProblemSettings], Callable[..., Problem]] = {
    DensitySettings: DensityProblem,
    DigitsSettings: DigitsProblem,
    ImageSettings: ImageProblem,
}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    r"""How a run is carried out."""

    seed: int = 0
    """The seed of the networks, the noise and the data's order."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """Threads of torch on a CPU; 0 leaves torch's own choice."""
    reports: int = 40
    """How many times the run reports its losses and diagnostics."""
    evaluations: int = 10
    """How many times the student is measured on the way, with fewer samples."""
    save_every: float = 30.0
    """Seconds between checkpoints."""
    milestones: int = 0
    """How many checkpoints to keep for good, evenly spaced over each stage, up to its end."""
    samples: int = 0
    """Samples of the final measurement; 0 for the problem's own number."""
    accumulate: int = 1
    """Equal parts in which a batch is visited, one after another, to save memory."""
    economy: Economy = Economy()
    """How networks save time and memory."""

    def __post_init__(self) -> None:
        for name in ("reports", "evaluations", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"run.{name} must be at least 1, got {getattr(self, name)}")
        if self.milestones < 0:
            raise ConfigError(f"run.milestones must be at least 0, got {self.milestones}")


@dataclass(frozen=True)
class Task:
    r"""A command, resolved: what to do, by which method, with which settings.

    Arguments:
        command: `distill` or `teach`.
        preset: The name of the row it started from.
        problem: The problem's settings.
        method: The name of the method.
        settings: The method's settings.
        run: How it is carried out.
    """

    command: str
    preset: str
    problem: ProblemSettings
    method: str
    settings: Any
    run: RunSettings

    def __post_init__(self) -> None:
        pairs = getattr(self.settings, "pairs", None)
        sizes = {"batch": self.settings.batch}
        if pairs is not None and pairs.pairs:
            sizes["pairs.batch"] = pairs.batch
        for name, size in sizes.items():
            if size % self.run.accumulate:
                raise ConfigError(
                    f"method.{name} must be a multiple of run.accumulate "
                    f"({self.run.accumulate}), got {size}"
                )

    def to_mapping(self) -> dict[str, Any]:
        r"""Returns what is saved as `config.yaml`."""
        kind = next(k for k, cls in PROBLEM_KINDS.items() if isinstance(self.problem, cls))
        return {
            "command": self.command,
            "preset": self.preset,
            "method": {"name": self.method, **dataclasses.asdict(self.settings)},
            "problem": {"kind": kind, **dataclasses.asdict(self.problem)},
            "run": dataclasses.asdict(self.run),
        }


def method_of(command: str, name: str) -> Method:
    r"""Returns the row of a method.

    Raises:
        ConfigError: There is none of this name; the nearest ones are offered.
    """
    if command == "teach":
        return TEACHING
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; {nearest(name, METHODS)}")
    return METHODS[name]


def preset_of(command: str, name: str) -> Preset:
    r"""Returns the row of a preset.

    Raises:
        ConfigError: There is none of this name; the nearest ones are offered.
    """
    table = TEACHERS if command == "teach" else PRESETS
    if name not in table:
        raise ConfigError(f"unknown preset {name!r}; {nearest(name, table)}")
    return table[name]


def task_from_preset(command: str, name: str, method: str | None = None) -> Task:
    r"""Returns the task of a preset.

    With another method, its settings are those of that method's row for the same problem, else for
    the same kind of problem, else the method's own.
    """
    row = preset_of(command, name)
    if method is not None and method != row.method:
        method_of(command, method)
        rows = [r for r in PRESETS.values() if r.method == method]
        same = [r for r in rows if r.problem == row.problem]
        kin = [r for r in rows if type(r.problem) is type(row.problem)]
        settings = next((r.settings for r in same + kin), None) or METHODS[method].settings()
        row = Preset(row.about, method, row.problem, settings)
    return Task(command, name, row.problem, row.method, row.settings, RunSettings())


def load_task(path: str | Path) -> Task:
    r"""Returns the task that a `config.yaml` holds.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds an unknown setting.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}: {getattr(error, 'problem', '')}"
        raise ConfigError(f"{path} is not YAML{where}; give a run's config.yaml") from error
    return task_of(values, str(path))


def task_of(values: Any, where: str) -> Task:  # noqa: ANN401 (what a file holds)
    r"""Returns the task that a mapping describes, see `Task.to_mapping`.

    Raises:
        ConfigError: It holds something else, or an unknown setting.
    """
    parts = ("command", "preset", "method", "problem", "run")
    if not isinstance(values, dict) or not set(values) <= set(parts):
        raise ConfigError(
            f"{where} must hold the groups {', '.join(parts)}, as a run's config.yaml"
        )
    method, problem = dict(values.get("method", {})), dict(values.get("problem", {}))
    command, name = values.get("command", "distill"), method.pop("name", "")
    kind = problem.pop("kind", "")
    if kind not in PROBLEM_KINDS:
        raise ConfigError(f"unknown problem.kind {kind!r}; {nearest(kind, PROBLEM_KINDS)}")
    return Task(
        command=command,
        preset=values.get("preset", ""),
        problem=from_mapping(PROBLEM_KINDS[kind], problem, "problem."),
        method=name,
        settings=from_mapping(method_of(command, name).settings, method, "method."),
        run=from_mapping(RunSettings, values.get("run", {}), "run."),
    )


def problem_of(task: Task) -> Problem:
    r"""Returns the problem of a task; a teacher's own problem asks for no teacher."""
    cls = PROBLEMS[type(task.problem)]
    return cls(task.problem, seed=task.run.seed, untaught=task.command == "teach")
