r"""From settings to a finished run: probe, train, measure, draw, report.

Everything on disk is made here; the layers below know no file but a checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..errors import ConfigError
from ..metrics import Metric, fingerprint
from ..problems.base import Problem
from ..storage.checkpoints import Checkpoints
from ..storage.files import write_text_atomic
from ..storage.provenance import provenance
from ..storage.run_folder import RunFolder
from ..training.stage import Recipe, Stage
from ..training.trainer import Report, Trainer
from . import allocator
from .task import RunSettings, Task


def device_of(name: str) -> torch.device:
    r"""Returns the device of a name; `auto` prefers an accelerator.

    Raises:
        ConfigError: The name is unknown, or there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"run.device {name!r} cannot be used here: {error}") from error
    return torch.device(name)


def trainer_of(stage: Stage, run: RunSettings, device: torch.device) -> Trainer:
    r"""Returns the trainer of a stage, with all that the run asks for."""
    run.economy.apply(stage.objective)
    objective = stage.objective.to(device)
    return Trainer(
        objective,
        stage.optimisation,
        steps=stage.steps,
        seed=run.seed,
        accumulate=run.accumulate,
    )


def train(
    recipe: Recipe,
    teacher: torch.nn.Module | None,
    folder: RunFolder,
    run: RunSettings,
    console: Console,
    listen: Callable[[str, Trainer, Report], None],
) -> tuple[torch.nn.Module, dict[str, Any]]:
    r"""Runs the stages of a recipe, each from its newest checkpoint.

    Returns:
        The trained and averaged network, and what the run cost.
    """
    device = device_of(run.device)
    names = ("seconds", "teacher_calls", "teacher_rows", "student_updates", "steps")
    cost: dict[str, Any] = dict.fromkeys(names, 0)
    with metered(teacher, cost):
        stage, index = next(recipe), 0
    while True:
        trainer = trainer_of(stage, run, device)
        store = Checkpoints(folder.file("checkpoints") / f"{index}-{stage.name}")
        found = store.newest()
        if found is not None:
            step, state, skipped = found
            for message in skipped:
                console.print(f"[yellow]skipped:[/] {message}", highlight=False)
            trainer.load_state_dict(state, stage.batches)
            folder.truncate_metrics(stage.name, step)
            if step < stage.steps:
                console.print(f"going on with {stage.name} from step {step:,} of {stage.steps:,}")
        else:  # a run that was killed before its first checkpoint starts its log anew
            folder.truncate_metrics(stage.name, 0)
        student = _fit(trainer, stage, store, run, console, listen)
        cost["seconds"] += trainer.seconds
        cost["teacher_calls"] += trainer.objective.calls
        cost["teacher_rows"] += trainer.objective.rows
        cost["student_updates"] += trainer.updates.get("generator", 0)
        cost["steps"] += trainer.step
        try:
            with metered(teacher, cost):
                stage = recipe.send(copy.deepcopy(student).requires_grad_(True).train())
        except StopIteration as stop:
            return stop.value.requires_grad_(False).eval(), cost
        index += 1


@contextlib.contextmanager
def metered(teacher: torch.nn.Module | None, cost: dict[str, Any]) -> Iterator[None]:
    r"""Adds to the cost what a recipe does before and between its stages."""

    def count(module: torch.nn.Module, arguments: tuple, output: torch.Tensor) -> None:
        if module is teacher:  # a fake that is copied meanwhile takes the hook along
            cost["teacher_calls"] += 1
            cost["teacher_rows"] += len(output)

    handle = None if teacher is None else teacher.register_forward_hook(count)
    started = time.perf_counter()
    try:
        yield
    finally:
        cost["seconds"] += time.perf_counter() - started
        if handle is not None:
            handle.remove()


def _fit(
    trainer: Trainer,
    stage: Stage,
    store: Checkpoints,
    run: RunSettings,
    console: Console,
    listen: Callable[[str, Trainer, Report], None],
) -> torch.nn.Module:
    r"""Trains one stage behind a progress bar; returns the averaged network."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
    )
    every = max(1, stage.steps // run.reports)
    marks = {stage.steps * (i + 1) // run.milestones for i in range(run.milestones)}
    kept = Checkpoints(store.folder.parent.parent / "milestones" / store.folder.name, keep=10**9)
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        bar = progress.add_task(stage.name, total=stage.steps, completed=trainer.step, told="")

        def tell(told: Report) -> None:
            loss = next((v for k, v in told.values.items() if k.endswith("/loss")), None)
            progress.update(bar, told="" if loss is None else f"loss {loss:.4g}")
            if not console.is_terminal and told.step % (4 * every) == 0:
                console.print(
                    f"{stage.name}: step {told.step:,} of {stage.steps:,}, {told.seconds:.0f} s",
                    highlight=False,
                )
            listen(stage.name, trainer, told)

        def advanced(step: int) -> None:
            if step in marks:
                kept.save(step, trainer.state_dict(stage.batches))
            progress.update(bar, completed=step)

        return trainer.fit(
            stage.batches,
            store=store,
            save_every=run.save_every,
            report_every=every,
            report=tell,
            progress=advanced,
        )


def begin(task: Task, folder: RunFolder, command: Sequence[str], problem: Problem) -> None:
    r"""Sets seed and threads, and writes the provenance of a new run."""
    if task.run.threads:
        torch.set_num_threads(task.run.threads)
    allocator.keep()
    if not folder.file("provenance.json").is_file():
        x, _ = problem.reference(512)
        about = provenance(command, task.run.seed, data=fingerprint(x), **problem.hashes())
        write_text_atomic(folder.file("provenance.json"), json.dumps(about, indent=2) + "\n")


def show(
    console: Console, metrics: Sequence[Metric], reference: Sequence[Metric], who: str
) -> None:
    r"""Prints metrics beside those of a reference."""
    table = Table(box=None, header_style="bold")
    for name in ("metric", "student", who, "better", "n"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    known = {metric.name: metric for metric in reference}
    for metric in metrics:
        error = "" if metric.error is None else f" ± {metric.error:.2g}"
        other = known.get(metric.name)
        better = {True: "higher", False: "lower", None: ""}[metric.higher_is_better]
        table.add_row(
            metric.name,
            f"{metric.value:.4g}{error}",
            "" if other is None else f"{other.value:.4g}",
            better,
            f"{metric.n:,}",
        )
    console.print(table)


def _where(folder: RunFolder, console: Console) -> None:
    console.print(f"picture: {folder.file('samples.png')}", highlight=False, soft_wrap=True)
    console.print(f"report:  {folder.file('report.html')}", highlight=False, soft_wrap=True)


def command_line(arguments: Sequence[str]) -> str:
    r"""Returns a command as it can be typed."""
    return shlex.join(["vardiu", *arguments])
