r"""Adapters in the format of peft, which diffusers reads as well.

A run with `--student lora` keeps its adapter in `adapter/`, as its network's module names have it.
Exported, it is loaded onto the teacher by peft itself, and the result compared with the student,
whose own weights have the adapter merged.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..denoisers.lora_files import PREFIX
from ..errors import ConfigError, require, require_installed
from ..nn.diffusers import DiffusersNetwork
from ..students.base import Generator
from ..students.few_step import FewStep, OneStep
from ..teachers.origin import Origin
from .diffusers import call_of, family_in, scheduler_of
from .onnx import conditions

__all__ = ["TOLERANCE", "adapter_steps", "refuse_adapter", "to_lora", "with_adapter"]


TOLERANCE = 1e-4


def to_lora(student: Generator, folder: Path, origin: Origin | None = None) -> float:
    r"""Writes the adapter of a run, loads it with peft, and compares the network's outputs.

    Beside the adapter of a student of texts is the scheduler that takes its steps.

    Returns:
        The largest difference of samples of the base with the adapter from the student's own.

    Raises:
        ConfigError: The run has no adapter, or its network is not of diffusers.
    """
    network, origin = _adapted(student, origin)
    source = Path(origin.parts["adapter"])
    tensors = load_file(source / "adapter_model.safetensors")
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = (source / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text(config)
    prefix = family_in(network, origin).adapter
    if prefix:  # for pipeline.load_lora_weights
        renamed = {
            f"{prefix}.{name.removeprefix(PREFIX)}": value for name, value in tensors.items()
        }
        save_file(renamed, folder / "pytorch_lora_weights.safetensors", metadata={"format": "pt"})
        if (steps := adapter_steps(student, origin)) is not None:
            steps.scheduler.save_pretrained(str(folder / "scheduler"))
    return _compare(student, network, folder, origin)


def refuse_adapter(student: Generator, origin: Origin | None) -> None:
    r"""Raises a `ConfigError` if there is no adapter that could be written of a student alone."""
    require_installed("peft", "lora")
    _adapted(student, origin)


def _adapted(student: Generator, origin: Origin | None) -> tuple[DiffusersNetwork, Origin]:
    network = next((m for m in student.modules() if isinstance(m, DiffusersNetwork)), None)
    if origin is None or "adapter" not in origin.parts:
        raise ConfigError("the run has no adapter: distil with --student lora")
    if network is None:
        raise ConfigError(
            "an adapter is for a network of diffusers, and this one is not: merge it"
        )
    return network, origin


def with_adapter(origin: Origin | None, folder: Path) -> Origin | None:
    r"""Returns what stood around a teacher, with the adapter that is in a run's folder.

    Arguments:
        origin: What stood around it.
        folder: The folder of the adapter; what is not there is not added.
    """
    if origin is None or not folder.is_dir():
        return origin
    return dataclasses.replace(origin, parts={**origin.parts, "adapter": folder})


class Steps(NamedTuple):
    r"""How the teacher's own pipeline with an adapter makes a student's steps.

    Arguments:
        scheduler: Its scheduler.
        call: What its call must be told.
    """

    scheduler: Any
    call: Mapping[str, Any]


def adapter_steps(student: Generator, origin: Origin | None) -> Steps | None:
    r"""Returns how a stock pipeline of texts with the adapter makes a student's steps; none where
    it loads no adapter, or stock diffusers has no scheduler for them."""
    network = next((m for m in student.modules() if isinstance(m, DiffusersNetwork)), None)
    if network is None or not isinstance(student, OneStep | FewStep):
        return None
    family = family_in(network, origin)
    if not family.adapter:
        return None
    try:
        # The student has learned the guidance: the teacher's pipeline is to add none.
        call = {"guidance_scale": 1.0, **call_of(student, origin)}
        return Steps(scheduler_of(student, family), call)
    except ConfigError:  # the adapter is of use without
        return None


@torch.no_grad()
def _compare(student: Generator, network: DiffusersNetwork, folder: Path, origin: Origin) -> float:
    peft = require("peft", "lora")
    base = copy.deepcopy(origin.parts["network"]).float().cpu().eval()
    adapted = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    z = torch.randn(3, *student.latent_shape, generator=torch.Generator().manual_seed(0))
    cond = conditions(student, 3, origin)
    expected = student(z, **cond)
    merged = network.model
    try:
        network.model = Called(adapted, base.config)
        found = student(z, **cond)
    finally:
        network.model = merged
    return float((found - expected).abs().max())


class Called(nn.Module):
    r"""peft's model, called as its base is, and with the base's configuration."""

    def __init__(self, model: nn.Module, config: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.model, self.config = model, config

    def forward(self, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
        return self.model(*arguments, **options)
