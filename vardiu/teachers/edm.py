r"""Teachers out of the pickles of EDM and EDM2, as denoisers.

A file is read by `edm_pickles`, which executes nothing of it; its weights fill the library's own
networks, under the names they have in the file. Images are in [-1, 1], as everywhere here; an
EDM2 file with an `encoder` of latents holds a denoiser of those latents (see
`edm_pickles.summary`). Weights in float16 are brought to torch's default type; for mixed precision
see `vardiu.nn.Precision`.

=============  ================================================================
in the file    here
=============  ================================================================
EDMPrecond     `PreconditionedDenoiser`, of a `SongUNet` or a `DhariwalUNet`
Precond        `PreconditionedDenoiser`, of an `EDM2UNet`
VPPrecond      `AdaptedDenoiser` with `VPLevels`
VEPrecond      `AdaptedDenoiser` with `VELevels`
iDDPMPrecond   `AdaptedDenoiser` with `IDDPMLevels`
=============  ================================================================

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364, Table 1
    | Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2024)
    | https://arxiv.org/abs/2312.02696
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..denoisers.adapted import AdaptedDenoiser
from ..denoisers.base import Denoiser
from ..denoisers.edm_schedules import IDDPMLevels, Levels, VELevels, VPLevels
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..errors import ConfigError, shown
from ..nn import DhariwalUNet, EDM2UNet, SongUNet
from ..storage.limits import refuse_beyond
from . import edm_pickles
from .edm_records import Record
from .origin import Origin

__all__ = ["load", "matches"]


RANGE = 0.002, 80.0


"""The noise levels that EDM and EDM2 train and sample within; their files state zero to
infinity."""


TRAINING_ONLY = {"dropout", "label_dropout"}


"""Arguments of networks that change nothing at evaluation."""


NETWORKS: Mapping[str, tuple[str, type[nn.Module]]] = {
    "SongUNet": ("model", SongUNet),
    "DhariwalUNet": ("model", DhariwalUNet),
    "UNet": ("unet", EDM2UNet),
}


"""Classes of networks: the attribute that holds one in a file, and the class here."""


def matches(source: str | Path) -> bool:
    r"""Returns whether a path is named like a pickle, `*.pkl`."""
    return Path(source).suffix == ".pkl"


def load(path: str | Path, *, key: str = "ema") -> Denoiser:
    r"""Returns the denoiser in a pickle of EDM or EDM2, in evaluation mode.

    With classes it takes the condition `label`, integers with shape `(B,)`; the label one past
    the last class stands for none of them.

    Arguments:
        path: The file.
        key: The network in it; `ema` is the average that the authors sample from.

    Raises:
        Refused: The file is no such pickle, or asks for what is not allowed.
        ConfigError: The class of the network, its arguments or its tensors are not those known.

    Example:
        >>> load("edm-cifar10-32x32-cond-vp.pkl")  # doctest: +SKIP
    """
    record = edm_pickles.network(path, key)
    refuse_large_arguments(path, record)
    if record.class_name not in PRECONDITIONINGS:
        known = ", ".join(sorted(PRECONDITIONINGS))
        raise ConfigError(
            f"{key!r} in {path} is of the class {record.class_name}, expected one of {known}"
        )
    try:
        denoiser = PRECONDITIONINGS[record.class_name](record, _network(record))
    except ValueError as error:
        raise ConfigError(f"{key!r} in {path} does not fit: {error}") from error
    classes = record.arguments.get("label_dim") or 0
    null = classes if classes else None
    denoiser.origin = Origin(str(path), "edm", classes=classes, null=null)
    return denoiser.eval()


def refuse_large_arguments(path: str | Path, record: Record) -> None:
    r"""Raises a `ConfigError` where an argument asks for a network that nobody trained.

    Its modules are made before its weights are compared with them.
    """
    waiting = [record]
    while waiting:
        part = waiting.pop()
        for name, value in part.arguments.items():
            where = f"{path}: the argument {shown(str(name))} of {part.class_name}"
            values = value if isinstance(value, list | tuple) else [value]
            refuse_beyond("network values", len(values), where)
            row = "network blocks" if name == "num_blocks" else "network argument"
            for number in values:
                if isinstance(number, int | float) and math.isfinite(number):
                    refuse_beyond(row, math.ceil(abs(number)), where)
        # Only the network within takes arguments of its own; its parts are made by it.
        waiting += [m for n, m in part.modules.items() if n in ("model", "unet")]


def _network(record: Record) -> nn.Module:
    r"""Returns the network that a preconditioning holds, with its weights."""
    for name, part in record.modules.items():
        attribute, cls = NETWORKS.get(part.class_name, ("", nn.Module))
        if name == attribute:
            return _filled(cls, part)
    parts = ", ".join(f"{name}: {part.class_name}" for name, part in record.modules.items())
    known = ", ".join(f"{name}: {cls}" for cls, (name, _) in NETWORKS.items())
    raise ConfigError(f"it must hold one of the networks {known}; it holds {parts or 'none'}")


def _filled(cls: type[nn.Module], record: Record) -> nn.Module:
    given = {k: v for k, v in record.arguments.items() if k not in TRAINING_ONLY}
    signature = inspect.signature(cls)
    try:
        if record.state.get("_init_args"):
            raise TypeError(f"arguments without names, {shown(record.state['_init_args'])}")
        signature.bind(**given)
        with torch.device("meta"):  # every tensor comes from the file
            network = cls(**given)
    except TypeError as error:
        raise ConfigError(
            f"the arguments of {record.class_name} are not those known: {error}; "
            f"known are {', '.join(signature.parameters)}"
        ) from error
    found = record.tensors()
    compare(network.state_dict(), found)
    kind = torch.get_default_dtype()
    network.load_state_dict({k: v.to(kind, copy=True) for k, v in found.items()}, assign=True)
    return network


def compare(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], most: int = 3) -> None:
    r"""Raises a `ConfigError` that names the first tensors that are missing, unknown or of
    another shape."""
    problems = {
        "missing": [f"{k} {tuple(wanted[k].shape)}" for k in wanted if k not in found],
        "unknown": [f"{k} {tuple(found[k].shape)}" for k in found if k not in wanted],
        "of another shape": [
            f"{k} {tuple(found[k].shape)}, expected {tuple(wanted[k].shape)}"
            for k in wanted
            if k in found and found[k].shape != wanted[k].shape
        ],
    }
    texts = [
        f"{len(names)} {what}: {'; '.join(names[:most])}{'; ...' if len(names) > most else ''}"
        for what, names in problems.items()
        if names
    ]
    if texts:
        raise ConfigError(
            f"of {len(wanted)} tensors expected by its arguments, and {len(found)} found, "
            + " | ".join(texts)
        )


def _common(record: Record) -> dict[str, Any]:
    r"""Returns the shape of a sample and the conditions."""
    given = record.arguments
    try:
        side, channels = given["img_resolution"], given["img_channels"]
    except KeyError as error:
        raise ConfigError(f"{record.class_name} has no argument {error}") from error
    conditions = ("label",) if given.get("label_dim") else ()
    return {"shape": (channels, side, side), "conditions": conditions}


def _edm(record: Record, network: nn.Module) -> Denoiser:
    low, high = RANGE
    return PreconditionedDenoiser(
        network,
        **_common(record),
        sigma_data=record.arguments.get("sigma_data", 0.5),
        sigma_min=max(low, record.arguments.get("sigma_min", 0.0)),
        sigma_max=min(high, record.arguments.get("sigma_max", high)),
    )


def _epsilon(cls: type[Levels]) -> Callable[[Record, nn.Module], Denoiser]:
    r"""Returns what makes the denoiser of a kind of levels; its arguments have the same names."""

    def make(record: Record, network: nn.Module) -> Denoiser:
        known = inspect.signature(cls).parameters
        levels = cls(**{k: v for k, v in record.arguments.items() if k in known})
        own = {k: v for k, v in record.tensors().items() if "." not in k}
        compare(levels.state_dict(), own)
        levels.load_state_dict(own)
        prediction = levels.prediction
        return AdaptedDenoiser(network, levels, prediction=prediction, **_common(record))

    return make


PRECONDITIONINGS: Mapping[str, Callable[[Record, nn.Module], Denoiser]] = {
    "EDMPrecond": _edm,
    "Precond": _edm,
    "VPPrecond": _epsilon(VPLevels),
    "VEPrecond": _epsilon(VELevels),
    "iDDPMPrecond": _epsilon(IDDPMLevels),
}
