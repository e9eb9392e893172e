r"""Teachers that this library wrote: runs of `vardiu teach`, and folders with `model.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__, models
from ..denoisers.base import Denoiser
from ..errors import ConfigError, shown
from ..storage.bounded import read_json
from ..storage.run_folder import is_metric
from .origin import Origin

__all__ = ["load", "matches"]


def _folder(source: str) -> Path | None:
    candidates = (Path(source), Path(source) / "teacher")
    return next((f for f in candidates if (f / "model.json").is_file()), None)


def matches(source: str) -> bool:
    r"""Whether a source is such a folder."""
    return _folder(source) is not None


def load(source: str) -> Denoiser:
    r"""Returns the denoiser of a folder.

    Raises:
        ConfigError: The folder holds something else.
    """
    folder = _folder(source)
    if folder is None:
        raise ConfigError(
            f"{source} holds no model.json; a teacher that was lost is made again by the command "
            "that trained it"
        )
    teacher = models.load(folder)
    if not isinstance(teacher, Denoiser):
        raise ConfigError(f"{folder} holds a {type(teacher).__name__}, not a denoiser")
    about = models.about_of(folder)
    names, null = about.get("classes", []), about.get("null")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{shown(folder / 'model.json')}: classes must be a list of names")
    if not (null is None or (type(null) is int and 0 <= null <= len(names))):
        raise ConfigError(
            f"{shown(folder / 'model.json')}: null must be the class that stands for none, within "
            f"0 and {len(names)}, got {shown(null)}"
        )
    rows = about.get("metrics", [])
    if not isinstance(rows, list) or not all(is_metric(row) for row in rows):
        raise ConfigError(f"{shown(folder / 'model.json')}: metrics must be a list of metrics")
    teacher.origin = Origin(
        source,
        "run",
        classes=len(names),
        null=null,
        names=tuple(names),
        measured=tuple(rows),
        evaluated=partial(_evaluated, folder),
    )
    return teacher


def _evaluated(folder: Path, n: int) -> list[Sequence[Mapping[str, Any]]]:
    r"""Returns what `vardiu evaluate` wrote of these weights, in their run, of so many samples:
    against the data of the run, and against others that `--data` named."""
    if folder.name != "teacher":
        return []
    name = f"evaluation-{n}-seed0"
    paths = [folder.parent / f"{name}.json", *sorted(folder.parent.glob(f"{name}-data-*.json"))]
    return [_rows_in(path, folder) for path in paths if path.is_file()]


def _rows_in(path: Path, folder: Path) -> Sequence[Mapping[str, Any]]:
    r"""Returns the metrics of a file of `vardiu evaluate`; none if they are of other weights."""
    found = read_json(path)
    rows = found.get("metrics")
    if not isinstance(rows, list) or not all(is_metric(row) for row in rows):
        raise ConfigError(
            f"{shown(path)} is not what vardiu evaluate writes, which is what students are "
            "compared with: remove it, and the teacher is measured anew"
        )
    known = found.get("version"), found.get("weights")
    return rows if known == (__version__, models.weights_of(folder)) else ()
