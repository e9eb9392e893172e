r"""The device that a run was begun on, read from its checkpoints before anything is done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, shown
from ..storage.bounded import read_json
from ..storage.checkpoints import is_step
from ..storage.run_folder import RunFolder
from ..training.device_kind import refuse_other_kind

__all__ = ["refuse_other_device"]


def refuse_other_device(folder: RunFolder, kind: str) -> None:
    r"""Raises a `ConfigError` if a run was begun on another kind of device than that of now.

    Arguments:
        folder: The run's folder; without a checkpoint it may go on anywhere.
        kind: The kind of device that it would go on on.
    """
    random = next(random_parts(folder.file("checkpoints")), None)
    if random is not None:
        refuse_other_kind(random, kind, shown(folder.path))


def random_parts(place: Path) -> Iterator[dict[str, Any]]:
    r"""Yields what the checkpoints in a folder say of their random numbers, without the tensors;
    the newest first. A damaged one is left out: whoever loads it says so."""
    found = [path for path in place.glob("*/*/state.json") if is_step(path.parent.name)]
    for path in sorted(found, key=order, reverse=True):
        try:
            structure = read_json(path, bound="state bytes", error=CheckpointError)
            random = mapping(structure["random"])
            streams = mapping(random["streams"])
            yield {**random, "streams": {"generators": mapping(streams["generators"])}}
        except (CheckpointError, AttributeError, KeyError, TypeError, ValueError):
            continue


def order(path: Path) -> tuple[int, int]:
    r"""Returns the number of a checkpoint's stage and its step."""
    stage = re.match(r"\d+", path.parents[1].name)
    return int(stage[0]) if stage else -1, int(path.parent.name)


def mapping(value: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    r"""Returns one level of a mapping as a checkpoint keeps it, see `encode_state`."""
    return dict(value["dict"])
