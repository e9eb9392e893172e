r"""The inventory as the code has it: this imports every method, and with them torch.

`python -m vardiu.cli.stock` writes `vardiu/cli/inventory.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
from collections.abc import Mapping
from typing import Any

from ..data.densities import DENSITIES
from ..data.sources import BOARD
from ..export import EXPORTS
from ..methods import METHODS
from ..runs.presets import PRESETS, TEACHERS, PresetRow
from ..runs.task import PROBLEM_KINDS, RunSettings, fits
from ..teachers.readers import READERS
from . import main
from .inventory import KEPT, SHELLS, modules_of_methods
from .parser import Collected, collecting
from .rows import options_of
from .tables import needs

__all__ = ["counted", "there_is", "words_of"]


# What an option takes, where its parser does not say it.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "--to": tuple(EXPORTS),
    "--method": tuple(METHODS),
    "--device": ("auto", "cpu", "gpu", "cuda", "mps"),
}


def counted() -> dict[str, Any]:
    r"""Returns the inventory: what there is, and the words that may follow each command."""
    words: dict[str, Any] = {}
    for command in main.COMMANDS:
        first, options = words_of(command)
        words[command] = {
            "first": list(first),
            "options": {flag: list(choices) for flag, choices in options.items()},
        }
    return {"modules": modules_of_methods(), "there is": there_is(), "words": words}


def there_is() -> dict[str, Any]:
    r"""Returns what there is, for programs: rows by name."""

    def presets(table: Mapping[str, PresetRow]) -> dict[str, dict[str, str]]:
        return {
            name: {"method": row.method, "problem": row.problem.name, "about": row.about}
            for name, row in table.items()
        }

    return {
        "methods": {
            name: {
                "title": method.title,
                "heading": method.heading,
                "year": method.year,
                "address": method.address,
                "trains": list(method.networks),
                "needs": dataclasses.asdict(method.needs),
                "needs in words": needs(method),
            }
            for name, method in METHODS.items()
        },
        "broken methods": dict(METHODS.broken),
        "distill": presets(PRESETS),
        "teach": presets(TEACHERS),
        "densities": list(DENSITIES),
        "teachers": {name: reader.about for name, reader in READERS.items()},
        "data": list(BOARD),
        "exports": {name: exporter.about for name, exporter in EXPORTS.items()},
    }


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


if __name__ == "__main__":
    KEPT.write_text(json.dumps(counted(), indent=1, ensure_ascii=False) + "\n")
