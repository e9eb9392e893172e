r"""What a finished run has shipped, where it was lost or damaged since: it is made again from the
checkpoint."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path

from .. import models
from ..denoisers.lora_files import ADAPTER_FILES
from ..errors import RunError, shown
from ..storage.run_folder import RunFolder

__all__ = ["damaged_models", "set_aside"]


def damaged_models(folder: RunFolder, command: str, adapted: bool = False) -> dict[Path, str]:
    r"""Returns which of a finished run's models are lost or damaged, and how, a line each.

    Arguments:
        folder: The run's folder, of which this process is the only writer.
        command: `distill` or `teach`.
        adapted: Whether the run has shipped an adapter beside its student.

    Raises:
        RunError: There are no checkpoints to make it again from.
    """
    places = [folder.file("teacher" if command == "teach" else "student")]
    places += sorted(folder.file("students").glob("[!.]*"))
    damaged = {place: why for place in places if (why := models.damage_of(place))}
    if adapted and (why := _adapter_damage(adapter := folder.file("adapter"))):
        damaged[adapter] = why
    if damaged and not any(folder.file("checkpoints").glob("*/*/manifest.json")):
        raise RunError(
            f"{next(iter(damaged.values()))}, and the run has no checkpoint to make it again "
            "from. Bring it back from a copy, or give another folder with --out"
        )
    return damaged


def set_aside(damaged: Mapping[Path, str]) -> tuple[str, ...]:
    r"""Keeps what is left of damaged models beside their places, so that a run that goes on writes
    them anew; returns a line for each."""
    return tuple(f"{why}{_kept(place)}" for place, why in damaged.items())


def _adapter_damage(place: Path) -> str:
    r"""Returns what of an adapter is not there; empty where all is."""
    missing = [name for name in ADAPTER_FILES if not (place / name).is_file()]
    return f"{shown(place)} holds no adapter: {missing[0]} is missing" if missing else ""


def _kept(place: Path) -> str:
    r"""Gives what is left of a model another name, and returns how a message goes on."""
    if not os.path.lexists(place):
        return ""
    names = (f"{place.name}-damaged{'' if n == 1 else f'-{n}'}" for n in itertools.count(1))
    # Not in `students`, where each folder is a student.
    root = place.parent.parent if place.parent.name == "students" else place.parent
    aside = next(path for name in names if not os.path.lexists(path := root / name))
    place.rename(aside)
    return f"; what is left is kept in {aside}"
