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

from vardiu.cli.main import main

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
