r"""Denoisers whose answers stay in a box."""

from __future__ import annotations

from torch import Tensor

from ..functional.thresholds import thresholded
from .base import Denoiser

__all__ = ["Reflected"]


class Reflected(Denoiser):
    r"""A denoiser whose answers are thresholded, see `vardiu.functional.thresholds`.

    A solver's step is taken with the answer as it is then, and so is the noise that it implies:
    :math:`\hat \varepsilon = (x_t - \hat x) / \sigma` of the thresholded :math:`\hat x`.

    Arguments:
        denoiser: The denoiser.
        bound: The half-width of the box.
        quantile: The quantile of a dynamic threshold; one for the box itself.

    Raises:
        ValueError: The bound is not positive, or the quantile not within (0, 1].
    """

    def __init__(self, denoiser: Denoiser, bound: float, quantile: float = 1.0) -> None:
        super().__init__()
        if not (bound > 0 and 0 < quantile <= 1):
            raise ValueError(
                "a bound must be positive and a quantile within (0, 1], got "
                f"{bound:g} and {quantile:g}"
            )
        self.denoiser, self.bound, self.quantile = denoiser, bound, quantile
        self.shape, self.conditions = denoiser.shape, denoiser.conditions
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        self.terminal, self.origin = denoiser.terminal, denoiser.origin

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return thresholded(self.denoiser(x_t, sigma, **cond), self.bound, self.quantile)

    def generate(self, z: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        r"""Returns what is made of a latent in one call, thresholded."""
        return thresholded(self.denoiser.generate(z, sigma, **cond), self.bound, self.quantile)

    def pure_noise(self, z: Tensor, sigma: float) -> Tensor:
        return self.denoiser.pure_noise(z, sigma)

    def noise_gain(self, sigma: float) -> float:
        return self.denoiser.noise_gain(sigma)

    def trainable_copy(self) -> Denoiser:
        r"""Returns a trainable copy of the denoiser, without the threshold."""
        return self.denoiser.trainable_copy()

    def extra_repr(self) -> str:
        return f"bound={self.bound:g}, quantile={self.quantile:g}"
