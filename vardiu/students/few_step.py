r"""Students that ask a denoiser once, or a few times."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from .base import Generator

__all__ = ["FewStep", "OneStep"]


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
