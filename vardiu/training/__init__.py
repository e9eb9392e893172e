r"""Objectives, phases and stages, and the trainer that carries them out."""

from .economy import Economy
from .ema import Average
from .frozen import Frozen
from .memory import Memory, Queue, Target
from .objective import Loss, Objective, Phase, networks, only
from .optimizers import Optimisation, OptimizerRow, constant, cosine, trapezoid
from .stage import Context, Recipe, Stage, Stages, Trained
from .streams import Streams
from .trainer import Report, Trainer

__all__ = [
    "Economy",
    "Average",
    "Frozen",
    "Memory",
    "Queue",
    "Target",
    "networks",
    "Loss",
    "Objective",
    "Phase",
    "only",
    "Optimisation",
    "OptimizerRow",
    "constant",
    "cosine",
    "trapezoid",
    "Context",
    "Recipe",
    "Stage",
    "Stages",
    "Trained",
    "Streams",
    "Report",
    "Trainer",
]
