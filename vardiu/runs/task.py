r"""A command, resolved: which problem, which method, which settings."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from .. import models
from ..data.points import SUFFIXES
from ..errors import ConfigError, known, nearest, shown
from ..methods import METHODS, Code, Method
from ..problems.base import Judged, Problem, visit_in_parts
from ..problems.continued import Continued
from ..problems.densities import DensityProblem
from ..problems.digits import DigitsProblem
from ..problems.images import ImageProblem
from ..problems.kept import KeptTeacher
from ..problems.restoration import RestorationProblem
from ..problems.vectors import VectorProblem
from ..settings.fields import (
    DensitySettings,
    DigitsSettings,
    ImageSettings,
    RestorationSettings,
    Training,
    VectorSettings,
)
from ..settings.parse import from_mapping, refuse_not_finite
from ..settings.ranges import check_ranges
from ..storage.bounded import read_yaml
from ..storage.code import OwnCode, recognised
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..training.economy import Economy
from ..training.sharding import Shard
from .presets import PRESETS, TEACHERS, PresetRow, fitted, is_points, on_points, rows_of

__all__ = [
    "ROLES",
    "RunSettings",
    "Task",
    "load_task",
    "named_teacher",
    "problem_of",
    "refuse_unasked_teacher",
    "sizes_of",
]


# The settings of a problem that may be own code, and `reward`, one of a method. The option
# `--teacher` names that of `teacher`.
ROLES = ("teacher", "weak", "source", "classifier", "reward")


# A problem's settings, of any kind.
ProblemSettings = (
    DensitySettings | DigitsSettings | ImageSettings | RestorationSettings | VectorSettings
)


PROBLEM_KINDS: Mapping[str, type[ProblemSettings]] = {
    "density": DensitySettings,
    "digits": DigitsSettings,
    "images": ImageSettings,
    "restoration": RestorationSettings,
    "vectors": VectorSettings,
}


class ProblemClass(Protocol):
    r"""A class of problems, made of their settings."""

    @property
    def headline(self) -> tuple[str, ...]:
        r"""The names of the metrics of the short summary."""

    @property
    def judged(self) -> Judged:
        r"""By which metrics its students are judged."""

    def __call__(
        self,
        settings: Any,  # noqa: ANN401 (each class has its own)
        seed: int = 0,
        *,
        untaught: bool = False,
        own: Mapping[str, OwnCode] = {},
        kept: KeptTeacher | None = None,
    ) -> Problem:
        r"""Returns a problem."""


PROBLEMS: Mapping[type[ProblemSettings], ProblemClass] = {
    DensitySettings: DensityProblem,
    DigitsSettings: DigitsProblem,
    ImageSettings: ImageProblem,
    RestorationSettings: RestorationProblem,
    VectorSettings: VectorProblem,
}


# Settings of methods in older versions, and what stands in their place.
RENAMED: Mapping[str, str] = {
    "anchor": "regression_weight",
    "fake_lr": "fake_optimizer.lr",
    "posterior_lr": "posterior_optimizer.lr",
}


LEAST_SAMPLES = 100  # of a final measurement: fewer have no standard errors to speak of


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    r"""How a run is carried out."""

    seed: int = 0
    """The seed of the networks, the noise and the data's order."""
    device: str = "auto"
    """Where to train: auto, cpu, gpu (CUDA, or MPS), cuda, cuda:1, ..."""
    threads: int = 0
    """Threads of torch on a CPU; 0 leaves torch's own choice."""
    reports: int = 40
    """How many times the run reports its losses and diagnostics."""
    evaluations: int = 10
    """How many times the student is measured on the way, with fewer samples."""
    save_every: float = 30.0
    """Seconds between checkpoints, at least 20 times what one takes; 0 for one at each step."""
    milestones: int = 0
    """How many checkpoints to keep for good, evenly spaced over each stage, up to its end."""
    samples: int = 0
    """Samples of the final measurement; 0 for the problem's own number."""
    start_from: str | None = None
    """The folder of another run, whose student this one starts from in place of the method's own
    start; or teacher, of a method that asks none, for the teacher's weights."""
    accumulate: int = 1
    """Equal parts in which a batch is visited, one after another, to save memory."""
    shard: Shard = "auto"
    """Whether torchrun's processes divide networks among them: none, full, or auto (as needed)."""
    economy: Economy = Economy()
    """How networks save time and memory."""

    def __post_init__(self) -> None:
        check_ranges("run.", self)
        refuse_unknown_device(self.device)
        if 0 < self.samples < LEAST_SAMPLES:
            raise ConfigError(
                f"run.samples must be 0, for the problem's own number, or at least "
                f"{LEAST_SAMPLES}, got {self.samples}"
            )


