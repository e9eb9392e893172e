r"""What the data gives a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

__all__ = ["Batch"]


class Batch(NamedTuple):
    r"""What the data gives.

    Arguments:
        x: Clean samples, with shape :math:`(B, *)`. Methods without data read only :math:`B`.
        cond: Keyword arguments of every network; each has :math:`B` rows.
    """

    x: Tensor
    cond: Mapping[str, Tensor] = {}
