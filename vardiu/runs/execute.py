r"""A run under way: its folder, its stages, what it costs, and what it tells its listeners.

Everything on disk is made here; the layers below know no file but a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, Interrupted, shown
from ..metrics import fingerprint
from ..nn import has_bfloat16
from ..problems.base import Problem, Source, inputs_of, save_student
from ..storage import processes
from ..storage.artefacts import Artefacts
from ..storage.checkpoints import Checkpoints, has_divided
from ..storage.files import write_text_atomic
from ..storage.launch import place_on_host
from ..storage.provenance import provenance
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..teachers.origin import Origin
from ..training.economy import round_products
from ..training.stage import Stage
from ..training.trainer import Report, Trainer
from . import allocator, events
from .event_log import EventLog
from .inputs import refuse_changed_inputs
from .listeners import Log
from .measuring import announced_calls, evaluation_due, gradient_draws, student_values
from .rehearsal import rehearse
from .sharing import begin, refuse_uneven_rows, shared_folder
from .snapshots import keep_snapshot
from .stages import Stages, stages_of
from .task import RunSettings, Task, problem_of

__all__ = ["Execution", "StageExecution", "TeacherMeter", "device_of", "execution", "trainer_of"]


def device_of(name: str, rounded: bool = False) -> torch.device:
    r"""Returns the device of a name, and says how exact products on it are, whatever is computed.

    Arguments:
        name: `auto` prefers CUDA, `gpu` is CUDA or Apple's MPS. Of several processes on a machine
            each has a card of its own.
        rounded: Whether products of float32 may be rounded, see `Economy.tf32`.

    Raises:
        ConfigError: The name is unknown, or there is no such device here, or not for each process.
    """
    round_products(rounded)
    if name in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return own_card()
    if name == "auto":
        return torch.device("cpu")
    if name == "gpu":
        if torch.backends.mps.is_available():
            return torch.device("mps")
        raise ConfigError("--device gpu: there is no GPU here, neither CUDA nor MPS: take cpu")
    local = place_on_host()[1]
    if local > 1 and name.startswith("cuda:"):
        raise ConfigError(
            f"--device {shown(name)} names one card, and {local} processes would share it: give "
            "cuda, and each takes its own"
        )
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        # No name of a device, or of one that this torch has no code for: it lists all there are.
        lists = "device string" in reason or "Could not run" in reason
        if lists or isinstance(error, ImportError):
            reason = "there is no such device"
        raise ConfigError(
            f"--device {shown(name)} cannot be used here: {shown(reason)}; take auto, cpu, gpu, "
            "cuda, cuda:1, ..."
        ) from error
    device = torch.device(name)
    if device.type == "cuda":  # what asks for the current card means this one
        torch.cuda.set_device(device)
    return device


def own_card() -> torch.device:
    r"""Returns CUDA, or of several processes on this machine the card of this one.

    Raises:
        ConfigError: There are fewer cards than processes.
    """
    index, local = place_on_host()
    if local == 1:
        return torch.device("cuda")
    # Of `torchrun --virtual-local-rank` each process sees its own card alone, as the first.
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"{local} processes were started on a machine with {torch.cuda.device_count()} "
            "CUDA devices: start one for each with --nproc-per-node, or take --device cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


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
        shard=run.shard,
    )


def cycle_of(trainer: Trainer) -> int:
    r"""Returns the number of steps to an update of the student, on the average."""
    own = [p.cycle / p.turns for p in trainer.objective.phases if "generator" in p.updates]
    return max(1, round(min(own, default=1)))


class TeacherMeter:
    r"""Counts seconds, and the teacher's calls and rows while it is watched.

    Arguments:
        teacher: The teacher; none where one is trained.
    """

    def __init__(self, teacher: torch.nn.Module | None) -> None:
        self.teacher = teacher
        self.calls = self.rows = 0

    def __call__(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter(),
            "teacher_calls": self.calls,
            "teacher_rows": self.rows,
        }

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        r"""Counts the calls of the teacher in the context."""

        def count(module: torch.nn.Module, arguments: tuple, output: torch.Tensor) -> None:
            if module is self.teacher:  # a fake that is copied meanwhile takes the hook along
                self.calls += 1
                self.rows += len(output)

        handle = None if self.teacher is None else self.teacher.register_forward_hook(count)
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()


class Execution:
    r"""A run under way.

    Arguments:
        task: What to do.
        problem: Its problem.
        folder: Its folder, of which this process is the only writer.
        listeners: They hear what happens.
        artefacts: Where what is made once is kept; none for the run's folder.

    Attributes:
        is_finished: Whether the run was finished before: nothing is left to do.
        broadcast: Tells an event to the listeners.
        device: Where is trained and measured.
        cost: Seconds, teacher calls and rows, student updates and steps so far.
        result: The trained and averaged network, after the last stage.
    """

    def __init__(
        self,
        task: Task,
        problem: Problem,
        folder: RunFolder,
        listeners: Sequence[events.Listener] = (),
        artefacts: Path | None = None,
    ) -> None:
        self.task, self.problem, self.folder = task, problem, folder
        self.artefacts = folder.file("artefacts") if artefacts is None else artefacts
        self.is_finished = False
        self.device = device_of(task.run.device, task.run.economy.tf32)
        problem.compute_on(self.device, waits=task.run.economy.offload)
        self.broadcast = events.Broadcaster([Log(folder), EventLog(folder), *listeners])
        names = ("seconds", "teacher_calls", "teacher_rows", "student_updates", "steps")
        self.cost: dict[str, Any] = dict.fromkeys(names, 0)
        self.result: Any = None

    def stages(self) -> Iterator[StageExecution]:
        r"""Yields the stages, each as it stands in its newest checkpoint; whoever asks for the
        next one has trained the one before."""
        device, meter = self.device, TeacherMeter(self.problem.teacher)
        stop = self.tell_stop("portion")
        artefacts = Artefacts(self.artefacts, self.tell_portions, meter, stop)
        stages = stages_of(self.task, self.problem, artefacts, device)
        stage: Stage | None
        with meter.watching():
            stage = stages.first()
        while stage is not None:
            current = StageExecution(self, stage, stages.index, device)
            current.resume()
            yield current
            trainer = current.trainer
            trainer.make_whole()
            self.broadcast(events.StageFinished(stage.name, trainer.step))
            self.cost["seconds"] += trainer.seconds
            calls, rows = trainer.objective.teacher_cost
            self.cost["teacher_calls"] += calls
            self.cost["teacher_rows"] += rows
            self.cost["student_updates"] += trainer.updates.get("generator", 0)
            self.cost["steps"] += trainer.step
            self.keep_student(current)
            with meter.watching():
                stage = self.after(stages, trainer)
            if stage is not None and trainer.asked_to_stop:
                raise Interrupted(f"stopped after {current.stage.name}, before {stage.name}")
        for counter, value in artefacts.cost.items():
            self.cost[counter] += value
        self.result = stages.result.requires_grad_(False).eval()

    def after(self, stages: Stages, trainer: Trainer) -> Stage | None:
        r"""Returns the next stage, see `Stages.after`.

        Raises:
            ConfigError: The recipe copies a network that is divided among the processes.
        """
        try:
            return stages.after(trainer)
        except AssertionError as error:  # FSDP2's own
            if "deepcopy" not in str(error):
                raise
            raise ConfigError(
                f"{self.task.method} copies its teacher between its stages, and a teacher that is "
                "divided among processes cannot be copied: take --shard none"
            ) from error

    def keep_student(self, stage: StageExecution) -> None:
        r"""Writes the student of a stage beside the run's own, where the stage asks for that."""
        student = stage.student() if stage.stage.keeps else None
        place = None if student is None else self.folder.file(f"students/{student.calls}")
        if student is None or place is None:
            return
        about = {"preset": self.task.preset, "method": self.task.method, "stage": stage.stage.name}
        partial = place.with_name(f".{place.name}")  # a run that is killed here writes it again

        def write() -> None:
            if not place.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
                save_student(self.problem, student, partial, about)
                partial.rename(place)

        processes.by_writer(write)

    def rehearse(self) -> None:
        r"""Refuses settings with which the run could not be finished, before its first step.

        Raises:
            ConfigError: There are such settings.
        """
        if not self.folder.file("checkpoints").is_dir():
            rehearse(self.task, self.problem, self.device)

    def tell_portions(self, name: str, done: int, total: int) -> None:
        r"""Tells how much there is of something that is made once."""
        self.broadcast(events.ArtefactProgress(name, done, total))

    def tell_stop(self, work: str) -> Callable[[], None]:
        r"""Returns a function that tells that the run stops after the work at hand."""
        return lambda: self.broadcast(events.StopAsked(work))

    def finish(
        self,
        results: events.Results,
        source: Source,
        title: str,
        student: Generator | None = None,
    ) -> None:
        r"""Tells what has been shipped, marks the run as finished, and tells that.

        Arguments:
            results: What was measured.
            source: Draws samples of what was shipped.
            title: What that is.
            student: The student, if it is one.
        """
        self.broadcast(events.Shipped(source, title, results, student))
        reference = {"name": results.reference_name, "metrics": results.reference_rows()}
        summary = {"metrics": results.metric_rows(), "reference": reference, "cost": results.cost}
        if results.trained_on:
            summary["trained_on"] = results.trained_on
        if results.verdict is not None:
            summary = {"verdict": results.verdict._asdict(), **summary}
        self.folder.finish(summary)
        self.broadcast(events.RunFinished(self.folder.path, results))


