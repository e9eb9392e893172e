r"""Rows that are computed once and kept on disk: embeddings of prompts, latents of images.

A folder is named by the SHA-256 of what its rows are a function of: the encoder's files, the
content of what was encoded, the type of the numbers. It holds shards of as many rows each, every
one written whole or not at all, with its digests, by `vardiu.storage.checkpoints`: a kill loses
one shard at most. Shards are read through a map into memory: what is asked for is copied, and
nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import CheckpointError, ConfigError, shown
from ..storage.artefacts import Artefacts, alone_in, verified
from ..storage.bounded import read_json
from ..storage.checkpoints import save_state, verify_state
from ..storage.files import write_text_atomic

__all__ = ["KeptRows", "descriptions", "make_rows"]


# The bytes of a shard, about.
SHARD = 2**26


ABOUT = "description.json"


Make = Callable[[int, int], Mapping[str, Tensor]]


class KeptRows:
    r"""The rows of a folder, each read when it is asked for.

    Arguments:
        folder: The folder.

    Attributes:
        about: What the rows are a function of.
        names: The names of what a row holds.

    Raises:
        ConfigError: A shard is missing, or is not as it was written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        about = read_json(self.folder / ABOUT)
        try:
            self.about: dict[str, Any] = about["of"]
            self.count, self.shard = int(about["count"]), int(about["shard"])
            self.names = tuple(str(name) for name in about["names"])
            good = self.count > 0 and self.shard > 0
        except (KeyError, TypeError, ValueError):
            good = False
        if not good:
            raise ConfigError(f"{shown(self.folder / ABOUT)} is damaged: {AGAIN}")
        total = -(-self.count // self.shard)
        shards = [self.folder / f"{i:06d}" for i in range(total)]
        there = sum(path.is_dir() for path in shards)
        if there < total:
            raise ConfigError(
                f"{shown(self.folder)} has {there:,} of its {total:,} shards: {AGAIN}"
            )
        for path in shards:
            try:
                verify_state(path)
            except CheckpointError as error:
                raise ConfigError(f"{error}; or {AGAIN}") from error
        self._files: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.count

    def __call__(self, index: Tensor) -> dict[str, Tensor]:
        r"""Returns the rows of an index, `(B,)`, on the CPU.

        Raises:
            IndexError: There is no such row.
        """
        places: list[int] = index.tolist()
        rows = [self.row(place) for place in places]
        return {name: torch.stack([row[name] for row in rows]) for name in self.names}

    def row(self, place: int) -> dict[str, Tensor]:
        r"""Returns one row."""
        if not 0 <= place < self.count:
            raise IndexError(f"{shown(self.folder)} has {self.count:,} rows, and no row {place:,}")
        shard, i = divmod(place, self.shard)
        if shard not in self._files:
            path = self.folder / f"{shard:06d}" / "rows.safetensors"
            self._files[shard] = safe_open(str(path), framework="pt").__enter__()
        file = self._files[shard]
        return {name: file.get_slice(f"rows/{name}")[i] for name in self.names}

    def column(self, name: str) -> Tensor:
        r"""Returns one thing of all rows, in memory."""
        whole = range(0, self.count, self.shard)
        self.row(0)
        parts = []
        for shard, begin in enumerate(whole):
            self.row(begin)
            parts.append(self._files[shard].get_tensor(f"rows/{name}"))
        return torch.cat(parts)


AGAIN = "run `vardiu cache` again, which makes what is missing"


def folder_of(root: Path, of: Mapping[str, Any]) -> Path:
    r"""Returns the folder of the rows of a description."""
    return root / f"{of['kind']}-{Artefacts.address(of, 1)}"


def make_rows(
    root: str | Path, of: Mapping[str, Any], count: int, make: Make, artefacts: Artefacts
) -> KeptRows:
    r"""Makes the rows that are not there yet, and returns all.

    Arguments:
        root: The folder of all that is kept.
        of: All that the rows are a function of, as JSON has it, with a word for their `kind`.
        count: The number of rows.
        make: Returns the rows from one place up to another.
        artefacts: Tells how far it is, and stops between two shards if it is asked to.

    Raises:
        CheckpointError: The disk is full or cannot be written.
        Interrupted: SIGINT or SIGTERM came; the shards so far are kept.
    """
    folder = folder_of(Path(root), of)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{shown(folder)} cannot be made: {error.strerror}") from error
    with alone_in(folder):
        if not (folder / ABOUT).is_file():
            first = make(0, 1)
            one = sum(value.numel() * value.element_size() for value in first.values())
            shard = max(1, min(count, SHARD // max(1, one)))
            about = {"of": dict(of), "count": count, "shard": shard, "names": sorted(first)}
            write_text_atomic(folder / ABOUT, json.dumps(about, indent=1, sort_keys=True) + "\n")
        shard = int(read_json(folder / ABOUT)["shard"])
        total = -(-count // shard)

        def portion(index: int) -> dict[str, Tensor]:
            return dict(make(index * shard, min(count, (index + 1) * shard)))

        wanted = [i for i in range(total) if not verified(folder / f"{i:06d}")]
        made = artefacts.made(str(of["kind"]), wanted, total, portion)
        for index, rows in zip(wanted, made, strict=False):
            save_state(folder / f"{index:06d}", {"rows": rows})
        for _ in made:  # its last word
            pass
    return KeptRows(folder)


def descriptions(root: str | Path, kind: str) -> list[tuple[Path, Mapping[str, Any]]]:
    r"""Returns the folders of rows of a kind, and what each is a function of.

    Raises:
        ConfigError: There is no such folder, or a description cannot be read.
    """
    if not Path(root).is_dir():
        raise ConfigError(
            f"{shown(root)} is no folder: make it with `vardiu cache`, or leave --cache out"
        )
    found: list[tuple[Path, Mapping[str, Any]]] = []
    for folder in sorted(Path(root).glob(f"{kind}-*")):
        if (folder / ABOUT).is_file():
            of = read_json(folder / ABOUT).get("of")
            if not isinstance(of, dict):
                raise ConfigError(f"{shown(folder / ABOUT)} is damaged: remove {shown(folder)}")
            found.append((folder, of))
    return found
