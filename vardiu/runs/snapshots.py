r"""Samples of the averaged student on the way, always of the same latents: `snapshots/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import RunError, shown
from ..problems.base import Problem
from ..storage.bounded import read_bytes
from ..storage.files import write_bytes_atomic
from ..storage.run_folder import RunFolder
from ..students.base import Generator

__all__ = ["Snapshot", "keep_snapshot", "read_snapshot", "snapshots_of"]


# Samples that are kept: of images, of latents that are decoded first, and of points.
IMAGES, DECODED, POINTS = 24, 8, 500


class Snapshot(NamedTuple):
    r"""Where samples of a moment are.

    Arguments:
        stage: The name of the stage.
        step: The number of steps taken in it.
        path: The file.
    """

    stage: str
    step: int
    path: Path


def keep_snapshot(
    problem: Problem, folder: RunFolder, index: int, stage: str, step: int, student: Generator
) -> None:
    r"""Writes samples of a student, of latents that are the same at every step: images as bytes,
    points as they are. The name has the place of the stage in the recipe and the step: what a
    file system has of times changes with a copy, and with the clock."""
    space = problem.space
    many = POINTS if len(space.shape) != 3 else DECODED if space.decodes else IMAGES
    x, _ = problem.student_source(student)(many, torch.Generator().manual_seed(0))
    x = space.images(x).float()
    if x.ndim == 4:
        x = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    place = folder.file("snapshots")
    place.mkdir(exist_ok=True)
    data = save({"x": x.contiguous()}, {"stage": stage})
    write_bytes_atomic(place / f"{index}-{file_name(stage)}-{step:09}.safetensors", data)


def file_name(stage: str) -> str:
    r"""Returns the name of a stage as a file has it."""
    return re.sub(r"[^a-zA-Z0-9_]+", "_", stage)


def snapshots_of(folder: RunFolder) -> list[Snapshot]:
    r"""Returns the samples that a run has kept, in the order in which they were drawn."""
    found = []
    for path in folder.file("snapshots").glob("*.safetensors"):
        named = re.fullmatch(r"(\d{1,6})-(\w+)-(\d{9,12})", path.stem)
        if named is not None:
            found.append((int(named[1]), int(named[3]), Snapshot(named[2], int(named[3]), path)))
    return [snapshot for *_, snapshot in sorted(found)]


def read_snapshot(path: Path) -> Tensor:
    r"""Returns samples: images `(N, C, H, W)` in [-1, 1], or points `(N, *)`.

    Raises:
        RunError: The file is damaged.
    """
    try:
        x = load(read_bytes(path, "settings bytes", RunError))["x"]
    except (SafetensorError, KeyError) as error:
        raise RunError(f"{shown(path)} holds no samples: {shown(str(error))}") from error
    return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x.float()