class AnnouncedCheckpoints(Checkpoints):
    r"""Checkpoints that tell when one has been saved."""

    def __init__(self, folder: Path, announce: Callable[[int, Path], None]) -> None:
        super().__init__(folder)
        self.announce = announce

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        # Each process writes its part of what is divided.
        writes = processes.is_writer() or has_divided(state)
        path = super().save(step, state) if writes else self.path(step)
        self.announce(step, path)
        return path


class StageExecution:
    r"""One stage of a run under way.

    Arguments:
        run: The run.
        stage: The stage.
        index: Its index in the recipe.
        device: Where it is trained.

    Attributes:
        trainer: Its trainer.
        batches: Its data.
    """

    def __init__(self, run: Execution, stage: Stage, index: int, device: torch.device) -> None:
        self.run, self.stage, self.batches = run, stage, stage.batches
        self.index, self.device = index, device
        self.settings = run.task.run
        self.trainer = trainer_of(stage, self.settings, device)
        self.report_every = max(1, stage.steps // self.settings.reports)
        name, n = f"{index}-{stage.name}", self.settings.milestones
        self.store = AnnouncedCheckpoints(
            run.folder.file("checkpoints") / name,
            lambda step, path: run.broadcast(events.Saved(stage.name, step, path)),
        )
        self.milestones = Checkpoints(run.folder.file("milestones") / name, keep=10**9)
        self.milestone_steps = {stage.steps * (i + 1) // n for i in range(n)}

    def resume(self) -> None:
        r"""Takes the newest checkpoint that can be used, if there is one."""
        found = self.store.newest()
        step, skipped = 0, list[str]()
        if found is not None:
            step, state, skipped = found
            self.trainer.load_state_dict(state, self.batches)
        student = self.student()
        # Of a call: that is what a step trains, and what nats are counted of.
        latent = None
        if student is not None:
            one = student.calls == 1
            latent = math.prod(student.latent_shape if one else student.shape)
        stage = self.stage
        self.run.broadcast(
            events.StageStarted(
                stage.name,
                step,
                stage.steps,
                self.report_every,
                latent,
                tuple(skipped),
                index=self.index + 1,
                of=stage.of,
                cycle=cycle_of(self.trainer),
                device=str(self.device),
            )
        )

    def student(self) -> Generator | None:
        r"""Returns the averaged student; `None` where this stage trains none."""
        return self.trainer.objective.student_of(self.trainer.average.module)

    def fit_options(self) -> dict[str, Any]:
        r"""Returns what `Trainer.fit` is to do beside its steps."""
        return {
            "store": self.store,
            "save_every": self.settings.save_every,
            "report_every": self.report_every,
            "report": self.tell_report,
            "progress": self.tell_step,
            "stopping": self.run.tell_stop("step"),
        }

    def tell_report(self, report: Report) -> None:
        r"""Measures the student where it is due, and tells that and the report."""
        name, trainer, values = self.stage.name, self.trainer, dict(report.values)
        student = self.student()
        if student is not None and evaluation_due(report.step, trainer.steps, self.settings):
            self.run.broadcast(events.StudentMeasurementStarted(name, report.step))
            draws = gradient_draws(report.step, trainer.steps, self.settings.evaluations)
            draws = 0 if trainer.division else draws  # no process has a whole gradient
            measured = student_values(self.run.problem, trainer, student, draws)
            self.run.broadcast(events.Measured(name, report.step, measured))
            problem, folder = self.run.problem, self.run.folder
            keep_snapshot(problem, folder, self.index, name, report.step, student)
            values |= measured
        updates = trainer.updates.get("generator", 0)
        self.run.broadcast(
            events.Reported(
                name,
                report.step,
                trainer.steps,
                updates,
                report.seconds,
                report.calls,
                values,
            )
        )

    def tell_step(self, step: int) -> None:
        r"""Keeps a milestone where there is one, and tells that the step has been taken."""
        if step in self.milestone_steps:
            state = self.trainer.state_dict(self.batches)
            if processes.is_writer() or has_divided(state):
                self.milestones.save(step, state)
            processes.wait()
        self.run.broadcast(events.StepTaken(self.stage.name, step, self.stage.steps))


@contextlib.contextmanager
def execution(
    task: Task,
    out: str | Path,
    listeners: Sequence[events.Listener],
    command: Sequence[str],
    artefacts: Path | None = None,
) -> Iterator[Execution]:
    r"""Opens the run of a task in a folder, of which this process is then the only writer.

    Raises:
        ConfigError: The task cannot be carried out.
        RunError: The folder holds something else, or another process writes to it.
    """
    device_of(task.run.device)  # one that is not here is refused before anything is read
    refuse_uneven_rows(task)
    problem = problem_of(task)
    with shared_folder(out) as folder:
        run = Execution(task, problem, folder, listeners, artefacts)
        run.is_finished, lost = begin(folder, task, run.device.type)
        if run.is_finished:
            run.broadcast(events.RunAlreadyFinished(folder.path))
            yield run
            return
        if task.run.threads:
            torch.set_num_threads(task.run.threads)
        allocator.keep_freed_memory()
        run.broadcast(started(task, problem, folder, lost))
        try:
            record_provenance(run, command)
            if lines := problem.data.account():
                run.broadcast(events.DataRead(tuple(lines)))
            yield run
        except Interrupted as error:
            run.broadcast(events.RunInterrupted(str(error)))
            raise
        except BaseException as error:
            run.broadcast(events.RunFailed(error))
            folder.remove_if_bare()
            raise


def started(
    task: Task, problem: Problem, folder: RunFolder, lost: tuple[str, ...]
) -> events.RunStarted:
    r"""Returns the event with which a run starts."""
    judged, name = problem.scores.judged, task.problem.name
    return events.RunStarted(
        task.command,
        task.preset,
        task.method,
        folder.path,
        judged.metric,
        judged.lower_is_better,
        name,
        task.run.seed,
        lost,
    )


def record_provenance(run: Execution, command: Sequence[str]) -> None:
    r"""Writes what a new run is made from: command, versions, machine, seed and hashes.

    Raises:
        RunError: The run was begun before, with another teacher, other data or other prompts.
    """
    file, inputs = run.folder.file("provenance.json"), inputs_of(run.problem)
    # Before the first checkpoint nothing was made of them: a teacher that was mended is taken.
    if file.is_file() and run.folder.file("checkpoints").is_dir():
        refuse_changed_inputs(run.folder, inputs)
        return
    work = "the teacher's own samples, in the place of data"
    with announced_calls(run.broadcast, work, run.problem.teacher):
        x, _ = run.problem.data.reference(512)
    hashes = {"data": fingerprint(x), **run.problem.hashes()}
    hashes |= {name: read.sha256 for name, read in inputs.items()}
    about = provenance(command, run.task.run.seed, **hashes)
    if run.task.problem.precision == "auto":
        narrow = has_bfloat16(run.device.type, run.device.index)
        about["machine"]["computed_in"] = "bfloat16" if narrow else "float32"
    if "start" in inputs:
        about["start"] = inputs["start"].place
    if lines := [*run.problem.data.account(), *run.problem.data.left_out()]:
        about["data"] = lines
    origin = run.problem.origin
    if isinstance(origin, Origin) and "revision" in origin.about:
        about["teacher"] = {"source": origin.source, "revision": origin.about["revision"]}
    write_text_atomic(file, json.dumps(about, indent=2) + "\n")
