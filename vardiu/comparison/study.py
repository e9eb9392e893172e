r"""What a bake-off found: tables, pictures, one page, and a study of the gradients."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from rich.console import Console

from ..denoisers.exact import EmpiricalDenoiser
from ..denoisers.levels import Levels
from ..functional.scores import Weight
from ..methods.vardiu import VarDiU
from ..monitoring.gradients import (
    at_step,
    gradient_quality,
    reference_gradient,
    slack,
    student_marginal,
)
from ..problems.base import Problem
from ..runs.progress import counted
from ..runs.stages import stages_of
from ..runs.task import problem_of
from ..settings import build
from ..settings.fields import DensitySettings
from ..storage.artefacts import Artefacts
from ..storage.bounded import read_json
from ..storage.checkpoints import Checkpoints
from ..storage.files import write_text_atomic
from ..storage.run_folder import RunFolder
from ..training.stage import Stage
from ..training.trainer import Trainer
from .plan import BakeOff, Cell

__all__ = ["study"]


MARGINAL = 65_536  # samples that stand for the student's own marginal


ROWS, DRAWS = 16_384, 128  # noisy samples of the reference, estimates of the gradient


# ---------------------------------------------------------------- the study of gradients


@runtime_checkable
class Weighted(Protocol):
    r"""An objective of weighted noise levels: the study's reference has the same."""

    levels: Levels
    weight: Weight


def milestones(cell: Cell) -> Iterator[tuple[Problem, Stage, Trainer]]:
    r"""Yields a finished run's last objective as it was at each of its milestones."""
    problem = problem_of(cell.task)
    torch.manual_seed(cell.seed)
    recipe = stages_of(cell.task, problem, Artefacts(cell.artefacts))
    stage: Stage | None = recipe.first()
    while stage is not None:
        last, trainer = stage, Trainer(stage.objective, stage.optimisation, steps=stage.steps)
        folder = cell.folder / "milestones" / f"{recipe.index}-{stage.name}"
        # The stages before need no training: a milestone holds all that is loaded.
        stage = recipe.after(trainer)
    store = Checkpoints(folder)
    for step in store.steps():
        trainer.load_state_dict(store.load(step), last.batches)
        yield problem, last, trainer


def gradients(cell: Cell) -> list[dict[str, Any]]:
    r"""Returns bias and variance of a run's gradient at its milestones, and the bound's slack;
    nothing of a method that weighs no levels, whose gradient is another."""
    rows = []
    for problem, stage, trainer in milestones(cell):
        objective, step = trainer.objective, max(0, trainer.step - 1)
        if not isinstance(objective, Weighted):
            return []
        random = torch.Generator().manual_seed(1234)
        student = student_marginal(objective.generator, MARGINAL, random)
        reference, spread = reference_gradient(
            objective.generator,
            student,
            problem.known_teacher,
            levels=at_step(objective.levels, step),
            weight=objective.weight,
            random=random,
            rows=ROWS,
        )
        quality = gradient_quality(objective, next(stage.batches), step, reference, spread, DRAWS)
        row = {"progress": trainer.step / stage.steps, **dataclasses.asdict(quality)}
        if isinstance(objective, VarDiU) and trainer.step == stage.steps:
            row["slack"] = _slack(objective, student, build.levels(cell.task.settings.levels, 1))
        rows.append(row)
    return rows


def _slack(
    objective: VarDiU, student: EmpiricalDenoiser, levels: Levels
) -> list[tuple[float, float, float]]:
    batch = 256

    def log_marginal(repeat: int, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        z = objective.latents(batch, "slack")
        x = objective.generator(z)
        level = z.new_full((batch,), sigma)
        x_t = x + sigma * objective.noise_like(x, "slack noise")
        return x_t, objective.negative_entropy(z, x, x, x_t, level, {}, "slack particle")

    low, high = levels(torch.tensor([0.0, 1 - 1e-6], dtype=torch.float64), 2**62).log10().tolist()
    sigmas = torch.logspace(low, high, 7).tolist()
    with objective.undisturbed("slack"):
        return slack(log_marginal, student, sigmas)


def study(bake: BakeOff, todo: Sequence[Cell], console: Console) -> dict[str, Any]:
    r"""Returns the study of the first seed's runs under the first budget, kept as it goes.

    Densities in two dimensions only: elsewhere no large mixture gives the student's score. A run
    that was copied without its milestones has none.
    """
    found: dict[str, Any] = {}
    flat = set()
    for teacher in bake.teachers:
        row = bake.contest.teachers[teacher]
        mine = [cell for cell in todo if cell.teacher == teacher]
        if mine and isinstance(row, DensitySettings) and row.calls == 1:
            flat |= {teacher} if tuple(problem_of(mine[0].task).space.shape) == (2,) else set()
    first = [c for c in todo if not c.seed and c.budget == bake.budgets[0] and c.teacher in flat]
    finished = [
        c
        for c in first
        if RunFolder(c.folder).result() is not None and (c.folder / "milestones").is_dir()
    ]
    with counted(console, "gradients", len(finished), "run") as tell:
        for done, cell in enumerate(finished, start=1):
            path, words = cell.folder / "gradients.json", ""
            if not path.is_file():
                words = f"gradients of {cell.teacher}, {cell.arm}"
                write_text_atomic(path, json.dumps(gradients(cell), indent=1) + "\n")
            rows = read_json(path, object)
            if rows:
                found.setdefault(cell.teacher, {})[cell.arm] = rows
            tell(done, words)
    return found
