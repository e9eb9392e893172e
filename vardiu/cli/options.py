r"""From words on the command line to a task."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..data.densities import DENSITIES
from ..errors import ConfigError, RunError, known, nearest
from ..methods import METHODS, Code, load_method
from ..runs.presets import PRESETS, TEACHERS, TUNED
from ..runs.task import (
    ROLES,
    ProblemSettings,
    Task,
    begun_with,
    fits,
    kept_code,
    load_task,
    task_from_preset,
)
from ..settings.calls import refuse_fresh_noise
from ..settings.fields import DensitySettings, ImageSettings
from ..settings.idle import check_asked
from ..storage.code import OwnCode, is_source, load_code, not_named, recognised
from ..storage.run_folder import RunFolder
from .helps import help_of
from .parser import COLLECTING, Collected, Parser
from .rows import parse_rows

__all__ = ["Request", "chosen_names", "parse_request"]


class Request(NamedTuple):
    r"""What the command line of `vardiu teach` or `vardiu distill` asks for.

    Arguments:
        task: The task, with all options.
        out: The folder of its run.
        dry_run: Whether its settings are only to be printed.
        track: The names of the trackers that are to hear of it.
    """

    task: Task
    out: Path
    dry_run: bool
    track: tuple[str, ...] = ()


# ---------------------------------------------------------------- methods from files


def add_code_options(parser: argparse.ArgumentParser) -> None:
    r"""Adds the options by which a command line names the file that a run's method is from."""
    parser.add_argument(
        "--method",
        action="append",
        metavar="FILE.py:NAME",
        help="the file that the run's method is from, if it is from one",
    )
    parser.add_argument(
        "--source",
        metavar="FILE.py:NAME",
        help="the density of one's own that the run is about, if it is from code",
    )
    parser.add_argument(
        "--accept-changed-code",
        action="store_true",
        help="take that file although it was changed since the run",
    )


def add_student_options(parser: argparse.ArgumentParser) -> None:
    r"""Adds the options by which a command line names what a run keeps no copy of."""
    add_code_options(parser)
    parser.add_argument(
        "--network",
        metavar="FILE.py:NAME",
        help="the code of the student's network, if it is your own code",
    )
    parser.add_argument(
        "--teacher",
        metavar="SOURCE",
        help="where the teacher is now; asked for where its decoder, its encoder of texts or its "
        "samples are needed",
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto (CUDA if there is one), cpu, gpu, cuda, cuda:1 or mps",
    )


def codes_of(sources: Sequence[str] | None) -> list[Code]:
    r"""Returns the methods of the files that a command line names.

    Raises:
        ConfigError: A name is none of a file or module, or its method cannot be loaded.
    """
    for source in sources or ():
        if not is_source(source):
            raise ConfigError(f"--method: {source!r} names no code: give FILE.py:NAME")
    return [load_method(source) for source in sources or ()]


def task_of_run(
    folder: RunFolder, chosen: argparse.Namespace, own: Mapping[str, OwnCode] = {}
) -> Task:
    r"""Returns the task of a run, by a command line that has the options of `add_code_options`.

    Arguments:
        folder: The run.
        chosen: The command line.
        own: The own code that it names for settings.

    Raises:
        ConfigError: The run's method is from a file that the command line does not name, or that
            was changed since.
    """
    codes = codes_of(chosen.method)
    if chosen.source is not None and is_source(chosen.source):
        own = {**own, "source": load_code(chosen.source)}
    path, found = folder.file("config.yaml"), folder.config()
    lost = [name for name in ("command", "method", "problem", "run") if name not in found]
    if lost:
        raise RunError(
            f"{path} is damaged: it has no {lost[0]}, as the settings of every run have. "
            "Bring it back from a copy"
        )
    return load_task(path, codes, own=own, accept_changed=chosen.accept_changed_code)


