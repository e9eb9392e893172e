"""Processes of the command that are forked from the test's own: what it imported is there at once.

They are real processes: signals reach them, and they end as `vardiu` ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from vardiu.cli.main import main
from vardiu.storage.processes import joined

FORK = multiprocessing.get_context("fork")


def forked_workers(monkeypatch) -> None:
    """Makes a bake-off fork its workers from this process, not from a server that imports torch."""
    monkeypatch.setattr("vardiu.comparison.workers._context", lambda: FORK)


class Command:
    """A command in a process of its own, whose words go to a file.

    Arguments:
        words: What stands after `vardiu`.
        log: The file.
        before: Is called in the process before the command.
    """

    def __init__(self, words: list[str], log: Path, before: Callable[[], None] = lambda: None):
        self.log = log
        self.process = FORK.Process(target=_carry_out, args=(words, log, before))
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal, and waits for the end."""
        os.kill(self.process.pid, number)
        self.wait()

    def wait(self, seconds: float = 120.0) -> tuple[int, str]:
        """Returns the status and the words; the test fails where it takes longer."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "it did not end in time"
        return self.process.exitcode, self.log.read_text()


def _carry_out(words: list[str], log: Path, before: Callable[[], None]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("w", buffering=1) as file:
        # Below Python too: pytest has put files of its own in their places.
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        before()
        raise SystemExit(main(words))


class Crew:
    """Processes that share one run, as torchrun starts them, forked from the test's own.

    Arguments:
        count: Their number.
        work: What each does; its words after `vardiu`, or a function.
        log: The file of all that they say.
        before: Is called in each process first, with its rank.
        restarted: Those that these take the place of: they find the table that is left of them.
    """

    def __init__(
        self,
        count: int,
        work: list[str] | Callable[[], None],
        log: Path,
        before: Callable[[int], None] = lambda rank: None,
        restarted: Crew | None = None,
    ):
        # As torchrun's agent does, this process keeps the table, over restarts.
        made = restarted.store if restarted else None
        self.store = made or torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
        self.attempt = restarted.attempt + 1 if restarted else 0
        self.log, port = log, self.store.port
        log.write_text("")
        self.processes = [
            FORK.Process(
                target=_take_part,
                args=(rank, count, (port, self.attempt), work, log, before),
                daemon=True,
            )
            for rank in range(count)
        ]
        for process in self.processes:
            process.start()

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        os.kill(self.processes[rank].pid, number)

    def wait(self, seconds: float = 240.0) -> tuple[list[int], str]:
        """Returns the statuses and the words; the test fails where it takes longer."""
        for process in self.processes:
            process.join(seconds)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        assert None not in codes, f"it did not end in time: {codes} {self.log.read_text()}"
        return codes, self.log.read_text()


def _take_part(
    rank: int,
    count: int,
    table: tuple[int, int],
    work: list[str] | Callable[[], None],
    log: Path,
    before: Callable[[int], None],
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(table[0]),
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": str(table[1]),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    with log.open("a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        before(rank)
        if callable(work):
            with joined():
                work()
            raise SystemExit(0)
        raise SystemExit(main(work))
