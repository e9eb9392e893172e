r"""The one place where a recipe is driven from stage to stage."""

from __future__ import annotations

import copy
from typing import Any

from ..problems.base import Problem
from ..training.stage import Recipe, Stage
from ..training.trainer import Trainer
from .task import Task, method_of

__all__ = ["Stages", "stages_of"]


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

        The recipe is given a trainable copy of the averaged network.
        """
        trained = copy.deepcopy(trainer.average.module).requires_grad_(True).train()
        try:
            stage = self.recipe.send(trained)
        except StopIteration as stop:
            self.result = stop.value
            return None
        self.index += 1
        return stage


def stages_of(task: Task, problem: Problem) -> Stages:
    r"""Returns the stages of a task, not started."""
    method = method_of(task.command, task.method)
    return Stages(method.recipe(problem, task.settings, task.run.seed))
