r"""Students of prompts."""

from __future__ import annotations

from ..denoisers.base import Denoiser
from ..denoisers.prompts import Captioned, Captions
from ..nn.taps import with_child
from .base import Generator

__all__ = ["with_prompts", "without_prompts"]


def _with_denoiser(student: Generator, denoiser: Denoiser) -> Generator:
    twin = with_child(student, "denoiser", denoiser)
    twin.conditions = denoiser.conditions
    return twin


def _without_captions(denoiser: Denoiser) -> Denoiser:
    r"""Returns a denoiser without the table of captions in it, wherever in it that is."""
    inner = denoiser._modules.get("denoiser")
    if not isinstance(inner, Denoiser):
        return denoiser
    if isinstance(denoiser, Captioned):
        return inner
    alone = _without_captions(inner)
    twin = with_child(denoiser, "denoiser", alone)
    twin.conditions = alone.conditions
    return twin


def without_prompts(student: Generator) -> Generator:
    r"""Returns a student of captions as one of the conditions themselves; shares the weights."""
    denoiser = student._modules.get("denoiser")
    if not isinstance(denoiser, Denoiser):
        return student
    return _with_denoiser(student, _without_captions(denoiser))


def with_prompts(student: Generator, captions: Captions) -> Generator:
    r"""Returns a student of conditions as one that looks them up; undoes `without_prompts`.

    Raises:
        TypeError: The student takes the conditions, and asks no denoiser.
    """
    if not set(captions.names) <= set(student.conditions):
        return student
    denoiser = getattr(student, "denoiser", None)
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"a {type(student).__name__} asks no denoiser that could look captions up; students "
            "of prompts are OneStep and FewStep"
        )
    return _with_denoiser(student, Captioned(denoiser, captions))