def refuse_unknown_device(name: str) -> None:
    r"""Raises a `ConfigError` if a name is that of no device, here or elsewhere."""
    if name in ("auto", "gpu"):
        return
    try:
        torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"--device {shown(name)} cannot be used here: there is no such device; take auto, "
            "cpu, gpu, cuda, cuda:1, ..."
        ) from error


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
        code: The file that the method is from; none for a method of the table.
        own: The own code that the command line names for settings of the problem or of the method,
            by the setting's name, one of `ROLES`.
        asked: The names of the settings that the command line gives values of.
    """

    command: str
    preset: str
    problem: ProblemSettings
    method: str
    settings: Any
    run: RunSettings
    code: Code | None = None
    own: Mapping[str, OwnCode] = field(default_factory=dict)
    asked: Collection[str] = ()

    @property
    def chosen(self) -> Method:
        r"""The method."""
        return method_of(self.command, self.method) if self.code is None else self.code.method

    @property
    def asks_teacher(self) -> bool:
        r"""Whether the method asks a teacher, or the student starts from the weights of one."""
        return self.chosen.needs.teacher or self.run.start_from == "teacher"

    @property
    def names_teacher(self) -> bool:
        r"""Whether the settings name a teacher that is read from somewhere."""
        row = self.problem
        named = getattr(row, "teacher", None) not in (None, "learned", "exact", "kde")
        return named or getattr(row, "teacher_run", None) is not None

    @property
    def has_teacher(self) -> bool:
        r"""Whether there is a teacher: one that is asked, one that is named to compare with, one
        that a density knows, or one whose space vectors live in."""
        if self.command == "teach":
            return False
        known = getattr(self.problem, "teacher", None) in ("exact", "kde")
        known = known or isinstance(self.problem, VectorSettings)
        return self.asks_teacher or self.names_teacher or known

    def __post_init__(self) -> None:
        refuse_not_finite(self.settings, "method.")
        refuse_not_finite(self.run, "run.")
        # A student may be asked at infinite noise; nothing else has a meaning there.
        refuse_not_finite(self.problem, "problem.", may_be_infinite=("problem.sigma",))
        self.run.economy.refuse_forward(getattr(self.settings, "forward_mode", ()))
        for name, size in sizes_of(self.settings).items():
            if size % self.run.accumulate:
                raise ConfigError(
                    f"method.{name} must be a multiple of run.accumulate "
                    f"({self.run.accumulate}), got {size}"
                )

    def to_mapping(self) -> dict[str, Any]:
        r"""Returns what is saved as `config.yaml`."""
        kind = next(k for k, cls in PROBLEM_KINDS.items() if type(self.problem) is cls)
        codes = {name: code.to_mapping() for name, code in self.own.items()}
        if self.code is not None:
            codes = {"method": self.code.to_mapping(), **codes}
        return {
            "command": self.command,
            "preset": self.preset,
            **({"code": codes} if codes else {}),
            "method": {"name": self.method, **dataclasses.asdict(self.settings)},
            "problem": {"kind": kind, **dataclasses.asdict(self.problem)},
            "run": dataclasses.asdict(self.run),
        }


def sizes_of(settings: Any) -> dict[str, int]:  # noqa: ANN401 (each method has its own)
    r"""Returns the numbers of rows of a method's batches, by the setting's name."""
    pairs, sizes = getattr(settings, "pairs", None), {"batch": settings.batch}
    if pairs is not None and pairs.pairs:
        sizes["pairs.batch"] = pairs.batch
    return sizes


def method_of(command: str, name: str) -> Method:
    r"""Returns a method of the table.

    Raises:
        ConfigError: The command has none of this name; the nearest ones are offered.
    """
    names = [key for key, method in METHODS.items() if fits(command, method)]
    if name in METHODS.broken and name not in names:
        raise ConfigError(METHODS.broken[name])
    return METHODS[known(name, names, "method")]


def fits(command: str, method: Method) -> bool:
    r"""Whether a method is one of a command: `teach` makes teachers, `distill` students."""
    return method.teaches == (command == "teach")


def preset_of(
    command: str, name: str, code: Code | None = None, source: OwnCode | None = None
) -> tuple[str, PresetRow]:
    r"""Returns the name and the row of a preset: of the table, of a method from a file, or of a
    table of points.

    Raises:
        ConfigError: There is none of this name; the nearest ones are offered.
    """
    table = TEACHERS if command == "teach" else PRESETS
    own = rows_of([] if code is None else [code.method])
    names = [*table, *own]
    if name not in names and is_points(name):
        row = on_points(command, name, source)
        return row.problem.name, row
    try:
        name = known(name, names, "preset", "vardiu list shows all")
    except ConfigError:
        refuse_place(command, name)
        raise
    return name, own[name] if name in own else table[name]


def refuse_place(command: str, name: str) -> None:
    r"""Raises a `ConfigError` if what stands in a preset's place is a folder or a file, or the
    name of a file that is not there."""
    if not os.path.exists(name):  # of a name that is too long as well
        if re.fullmatch(r"\.[A-Za-z][A-Za-z0-9]*", Path(name).suffix):
            raise ConfigError(
                f"there is no file {shown(name)}: a preset stands here (vardiu list shows all), "
                f"or a table of points ({', '.join(SUFFIXES)})"
            )
        return
    what = "a folder" if Path(name).is_dir() else "no table of points"
    images = {
        "teach": "images are given with vardiu teach patches --data",
        "distill": "images are given with --data, and their teacher with --teacher",
    }[command]
    raise ConfigError(
        f"{shown(name)} is {what}: a preset stands here (vardiu list shows all), or a table of "
        f"points ({', '.join(SUFFIXES)}); {images}"
    )


def task_from_preset(
    command: str,
    name: str,
    method: str | None = None,
    code: Code | None = None,
    source: OwnCode | None = None,
) -> Task:
    r"""Returns the task of a preset, or of a table of points.

    With another method, its settings are those of that method's row for the same problem, else for
    the same kind of problem, else the method's own. Where the row is of another density, the
    noise levels are made to fit, see `vardiu.runs.presets.fitted`.

    Arguments:
        command: `distill` or `teach`.
        name: The name of the preset; or a table of points, or `FILE.py:NAME` of a density.
        method: The name of a method in the table, in place of the preset's own.
        code: A method from a file, in place of the preset's own.
        source: The density's own code, if the name is that of code.

    Raises:
        ConfigError: There is no such preset or method, or the method is not one of the command.
    """
    name, row = preset_of(command, name, code, source)
    if code is not None and not fits(command, code.method):
        other = "distill" if command == "teach" else "teach"
        raise ConfigError(f"{code.source} is not a method of `{command}`: use vardiu {other}")
    if code is not None:
        method = code.method.name
    elif method is not None:
        method = method_of(command, method).name
    if method is not None and method != row.method:
        chosen = method_of(command, method) if code is None else code.method
        settings = settings_for(chosen, row.problem, source)
        row = PresetRow(row.about, method, row.problem, settings)
    own = {} if source is None else {"source": source}
    return Task(command, name, row.problem, row.method, row.settings, RunSettings(), code, own)


def settings_for(
    method: Method, problem: ProblemSettings, source: OwnCode | None = None
) -> Training:
    r"""Returns a method's settings for a problem: of its nearest row, else its own."""
    rows = list(rows_of([method]).values())
    kin = [r for r in rows if type(r.problem) is type(problem)]
    # A residual student is trained otherwise, whatever the density is.
    form = getattr(problem, "residual", None)
    kin.sort(key=lambda r: (r.problem != problem, getattr(r.problem, "residual", None) != form))
    if not kin:
        return method.settings()
    found: Training = fitted(kin[0].settings, kin[0].problem, problem, source)
    return found


