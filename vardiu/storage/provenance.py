r"""What a number depends on besides the settings."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["provenance"]


def provenance(command: Sequence[str], seed: int, **hashes: str) -> dict[str, Any]:
    r"""Returns what a number depends on besides the settings: versions, machine, command, seed."""
    packages = ("torch", "numpy", "safetensors", "zuko", "scikit-learn")
    torch = sys.modules.get("torch")
    return {
        "command": list(command),
        "seed": seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "vardiu": __import__("vardiu").__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads() if torch else None,
            "accelerator": torch.cuda.get_device_name()
            if torch and torch.cuda.is_available()
            else None,
        },
        "sha256": hashes,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
