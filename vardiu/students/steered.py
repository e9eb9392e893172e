r"""Students whose network is told a scale of guidance, at another scale."""

from __future__ import annotations

from ..denoisers.base import Denoiser
from ..denoisers.guidance import steered
from ..nn.taps import with_child
from .base import Generator

__all__ = ["guided_by"]


def guided_by(student: Generator, scale: float) -> Generator:
    r"""Returns a student that is guided by this scale; it shares the weights.

    Raises:
        ValueError: The scale is out of the range that it was trained with, or its network is told
            none.
    """
    denoiser = student._modules.get("denoiser")
    if not isinstance(denoiser, Denoiser):
        raise ValueError(
            f"a {type(student).__name__} asks no denoiser, and is told no guidance: students of "
            "--method lcm are"
        )
    return with_child(student, "denoiser", steered(denoiser, scale))
