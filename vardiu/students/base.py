r"""Generators: functions that turn a standard normal latent into a sample.

A generator is what distillation trains, and what is shipped. Its latent has a density that is
known exactly, :math:`z \sim \mathcal{N}(0, I_k)`; the variational bounds rest on that.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..nn.backbones import Interface

__all__ = ["Generator"]


class Generator(Interface, abc.ABC):
    r"""The interface: `generator(z, **cond)` returns :math:`x = g(z)`.

    Attributes:
        latent_shape: The shape of one latent, without the batch.
        shape: The shape of one sample.
        conditions: The names of its conditions.
        calls: The number of network evaluations a sample costs.
    """

    latent_shape: tuple[int, ...]
    shape: tuple[int, ...]
    conditions: tuple[str, ...] = ()
    calls: int = 1

    if TYPE_CHECKING:  # nn.Module's own takes and returns anything

        def __call__(self, z: Tensor, **cond: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns samples, with shape :math:`(B, *)`, of latents :math:`z`."""

    def latent(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        r"""Draws :math:`n` latents; the same ones on every device if `generator` is the same."""
        like = next(self.parameters())
        device = like.device if generator is None else generator.device
        shape = (n, *self.latent_shape)
        z = torch.randn(shape, generator=generator, device=device, dtype=like.dtype)
        return z.to(like.device)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        batch: int = 4096,
        **cond: Tensor,
    ) -> Tensor:
        r"""Draws samples in evaluation mode, a batch at a time.

        Arguments:
            n: The number of samples.
            generator: The source of randomness; torch's own by default.
            batch: The largest number of samples made at once.
            cond: Conditions, each with :math:`n` rows.

        Returns:
            The samples, with shape :math:`(n, *)`.

        Raises:
            ValueError: A condition is missing, unknown, or has another number of rows.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if set(cond) != set(self.conditions):
            raise ValueError(f"conditions must be {list(self.conditions)}, got {sorted(cond)}")
        for name, value in cond.items():
            if len(value) != n:
                raise ValueError(f"{name} must have {n} rows, got {len(value)}")
        z = self.latent(n, generator)
        cond = {name: value.to(z.device) for name, value in cond.items()}
        training = self.training
        self.eval()
        parts = [
            self(z[i : i + batch], **{k: v[i : i + batch] for k, v in cond.items()})
            for i in range(0, n, batch)
        ]
        self.train(training)
        return torch.cat(parts)
