r"""Teachers of diffusers: folders and hub ids of pipelines, or of a network with its scheduler.

Only the components that are needed are read, each by a class of diffusers or transformers that a
table names, from safetensors, and with every key and shape accounted for. No code that comes with
a folder is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..data.digests import digest_of_data
from ..denoisers.base import Denoiser
from ..denoisers.guidance import Steerable
from ..errors import ConfigError, shown
from ..nn.diffusers import DiffusersNetwork
from ..nn.diffusers_calls import CLASSES
from ..storage.bounded import read_json, read_text
from .diffusers_codecs import Codec, scale_of
from .diffusers_files import (
    AUTOENCODERS,
    LEGACY,
    index_of,
    located,
    network_of,
    parts_of,
    scheduler_settings,
)
from .diffusers_models import checked_network, skeleton, strictly
from .diffusers_schedules import denoiser_of
from .diffusers_texts import Texts, refuse_refiner, texts
from .families import Family, family_of
from .origin import Origin
from .parts import Parts

__all__ = ["load", "matches", "padding", "surroundings"]


# The scales of guidance that a network which is told one may be told.
TOLD = (0.0, 100.0)


# An id of a hub; after `@` the revision: a branch, a tag or a commit.
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.][\w./-]*)?")


def matches(source: str) -> bool:
    r"""Whether a source is a folder of diffusers, or looks like an id of a hub."""
    folder = Path(source)
    if folder.is_dir():
        path = folder / "config.json"
        if (folder / "model_index.json").is_file():
            return True
        return path.is_file() and read_json(path).get("_class_name") in (*CLASSES, LEGACY)
    return not folder.exists() and HUB_ID.fullmatch(source) is not None


def load(
    source: str,
    *,
    revision: str | None = None,
    prediction: str | None = None,
    size: Sequence[int] = (),
) -> Denoiser:
    r"""Returns the denoiser of a folder or a hub id, with its `origin`.

    Arguments:
        source: A folder that diffusers wrote, or an id such as `google/ddpm-cifar10-32`, of which
            the files that are read are fetched, and no others. `user/name@revision` is one too.
        revision: The revision of a hub id.
        prediction: What the network predicts, where its scheduler is known to say it wrong.
        size: Height and width of a sample, of videos frames before them, where they are to be
            others than the configuration or the stock pipeline says; of latents, if it has those.

    Raises:
        ConfigError: A part is missing, of a class that is not known, or with weights that do not
            fit; the message names it.
    """
    read = _found(source, revision, size)
    name = read.parts[read.place]
    scheduler, settings = scheduler_settings(read.folder, source)
    model = strictly(name, read.folder, read.place)
    network = DiffusersNetwork(name, dict(model.config), model)
    try:
        denoiser = denoiser_of(network, settings, read.shape, prediction)
    except ValueError as error:
        raise ConfigError(f"{shown(scheduler)}: {error}") from error
    denoiser.origin = _origin(read, network, settings)
    if CLASSES[network.name].told(read.config):
        denoiser = Steerable(denoiser, *TOLD, scale=1.0)
    return denoiser.eval()


def surroundings(source: str) -> tuple[Origin, tuple[int, ...]]:
    r"""Returns what stands around the network of a folder or a hub id, and the shape of a sample.
    The network's weights are neither fetched nor read.

    Arguments:
        source: A folder that diffusers wrote, or an id of a hub.

    Raises:
        ConfigError: As `load`, of all parts but those weights.
    """
    read = _found(source, None, (), weights=False)
    name = read.parts[read.place]
    model = skeleton(name, read.folder, read.place, weights=False)
    network = DiffusersNetwork(name, dict(model.config), model)
    return _origin(read, network, scheduler_settings(read.folder, source)[1]), read.shape


def _found(
    source: str, revision: str | None, size: Sequence[int], *, weights: bool = True
) -> Read:
    r"""Returns what a source is, fetched from the hub if need be, once it has been found whole."""
    name, _, typed = ("", "", "") if Path(source).exists() else source.partition("@")
    folder = located(name or source, revision or typed or None, CLASSES, weights=weights)
    parts, index = parts_of(folder), index_of(folder)
    place = network_of(parts, CLASSES, source)
    path = folder / place / "config.json"
    config = read_json(path)
    family = family_of(index.get("_class_name"), parts[place], config)
    refuse_refiner(folder, parts, index, family)
    _refuse_several(folder, parts, family)
    shape = checked_network(config, path, family, size)
    return Read(source, folder, parts, index, family, place, config, shape)


class Read(NamedTuple):
    r"""What a source is: its folder, the classes of its components, its index and its family;
    which component is the network, its configuration, and the shape of its samples."""

    source: str
    folder: Path
    parts: Mapping[str, str]
    model_index: Mapping[str, Any]
    family: Family
    place: str
    config: Mapping[str, Any]
    shape: tuple[int, ...]


def _refuse_several(folder: Path, parts: Mapping[str, str], family: Family) -> None:
    r"""Raises a `ConfigError` for pipelines of another network for some of the levels."""
    more = next((name for name in family.others if name in parts), None)
    if more is not None:
        raise ConfigError(
            f"{shown(folder / 'model_index.json')} has a second network, {more}, for some of the "
            "levels, and one is read: give a pipeline of one network, Wan 2.1 for one, or your "
            "own function that asks both"
        )


def _origin(
    read: Read,
    network: DiffusersNetwork,
    settings: Mapping[str, Any],
) -> Origin:
    shape = read.shape
    config, folder = network.arguments["config"], read.folder
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm") or 0
    # A transformer's embedding has one more row than classes: none of them.
    null = classes if network.name == "DiTTransformer2DModel" else None
    found = texts(folder, read.parts, read.model_index, read.family)
    readers: dict[str, Callable[[], Any]] = {
        "scheduler": lambda: dict(settings),
        "network": lambda: network.model,
        **found,
    }
    codec = None
    if any(name in read.parts for name in AUTOENCODERS):
        codec = Codec(folder, read.parts, padding(config, shape))
        readers["vae"] = codec.read
    around = Parts(readers)
    encode = _texts(read, network, around, shape, codec) if found else None

    def release() -> None:
        for name in ("text_encoder", "tokenizer", "vae"):
            around.release(name)
        if codec is not None:
            codec.release()

    return Origin(
        read.source,
        "diffusers",
        licence=_licence(folder),
        classes=classes,
        null=null,
        encode=encode,
        against=None if encode is None else encode.against,
        decode=None if codec is None else codec.decode,
        compress=None if codec is None else codec.encode,
        parts=around,
        about={
            "network": network.name,
            "pipeline": read.family.pipeline,
            **({} if codec is None else codec.about()),
            **fetched_as(read.source, folder),
        },
        of_texts=None if encode is None else lambda: _of_texts(read, encode),
        of_images=None if codec is None else lambda: _described(read, AUTOENCODERS),
        release=release,
    )


def _of_texts(read: Read, encode: Texts) -> dict[str, Any]:
    r"""Returns what the conditions of a prompt are a function of."""
    told = {"sizes": list(encode.sizes), "blank negative": encode.blank_negative}
    pipeline = {"class": read.family.pipeline, **told}
    return {"pipeline": pipeline, **_described(read, ("text_encoder", "tokenizer"))}


def _described(read: Read, prefixes: tuple[str, ...]) -> dict[str, Any]:
    r"""Returns the class and the digest of the files of each component whose name begins so.

    Raises:
        ConfigError: A component has no folder.
    """
    found = {}
    for name in sorted(name for name in read.parts if name.startswith(prefixes)):
        where = read.folder / name
        if not where.is_dir():
            raise ConfigError(f"{shown(where)} is missing: what it encodes cannot be known again")
        found[name] = {"class": read.parts[name], "sha256": digest_of_data(str(where))}
    return found


def padding(config: Mapping[str, Any], shape: tuple[int, ...]) -> int:
    r"""Returns how many frames of latents stand for none, so that all fill whole patches."""
    patch, frames = config.get("patch_size_t"), config.get("sample_frames")
    if patch is None or frames is None or len(shape) != 4:
        return 0
    needed = (frames - 1) // config["temporal_compression_ratio"] + 1
    return max(0, shape[1] - needed) if shape[1] - needed < patch else 0


def _texts(
    read: Read,
    network: DiffusersNetwork,
    found: Mapping[str, Any],
    shape: tuple[int, ...],
    codec: Codec | None,
) -> Texts:
    r"""Returns what makes conditions of prompts."""
    family = read.family
    factor = 1 if codec is None else scale_of(codec.config)
    sizes: tuple[int, ...] = ()
    if family.told_sizes is not None:
        sizes = family.told_sizes(factor * shape[-2], factor * shape[-1])
    blank = family.blank_negative
    return Texts(
        family,
        found,
        network.conditions,
        sizes=sizes,
        width=int(network.arguments["config"].get("joint_attention_dim") or 0),
        blank_negative=bool(blank) and bool(read.model_index.get(blank, True)),
    )


def fetched_as(source: str, folder: Path) -> dict[str, str]:
    r"""Returns the commit that the hub's cache has a source in; nothing of a folder."""
    is_commit = re.fullmatch(r"[0-9a-f]{40}", folder.name) is not None
    return {"revision": folder.name} if is_commit and not Path(source).exists() else {}


def _licence(folder: Path) -> str | None:
    r"""Returns the licence that the front matter of a card states."""
    card = folder / "README.md"
    found = re.search(r"(?m)^license:\s*(\S+)", read_text(card)) if card.is_file() else None
    return None if found is None else shown(found[1])
