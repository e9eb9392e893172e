r"""Latents: images that a codec turns into what a teacher of latents knows, now or once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, shown
from .batch import Batch
from .batches import Batches
from .images import Corrupt, Item, Records
from .kept_rows import KeptRows

__all__ = ["Encoded", "Latents", "packed_captions"]


class Encoded(Batches):
    r"""Batches whose samples are encoded as they are drawn; the conditions stay.

    Its place is that of the batches it is made of, in their own words.

    Arguments:
        batches: The batches of images.
        encode: Of images, :math:`(B, *)`, their latents; the same for the same images.
    """

    def __init__(self, batches: Batches, encode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.batches, self.encode = batches, encode

    @torch.no_grad()
    def at(self, index: int) -> Batch:
        self.batches.rank, self.batches.world = self.rank, self.world
        batch = self.batches.at(index)
        self.batches.count = index + 1
        return batch._replace(x=self.encode(batch.clean()))

    def state_dict(self) -> dict[str, Any]:
        return self.batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches.load_state_dict(state)
        self.count = self.batches.count


class Latents(Records):
    r"""Latents that are kept on disk, in the place of the images that they were made of.

    Arguments:
        rows: What is kept: `latent`, `label` (-1 for none), `good`, `captioned` and `caption`.
        images: The images, of which no pixel is read.

    Raises:
        ConfigError: There are other numbers of them.
    """

    def __init__(self, rows: KeptRows, images: Records) -> None:
        super().__init__()
        if len(rows) != len(images):
            raise ConfigError(
                f"{shown(rows.folder)} has {len(rows):,} latents, and there are {len(images):,} "
                "images: run `vardiu cache` again"
            )
        self.rows, self._images = rows, images
        self.ordered, self.classes = images.ordered, images.classes
        self.no_classes, self.left_out = images.no_classes, images.left_out

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> Item:
        row = self.rows.row(index)
        name = f"image {index:,} of {self.rows.folder}"
        if not bool(row["good"]):
            raise Corrupt(name, "it could not be read when its latent was made")
        label = int(row["label"])
        text = bytes(row["caption"].tolist()).rstrip(b"\0").decode()
        caption = text if bool(row["captioned"]) else None
        return Item(name, row["latent"].float(), None if label < 0 else label, caption)

    def stated_classes(self) -> Sequence[int | None]:
        return self._images.stated_classes()


def packed_captions(captions: Sequence[str]) -> Tensor:
    r"""Returns texts as rows of bytes in UTF-8, with zeros behind the shorter ones.

    Example:
        >>> packed_captions(["a", "cat"])
        tensor([[ 97,   0,   0],
                [ 99,  97, 116]], dtype=torch.uint8)
    """
    coded = [text.replace("\0", " ").encode() for text in captions]
    width = max(map(len, coded), default=0)
    rows = [list(text.ljust(width, b"\0")) for text in coded]
    return torch.tensor(rows, dtype=torch.uint8).reshape(len(coded), width)
