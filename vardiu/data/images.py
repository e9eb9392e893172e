r"""Images of any kind as tensors, and batches of them that name what is corrupt.

An image is cut to the shape's proportions about its centre, reduced or enlarged by Lanczos' filter
(which looks at all pixels it covers), and scaled to [-1, 1]. What its numbers mean:

==========================  =====================================================================
pixels                      black and white
==========================  =====================================================================
8 bits, palettes, 1 bit     0 and 255
16 bits, grey               0 and 65,535, or the largest number of the bits that a TIFF states
16 bits, colour             Pillow reads the upper eight bits
floats                      0 and 1; an image with a value outside is refused by name
32 bits, signed             refused by name: nobody states their white
CMYK, YCbCr                 by Pillow's plain formulas; colour profiles are not applied
transparent                 composited on the background before anything else
several frames              the first one
==========================  =====================================================================
"""

from __future__ import annotations

import abc
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import ConfigError, amount, shown
from ..storage.bounded import DAMAGED
from ..storage.limits import refuse_beyond
from .batch import Batch
from .batches import Batches
from .left_out import LeftOut

__all__ = [
    "Background",
    "Corrupt",
    "ImageBatches",
    "Item",
    "Records",
    "TooManyCorrupt",
    "corrupt_of",
    "channels_of",
    "decode",
    "to_tensor",
]


# Decoded images that are kept, in bytes: a small set is decoded once.
CACHE = 2**28


# Of Pillow's formats those that images come in. Others start programs, or are rarely tried.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


# Corrupt images that one message names.
NAMED = 20


Background = Literal["white", "black", "grey"]


BACKGROUNDS: Mapping[str, int] = {"white": 255, "black": 0, "grey": 128}


class Corrupt(ValueError):
    r"""An image that cannot be read: its name and why."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{shown(name)}: {shown(why)}")
        self.name = name


class TooManyCorrupt(ValueError):
    r"""More images are corrupt than the user allowed; the message names each."""


def corrupt_of(found: int, allowed: int) -> str:
    r"""Returns how many images are corrupt and how many may be, for a message."""
    may_be = amount(allowed, "is allowed", "are allowed")
    return f"{amount(found, 'image is corrupt', 'images are corrupt')}, {may_be}"


Pixels = TypeVar("Pixels", Image.Image, Tensor)


class Item(NamedTuple, Generic[Pixels]):
    r"""An image, or its tensor in [-1, 1], with what is known of it."""

    name: str
    image: Pixels
    label: int | None = None
    caption: str | None = None


class Records(abc.ABC):
    r"""The interface: images in a fixed order, read one by one.

    Attributes:
        ordered: Whether they are best read in their order, as shards are.
        classes: The names of the classes, where they have some: class i is the i-th.
        no_classes: Why there are no classes, where there are none.
        left_out: What of the source is not read.
    """

    ordered = False
    classes: Sequence[str] = ()
    no_classes: str = "it states none"

    def __init__(self) -> None:
        self.left_out = LeftOut()

    @abc.abstractmethod
    def __len__(self) -> int:
        r"""Returns the number of images."""

    @abc.abstractmethod
    def item(self, index: int) -> Item:
        r"""Returns an image.

        Raises:
            Corrupt: It cannot be read.
        """

    def stated_classes(self) -> Sequence[int | None]:
        r"""Returns the class of each image, without a look at its pixels."""
        return [None] * len(self)

    def doubt_of_classes(self, count: int) -> str | None:
        r"""Returns why the classes may be others than those of a teacher, if they may.

        Arguments:
            count: The number of the teacher's classes.
        """
        return None


def decode(data: bytes, name: str) -> Image.Image:
    r"""Returns the image in some bytes, with every pixel read, turned as its camera says.

    Raises:
        Corrupt: There is none of a format that is read, it is cut short, or it is too large.
    """
    if not data:
        raise Corrupt(name, "it is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size Pillow warns; it is refused below
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            refuse_beyond("image pixels", image.width * image.height, "it", _TooLarge)
            tiles = getattr(image, "tile", [])  # of which none is left when they are read
            image.load()
            _clear_in_eight_bits(image, tiles)
            # A camera that was turned says so beside the pixels.
            ImageOps.exif_transpose(image, in_place=True)
    except (_TooLarge, Image.DecompressionBombError) as error:
        raise Corrupt(name, str(error)) from error
    except Image.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise Corrupt(name, f"it is no image of a format that is read ({known})") from error
    except DAMAGED as error:
        raise Corrupt(name, f"it is damaged: {error or type(error).__name__}") from error
    return image


class _TooLarge(ValueError):
    pass


def _clear_in_eight_bits(image: Image.Image, tiles: Sequence[Any]) -> None:
    r"""Brings the colour that a PNG calls transparent to eight bits, as Pillow brought the pixels.

    A PNG states it in the bits of its file: 2 of 0 to 3 is a grey of 170.
    """
    clear, bits = image.info.get("transparency"), str(tiles[0][3]) if tiles else ""
    if image.format != "PNG":
        return
    if isinstance(clear, int) and bits in ("L;2", "L;4"):
        image.info["transparency"] = clear * (85 if bits == "L;2" else 17)
    elif isinstance(clear, tuple) and bits == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def channels_of(image: Image.Image | Tensor) -> int:
    r"""Returns the channels of an image as it is: one if it is grey, or three."""
    if isinstance(image, Tensor):
        return len(image)
    return 1 if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I") else 3


def _plain(image: Image.Image, name: str, background: str) -> Image.Image:
    r"""Returns an image in one of three modes: `L`, `RGB`, or `F` with values from 0 to 255."""
    behind = BACKGROUNDS[background]
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep(image, name, behind)
    grey = channels_of(image) == 1
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        canvas = Image.new("RGBA", image.size, (behind, behind, behind, 255))
        image = Image.alpha_composite(canvas, straight.convert("RGBA"))
    return image.convert("L" if grey else "RGB")


def _deep(image: Image.Image, name: str, behind: int) -> Image.Image:
    r"""Returns an image of more than eight bits in mode `F`, with values from 0 to 255."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    pixels = np.asarray(image, dtype=np.float32)
    if image.mode == "F":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise Corrupt(
                name,
                f"its floats reach from {pixels.min():g} to {pixels.max():g}, and are read as 0 "
                "for black to 1 for white: save it so, or with 8 or 16 bits",
            )
        white = 1.0
    elif image.mode == "I" and image.format not in ("PNG", "PPM"):  # which have 16 bits there
        raise Corrupt(
            name,
            "its pixels are integers of 32 bits or with a sign, whose white nobody states: save "
            "it with 8 or 16 bits",
        )
    else:
        white = float(2 ** int(tags.get(258, (16,))[0]) - 1)
    if tags.get(262) == 0:  # a TIFF whose zero is white
        pixels = white - pixels
    values = pixels * (255 / white)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        values = np.where(np.asarray(image) == clear, np.float32(behind), values)
    return Image.fromarray(values.astype(np.float32))


