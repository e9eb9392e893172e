r"""Stages: a recipe is a generator of them."""

from __future__ import annotations

from collections.abc import Generator as PyGenerator
from typing import Any, NamedTuple

from ..data.batches import Batches
from ..students.base import Generator
from .objective import Objective
from .optimizers import Optimisation

__all__ = ["Recipe", "Stage"]


class Stage(NamedTuple):
    r"""One training run of a recipe.

    Arguments:
        name: The name in logs and folders.
        objective: What to train.
        steps: The number of steps.
        batches: The data.
        optimisation: How to train it.
    """

    name: str
    objective: Objective
    steps: int
    batches: Batches
    optimisation: Optimisation


# A method: yields stages, is sent the trained and averaged student of each, returns the last.
Recipe = PyGenerator[Stage, Generator, Any]
