r"""What there is, kept in a file: `vardiu list` and `vardiu completion` read it in milliseconds,
where the methods themselves, and torch with them, take seconds to import.

`python -m vardiu.cli.stock` writes the file, and a test holds it to the code. It is not read where
it cannot be right: if an installed distribution brings methods, or the package has other commands
or modules of methods than the file was made of, the code is asked.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from .main import COMMANDS

__all__ = ["KEPT", "SHELLS", "inventory", "modules_of_methods"]


KEPT = Path(__file__).with_name("inventory.json")


SHELLS = ("bash", "zsh", "fish")


def inventory() -> dict[str, Any]:
    r"""Returns `there is` (methods, presets, teachers, data, exports) and `words`, by command the
    first words and the options that may follow it."""
    if KEPT.is_file() and not importlib.metadata.entry_points(group="vardiu.methods"):
        kept: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
        if kept["modules"] == modules_of_methods() and list(kept["words"]) == list(COMMANDS):
            return kept
    # By name: importing it is what takes seconds.
    found: dict[str, Any] = importlib.import_module(f"{__package__}.stock").counted()
    return found


def modules_of_methods() -> list[str]:
    r"""Returns the names of the files and folders of methods."""
    folder = Path(__file__).parent.parent / "methods"
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    )
