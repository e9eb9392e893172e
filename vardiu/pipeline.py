r"""From settings to a finished run: probe, train, measure, draw, report.

Everything on disk is made here; the layers below know no file but a checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
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
from torch import Tensor

from . import instruments, memory, plots, references, report, store
from .checkpoint import Checkpoints
from .config import (
    ConfigError,
    DensitySettings,
    DigitsSettings,
    ImageSettings,
    from_mapping,
    nearest,
)
from .economy import Economy
from .generate import Generator
from .images import ImageProblem
from .methods import METHODS, TEACHING, Method
from .metrics import Metric, fingerprint
from .presets import PRESETS, TEACHERS, Preset
from .probe import checked, probe
from .problems import DensityProblem, DigitsProblem, Problem
from .runs import RunFolder, provenance, write_text_atomic
from .train import Recipe, Report, Stage, Trainer

__all__ = ["RunSettings", "Task", "distill", "load_task", "problem_of", "teach"]

# A problem's settings, of any kind.
ProblemSettings = DensitySettings | DigitsSettings | ImageSettings

PROBLEM_KINDS: Mapping[str, type[ProblemSettings]] = {
    "density": DensitySettings,
    "digits": DigitsSettings,
    "images": ImageSettings,
}
PROBLEMS: Mapping[type[ProblemSettings], Callable[..., Problem]] = {
    DensitySettings: DensityProblem,
    DigitsSettings: DigitsProblem,
    ImageSettings: ImageProblem,
}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    r"""How a run is carried out."""

    seed: int = 0
    """The seed of the networks, the noise and the data's order."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """Threads of torch on a CPU; 0 leaves torch's own choice."""
    reports: int = 40
    """How many times the run reports its losses and diagnostics."""
    evaluations: int = 10
    """How many times the student is measured on the way, with fewer samples."""
    save_every: float = 30.0
    """Seconds between checkpoints."""
    milestones: int = 0
    """How many checkpoints to keep for good, evenly spaced over each stage, up to its end."""
    samples: int = 0
    """Samples of the final measurement; 0 for the problem's own number."""
    accumulate: int = 1
    """Equal parts in which a batch is visited, one after another, to save memory."""
    economy: Economy = Economy()
    """How networks save time and memory."""

    def __post_init__(self) -> None:
        for name in ("reports", "evaluations", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"run.{name} must be at least 1, got {getattr(self, name)}")
        if self.milestones < 0:
            raise ConfigError(f"run.milestones must be at least 0, got {self.milestones}")


@dataclass(frozen=True)
class Task:
    r"""A command, resolved: what to do, by which method, with which settings.

    Arguments:
        command: `distill` or `teach`.
        preset: The name of the row it started from.
        problem: The problem's settings.
        method: The name of the method.
        settings: The method's settings.
        run: How it is carried out.
    """

    command: str
    preset: str
    problem: ProblemSettings
    method: str
    settings: Any
    run: RunSettings

    def __post_init__(self) -> None:
        pairs = getattr(self.settings, "pairs", None)
        sizes = {"batch": self.settings.batch}
        if pairs is not None and pairs.pairs:
            sizes["pairs.batch"] = pairs.batch
        for name, size in sizes.items():
            if size % self.run.accumulate:
                raise ConfigError(
                    f"method.{name} must be a multiple of run.accumulate "
                    f"({self.run.accumulate}), got {size}"
                )

    def to_mapping(self) -> dict[str, Any]:
        r"""Returns what is saved as `config.yaml`."""
        kind = next(k for k, cls in PROBLEM_KINDS.items() if isinstance(self.problem, cls))
        return {
            "command": self.command,
            "preset": self.preset,
            "method": {"name": self.method, **dataclasses.asdict(self.settings)},
            "problem": {"kind": kind, **dataclasses.asdict(self.problem)},
            "run": dataclasses.asdict(self.run),
        }


def method_of(command: str, name: str) -> Method:
    r"""Returns the row of a method.

    Raises:
        ConfigError: There is none of this name; the nearest ones are offered.
    """
    if command == "teach":
        return TEACHING
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; {nearest(name, METHODS)}")
    return METHODS[name]


