r"""Students of any network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..nn.mlp import Coding
from .base import Generator

__all__ = ["Pushforward"]


class Pushforward(Generator):
    r"""Any network from a latent of any size to a sample, :math:`g(z) = m + s \, f(z)`.

    A residual one, :math:`g(z) = m + s \, (z + f(z))`, starts spread as the data where :math:`f`
    starts at zero; the posterior of its latent is then known, see `GaussianPosterior`.

    Arguments:
        network: The module :math:`f(z, \ldots)`, from :math:`(B, *)` to :math:`(B, *)`.
        latent_shape: The shape of one latent.
        shape: The shape of one sample.
        mean: The mean :math:`m` of the data, a number or a tensor that broadcasts with a sample.
        std: The standard deviation :math:`s` of the data; a network of unit scale learns slowly
            to fill a range of forty.
        conditions: The names of the network's conditions.
        residual: Whether the latent itself is added to the network's output.

    Raises:
        ValueError: It is residual, and the latent's shape is not that of a sample.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        latent_shape: Sequence[int],
        shape: Sequence[int],
        mean: Tensor | float = 0.0,
        std: Tensor | float = 1.0,
        conditions: Sequence[str] = (),
        residual: bool = False,
    ) -> None:
        super().__init__()
        if residual and tuple(latent_shape) != tuple(shape):
            raise ValueError(
                f"a residual student needs a latent of the samples' shape {tuple(shape)}, "
                f"got {tuple(latent_shape)}"
            )
        self.network, self.residual = network, residual
        self.jumps = any(isinstance(part, Coding) for part in network.modules())
        self.latent_shape, self.shape = tuple(latent_shape), tuple(shape)
        self.conditions = tuple(conditions)
        self.arguments = {
            "latent_shape": list(latent_shape),
            "shape": list(shape),
            "mean": torch.as_tensor(mean).tolist(),
            "std": torch.as_tensor(std).tolist(),
            "conditions": list(conditions),
            "residual": residual,
        }
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.get_default_dtype()))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.get_default_dtype()))

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        x = self.network(z, **cond).to(z.dtype)
        x = x.reshape(z.shape[0], *self.shape)
        return self.mean + self.std * (z + x if self.residual else x)
