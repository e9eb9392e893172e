r"""`vardiu completion`: a script with which a shell completes commands, presets and options."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from typing import Any

from ..errors import known
from ..export import EXPORTS
from ..methods import METHODS
from ..runs.presets import PRESETS, TEACHERS
from ..runs.task import PROBLEM_KINDS, RunSettings, fits
from . import main
from .options import Collected, Parser, collecting
from .rows import options_of

__all__ = ["completion", "words_of"]


SHELLS = ("bash", "zsh", "fish")


# What an option takes, where its parser does not say it.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "--to": tuple(EXPORTS),
    "--method": tuple(METHODS),
    "--device": ("auto", "cpu", "gpu", "cuda", "mps"),
}


def completion(arguments: list[str]) -> None:
    r"""Prints the script of a shell."""
    parser = Parser(prog="completion")
    parser.add_argument("shell", help=f"one of: {', '.join(SHELLS)}")
    chosen = parser.parse_args(arguments)
    print(script(known(chosen.shell, SHELLS, "shell")), end="")


def words_of(command: str) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    r"""Returns what may follow a command: its first words, and its options with their choices."""
    module = importlib.import_module(f".{main.COMMANDS[command].module}", __package__)
    options: dict[str, tuple[str, ...]] = {}
    try:
        with collecting():
            module.COMMANDS[command]([])
    except Collected as found:
        options |= flags_of(found.parser)
    first: tuple[str, ...] = ()
    if command in ("teach", "distill", "estimate", "probe"):
        first = tuple(TEACHERS if command == "teach" else PRESETS)
        rows: list[Any] = [*PROBLEM_KINDS.values(), RunSettings]
        if command != "probe":
            shape = "teach" if command == "teach" else "distill"
            rows += [m.settings for m in METHODS.values() if fits(shape, m)]
        for row in rows:
            options |= {option.flag: option.choices for option in options_of(row)}
    elif command == "completion":
        first = SHELLS
    chosen = {flag: CHOICES[flag] for flag in options if flag in CHOICES}
    return first, options | chosen


def flags_of(parser: argparse.ArgumentParser) -> dict[str, tuple[str, ...]]:
    r"""Returns the options of a parser with their choices."""
    return {
        flag: tuple(map(str, action.choices or ()))
        for flag, action in parser._option_string_actions.items()
        if flag.startswith("--") and flag != "--help"
    }


def script(shell: str) -> str:
    r"""Returns the script of a shell."""
    if shell == "fish":
        return fish_script()
    # Zsh runs bash's functions, if it is asked to.
    head = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return head + bash_script()


BASH = """\
_vardiu() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  local command="${{COMP_WORDS[1]}}" words="" first="" options=""
  if (( COMP_CWORD == 1 )); then
    words="{commands}"
  else
    case "$command" in
{cases}
    esac
    case "$command $before" in
{values}
    esac
    if [[ -z "$words" && "$current" == -* ]]; then words="$options"; fi
    if [[ -z "$words" && $COMP_CWORD -eq 2 ]]; then words="$first"; fi
  fi
  if [[ -n "$words" ]]; then
    COMPREPLY=( $(compgen -W "$words" -- "$current") )
  fi
  if [[ ${{#COMPREPLY[@]}} -eq 0 ]]; then
    COMPREPLY=( $(compgen -f -- "$current") )
  fi
}}
complete -o filenames -F _vardiu vardiu
"""


def bash_script() -> str:
    r"""Returns the script of bash: words of a command, values of an option, else files."""
    cases, values = [], []
    for command in main.COMMANDS:
        first, options = words_of(command)
        row = f'first="{" ".join(first)}"; options="{" ".join(options)} --help"'
        cases.append(f"      {command}) {row} ;;")
        for flag, choices in options.items():
            if choices:
                values.append(f'      "{command} {flag}") words="{" ".join(choices)}" ;;')
    return BASH.format(
        commands=" ".join(main.COMMANDS), cases="\n".join(cases), values="\n".join(values)
    )


def fish_script() -> str:
    r"""Returns the script of fish: a line a word or option."""
    lines = []
    for command, row in main.COMMANDS.items():
        lines.append(f"complete -c vardiu -n __fish_use_subcommand -a {command} -d '{row.about}'")
        first, options = words_of(command)
        seen = f"complete -c vardiu -n '__fish_seen_subcommand_from {command}'"
        if first:
            lines.append(f"{seen} -a '{' '.join(first)}'")
        for flag, choices in options.items():
            values = f" -xa '{' '.join(choices)}'" if choices else ""
            lines.append(f"{seen} -l {flag.removeprefix('--')}{values}")
    return "\n".join(lines) + "\n"


COMMANDS = {"completion": completion}
