r"""`vardiu completion`: a script with which a shell completes commands, presets and options."""

from __future__ import annotations

from ..errors import known
from .inventory import SHELLS, inventory
from .main import COMMANDS as TABLE
from .parser import Parser

__all__ = ["completion"]


def completion(arguments: list[str]) -> None:
    r"""Prints the script of a shell."""
    parser = Parser(prog="completion")
    parser.add_argument("shell", help=f"one of: {', '.join(SHELLS)}")
    chosen = parser.parse_args(arguments)
    print(script(known(chosen.shell, SHELLS, "shell")), end="")


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
    for command, follows in inventory()["words"].items():
        first, options = follows["first"], follows["options"]
        row = f'first="{" ".join(first)}"; options="{" ".join(options)} --help"'
        cases.append(f"      {command}) {row} ;;")
        for flag, choices in options.items():
            if choices:
                values.append(f'      "{command} {flag}") words="{" ".join(choices)}" ;;')
    return BASH.format(commands=" ".join(TABLE), cases="\n".join(cases), values="\n".join(values))


def fish_script() -> str:
    r"""Returns the script of fish: a line a word or option."""
    lines = []
    words = inventory()["words"]
    for command, row in TABLE.items():
        lines.append(f"complete -c vardiu -n __fish_use_subcommand -a {command} -d '{row.about}'")
        first, options = words[command]["first"], words[command]["options"]
        seen = f"complete -c vardiu -n '__fish_seen_subcommand_from {command}'"
        if first:
            lines.append(f"{seen} -a '{' '.join(first)}'")
        for flag, choices in options.items():
            values = f" -xa '{' '.join(choices)}'" if choices else ""
            lines.append(f"{seen} -l {flag.removeprefix('--')}{values}")
    return "\n".join(lines) + "\n"


COMMANDS = {"completion": completion}