def to_tensor(
    image: Image.Image | Tensor,
    shape: Sequence[int],
    resize: bool = True,
    background: str = "white",
    name: str = "an image",
) -> Tensor:
    r"""Returns an image as a tensor in [-1, 1], with the given shape `(C, H, W)`.

    Arguments:
        image: The image.
        shape: The shape.
        resize: Whether one of another size is brought to it, or refused.
        background: The colour that is behind what is transparent: white, black or grey.
        name: The name of the image.

    Raises:
        ConfigError: It is of another shape, and is not to be resized.
        ValueError: The shape has other than 1 or 3 channels.
        Corrupt: Nobody states what its numbers mean.
    """
    if isinstance(image, Tensor):
        if tuple(image.shape) != tuple(shape):
            raise ConfigError(
                f"{shown(name)} has the shape {tuple(image.shape)}, expected {tuple(shape)}: save "
                "arrays of that shape, or give images as files, which are resized"
            )
        return image
    channels, height, width = shape
    if channels not in (1, 3):
        raise ValueError(f"images have one channel or three, got a shape of {channels}")
    try:
        image = _plain(image, name, background)
    except Corrupt:
        raise
    except DAMAGED as error:
        raise Corrupt(name, f"its mode {image.mode} cannot be converted: {error}") from error
    if image.mode != "F":
        image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        if not resize:
            raise ConfigError(
                f"images are of {width}x{height} pixels and of {image.size[0]}x{image.size[1]}: "
                "give the shape that they are to be brought to"
            )
        image = image.resize((width, height), Image.Resampling.LANCZOS, box=_centre(image, shape))
    pixels = torch.from_numpy(np.array(image)).reshape(height, width, -1)
    # The filter overshoots at edges; of floats nothing has cut that off.
    x = (pixels.permute(2, 0, 1).float() / 127.5 - 1).clamp(-1, 1)
    return x.expand(channels, height, width).clone()


def _centre(image: Image.Image, shape: Sequence[int]) -> tuple[float, float, float, float]:
    r"""Returns the largest box of the shape's proportions about the centre."""
    width, height = image.size
    scale = min(width / shape[2], height / shape[1])
    w, h = scale * shape[2], scale * shape[1]
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


