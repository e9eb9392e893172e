r"""From words on the command line to a task."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import tyro

from ..errors import ConfigError, nearest
from ..methods import METHODS, Code, load_method
from ..runs.presets import PRESETS, TEACHERS
from ..runs.task import (
    ROLES,
    Task,
    begun_with,
    fits,
    kept_code,
    load_task,
    task_from_preset,
)
from ..storage.code import OwnCode, is_source, load_code, not_named, recognised
from ..storage.run_folder import RunFolder

__all__ = ["Parser", "Request", "chosen_names", "parse_request"]


class Parser(argparse.ArgumentParser):
    r"""Argparse, with errors of the library's kind."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See vardiu {self.prog} --help")


class Request(NamedTuple):
    r"""What the command line of `vardiu teach` or `vardiu distill` asks for.

    Arguments:
        task: The task, with all options.
        out: The folder of its run.
        dry_run: Whether its settings are only to be printed.
    """

    task: Task
    out: Path
    dry_run: bool


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
        "--accept-changed-code",
        action="store_true",
        help="take that file although it was changed since the run",
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
    path = folder.file("config.yaml")
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
        source = getattr(task.problem, role, None)
        if isinstance(source, str) and is_source(source) and role not in task.own:
            raise ConfigError(not_named(source, f"--{role}", where))


# ---------------------------------------------------------------- teach, distill


def parse_request(command: str, arguments: list[str]) -> Request:
    r"""Returns what the words after a command ask for.

    Raises:
        ConfigError: There is no such preset, method or file, or an option is out of its range.
    """
    table = TEACHERS if command == "teach" else PRESETS
    head = Parser(prog=command, add_help=False)
    head.add_argument("--config")
    head.add_argument("--method")
    head.add_argument("--accept-changed-code", action="store_true")
    head.add_argument("--out")
    head.add_argument("--dry-run", action="store_true")
    # Only what stands first can be the preset: later words are values of options.
    first = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    known, rest = head.parse_known_args(arguments[len(first) :])
    wanted = first[0] if first else None
    named = any(word.split("=")[0] == "--teacher" for word in rest)
    if wanted is None and known.config is None and named:
        wanted = "images"
    helping = any(word in ("-h", "--help") for word in rest)
    code, own = None, code_in(rest)
    if known.method is not None and is_source(known.method):
        code = load_method(known.method)
    name = known.method if code is None else None
    if known.config is not None:
        if wanted is not None:
            raise ConfigError("give a preset or --config, not both")
        codes = [] if code is None else [code]
        accept = known.accept_changed_code
        task = load_task(known.config, codes, own=own, accept_changed=accept)
        if code is not None and task.code is None:
            raise ConfigError(
                f"{known.config} is of the method {task.method!r}: leave out --method, or give a "
                "preset in place of --config"
            )
        if task.command != command:
            raise ConfigError(f"{known.config} is of `vardiu {task.command}`, not of {command}")
    elif wanted is not None:
        task = task_from_preset(command, wanted, name, code)
    elif helping:
        task = task_from_preset(command, next(iter(table)), name, code)
    else:
        raise ConfigError(f"which preset? {nearest('', table)}")
    prefix = "teach-" if command == "teach" else ""
    other = known.method not in (None, method_of_preset(command, task.preset))
    other = other and task.preset not in ({} if code is None else code.method.presets)
    out = Path(known.out or f"runs/{prefix}{task.preset}{f'-{task.method}' if other else ''}")
    task = dataclasses.replace(task, own=task.own or own)
    task = override_settings(_of_the_run(task, out, known.accept_changed_code), rest, out)
    refuse_unnamed_code(task, known.config or f"the preset {task.preset}")
    return Request(task, out, known.dry_run)


def method_of_preset(command: str, preset: str) -> str | None:
    r"""Returns the name of a preset's own method; `None` where there is no such preset."""
    table = TEACHERS if command == "teach" else PRESETS
    return table[preset].method if preset in table else None


def override_settings(task: Task, arguments: list[str], out: Path) -> Task:
    r"""Returns the task with the fields that the command line names."""
    # Without a name of their own the groups' fields are options of the command itself.
    top = tyro.conf.arg(name="")
    fields = [
        ("method", Annotated[type(task.settings), top], task.settings),
        ("problem", Annotated[type(task.problem), top], task.problem),
        ("run", Annotated[type(task.run), top], task.run),
    ]
    row = dataclasses.make_dataclass(
        "Options",
        [(name, kind, dataclasses.field(default=value)) for name, kind, value in fields],
        frozen=True,
    )
    methods = ", ".join(name for name, method in METHODS.items() if fits(task.command, method))
    about = (
        f"Preset {task.preset!r}, method {task.method}. Besides these: --out FOLDER ({out}), "
        f"--method NAME ({methods}) or FILE.py:NAME (a method of your own), --config FILE (a "
        "run's config.yaml), --dry-run."
    )
    chosen: Any = tyro.cli(
        row,
        prog=f"vardiu {task.command} {task.preset}",
        description=about,
        args=arguments,
        console_outputs=True,
    )
    return dataclasses.replace(
        task, settings=chosen.method, problem=chosen.problem, run=chosen.run
    )


def chosen_names(text: str | None, known: Iterable[str], option: str) -> tuple[str, ...]:
    r"""Returns the names that an option lists, all of them without it.

    Raises:
        ConfigError: A name is not known.
    """
    known = tuple(known)
    chosen = known if text is None else tuple(part.strip() for part in text.split(","))
    for name in chosen:
        if name not in known:
            raise ConfigError(f"{option}: unknown {name!r}; {nearest(name, known)}")
    return chosen
