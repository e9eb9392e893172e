r"""The help of commands that take a preset, where none is named."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from ..runs.presets import PresetRow
from .main import COMMANDS
from .parser import sentence

__all__ = ["help_of"]


PRESET = (
    "A preset is a named row of settings: a problem, a method, and a value for each of their "
    "options. Options change single ones. `vardiu {command} PRESET --help` prints those of a "
    "preset, with its values."
)


# What else than a preset may stand there.
FORMS: Mapping[str, tuple[str, ...]] = {
    "teach": ("POINTS.csv [options]", "--config FILE [options]"),
    "distill": (
        "POINTS.csv [options]",
        "FILE.py:DENSITY [options]",
        "--teacher SOURCE [--data SOURCE] [options]",
        "--config FILE [options]",
    ),
    "estimate": (
        "--teacher SOURCE [--data SOURCE] [options]",
        "--teach PRESET [options]",
    ),
    "probe": ("--teacher SOURCE [--data SOURCE] [options]",),
}


METHOD = """\
  --method NAME         another method on the same problem
  --method FILE.py:NAME a method of your own
  --config FILE         the config.yaml of a run, in place of a preset"""


RUN = """\
  --out FOLDER          the folder of the run
  --dry-run             print the settings, and do nothing
  --track NAME          also tensorboard, wandb, trackio or mlflow; repeatable
  --seed INT, --device NAME, --threads INT, --steps INT, --batch INT, ..."""


PROBE = """\
  --teacher SOURCE      exact, kde or learned of a density; of images a folder,
                        a hub id, an EDM pickle or FILE.py:NAME
  --data SOURCE         clean images to try it on; else its own samples
  --json                print the numbers as JSON
  --seed INT            the seed of data and noise"""


ESTIMATE = """\
  --json                print the numbers as JSON
  --teach               estimate `vardiu teach` in place of `vardiu distill`
  --seed INT, --device NAME, --threads INT, --steps INT, --batch INT, ..."""


OPTIONS: Mapping[str, tuple[str, ...]] = {
    "teach": (METHOD, RUN),
    "distill": (METHOD, RUN),
    "estimate": (METHOD, ESTIMATE),
    "probe": (PROBE,),
}


def help_of(command: str, table: Mapping[str, PresetRow]) -> str:
    r"""Returns the help of a command that takes a preset, where none is named."""
    about = COMMANDS[command].about
    return "\n".join(
        [
            f"usage: vardiu {command} PRESET [options]",
            *(f"       vardiu {command} {form}" for form in FORMS[command]),
            "",
            sentence(about),
            "",
            *textwrap.wrap(PRESET.format(command=command), 79),
            "",
            "options of every preset:",
            *OPTIONS[command],
            "",
            "presets:",
            *(line for name, row in table.items() for line in described(name, row.about)),
            "",
            "Hyphens and underscores are alike: two-moons is two_moons.",
        ]
    )


def described(name: str, about: str) -> list[str]:
    r"""Returns the lines of a name and what it is, in two columns of 79 characters."""
    lines = textwrap.wrap(about, 79 - 24)
    first = f"  {name:<22}{lines[0]}" if len(name) < 22 else f"  {name}\n{'':24}{lines[0]}"
    return [*first.split("\n"), *(f"{'':24}{line}" for line in lines[1:])]
