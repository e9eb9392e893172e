r"""What is encoded once and kept on disk: embeddings of prompts, and latents of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.digests import digest_of_data
from ..data.images import Background, Corrupt, Records, TooManyCorrupt, to_tensor
from ..data.kept_rows import KeptRows, descriptions, make_rows
from ..data.latents import packed_captions
from ..data.texts import Prompts
from ..errors import ConfigError, shown
from ..storage.artefacts import Artefacts
from ..teachers.origin import Origin

__all__ = ["DTYPES", "keep_latents", "keep_texts", "kept_latents", "kept_texts"]


# The types that floating-point numbers are kept in, the most precise first.
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def _of_texts(origin: Origin, prompts: Prompts) -> dict[str, Any]:
    if origin.of_texts is None:
        raise ConfigError(
            f"the encoder of texts of {shown(origin.source)} has no files by which it could be "
            "known again, and nothing it makes is kept: leave --cache out"
        )
    return {"kind": "texts", "encoder": dict(origin.of_texts()), "content": prompts.sha256}


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

    of = {**_of_texts(origin, prompts), "dtype": dtype}
    return make_rows(root, of, len(prompts), make, artefacts)


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
        parts: list[dict[str, Any]] = []
        for first in range(begin, end, batch):
            places = range(first, min(first + batch, end))
            read = [_item(images, i, pixels, background) for i in places]
            bad.update(str(error) for *_, error in read if error is not None)
            if len(bad) > corrupt:
                raise TooManyCorrupt(
                    f"{len(bad)} images are corrupt, {corrupt} are allowed: {min(bad)}. Mend "
                    "or remove them, or allow more with --corrupt"
                )
            x = torch.stack([x for x, *_ in read]).to(device or "cpu")
            parts.append(
                {
                    **_converted({"latent": compress(x)}, dtype),
                    "label": torch.tensor([-1 if n is None else n for _, n, _, _ in read]),
                    "good": torch.tensor([error is None for *_, error in read]),
                    "captioned": torch.tensor([text is not None for _, _, text, _ in read]),
                    "captions": [text or "" for _, _, text, _ in read],
                }
            )
        captions = packed_captions([text for part in parts for text in part.pop("captions")])
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return {**joined, "caption": captions}

    of = {**_of_images(origin, source, shape, background), "dtype": dtype}
    return make_rows(root, of, len(images), make, artefacts)


def _item(
    images: Records, index: int, shape: Sequence[int], background: Background
) -> tuple[Tensor, int | None, str | None, Corrupt | None]:
    r"""Returns an image, its class and its caption; zeros and the reason where it is corrupt."""
    try:
        name, image, label, caption = images.item(index)
        return to_tensor(image, shape, True, background, name), label, caption, None
    except Corrupt as error:
        return torch.zeros(*shape), None, None, error


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
    return _kept(root, _of_texts(origin, prompts), f"embeddings of {what}", "text encoder", cure)


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
        digest = str(row.get("sha256"))[:12]
        words.append(f"{shown(row.get('class'))} of SHA-256 {digest}" if row else "none")
    return f"its {shown(name)} is {words[0]}, the teacher's {words[1]}"
