r"""Stages: a method's recipe is a generator of them."""

from __future__ import annotations

import math
from collections.abc import Generator as PyGenerator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeVar

import torch

from ..data.batches import Batches
from ..errors import ConfigError
from ..storage.artefacts import Artefacts
from ..storage.code import OwnCode
from .objective import Objective
from .optimizers import Optimisation

__all__ = ["Context", "Recipe", "Stage", "Stages", "Trained", "apportioned"]


class Stage(NamedTuple):
    r"""One training run of a recipe.

    Arguments:
        name: The name in logs and folders.
        objective: What to train.
        steps: The number of steps.
        batches: The data.
        optimisation: How to train it.
        share: The part of the recipe's own number of updates that is this stage's. A stage
            whose length does not follow from that number has a share of 0: its cost is fixed.
        of: The number of stages of its recipe; 0 where that is not said.
        keeps: Whether its student is kept beside the run's own, under its number of calls.
    """

    name: str
    objective: Objective
    steps: int
    batches: Batches
    optimisation: Optimisation
    share: float = 1.0
    of: int = 0
    keeps: bool = False


class Trained(NamedTuple):
    r"""What a recipe is sent after a stage.

    Arguments:
        network: A trainable copy of the averaged network, a student most often.
        objective: The objective as it was trained: its fake, its heads, its memory.
    """

    network: Any
    objective: Objective


@dataclass(frozen=True)
class Context:
    r"""Where a recipe is carried out.

    Arguments:
        seed: The seed of the networks, the noise and the data's order.
        artefacts: What the run makes once and keeps.
        device: Where what is made before a stage is computed.
        own: The own code that the command line names for settings, by the setting's name.
    """

    seed: int = 0
    artefacts: Artefacts = field(default_factory=Artefacts)
    device: torch.device | str = "cpu"
    own: Mapping[str, OwnCode] = field(default_factory=dict)


# What yields stages, is sent what came out of each, and returns something.
R = TypeVar("R")
Stages = PyGenerator[Stage, Trained, R]
# A method: returns the student.
Recipe = Stages[Any]


def apportioned(steps: int, shares: Sequence[float]) -> list[int]:
    r"""Returns the steps of each stage, `steps` in all.

    Arguments:
        steps: The recipe's own number of updates.
        shares: The share of each stage, of 1 in all.

    Raises:
        ConfigError: A stage would have no step.
    """
    ends = [math.floor(steps * share + 0.5) for share in (0.0, *accumulate(shares))]
    found = [end - start for start, end in pairwise(ends)]
    if min(found) < 1:
        raise ConfigError(
            f"steps must be at least {math.ceil(1 / min(shares))}, for an update of each of "
            f"{len(shares)} stages, got {steps}"
        )
    return found
