r"""`vardiu studio`: a page on this machine that shows runs and carries out commands."""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path

from ..errors import ConfigError, shown
from ..problems.base import Problem
from ..runs.task import Task
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..studio.app import serve
from ..studio.students import teacher_of
from .console import console
from .folders import shipped_student
from .options import Parser, add_student_options

__all__: list[str] = []


def parser() -> Parser:
    made = Parser(prog="studio")
    made.add_argument("folders", nargs="*", metavar="FOLDER", help="folders of runs; runs")
    made.add_argument("--port", type=int, default=8321, help="the port; 0 for any free one (8321)")
    made.add_argument("--host", default="127.0.0.1", help="the address; loopback (127.0.0.1)")
    made.add_argument(
        "--allow-other-host",
        action="store_true",
        help="listen on an address that other machines reach; the token goes unencrypted",
    )
    add_student_options(made)
    return made


def is_loopback(host: str) -> bool:
    r"""Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def code_words(chosen: argparse.Namespace) -> list[str]:
    r"""Returns the words of the command line that name code, for commands that the page starts."""
    words = [f"--method={source}" for source in chosen.method or ()]
    named = {"source": chosen.source, "network": chosen.network}
    words += [f"--{name}={value}" for name, value in named.items() if value is not None]
    return [*words, *(["--accept-changed-code"] if chosen.accept_changed_code else [])]


def studio(arguments: list[str]) -> None:
    r"""Serves the page until Ctrl-C."""
    chosen = parser().parse_args(arguments)
    if not 0 <= chosen.port < 2**16:
        raise ConfigError(f"--port must be within 0 and 65,535, got {chosen.port:,}")
    if not is_loopback(chosen.host) and not chosen.allow_other_host:
        raise ConfigError(
            f"--host {shown(chosen.host)} is reached from other machines, and whoever has the "
            "token may run commands here: leave it out, or add --allow-other-host"
        )
    roots = [Path(name) for name in chosen.folders or ["runs"]]
    for root in roots:
        if chosen.folders and not root.is_dir():
            raise ConfigError(f"{shown(root)} is no folder: give a folder of runs")
    named = chosen.teacher

    def load(folder: RunFolder) -> tuple[Generator, Problem, Task]:
        chosen.teacher = teacher_of(folder, named or "") or None
        student, problem, task = shipped_student(folder, chosen)
        return problem.with_prompts(student), problem, task

    def tell(address: str) -> None:
        console.print(f"studio:  {address}\nstop it with Ctrl-C", highlight=False, soft_wrap=True)

    where = {"host": chosen.host, "port": chosen.port}
    serve(roots, load, **where, teacher=named or "", options=code_words(chosen), tell=tell)


COMMANDS = {"studio": studio}
