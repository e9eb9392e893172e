r"""Particles: a student without a network, whose samples are the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Draws, Generator

__all__ = ["Table"]


class Table(Generator):
    r"""Particles, :math:`g(k) = x_k` with :math:`k` uniform over the rows of a table.

    Its law is :math:`\tfrac1K \sum_k \delta_{x_k}`; a method that moves samples along a direction
    moves each particle along its own. The input is a row's index, not a normal latent: bounds
    with a posterior of the latent do not take it.

    References:
        | ProlificDreamer: High-Fidelity and Diverse Text-to-3D Generation with Variational Score
        | Distillation (Wang et al., 2023), https://arxiv.org/abs/2305.16213

    Arguments:
        particles: The number :math:`K` of particles, of each class where there are classes.
        shape: The shape of one particle.
        classes: The number of classes; with some, the condition `label` chooses the class.
        mean: Where the particles start: a number, or a tensor that broadcasts with a particle.
        std: The standard deviation of the particles where they start, around that mean.

    Raises:
        ValueError: There is no particle.
    """

    def __init__(
        self,
        particles: int,
        shape: Sequence[int],
        *,
        classes: int = 0,
        mean: Tensor | Sequence[Any] | float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        if particles < 1:
            raise ValueError(f"particles must be at least 1, got {particles}")
        self.particles, self.classes = particles, classes
        self.latent_shape, self.shape = (), tuple(shape)
        self.conditions = ("label",) if classes else ()
        self.arguments = {
            "particles": particles,
            "shape": list(shape),
            "classes": classes,
            "mean": torch.as_tensor(mean).tolist(),
            "std": std,
        }
        start = std * torch.randn(max(1, classes) * particles, *shape)
        self.table = nn.Parameter(torch.as_tensor(mean).to(start) + start)

    @classmethod
    def of(cls, x: Tensor) -> Table:
        r"""Returns a table of given particles, `(K, *shape)`."""
        table = cls(len(x), x.shape[1:])
        table.table = nn.Parameter(x.detach().clone())
        return table

    def latent_from(self, draws: Draws) -> Tensor:
        r"""Returns the indices of particles, `(B,)`, each equally likely."""
        index = (draws.uniform() * self.particles).long()
        return index.clamp_max(self.particles - 1)  # rounding reaches the end of [0, 1)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        row = z + self.particles * cond["label"] if self.classes else z
        return self.table[row]
