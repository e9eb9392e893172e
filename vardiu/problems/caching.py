r"""What is encoded once and kept on disk: embeddings of prompts, and latents of images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.digests import digest_of_data
from ..data.images import Background, Corrupt, Records, TooManyCorrupt, corrupt_of, to_tensor
from ..data.kept_rows import KeptRows, descriptions, make_rows
from ..data.latents import packed_captions
from ..data.texts import Listed, Prompts
from ..denoisers.prompts import LookedUp
from ..errors import ConfigError, shown
from ..storage.artefacts import Artefacts
from ..teachers.origin import Origin

__all__ = [
    "DTYPES",
    "keep_latents",
    "keep_negative",
    "keep_texts",
    "kept_latents",
    "kept_negative",
    "kept_texts",
]


# The types that floating-point numbers are kept in, the most precise first.
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def _of_texts(origin: Origin, prompts: Prompts, role: str) -> dict[str, Any]:
    if origin.of_texts is None:
        raise ConfigError(
            f"the encoder of texts of {shown(origin.source)} has no files by which it could be "
            "known again, and nothing it makes is kept: leave --cache out"
        )
    encoder = dict(origin.of_texts())
    return {"kind": "texts", "encoder": encoder, "content": prompts.sha256, "role": role}


def _of_images(
    origin: Origin, source: str, shape: Sequence[int], background: str
) -> dict[str, Any]:
    if origin.of_images is None:
        raise ConfigError(
            f"the autoencoder of {shown(origin.source)} has no files by which it could be known "
            "again, and nothing it makes is kept: leave --cache out"
        )
    return {
        "kind": "latents",
        "encoder": dict(origin.of_images()),
        "content": digest_of_data(source) or source,
        "shape": list(shape),
        "background": background,
    }


def _converted(rows: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    kept = DTYPES[dtype]
    return {
        name: (value.to(kept) if value.is_floating_point() else value).cpu().contiguous()
        for name, value in rows.items()
    }


@torch.no_grad()
def keep_texts(
    root: str | Path,
    origin: Origin,
    prompts: Prompts,
    dtype: str,
    batch: int,
    artefacts: Artefacts,
) -> KeptRows:
    r"""Makes the embeddings of prompts that are not kept yet, and returns all.

    Arguments:
        root: The folder of all that is kept.
        origin: What stands around the teacher.
        prompts: The prompts.
        dtype: The type that they are kept in, one of `DTYPES`.
        batch: How many are encoded at a time.
        artefacts: Tells how far it is, see `make_rows`.

    Raises:
        ConfigError: The teacher encodes no texts.
    """
    encode = origin.encode
    if encode is None:
        raise ConfigError(f"{shown(origin.source)} takes no texts: leave --prompts out")

    def make(begin: int, end: int) -> dict[str, Tensor]:
        parts = [
            _converted(encode(prompts[i : min(i + batch, end)]), dtype)
            for i in range(begin, end, batch)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    of = {**_of_texts(origin, prompts, "prompts"), "dtype": dtype}
    return make_rows(root, of, len(prompts), make, artefacts)


@torch.no_grad()
def keep_negative(
    root: str | Path, origin: Origin, negative: str, dtype: str, artefacts: Artefacts
) -> KeptRows:
    r"""Makes the row that guidance leads away from, see `keep_texts`."""
    against = origin.against or (lambda text: _encoder_of(origin)([text]))
    of = {**_of_texts(origin, Listed([negative]), "negative"), "dtype": dtype}
    return make_rows(root, of, 1, lambda a, b: _converted(against(negative), dtype), artefacts)


def _encoder_of(origin: Origin) -> Callable[[Sequence[str]], dict[str, Tensor]]:
    assert origin.encode is not None
    return origin.encode


@torch.no_grad()
def keep_latents(
    root: str | Path,
    origin: Origin,
    images: Records,
    source: str,
    shape: Sequence[int],
    pixels: Sequence[int],
    dtype: str,
    batch: int,
    artefacts: Artefacts,
    *,
    corrupt: int = 0,
    background: Background = "white",
    device: torch.device | None = None,
) -> KeptRows:
    r"""Makes the latents of images that are not kept yet, and returns all: with their classes,
    their captions, and whether each could be read.

    Arguments:
        root: The folder of all that is kept.
        origin: What stands around the teacher.
        images: The images.
        source: Their name.
        shape: The shape of a latent.
        pixels: The shape that images are brought to: that of what a latent stands for.
        dtype: The type that latents are kept in, one of `DTYPES`.
        batch: How many are encoded at a time.
        artefacts: Tells how far it is, see `make_rows`.
        corrupt: How many images may be corrupt.
        background: The colour behind what is transparent.
        device: Where images are brought to for the autoencoder.

    Raises:
        ConfigError: The teacher has no autoencoder.
        TooManyCorrupt: More images are corrupt than are allowed.
    """
    if origin.compress is None:
        raise ConfigError(f"{shown(origin.source)} makes no latents of images: leave --data out")
    compress, bad = origin.compress, set[str]()

    def make(begin: int, end: int) -> dict[str, Tensor]:
        items, coded = [], []
        for first in range(begin, end, batch):
            places = range(first, min(first + batch, end))
            read = [_item(images, i, pixels, background) for i in places]
            bad.update(str(item.error) for item in read if item.error is not None)
            refuse_corrupt(bad, corrupt)
            coded.append(compress(torch.stack([item.image for item in read]).to(device or "cpu")))
            items += [item._replace(image=torch.empty(0)) for item in read]
        return _rows_of(items, _converted({"latent": torch.cat(coded)}, dtype))

    of = {**_of_images(origin, source, shape, background), "dtype": dtype}
    return make_rows(root, of, len(images), make, artefacts)


class Read(NamedTuple):
    r"""An image, its class and its caption; zeros and the reason where it is corrupt."""

    image: Tensor
    label: int | None = None
    caption: str | None = None
    error: Corrupt | None = None


def _item(images: Records, index: int, shape: Sequence[int], background: Background) -> Read:
    try:
        name, image, label, caption = images.item(index)
        return Read(to_tensor(image, shape, True, background, name), label, caption)
    except Corrupt as error:
        return Read(torch.zeros(*shape), error=error)


def _rows_of(items: Sequence[Read], latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Returns what is kept of images beside their latents."""
    return {
        **latents,
        "label": torch.tensor([-1 if item.label is None else item.label for item in items]),
        "good": torch.tensor([item.error is None for item in items]),
        "captioned": torch.tensor([item.caption is not None for item in items]),
        "caption": packed_captions([item.caption or "" for item in items]),
    }


