r"""Teachers of diffusers: folders and hub ids of pipelines, or of a network with its scheduler.

Only the components that are needed are read, each by a class of diffusers or transformers that a
table names, from safetensors, and with every key and shape accounted for. No code that comes with
a folder is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..denoisers.base import Denoiser
from ..errors import ConfigError, shown
from ..nn.diffusers import CLASSES, DiffusersNetwork
from ..storage.bounded import read_json, read_text
from .diffusers_files import (
    LEGACY,
    located,
    network_of,
    parts_of,
    scheduler_settings,
)
from .diffusers_models import Codec, autoencoder, checked_network, encoded, strictly, texts
from .diffusers_schedules import denoiser_of
from .origin import Origin

__all__ = ["load", "matches"]


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


def load(source: str, *, revision: str | None = None, prediction: str | None = None) -> Denoiser:
    r"""Returns the denoiser of a folder or a hub id, with its `origin`.

    Arguments:
        source: A folder that diffusers wrote, or an id such as `google/ddpm-cifar10-32`, of which
            the files that are read are fetched, and no others. `user/name@revision` is one too.
        revision: The revision of a hub id.
        prediction: What the network predicts, where its scheduler is known to say it wrong.

    Raises:
        ConfigError: A part is missing, of a class that is not known, or with weights that do not
            fit; the message names it.
    """
    name, _, typed = ("", "", "") if Path(source).exists() else source.partition("@")
    folder = located(name or source, revision or typed or None, CLASSES)
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
    around: dict[str, Any] = {"scheduler": dict(settings), "network": network.model}
    vae = autoencoder(folder, parts)
    if vae is not None:
        around["vae"] = vae
    if "text_encoder" in parts:
        around["text_encoder"], around["tokenizer"] = texts(folder, parts)
    codec = None if vae is None else Codec(vae)
    masked = "mask" in network.conditions

    def encode(prompts: Sequence[str]) -> dict[str, Tensor]:
        return encoded(around["tokenizer"], around["text_encoder"], prompts, masked)

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
        about={
            "network": network.name,
            **({} if codec is None else codec.about(parts)),
            **fetched_as(source, folder),
        },
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
