r"""Projections of features that are trained, and thrown away after training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Projection"]


class Projection(nn.Module):
    r"""Two linear layers without biases, a normalisation of the batch and a rectifier between.

    The mean and the variance are those of the rows at hand, in training and in evaluation alike:
    nothing is gathered.

    Arguments:
        channels: The number of features that come in, and that go out.
    """

    SMALL = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, channels, bias=False)
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.last = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        r"""Returns features of rows, with shape `(N, C)`."""
        h = self.first(x)
        centred = h - h.mean(0)
        h = centred * (centred.square().mean(0) + self.SMALL).rsqrt() * self.scale + self.shift
        return self.last(h.relu())
