r"""Networks on disk: weights as safetensors, and what they are made of as JSON.

A module of the library that can be saved keeps the arguments of its constructor in `arguments`;
the names of its parts are in `KINDS`. A module of the user's own code is kept as its weights, a
reference to the code and the SHA-256 of that; it is read only where the command line names the
code. Nothing is executed when a folder is read: an unknown kind is an error.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..denoisers.adapted import AdaptedDenoiser
from ..denoisers.consistency import ConsistencyDenoiser
from ..denoisers.edm_schedules import IDDPMLevels, VELevels, VPLevels
from ..denoisers.guidance import Steerable
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..denoisers.rescaled import Rescaled
from ..denoisers.schedules import Flow, Logarithmic, VarianceExploding, VariancePreserving
from ..discriminators.heads import ConvHead, MLPHead, PositionHead, TokenHead
from ..errors import CheckpointError, ConfigError, nearest, shown
from ..nn import MLP, DhariwalUNet, EDM2UNet, Precision, SongUNet, UNet
from ..nn.diffusers import DiffusersNetwork, Told
from ..nn.own import OwnNetwork
from ..storage.bounded import read_json
from ..storage.checkpoints import digest_of_file
from ..storage.code import CODE_ERRORS, OwnCode
from ..storage.files import refuse_odd_name, write_bytes_atomic, write_text_atomic
from ..storage.limits import refuse_beyond
from ..students.few_step import FewStep, OneStep
from ..students.flow_map import FlowMap
from ..students.framed import Frame, Framed
from ..students.picture import Picture
from ..students.pushforward import Pushforward
from ..students.restorer import Restorer
from ..students.table import Table
from .own import KIND, build_own, code_of, codes_in, describe_own

__all__ = ["about_of", "build", "codes_in", "damage_of", "describe", "load", "save"]
__all__ += ["weights_of"]


# Of `model.json`: with the SHA-256 of the weights since the second one.
FORMAT = 2


DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"


# What helps where one of them is damaged.
CURE = (
    "take a copy that is whole, or make the model again, as the command that made a run does from "
    "its checkpoint"
)


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
    "flow_map": Kind(FlowMap, ("denoiser",)),
    "frame": Kind(Frame),
    "framed": Kind(Framed, ("denoiser", "frame")),
    "iddpm_levels": Kind(IDDPMLevels),
    "logarithmic": Kind(Logarithmic),
    "mlp": Kind(MLP),
    "mlp_head": Kind(MLPHead),
    "one_step": Kind(OneStep, ("denoiser",)),
    "picture": Kind(Picture),
    "position_head": Kind(PositionHead),
    "precision": Kind(Precision, ("network",)),
    "preconditioned": Kind(PreconditionedDenoiser, ("network",)),
    "evaluated": Kind(OwnNetwork, ("network",)),
    "pushforward": Kind(Pushforward, ("network",)),
    "restorer": Kind(Restorer, ("denoiser",)),
    "rescaled": Kind(Rescaled, ("denoiser",)),
    "song_unet": Kind(SongUNet),
    "steerable": Kind(Steerable, ("denoiser",)),
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

    A module of the user's own code is kept as a reference to that code, see `vardiu.models.own`.

    Raises:
        TypeError: The module, or a part of it, is not of a class in `KINDS` and not own code that
            was loaded by name.
    """
    code = code_of(module)
    if code is not None:
        return describe_own(module, code)
    for name, kind in KINDS.items():
        if type(module) is kind.cls:
            description = {"kind": name, **arguments_of(module)}
            for part in kind.parts:
                description[part] = describe(getattr(module, part))
            return description
    raise TypeError(
        f"a {type(module).__name__} cannot be saved; the classes that can are "
        f"{', '.join(sorted(kind.cls.__name__ for kind in KINDS.values()))}, and own code that "
        "was loaded by name, vardiu.teachers.load('FILE.py:NAME')"
    )


def build(
    description: Mapping[str, Any],
    codes: Sequence[OwnCode] = (),
    where: str = "the description",
    *,
    accept_changed: bool = False,
) -> nn.Module:
    r"""Returns the module that `describe` described, with fresh weights.

    Arguments:
        description: What it is made of.
        codes: The own code that this command line names, see `load`.
        where: The file that describes it, for messages.
        accept_changed: Whether own code that was changed since may be taken.

    Raises:
        ConfigError: A kind is unknown, or own code is needed that is not among `codes`.
    """
    if not isinstance(description, Mapping):
        raise ConfigError(f"{where}: a network must be a mapping, got {shown(description)}")
    arguments = dict(description)
    name = arguments.pop("kind", "none")
    if name == KIND:
        return build_own(arguments, codes, where, accept_changed=accept_changed)
    if not isinstance(name, str) or name not in KINDS:
        name = shown(name)
        raise ConfigError(f"{where}: unknown kind of network {name!r}; {nearest(name, KINDS)}")
    cls, parts = KINDS[name]
    for part in parts:
        inner = arguments.get(part)
        arguments[part] = build(inner, codes, where, accept_changed=accept_changed)  # type: ignore[arg-type]  # checked
    return cls(**arguments)


