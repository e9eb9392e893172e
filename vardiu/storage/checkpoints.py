r"""Checkpoints: safetensors and JSON, whole or not at all, verified before they count.

A state is a nest of dictionaries and lists with tensors and scalars for leaves. Each of its parts
is one file of tensors; the nest itself, with the scalars and the places of the tensors, is
`state.json`; `manifest.json` holds the size and the SHA-256 of every file. All is written in a
folder beside the final one, flushed to the disk, read again and compared, and only then renamed.
Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import CheckpointError, shown
from . import processes
from .bounded import read_json
from .files import LEAVINGS, clear_leavings, partial_suffix
from .shards import is_divided, read_shards, write_shards

__all__ = [
    "Checkpoints",
    "digest_of_file",
    "encode_state",
    "has_divided",
    "load_state",
    "save_state",
    "verify_state",
]


FORMAT = 1


def encode_state(
    value: Any,  # noqa: ANN401 (any nest)
    path: str,
    tensors: dict[str, Tensor],
    divided: dict[str, Tensor] | None = None,
) -> Any:  # noqa: ANN401
    r"""Returns the JSON form of a state.

    Arguments:
        value: A nest of mappings, lists and tuples; its leaves are tensors or JSON scalars.
        path: The name of the state, with which the names of its tensors begin.
        tensors: Receives a copy of each tensor on the CPU, by name.
        divided: Receives each tensor that is divided among processes, by name.

    Raises:
        TypeError: A leaf or a key is of another type.
    """
    if is_divided(value) and divided is not None:
        divided[path] = value
        return {"shard": path}
    if isinstance(value, Tensor):
        while path in tensors:  # as the keys 1 and "1" would share one
            path += "'"
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, Mapping):
        items = [[k, encode_state(v, f"{path}/{k}", tensors, divided)] for k, v in value.items()]
        for key, _ in items:
            if not isinstance(key, str | int):
                raise TypeError(f"{path}: keys must be strings or integers, got {key!r}")
        return {"dict": items}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        parts = enumerate(value)
        return {kind: [encode_state(v, f"{path}/{i}", tensors, divided) for i, v in parts]}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": float.__repr__(value)}
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"{path}: a {type(value).__name__} cannot be kept in a checkpoint")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 (any leaf)
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind in ("tensor", "shard"):
        return tensors[content]
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def shard_names(value: Any) -> Iterator[str]:  # noqa: ANN401 (JSON)
    r"""Yields the names of the tensors in a state that lie in shards."""
    if isinstance(value, dict):
        if value.keys() == {"shard"} and isinstance(value["shard"], str):
            yield value["shard"]
        for item in value.values():
            yield from shard_names(item)
    elif isinstance(value, list):
        for item in value:
            yield from shard_names(item)


def digest_of_file(path: Path) -> dict[str, Any]:
    r"""Returns the number of bytes of a file, and their SHA-256."""
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _write(path: Path, data: bytes) -> dict[str, Any]:
    r"""Writes a file to the disk; returns what `digest_of_file` has to find there."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _flush(path: Path) -> None:
    r"""Makes the operating system write a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_divided(state: Any) -> bool:  # noqa: ANN401 (any nest)
    r"""Whether a state has tensors that are divided among processes."""
    if isinstance(state, Mapping):
        return any(has_divided(value) for value in state.values())
    if isinstance(state, list | tuple):
        return any(has_divided(value) for value in state)
    return is_divided(state)


def write_divided(folder: Path, state: Mapping[str, Any]) -> Path:
    r"""Writes what of a state is divided beside a checkpoint to be, each process its part; returns
    where.

    Raises:
        CheckpointError: The disk is full or cannot be written; nothing is left of the attempt.
    """
    place = folder.parent / f".{folder.name}-shards.{partial_suffix()}"
    place = processes.from_writer(place)
    if processes.is_writer():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    processes.wait()
    divided: dict[str, Tensor] = {}
    for part, value in state.items():
        encode_state(value, part, {}, divided)
    try:
        write_shards(place, divided)
    except CheckpointError as error:
        if processes.is_writer():
            shutil.rmtree(place, ignore_errors=True)
        raise CheckpointError(unwritten(folder, error)) from error
    return place


def save_state(folder: str | Path, state: Mapping[str, Any], shards: Path | None = None) -> None:
    r"""Writes a state into a folder that does not exist yet.

    Arguments:
        folder: The folder to make. At no instant does it exist incomplete.
        state: The state; each key with tensors below it becomes one file.
        shards: Where what is divided among processes has been written, see `write_divided`.

    Raises:
        FileExistsError: The folder exists.
        CheckpointError: The disk is full or cannot be written; nothing is left of the attempt.
        TypeError: A leaf is neither a tensor nor a JSON scalar.
        ValueError: A key of the state cannot be the name of a file.
    """
    folder = Path(folder)
    for part in state:
        if not isinstance(part, str) or "/" in part:
            raise ValueError(f"a key of the state must be fit for a file's name, got {part!r}")
    if folder.exists():
        raise FileExistsError(f"{folder} exists: a checkpoint is never overwritten")
    partial = folder.parent / f".{folder.name}.{partial_suffix()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        structure: dict[str, Any] = {}
        files: dict[str, Any] = {}
        for part, value in state.items():
            tensors: dict[str, Tensor] = {}
            structure[part] = encode_state(value, part, tensors, {})
            if tensors:
                name = f"{part}.safetensors"
                files[name] = _write(partial / name, save(tensors))
        for shard in sorted(shards.iterdir()) if shards is not None else ():
            shard.rename(partial / shard.name)
            files[shard.name] = digest_of_file(partial / shard.name)
        files["state.json"] = _write(partial / "state.json", json.dumps(structure).encode())
        manifest = {"format": FORMAT, "files": files}
        _write(partial / "manifest.json", json.dumps(manifest, indent=1).encode())
        verify_state(partial)
        _flush(partial)
        partial.rename(folder)
        _flush(folder.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was first
            raise FileExistsError(f"{folder} exists: a checkpoint is never overwritten") from error
        raise CheckpointError(unwritten(folder, error)) from error
    except (RuntimeError, SafetensorError, CheckpointError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(unwritten(folder, error)) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def unwritten(folder: Path, error: Exception) -> str:
    r"""Returns the message for a checkpoint that could not be written."""
    return (
        f"the checkpoint {folder} could not be written ({error}). Earlier ones are kept. "
        "Free some space or choose a folder that can be written, then run the command again"
    )


def verify_state(folder: Path) -> None:
    r"""Raises a `CheckpointError` that names the first file that is not as it was written."""
    path = folder / "manifest.json"
    cure = f"Delete {folder}, and an earlier checkpoint is taken"
    try:
        manifest = read_json(path, error=CheckpointError)
        files = {"state.json": manifest["files"]["state.json"], **manifest["files"]}
        version = manifest["format"]
    except (CheckpointError, KeyError, TypeError) as error:
        raise CheckpointError(f"{shown(path)} is missing or damaged ({error}). {cure}") from error
    odd = [name for name in files if name != Path(name).name or name in (".", "..")]
    if odd:
        raise CheckpointError(f"{shown(path)} names a file elsewhere, {shown(odd[0])}. {cure}")
    if version != FORMAT:
        raise CheckpointError(f"{path} must be of format {FORMAT}, got {version!r}. {cure}")
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing. {cure}")
        try:
            found = digest_of_file(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder / name} cannot be read ({error}). {cure}") from error
        if found != expected:
            raise CheckpointError(f"{folder / name} was changed since it was written. {cure}")


def load_state(folder: str | Path, device: str = "cpu") -> dict[str, Any]:
    r"""Returns the state that `save_state` wrote, after a comparison of every byte's hash.

    Raises:
        CheckpointError: A file is missing, truncated or changed; the message names it.
    """
    folder = Path(folder)
    verify_state(folder)
    path = folder / "state.json"
    structure = read_json(path, bound="state bytes", error=CheckpointError)
    state = {}
    try:
        shards = read_shards(folder, list(shard_names(structure)))
        for part, value in structure.items():
            weights = folder / f"{Path(part).name}.safetensors"
            tensors = load_file(weights, device=device) if weights.is_file() else {}
            state[part] = _decode(value, {**tensors, **shards})
    except (AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{shown(path)} is no state: {shown(str(error))}") from error
    return state


def is_step(name: str) -> bool:
    r"""Whether a name is the number of a checkpoint's step."""
    return name.isascii() and name.isdigit()


