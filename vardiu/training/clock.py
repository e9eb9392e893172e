r"""Seconds of work on a card."""

from __future__ import annotations

import time

import torch

__all__ = ["clock"]


def clock() -> float:
    r"""Returns the time when all that a card was told is done; a launch returns before that."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
