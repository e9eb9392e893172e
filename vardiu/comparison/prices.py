r"""What an update of an arm costs, and what is spent before the first one.

A recipe has stages. The length of most of them follows from the settings' number of updates
:math:`n`: a stage of share :math:`s_i > 0` takes :math:`n_i = k_i s_i n` steps, :math:`k_i` an
update, each at the price :math:`c_i`. A stage of share 0 takes :math:`m_j` steps whatever
:math:`n` is, and artefacts (pairs, a frame) cost :math:`A` once. So

.. math:: \mathrm{cost}(n) = F + n \, p, \qquad F = A + \sum_{j : s_j = 0} m_j c_j, \qquad
    p = \sum_{i : s_i > 0} k_i s_i c_i = \frac{1}{n} \sum_{i : s_i > 0} n_i c_i.

While a network's *delay* lasts its gradient is not taken, and a step costs less, :math:`b_i`. In
the :math:`d_i` steps of the longest delay of a stage :math:`d_i (c_i - b_i)` is saved, which is
taken off :math:`F`. The formula holds from the first update of every network on: for
:math:`n \geq \max_i d_i / (k_i s_i)`.

All stages are walked through: a few steps of each are taken, and the next one starts from there.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from ..errors import Diverged
from ..runs.execute import TeacherMeter, device_of, trainer_of
from ..runs.stages import stages_of
from ..runs.task import Task, problem_of
from ..storage.artefacts import RehearsedArtefacts
from ..training.clock import clock
from ..training.stage import Stage
from ..training.trainer import Trainer

__all__ = ["Price", "Rehearsal", "StageCost", "price"]


class Price(NamedTuple):
    r"""What a run costs: `fixed + n * update` for :math:`n` updates, more than `delayed`.

    Arguments:
        fixed: What does not follow from the number of updates, less what delays save.
        update: The price of an update.
        delayed: The number of updates' time that passes before the student's first.
    """

    fixed: float
    update: float
    delayed: float = 0.0

    @property
    def before(self) -> float:
        r"""What is spent before the student's first update."""
        return self.fixed + self.delayed * self.update


@dataclass
class StageCost:
    r"""The length of a stage, and what one of its steps costs.

    Arguments:
        steps: The number of its steps in a run of the settings' own number of updates.
        share: Its share of the updates; 0 where its length is fixed.
        rows: The rows of the teacher in a step in which all networks are updated.
        seconds: The seconds of such a step, as often as it was timed.
        delay: The steps of the longest delay of a network.
        delayed: What a step of the delay costs, where there is one.
    """

    steps: int
    share: float
    rows: float
    seconds: list[float] = field(default_factory=list)
    delay: int = 0
    delayed: StageCost | None = None

    def step(self, unit: str) -> float:
        r"""Returns the price of a step: `rows`, or the median of the `seconds`."""
        return self.rows if unit == "rows" else statistics.median(self.seconds)

    def saved(self, unit: str) -> float:
        r"""Returns what the delay saves."""
        if self.delayed is None:
            return 0.0
        return self.delay * (self.step(unit) - self.delayed.step(unit))


def price(stages: Sequence[StageCost], made: float, updates: int, unit: str) -> Price:
    r"""Returns what a run costs in one unit.

    Arguments:
        stages: The stages of a recipe.
        made: What artefacts cost, :math:`A`.
        updates: The number of updates that the stages' lengths are of, :math:`n`.
        unit: `rows` or `seconds`.
    """
    fixed = sum(stage.steps * stage.step(unit) for stage in stages if not stage.share)
    scaled = sum(stage.steps * stage.step(unit) for stage in stages if stage.share)
    saved = sum(stage.saved(unit) for stage in stages)
    delayed = max(
        (stage.delay * updates / stage.steps for stage in stages if stage.share), default=0.0
    )
    return Price(made + fixed - saved, scaled / updates, delayed)


