r"""The one place where a recipe is driven from stage to stage."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch

from ..denoisers.base import Denoiser
from ..errors import ConfigError
from ..problems.base import Problem
from ..settings.fields import LevelSettings
from ..storage.artefacts import Artefacts
from ..training.stage import Context, Recipe, Stage, Trained
from ..training.trainer import Trainer
from .task import Task

__all__ = ["Stages", "stages_of"]


# Of levels that are the teacher's own, after a change of unit.
ROUNDING = 1e-6


class Stages:
    r"""The stages of a recipe, one after another.

    Arguments:
        recipe: A recipe that has not been started.

    Attributes:
        index: The index of the stage at hand.
        result: What the recipe returned after its last stage: the trained network.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.index = 0
        self.result: Any = None

    def first(self) -> Stage:
        r"""Returns the first stage."""
        return next(self.recipe)

    def after(self, trainer: Trainer) -> Stage | None:
        r"""Returns the stage after the one that this trainer has trained; `None` after the last.

        The recipe is given a trainable copy of the averaged network, and the objective.
        """
        network = copy.deepcopy(trainer.average.module).requires_grad_(True).train()
        try:
            stage = self.recipe.send(Trained(network, trainer.objective))
        except StopIteration as stop:
            self.result = stop.value
            return None
        self.index += 1
        return stage


def stages_of(
    task: Task,
    problem: Problem,
    artefacts: Artefacts | None = None,
    device: torch.device | str = "cpu",
) -> Stages:
    r"""Returns the stages of a task, not started.

    Arguments:
        task: The task.
        problem: Its problem.
        artefacts: What is made once; kept in memory where none are given.
        device: Where artefacts are computed.

    Raises:
        ConfigError: Levels lie where the teacher knows none.
    """
    made = Artefacts() if artefacts is None else artefacts
    settings = problem.fitted(task.settings, task.asked)
    if problem.teacher is not None:
        refuse_unknown_levels(settings, problem.teacher)
    context = Context(task.run.seed, made, device, task.own)
    return Stages(task.chosen.recipe(problem, settings, context))


def refuse_unknown_levels(settings: Any, teacher: Denoiser) -> None:  # noqa: ANN401 (any method's)
    r"""Refuses levels of a method beyond those at which a learned teacher can be trusted: of
    others its network was taught nothing.

    Raises:
        ConfigError: The message names the setting and the teacher's range.
    """
    if next(teacher.parameters(), None) is None:
        return  # a formula holds at any level
    low, high = teacher.sigma_min, teacher.sigma_max
    for field in dataclasses.fields(settings):
        row = getattr(settings, field.name)
        if not isinstance(row, LevelSettings):
            continue
        for name, limit, beyond in (
            ("sigma_min", low, row.sigma_min < low * (1 - ROUNDING)),
            ("sigma_max", high, row.sigma_max > high * (1 + ROUNDING)),
        ):
            if beyond:
                raise ConfigError(
                    f"{field.name}.{name} must be within {low:g} and {high:g}, the levels of the "
                    f"teacher, got {getattr(row, name):g}: give {limit:g}"
                )
