r"""Artefacts: what a run makes once, and no checkpoint repeats.

Pairs of noise and sample, the frame of a student, trajectories, features of a reference: each is a
function of a description (what made it, with which settings and seed). The SHA-256 of the
description names the folder; every file in it is verified before it is used. It is made in
portions, each of which is on disk as soon as it is there: a kill loses one portion at most.
Several processes of one run each make their own share of the portions.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, Interrupted
from . import processes
from .checkpoints import load_state, save_state
from .files import LEAVINGS, clear_leavings, open_unlinked, write_text_atomic
from .interrupts import wish_to_stop

__all__ = ["Artefacts", "Portion", "RehearsedArtefacts"]

Portion = Mapping[str, Tensor]


class Artefacts:
    r"""The artefacts of a run.

    Arguments:
        folder: The folder that holds them; none keeps them in memory for as long as this object.
        progress: Is told the name of what is being made, how many portions there are, and how
            many there will be.
        meter: Reads counters that only grow; what each portion took of them is kept with it.
        stopping: Is called when the process is asked to stop, before the portion at hand ends.

    Attributes:
        cost: What the artefacts that were asked for took, in whichever process they were made.
    """

    def __init__(
        self,
        folder: Path | None = None,
        progress: Callable[[str, int, int], None] = lambda name, done, total: None,
        meter: Callable[[], Mapping[str, float]] = lambda: {"seconds": time.perf_counter()},
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.progress, self.meter = folder, progress, meter
        self.stopping = stopping
        self.cost: dict[str, float] = {}
        self._memory: dict[str, dict[str, Tensor]] = {}

    def get(
        self,
        name: str,
        description: Mapping[str, Any],
        portions: int,
        make: Callable[[int], Portion],
    ) -> dict[str, Tensor]:
        r"""Returns an artefact, from where it is kept or made now.

        Arguments:
            name: What it is, a word.
            description: All that its content depends on, as JSON has it.
            portions: The number of portions.
            make: Makes one portion by its index; a function of the index and the description
                alone, so that a portion made again is the same. Rows of portions are joined.

        Raises:
            CheckpointError: The disk is full or cannot be written.
            Interrupted: SIGINT or SIGTERM came; the portions so far are kept.
        """
        if portions < 1:
            raise ValueError(f"the portions of {name} must be at least 1, got {portions}")
        key = f"{name}-{self.address(description, portions)}"
        if key not in self._memory:
            if self.folder is None:
                made = list(self.metered(name, range(portions), portions, make))
                self.charge([cost for _, cost in made])
                self._memory[key] = joined([portion for portion, _ in made])
            else:
                self._memory[key] = self._kept(key, name, description, portions, make)
        return dict(self._memory[key])

    @staticmethod
    def address(description: Mapping[str, Any], portions: int) -> str:
        r"""Returns the name that a description's content has: half of its SHA-256."""
        text = json.dumps({**description, "portions": portions}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def size(self) -> int:
        r"""The bytes of the artefacts that were asked for."""
        tensors = (value for made in self._memory.values() for value in made.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _kept(
        self,
        key: str,
        name: str,
        description: Mapping[str, Any],
        portions: int,
        make: Callable[[int], Portion],
    ) -> dict[str, Tensor]:
        assert self.folder is not None
        folder = self.folder / key
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder) if processes.is_writer() else contextlib.nullcontext():
            if processes.is_writer():
                about = json.dumps(dict(description), indent=1, sort_keys=True)
                write_text_atomic(folder / "description.json", about + "\n")
            processes.wait()
            own = range(processes.rank(), portions, processes.count())
            wanted = [i for i in own if not verified(folder / f"{i:06d}")]
            made = self.metered(name, wanted, len(own), make)
            for i, (portion, cost) in zip(wanted, made, strict=True):
                save_state(folder / f"{i:06d}", {"portion": dict(portion), "cost": cost})
            processes.wait()
            states = [load_state(folder / f"{i:06d}") for i in range(portions)]
        self.charge([state["cost"] for state in states])
        return joined([state["portion"] for state in states])

    def charge(self, costs: Sequence[Mapping[str, float]]) -> None:
        r"""Adds what portions took to the cost."""
        for cost in costs:
            for counter, value in cost.items():
                self.cost[counter] = self.cost.get(counter, 0) + value

    def metered(
        self, name: str, wanted: Sequence[int], total: int, make: Callable[[int], Portion]
    ) -> Iterator[tuple[Portion, dict[str, float]]]:
        r"""Yields the wanted portions, and what each of them took."""
        before = self.meter()
        for portion in self.made(name, wanted, total, make):
            now = self.meter()
            yield portion, {counter: now[counter] - before[counter] for counter in now}
            before = self.meter()

    def made(
        self, name: str, wanted: Sequence[int], total: int, make: Callable[[int], Portion]
    ) -> Iterator[Portion]:
        r"""Yields the wanted portions, each made when it is asked for."""
        done = total - len(wanted)
        with wish_to_stop(self.stopping) as wish:
            for index in wanted:
                self.progress(name, done, total)
                yield make(index)
                done += 1
                if wish.asked:
                    raise Interrupted(f"stopped after portion {done} of {total} of the {name}")
        if wanted:
            self.progress(name, done, total)


class RehearsedArtefacts(Artefacts):
    r"""Artefacts of which the first and the last portion are made; the first one stands for all
    between. Their cost is that of all portions.

    Attributes:
        extrapolated: What the portions that were not made would take.
    """

    def __init__(
        self,
        meter: Callable[[], Mapping[str, float]] = lambda: {"seconds": time.perf_counter()},
    ) -> None:
        super().__init__(meter=meter)
        self.extrapolated: dict[str, float] = {}

    def metered(
        self, name: str, wanted: Sequence[int], total: int, make: Callable[[int], Portion]
    ) -> Iterator[tuple[Portion, dict[str, float]]]:
        ends = sorted({wanted[0], wanted[-1]})
        first, *last = super().metered(name, ends, total, make)
        between = len(wanted) - len(ends)
        for counter, value in first[1].items():
            self.extrapolated[counter] = self.extrapolated.get(counter, 0) + between * value
        yield from [first] * (between + 1)
        yield from last


def verified(folder: Path) -> bool:
    r"""Whether a portion is there, whole; one that is damaged makes way to be made again."""
    if not folder.is_dir():
        return False
    try:
        load_state(folder)
    except CheckpointError:
        shutil.rmtree(folder)
        return False
    return True


def joined(parts: list[Any]) -> dict[str, Tensor]:
    r"""Returns the rows of all portions, by name."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    r"""Waits until no other process works in a folder; the system lifts the lock if one dies, and
    what it left unfinished goes."""
    with os.fdopen(open_unlinked(folder / ".lock", os.O_WRONLY), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        clear_leavings(folder.glob(LEAVINGS))
        yield