def save(module: nn.Module, folder: str | Path, about: Mapping[str, Any] | None = None) -> Path:
    r"""Writes `model.safetensors` and `model.json` into a folder, each whole or not at all.

    The description holds the size and the SHA-256 of the weights, which `load` compares.

    Raises:
        TypeError: The module, or a part of it, cannot be described.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = describe(module)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    weights = save_tensors(tensors)
    digest = write_bytes_atomic(folder / WEIGHTS, weights)
    description = {"format": FORMAT, "model": model, "weights": digest, "about": dict(about or {})}
    write_text_atomic(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")
    return folder


def about_of(folder: str | Path) -> dict[str, Any]:
    r"""Returns what `save` was told about a model beside its description.

    Raises:
        ConfigError: The folder holds no description, or a damaged one.
    """
    about = _described(Path(folder))["about"]
    return about if isinstance(about, dict) else {}


def weights_of(folder: str | Path) -> dict[str, Any]:
    r"""Returns the size and the SHA-256 of a model's weights, as its description has them.

    Raises:
        ConfigError: The folder holds no description, or a damaged one.
    """
    found = _described(Path(folder))["weights"]
    return found if isinstance(found, dict) else {}


def load(
    folder: str | Path, codes: Sequence[OwnCode] = (), *, accept_changed: bool = False
) -> nn.Module:
    r"""Returns the module that `save` wrote, in evaluation mode.

    Arguments:
        folder: The folder.
        codes: The own code that this command line names. A folder has nothing executed: a network
            of own code is made by what is among these.
        accept_changed: Whether own code that was changed since may be taken.

    Raises:
        FileNotFoundError: The folder holds no model; the message says what was looked for.
        ConfigError: The description is damaged or of another format, the weights do not fit it or
            are not finite, or the network is own code that is not named.
        CheckpointError: The weights are not those that were written.
    """
    folder = Path(folder)
    refuse_odd_name(folder)
    description = _described(folder, _whole)
    path, weights = folder / DESCRIPTION, folder / WEIGHTS
    try:
        with at_most(weights.stat().st_size, shown(path)):
            module = build(description["model"], codes, shown(path), accept_changed=accept_changed)
        for name in ("shape", "latent_shape"):
            refuse_beyond("sample numbers", math.prod(getattr(module, name, ())), path)
        module.load_state_dict(load_file(weights))
    except ConfigError:
        raise
    except RuntimeError as error:
        raise ConfigError(
            f"the weights in {shown(folder)} do not fit {DESCRIPTION}: {shown(str(error))}"
        ) from error
    except (*CODE_ERRORS, SafetensorError) as error:
        raise ConfigError(
            f"{shown(path)} describes no network that can be made "
            f"({type(error).__name__}: {shown(str(error))}): {CURE}"
        ) from error
    bad = sum(int((~p.isfinite()).sum()) for p in module.parameters() if p.is_floating_point())
    if bad:
        raise ConfigError(
            f"the weights in {shown(folder)}, which {DESCRIPTION} describes, hold {bad:,} values "
            f"that are not finite: {CURE}"
        )
    return module.eval()


def damage_of(folder: str | Path) -> str:
    r"""Returns why the files of a model are not those that `save` wrote; empty where they are."""
    try:
        _whole(Path(folder))
    except (FileNotFoundError, ConfigError, CheckpointError) as error:
        return str(error)
    return ""


def _described(
    folder: Path, read: Callable[[Path], dict[str, Any]] | None = None
) -> dict[str, Any]:
    r"""Returns what `model.json` holds, checked by a function; what is wrong is told with what
    helps."""
    try:
        return (read or _read)(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. A run's student is in its folder `student`, a trained teacher in "
            "`teacher`; one that was lost is made again by the command that made the run"
        ) from error
    except (ConfigError, CheckpointError) as error:
        raise type(error)(f"{error}; {CURE}") from error


def _whole(folder: Path) -> dict[str, Any]:
    r"""Returns what `model.json` holds, if the weights are those that it was written with."""
    description, weights = _read(folder), folder / WEIGHTS
    if digest_of_file(weights) != description["weights"]:
        raise CheckpointError(
            f"{shown(weights)} was changed since it was written: its size or its SHA-256 is not "
            f"the one in {DESCRIPTION}"
        )
    return description


def _read(folder: Path) -> dict[str, Any]:
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{shown(folder)} holds no model: {name} is missing")
    path = folder / DESCRIPTION
    found: dict[str, Any] = read_json(path)
    if found.get("format") != FORMAT:
        raise ConfigError(
            f"{shown(path)} must be of format {FORMAT}, got {shown(found.get('format'))}"
        )
    if not {"model", "weights", "about"} <= set(found):
        raise ConfigError(f"{shown(path)} must hold model, weights and about")
    return found


@contextlib.contextmanager
def at_most(values: int, where: str) -> Iterator[None]:
    r"""Refuses networks with more parameters than so many, before they are filled.

    A description that was tampered with may ask for a network of any size; the weights have at
    least one byte a parameter.

    Raises:
        ConfigError: More parameters are made.
    """
    made = 0

    def count(module: nn.Module, name: str, parameter: Any) -> None:  # noqa: ANN401 (torch's own)
        nonlocal made
        made += 0 if parameter is None else parameter.numel()
        if made > values:
            raise ConfigError(f"{where} describes more parameters than {values:,} bytes can hold")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
