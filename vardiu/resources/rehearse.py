r"""A rehearsal of one stage of a run: what its memory holds, and how long its parts take."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
import torch

from ..problems.base import Problem
from ..runs.measuring import gradient_draws, student_values
from ..runs.task import Task
from ..storage.checkpoints import encode_state
from ..training import objective as objectives
from ..training.clock import clock
from ..training.stage import Stage
from ..training.trainer import Trainer
from . import footprint

__all__ = ["Steps", "serialise", "stage_row", "steps", "timed"]


# Blocks of steps that are not counted: caches fill, kernels are chosen, memory is first touched.
WARM = 2


T = TypeVar("T")


def timed(function: Callable[[], T]) -> tuple[T, float]:
    r"""Returns what a function returns, and the seconds that it took."""
    started = clock()
    value = function()
    return value, clock() - started


def stage_row(
    task: Task, problem: Problem, stage: Stage, trainer: Trainer, budget: float
) -> dict[str, Any]:
    r"""Returns the memory and the times of a stage."""
    found = steps(trainer, stage, budget)
    assert trainer.batch is not None
    kept = footprint.activations(stage.objective, trainer.batch, trainer.step)
    state = trainer.state_dict(stage.batches)
    saving = timed(lambda: serialise(state))
    log, evaluations = rehearse_reports(task, problem, trainer, stage)
    return {
        "name": stage.name,
        "steps": stage.steps,
        **found._asdict(),
        "seconds": stage.steps * found.step + found.warm,
        "evaluations": evaluations,
        "log": log,
        "checkpoint": saving[0],
        "save": saving[1],
        "networks": networks(trainer, kept),
        "outside": max(phase.get("", 0) for phase in kept.values()),
    }


class Steps(NamedTuple):
    r"""Seconds of a stage's steps, all medians but the last.

    Arguments:
        step: Of a step.
        processor: Those that the processor worked.
        warm: What the first steps took beyond that: kernels are compiled, memory is touched.
    """

    step: float
    processor: float
    warm: float


def steps(trainer: Trainer, stage: Stage, budget: float) -> Steps:
    r"""Takes steps of a stage, at least five.

    Steps are timed in blocks in which each phase has had its turn, from where the longest delay is
    over: only then all networks are updated, and their optimisers have their moments.
    """
    objective = stage.objective
    trainer.step = max(row.delay for row in stage.optimisation.rows.values())
    cycle = math.lcm(*(phase.cycle for phase in objective.phases))
    blocks: list[float] = []
    processor: list[float] = []
    while len(blocks) < WARM + 3 or (sum(blocks) < budget and len(blocks) < 60):
        started, worked = time.perf_counter(), time.process_time()
        for _ in range(cycle):
            trainer.advance(stage.batches)
        seconds, work = time.perf_counter() - started, time.process_time() - worked
        blocks.append(seconds / cycle)
        processor.append(work / cycle)
        if trainer.step + cycle > trainer.steps:
            break
    step, work = (statistics.median(times[WARM:] or times) for times in (blocks, processor))
    warm = cycle * max(0.0, sum(blocks[:WARM]) - len(blocks[:WARM]) * step)
    return Steps(step, work, warm)


def rehearse_reports(
    task: Task, problem: Problem, trainer: Trainer, stage: Stage
) -> tuple[list[dict[str, Any]], float]:
    r"""Returns a log as the stage writes it, and the seconds of its reports and evaluations."""
    report, seconds = timed(trainer.summary)
    seconds *= min(task.run.reports, stage.steps // trainer.objective.diagnostics_every + 1)
    row: dict[str, Any] = {
        "stage": stage.name,
        "updates": 1,
        "calls": report.calls,
        **report.values,
    }
    reports = min(task.run.reports, stage.steps)

    student = trainer.objective.student_of(trainer.average.module)
    if student is not None:
        draws = gradient_draws(stage.steps, stage.steps, task.run.evaluations)
        values, each = timed(lambda: student_values(problem, trainer, student, draws))
        row |= values
        seconds += min(task.run.evaluations, stage.steps) * each
    return [{**row, "step": i + 1, "seconds": i + 1.0} for i in range(reports)], seconds


def networks(trainer: Trainer, kept: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    r"""Returns the bytes of each network."""
    found = {}
    for name, module in objectives.networks(trainer.objective).items():
        trained = name in trainer.optimizers
        free = [p for p in module.parameters() if p.requires_grad]
        state = [s for p, s in trainer.optimizers[name].state.items()] if trained else []
        found[name] = {
            "parameters": sum(p.numel() for p in module.parameters()),
            "weights": footprint.size(footprint.weights(module)),
            "gradients": footprint.size(free) if trained else 0,
            "optimiser": footprint.size(state),
            "average": footprint.size(footprint.weights(trainer.average.module))
            if name == "generator"
            else 0,
            "activations": max(phase.get(name, 0) for phase in kept.values()),
        }
    return found


def serialise(state: dict[str, Any]) -> int:
    r"""Writes a checkpoint to memory, as `save_state` writes it to the disk; returns its bytes."""
    total = 0
    for part, value in state.items():
        tensors: dict[str, torch.Tensor] = {}
        text = json.dumps(encode_state(value, part, tensors))
        data = safetensors.torch.save(tensors) if tensors else b""
        for _ in range(2):  # when it is written, and when it is verified
            hashlib.sha256(data).hexdigest()
        total += len(data) + len(text)
    return total