def preset_of(command: str, name: str) -> Preset:
    r"""Returns the row of a preset.

    Raises:
        ConfigError: There is none of this name; the nearest ones are offered.
    """
    table = TEACHERS if command == "teach" else PRESETS
    if name not in table:
        raise ConfigError(f"unknown preset {name!r}; {nearest(name, table)}")
    return table[name]


def task_from_preset(command: str, name: str, method: str | None = None) -> Task:
    r"""Returns the task of a preset.

    With another method, its settings are those of that method's row for the same problem, else for
    the same kind of problem, else the method's own.
    """
    row = preset_of(command, name)
    if method is not None and method != row.method:
        method_of(command, method)
        rows = [r for r in PRESETS.values() if r.method == method]
        same = [r for r in rows if r.problem == row.problem]
        kin = [r for r in rows if type(r.problem) is type(row.problem)]
        settings = next((r.settings for r in same + kin), None) or METHODS[method].settings()
        row = Preset(row.about, method, row.problem, settings)
    return Task(command, name, row.problem, row.method, row.settings, RunSettings())


def load_task(path: str | Path) -> Task:
    r"""Returns the task that a `config.yaml` holds.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds an unknown setting.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}: {getattr(error, 'problem', '')}"
        raise ConfigError(f"{path} is not YAML{where}; give a run's config.yaml") from error
    return task_of(values, str(path))


def task_of(values: Any, where: str) -> Task:  # noqa: ANN401 (what a file holds)
    r"""Returns the task that a mapping describes, see `Task.to_mapping`.

    Raises:
        ConfigError: It holds something else, or an unknown setting.
    """
    parts = ("command", "preset", "method", "problem", "run")
    if not isinstance(values, dict) or not set(values) <= set(parts):
        raise ConfigError(
            f"{where} must hold the groups {', '.join(parts)}, as a run's config.yaml"
        )
    method, problem = dict(values.get("method", {})), dict(values.get("problem", {}))
    command, name = values.get("command", "distill"), method.pop("name", "")
    kind = problem.pop("kind", "")
    if kind not in PROBLEM_KINDS:
        raise ConfigError(f"unknown problem.kind {kind!r}; {nearest(kind, PROBLEM_KINDS)}")
    return Task(
        command=command,
        preset=values.get("preset", ""),
        problem=from_mapping(PROBLEM_KINDS[kind], problem, "problem."),
        method=name,
        settings=from_mapping(method_of(command, name).settings, method, "method."),
        run=from_mapping(RunSettings, values.get("run", {}), "run."),
    )


def problem_of(task: Task) -> Problem:
    r"""Returns the problem of a task; a teacher's own problem asks for no teacher."""
    cls = PROBLEMS[type(task.problem)]
    return cls(task.problem, seed=task.run.seed, untaught=task.command == "teach")


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
    memory.keep()
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