def load_task(
    path: str | Path,
    codes: Sequence[Code] = (),
    *,
    own: Mapping[str, OwnCode] = {},
    accept_changed: bool = False,
) -> Task:
    r"""Returns the task that a `config.yaml` holds.

    Arguments:
        path: The file.
        codes: The methods from files that the command line names, see `task_of`.
        own: The other code that it names, see `task_of`.
        accept_changed: Whether one that was changed since may be taken.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds an unknown setting; or its method
            is from a file that the command line does not name, or that was changed since.
    """
    values = read_yaml(path, object)
    return task_of(values, shown(path), codes, own=own, accept_changed=accept_changed)


def task_of(
    values: Any,  # noqa: ANN401 (what a file holds)
    where: str,
    codes: Sequence[Code] = (),
    *,
    own: Mapping[str, OwnCode] = {},
    accept_changed: bool = False,
) -> Task:
    r"""Returns the task that a mapping describes, see `Task.to_mapping`.

    Nothing that a mapping names is executed: a method from a file must be among `codes`, a teacher
    that is own code in `own`; without the latter there is a task, whose teacher cannot be loaded.

    Raises:
        ConfigError: It holds something else, or an unknown setting; or its method is from a file
            that is not among `codes`, or that was changed since.
    """
    try:
        return _task_of(values, where, codes, own, accept_changed)
    except ConfigError as error:
        if where in str(error):
            raise
        raise ConfigError(f"{where}: {error}") from error


