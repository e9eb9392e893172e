r"""What a run will need, before it starts: memory, hours, disk.

A fresh process builds what the run would build, takes a few steps of each stage, measures the
student once as the run will, and says what that took. Peak memory is that of the process on a CPU,
and of the allocator on CUDA. Nothing is written.

.. math:: T = T_\mathrm{start} + \sum_\mathrm{stages} \big( n \, t_\mathrm{step} + n_0 \, t_0
    + e \, t_\mathrm{look} + r \, t_\mathrm{report} \big) + s \, t_\mathrm{save} + T_\mathrm{end}

with :math:`n` steps of the median time :math:`t_\mathrm{step}`, of which the first :math:`n_0`
also prepare something for :math:`t_0` (the solving of pairs), :math:`e` evaluations, :math:`r`
reports with diagnostics and :math:`s` checkpoints.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from . import footprint, instruments, memory, pipeline, plots
from .checkpoint import _encode
from .config import ConfigError
from .generate import Generator
from .pipeline import Task
from .probe import probe
from .problems import Problem
from .train import DEAR, Stage, Trainer

__all__ = ["estimate", "measure"]

# Blocks of steps that are not counted: caches fill, kernels are chosen, memory is first touched.
WARM = 2


def estimate(
    task: Task, child: Sequence[str] = (sys.executable, "-m", "vardiu.estimate")
) -> dict[str, Any]:
    r"""Returns what `measure` finds in a fresh process.

    Arguments:
        task: The run.
        child: The command of a process that reads a task's mapping and prints a measurement.

    Raises:
        ConfigError: The run cannot start, or asks for more memory than there is.
    """
    started = time.perf_counter()
    done = subprocess.run(
        child, input=json.dumps(task.to_mapping()), capture_output=True, text=True
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
    r"""Reads a task from the standard input and prints its measurement."""
    task = pipeline.task_of(json.loads(sys.stdin.read()), "the standard input")
    try:
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
    run, device = task.run, pipeline.device_of(task.run.device)
    if run.threads:
        torch.set_num_threads(run.threads)
    memory.keep()
    library = peak(torch.device("cpu"))
    problem, start = timed(lambda: ready(task))
    torch.manual_seed(run.seed)
    method = pipeline.method_of(task.command, task.method)
    recipe = method.recipe(problem, task.settings, run.seed)
    stage, seconds = timed(lambda: next(recipe))
    start += seconds
    stages: list[dict[str, Any]] = []
    while True:
        trainer, seconds = timed(lambda s=stage: pipeline.trainer_of(s, run, device))
        start += seconds
        stages.append(stage_row(task, problem, stage, trainer, budget))
        student = copy.deepcopy(trainer.average.module).requires_grad_(True).train()
        try:
            stage, seconds = timed(lambda s=student: recipe.send(s))
            start += seconds
        except StopIteration:
            break
        del stages[-1]["log"]
    log = stages[-1].pop("log")
    end = timed(lambda: finish(task, problem, student.cpu(), log))[1]
    training = sum(row["seconds"] for row in stages)
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "stages": stages,
        "memory": {"peak": peak(device), "library": library},
        "disk": disk(task, stages, student),
        "seconds": {
            "start": start,
            "training": training,
            "evaluations": sum(row["looks"] for row in stages),
            "checkpoints": saves(task, stages),
            "end": end,
        },
        "inside": time.perf_counter() - inside,
    }


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    r"""Returns what a function returns, and the seconds that it took."""
    started = time.perf_counter()
    value = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return value, time.perf_counter() - started


def peak(device: torch.device) -> int:
    r"""Returns the most bytes that this process has held: of CUDA's allocator, or of memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    # In bytes on macOS, in kilobytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def ready(task: Task) -> Problem:
    r"""Does what a run does before its recipe."""
    problem = pipeline.problem_of(task)
    if task.command == "distill":
        probe(problem.teacher, *problem.reference(512))
        problem.hashes()
        pipeline._floor(problem)
    return problem


def finish(
    task: Task, problem: Problem, student: torch.nn.Module, log: Sequence[dict[str, Any]]
) -> None:
    r"""Does what a run does after its training: measures, and draws the student and a log."""
    distilled = isinstance(student, Generator)
    source = problem.from_generator(student.eval()) if distilled else None
    if source is None:
        problem.teacher = student.eval()
        source = problem.from_teacher()
    n = task.run.samples if distilled and task.run.samples else problem.samples
    problem.measure(source, n)
    if distilled:
        problem.compared_with(n)
    with tempfile.TemporaryDirectory() as folder:
        problem.picture(source, Path(folder) / "samples.png", "student")
        plots.curves(log, Path(folder) / "curves.png", problem.headline, pipeline._reference(task))
        if any("histogram" in row for row in log):
            plots.convergence(log, Path(folder) / "convergence.png")


# ---------------------------------------------------------------- a stage


