r"""What a run will need, before it starts: memory, hours, disk.

A fresh process builds what the run would build, takes a few steps of each stage, measures the
student once as the run will, and says what that took. Peak memory is that of the process on a CPU,
and of the allocator on CUDA. Nothing is written.

.. math:: T = T_\mathrm{start} + \sum_\mathrm{stages} \big( n \, t_\mathrm{step}
    + t_\mathrm{warm} + e \, t_\mathrm{look} + r \, t_\mathrm{report} \big)
    + s \, t_\mathrm{save} + T_\mathrm{end}

with :math:`n` steps of the median time :math:`t_\mathrm{step}`, what the first ones take beyond
that, :math:`t_\mathrm{warm}` (compilers), :math:`e` evaluations, :math:`r` reports with
diagnostics and :math:`s` checkpoints. The start makes the artefacts (pairs, a frame): two of an
artefact's portions are made, and the others taken to cost the same.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..denoisers.base import Denoiser
from ..errors import ConfigError
from ..methods import load_method
from ..problems.base import Problem
from ..reports.curves import convergence, curves
from ..runs.allocator import peak
from ..runs.execute import device_of, trainer_of
from ..runs.measuring import reference_curves
from ..runs.stages import stages_of
from ..runs.task import Task, problem_of, task_of
from ..storage.artefacts import RehearsedArtefacts
from ..storage.code import load_code
from ..storage.launch import following_parent
from ..students.base import Generator
from ..teachers.probe import PROBED, probe
from ..training.stage import Stage
from ..training.trainer import pause
from . import footprint
from .rehearse import stage_row, timed

__all__ = ["estimate", "measure"]


def estimate(
    task: Task, child: Sequence[str] = (sys.executable, "-m", "vardiu.resources.estimate")
) -> dict[str, Any]:
    r"""Returns what `measure` finds in a fresh process.

    Arguments:
        task: The run.
        child: The command of a process that reads a task's mapping and prints a measurement.

    Raises:
        ConfigError: The run cannot start, or asks for more memory than there is.
    """
    started = time.perf_counter()
    words = ["" if task.code is None else task.code.source]
    words += [f"{role}={code.source}" for role, code in task.own.items()]
    done = subprocess.run(
        [*child, *words], input=json.dumps(task.to_mapping()), capture_output=True, text=True
    )
    wall = time.perf_counter() - started
    if done.returncode < 0:
        raise ConfigError(
            f"the probe was killed by signal {-done.returncode}: does the run need more memory "
            "than there is? Lower --batch, or raise --accumulate"
        )
    if done.returncode:
        raise ConfigError(done.stderr.strip() or f"the probe ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    inside = found.pop("inside")
    found["seconds"]["start"] += max(0.0, wall - inside)  # the interpreter and its imports
    found["seconds"]["total"] = sum(found["seconds"].values())
    return found


def main() -> None:
    r"""Reads a task from the standard input and prints its measurement.

    The first argument is the file that the task's method is from, if it is from one; the others
    are own code of its settings, as in `teacher=FILE.py:NAME`. Who asks has compared them.
    """
    try:
        method, *others = sys.argv[1:] or [""]
        codes = [load_method(method)] if method else []
        pairs = (word.partition("=") for word in others)
        own = {role: load_code(source) for role, _, source in pairs}
        values = json.loads(sys.stdin.read())
        task = task_of(values, "the standard input", codes, own=own, accept_changed=True)
        with following_parent():
            print(json.dumps(measure(task)))
    except torch.OutOfMemoryError as error:
        sys.exit(f"the device has too little memory for a step ({error}): raise --accumulate")
    except ValueError as error:
        sys.exit(str(error))


# ---------------------------------------------------------------- in the fresh process


def measure(task: Task, budget: float = 5.0) -> dict[str, Any]:
    r"""Returns what a run needs, in bytes and seconds, from a few of its steps.

    Arguments:
        task: The run.
        budget: About how many seconds to spend on the steps of a stage.
    """
    inside = time.perf_counter()
    run, device = task.run, device_of(task.run.device, task.run.economy.tf32)
    if run.threads:
        torch.set_num_threads(run.threads)
    library = peak(torch.device("cpu"))
    problem, start = timed(lambda: ready(task))
    torch.manual_seed(run.seed)
    artefacts = RehearsedArtefacts()
    recipe = stages_of(task, problem, artefacts, device)
    stage: Stage | None
    stage, seconds = timed(recipe.first)
    start += seconds
    stages: list[dict[str, Any]] = []
    log: list[dict[str, Any]] = []
    while stage is not None:
        trainer, seconds = timed(functools.partial(trainer_of, stage, run, device))
        start += seconds
        stages.append(stage_row(task, problem, stage, trainer, budget))
        log = stages[-1].pop("log")
        stage, seconds = timed(functools.partial(recipe.after, trainer))
        start += seconds
    student = recipe.result.cpu()
    end = timed(lambda: finish(task, problem, student, log))[1]
    training = sum(row["seconds"] for row in stages)
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "stages": stages,
        "memory": {"peak": peak(device), "library": library},
        "disk": disk(task, stages, student, artefacts.size),
        "seconds": {
            "start": start + artefacts.extrapolated.get("seconds", 0.0),
            "training": training,
            "evaluations": sum(row["evaluations"] for row in stages),
            "checkpoints": saves(task, stages),
            "end": end,
        },
        "inside": time.perf_counter() - inside,
    }


def ready(task: Task) -> Problem:
    r"""Does what a run does before its recipe."""
    problem = problem_of(task)
    if task.command == "distill" and problem.teacher is not None:
        probe(problem.data.unguided, *problem.data.reference(PROBED))
        problem.hashes()
    return problem


def finish(
    task: Task, problem: Problem, student: torch.nn.Module, log: Sequence[dict[str, Any]]
) -> None:
    r"""Does what a run does after its training: measures, and draws the student and a log."""
    distilled = isinstance(student, Generator)
    if isinstance(student, Generator):
        source = problem.student_source(student.eval(), measured=True)
    else:
        assert isinstance(student, Denoiser)
        problem.teacher = student.eval()
        source = problem.teacher_source(measured=True)
    n = task.run.samples if distilled and task.run.samples else problem.scores.samples
    problem.scores.measure(source, n)
    if distilled:
        problem.scores.teacher_metrics(n)
    with tempfile.TemporaryDirectory() as folder:
        problem.scores.plot_beside_data(source, Path(folder) / "samples.png", "student")
        curves(log, Path(folder) / "curves.png", problem.scores.headline, reference_curves(task))
        if any("histogram" in row for row in log):
            convergence(log, Path(folder) / "convergence.png")


# ---------------------------------------------------------------- on disk


def disk(
    task: Task, stages: Sequence[dict[str, Any]], student: torch.nn.Module, artefacts: int
) -> dict[str, int]:
    r"""Returns the bytes of the newest two checkpoints a stage, of milestones, of the student, and
    of what is made once."""
    largest = max(row["checkpoint"] for row in stages)
    each = sum(row["checkpoint"] for row in stages)
    found = {
        "checkpoint": largest,
        "checkpoints": 2 * each,
        "milestones": task.run.milestones * each,
        "student": footprint.size(footprint.weights(student)),
        "artefacts": artefacts,
    }
    # One more checkpoint is written beside the two before the older one goes.
    return found | {"total": sum(found.values())}


def saves(task: Task, stages: Sequence[dict[str, Any]]) -> float:
    r"""Returns the seconds of all checkpoints, without the disk's own."""
    total = 0.0
    for row in stages:
        each = pause(task.run.save_every, row["save"])
        own = row["seconds"] // each if each > 0 else row["steps"]
        total += (1 + task.run.milestones + own) * row["save"]
    return total


if __name__ == "__main__":
    main()
