r"""Students of prompts."""

from __future__ import annotations

from ..denoisers.base import Denoiser
from ..denoisers.lora import swapped
from ..denoisers.prompts import Captioned, Captions
from .base import Generator

__all__ = ["bare", "dress"]


def _with(student: Generator, denoiser: Denoiser) -> Generator:
    twin = swapped(student, "denoiser", denoiser)
    twin.conditions = denoiser.conditions
    return twin


def bare(student: Generator) -> Generator:
    r"""Returns a student of captions as one of the conditions themselves; shares the weights."""
    denoiser = getattr(student, "denoiser", None)
    return _with(student, denoiser.denoiser) if isinstance(denoiser, Captioned) else student


def dress(student: Generator, captions: Captions) -> Generator:
    r"""Returns a student of conditions as one that looks them up; undoes `bare`."""
    if not set(captions.rows) <= set(student.conditions):
        return student
    return _with(student, Captioned(student.denoiser, captions))
