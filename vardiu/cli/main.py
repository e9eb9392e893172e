r"""The command line. Only a chosen command is imported: `--help` does not pay for torch."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

__all__ = ["main"]


class Command(NamedTuple):
    r"""A command: the module here that has its function, how it is called, what it does."""

    module: str
    usage: str
    about: str


COMMANDS: Mapping[str, Command] = {
    "list": Command("list", "", "methods, presets, teachers and densities"),
    "teach": Command("runs", "PRESET [options]", "train a teacher denoiser on data"),
    "distill": Command("runs", "PRESET [options]", "turn a teacher into a one-step generator"),
    "estimate": Command(
        "estimate", "PRESET [options]", "memory, hours and disk, before it starts"
    ),
    "cache": Command(
        "cache", "--teacher T [options]", "encode prompts and images once, before a training"
    ),
    "sample": Command("sample", "RUN [options]", "draw samples of a student, one call each"),
    "evaluate": Command(
        "evaluate", "RUN [options]", "measure a student or a teacher, with error bars"
    ),
    "guide": Command(
        "guide", "RUN [options]", "a guided student's quality against strength, at equal calls"
    ),
    "restore": Command("restore", "[options]", "images of what was measured, by a teacher"),
    "compare": Command("compare", "RUN RUN ... [options]", "one table and plot of several runs"),
    "bake-off": Command("bake_off", "CONTEST [options]", "methods under equal budgets, seeds"),
    "probe": Command("probe", "PRESET [options]", "does the teacher of a preset denoise?"),
    "export": Command("export", "RUN --to FORM", "diffusers, ONNX, safetensors or an adapter"),
    "push": Command("push", "RUN user/name", "upload an exported student to the hub"),
    "upscale": Command("upscale", "RUN IMAGE ... [options]", "enlarge photographs of any size"),
    "studio": Command("studio", "[FOLDER ...] [options]", "a page on this machine: runs, samples"),
    "cite": Command("cite", "RUN", "print the BibTeX of what a run used"),
    "completion": Command("completion", "SHELL", "a script for bash, zsh or fish"),
}


def usage() -> str:
    r"""Returns the text of `vardiu --help`."""
    rows = [
        f"  {f'{name} {command.usage}':<32}{command.about}" for name, command in COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: vardiu COMMAND ...",
            "",
            "One-step generators from diffusion models.",
            "",
            *rows,
            "",
            "vardiu COMMAND --help tells a command's options; vardiu --version the version.",
            "The same command again goes on where it stopped.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    r"""Runs a command.

    Returns:
        The exit status: 0; 1 for a run that failed; 2 for an input that is wrong; 130 for a run
        that was stopped and saved.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a sign that a terminal does not have is no failure
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        from .. import __version__

        print(f"vardiu {__version__}")
        return 0
    name, rest = arguments[0], [_at_home(word) for word in arguments[1:]]
    from ..errors import ConfigError, known

    try:
        name = known(name, COMMANDS, "command")
    except ConfigError as error:
        print(f"vardiu: {error}", file=sys.stderr)
        return 2
    try:
        with importing():
            from ..runs.allocator import keep_freed_memory
            from ..runs.errors import guarded

            module = importlib.import_module(f".{COMMANDS[name].module}", __package__)
    except KeyboardInterrupt:  # importing takes seconds
        print(f"vardiu {name}: stopped before it began", file=sys.stderr)
        return 130
    keep_freed_memory()
    command: Callable[[list[str]], None] = module.COMMANDS[name]
    return guarded(command, name, rest)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    r"""Has a command's modules imported, torch for the first time, without looking for garbage.

    A collector visits all objects again and again while modules, which live as long as the
    process, make a million of them: a quarter of the time of `import torch`. They are set apart
    from what it visits later.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _at_home(word: str) -> str:
    r"""Returns a word of the command line with the home folder for `~/`: a shell puts it into
    `--out ~/run` and leaves `--out=~/run` as it is."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{os.path.expanduser(value)}" if value.startswith("~/") else word


if __name__ == "__main__":
    sys.exit(main())