class Rehearsal:
    r"""An arm whose recipe is walked through, to tell what it costs.

    Arguments:
        task: The arm's run.
        title: The arm's name, for messages.

    Attributes:
        stages: The costs of the stages, after a walk.
    """

    def __init__(self, task: Task, title: str) -> None:
        self.task, self.title = task, title
        run = task.run
        self.problem, self.device = problem_of(task), device_of(run.device, run.economy.tf32)
        self.meter = TeacherMeter(self.problem.teacher)
        self.artefacts = RehearsedArtefacts(self.meter)
        self.stages: list[StageCost] = []

    def walk(self, seconds: float) -> None:
        r"""Takes a few steps of each stage, and times them.

        Arguments:
            seconds: How long to take steps of a stage, beyond three of its cycles.

        Raises:
            Diverged: A loss or a gradient was not finite.
        """
        walked = list(self._measured(seconds))
        for before, now in zip(self.stages, walked, strict=False):
            now.seconds = before.seconds + now.seconds
            if before.delayed is not None and now.delayed is not None:
                now.delayed.seconds = before.delayed.seconds + now.delayed.seconds
        self.stages = walked

    def forget_seconds(self) -> None:
        r"""Forgets what was timed: the first walk warms up."""
        for stage in self.stages:
            stage.seconds = []
            if stage.delayed is not None:
                stage.delayed.seconds = []

    def prices(self, units: Sequence[str]) -> Mapping[str, Price]:
        r"""Returns what a run costs, by unit."""
        counters = {"rows": "teacher_rows", "seconds": "seconds"}
        made = {unit: self.artefacts.cost.get(counters[unit], 0.0) for unit in units}
        updates = self.task.settings.steps
        return {unit: price(self.stages, made[unit], updates, unit) for unit in units}

    def _measured(self, seconds: float) -> Iterator[StageCost]:
        torch.manual_seed(self.task.run.seed)
        recipe = stages_of(self.task, self.problem, self.artefacts, self.device)
        with self.meter.watching():
            stage: Stage | None = recipe.first()
        while stage is not None:
            trainer = trainer_of(stage, self.task.run, self.device)
            try:
                yield stage_cost(trainer, stage, seconds)
            except Diverged as error:
                raise Diverged(f"{self.title} cannot be timed: {error}") from error
            with self.meter.watching():
                stage = recipe.after(trainer)


def stage_cost(trainer: Trainer, stage: Stage, seconds: float) -> StageCost:
    r"""Returns what a stage costs; a delay's steps are timed apart."""
    delay = max(row.delay for row in stage.optimisation.rows.values())
    before = None
    if delay:
        rows, each = step_cost(trainer, stage, seconds, until=delay)
        before = StageCost(stage.steps, stage.share, rows, [each])
        trainer.step = delay
    rows, each = step_cost(trainer, stage, seconds, until=stage.steps)
    return StageCost(stage.steps, stage.share, rows, [each], delay, before)


def step_cost(trainer: Trainer, stage: Stage, seconds: float, until: int) -> tuple[float, float]:
    r"""Returns the teacher's rows and the seconds of a step, over whole cycles of the phases.

    The first cycle is not counted where there are more: optimisers make their moments in it.

    Arguments:
        trainer: The trainer.
        stage: Its stage.
        seconds: How long to take steps, beyond three cycles.
        until: The step that is not taken any more.
    """
    left = until - trainer.step
    cycle = min(math.lcm(*(phase.cycle for phase in stage.objective.phases)), left)

    def take_cycle() -> None:
        for _ in range(cycle):
            trainer.advance(stage.batches)

    if left >= 2 * cycle:
        take_cycle()
    first, rows = trainer.step, stage.objective.teacher_cost[1]
    started = clock()
    while trainer.step + cycle <= until:
        take_cycle()
        if trainer.step >= first + 3 * cycle and time.perf_counter() - started >= seconds:
            break
    taken = trainer.step - first
    spent = clock() - started
    return (stage.objective.teacher_cost[1] - rows) / taken, spent / taken
