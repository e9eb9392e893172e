r"""The files of a folder of diffusers, here or on the hub: which are read, and which are fetched.

Nothing is read but JSON within the limits of `vardiu.storage.limits`, safetensors, and the words
of tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, shown
from ..storage.bounded import read_json
from .families import Family, family_of
from .hub import fetched
from .weights import refuse_damaged

__all__ = [
    "class_in",
    "index_of",
    "located",
    "network_of",
    "parts_of",
    "scheduler_settings",
    "variant_of",
    "variant_there",
]


# Where a pipeline has its network; a folder of the network alone has it in itself.
NETWORKS = ("unet", "transformer", "")


# Where it may have an autoencoder.
AUTOENCODERS = ("vae", "vqvae")


# What files of weights are called, before their suffix.
WEIGHTS = "diffusion_pytorch_model"
TEXT_WEIGHTS = "model"


# Variants of weights that are read where there are no plain ones.
VARIANTS = ("fp16", "bf16")


# The class that DiT and PixArt had when they were published, and theirs since.
LEGACY = "Transformer2DModel"
SINCE = {
    "ada_norm_zero": "DiTTransformer2DModel",
    "ada_norm_single": "PixArtTransformer2DModel",
}


# Everything that is small: it says what else is needed.
SETTINGS = [
    *("model_index.json", "config.json", "scheduler_config.json", "README.md"),
    *("unet/config.json", "transformer/config.json", "scheduler/scheduler_config.json"),
]


def class_in(folder: Path) -> str:
    r"""Returns the class that the `config.json` of a folder names; empty if there is none.

    A `Transformer2DModel` is resolved to the class that diffusers has for it since.

    Raises:
        ConfigError: The file is no JSON of settings, or no class is known for it.
    """
    path = folder / "config.json"
    if not path.is_file():
        return ""
    config = read_json(path)
    name = config.get("_class_name", "")
    if not isinstance(name, str):
        raise ConfigError(f"{shown(path)}: _class_name must be a name, got {shown(name)}")
    if name != LEGACY:
        return name
    norm = config.get("norm_type")
    if not isinstance(norm, str) or norm not in SINCE:
        raise ConfigError(
            f"{shown(path)} is of a {LEGACY} with norm_type {shown(norm)}; those are read with "
            f"{' (DiT) or '.join(SINCE)} (PixArt)"
        )
    return SINCE[norm]


def index_of(folder: Path) -> dict[str, Any]:
    r"""Returns what `model_index.json` holds; nothing of a folder of the network alone.

    Raises:
        ConfigError: It is no JSON of settings.
    """
    path = folder / "model_index.json"
    return read_json(path) if path.is_file() else {}


def parts_of(folder: Path) -> dict[str, str]:
    r"""Returns the class of each component of a folder; of a network alone under no name.

    Raises:
        ConfigError: A component, or the pipeline itself, is code that the folder brings along, or
            the index is none.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        return {"": class_in(folder)}
    found = {}
    for name, value in read_json(path).items():
        if name == "_class_name" and not isinstance(value, str):
            raise ConfigError(
                f"{shown(path)} brings its own pipeline {shown(value)}: its code is not run"
            )
        if name.startswith("_") or not isinstance(value, list) or value[:1] == [None]:
            continue
        if len(value) != 2 or not all(isinstance(word, str) for word in value):
            raise ConfigError(
                f"{shown(path)}: component {shown(name)} must be a library and a class, got "
                f"{shown(value)}"
            )
        library, cls = value
        if library not in ("diffusers", "transformers", "stable_diffusion"):
            raise ConfigError(
                f"{shown(folder)}: component {name[:80]!r} is {shown(cls)} of {library[:80]!r}; "
                "only classes of diffusers and transformers are read, code from elsewhere is not "
                "run"
            )
        found[name] = cls
    for name in NETWORKS[:-1]:
        if found.get(name) == LEGACY:
            found[name] = class_in(folder / name)
    return found


def network_of(parts: Mapping[str, str], known: Mapping[str, Any], source: str) -> str:
    r"""Returns the name of the component that is the network.

    Raises:
        ConfigError: There is none of a known class; the message lists what there is.
    """
    name = next((name for name in NETWORKS if name in parts), None)
    if name is None or parts[name] not in known:
        found = ", ".join(sorted(filter(None, parts.values())))
        raise ConfigError(
            f"{shown(source)} has no network of a class that is known ({', '.join(known)}); it "
            f"holds {shown(found) or 'none'}"
        )
    return name


def scheduler_settings(folder: Path, source: str) -> tuple[Path, dict[str, Any]]:
    r"""Returns the file of a scheduler's settings, and what it holds.

    Raises:
        ConfigError: There is none, or it is no JSON of settings.
    """
    for place in (folder / "scheduler", folder, folder.parent / "scheduler"):
        path = place / "scheduler_config.json"
        if path.is_file():
            return path, read_json(path)
    raise ConfigError(
        f"{shown(source)} has no scheduler/scheduler_config.json: without it nobody knows what "
        "its times and its predictions mean. Copy that of the pipeline that the network is of, or "
        'write the one that it was trained with, as by python -c "import diffusers as d; '
        f"d.DDPMScheduler().save_pretrained('{shown(folder / 'scheduler')}')\""
    )


