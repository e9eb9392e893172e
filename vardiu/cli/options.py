r"""From words on the command line to a task."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import tyro

from ..errors import ConfigError, nearest
from ..runs.presets import PRESETS, TEACHERS
from ..runs.task import Task, load_task, task_from_preset

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


def parse_request(command: str, arguments: list[str]) -> Request:
    r"""Returns what the words after a command ask for.

    Raises:
        ConfigError: There is no such preset, method or file, or an option is out of its range.
    """
    table = TEACHERS if command == "teach" else PRESETS
    head = Parser(prog=command, add_help=False)
    head.add_argument("--config")
    head.add_argument("--method")
    head.add_argument("--out")
    head.add_argument("--dry-run", action="store_true")
    # Only what stands first can be the preset: later words are values of options.
    first = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    known, rest = head.parse_known_args(arguments[len(first) :])
    wanted = first[0] if first else None
    if wanted is None and any(word.split("=")[0] == "--teacher" for word in rest):
        wanted = "images"
    helping = any(word in ("-h", "--help") for word in rest)
    if known.config is not None:
        if wanted is not None:
            raise ConfigError("give a preset or --config, not both")
        task = load_task(known.config)
        if task.command != command:
            raise ConfigError(f"{known.config} is of `vardiu {task.command}`, not of {command}")
    elif wanted is not None:
        task = task_from_preset(command, wanted, known.method)
    elif helping:
        task = task_from_preset(command, next(iter(table)), known.method)
    else:
        raise ConfigError(f"which preset? {nearest('', table)}")
    prefix = "teach-" if command == "teach" else ""
    name = (
        task.preset
        if known.method in (None, method_of_preset(command, task.preset))
        else (f"{task.preset}-{task.method}")
    )
    out = Path(known.out or f"runs/{prefix}{name}")
    return Request(override_settings(task, rest, out), out, known.dry_run)


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
    about = (
        f"Preset {task.preset!r}, method {task.method}. Besides these: --out FOLDER ({out}), "
        "--method NAME, --config FILE (a run's config.yaml), --dry-run."
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
