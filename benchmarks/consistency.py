r"""How far is a consistency student from the teacher's own map, and what do more calls bring?

    python benchmarks/consistency.py runs/mog40-consistency-s0 runs/mog40-consistency-s1 ...

Of each finished run of `vardiu distill` with consistency distillation, in the run's directory: the
error of the network at levels of its grid against 64 steps of Heun's method from the same noisy
data, beside that of the teacher's own denoiser, as the root of the mean square over the data's
standard deviation; the metrics of students of 1, 2 and 4 calls of the same network, and of the
teacher's own sampler; and where there are classes, how often one call is of the class of the
teacher's sample from the same noise. Means over the runs, with standard errors over them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vardiu import models
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.levels import karras_grid
from vardiu.functional.tensors import expand_like
from vardiu.methods.consistency import ConsistencyDistillation
from vardiu.metrics.features import digits_classifier
from vardiu.problems.base import Problem
from vardiu.runs.task import load_task, problem_of
from vardiu.samplers.ode import Heun
from vardiu.storage.run_folder import RunFolder

CALLS = (1, 2, 4)
STEPS = 64
ROWS = 2_000


def exact(teacher: Denoiser, x: Tensor, sigma: float, low: float, cond: Mapping) -> Tensor:
    """The end of the trajectory through a state, by many small steps."""
    return Heun(teacher, karras_grid(STEPS, low, sigma)[:-1])(x, **cond)


@torch.no_grad()
def measure(folder: Path) -> dict[str, float]:
    """What there is to know of one run, by name."""
    task = load_task(folder / "config.yaml")
    problem = problem_of(task)
    teacher, student = problem.known_teacher, models.load(folder / "student")
    network = student.denoiser
    settings = task.settings
    objective = ConsistencyDistillation(teacher, network, grid=settings.grid, rho=settings.rho)
    found = paired(problem, network, objective.grid)
    for calls in CALLS:
        objective.calls = calls
        source = problem.student_source(objective.student_of(network), measured=True)
        for metric in problem.scores.measure(source, problem.scores.samples):
            found[f"{calls} calls: {metric.name}"] = metric.value
    found |= agreement(problem, network)
    return found


def paired(problem: Problem, network: Denoiser, grid: Tensor) -> dict[str, float]:
    """The errors of the network and of the teacher's denoiser at some levels of the grid."""
    found, teacher = {}, problem.known_teacher
    x, cond = problem.data.reference(ROWS)
    random = torch.Generator().manual_seed(3)
    for sigma in grid[: -1 : max(1, len(grid) // 6)].tolist():
        level = torch.full((len(x),), sigma)
        x_t = x + expand_like(level, x) * torch.randn(x.shape, generator=random)
        wanted = exact(teacher, x_t, sigma, network.sigma_min, cond)
        for name, asked in (("network", network), ("denoiser", teacher)):
            error = (asked(x_t, level, **cond) - wanted).square().mean().sqrt()
            found[f"{name} at {sigma:.3g}"] = error.item() / problem.space.sigma_data
    return found


def agreement(problem: Problem, network: Denoiser) -> dict[str, float]:
    """How often a sample of one call is of the class of the teacher's sample of the same noise."""
    if problem.space.shape != (1, 8, 8):
        return {}
    random = torch.Generator().manual_seed(4)
    x_t = network.sigma_max * torch.randn(ROWS, 1, 8, 8, generator=random)
    cond = dict(problem.data.conditions(ROWS, random))
    level = torch.full((ROWS,), network.sigma_max)
    classifier = digits_classifier()
    wanted = exact(problem.known_teacher, x_t, network.sigma_max, network.sigma_min, cond)
    ours = network(x_t, level, **cond)
    same = classifier.predict(wanted.clamp(-1, 1)) == classifier.predict(ours.clamp(-1, 1))
    blurred = problem.known_teacher(x_t, level, **cond)
    return {
        "same class as the teacher's sample": same.double().mean().item(),
        "error from noise alone": (ours - wanted).square().mean().sqrt().item()
        / problem.space.sigma_data,
        "the denoiser's error from noise alone": (blurred - wanted).square().mean().sqrt().item()
        / problem.space.sigma_data,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    rows = [measure(RunFolder(run).path) for run in parser.parse_args().runs]
    for name in rows[0]:
        values = torch.tensor([row[name] for row in rows])
        error = values.std().item() / math.sqrt(len(rows)) if len(rows) > 1 else math.nan
        print(f"{name:45} {values.mean().item():.5g} ± {error:.2g}")


if __name__ == "__main__":
    main()
