r"""Students in the forms that the next tool expects.

Every export is written beside its place, loaded again as its user would, and compared with the
student; only then does it get its name. A folder that exists is never written over.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ..errors import ConfigError, ExportError, nearest
from ..nn import Precision
from ..storage.files import (
    LEAVINGS,
    clear_leavings,
    new_file,
    partial_suffix,
    refuse_unwritable,
)
from ..students.base import Generator
from ..teachers.origin import Origin
from . import card, diffusers, onnx, peft, plain

__all__ = ["EXPORTS", "Exporter", "Exported", "export", "in_single_precision", "refusal"]


# Of a student, a folder to write, and what stood around its teacher: the largest difference.
Write = Callable[[Generator, Path, Origin | None], float]

# Of a student and what stood around its teacher: raises if the form cannot hold it.
Refuse = Callable[[Generator, Origin | None], None]


class Exporter(NamedTuple):
    r"""A row: what it writes, how, whom it refuses, the difference allowed, and how its user loads
    it."""

    about: str
    write: Write
    refuse: Refuse
    tolerance: float
    usage: str


class Exported(NamedTuple):
    r"""Where an export is, and by how much its samples differ from the student's."""

    folder: Path
    difference: float


EXPORTS: Mapping[str, Exporter] = {
    "diffusers": Exporter(
        "a pipeline of stock diffusers, one step by default",
        diffusers.to_diffusers,
        diffusers.refuse_pipeline,
        diffusers.TOLERANCE,
        card.DIFFUSERS,
    ),
    "onnx": Exporter(
        "one graph for onnxruntime", onnx.to_onnx, onnx.refuse_graph, onnx.TOLERANCE, card.ONNX
    ),
    "safetensors": Exporter(
        "weights and a description for this library",
        plain.to_safetensors,
        plain.refuse_files,
        0.0,
        card.SAFETENSORS,
    ),
    "lora": Exporter(
        "the adapter alone, for peft and diffusers",
        peft.to_lora,
        peft.refuse_adapter,
        peft.TOLERANCE,
        card.LORA,
    ),
}


def in_single_precision(student: Generator) -> Generator:
    r"""Returns a copy that computes in single precision, on the CPU, in evaluation mode."""
    twin = copy.deepcopy(student).cpu().float().eval()
    _widen(twin)
    return twin.requires_grad_(False)


def _widen(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, Precision):
            child = child.network
            setattr(module, name, child)
        _widen(child)


def export(
    student: Generator,
    to: str,
    out: str | Path,
    *,
    origin: Origin | None = None,
    about: card.About | None = None,
) -> Exported:
    r"""Writes a student in another form, and proves that it is the same.

    Arguments:
        student: The student.
        to: The form, one of `EXPORTS`.
        out: The folder, which must not exist.
        origin: What stood around the teacher.
        about: What the card tells of the run; without it a card of the student alone.

    Raises:
        ConfigError: The form is unknown or cannot hold the student, or the folder exists.
        ExportError: What was written does not give the student's samples. It has been removed.
    """
    if to not in EXPORTS:
        raise ConfigError(f"unknown form {to!r}; {nearest(to, EXPORTS)}")
    _refuse_without_latent(student, to)
    row, out = EXPORTS[to], Path(out)
    new_file(out)
    refuse_unwritable(out.parent)
    clear_leavings(out.parent.glob(LEAVINGS))
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:80]}.{partial_suffix()}~"))
    partial = work / out.name
    try:
        difference = row.write(in_single_precision(student), partial, origin)
        if not difference <= row.tolerance:
            raise ExportError(
                f"the {to} export differs from the student by {difference:.2g}, more than "
                f"{row.tolerance:g}; nothing was kept"
            )
        card.write(partial, student, to, row.usage, difference, origin, about)
        new_file(out)  # somebody else's since
        partial.replace(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Exported(out, difference)


def refusal(student: Generator, to: str, origin: Origin | None = None) -> str:
    r"""Returns why a student cannot be written in a form, in one line; empty where it can, as far
    as that is known before it is written.

    Arguments:
        student: The student.
        to: The form, one of `EXPORTS`.
        origin: What stood around the teacher.
    """
    try:
        _refuse_without_latent(student, to)
        EXPORTS[to].refuse(student, origin)
    except ValueError as error:  # a ConfigError too
        return str(error)
    return ""


def _refuse_without_latent(student: Generator, to: str) -> None:
    if not (student.latent_shape and student.draws) and to != "safetensors":
        raise ConfigError(
            f"a {type(student).__name__.lower()} has no latent that another tool could draw, as "
            f"{to} needs: export it --to safetensors"
        )