def distill(task: Task, out: Path, command: Sequence[str], console: Console) -> RunFolder:
    r"""Carries out a `distill` task, from where it stands; does nothing if it is finished."""
    folder = RunFolder(out)
    problem = problem_of(task)
    device_of(task.run.device)
    with folder.lock():
        status = folder.open(task.to_mapping())
        if status == "finished":
            console.print(f"{out} is finished; nothing to do.", highlight=False)
            _where(folder, console)
            return folder
        begin(task, folder, command, problem)
        checked(problem.probed, *problem.reference(512), problem.redraw)
        torch.manual_seed(task.run.seed)
        method = METHODS[task.method]
        floor = problem.floor()

        def listen(stage: str, trainer: Trainer, told: Report) -> None:
            row: dict[str, Any] = {
                "stage": stage,
                "step": told.step,
                "updates": trainer.updates.get("generator", 0),
                "seconds": told.seconds,
                "calls": told.calls,
                **told.values,
            }
            due = _due(told.step, trainer.steps, task.run)
            if isinstance(trainer.average.module, Generator) and due:
                random = torch.Generator().manual_seed(0)
                drawn = problem.from_generator(trainer.average.module)(problem.QUICK, random)
                for metric in problem.measure(lambda n, random: drawn, problem.QUICK):
                    row[f"metric/{metric.name}"] = metric.value
                    if metric.error is not None:
                        row[f"metric/{metric.name}_error"] = metric.error
                row |= _look(problem, trainer, drawn, task.run.evaluations)
            _warn(folder, row, trainer, problem, floor, console)
            folder.log(row)

        recipe = method.recipe(problem, task.settings, task.run.seed)
        student, cost = train(recipe, problem.teacher, folder, task.run, console, listen)
        assert isinstance(student, Generator)
        console.print("measuring ...")
        student = student.cpu()
        source = problem.from_generator(student)
        n = task.run.samples or problem.samples
        metrics = problem.measure(source, n)
        reference, who = problem.compared_with(n)
        rows = [metric.row() for metric in metrics]
        about = {"metrics": rows, "cost": cost, "preset": task.preset, "method": task.method}
        problem.save(student, folder, about)
        _finish(task, folder, problem, metrics, reference, who, cost)
        show(console, metrics, reference, who)
        calls = f"{cost['teacher_calls']:,} teacher calls of {cost['teacher_rows']:,} rows"
        console.print(f"{cost['seconds']:.0f} s of training, {calls}", highlight=False)
        _where(folder, console)
    return folder


