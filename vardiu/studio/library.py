r"""The runs below some folders, by what their events, logs and results say: no model is read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RunError, shown
from ..runs.task import PROBLEM_KINDS, PROBLEMS
from ..settings.parse import flattened
from ..storage.bounded import decoded_text, parsed_json, read_text
from ..storage.log_lines import LogLines
from ..storage.run_folder import RunFolder, row_of

__all__ = ["PAGE", "ROWS", "Library", "SeenRun"]


# Rows that are drawn of a log, runs of a page, values of a sparkline.
ROWS, PAGE, SPARK = 600, 60, 40


# What a search finds a run by, beside its name.
SEARCHED = ("preset", "method", "problem", "command")


# Settings in which runs of one series may differ.
CIRCUMSTANCES = frozenset(
    {
        "preset",
        *(f"run.{name}" for name in ("seed", "device", "threads", "shard", "accumulate")),
        *(f"run.{name}" for name in ("reports", "evaluations", "samples")),
        *(f"run.{name}" for name in ("save_every", "milestones")),
    }
)


# Settings that were read, by the text of their files, and how many are kept.
SETTINGS: dict[str, dict[str, Any]] = {}
MOST_SETTINGS = 500


# How a line of the events starts, as it is written.
EVENT = b'{"event": "'


# Folders below the given ones that are looked into.
DEPTH = 6


class SeenRun:
    r"""A run as its folder tells it now; what was read before is not read again.

    Arguments:
        path: Its folder.
        name: What it is called in lists.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.folder, self.name = RunFolder(path), name
        self.log = LogLines(path / "metrics.jsonl", b'"metric/')
        self.events = LogLines(path / "events.jsonl", b'{"event": "alarm_raised"')
        self.latest: dict[str, dict[str, Any]] = {}
        self.last = ""
        self.found: str | None = None
        self.kept: tuple[Any, dict[str, Any]] = (None, {})
        self.lock = threading.Lock()

    @property
    def id(self) -> str:
        r"""By what the page asks for it."""
        return hashlib.sha256(os.fsencode(self.folder.path)).hexdigest()[:16]

    def stamp(self) -> tuple[tuple[int, int], ...]:
        r"""Returns what changes when the run's files do."""
        found = []
        for name in ("events.jsonl", "metrics.jsonl", "result.json", "config.yaml"):
            with contextlib.suppress(OSError):
                about = os.stat(self.folder.file(name))
                found.append((about.st_mtime_ns, about.st_size))
        return tuple(found)

    def words(self) -> str:
        r"""Returns what a search finds the run by, in small letters: its name, and what its first
        event says; no more of its files is read."""
        if self.found is None:
            started: dict[str, Any] = {}
            with contextlib.suppress(OSError, RunError), self.events.path.open("rb") as file:
                line = file.readline(2**16)
                started = self.event(line, 0) if line.endswith(b"\n") else {}
                self.found = " ".join(str(started.get(name, "")) for name in SEARCHED)
        return f"{self.name} {self.found or ''}".lower()

    def settings(self) -> dict[str, Any]:
        r"""Returns the settings by their full names that make runs of other seeds the same
        experiment: not the seed, nor where and how often the run is computed and measured.

        Raises:
            RunError: They cannot be read.
        """
        text = read_text(self.folder.file("config.yaml"), error=RunError)
        text = re.sub(r"(?m)^  seed: \d+$", "", text)  # seeds of a series are read once
        found = SETTINGS.get(text)
        if found is None:
            flat = flattened(self.folder.config())
            found = {name: value for name, value in flat.items() if name not in CIRCUMSTANCES}
            if len(SETTINGS) >= MOST_SETTINGS:
                SETTINGS.clear()
            SETTINGS[text] = found
        return found

    def alarms(self, most: int) -> list[dict[str, Any]]:
        r"""Returns the alarms that were raised last, at most so many."""
        with self.events.lock:
            self.events.read()
            return [
                self.event(self.events.line(i), i) for i in self.events.marked[-most:].tolist()
            ]

    def rows(self, most: int = ROWS) -> list[dict[str, Any]]:
        r"""Returns rows of the log, thinned to about so many.

        Raises:
            RunError: A line is damaged.
        """
        with self.log.lock:
            self.log.read()
            where = shown(self.log.path)
            return [
                row_of(self.log.line(i), f"{where}, line {i + 1}") for i in self.log.thinned(most)
            ]

    def hear(self) -> None:
        r"""Reads the events that were added; the latest of each name is kept, and it alone is
        parsed.

        Raises:
            RunError: A line that is parsed, or that starts otherwise than events do, is damaged.
        """
        with self.events.lock:
            first = self.events.read()
            if first == 0:
                self.latest, self.last = {}, ""
            found: dict[str, int] = {}
            lines = self.events.lines(first)
            for i, line in enumerate(lines):
                name = line[len(EVENT) : line.find(b'"', len(EVENT))]
                if not (line.startswith(EVENT) and name.isascii()):
                    name = self.event(line, first + i)["event"].encode()
                found[name.decode()] = i
            for latest, i in found.items():
                self.latest[latest] = self.event(lines[i], first + i)
            if found:
                self.last = max(found, key=lambda latest: found[latest])

    def event(self, line: bytes, index: int) -> dict[str, Any]:
        r"""Returns what a line of the events says."""
        where = f"{shown(self.events.path)}, line {index + 1}"
        record = parsed_json(decoded_text(line, where, RunError), where, RunError)
        if not isinstance(record, dict) or not isinstance(record.get("event"), str):
            raise RunError(f"{where} is damaged: it is no event")
        return record

    def about(self) -> dict[str, Any]:
        r"""Returns what the run is: command, preset, method, problem, seed and headline metric."""
        found = self.latest.get("run_started")
        names = ("command", "preset", "method", "problem", "seed", "metric", "lower_is_better")
        if found is not None:
            return {name: found.get(name) for name in names}
        config = self.folder.config()
        method, problem = config.get("method", {}), config.get("problem", {})
        kind = PROBLEM_KINDS.get(problem.get("kind"))
        judged = None if kind is None else PROBLEMS[kind].judged
        return {
            "command": config.get("command"),
            "preset": config.get("preset"),
            "method": method.get("name"),
            "problem": problem.get("name"),
            "seed": config.get("run", {}).get("seed"),
            "metric": None if judged is None else judged.metric,
            "lower_is_better": judged is None or judged.lower_is_better,
        }

    def summary(self) -> dict[str, Any]:
        r"""Returns the run as a list shows it; a run that cannot be read says why."""
        stamp = self.stamp()
        with self.lock:
            if self.kept[0] != stamp:
                try:
                    self.kept = (stamp, self.read())
                except (RunError, ValueError, AttributeError, TypeError, KeyError) as error:
                    broken = {"state": "unreadable", "why": shown(str(error))}
                    self.kept = (stamp, broken)
            found = {"id": self.id, "name": self.name, **self.kept[1]}
        if found["state"] == "stopped" and self.folder.writer() is not None:
            found["state"] = "running"
        return found

    def read(self) -> dict[str, Any]:
        r"""Returns what the files say."""
        self.hear()
        about, rows = self.about(), self.rows(2 * SPARK)
        result = self.folder.result()
        values = [row.get(f"metric/{about['metric']}") for row in rows]
        values = [value for value in values if isinstance(value, int | float)]
        verdict = None if result is None else result.get("verdict")
        state = "finished" if result is not None else "stopped"
        if result is None and self.last == "run_failed":
            state = "failed"
        return {
            **about,
            "state": state,
            "verdict": verdict if isinstance(verdict, Mapping) else None,
            "why": self.latest.get("run_failed", {}).get("reason", "")
            if state == "failed"
            else "",
            "value": values[-1] if values else None,
            "spark": values[-SPARK:] if len(values) <= SPARK else values[:: len(values) // SPARK],
            "alarms": len(self.events.marked) or sum(len(row.get("alarms", ())) for row in rows),
            **self.progress(rows),
        }

    def progress(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        r"""Returns how far the run is, and the seconds that its stage has left at its pace."""
        started = self.latest.get("stage_started", {})
        told = self.latest.get("reported", {})
        step, steps = told.get("step"), told.get("steps") or started.get("steps")
        if step is None and rows:
            step = rows[-1]["step"]
        seconds = told.get("seconds") or (rows[-1].get("seconds") if rows else None)
        left = seconds / step * (steps - step) if seconds and step and steps else None
        return {
            "stage": told.get("stage") or (rows[-1].get("stage") if rows else None),
            "index": started.get("index"),
            "of": started.get("of"),
            "step": step,
            "steps": steps,
            "seconds": seconds,
            "left": left,
        }


class Library:
    r"""The runs below some folders.

    Arguments:
        roots: The folders; what is in a run's own folder is not looked at, nor behind a link.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = list(roots)
        self.known: dict[Path, SeenRun] = {}
        self.lock = threading.Lock()

    def scan(self) -> list[SeenRun]:
        r"""Returns the runs that there are now, the one that changed last first."""
        found: list[tuple[int, SeenRun]] = []
        with self.lock:
            seen: dict[Path, SeenRun] = {}
            for root in self.roots:
                for path in folders_of(root, DEPTH):
                    run = self.known.get(path)
                    if run is None:
                        name = root.name if path == root else os.fspath(path.relative_to(root))
                        run = SeenRun(path, shown(name))
                    seen[path] = run
                    changed = max((time for time, _ in run.stamp()), default=0)
                    found.append((changed, run))
            self.known = seen
        return [run for _, run in sorted(found, key=lambda item: -item[0])]

    def run(self, key: str) -> SeenRun:
        r"""Returns a run.

        Raises:
            RunError: There is none of this id any more.
        """
        for again in (False, True):
            runs = self.scan() if again else list(self.known.values())
            found = next((run for run in runs if run.id == key), None)
            if found is not None and found.folder.exists:
                return found
        raise RunError("there is no such run any more: its folder was moved or removed")


def folders_of(root: Path, depth: int) -> list[Path]:
    r"""Returns the folders of runs in a folder and below it; one that goes meanwhile has none."""
    if os.path.isfile(root / "config.yaml"):
        return [root]
    found: list[Path] = []
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if depth and not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                found += folders_of(Path(entry.path), depth - 1)
    return found
