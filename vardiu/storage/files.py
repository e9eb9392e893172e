r"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["write_bytes_atomic", "write_text_atomic"]


def write_text_atomic(path: str | Path, text: str) -> Path:
    r"""Writes a file whole or not at all: beside it, flushed, renamed."""
    write_bytes_atomic(path, text.encode())
    return Path(path)


def write_bytes_atomic(path: str | Path, data: bytes) -> dict[str, Any]:
    r"""Writes a file whole or not at all; a link in its place is replaced, not followed.

    Returns:
        The number of bytes, and their SHA-256 in hexadecimal digits.
    """
    path = Path(path)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
