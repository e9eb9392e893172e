r"""Teachers of diffusers: folders and hub ids of pipelines, or of a network with its scheduler.

Only the components that are needed are read, each by a class of diffusers or transformers that a
table names, from safetensors, and with every key and shape accounted for. No code that comes with
a folder is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.digests import digest_of_data
from ..denoisers.base import Denoiser
from ..errors import ConfigError, shown
from ..nn.diffusers import CLASSES, DiffusersNetwork
from ..storage.bounded import read_json, read_text
from .diffusers_files import (
    AUTOENCODERS,
    LEGACY,
    located,
    network_of,
    parts_of,
    scheduler_settings,
)
from .diffusers_models import (
    Codec,
    checked_network,
    encoded,
    strictly,
    text_encoder,
    tokenizer,
)
from .diffusers_schedules import denoiser_of
from .origin import Origin
from .parts import Parts

__all__ = ["load", "matches"]


def matches(source: str) -> bool:
    r"""Whether a source is a folder of diffusers, or looks like an id of a hub."""
    folder = Path(source)
    if folder.is_dir():
        path = folder / "config.json"
        if (folder / "model_index.json").is_file():
            return True
        return path.is_file() and read_json(path).get("_class_name") in (*CLASSES, LEGACY)
    return not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None


def load(source: str, *, revision: str | None = None, prediction: str | None = None) -> Denoiser:
    r"""Returns the denoiser of a folder or a hub id, with its `origin`.

    Arguments:
        source: A folder that diffusers wrote, or an id such as `google/ddpm-cifar10-32`, of which
            the files that are read are fetched, and no others.
        revision: The revision of a hub id.
        prediction: What the network predicts, where its scheduler is known to say it wrong.

    Raises:
        ConfigError: A part is missing, of a class that is not known, or with weights that do not
            fit; the message names it.
    """
    folder = located(source, revision, CLASSES)
    parts = parts_of(folder)
    where = network_of(parts, CLASSES, source)
    path = folder / where / "config.json"
    shape = checked_network(read_json(path), path)
    scheduler, settings = scheduler_settings(folder, source)
    model = strictly(parts[where], folder, where)
    network = DiffusersNetwork(parts[where], dict(model.config), model)
    try:
        denoiser = denoiser_of(network, settings, shape, prediction)
    except ValueError as error:
        raise ConfigError(f"{shown(scheduler)}: {error}") from error
    denoiser.origin = _origin(source, folder, parts, network, settings)
    return denoiser.eval()


def _origin(
    source: str,
    folder: Path,
    parts: Mapping[str, str],
    network: DiffusersNetwork,
    settings: Mapping[str, Any],
) -> Origin:
    config = network.arguments["config"]
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm") or 0
    # A transformer's embedding has one more row than classes: none of them.
    null = classes if network.name == "DiTTransformer2DModel" else None
    readers: dict[str, Callable[[], Any]] = {
        "scheduler": lambda: dict(settings),
        "network": lambda: network.model,
    }
    codec = Codec(folder, parts) if any(name in parts for name in AUTOENCODERS) else None
    if codec is not None:
        readers["vae"] = codec.read
    if "text_encoder" in parts:
        readers["text_encoder"] = lambda: text_encoder(folder, parts)
        readers["tokenizer"] = lambda: tokenizer(folder, parts)
    around = Parts(readers)
    masked = "mask" in network.conditions

    def encode(prompts: Sequence[str]) -> dict[str, Tensor]:
        return encoded(around["tokenizer"], around["text_encoder"], prompts, masked)

    def release() -> None:
        for name in ("text_encoder", "tokenizer", "vae"):
            around.release(name)
        if codec is not None:
            codec.release()

    return Origin(
        source,
        "diffusers",
        licence=_licence(folder),
        classes=classes,
        null=null,
        encode=encode if "text_encoder" in around else None,
        decode=None if codec is None else codec.decode,
        compress=None if codec is None else codec.encode,
        parts=around,
        about={"network": network.name, **({} if codec is None else codec.about())},
        of_texts=lambda: _described(folder, parts, ("text_encoder", "tokenizer")),
        of_images=lambda: _described(folder, parts, AUTOENCODERS),
        release=release,
    )


def _described(
    folder: Path, parts: Mapping[str, str], prefixes: tuple[str, ...]
) -> dict[str, Any]:
    r"""Returns the class and the digest of the files of each component whose name begins so.

    Raises:
        ConfigError: A component has no folder.
    """
    found = {}
    for name in sorted(name for name in parts if name.startswith(prefixes)):
        where = folder / name
        if not where.is_dir():
            raise ConfigError(f"{shown(where)} is missing: what it encodes cannot be known again")
        found[name] = {"class": parts[name], "sha256": digest_of_data(str(where))}
    return found


def _licence(folder: Path) -> str | None:
    r"""Returns the licence that the front matter of a card states."""
    card = folder / "README.md"
    found = re.search(r"(?m)^license:\s*(\S+)", read_text(card)) if card.is_file() else None
    return None if found is None else shown(found[1])