def _of_the_run(task: Task, out: Path, accept_changed: bool) -> Task:
    r"""Returns a task whose files are those that a run in this folder was begun with."""
    folder = RunFolder(out)
    if not folder.exists or (task.code is None and not task.own):
        return task
    where = f"the run in {out}"
    kept = kept_code(folder.config(), where)
    code = task.code
    if code is not None and "method" in kept:
        code = recognised(kept["method"], [code], where, accept_changed=accept_changed)
    own = begun_with(task.own, kept, where, accept_changed=accept_changed)
    return dataclasses.replace(task, code=code, own=own)


def code_in(arguments: Sequence[str]) -> dict[str, OwnCode]:
    r"""Returns the own code that a command line names for settings, by the setting's name.

    Raises:
        ConfigError: It cannot be loaded.
    """
    found = {}
    for role in ROLES:
        for index, word in enumerate(arguments):
            option, _, value = word.partition("=")
            if option == f"--{role}":
                value = value or "".join(arguments[index + 1 : index + 2])
                if is_source(value):
                    found[role] = load_code(value)
    return found


def refuse_unnamed_code(task: Task, where: str) -> None:
    r"""Raises a `ConfigError` if a setting names own code, and the command line does not."""
    for role in ROLES:
        source = getattr(task.problem, role, getattr(task.settings, role, None))
        if isinstance(source, str) and is_source(source) and role not in task.own:
            raise ConfigError(not_named(source, f"--{role}", where))


# ---------------------------------------------------------------- teach, distill


def parse_request(command: str, arguments: list[str], shown: str | None = None) -> Request:
    r"""Returns what the words after a command ask for.

    Arguments:
        command: `distill` or `teach`.
        arguments: The words.
        shown: The command that was typed, if it is another one that takes a preset.

    Raises:
        ConfigError: There is no such preset, method or file, or an option is out of its range.
    """
    table = TEACHERS if command == "teach" else PRESETS
    head = request_parser(command)
    if COLLECTING.get():
        raise Collected(head)
    # Only what stands first can be the preset: later words are values of options.
    first = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    given, rest = head.parse_known_args(arguments[len(first) :])
    wanted = first[0] if first else None
    named = any(word.split("=")[0] == "--teacher" for word in rest)
    if wanted is None and given.config is None and named:
        wanted = "images"
    code, own = None, code_in(rest)
    if given.method is not None and is_source(given.method):
        code = load_method(given.method)
    name = given.method if code is None else None
    if given.config is not None:
        if wanted is not None:
            raise ConfigError("give a preset or --config, not both")
        codes = [] if code is None else [code]
        accept = given.accept_changed_code
        task = load_task(given.config, codes, own=own, accept_changed=accept)
        if code is not None and task.code is None:
            raise ConfigError(
                f"{given.config} is of the method {task.method!r}: leave out --method, or give a "
                "preset in place of --config"
            )
        if task.command != command:
            raise ConfigError(f"{given.config} is of `vardiu {task.command}`, not of {command}")
    elif wanted is not None:
        if is_source(wanted):
            own["source"] = load_code(wanted)
        task = task_from_preset(command, wanted, name, code, own.get("source"))
    elif any(word in ("-h", "--help") for word in rest):
        print(help_of(shown or command, table))
        raise SystemExit(0)
    else:
        raise ConfigError(f"which preset? {nearest('', table)}")
    prefix = "teach-" if command == "teach" else ""
    other = task.method != method_of_preset(command, task)
    other = other and task.preset not in ({} if code is None else code.method.presets)
    out = Path(given.out or f"runs/{prefix}{task.preset}{f'-{task.method}' if other else ''}")
    task = dataclasses.replace(task, own=task.own or own)
    task = _of_the_run(task, out, given.accept_changed_code)
    task = override_settings(task, rest, out, shown)
    refuse_unnamed_code(task, given.config or f"the preset {task.preset}")
    return Request(task, out, given.dry_run, tuple(given.track or ()))


def request_parser(command: str) -> Parser:
    r"""Returns the parser of what a command has beside its preset and the settings."""
    head = Parser(prog=command, add_help=False)
    head.add_argument("--config")
    head.add_argument("--method")
    head.add_argument("--accept-changed-code", action="store_true")
    head.add_argument("--out")
    head.add_argument("--dry-run", action="store_true")
    head.add_argument("--track", action="append")
    return head