class Checkpoints:
    r"""The checkpoints of one run, one folder a step, the newest few of them kept.

    Arguments:
        folder: Their parent folder; made when the first one is saved.
        keep: The number to keep.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder, self.keep = Path(folder), keep

    def steps(self) -> list[int]:
        r"""Returns the steps of the checkpoints on disk, ascending, verified or not."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if is_step(path.name))

    def path(self, step: int) -> Path:
        return self.folder / f"{step:09d}"

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        r"""Writes a checkpoint, then removes what is older than the newest `keep`.

        Several runs may save the same step to one folder: the first one's is kept. Of a state that
        is divided among the processes of a run, each of them writes its part. A damaged
        checkpoint of the same step is set aside first, under another name. Those of
        later steps, which `newest` skipped, are not counted: they never push this one out.

        Raises:
            CheckpointError: The disk is full or cannot be written.
        """
        path = self.path(step)
        shards = write_divided(path, state) if has_divided(state) else None
        if not processes.is_writer() and shards is not None:
            processes.wait()
            return path
        self._save(path, step, state, shards)
        if shards is not None:
            shutil.rmtree(shards, ignore_errors=True)
            processes.wait()
        return path

    def _save(self, path: Path, step: int, state: Mapping[str, Any], shards: Path | None) -> None:
        # The leavings of dead writers go first: they may be what fills the disk.
        clear_leavings(self.folder.glob(LEAVINGS), besides=shards)
        try:
            if path.exists():
                try:
                    verify_state(path)
                    return
                except CheckpointError:
                    with contextlib.suppress(FileNotFoundError):  # another process was first
                        path.rename(path.with_name(f"damaged-{path.name}-{os.getpid()}"))
            with contextlib.suppress(FileExistsError):  # another process was first
                save_state(path, state, shards)
            for old in [s for s in self.steps() if s <= step][: -self.keep]:
                with contextlib.suppress(FileNotFoundError):  # another process was first
                    shutil.rmtree(self.path(old))
        except OSError as error:
            raise CheckpointError(
                f"{self.folder} cannot be tidied ({error}). Make it writable, then run the "
                "command again"
            ) from error

    def load(self, step: int) -> dict[str, Any]:
        r"""Returns the state of a step.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        return load_state(self.path(step))

    def newest(self) -> tuple[int, dict[str, Any], list[str]] | None:
        r"""Returns the step and the state of the newest one that verifies, and what was skipped.

        Raises:
            CheckpointError: There are checkpoints, and none verifies.
        """
        skipped: list[str] = []
        for step in reversed(self.steps()):
            try:
                return step, load_state(self.path(step)), skipped
            except CheckpointError as error:
                skipped.append(str(error))
        if skipped:
            raise CheckpointError("no checkpoint can be read: " + "; ".join(skipped))
        return None
