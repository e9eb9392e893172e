r"""Rows that a benchmark keeps as it measures them: the same command goes on where it stopped."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def command_of(program: str, parser: argparse.ArgumentParser, names: Sequence[str]) -> str:
    """The command that was given: the program, and of these options those that are no defaults."""
    chosen = parser.parse_args()
    given = {
        name: value
        for name in names
        if (value := getattr(chosen, name)) != parser.get_default(name)
    }
    return " ".join([program, *(f"--{name} {value}" for name, value in given.items())])


def rows_before(out: Path, about: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The rows that a file holds under a name; it must be about the same, or not be there."""
    before = json.loads(out.read_text()) if out.exists() else about
    if differing := [key for key, value in about.items() if before.get(key) != value]:
        raise SystemExit(f"{out} is of other {', '.join(differing)}: name another file by --out")
    rows: dict[str, Any] = before.get(name, {})
    return rows