def _names(stem: str, variant: str | None = None) -> tuple[str, str, str]:
    r"""Returns how weights are called: whole, in shards, and the index of the shards."""
    if variant is None:
        whole = f"{stem}.safetensors"
        return whole, f"{stem}-?????-of-?????.safetensors", f"{whole}.index.json"
    return (
        f"{stem}.{variant}.safetensors",
        f"{stem}.{variant}-?????-of-?????.safetensors",
        f"{stem}.safetensors.index.{variant}.json",
    )


def _holds(folder: Path, stem: str, variant: str | None = None) -> bool:
    whole, _, index = _names(stem, variant)
    return (folder / whole).is_file() or (folder / index).is_file()


def variant_there(folder: Path, stem: str) -> str:
    r"""Returns the variant of the weights that a folder holds; empty where they are the plain
    ones, or there are none."""
    return next((v for v in (None, *VARIANTS) if _holds(folder, stem, v)), None) or ""


def variant_of(folder: Path, stem: str, cls: str) -> str | None:
    r"""Returns the variant of the weights that a folder holds; none where they are the plain ones.

    Arguments:
        folder: The folder of a component.
        stem: What its weights are called, before their suffix.
        cls: Its class, for the message.

    Raises:
        ConfigError: There are no weights in safetensors; the message says what there is instead,
            and what converts it. Or they are not all there, or damaged.
    """
    for variant in (None, *VARIANTS):
        if _holds(folder, stem, variant):
            whole, _, index = _names(stem, variant)
            refuse_damaged(folder / whole, folder / index)
            return variant
    found = sorted(p.name for p in folder.glob(f"{stem}*") if p.suffix != ".json")
    pickle = next((n for n in found if n.endswith(".bin")), None)
    where = shown(folder)
    if pickle is not None:
        library = "diffusers" if stem == WEIGHTS else "transformers"
        use = "use_safetensors=False" if stem == WEIGHTS else ""
        loaded = ", ".join(filter(None, [f"'{where}'", use]))
        raise ConfigError(
            f"{where} holds its weights as a pickle, {shown(pickle)}, and they are read from "
            "safetensors alone. If you trust its origin, write them anew: python -c "
            f"\"import {library} as d; d.{cls}.from_pretrained({loaded}).save_pretrained('{where}'"
            ')"'
        )
    others = f"; it holds {', '.join(shown(name) for name in found[:5])}" if found else ""
    raise ConfigError(
        f"{where} holds no weights {stem}.safetensors of a {cls}, nor its variants "
        f"{' and '.join(VARIANTS)}{others}"
    )


def located(
    source: str, revision: str | None, known: Mapping[str, Any], *, weights: bool = True
) -> Path:
    r"""Returns the folder of a source; of a hub id, what is read of it is fetched first.

    Arguments:
        source: A folder, or a hub id.
        revision: The revision of a hub id.
        known: The classes of networks that are read.
        weights: Whether those of the network are fetched.

    Raises:
        ConfigError: It cannot be had, or cannot be read; then no weights have been fetched.
    """
    if Path(source).is_dir():
        return Path(source)
    folder = fetched(source, revision, SETTINGS)
    parts = parts_of(folder)
    where = network_of(parts, known, source)
    config = folder / where / "config.json"
    settings = read_json(config) if config.is_file() else {}
    family = family_of(index_of(folder).get("_class_name"), parts[where], settings)
    wanted = {name: stem for name, stem in _weights(parts, family) if weights or name != where}
    patterns = [*SETTINGS, *(_path(name, "config.json") for name in wanted)]
    for name in (encoder.tokenizer for encoder in family.encoders if encoder.tokenizer in parts):
        patterns += [f"{name}/*.{kind}" for kind in ("json", "txt", "model")]
    patterns += [_path(n, file) for n, stem in wanted.items() for file in _names(stem)]
    folder = fetched(source, revision, patterns)
    for variant in VARIANTS:
        missing = {
            name: stem
            for name, stem in wanted.items()
            if not any(_holds(folder / name, stem, v) for v in (None, *VARIANTS))
        }
        if missing:
            more = [_path(n, f) for n, stem in missing.items() for f in _names(stem, variant)]
            patterns += more
            folder = fetched(source, revision, patterns)
    return folder


def _weights(parts: Mapping[str, str], family: Family) -> Iterator[tuple[str, str]]:
    r"""Yields the components whose weights are read, with what their files are called."""
    yield next(name for name in NETWORKS if name in parts), WEIGHTS
    autoencoder = next((name for name in AUTOENCODERS if name in parts), None)
    if autoencoder is not None:
        yield autoencoder, WEIGHTS
    for encoder in family.encoders:
        if encoder.part in parts:
            yield encoder.part, TEXT_WEIGHTS


def _path(part: str, file: str) -> str:
    return f"{part}/{file}" if part else file