def _task_of(
    values: Any,  # noqa: ANN401 (what a file holds)
    where: str,
    codes: Sequence[Code],
    own: Mapping[str, OwnCode],
    accept_changed: bool,
) -> Task:
    parts = ("command", "preset", "code", "method", "problem", "run")
    if not isinstance(values, dict) or not set(values) <= set(parts):
        raise ConfigError(
            f"{where} must hold the groups {', '.join(parts)}, as a run's config.yaml"
        )
    method, problem, run = (group_of(values, name) for name in ("method", "problem", "run"))
    words = {
        "command": values.get("command", "distill"),
        "preset": values.get("preset", ""),
        "method.name": method.pop("name", ""),
        "problem.kind": problem.pop("kind", ""),
    }
    for word, value in words.items():
        if not isinstance(value, str):
            raise ConfigError(f"{word} must be a word, got {shown(value)}")
    command, preset, name, kind = words.values()
    if preset == ".." or Path(preset).name != preset or not preset.isprintable():
        # A run's folder is named after it.
        raise ConfigError(f"preset must be a name, not a path, got {shown(preset)}")
    if command not in ("distill", "teach"):
        raise ConfigError(f"command must be distill or teach, got {shown(command)}")
    if kind not in PROBLEM_KINDS:
        kind = shown(kind)
        raise ConfigError(f"unknown problem.kind {kind!r}; {nearest(kind, PROBLEM_KINDS)}")
    kept = kept_code(values, where)
    code = None
    if "method" in kept:
        code = recognised(kept["method"], codes, where, accept_changed=accept_changed)
    chosen = method_of(command, name) if code is None else code.method
    refuse_older_settings(method, chosen.settings, where)
    return Task(
        command=command,
        preset=preset,
        problem=from_mapping(PROBLEM_KINDS[kind], problem, "problem."),
        method=name,
        settings=from_mapping(chosen.settings, method, "method."),
        run=from_mapping(RunSettings, run, "run."),
        code=code,
        own=begun_with(own, kept, where, accept_changed=accept_changed),
    )


