"""Damaged files: of a good one, many that are not, from a fixed seed.

    def test_a_damaged_config_is_refused_by_name(tmp_path):
        fuzz(tmp_path / "config.yaml", load_task, good=text.encode(), n=200)

Whatever a reader is given, it returns something or raises one of the library's errors, in one line
that names the file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vardiu.errors import CheckpointError, ConfigError, RunError

OURS: tuple[type[Exception], ...] = (ConfigError, RunError, CheckpointError)

# What a file may hold instead: nothing, a part, another type, no text, and what never ends.
OTHERS: tuple[bytes, ...] = (
    b"",
    b"\n",
    b"null",
    b"[]",
    b"{}",
    b"[1, 2]",
    b"5",
    b"-1e999",
    b'"word"',
    b"true",
    b"NaN",
    b"{,}",
    b"\xff\xfe\x00",
    b"\x80\x04\x95" + bytes(40),
    b"[" * 20_000,
    b'{"a":' * 20_000,
    b"a: &a [*a]",
    b"\x1b[31mred\x1b[0m",
)


def mutated(good: bytes, random_: random.Random) -> bytes:
    """Returns a file with one to four changes: bits, bytes, cuts, repeats, words."""
    data = bytearray(good)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(data) + 1)
        end = min(len(data), at + random_.randint(1, 24))
        kind = random_.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << random_.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = random_.randrange(256)
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end] * random_.randint(1, 5)
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            words = (b"null", b"[]", b"{}", b"-1", b"1e999", b'"x"', b"\n", b"\x00", b"9" * 30)
            data[at:at] = random_.choice(words)
        else:
            data[at:end] = random_.randbytes(end - at)
    return bytes(data)


def replaced(value: Any, random_: random.Random) -> Any:
    """Returns a JSON value in which one part is of another type, missing, or huge."""
    others = (None, [], {}, 5, -1, 1e300, "word", True, [[None]], {"a": [1]}, 10**30, "x" * 2_000)
    if isinstance(value, dict) and value and random_.random() < 0.85:
        key = random_.choice(sorted(value, key=str))
        if random_.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: replaced(value[key], random_)}
    if isinstance(value, list) and value and random_.random() < 0.7:
        index = random_.randrange(len(value))
        return [*value[:index], replaced(value[index], random_), *value[index + 1 :]]
    return random_.choice(others)


def damaged(good: bytes, n: int, seed: int = 0) -> Iterator[bytes]:
    """Yields `n` damaged files: bytes changed, and of JSON also values."""
    random_ = random.Random(seed)
    try:
        value = json.loads(good)
    except ValueError:
        value = None
    yield from OTHERS[:n]
    for index in range(n - len(OTHERS)):
        if value is not None and index % 2:
            yield json.dumps(replaced(value, random_)).encode()
        else:
            yield mutated(good, random_)


def fuzz(
    path: Path,
    read: Callable[[Path], object],
    *,
    good: bytes,
    n: int = 200,
    seed: int = 0,
    ours: Sequence[type[Exception]] = OURS,
    name: str | None = None,
) -> int:
    """Writes damaged files to a path and reads each; returns how many were refused.

    Fails with all that came out otherwise: another error, a line break, a long line, a message that
    does not name the file (`name`, the path's own by default), or a control character.
    """
    name = path.name if name is None else name
    refused, faults = 0, []
    for index, data in enumerate(damaged(good, n, seed)):
        path.write_bytes(data)
        try:
            read(path)
        except tuple(ours) as error:
            refused += 1
            line = str(error)
            if name not in line or not line.isprintable() or len(line) > 2_000:
                faults.append(f"{index}: {type(error).__name__}: {line[:300]!r} for {data[:80]!r}")
        except Exception as error:
            faults.append(f"{index}: {type(error).__name__}: {str(error)[:200]!r} {data[:80]!r}")
    path.write_bytes(good)
    assert not faults, f"{len(faults)} of {n}:\n" + "\n".join(faults[:12])
    return refused
