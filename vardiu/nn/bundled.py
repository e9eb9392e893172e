r"""Weights that come with the library."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from ..errors import ConfigError, shown

__all__ = ["bundled"]


def bundled(path: Path, sha256: str) -> dict[str, Tensor]:
    r"""Returns the tensors of a file of this installation.

    Arguments:
        path: The file.
        sha256: What its bytes are.

    Raises:
        ConfigError: They are others.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise ConfigError(
            f"{shown(path.name)} of this installation was changed: its SHA-256 begins with "
            f"{digest[:12]}, not {sha256[:12]}; install vardiu again"
        )
    return load_file(path)
