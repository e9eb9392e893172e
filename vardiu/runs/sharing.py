r"""One run, several processes: one of them owns its folder, the others follow.

Every process carries out the same work in the same order, measurements included, so that a network
whose weights are divided among them may be asked at any place. What the writer puts into the run's
folder, a follower puts into a folder of its own that is removed at the end; what is large is
written by the writer alone and read by all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError, RunError
from ..storage import processes
from ..storage.files import clear_leavings, partial_suffix
from ..storage.run_folder import RunFolder, refuse_cut
from .begun_on import refuse_other_device
from .inputs import refuse_other_version
from .shipped import damaged_models, set_aside
from .task import Task, sizes_of

__all__ = ["FollowedFolder", "begin", "refuse_uneven_rows", "shared_folder"]


# What is read by all processes, and written by one of them or by each in files of its own.
SHARED = ("artefacts", "checkpoints", "milestones", "student", "students", "teacher")


# What a follower starts with.
COPIED = ("config.yaml", "metrics.jsonl", "provenance.json")


class FollowedFolder(RunFolder):
    r"""The folder of a run as a process has it that is not its writer.

    Arguments:
        path: A folder of its own.
        shared: The run's folder.
    """

    def __init__(self, path: str | Path, shared: Path) -> None:
        super().__init__(path)
        self.shared = shared

    def file(self, name: str) -> Path:
        return (self.shared if name.split("/")[0] in SHARED else self.path) / name

    def copy_what_is_there(self) -> None:
        r"""Takes over what the writer has found or begun.

        Raises:
            RunError: It cannot be seen from here.
        """
        for name in COPIED:
            if os.path.isfile(self.shared / name):
                shutil.copyfile(self.shared / name, self.path / name)
        if not self.exists:
            raise RunError(
                f"{self.shared} is not seen by process {processes.rank()} of "
                f"{processes.count()}: give a folder that all machines share with --out"
            )


@contextlib.contextmanager
def shared_folder(out: str | Path) -> Iterator[RunFolder]:
    r"""Gives the run's folder to its only writer, and each other process one of its own, which is
    removed at the end; one of a process that was killed by the next that wants one.

    Raises:
        RunError: Another run writes to the folder, or it holds something else.
    """
    if processes.is_writer():
        folder = RunFolder(out)
        with folder.lock():
            yield folder
        return
    name = ".vardiu-process"
    clear_leavings(Path(tempfile.gettempdir()).glob(f"{name}.tmp-*"))
    with tempfile.TemporaryDirectory(prefix=f"{name}.{partial_suffix()}~") as place:
        yield FollowedFolder(place, Path(out))


class Begun(NamedTuple):
    r"""How a run begins.

    Arguments:
        is_finished: Whether nothing is left to do.
        lost: What of a finished run is made again, see `set_aside`.
    """

    is_finished: bool
    lost: tuple[str, ...] = ()


def begin(folder: RunFolder, task: Task, kind: str) -> Begun:
    r"""Opens the folder of a run for a task, see `RunFolder.open`; all processes learn how.

    Arguments:
        folder: The folder.
        task: The task.
        kind: The kind of device that it is carried out on.

    Raises:
        RunError: The folder holds something else, or another run.
        ConfigError: Something is left to do of a run that was begun on another kind of device.
    """
    begun = Begun(False)
    if processes.is_writer():
        if folder.exists and folder.file("checkpoints").is_dir():
            refuse_cut(folder.file("config.yaml"), task.to_mapping())
            refuse_other_version(folder, task.to_mapping())
        finished, damaged = folder.open(task.to_mapping()) == "finished", dict[Path, str]()
        if finished:
            adapted = getattr(task.problem, "student", "") == "lora"
            damaged = damaged_models(folder, task.command, adapted)
        if damaged or not finished:
            refuse_other_device(folder, kind)
        begun = Begun(finished and not damaged, set_aside(damaged))
    begun = processes.from_writer(begun)
    if isinstance(folder, FollowedFolder):
        folder.copy_what_is_there()
    processes.wait()
    return begun


def refuse_uneven_rows(task: Task) -> None:
    r"""Raises a `ConfigError` if a batch cannot be divided equally among the processes."""
    world, parts = processes.count(), task.run.accumulate
    names = f"{world} processes" + f" of run.accumulate={parts} parts each" * (parts > 1)
    for name, size in sizes_of(task.settings).items():
        if size % (world * parts):
            raise ConfigError(
                f"method.{name} must be a multiple of {world * parts}, for {names}, got {size}"
            )
