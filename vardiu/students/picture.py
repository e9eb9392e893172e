r"""Pictures: a student of one sample, which is a function of the place in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import MLP
from .base import Draws, Generator

__all__ = ["Picture"]


class Picture(Generator):
    r"""One picture for each class, :math:`g = m + s \, f(u)`, with a network of places :math:`u`.

    Each sample is the same picture, and its gradient that of the network's weights: a picture
    that is moved as a whole. Places are in :math:`[-1, 1]` along each axis of a channel; a vector
    has one channel, and one axis. The input is zero, not a normal latent.

    References:
        | Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains
        | (Tancik et al., 2020), https://arxiv.org/abs/2006.10739

    Arguments:
        shape: The shape of the picture: :math:`(C, *)`, or :math:`(d)` of a vector.
        classes: The number of classes; with some, the condition `label` chooses the picture.
        mean: The mean :math:`m` of the data: a number, or a tensor that broadcasts with a picture.
        std: The standard deviation :math:`s` of the data.
        width: The width of the network's layers.
        depth: The number of its layers.
        fourier: The octaves of sines and cosines of a place that the network sees.

    Example:
        >>> Picture((3, 4, 4))(torch.zeros(5, dtype=torch.long)).shape
        torch.Size([5, 3, 4, 4])
    """

    mean: Tensor
    places: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        *,
        classes: int = 0,
        mean: Tensor | Sequence[Any] | float = 0.0,
        std: float = 1.0,
        width: int = 64,
        depth: int = 3,
        fourier: int = 4,
    ) -> None:
        super().__init__()
        axes = tuple(shape[1:]) or tuple(shape)
        self.classes, self.std = classes, std
        self.latent_shape, self.shape = (), tuple(shape)
        self.conditions = ("label",) if classes else ()
        self.arguments = {
            "shape": list(shape),
            "classes": classes,
            "mean": torch.as_tensor(mean).tolist(),
            "std": std,
            "width": width,
            "depth": depth,
            "fourier": fourier,
        }
        kind = torch.get_default_dtype()
        lines = [torch.linspace(-1, 1, n, dtype=kind) for n in axes]
        places = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, -2)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("mean", torch.as_tensor(mean, dtype=kind), persistent=False)
        outputs = max(1, classes) * (math.prod(shape) // math.prod(axes))
        self.network: nn.Module = MLP(
            (len(axes),), (outputs,), width=width, depth=depth, fourier=fourier
        )

    def latent_from(self, draws: Draws) -> Tensor:
        r"""Returns zeros, `(B,)`: every row stands for the same picture."""
        return torch.zeros_like(draws.uniform(), dtype=torch.long)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        drawn = self.network(self.places).T.reshape(max(1, self.classes), *self.shape)
        pictures = self.mean + self.std * drawn
        return pictures[cond["label"] if self.classes else z]