def _due(step: int, steps: int, run: RunSettings) -> bool:
    r"""Whether a report is the first one in another of `evaluations` equal parts of a stage."""
    every = max(1, steps // run.reports)
    before = (step - 1) // every * every
    return step * run.evaluations // steps > before * run.evaluations // steps


def _draws(step: int, steps: int, times: int) -> int:
    r"""Returns of how many gradients an evaluation is to take signal and noise.

    A gradient is as dear as a step: they are four in a hundred steps at most, but for the last.
    """
    between = max(1, steps // times)
    due = step // 100 > (step - between) // 100 or step == steps
    return (8 if between >= 200 else 4) if due else 0


def _look(
    problem: Problem, trainer: Trainer, drawn: tuple[Tensor, Mapping[str, Tensor]], times: int
) -> dict[str, Any]:
    assert trainer.batch is not None
    draws = _draws(trainer.step, trainer.steps, times)
    return instruments.look(problem, trainer.objective, drawn, trainer.batch, trainer.step, draws)


def _warn(
    folder: RunFolder,
    row: dict[str, Any],
    trainer: Trainer,
    problem: Problem,
    floor: float,
    console: Console,
) -> None:
    r"""Adds to a row the alarms that it raises first, and tells them."""
    rows = [r for r in folder.metrics() if r["stage"] == row["stage"]]
    latent = math.prod(trainer.objective.generator.latent_shape)
    metric = problem.headline[0]
    old = {alarm["name"] for r in rows for alarm in r.get("alarms", ())}
    found = instruments.alarms([*rows, row], trainer.steps, latent, metric, floor)
    new = [alarm for alarm in found if alarm.name not in old]
    if new:
        row["alarms"] = [alarm._asdict() for alarm in new]
    for alarm in new:
        text = f"[yellow]{alarm.name}:[/] {alarm.message}. To try: {alarm.cure}"
        console.print(text, highlight=False, soft_wrap=True)


def _finish(
    task: Task,
    folder: RunFolder,
    problem: Problem,
    metrics: Sequence[Metric],
    reference: Sequence[Metric],
    who: str,
    cost: Mapping[str, Any],
) -> None:
    student = store.load(folder.file("student"))
    assert isinstance(student, Generator)
    student = problem.dress(student)
    call = "1 call" if student.calls == 1 else f"{student.calls} calls"
    title = f"student, {call}"
    samples = folder.file("samples.png")
    problem.picture(problem.from_generator(student), samples, title)
    log = folder.metrics()
    known = _reference(task)
    curves = plots.curves(log, folder.file("curves.png"), problem.headline, known)
    pictures = [("Samples", samples), ("Training", curves)]
    if any("histogram" in row for row in log):
        shown = plots.convergence(log, folder.file("convergence.png"))
        pictures.insert(1, ("Share of each mode or class on the way, and at the end", shown))
    rows = [metric.row() for metric in metrics]
    others = [metric.row() for metric in reference]
    report.write_report(
        folder,
        title=f"{task.preset}: {METHODS[task.method].title}",
        metrics=rows,
        reference=others,
        reference_name=who,
        cost=cost,
        pictures=pictures,
        alarms=[alarm for row in log for alarm in row.get("alarms", ())],
    )
    folder.finish({"metrics": rows, "reference": {"name": who, "metrics": others}, "cost": cost})


def _reference(task: Task) -> Mapping[str, Mapping[str, Sequence[float]]] | None:
    r"""Returns the curves of a task's preset; none for another problem or method."""
    row = PRESETS.get(task.preset)
    if row is None or task.method != row.method:
        return None
    own = {f.name: getattr(task.problem, f.name) for f in dataclasses.fields(task.problem)}
    theirs = {f.name: getattr(row.problem, f.name) for f in dataclasses.fields(row.problem)}
    # The same teacher may lie in another folder.
    same = own | {"teacher_run": None} == theirs | {"teacher_run": None}
    return references.of(task.preset) if same else None


def _where(folder: RunFolder, console: Console) -> None:
    console.print(f"picture: {folder.file('samples.png')}", highlight=False, soft_wrap=True)
    console.print(f"report:  {folder.file('report.html')}", highlight=False, soft_wrap=True)


def teach(task: Task, out: Path, command: Sequence[str], console: Console) -> RunFolder:
    r"""Carries out a `teach` task; the teacher is written to `teacher/` in the run's folder."""
    folder = RunFolder(out)
    problem = problem_of(task)
    device_of(task.run.device)
    with folder.lock():
        if folder.open(task.to_mapping()) == "finished":
            console.print(f"{out} is finished; nothing to do.", highlight=False)
            return folder
        begin(task, folder, command, problem)
        torch.manual_seed(task.run.seed)

        def listen(stage: str, trainer: Trainer, told: Report) -> None:
            updates = trainer.updates["generator"]
            row = {"stage": stage, "step": told.step, "updates": updates, "calls": 0}
            folder.log({**row, "seconds": told.seconds, **told.values})

        recipe = TEACHING.recipe(problem, task.settings, task.run.seed)
        teacher, cost = train(recipe, None, folder, task.run, console, listen)
        problem.teacher = teacher.cpu()
        rows = probe(problem.teacher, *problem.reference(512))
        table = Table(box=None, header_style="bold")
        for name in ("sigma", "squared error", "a linear denoiser's"):
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(f"{row.sigma:.3g}", f"{row.error:.4g}", f"{row.linear:.4g}")
        console.print(table)
        console.print("measuring 35 steps of Heun's method ...")
        metrics = problem.measure(problem.from_teacher(), problem.samples)
        measured = [metric.row() for metric in metrics]
        about = {"metrics": measured, "cost": cost, "preset": task.preset}
        store.save(teacher, folder.file("teacher"), about)
        problem.picture(problem.from_teacher(), folder.file("samples.png"), "teacher, 69 calls")
        plots.curves(folder.metrics(), folder.file("curves.png"))
        pictures = [
            ("Samples", folder.file("samples.png")),
            ("Training", folder.file("curves.png")),
        ]
        report.write_report(
            folder,
            title=f"teacher: {task.preset}",
            metrics=measured,
            reference=[],
            reference_name="",
            cost=cost,
            pictures=pictures,
        )
        folder.finish({"metrics": measured, "cost": cost})
        show(console, metrics, [], "-")
        _where(folder, console)
    return folder


def command_line(arguments: Sequence[str]) -> str:
    r"""Returns a command as it can be typed."""
    return shlex.join(["vardiu", *arguments])
