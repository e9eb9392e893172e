r"""Students whose input is a degraded image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..denoisers.adapted import AdaptedDenoiser
from ..denoisers.base import Denoiser
from .base import Draws, Generator, IndependentDraws

__all__ = ["Restorer"]


class Restorer(Generator):
    r"""A denoiser that is asked once, at a fixed level, for what a degraded image was.

    .. math:: g(y) = D \left( \sqrt{1 + \sigma^2 / \sigma_d^2} \; y, \sigma \right)

    Nothing is added to :math:`y`, though the denoiser takes it for a noisy image: the factor gives
    it the spread of one. A network that predicts the noise of a variance-preserving process is
    shown :math:`y` itself, :math:`g(y) = (y - \sqrt{1 - \bar\alpha} \, \epsilon(y)) /
    \sqrt{\bar\alpha}` with :math:`\sigma_d = 1`, and without the noise that it predicts
    :math:`g(y) = y / \sqrt{\bar\alpha}`.

    References:
        | Unleashing the Power of One-Step Diffusion based Image Super-Resolution via a Large-Scale
        | Diffusion Discriminator (Li et al., 2025), https://arxiv.org/abs/2410.04224, Equation 2

    Arguments:
        denoiser: The denoiser :math:`D`.
        sigma: The level :math:`\sigma`.
        sigma_data: The data's standard deviation :math:`\sigma_d`, as the denoiser knows it.
        factor: How many times an image is enlarged before it is shown; 1 for none.

    Raises:
        ValueError: `sigma` is not a level of the denoiser, or a number is not positive.
    """

    draws = False

    def __init__(
        self, denoiser: Denoiser, sigma: float, sigma_data: float = 1.0, factor: int = 1
    ) -> None:
        super().__init__()
        if not denoiser.sigma_min <= sigma <= denoiser.sigma_max < math.inf:
            raise ValueError(
                f"sigma must be finite and within [{denoiser.sigma_min:g}, "
                f"{denoiser.sigma_max:g}], the denoiser's range, got {sigma:g}"
            )
        if not sigma_data > 0 or factor < 1:
            raise ValueError(
                f"sigma_data must be positive and factor at least 1, got {sigma_data:g}, {factor}"
            )
        self.denoiser, self.sigma, self.factor = denoiser, sigma, factor
        self.arguments = {"sigma": sigma, "sigma_data": sigma_data, "factor": factor}
        self.gain = math.sqrt(1 + (sigma / sigma_data) ** 2)
        self.shape = self.latent_shape = denoiser.shape
        self.conditions = denoiser.conditions

    @classmethod
    def on(cls, denoiser: Denoiser, sigma: float, sigma_data: float, factor: int) -> Restorer:
        r"""Returns a restorer that shows a network of other coordinates the image itself, and any
        other the image with the spread of a noisy one of data of deviation `sigma_data`."""
        inner: Denoiser | None = denoiser
        while inner is not None and not isinstance(inner, AdaptedDenoiser):
            found = inner._modules.get("denoiser")
            inner = found if isinstance(found, Denoiser) else None
        return cls(denoiser, sigma, sigma_data if inner is None else 1.0, factor)

    def latent_from(self, draws: Draws) -> Tensor:
        r"""Is refused: a degraded image is given, and no random rows stand for one.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "this student's input is a degraded image, and none is drawn: give it one "
            "(vardiu upscale RUN IMAGE)"
        )

    def tried_on(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        like = next(self.parameters())
        return IndependentDraws(n, generator, like).normal(tuple(self.latent_shape))

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        return self.denoiser(self.gain * z, z.new_full((z.shape[0],), self.sigma), **cond)
