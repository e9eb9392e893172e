r"""Generators: functions that turn a standard normal latent into a sample.

A generator is what distillation trains, and what is shipped. Its latent has a density that is
known exactly, :math:`z \sim \mathcal{N}(0, I_k)`; the variational bounds rest on that.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .denoise import Denoiser

__all__ = ["FewStep", "Generator", "OneStep", "Pushforward"]


class Generator(nn.Module, abc.ABC):
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


class OneStep(Generator):
    r"""A denoiser asked once, :math:`g(z) = D(\sigma z, \sigma)`.

    A network of other coordinates is shown :math:`z` itself, see `Denoiser.generate`.

    Arguments:
        denoiser: The denoiser :math:`D`.
        sigma: The level :math:`\sigma` at which it is asked; its `latent_sigma` by default.
            Infinite where the denoiser knows what noise alone is.

    Raises:
        ValueError: `sigma` is not a level of the denoiser.
    """

    def __init__(self, denoiser: Denoiser, sigma: float | str | None = None) -> None:
        super().__init__()
        sigma = denoiser.latent_sigma if sigma is None else float(sigma)
        within = denoiser.sigma_min <= sigma <= denoiser.sigma_max < math.inf
        if not (within or (denoiser.terminal and sigma == math.inf)):
            raise ValueError(
                f"sigma must be finite and within [{denoiser.sigma_min:g}, "
                f"{denoiser.sigma_max:g}], the denoiser's range, got {sigma:g}"
            )
        self.denoiser = denoiser
        self.sigma = sigma
        # JSON knows no infinity.
        self.arguments = {"sigma": sigma if math.isfinite(sigma) else "inf"}
        self.shape = self.latent_shape = denoiser.shape
        self.conditions = denoiser.conditions

    @classmethod
    def like(cls, teacher: Denoiser, sigma: float | None = None) -> OneStep:
        r"""Returns a student that starts from a copy of the teacher's weights.

        Raises:
            TypeError: The teacher is exact: it has no weights to start from.
        """
        return cls(teacher.start(), sigma)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        return self.denoiser.generate(z, self.sigma, **cond)


class FewStep(Generator):
    r"""A denoiser asked at a few levels, with fresh noise between.

    .. math:: x_1 = D(\sigma_1 z_1, \sigma_1), \qquad
        x_i = D(x_{i-1} + \sigma_i z_i, \sigma_i)

    References:
        | Consistency Models (Song et al., 2023), https://arxiv.org/abs/2303.01469, Algorithm 1

    Arguments:
        denoiser: The denoiser :math:`D`.
        sigmas: The levels, decreasing.
    """

    def __init__(self, denoiser: Denoiser, sigmas: Sequence[float]) -> None:
        super().__init__()
        sigmas = [float(sigma) for sigma in sigmas]
        if not sigmas or any(a <= b for a, b in zip(sigmas, sigmas[1:], strict=False)):
            raise ValueError(f"sigmas must decrease, got {sigmas}")
        self.denoiser = denoiser
        self.sigmas = sigmas
        self.arguments = {"sigmas": sigmas}
        self.shape = denoiser.shape
        self.latent_shape = (len(sigmas), *denoiser.shape)
        self.conditions = denoiser.conditions
        self.calls = len(sigmas)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        x = torch.zeros_like(z[:, 0])
        for i, sigma in enumerate(self.sigmas):
            x = self.denoiser(x + sigma * z[:, i], z.new_full((z.shape[0],), sigma), **cond)
        return x