def refuse_corrupt(bad: Collection[str], allowed: int) -> None:
    r"""Raises `TooManyCorrupt` where more images are corrupt than are allowed."""
    if len(bad) > allowed:
        raise TooManyCorrupt(
            f"{corrupt_of(len(bad), allowed)}: {min(bad)}. Mend or remove them, or allow more "
            "with --corrupt"
        )


# ---------------------------------------------------------------- what is kept


def kept_texts(root: str, origin: Origin, prompts: Prompts, what: str) -> KeptRows:
    r"""Returns the embeddings that are kept of prompts, the most precise if there are several.

    Arguments:
        root: The folder of all that is kept.
        origin: What stands around the teacher, whose encoder must have made them.
        prompts: The prompts.
        what: What they are, for messages.

    Raises:
        ConfigError: There are none, or of another encoder, or not all.
    """
    cure = f"vardiu cache --teacher {shown(origin.source)} --prompts ... --cache {shown(root)}"
    of = _of_texts(origin, prompts, "prompts")
    return _kept(root, of, f"embeddings of {what}", "text encoder", cure)


def kept_negative(root: str, origin: Origin, negative: str) -> dict[str, Tensor]:
    r"""Returns the row that is kept of a negative prompt, see `kept_texts`."""
    cure = f"vardiu cache --teacher {shown(origin.source)} --prompts ... --cache {shown(root)}"
    what = f"embedding of the negative prompt {shown(repr(negative))}"
    of = _of_texts(origin, Listed([negative]), "negative")
    rows = _kept(root, of, what, "text encoder", f"{cure} --negative ...")
    return LookedUp(1, rows.names, rows)(torch.zeros(1, dtype=torch.long))


def kept_latents(
    root: str, origin: Origin, source: str, shape: Sequence[int], background: str
) -> KeptRows:
    r"""Returns the latents that are kept of images, see `kept_texts`."""
    cure = f"vardiu cache --teacher {shown(origin.source)} --data {shown(source)} --cache {root}"
    of = _of_images(origin, source, shape, background)
    return _kept(root, of, f"latents of {shown(source)}", "autoencoder", cure)


def _kept(root: str, of: Mapping[str, Any], what: str, whose: str, cure: str) -> KeptRows:
    there = descriptions(root, of["kind"])
    mine = [
        (list(DTYPES).index(about["dtype"]), folder)
        for folder, about in there
        if about.get("dtype") in DTYPES and {**of, "dtype": about["dtype"]} == about
    ]
    if mine:
        return KeptRows(min(mine)[1])
    same = [about for _, about in there if about.get("content") == of["content"]]
    other = [about for about in same if about.get("encoder") != of["encoder"]]
    if other:
        raise ConfigError(
            f"{shown(root)} has {what} of another {whose} ({_difference(other[0], of)}): make "
            f"those of this one with {cure}"
        )
    if same:
        names = [name for name in of if same[0].get(name) != of[name]]
        words = ", ".join(f"{n} {shown(same[0].get(n))}, not {shown(of[n])}" for n in names)
        raise ConfigError(f"{shown(root)} has {what} with {words}: make these with {cure}")
    raise ConfigError(f"{shown(root)} has no {what}: make them with {cure}")


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    r"""Returns the first component that two encoders have not in common, in words."""
    then, now = theirs.get("encoder"), ours["encoder"]
    then = then if isinstance(then, dict) else {}
    name = next((n for n in sorted({*then, *now}) if then.get(n) != now.get(n)), "")
    words = []
    for found in (then.get(name), now.get(name)):
        row = found if isinstance(found, dict) else {}
        facts = [f"{key} {shown(value)[:12]}" for key, value in row.items() if key != "class"]
        words.append(f"{shown(row.get('class'))} ({', '.join(facts)})" if row else "none")
    return f"its {shown(name)} is {words[0]}, the teacher's is {words[1]}"
