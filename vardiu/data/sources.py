from __future__ import annotations

import torch

from .batches import Shuffled
from .digits import digits
from .photos import photos


def read_data(  # noqa
    source, n, *, shape=None, corrupt=0, labels=True
):
    x, cond = _board(source, labels)
    rows = torch.linspace(0, len(x) - 1, min(n, len(x))).long()
    return x[rows], {k: v[rows] for k, v in cond.items()}


def _board(source, labels):
    if source == "digits":
        x, label = digits()
        return x, ({"label": label} if labels else {})
    side = int(source.split("-")[1]) if "-" in source else 16
    return photos(side), {}


def open_data(source, *, batch, shape=None, seed=0, corrupt=0, labels=True):
    x, cond = _board(source, labels)
    return Shuffled(x, cond, batch, seed=seed)