class ImageBatches(Batches):
    r"""Batches of records, in a new random order each epoch or in their own.

    The batch of an index is a function of the index: a run resumes at any place, and several
    processes share a global batch. In the place of an image that is corrupt stands the next one
    that is not.

    Arguments:
        records: The images.
        shape: The shape :math:`(C, H, W)` of a sample.
        batch_size: The number of samples of a batch.
        seed: The seed of the orders.
        resize: Whether images of another size are brought to the shape, or refused.
        shuffle: Whether the order is random; it is not where the records are best read in theirs.
        corrupt: How many images may be corrupt.
        labels: Whether the classes are conditions.
        encode: Makes conditions of captions.
        background: The colour behind what is transparent.

    Attributes:
        corrupt: The names of those that were, with the reason.

    Raises:
        ConfigError: There are fewer images than a batch has rows.
    """

    def __init__(
        self,
        records: Records,
        shape: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        resize: bool = True,
        shuffle: bool | None = None,
        corrupt: int = 0,
        labels: bool = True,
        encode: Callable[[Sequence[str]], Mapping[str, Tensor]] | None = None,
        background: Background = "white",
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"a batch must have at least one row, got {batch_size}")
        if batch_size > len(records):
            raise ConfigError(
                f"a batch of {batch_size} needs as many images, and there are {len(records)}: "
                f"give --batch {len(records)} or less, or more images"
            )
        self.records, self.shape, self.batch_size = records, tuple(shape), batch_size
        self.seed, self.limit, self.labels, self.encode = seed, corrupt, labels, encode
        self.resize, self.background = resize, background
        self.shuffle = not records.ordered if shuffle is None else shuffle
        self.corrupt: dict[str, str] = {}
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self._kept: dict[int, Item[Tensor]] = {}
        self._room = CACHE // (4 * int(np.prod(self.shape)))

    def at(self, index: int) -> Batch:
        begin, own = index * self.batch_size, self.own(self.batch_size)
        items = [self.row(begin + i) for i in range(own.start, own.stop)]
        return collate(items, self.labels, self.encode)

    def row(self, place: int) -> Item[Tensor]:
        r"""Returns the first image at or after a place in the endless order that can be read."""
        for ahead in range(len(self.records)):
            index = self._index(place + ahead)
            try:
                return self._read(index)
            except Corrupt as error:
                self._note(error)
        raise TooManyCorrupt("no image could be read")

    def _index(self, place: int) -> int:
        epoch, place = divmod(place, len(self.records))
        if not self.shuffle:
            return place
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.records))
            self._epoch, self._order = epoch, order
        return int(self._order[place])

    def _read(self, index: int) -> Item[Tensor]:
        if index not in self._kept:
            name, image, label, caption = self.records.item(index)
            x = to_tensor(image, self.shape, self.resize, self.background, name)
            item = Item(name, x, label, caption)
            if len(self._kept) >= self._room:
                return item
            self._kept[index] = item
        return self._kept[index]

    def _note(self, error: Corrupt) -> None:
        if error.name in self.corrupt:
            return
        self.corrupt[error.name] = str(error)
        if len(self.corrupt) > self.limit:
            names = "; ".join([*self.corrupt.values()][-NAMED:])
            more = len(self.corrupt) - NAMED
            names = f"{names}; and {more:,} before them" if more > 0 else names
            raise TooManyCorrupt(
                f"{corrupt_of(len(self.corrupt), self.limit)}: {names}. Mend or remove them, or "
                f"allow {len(self.corrupt)} with --corrupt"
            ) from error
        warnings.warn(f"corrupt, and left out: {error}", stacklevel=4)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "corrupt": dict(self.corrupt)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.corrupt = dict(state.get("corrupt", {}))


def collate(
    items: Sequence[Item[Tensor]],
    labels: bool,
    encode: Callable[[Sequence[str]], Mapping[str, Tensor]] | None,
) -> Batch:
    r"""Returns the batch of some images.

    Raises:
        ConfigError: Some have a class or a caption, and some have none.
    """
    cond: dict[str, Tensor] = {}
    if labels and any(item.label is not None for item in items):
        bare = [item.name for item in items if item.label is None]
        if bare:
            raise ConfigError(f"{shown(bare[0])} has no class, and others have")
        cond["label"] = torch.tensor([item.label for item in items])
    if encode is not None:
        bare = [item.name for item in items if item.caption is None]
        if bare:
            raise ConfigError(f"{shown(bare[0])} has no caption")
        cond |= encode([str(item.caption) for item in items])
    return Batch.of(torch.stack([item.image for item in items]), cond)
