r"""From what is chosen on the page *start* to the exact words of a command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, shown
from ..methods import METHODS
from ..runs.presets import PRESETS

__all__ = ["KINDS", "choices", "split", "words_of"]


# What one starts from, and the fields of each that become options.
KINDS: Mapping[str, tuple[str, ...]] = {
    "density": ("preset",),
    "images": ("data", "teacher"),
    "pipeline": ("teacher", "data"),
    "function": ("teacher", "data"),
}


ADVICE: Mapping[str, str] = {
    "density": "A density of the plane: minutes on a CPU, its teacher is exact or on board.",
    "images": "Images without a model: vardiu teach trains a teacher of them first; then its "
    "folder is the teacher of a student.",
    "pipeline": "A folder or hub id of diffusers, or an EDM pickle; probe it before you distil.",
    "function": "FILE.py:NAME of your own code, which is executed; probe it before you distil.",
}


def choices() -> dict[str, Any]:
    r"""Returns what the page *start* offers."""
    return {
        "presets": {name: row.about for name, row in PRESETS.items()},
        "methods": [name for name, method in METHODS.items() if not method.teaches],
        "kinds": {kind: ADVICE[kind] for kind in KINDS},
    }


def words_of(chosen: Mapping[str, Any], action: str) -> list[str]:
    r"""Returns the words after `vardiu`.

    Arguments:
        chosen: Of the page: `kind`, `preset`, `teacher`, `data`, `method`, `out`, `more`.
        action: `distill`, `probe` or `estimate`.

    Raises:
        ConfigError: Something is missing, or is no text.
    """
    if action not in ("distill", "probe", "estimate"):
        raise ConfigError(f"the page starts distill, probe and estimate, not {shown(action)}")
    if any(not isinstance(value, str) for value in chosen.values()):
        raise ConfigError("what is chosen on the page must be texts")
    kind = chosen.get("kind", "")
    if kind not in KINDS:
        raise ConfigError(f"start from one of {', '.join(KINDS)}, got {shown(kind)}")
    given = {name: value.strip() for name, value in chosen.items() if value.strip()}
    if kind == "images" and "teacher" not in given:
        return taught(given, action)
    first = "teacher" if kind == "images" else KINDS[kind][0]
    if first not in given:
        raise ConfigError(f"give the {first}")
    words = [action, given["preset"]] if kind == "density" else [action]
    if given.get("preset", "").startswith("-"):
        raise ConfigError("a preset does not start with a hyphen")
    if kind != "density":
        words += [f"--teacher={given['teacher']}"]
        words += [f"--data={given['data']}"] if "data" in given else []
    if action != "probe" and "method" in given:
        words += [f"--method={given['method']}"]
    if action == "distill" and "out" in given:
        words += [f"--out={given['out']}"]
    return [*words, *split(given.get("more", ""))]


def taught(given: Mapping[str, str], action: str) -> list[str]:
    r"""Returns the command that trains a teacher of images."""
    if "data" not in given:
        raise ConfigError("give the folder of your images")
    if action == "probe":
        raise ConfigError("there is no teacher to probe yet: vardiu teach trains one")
    words = ["teach", "patches"] if action == "distill" else ["estimate", "--teach", "patches"]
    words += ["--name=own", f"--data={given['data']}"]
    words += [f"--out={given['out']}"] if action == "distill" and "out" in given else []
    return [*words, *split(given.get("more", ""))]


def split(typed: str) -> list[str]:
    r"""Returns further options as they were typed.

    Raises:
        ConfigError: A quotation is not closed.
    """
    try:
        return shlex.split(typed)
    except ValueError as error:
        raise ConfigError(f"the further options cannot be read: {error}") from error