def group_of(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    r"""Returns a group of settings; an empty one where there is none.

    Raises:
        ConfigError: It is something else.
    """
    group = values.get(name, {})
    if not isinstance(group, Mapping):
        raise ConfigError(f"{name} must be a group of settings, got {shown(group)}")
    return dict(group)


def kept_code(values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    r"""Returns what a mapping keeps of own code, by what it is of: `method`, or one of `ROLES`.

    Raises:
        ConfigError: It keeps something else.
    """
    kept = values.get("code")
    kept = {} if kept is None else kept
    if not isinstance(kept, Mapping) or not set(kept) <= {"method", *ROLES}:
        raise ConfigError(
            f"{where}: its group `code` must hold groups of {', '.join(('method', *ROLES))}"
        )
    return kept


def begun_with(
    own: Mapping[str, OwnCode], kept: Mapping[str, Any], where: str, *, accept_changed: bool
) -> dict[str, OwnCode]:
    r"""Returns the code that a command line names, each with the SHA-256 that it had when a run
    was begun with it.

    Arguments:
        own: What the command line names, by the name of the setting.
        kept: What the run keeps, see `kept_code`. Code of another name is other code.
        where: Whose code it is, for messages.
        accept_changed: Whether a file that was changed since may be taken.

    Raises:
        ConfigError: A file was changed since.
    """
    found = dict(own)
    for role, code in own.items():
        if role in kept and code.same_name(kept[role]):
            options = {"accept_changed": accept_changed}
            found[role] = recognised(kept[role], [code], where, f"--{role}", **options)
    return found


def refuse_older_settings(values: Mapping[str, Any], settings: type, where: str) -> None:
    r"""Raises a `ConfigError` if a method's settings are those of an older version."""
    known = {field.name for field in dataclasses.fields(settings)}
    for name, successor in RENAMED.items():
        if name in values and name not in known:
            raise ConfigError(
                f"{where} is of an older version of vardiu, whose runs are not read: "
                f"method.{name} is now method.{successor}. Start a new run in another folder"
            )


def problem_of(task: Task, kept: KeptTeacher | None = None) -> Problem:
    r"""Returns the problem of a task; a teacher's own problem asks for no teacher.

    Arguments:
        task: The task.
        kept: What its finished run keeps of the teacher, which is then read when it is asked for.
    """
    cls = PROBLEMS[type(task.problem)]
    untaught = not task.has_teacher
    problem = cls(task.problem, seed=task.run.seed, untaught=untaught, own=task.own, kept=kept)
    visit_in_parts(problem, task.settings.batch // task.run.accumulate)
    if task.run.start_from is not None and kept is None:
        begin(task, problem)
    return problem


def untaught_problem(task: Task) -> Problem:
    r"""Returns the problem of a task whose teacher is yet to be trained."""
    cls = PROBLEMS[type(task.problem)]
    return cls(task.problem, seed=task.run.seed, untaught=True, own=task.own)


def begin(task: Task, problem: Problem) -> None:
    r"""Has the students of a task's problem start where `run.start_from` says.

    Raises:
        ConfigError: There is no such student, or the command or the method starts none so.
    """
    start = task.run.start_from
    assert start is not None
    if task.command == "teach":
        raise ConfigError(
            f"run.start_from: a teacher starts afresh; leave --start-from {shown(start)} out"
        )
    if start != "teacher":
        if getattr(task.problem, "student", "") == "lora":
            raise ConfigError(
                "run.start_from: an adapter is of the teacher's weights, and --start-from of "
                "another run's: give --student teacher, or leave --start-from out"
            )
        student = problem.with_prompts(student_at(start))
        problem.networks = Continued(problem.networks, student, start)
        return
    if task.chosen.needs.teacher:
        raise ConfigError(
            f"run.start_from teacher is of methods that ask no teacher, and {task.method} asks "
            "one: leave --start-from out, or name the folder of a run"
        )
    if next(problem.known_teacher.parameters(), None) is None:
        raise ConfigError(
            "run.start_from teacher: this teacher has no weights to start from: leave "
            "--start-from out"
        )
    problem.networks.from_teacher = True


def student_at(place: str) -> Generator:
    r"""Returns the student of a finished run.

    Raises:
        ConfigError: There is none.
    """
    folder = RunFolder(place)
    if not folder.file("student").is_dir() or folder.result() is None:
        raise ConfigError(
            f"run.start_from: {shown(place)} is no finished run of a student; give the folder "
            "that vardiu distill wrote (--out), once it is finished"
        )
    student = models.load(folder.file("student"))
    if not isinstance(student, Generator):
        raise ConfigError(f"run.start_from: {shown(place)} holds no student, which makes samples")
    return student


def named_teacher(problem: ProblemSettings) -> Any:  # noqa: ANN401 (settings of the same class)
    r"""Returns a problem's settings with the folder of its teacher, where `vardiu teach` writes
    it, named."""
    known = {field.name for field in dataclasses.fields(problem)}
    option = "teacher_run" if "teacher_run" in known else "teacher"
    changes: dict[str, Any] = {option: f"runs/teach-{problem.name}"}
    return dataclasses.replace(problem, **changes)


def refuse_unasked_teacher(task: Task) -> None:
    r"""Raises a `ConfigError` if a teacher is named that the method asks nothing."""
    learned = getattr(task.problem, "teacher", None) == "learned"
    if task.asks_teacher or isinstance(task.problem, VectorSettings):
        return
    if task.names_teacher or learned:
        option = (
            "--teacher" if getattr(task.problem, "teacher_run", None) is None else "--teacher-run"
        )
        raise ConfigError(
            f"{option}: {task.method} asks no teacher, and is trained on data alone: leave the "
            "option out, or give --start-from teacher for a student that starts from its weights"
        )
