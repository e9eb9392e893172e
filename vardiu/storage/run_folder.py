r"""The folder of a run: its settings, its log, its checkpoints, its one writer."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import RunError, shown
from .bounded import decoded_text, parsed_json, read_bytes, read_json, read_text, read_yaml
from .files import (
    LEAVINGS,
    clear_leavings,
    naming,
    open_unlinked,
    refuse_odd_name,
    write_text_atomic,
)
from .finished import refuse_foreign

__all__ = [
    "RunFolder",
    "in_words",
    "is_metric",
    "refuse_all_but_a_run",
    "refuse_cut",
    "row_of",
]


# Of a row of a log: what is a number wherever it stands.
COUNTERS = ("step", "updates", "seconds", "calls", "teacher_calls", "teacher_rows")


# What a run has before anything is trained: its start may fail and leave no more.
UNTRAINED = frozenset({"config.yaml", "provenance.json", "events.jsonl", ".lock"})


# What else a run writes: files, and folders.
FILES = (
    *(*UNTRAINED, "metrics.jsonl", "result.json", "report.html"),
    *("samples.png", "curves.png", "convergence.png"),
)
FOLDERS = (
    *("artefacts", "checkpoints", "measuring", "milestones", "snapshots"),
    *("student", "students", "teacher"),
)


# What every finished run says of what it took.
COSTS = {"seconds", "teacher_calls", "teacher_rows", "student_updates"}


# The fields of a metric.
NEEDED = {"name", "value", "error", "n", "higher_is_better"}


WORDS = {"note", "reference", "features"}


def _text_of(config: Mapping[str, Any]) -> str:
    r"""Returns settings as `config.yaml` has them."""
    return yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 (YAML)
    if isinstance(value, Mapping) and value:
        merged: dict[str, Any] = {}
        for key, item in value.items():
            merged |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
        return merged
    return {prefix: value}


def refuse_all_but_a_run(path: Path) -> None:
    r"""Raises a `RunError` if a folder holds something, and no run."""
    # A process killed while it made the folder leaves its lock and a partial file.
    refuse_foreign(path, "run", "config.yaml", [".lock*", ".config.yaml.*"])


class RunFolder:
    r"""A run on disk.

    Arguments:
        path: The folder; `open` makes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._made: list[Path] = []

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def file(self, name: str) -> Path:
        return self.path / name

    def student_of(self, calls: int | None) -> Path:
        r"""Returns where a run's student of so many calls is: that of a stage of its own, or the
        run's last."""
        kept = self.file(f"students/{calls}")
        return kept if calls is not None and kept.is_dir() else self.file("student")

    @property
    def exists(self) -> bool:
        return os.path.isfile(self.file("config.yaml"))  # a name may be too long to ask for

    def open(self, config: Mapping[str, Any]) -> Literal["new", "resumed", "finished"]:
        r"""Makes the folder for a run with these settings, or finds that it is this run's.

        A run that ended before anything was trained, for a setting that could not be, makes way
        for one with others.

        Raises:
            RunError: The folder holds something else, or another run, or cannot be written.
        """
        plain = json.loads(json.dumps(config))
        if self.exists:
            refuse_cut(self.file("config.yaml"), plain)
            others = self.differing(plain)
            if others and self.is_bare():
                for name in ("provenance.json", "events.jsonl"):
                    self.file(name).unlink(missing_ok=True)
                self._write_config(plain)
                return "new"
            if others:
                raise RunError(
                    f"{shown(self.path)} holds another run, whose settings differ: "
                    f"{in_words(others)}. Give another folder with --out, or move this one away"
                )
            return "finished" if self.result() is not None else "resumed"
        refuse_all_but_a_run(self.path)
        self._write_config(plain)
        return "new"

    def _write_config(self, plain: Mapping[str, Any]) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text_atomic(self.file("config.yaml"), _text_of(plain))
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({error.strerror}). "
                "Give a folder that can with --out, or free some space"
            ) from error

    def differing(self, config: Mapping[str, Any]) -> dict[str, str]:
        r"""Returns the settings in which this run is another one than a run with these: by their
        names what each is, in words."""
        theirs, ours = _flat(self.config()), _flat(json.loads(json.dumps(config)))
        return {
            k: f"{shown(k)}: there {shown_value(theirs.get(k))}, now {shown_value(ours.get(k))}"
            for k in sorted({*theirs, *ours})
            if theirs.get(k) != ours.get(k)
        }

    def is_bare(self) -> bool:
        r"""Whether nothing was trained here: settings, provenance and artefacts are all."""
        if any(path.name not in {*UNTRAINED, "artefacts"} for path in self.path.iterdir()):
            return False
        text = read_text(self.file("config.yaml"), error=RunError)
        return text == _text_of(self.config())

    def config(self) -> dict[str, Any]:
        r"""Returns the run's settings.

        Raises:
            RunError: There is no run here, or its file is damaged.
        """
        if not self.exists:
            raise RunError(
                f"{self.path} holds no run (no config.yaml); give a folder that "
                "`vardiu distill` or `vardiu teach` wrote"
            )
        try:
            found: dict[str, Any] = read_yaml(self.file("config.yaml"), error=RunError)
        except RunError as error:
            raise RunError(f"{error}. Bring the file back from a copy") from error
        return found

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        r"""Makes this process the run's only writer; the system lifts the lock if it dies.

        Raises:
            RunError: Another process writes to this run, or the folder is not a run's.
        """
        refuse_odd_name(self.path)
        refuse_all_but_a_run(self.path)
        self._refuse_links()
        self._refuse_kinds()
        self._made = [p for p in (self.path, *self.path.parents) if not os.path.lexists(p)]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(open_unlinked(self.file(".lock"), os.O_RDWR), "r+")
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({error.strerror}). "
                "Give a folder that can with --out"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise RunError(
                    f"another process ({file.read().strip() or 'unknown'}) writes to {self.path}. "
                    "Wait for it, stop it, or give another folder with --out"
                ) from error
            file.seek(0)
            file.truncate()
            file.write(f"pid {os.getpid()}")
            file.flush()
            clear_leavings(self.path.rglob(LEAVINGS))
            yield

    def remove_if_bare(self) -> None:
        r"""Removes the folder, and what `lock` made above it, if nothing was trained or made here:
        a start that fails leaves nothing behind."""
        if not self._made or any(path.name not in UNTRAINED for path in self.path.iterdir()):
            return
        for name in UNTRAINED:
            self.file(name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else put something there
            for folder in self._made:
                folder.rmdir()

    def _refuse_links(self) -> None:
        r"""Raises a `RunError` if something in the folder is a link: nothing is written through
        one, to where it was not asked to be written."""
        for place, folders, files in os.walk(self.path):
            for name in [*folders, *files]:
                path = Path(place) / name
                if path.is_symlink():
                    raise RunError(
                        f"{shown(path)} is a link, and nothing in a run's folder is written "
                        "through a link: put what it leads to in its place, or give another "
                        "folder with --out"
                    )

    def _refuse_kinds(self) -> None:
        r"""Raises a `RunError` if a folder is where a run writes a file, or the other way round:
        it would end there when all is trained and measured."""
        for names, is_other, other, own in (
            (FILES, os.path.isdir, "a folder", "a file"),
            (FOLDERS, os.path.isfile, "a file", "a folder"),
        ):
            for name in names:
                if is_other(self.file(name)):
                    raise RunError(
                        f"{shown(self.file(name))} is {other}, where a run has {own}: move it "
                        "away, or give another folder with --out"
                    )

    def writer(self) -> int | None:
        r"""Returns the process that writes to this run now; `None` where none does.

        Its lock is tried only where the process that it names lives, so that a run that starts
        meanwhile is not refused.
        """
        try:
            descriptor = os.open(self.file(".lock"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            found = re.fullmatch(rb"pid (\d{1,9})", file.read(20))
            if found is None or not is_alive(int(found[1])):
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(found[1])
            return None

    # ------------------------------------------------------------------ log

    def log(self, row: Mapping[str, Any], name: str = "metrics.jsonl") -> None:
        r"""Appends a row to `metrics.jsonl`, or a record to `events.jsonl`; what is not finite is
        written as null, and named."""
        clean = dict(row)
        bad = [k for k, v in clean.items() if isinstance(v, float) and not math.isfinite(v)]
        for key in bad:
            clean[key] = None
        if bad:
            clean["nonfinite"] = bad
        path, flags = self.file(name), os.O_RDWR | os.O_APPEND
        with naming(path), os.fdopen(open_unlinked(path, flags), "ab+") as file:
            file.seek(max(0, file.tell() - 1))
            if file.read(1) not in (b"", b"\n"):  # a crash cut the last line short
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(clean).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        r"""Returns the rows of the log; a last line that a crash cut short is left out.

        Raises:
            RunError: Another line is damaged.
        """
        path = self.file("metrics.jsonl")
        if not path.is_file():
            return []
        # What follows the last line break is empty, or was cut short.
        *lines, _ = read_bytes(path, "log bytes", RunError).split(b"\n")
        rows = []
        for number, line in enumerate(lines, start=1):
            where = f"{shown(path)}, line {number}"
            rows.append(row_of(line, where))
        return rows

    def truncate_metrics(self, stage: str, step: int) -> None:
        r"""Drops the rows of a stage after a step, which a resumed run is going to write again."""
        if self.file("metrics.jsonl").is_file():
            rows = [r for r in self.metrics() if r["stage"] != stage or r["step"] <= step]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            write_text_atomic(self.file("metrics.jsonl"), text)

    def finish(self, summary: Mapping[str, Any]) -> None:
        r"""Writes `result.json`, the mark of a finished run."""
        write_text_atomic(self.file("result.json"), json.dumps(summary, indent=2) + "\n")

    def result(self) -> dict[str, Any] | None:
        r"""Returns what `finish` wrote, or `None`.

        Raises:
            RunError: The file is damaged.
        """
        path = self.file("result.json")
        if not os.path.lexists(path):
            return None
        try:
            found: dict[str, Any] = read_json(path, error=RunError)
            refuse_odd_result(found, shown(path))
        except RunError as error:
            raise RunError(
                f"{error}. Move it away and give the command that made the run again: it is "
                "written anew from the last checkpoint. Or bring the file back from a copy"
            ) from error
        return found


def is_alive(pid: int) -> bool:
    r"""Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def refuse_cut(path: Path, config: Mapping[str, Any]) -> None:
    r"""Raises a `RunError` if the settings of a run are there in part: a copy that was cut short
    is no other run.

    Arguments:
        path: The run's `config.yaml`.
        config: The settings of the run that is to go on there.
    """
    text, whole = read_text(path, error=RunError), _text_of(config)
    # An older version had fewer settings in a group, and no group less.
    lacks = not text.endswith("\n") or any(f"\n{key}:" not in f"\n{text}" for key in config)
    if lacks and whole.startswith(text.rstrip()) and text.rstrip() != whole.rstrip():
        raise RunError(
            f"{shown(path)} is cut short ({len(text.splitlines()):,} of "
            f"{len(whole.splitlines()):,} lines). Bring it back from a copy, or give another "
            "folder with --out"
        )


def row_of(line: bytes, where: str) -> dict[str, Any]:
    r"""Returns a row of a log of its line.

    Raises:
        RunError: The line is damaged.
    """
    try:
        row: dict[str, Any] = parsed_json(decoded_text(line, where, RunError), where, RunError)
        refuse_odd_row(row, where)
    except RunError as error:
        cure = "Delete that line, or bring the file back from a copy"
        raise RunError(f"{error}. {cure}") from error
    return row


def refuse_odd_row(row: Any, where: str) -> None:  # noqa: ANN401 (JSON)
    r"""Raises a `RunError` if something is no row of a log."""
    good = isinstance(row, Mapping) and isinstance(row.get("stage", ""), str)
    good = good and is_number(row.get("step"))
    # What was not finite was written as null.
    good = good and all(row[key] is None or is_number(row[key]) for key in COUNTERS if key in row)
    good = good and not any(isinstance(v, float) and not math.isfinite(v) for v in row.values())
    if not good:
        raise RunError(f"{where} is damaged: it is no row of a log, got {shown(row)}")


def refuse_odd_result(result: Mapping[str, Any], where: str) -> None:
    r"""Raises a `RunError` if something is not what a finished run has measured."""
    metrics, cost = result.get("metrics"), result.get("cost")
    reference, verdict = result.get("reference", {}), result.get("verdict", {})
    if not isinstance(metrics, list) or not metrics:
        raise RunError(f"{where} is damaged: it must hold metrics, a list")
    if not isinstance(cost, Mapping) or not COSTS <= set(cost):
        raise RunError(f"{where} is damaged: it must hold cost, with {', '.join(sorted(COSTS))}")
    if not all(is_number(value) for value in cost.values()):
        raise RunError(f"{where} is damaged: its cost must hold numbers")
    if not isinstance(reference, Mapping) or not isinstance(reference.get("metrics", []), list):
        raise RunError(f"{where} is damaged: reference must be a group with metrics")
    if not isinstance(verdict, Mapping):
        raise RunError(f"{where} is damaged: verdict must be a group")
    odd = [row for row in (*metrics, *reference.get("metrics", ())) if not is_metric(row)]
    if odd:
        raise RunError(f"{where} is damaged: {shown(odd[0])} is no metric")


def is_metric(row: Any) -> bool:  # noqa: ANN401 (JSON)
    r"""Whether a value of JSON is the row of a metric, see `vardiu.metrics.Metric`."""
    if not isinstance(row, Mapping) or not NEEDED <= set(row) <= NEEDED | WORDS:
        return False
    numbers = is_number(row["value"]) and (row["error"] is None or is_number(row["error"]))
    words = isinstance(row["name"], str) and all(isinstance(row.get(w, ""), str) for w in WORDS)
    direction = row["higher_is_better"]
    return numbers and words and is_number(row["n"]) and isinstance(direction, bool | None)


def in_words(differing: Mapping[str, str], most: int = 6) -> str:
    r"""Returns what `RunFolder.differing` found on one line; of many the first ones."""
    more = f"; and {len(differing) - most} more" if len(differing) > most else ""
    return "; ".join([*differing.values()][:most]) + more


def shown_value(value: Any) -> str:  # noqa: ANN401 (YAML)
    r"""Returns a setting as messages have it; a text in quotes."""
    return repr(shown(value)) if isinstance(value, str) else shown(value)


def is_number(value: Any) -> bool:  # noqa: ANN401 (JSON)
    r"""Whether a value of JSON is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
