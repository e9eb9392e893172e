r"""scikit-learn's digits: 1,797 real images of 8x8 pixels in ten classes.

References:
    | Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998)
    | https://doi.org/10.24432/C50P49
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["digits"]


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    r"""Returns images in [-1, 1], with shape `(1797, 1, 8, 8)`, and their classes, `(1797,)`."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float()[:, None] / 8 - 1  # sixteen levels of grey
    return x, torch.from_numpy(bunch.target).long()
