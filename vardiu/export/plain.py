r"""Students as this library keeps them: safetensors and JSON."""

from __future__ import annotations

from pathlib import Path

import torch

from .. import models
from ..students.base import Generator
from ..teachers.origin import Origin
from .onnx import conditions

__all__ = ["refuse_files", "to_safetensors"]


def refuse_files(student: Generator, origin: Origin | None) -> None:
    r"""Raises a `ValueError` if a student cannot be compared for want of its encoder of texts."""
    conditions(student, 1, origin)


@torch.no_grad()
def to_safetensors(student: Generator, folder: Path, origin: Origin | None = None) -> float:
    r"""Writes `model.safetensors` and `model.json`, reads them, and compares samples.

    Returns:
        The largest difference, which must be zero.
    """
    models.save(student, folder)
    loaded = models.load(folder, models.codes_in(student), accept_changed=True)
    z = student.tried_on(5, torch.Generator().manual_seed(0))
    cond = conditions(student, 5, origin)
    return float((loaded(z, **cond) - student(z, **cond)).abs().max())