def stage_row(
    task: Task, problem: Problem, stage: Stage, trainer: Trainer, budget: float
) -> dict[str, Any]:
    r"""Returns the memory and the times of a stage."""
    step, processor, begin = steps(trainer, stage, budget)
    beginnings = min(stage.objective.beginnings, stage.steps)
    assert trainer.batch is not None
    kept = footprint.activations(stage.objective, trainer.batch, trainer.step)
    state = trainer.state_dict(stage.batches)
    saving = timed(lambda: serialise(state))
    log, looks = look(task, problem, trainer, stage)
    return {
        "name": stage.name,
        "steps": stage.steps,
        "step": step,
        "processor": processor,
        "begin": begin,
        "seconds": stage.steps * step + beginnings * begin,
        "looks": looks,
        "log": log,
        "checkpoint": saving[0],
        "save": saving[1],
        "networks": networks(trainer, kept),
        "outside": max(phase.get("", 0) for phase in kept.values()),
    }


def steps(trainer: Trainer, stage: Stage, budget: float) -> tuple[float, float, float]:
    r"""Returns the median seconds of a step, those of the processor, and those of `begin`.

    Steps are timed in blocks in which each phase has had its turn.
    """
    objective = stage.objective
    cycle = math.lcm(*(phase.every for phase in objective.phases))
    begin = objective.begin
    begins: list[float] = []

    def watched(*arguments: Any) -> None:  # noqa: ANN401
        begins.append(timed(lambda: begin(*arguments))[1])

    objective.__dict__["begin"] = watched
    blocks: list[float] = []
    processor: list[float] = []
    while len(blocks) < WARM + 3 or (sum(blocks) < budget and len(blocks) < 60):
        started, worked = time.perf_counter(), time.process_time()
        for _ in range(cycle):
            trainer.advance(stage.batches)
        seconds, work = time.perf_counter() - started, time.process_time() - worked
        blocks.append((seconds - sum(begins[-cycle:])) / cycle)
        processor.append(work / cycle)
        if trainer.step + cycle > trainer.steps:
            break
    del objective.__dict__["begin"]
    first = begins[: objective.beginnings]
    each = [statistics.median(times[WARM:] or times) for times in (blocks, processor)]
    return each[0], each[1], statistics.median(first or [0.0])


def look(
    task: Task, problem: Problem, trainer: Trainer, stage: Stage
) -> tuple[list[dict[str, Any]], float]:
    r"""Returns a log as the stage writes it, and the seconds of its reports and evaluations."""
    told, seconds = timed(trainer.summary)
    seconds *= min(task.run.reports, stage.steps // DEAR + 1)
    row: dict[str, Any] = {"stage": stage.name, "updates": 1, "calls": told.calls, **told.values}
    reports = min(task.run.reports, stage.steps)

    def evaluate() -> None:
        random = torch.Generator().manual_seed(0)
        drawn = problem.from_generator(trainer.average.module)(problem.QUICK, random)
        for metric in problem.measure(lambda n, random: drawn, problem.QUICK):
            row[f"metric/{metric.name}"] = metric.value
        assert trainer.batch is not None
        draws = pipeline._draws(stage.steps, stage.steps, task.run.evaluations)
        seen = trainer.objective, drawn, trainer.batch, trainer.step, draws
        row.update(instruments.look(problem, *seen))

    if task.command == "distill":
        seconds += min(task.run.evaluations, stage.steps) * timed(evaluate)[1]
    return [{**row, "step": i + 1, "seconds": i + 1.0} for i in range(reports)], seconds


def networks(trainer: Trainer, kept: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    r"""Returns the bytes of each network."""
    found = {}
    for name, module in footprint.networks(trainer.objective).items():
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


# ---------------------------------------------------------------- on disk


def serialise(state: dict[str, Any]) -> int:
    r"""Writes a checkpoint to memory, as `save_state` writes it to the disk; returns its bytes."""
    total = 0
    for part, value in state.items():
        tensors: dict[str, torch.Tensor] = {}
        text = json.dumps(_encode(value, part, tensors))
        data = safetensors.torch.save(tensors) if tensors else b""
        for _ in range(2):  # when it is written, and when it is verified
            hashlib.sha256(data).hexdigest()
        total += len(data) + len(text)
    return total


def disk(task: Task, stages: Sequence[dict[str, Any]], student: torch.nn.Module) -> dict[str, int]:
    r"""Returns the bytes of the newest two checkpoints a stage, of milestones, of the student."""
    largest = max(row["checkpoint"] for row in stages)
    each = sum(row["checkpoint"] for row in stages)
    found = {
        "checkpoint": largest,
        "checkpoints": 2 * each,
        "milestones": task.run.milestones * each,
        "student": footprint.size(footprint.weights(student)),
    }
    # One more checkpoint is written beside the two before the older one goes.
    return found | {"total": sum(found.values())}


def saves(task: Task, stages: Sequence[dict[str, Any]]) -> float:
    r"""Returns the seconds of all checkpoints, without the disk's own."""
    times = [1 + task.run.milestones + row["seconds"] // task.run.save_every for row in stages]
    return sum(n * row["save"] for n, row in zip(times, stages, strict=True))


if __name__ == "__main__":
    main()
