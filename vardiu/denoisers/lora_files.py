r"""Adapters on disk, in the format of peft."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save

from ..storage.files import write_bytes_atomic, write_text_atomic
from .lora import LoRA

__all__ = ["ADAPTER_FILES", "save_adapter"]


PREFIX = "base_model.model."


# What an adapter is on disk.
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def save_adapter(adapter: LoRA, folder: Path) -> Path:
    r"""Writes an adapter: `adapter_model.safetensors` and `adapter_config.json`, peft's format."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors, names = {}, []
    for name in adapter.names:
        key = name.replace(".", "/")
        short = name.removeprefix("model.")  # of the network of diffusers within ours
        names.append(short)
        tensors[f"{PREFIX}{short}.lora_A.weight"] = adapter.down[key].detach().cpu().contiguous()
        tensors[f"{PREFIX}{short}.lora_B.weight"] = adapter.up[key].detach().cpu().contiguous()
    data = save(tensors, metadata={"format": "pt"})
    write_bytes_atomic(folder / ADAPTER_FILES[0], data)
    config = {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "target_modules": sorted(names),
        "lora_dropout": 0.0,
        "bias": "none",
        "task_type": None,
        "inference_mode": True,
    }
    write_text_atomic(folder / ADAPTER_FILES[1], json.dumps(config, indent=2) + "\n")
    return folder
