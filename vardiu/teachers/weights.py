r"""Files of weights as they came: all of them there, whole, and beside each other.

A download that was cut short leaves a shard away, or half of one. How long a file of safetensors
is stands in its header, so that both are found without reading the numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, shown
from ..storage.bounded import parsed_json, read_json
from ..storage.limits import refuse_beyond

__all__ = ["header_of", "refuse_damaged", "shards_of"]


SUFFIX = ".safetensors"


AGAIN = "fetch or copy it again from where it was published"


def refuse_damaged(whole: Path, index: Path) -> None:
    r"""Raises a `ConfigError` if weights are not all there and whole.

    Arguments:
        whole: Their file, where they are in one.
        index: The index of their shards, where they are in several.
    """
    files = [whole] if whole.is_file() else []
    for path in [*files, *(shards_of(index) if index.is_file() else ())]:
        has, expected = path.stat().st_size, _length(path)
        if has != expected:
            raise ConfigError(
                f"{shown(path)} is damaged: it has {has:,} bytes, and by its header {expected:,}; "
                f"{AGAIN}"
            )


def shards_of(index: Path) -> Iterator[Path]:
    r"""Yields the files that an index of shards names, each once.

    Raises:
        ConfigError: It is no index, or names one that is missing, elsewhere, or of another kind.
    """
    named = read_json(index, bound="weights header bytes").get("weight_map")
    names = list(named.values()) if isinstance(named, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{shown(index)} must have a weight_map with the file of each weight; {AGAIN}"
        )
    for name in dict.fromkeys(names):
        if Path(name).name != name or Path(name).suffix != SUFFIX:
            raise ConfigError(
                f"{shown(index)} names {shown(name)}: read are files of {SUFFIX} that lie beside "
                f"their index, and no others; {AGAIN}"
            )
        if not (index.parent / name).is_file():
            raise ConfigError(
                f"{shown(index.parent / name)} is missing, and {shown(index.name)} has weights in "
                f"it; {AGAIN}"
            )
        yield index.parent / name


def header_of(path: Path) -> dict[str, Any]:
    r"""Returns what the header of a file of safetensors says of each of its tensors.

    Raises:
        ConfigError: It is damaged, no such file, or beyond the limits.
    """
    return _parsed(path)[1]


def _parsed(path: Path) -> tuple[int, dict[str, Any]]:
    r"""Returns where the numbers of a file begin, and its header."""
    with path.open("rb") as file:
        first = file.read(8)
        size = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        refuse_beyond("weights header bytes", size, path)
        text = file.read(size)
    if len(text) < size or not size:
        raise ConfigError(f"{shown(path)} is damaged: it ends within its header; {AGAIN}")
    header = parsed_json(text.decode("utf-8", "replace"), path)
    if not isinstance(header, dict):
        raise ConfigError(f"{shown(path)} is no file of safetensors")
    header.pop("__metadata__", None)
    return len(first) + size, header


def _length(path: Path) -> int:
    r"""Returns how many bytes a file has by its header."""
    begin, header = _parsed(path)
    try:
        return int(begin + max((row["data_offsets"][1] for row in header.values()), default=0))
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{shown(path)} is damaged: its header says not where its numbers are; {AGAIN}"
        ) from error
