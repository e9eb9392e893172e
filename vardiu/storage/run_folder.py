r"""The folder of a run: its settings, its log, its checkpoints, its one writer."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import RunError
from .files import write_text_atomic

__all__ = ["RunFolder"]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 (YAML)
    if isinstance(value, Mapping) and value:
        merged: dict[str, Any] = {}
        for key, item in value.items():
            merged |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
        return merged
    return {prefix: value}


class RunFolder:
    r"""A run on disk.

    Arguments:
        path: The folder; `open` makes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def exists(self) -> bool:
        return self.file("config.yaml").is_file()

    def open(self, config: Mapping[str, Any]) -> Literal["new", "resumed", "finished"]:
        r"""Makes the folder for a run with these settings, or finds that it is this run's.

        A run that ended before anything was trained, for a setting that could not be, makes way
        for one with others.

        Raises:
            RunError: The folder holds something else, or another run, or cannot be written.
        """
        plain = json.loads(json.dumps(config))
        if self.exists:
            theirs, ours = _flat(self.config()), _flat(plain)
            names = sorted(k for k in {*theirs, *ours} if theirs.get(k) != ours.get(k))
            if names and self._bare():
                self.file("provenance.json").unlink(missing_ok=True)
                self._write_config(plain)
                return "new"
            if names:
                rows = [f"  {k}: there {theirs.get(k)!r}, now {ours.get(k)!r}" for k in names]
                raise RunError(
                    f"{self.path} holds another run, whose settings differ:\n"
                    + "\n".join(rows)
                    + "\nGive another folder with --out, or move this one away"
                )
            return "finished" if self.result() is not None else "resumed"
        self._refuse_foreign()
        self._write_config(plain)
        return "new"

    def _write_config(self, plain: Mapping[str, Any]) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text_atomic(self.file("config.yaml"), yaml.safe_dump(plain, sort_keys=False))
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({error.strerror}). "
                "Give a folder that can with --out, or free some space"
            ) from error

    def _bare(self) -> bool:
        r"""Whether nothing was trained here: settings, provenance and artefacts are all."""
        ours = {"config.yaml", "provenance.json", "artefacts", ".lock"}
        if any(path.name not in ours for path in self.path.iterdir()):
            return False
        text = self.file("config.yaml").read_text()
        return text == yaml.safe_dump(self.config(), sort_keys=False)

    def config(self) -> dict[str, Any]:
        r"""Returns the run's settings.

        Raises:
            RunError: There is no run here, or its file is not YAML.
        """
        if not self.exists:
            raise RunError(
                f"{self.path} holds no run (no config.yaml); give a folder that "
                "`vardiu distill` or `vardiu teach` wrote"
            )
        try:
            return yaml.safe_load(self.file("config.yaml").read_text())
        except yaml.YAMLError as error:
            raise RunError(f"{self.file('config.yaml')} is not YAML: {error}") from error

    def _refuse_foreign(self) -> None:
        r"""Raises a `RunError` if the folder holds something, and no run."""
        # A process killed while it made the folder leaves its lock and a partial file.
        left = (".lock", ".config.yaml.")
        if self.exists or not self.path.is_dir():
            return
        if any(not p.name.startswith(left) for p in self.path.iterdir()):
            raise RunError(
                f"{self.path} is not empty and holds no run (no config.yaml). "
                "Give another folder with --out"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        r"""Makes this process the run's only writer; the system lifts the lock if it dies.

        Raises:
            RunError: Another process writes to this run, or the folder is not a run's.
        """
        self._refuse_foreign()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = self.file(".lock").open("a+")
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
            yield

    # ------------------------------------------------------------------ log

    def log(self, row: Mapping[str, Any]) -> None:
        r"""Appends a row to `metrics.jsonl`; what is not finite is written as null, and named."""
        clean = dict(row)
        bad = [k for k, v in clean.items() if isinstance(v, float) and not math.isfinite(v)]
        for key in bad:
            clean[key] = None
        if bad:
            clean["nonfinite"] = bad
        with self.file("metrics.jsonl").open("ab+") as file:
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
        *lines, _ = path.read_text().split("\n")
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise RunError(f"{path}, line {number} is damaged: {error}") from error
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
        r"""Returns what `finish` wrote, or `None`."""
        path = self.file("result.json")
        return json.loads(path.read_text()) if path.is_file() else None
