r"""Batches of latents: images that a codec turns into what a teacher of latents knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .batch import Batch
from .batches import Batches

__all__ = ["Encoded"]


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