def method_of_preset(command: str, task: Task) -> str | None:
    r"""Returns the name of the method of a task's preset; `None` where there is no such preset."""
    table = TEACHERS if command == "teach" else PRESETS
    preset = task.preset if getattr(task.problem, "source", None) is None else TUNED
    return table[preset].method if preset in table else None


def override_settings(
    task: Task, arguments: list[str], out: Path, shown: str | None = None
) -> Task:
    r"""Returns the task with the fields that the command line names."""
    methods = ", ".join(name for name, method in METHODS.items() if fits(task.command, method))
    command = shown or task.command
    about = (
        f"Preset {task.preset!r}, method {task.method}. Besides these: --out FOLDER ({out}), "
        f"--method NAME ({methods}) or FILE.py:NAME (a method of your own), --config FILE (a "
        "run's config.yaml), --dry-run, --track tensorboard|wandb|trackio|mlflow."
    )
    rows = {"method": task.settings, "problem": task.problem, "run": task.run}
    if command == "probe":
        about = f"The teacher of the preset {task.preset!r}: its error at each noise level. "
        about += "And of this command: --json."
        rows = {"problem": task.problem, "run": task.run}
    elif command == "estimate":
        about += " And of this command: --json, --teach."
    found = parse_rows(
        rows,
        arguments,
        f"vardiu {command} {task.preset}",
        about,
        list(request_parser(task.command)._option_string_actions),
    )
    settings = found.get("method", task.settings)
    started = found["run"].start_from is not None
    check_asked(task.method, settings, arguments, started=started)
    asked = frozenset(
        word.partition("=")[0].removeprefix("--").replace("-", "_")
        for word in arguments
        if word.startswith("--")
    )
    problem = _of_its_data(task, _of_the_preset(task, found["problem"]), asked)
    refuse_fresh_noise(task.method, settings, problem)
    changes = {"settings": settings, "problem": problem, "run": found["run"], "asked": asked}
    return dataclasses.replace(task, **changes)


def _of_its_data(task: Task, problem: ProblemSettings, asked: Collection[str]) -> ProblemSettings:
    r"""Returns a problem without what a preset holds out of its own data, where the command line
    names other data and nothing that is held out of them."""
    if not isinstance(problem, ImageSettings) or not isinstance(task.problem, ImageSettings):
        return problem
    same = "held_out" in asked or problem.data == task.problem.data
    return problem if same else dataclasses.replace(problem, held_out=None)


def _of_the_preset(task: Task, problem: ProblemSettings) -> ProblemSettings:
    r"""Returns a problem, if it is on the density of its preset.

    Raises:
        ConfigError: It is another density, on the preset's noise levels.
    """
    if not isinstance(problem, DensitySettings):
        return problem
    assert isinstance(task.problem, DensitySettings)
    if problem.source is not None and task.problem.source is None:
        raise ConfigError(
            f"--source {problem.source}: the noise levels of {task.preset!r} are those of "
            f"{task.problem.name}; take `vardiu {task.command} {problem.source} --method "
            f"{task.method}`, whose levels fit"
        )
    if problem.name == task.problem.name or problem.source is not None:
        return problem
    name = known(problem.name, [*DENSITIES, "mixture"], "density")
    if name == task.problem.name:
        return dataclasses.replace(problem, name=name)
    raise ConfigError(
        f"--name {name}: the noise levels of {task.preset!r} are those of "
        f"{task.problem.name}; take `vardiu {task.command} {name} --method {task.method}`, whose "
        "levels fit"
    )


def chosen_names(text: str | None, names: Iterable[str], option: str) -> tuple[str, ...]:
    r"""Returns the names that an option lists, all of them without it.

    Raises:
        ConfigError: A name is not known, or there twice.
    """
    names = tuple(names)
    if text is None:
        return names
    found = [known(part.strip(), names, f"value of {option}:") for part in text.split(",")]
    for name in found:
        if found.count(name) > 1:
            raise ConfigError(f"{option} names {name} twice: name it once")
    return tuple(found)
