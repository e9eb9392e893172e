r"""Data by a name: what is on board, folders, arrays, shards, and data sets of a hub.

===================================  ========================================================
source                               what it is
===================================  ========================================================
``digits``                           scikit-learn's digits, 8x8, ten classes
``photos``, ``photos-32``            patches of photographs, 16x16 or 32x32
``path/to/folder``                   images; sub-folders are classes. Or shards, if it holds some
``file.npz``, ``file.npy``           an array of images
``shard.tar``, ``shards-{00..99}.tar``  WebDataset shards, also by ``*``
``file.parquet``, ``part-*.parquet``  parquet shards
``hf://name:split``                  a data set of Hugging Face, if `datasets` is installed
===================================  ========================================================
"""

from __future__ import annotations

import glob
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError
from .batches import Batches
from .digits import digits
from .images import Corrupt, ImageBatches, Records, TooManyCorrupt, collate
from .photos import photos
from .records import SUFFIXES, Arrays, Folder, Hub, Parquet, Tar, Tensors

__all__ = ["digest_of_data", "open_data", "read_data", "records"]


# Of a digest: how many files are read, how many bytes of a file, and how many at each of its ends
# where it is larger.
FILES, WHOLE, END = 1_024, 2**30, 2**26


Encode = Callable[[Sequence[str]], Mapping[str, Tensor]]


BOARD: Mapping[str, Callable[[], Records]] = {
    "digits": lambda: Tensors(*digits(), name="digit"),
    "photos": lambda: Tensors(photos(16), name="patch"),
    "photos-8": lambda: Tensors(photos(8), name="patch"),
    "photos-32": lambda: Tensors(photos(32), name="patch"),
}


SHARDS: Mapping[str, Callable[[Sequence[Path]], Records]] = {".tar": Tar, ".parquet": Parquet}


def records(source: str) -> Records:
    r"""Returns the images of a source.

    Raises:
        ConfigError: There is nothing of this name, or it is of no kind that is known.
    """
    if source in BOARD:
        return BOARD[source]()
    if source.startswith("hf://"):
        name, _, split = source.removeprefix("hf://").partition(":")
        return Hub(name, split or "train")
    files = [Path(name) for name in expand(source)]
    missing = [str(file) for file in files if not file.exists()]
    if missing or not files:
        raise ConfigError(
            f"there is no data at {missing[0] if missing else source}; give a folder of images, "
            f"an .npz, shards, hf://name, or one of: {', '.join(BOARD)}"
        )
    if files[0].is_dir():
        return _folder(files[0])
    kind = files[0].suffix.lower()
    if kind in SHARDS:
        return SHARDS[kind](files)
    if kind in (".npz", ".npy"):
        return Arrays(files[0])
    hint = f"; an image alone is no data set: give its folder, {files[0].parent}"
    raise ConfigError(f"{files[0]} is of no kind that is known{hint if kind in SUFFIXES else ''}")


def _folder(folder: Path) -> Records:
    for kind, make in SHARDS.items():
        shards = sorted(folder.glob(f"*{kind}"))
        if shards:
            return make(shards)
    return Folder(folder)


def expand(source: str) -> list[str]:
    r"""Returns the files of a pattern: `{000..012}` counts, `*` and `?` are those of a shell.

    Example:
        >>> expand("a-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    found = re.search(r"\{(\d+)\.\.(\d+)\}", source)
    if found:
        first, last, width = int(found[1]), int(found[2]), len(found[1])
        names = [source[: found.start()] + f"{i:0{width}}" for i in range(first, last + 1)]
        return [file for name in names for file in expand(name + source[found.end() :])]
    if any(mark in source for mark in "*?["):
        return sorted(glob.glob(source))
    return [source]


def digest_of_data(source: str) -> str | None:
    r"""Returns the SHA-256 of the files of a source; `None` of what is on board or on a hub.

    It is of the names and the sizes of all files, and of the bytes of up to 1,024 of them, evenly
    spaced by name. Of a file of more than a gibibyte both ends are read, 64 mebibytes each: the
    index of an archive, with its checksums, is at one of them. Hidden files do not count.
    """
    if source in BOARD or source.startswith("hf://"):
        return None
    files: list[tuple[str, Path]] = []
    for place in map(Path, expand(source)):
        below = sorted(place.rglob("*")) if place.is_dir() else [place]
        named = [(str(file.relative_to(place.parent)), file) for file in below if file.is_file()]
        files += [(name, file) for name, file in named if not hidden(name)]
    digest = hashlib.sha256()
    every = max(1, math.ceil(len(files) / FILES))
    for i, (name, file) in enumerate(files):
        size = file.stat().st_size
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        if i % every == 0:
            for part in ends_of(file, size):
                digest.update(part)
    return digest.hexdigest()


def hidden(name: str) -> bool:
    r"""Whether a file, or a folder on the way to it, has a name that begins with a dot."""
    return any(part.startswith(".") for part in Path(name).parts if part not in (".", ".."))


def ends_of(path: Path, size: int) -> Iterator[bytes]:
    r"""Yields the bytes of a file, or those at both ends of a large one."""
    spans = [(0, size)] if size <= WHOLE else [(0, END), (size - END, END)]
    with path.open("rb") as file:
        for start, length in spans:
            file.seek(start)
            for done in range(0, length, 2**20):
                yield file.read(min(2**20, length - done))


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
        channels = 1 if image.mode in ("1", "L", "I", "I;16") else 3
        return (channels, image.height, image.width)
    raise TooManyCorrupt(f"no image can be read: {first}")


def open_data(
    source: str,
    *,
    batch: int,
    shape: Sequence[int] | None = None,
    seed: int = 0,
    corrupt: int = 0,
    labels: bool = True,
    encode: Encode | None = None,
) -> Batches:
    r"""Returns endless batches of a source, see `ImageBatches`.

    Arguments:
        source: The name of the data, see above.
        batch: The number of samples of a batch.
        shape: The shape of a sample; by default that of the images, which must have one.
        seed: The seed of the order; shards are read in their own.
        corrupt: How many images may be corrupt before the run stops.
        labels: Whether classes are conditions.
        encode: Makes conditions of captions.

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
    )


def read_data(
    source: str,
    n: int,
    *,
    shape: Sequence[int] | None = None,
    corrupt: int = 0,
    labels: bool = True,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    r"""Returns up to `n` images of a source, evenly spaced over it, and their conditions.

    The same each time; see `open_data` for the arguments.
    """
    found = records(source)
    own = shape_of(found) if shape is None else shape
    resize = shape is not None
    batches = ImageBatches(
        found, own, 1, resize=resize, shuffle=False, corrupt=corrupt, labels=labels
    )
    places = torch.linspace(0, len(found) - 1, min(n, len(found))).long().tolist()
    items = [batches.row(place) for place in places]
    batch = collate(items, labels, None)
    return batch.clean(), batch.cond
