r"""Networks on disk: weights as safetensors, and what they are made of as JSON.

A module of the library that can be saved keeps the arguments of its constructor in `arguments`;
the names of its parts are in `KINDS`. Nothing is executed when a folder is read: an unknown kind
is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import nn

from ..denoisers.adapted import AdaptedDenoiser
from ..denoisers.consistency import ConsistencyDenoiser
from ..denoisers.edm_schedules import IDDPMLevels, VELevels, VPLevels
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..denoisers.rescaled import Rescaled
from ..denoisers.schedules import Flow, VarianceExploding, VariancePreserving
from ..discriminators.heads import ConvHead, MLPHead, TokenHead
from ..errors import nearest
from ..nn import MLP, DhariwalUNet, EDM2UNet, Precision, SongUNet, UNet
from ..nn.diffusers import DiffusersNetwork, Told
from ..nn.own import OwnNetwork
from ..storage.files import write_text_atomic
from ..students.few_step import FewStep, OneStep
from ..students.framed import Frame, Framed
from ..students.pushforward import Pushforward
from ..students.table import Table

__all__ = ["build", "describe", "load", "save"]


class Kind(NamedTuple):
    r"""A class that can be saved, and the names of the arguments that hold its parts."""

    cls: type[nn.Module]
    parts: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "adapted": Kind(AdaptedDenoiser, ("network", "coordinates")),
    "consistency": Kind(ConsistencyDenoiser, ("denoiser",)),
    "conv_head": Kind(ConvHead),
    "dhariwal_unet": Kind(DhariwalUNet),
    "diffusers": Kind(DiffusersNetwork),
    "edm2_unet": Kind(EDM2UNet),
    "few_step": Kind(FewStep, ("denoiser",)),
    "flow": Kind(Flow),
    "frame": Kind(Frame),
    "framed": Kind(Framed, ("denoiser", "frame")),
    "iddpm_levels": Kind(IDDPMLevels),
    "mlp": Kind(MLP),
    "mlp_head": Kind(MLPHead),
    "one_step": Kind(OneStep, ("denoiser",)),
    "precision": Kind(Precision, ("network",)),
    "preconditioned": Kind(PreconditionedDenoiser, ("network",)),
    "evaluated": Kind(OwnNetwork, ("network",)),
    "pushforward": Kind(Pushforward, ("network",)),
    "rescaled": Kind(Rescaled, ("denoiser",)),
    "song_unet": Kind(SongUNet),
    "table": Kind(Table),
    "token_head": Kind(TokenHead),
    "told": Kind(Told, ("network",)),
    "unet": Kind(UNet),
    "variance_exploding": Kind(VarianceExploding),
    "variance_preserving": Kind(VariancePreserving),
    "ve_levels": Kind(VELevels),
    "vp_levels": Kind(VPLevels),
}


def arguments_of(module: nn.Module) -> dict[str, Any]:
    arguments: Any = module.arguments
    return arguments


def describe(module: nn.Module) -> dict[str, Any]:
    r"""Returns what a module is made of, as nested dictionaries for JSON.

    Raises:
        TypeError: The module, or a part of it, is not of a class in `KINDS`.
    """
    for name, kind in KINDS.items():
        if type(module) is kind.cls:
            description = {"kind": name, **arguments_of(module)}
            for part in kind.parts:
                description[part] = describe(getattr(module, part))
            return description
    raise TypeError(
        f"a {type(module).__name__} cannot be saved; the classes that can are "
        f"{', '.join(sorted(kind.cls.__name__ for kind in KINDS.values()))}"
    )


def build(description: Mapping[str, Any]) -> nn.Module:
    r"""Returns the module that `describe` described, with fresh weights.

    Raises:
        ValueError: A kind is unknown.
    """
    arguments = dict(description)
    name = arguments.pop("kind", "none")
    if name not in KINDS:
        raise ValueError(f"unknown kind of network {name!r}; {nearest(name, KINDS)}")
    cls, parts = KINDS[name]
    for part in parts:
        arguments[part] = build(arguments[part])
    return cls(**arguments)


def save(module: nn.Module, folder: str | Path, about: Mapping[str, Any] | None = None) -> Path:
    r"""Writes `model.safetensors` and `model.json` into a folder, each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = {"format": 1, "model": describe(module), "about": dict(about or {})}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    partial = folder / ".model.safetensors.part"
    save_file(tensors, partial)
    partial.replace(folder / "model.safetensors")
    write_text_atomic(folder / "model.json", json.dumps(description, indent=2) + "\n")
    return folder


def load(folder: str | Path) -> nn.Module:
    r"""Returns the module that `save` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: The folder holds no model; the message says what was looked for.
        ValueError: The description is of another format, or the weights do not fit it.
    """
    folder = Path(folder)
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no model: {name} is missing. A run's student is in its folder "
                "`student`, a trained teacher in `teacher`"
            )
    description = json.loads((folder / "model.json").read_text())
    if description.get("format") != 1:
        found = description.get("format")
        raise ValueError(f"{folder}/model.json must be of format 1, got {found!r}")
    module = build(description["model"])
    try:
        module.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise ValueError(f"the weights in {folder} do not fit model.json: {error}") from error
    return module.eval()
