r"""Commands that the studio carries out, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, shown
from .tables import TABLED, tables_of

__all__ = ["ALLOWED", "Job", "Jobs"]


# The commands that the page may ask for.
ALLOWED = ("distill", "teach", "probe", "estimate", "export", "restore", "upscale")


# Those that save and stop by themselves.
TRAININGS = ("distill", "teach")


# Characters of a command's output that are shown, from its end; commands at once.
SHOWN, AT_ONCE = 20_000, 8


class Job:
    r"""A command under way, or over.

    Arguments:
        number: Its number.
        words: The words after `vardiu`.
        log: The file that has what it prints.
        discarded: A folder that it writes, which is removed when it is over.

    What is shown as a table is asked for as JSON, which is kept beside the log.
    """

    def __init__(
        self, number: int, words: Sequence[str], log: Path, discarded: Path | None = None
    ) -> None:
        self.number, self.log, self.discarded = number, log, discarded
        self.words = [*words, *(["--json"] if words[0] in TABLED else [])]
        self.numbers = log.with_suffix(".json") if words[0] in TABLED else None
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(log.open("wb"))
            printed = (
                file if self.numbers is None else stack.enter_context(self.numbers.open("wb"))
            )
            # Of a session of its own: a training outlives the studio.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vardiu", *self.words],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=file,
                start_new_session=True,
                env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
            )

    def state(self) -> dict[str, Any]:
        r"""Returns how far it is: its exit status, `None` while it runs, and what it printed."""
        status = self.process.poll()
        if status is not None and self.discarded is not None:
            shutil.rmtree(self.discarded, ignore_errors=True)  # there is none where it failed
        text = self.log.read_bytes()[-SHOWN:].decode("utf-8", "replace")
        printed = self.numbers.read_text() if self.numbers and status is not None else ""
        tables: list[dict[str, Any]] = []
        try:
            tables = tables_of(self.words, printed)
        except json.JSONDecodeError:  # words of the command, as those of --help
            text += printed[-SHOWN:]
        return {
            "tables": tables,
            "job": self.number,
            "command": command_line(self.words),
            "status": status,
            "text": text,
        }

    def stop(self) -> None:
        r"""Asks the command to stop; a training saves first."""
        if self.process.poll() is not None:
            raise ConfigError(f"command number {self.number:,} is over")
        if self.words[0] in TRAININGS:
            self.process.terminate()
        else:  # with the processes that it measures in
            os.killpg(self.process.pid, signal.SIGTERM)


class Jobs:
    r"""The commands of a studio.

    Arguments:
        folder: Where what they print is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[int, Job] = {}
        self.lock = threading.Lock()

    def start(self, words: Sequence[str], discarded: Path | None = None) -> Job:
        r"""Starts a command.

        Arguments:
            words: The words after `vardiu`.
            discarded: See `Job`.

        Raises:
            ConfigError: It is none that may be asked for, or too many are under way.
        """
        if not words or words[0] not in ALLOWED:
            what = shown(words[0]) if words else "nothing"
            raise ConfigError(f"the studio runs {', '.join(ALLOWED)}, not {what}")
        with self.lock:
            running = [job for job in self.jobs.values() if job.process.poll() is None]
            if len(running) >= AT_ONCE:
                raise ConfigError(f"{AT_ONCE} commands are under way: wait for one, or stop it")
            number = len(self.jobs) + 1
            job = Job(number, words, self.folder / f"job-{number}.log", discarded)
            self.jobs[number] = job
        return job

    def told(self) -> list[dict[str, Any]]:
        r"""Returns number, words and exit status of each command, the latest first."""
        return [
            {"job": job.number, "command": command_line(job.words), "status": job.process.poll()}
            for job in reversed(list(self.jobs.values()))
        ]

    def job(self, number: int) -> Job:
        r"""Returns a command.

        Raises:
            ConfigError: There is none of this number.
        """
        if number not in self.jobs:
            raise ConfigError(f"there is no command number {number:,} of this studio")
        return self.jobs[number]


def command_line(words: Sequence[str]) -> str:
    r"""Returns a command as one types it."""
    return shlex.join(["vardiu", *words])
