r"""Models of diffusers and transformers, built only if their configuration is one of them.

A configuration is somebody else's: it is held to limits, and the network that it describes is
built without memory first, to see that the weights beside it can be its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from torch import nn

from ..errors import ConfigError, nearest, require, shown
from ..nn.diffusers_calls import CLASSES
from ..storage.bounded import DAMAGED, read_json
from ..storage.limits import refuse_beyond
from .diffusers_files import TEXT_WEIGHTS, WEIGHTS, variant_of
from .families import Family

__all__ = ["MISFITS", "TRANSFORMERS", "checked_network", "known", "skeleton", "strictly"]


# What a class raises that is given what it was not written for.
MISFITS: tuple[type[Exception], ...] = (*DAMAGED, SafetensorError)


TRANSFORMERS = "transformers"


# What `torch.compile` and data parallelism put before every name.
WRAPPERS = ("_orig_mod.", "module.")


# Settings that count what is built one after another.
COUNTS = ("layers_per_block", "num_layers", "transformer_layers_per_block", "num_hidden_layers")


def strictly(name: str, folder: Path, part: str, library: str = "diffusers") -> Any:  # noqa: ANN401
    r"""Returns a model in single precision and evaluation mode, with every weight loaded.

    Arguments:
        name: Its class.
        folder: The folder of the pipeline.
        part: The component; empty where the folder is the model's own.
        library: Where the class is from: diffusers, or transformers.

    Raises:
        ConfigError: The settings or the weights are missing, beyond a limit, or do not fit each
            other; the message names the folder.
    """
    where = folder / part
    cls = getattr(require(library, "hub"), name)
    config = read_json(where / "config.json")
    _refuse_large(config, where / "config.json")
    stem = WEIGHTS if library == "diffusers" else TEXT_WEIGHTS
    variant = variant_of(where, stem, name)
    _refuse_beyond_its_weights(cls, config, where, library)
    # Of classes that keep modules in single precision diffusers knows one way to load alone.
    whole = library == "diffusers" and not getattr(cls, "_keep_in_fp32_modules", None)
    options = {"low_cpu_mem_usage": False} if whole else {}
    try:
        model, info = cls.from_pretrained(
            str(where),
            use_safetensors=True,
            variant=variant,
            output_loading_info=True,
            local_files_only=True,
            **options,
        )
    except MISFITS as error:
        raise ConfigError(
            f"the weights of {shown(where)} do not load as a {name} from safetensors: "
            f"{shown(str(error))}"
        ) from error
    if library == "transformers":  # of a whole model with images, the half of texts is read
        info = {"missing_keys": info["missing_keys"]}
    _refuse_wrong(info, where)
    return model.float().eval()


def skeleton(name: str, folder: Path, part: str, *, weights: bool = True) -> Any:  # noqa: ANN401
    r"""Returns a model of diffusers without its weights, for what its configuration says.

    Arguments:
        name: Its class.
        folder: The folder of the pipeline.
        part: The component.
        weights: Whether they must be there, and may be its own.

    Raises:
        ConfigError: The settings or the weights are missing, or beyond a limit.
    """
    where = folder / part
    config = read_json(where / "config.json")
    _refuse_large(config, where / "config.json")
    cls = getattr(require("diffusers", "hub"), name)
    if not weights:
        return _without_memory(cls, config, where, "diffusers")
    variant_of(where, WEIGHTS, name)
    return _refuse_beyond_its_weights(cls, config, where, "diffusers")


def _refuse_wrong(info: Mapping[str, Any], where: Path) -> None:
    r"""Raises a `ConfigError` if weights are missing, unknown or misshapen."""
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
    if not wrong:
        return
    for prefix in WRAPPERS:
        if any(key.startswith(prefix) for key in wrong.get("unexpected_keys", ())):
            raise ConfigError(
                f"the names of the weights of {shown(where)} start with {prefix!r}, as "
                "torch.compile and data parallelism leave them; write them anew without it: "
                f"{renaming(where / f'{WEIGHTS}.safetensors', prefix)}"
            )
    words = "; ".join(f"{key}: {', '.join(map(shown, v[:3]))}" for key, v in wrong.items())
    raise ConfigError(
        f"the weights of {shown(where)} do not fit its config.json ({words}); diffusers would "
        "have filled in random numbers"
    )


def renaming(path: Path, prefix: str) -> str:
    r"""Returns the command that takes a prefix off every name in a file of safetensors."""
    return (
        'python -c "import os; from safetensors.torch import load_file, save_file; '
        f"p = '{shown(path)}'; save_file({{k.removeprefix('{prefix}'): v for k, v in "
        "load_file(p).items()}, p + '.new', {'format': 'pt'}); os.replace(p + '.new', p)\""
    )


# ---------------------------------------------------------------- what a configuration may say


def _refuse_large(config: Mapping[str, Any], path: Path) -> None:
    r"""Raises a `ConfigError` if a number of a configuration is beyond the limits."""

    def visit(name: str, value: Any) -> None:  # noqa: ANN401 (JSON)
        if isinstance(value, Mapping):
            for key, item in value.items():
                visit(str(key), item)
        elif isinstance(value, list):
            what = f"{shown(name)} in {shown(path)}"
            refuse_beyond("network layers", len(value) if name in SHAPES else 0, what)
            for item in value:
                visit(name, item)
        elif isinstance(value, int) and not isinstance(value, bool):
            bound = "network layers" if name in COUNTS else "network size"
            refuse_beyond(bound, value, f"{shown(name)} in {shown(path)}")

    visit("", config)
    side, patch = config.get("sample_size"), config.get("patch_size")
    if isinstance(side, int) and isinstance(patch, int) and patch > 0:
        positions = (side // patch) ** 2
        refuse_beyond("network positions", positions, f"the network of {shown(path)}")


# Lists of which each item is a block.
SHAPES = ("block_out_channels", "down_block_types", "up_block_types", "encoder_block_out_channels")


def _without_memory(
    cls: Any,  # noqa: ANN401 (a class of models)
    config: Mapping[str, Any],
    where: Path,
    library: str,
) -> nn.Module:
    r"""Returns a network without memory of a configuration.

    Raises:
        ConfigError: None can be made.
    """
    try:
        with torch.device("meta"):
            model = (
                cls.from_config(config)
                if library == "diffusers"
                else cls(cls.config_class.from_dict(dict(config)))
            )
    except MISFITS as error:
        raise ConfigError(
            f"{library} makes no {cls.__name__} of {shown(where / 'config.json')}: "
            f"{shown(str(error))}"
        ) from error
    assert isinstance(model, nn.Module)
    return model


def _refuse_beyond_its_weights(
    cls: Any,  # noqa: ANN401 (a class of models)
    config: Mapping[str, Any],
    where: Path,
    library: str,
) -> nn.Module:
    r"""Returns a network without memory of a configuration.

    Raises:
        ConfigError: None can be made, or it has more numbers than the files of weights have bytes.
    """
    model = _without_memory(cls, config, where, library)
    numbers = sum(p.numel() for p in model.parameters())
    held = sum(path.stat().st_size for path in where.glob("*.safetensors"))
    if numbers > held:
        raise ConfigError(
            f"{shown(where / 'config.json')} describes a network of {numbers:,} numbers, and the "
            f"weights beside it have {held:,} bytes: they are not its own"
        )
    return model


def checked_network(
    config: Mapping[str, Any], path: Path, family: Family, size: Sequence[int] = ()
) -> tuple[int, ...]:
    r"""Returns the shape of a network's samples: channels, of videos frames, height, width.

    Arguments:
        config: The network's configuration.
        path: Its file, for messages.
        family: Its family.
        size: The sides that are asked for; those of the configuration by default.

    Raises:
        ConfigError: It takes what is not known here, does not say its shape, or has no samples of
            that size.
    """
    for key, words in UNREAD.items():
        if config.get(key) is not None and not (key in READ and config[key] == READ[key]):
            raise ConfigError(f"{shown(path)}: {key} is {shown(config[key])}: {words}")
    into, out = config.get("in_channels"), config.get("out_channels")
    if not _is_size(into):
        raise ConfigError(f"{shown(path)}: in_channels must be a number, got {shown(into)}")
    if out is not None and out not in (into, 2 * into):
        raise ConfigError(
            f"{shown(path)}: the network takes {into} channels and gives {shown(out)}; read are "
            "those that give as many, or twice as many with a variance. Networks of inpainting, "
            "of depth and of upscaling take an image beside the noisy sample: give their "
            "text-to-image base"
        )
    found = family.sizes(config)
    sides = found if isinstance(found, list | tuple) else (found,)
    default = family.sizes({**config, "sample_size": 1})
    wanted = len(default) if isinstance(default, tuple) else 2
    if size:
        if len(size) != wanted or not all(_is_size(side) for side in size):
            raise ConfigError(
                f"problem.size must be {'frames, ' if wanted == 3 else ''}height and width of a "
                f"sample of {shown(path)}, got {shown(list(size))}"
            )
        sides = tuple(size)
    elif len(sides) != wanted or not all(_is_size(side) for side in sides):
        raise ConfigError(
            f"{shown(path)}: sample_size must be the side of a sample, or its height and width, "
            f"got {shown(config.get('sample_size'))}; write into it what the network was trained "
            "with"
        )
    _refuse_broken(config, path, sides, family.square)
    return (CLASSES[family.network].channels(config), *sides)


def _refuse_broken(
    config: Mapping[str, Any], path: Path, sides: Sequence[int], square: int
) -> None:
    r"""Raises a `ConfigError` where sides are no whole patches, or more of them than are read."""
    patch = config.get("patch_size")
    sized = [square * patch] * 2 if _is_size(patch) else patch
    if isinstance(sized, list | tuple) and all(_is_size(side) for side in sized):
        for side, part in zip(reversed(sides), reversed(sized), strict=False):
            if side % part:
                raise ConfigError(
                    f"{shown(path)}: sides of a sample must be multiples of its patches, "
                    f"{shown(list(sized))}, got {shown(list(sides))}"
                )
    positions = math.prod(sides) // (math.prod(sized) if isinstance(sized, list | tuple) else 1)
    if sized:
        refuse_beyond("network positions", positions, f"the network of {shown(path)}")


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


# Settings that are read if they are null alone, or as `READ` has them.
UNREAD = {
    "addition_embed_type": "additional conditions are read as SDXL has them, text_time; give a "
    "teacher of Stable Diffusion, or your own function",
    "class_embed_type": "classes are read as the numbers of an embedding; give your own function",
    "encoder_hid_dim_type": "conditions that are embeddings of images are not read",
    "image_dim": "conditions that are embeddings of images are not read",
    "ofs_embed_dim": "networks that start from an image are not read: give the text-to-video one",
}


READ = {"addition_embed_type": "text_time"}


def known(folder: Path, parts: Mapping[str, str], part: str, names: Sequence[str]) -> str:
    r"""Returns the class of a component.

    Raises:
        ConfigError: It is none of these.
    """
    if parts[part] not in names:
        offer = nearest(parts[part][:80], names)
        raise ConfigError(f"{shown(folder)}: {part} is a {shown(parts[part])}; {offer}")
    return parts[part]
