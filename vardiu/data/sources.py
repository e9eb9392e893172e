r"""Data by a name: what is on board, folders, arrays, shards, and data sets of a hub.

===================================  ========================================================
source                               what it is
===================================  ========================================================
``digits``                           scikit-learn's digits, 8x8, ten classes
``photos``, ``photos-32``            patches of photographs, 16x16 or 32x32
``photos-held-out``                  those of the fifth that no patch of ``photos`` shows
``path/to/folder``                   images; sub-folders are classes. Or shards, if it holds more
                                     of them than images
``folder/*.png``                     the images that a pattern names
``file.npz``, ``file.npy``           an array of images
``shard.tar``, ``shards-{00..99}.tar``  WebDataset shards, also by ``*``
``file.parquet``, ``part-*.parquet``  parquet shards
``hf://name:split``                  a data set of Hugging Face, if `datasets` is installed
===================================  ========================================================

``~`` is the home folder, ``file://`` may stand before a path. What of a source is not read is
counted, and warned of with the reason and the name of one.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError, amount, shown
from ..storage.limits import refuse_beyond
from .batches import Batches
from .digits import digits
from .folders import SUFFIXES, Folder, images_in, is_hidden
from .images import (
    Background,
    Corrupt,
    ImageBatches,
    Records,
    TooManyCorrupt,
    channels_of,
    collate,
)
from .labels import mapping
from .left_out import LeftOut
from .photos import photos
from .records import Arrays, Hub, Tensors
from .shards import Parquet, Tar

__all__ = ["account", "open_data", "read_data", "records"]


Encode = Callable[[Sequence[str]], Mapping[str, Tensor]]


BOARD: Mapping[str, Callable[[], Records]] = {
    "digits": lambda: Tensors(*digits(), name="digit"),
    "photos": lambda: Tensors(photos(16), name="patch"),
    "photos-8": lambda: Tensors(photos(8), name="patch"),
    "photos-32": lambda: Tensors(photos(32), name="patch"),
    "photos-held-out": lambda: Tensors(photos(16, held_out=True), name="patch"),
    "photos-8-held-out": lambda: Tensors(photos(8, held_out=True), name="patch"),
    "photos-32-held-out": lambda: Tensors(photos(32, held_out=True), name="patch"),
}


SHARDS: Mapping[str, Callable[[Sequence[Path]], Records]] = {".tar": Tar, ".parquet": Parquet}


# What people give, that is not read, with what they may do.
CURES: Mapping[str, str] = {
    **dict.fromkeys((".zip", ".rar", ".7z"), "unpack it, and give the folder"),
    **dict.fromkeys(
        (".gz", ".tgz", ".bz2", ".xz", ".zst"), "uncompress it to a .tar, or unpack it"
    ),
    **dict.fromkeys((".pt", ".pth", ".pkl", ".pickle"), "pickles are never opened: save an .npz"),
    **dict.fromkeys((".h5", ".hdf5", ".mat", ".lmdb", ".tfrecord"), "save an .npz or images"),
    **dict.fromkeys(
        (".csv", ".jsonl", ".json"), "a table holds no image: give the images' folder"
    ),
}


ANY_KIND = f"give a folder of images, an .npz, shards, hf://name, or one of: {', '.join(BOARD)}"


def records(source: str | Records) -> Records:
    r"""Returns the images of a source, and warns of what in it is not read.

    Raises:
        ConfigError: There is nothing of this name, or it is of no kind that is known.
    """
    if isinstance(source, Records):
        return source
    found = _records(source)
    found.left_out.warn(source)
    return found


def _records(source: str) -> Records:
    if source in BOARD:
        return BOARD[source]()
    if source.startswith("hf://"):
        name, _, split = source.removeprefix("hf://").partition(":")
        return Hub(name, split or "train")
    files = [Path(name) for name in expand(source)]
    missing = next((file for file in files if not os.path.lexists(file)), None)
    if missing is not None or not files:
        close = difflib.get_close_matches(source.lower(), BOARD, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}? Or " if close else ""
        raise ConfigError(f"there is no data at {shown(missing or source)}; {hint}{ANY_KIND}")
    if len(files) == 1 and files[0].is_dir():
        return _folder(files[0])
    return _files(source, files)


def _files(source: str, files: Sequence[Path]) -> Records:
    r"""Returns the images of files that are all of one kind."""
    kinds = {_kind(file): file for file in reversed(files)}
    if len(kinds) > 1:
        names = " and ".join(shown(file.name) for file in list(kinds.values())[:2])
        raise ConfigError(
            f"{shown(source)} names files of several kinds, as {names}: give one kind"
        )
    (kind,) = kinds
    if kind == "images" and source != str(files[0]):
        return Folder(Path(os.path.commonpath([file.parent for file in files])), files)
    if kind in SHARDS:
        return SHARDS[kind](files)
    if len(files) > 1 and kind in ("a folder", ".npz", ".npy"):
        raise ConfigError(
            f"{shown(source)} names {len(files):,} of them, as {shown(files[0])} and "
            f"{shown(files[1])}: give one"
        )
    if kind in (".npz", ".npy"):
        return Arrays(files[0])
    cure = CURES.get(kind, ANY_KIND)
    if kind == "images":
        cure = f"an image alone is no data set: give its folder, {shown(files[0].parent)}"
    raise ConfigError(f"{shown(files[0])} is of no kind that is known; {cure}")


def _kind(file: Path) -> str:
    if file.is_dir():
        return "a folder"
    suffix = file.suffix.lower()
    return "images" if suffix in SUFFIXES else suffix


def _folder(folder: Path) -> Records:
    r"""Returns the images of a folder, or those of its shards if it holds more of them."""
    shards = {kind: sorted(p for p in folder.iterdir() if _is_shard(p, kind)) for kind in SHARDS}
    kind = max(shards, key=lambda name: len(shards[name]))
    if not shards[kind]:
        return Folder(folder)
    left_out = LeftOut()
    images, _ = images_in(folder, left_out)
    if len(images) >= len(shards[kind]):
        return Folder(folder)
    found = SHARDS[kind](shards[kind])
    for other in SHARDS:
        if other != kind and shards[other]:
            reason = f"shards of the suffix {other}, of which there are fewer"
            found.left_out.add(reason, shards[other][0], len(shards[other]))
    if images:
        found.left_out.add("images beside shards", images[0], len(images))
    return found


def _is_shard(path: Path, kind: str) -> bool:
    # A table of the images is no shard.
    own = not is_hidden(path.name) and path.name != "metadata.parquet"
    return own and path.suffix.lower() == kind and not path.is_dir()


def expand(source: str) -> list[str]:
    r"""Returns the files of a pattern: `{000..012}` counts, `*`, `**`, `?` are those of a shell.

    A path that is there is meant as it is, whatever is in its name.

    Example:
        >>> expand("a-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar']

    Raises:
        ConfigError: It is an address elsewhere, or names too many files.
    """
    if source.startswith("file://"):
        source = urllib.parse.unquote(urllib.parse.urlparse(source).path)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        raise ConfigError(
            f"{shown(source)} is an address, and data are read from disk or from hf://name: "
            "download it"
        )
    if not source.strip():
        raise ConfigError("the name of the data is empty")
    there = _there(os.path.expanduser(source))
    return [there] if there is not None else _pattern(os.path.expanduser(source))


def _there(path: str) -> str | None:
    r"""Returns the path if something is there, in another normal form of unicode, or without
    spaces about it, if that is what is there."""
    forms = [path, path.strip()]
    forms += [unicodedata.normalize(form, path) for form in ("NFC", "NFD")]
    return next((form for form in forms if "\0" not in form and os.path.lexists(form)), None)


def _pattern(source: str) -> list[str]:
    found = re.search(r"\{(\d{1,18})\.\.(\d{1,18})\}", source)
    if found:
        first, last, width = int(found[1]), int(found[2]), len(found[1])
        if last < first:
            raise ConfigError(f"{shown(source)}: {found[0]} counts down; write the smaller first")
        refuse_beyond("pattern files", last - first + 1, source)
        names = [source[: found.start()] + f"{i:0{width}}" for i in range(first, last + 1)]
        files = [file for name in names for file in _pattern(name + source[found.end() :])]
        refuse_beyond("pattern files", len(files), source)
        return files
    if any(mark in source for mark in "*?["):
        names = sorted(glob.glob(source, recursive=True))
        return [name for name in names if not is_hidden(os.path.basename(name.rstrip("/")))]
    return [source]


def account(found: Records, are_classes_used: bool = True) -> list[str]:
    r"""Returns what is read of a source, one line each: how many images, and their classes and by
    which rule. Of what is left out `records` warns.

    Arguments:
        found: The images.
        are_classes_used: Whether classes are asked for; to read them all may take a while.
    """
    lines = [amount(len(found), "image")]
    stated = found.stated_classes() if are_classes_used else ()
    if not are_classes_used:
        lines.append("no classes are read: the teacher takes none")
    elif found.classes:
        lines.append(f"classes, in natural order of their names: {mapping(found.classes)}")
    elif any(label is not None for label in stated):
        lines.append("classes as the source numbers them")
    else:
        lines.append(f"no classes: {found.no_classes}")
    return lines


def shape_of(found: Records) -> tuple[int, int, int]:
    r"""Returns the shape of the first image that can be read, as it is.

    Raises:
        TooManyCorrupt: There is none.
    """
    first = None
    for index in range(len(found)):
        try:
            image = found.item(index).image
        except Corrupt as error:  # it is named, and counted, where it is wanted
            first = first or error
            continue
        if isinstance(image, Tensor):
            c, h, w = image.shape
            return c, h, w
        return (channels_of(image), image.height, image.width)
    raise TooManyCorrupt(f"no image can be read: {first}")


def open_data(
    source: str | Records,
    *,
    batch: int,
    shape: Sequence[int] | None = None,
    seed: int = 0,
    corrupt: int = 0,
    labels: bool = True,
    encode: Encode | None = None,
    background: Background = "white",
) -> Batches:
    r"""Returns endless batches of a source, see `ImageBatches`.

    Arguments:
        source: The name of the data, see above, or what `records` made of it.
        batch: The number of samples of a batch.
        shape: The shape of a sample; by default that of the images, which must have one.
        seed: The seed of the order; shards are read in their own.
        corrupt: How many images may be corrupt before the run stops.
        labels: Whether classes are conditions.
        encode: Makes conditions of captions.
        background: The colour behind what is transparent.

    Raises:
        ConfigError: There is no such data.
    """
    found = records(source)
    return ImageBatches(
        found,
        shape_of(found) if shape is None else shape,
        batch,
        resize=shape is not None,
        seed=seed,
        corrupt=corrupt,
        labels=labels,
        encode=encode,
        background=background,
    )


def read_data(
    source: str | Records,
    n: int,
    *,
    shape: Sequence[int] | None = None,
    corrupt: int = 0,
    labels: bool = True,
    background: Background = "white",
) -> tuple[Tensor, Mapping[str, Tensor]]:
    r"""Returns up to `n` images of a source, evenly spaced over it, and their conditions.

    The same each time; see `open_data` for the arguments.
    """
    found = records(source)
    own = shape_of(found) if shape is None else shape
    resize = shape is not None
    batches = ImageBatches(
        found,
        own,
        1,
        resize=resize,
        shuffle=False,
        corrupt=corrupt,
        labels=labels,
        background=background,
    )
    places = torch.linspace(0, len(found) - 1, min(n, len(found))).long().tolist()
    items = [batches.row(place) for place in places]
    batch = collate(items, labels, None)
    return batch.clean(), batch.cond
