r"""EDM and EDM2 pickles."""

from __future__ import annotations

from ..denoise import Denoiser

__all__ = ["load", "matches"]


def matches(source: str) -> bool:
    return source.endswith(".pkl")


def load(source: str) -> Denoiser:
    raise NotImplementedError
