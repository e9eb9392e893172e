r"""Consistency functions: denoisers whose answer at the smallest level is their input."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..functional.consistency import index_scalings
from ..functional.tensors import expand_like
from .base import Denoiser
from .schedules import Coordinates

__all__ = ["ConsistencyDenoiser", "LatentConsistencyDenoiser"]


class ConsistencyDenoiser(Denoiser):
    r"""A denoiser :math:`D` reparametrised so that :math:`f(x, \sigma_\min) = x`.

    .. math:: f(x, \sigma) = x + \frac{\sigma - \sigma_\min}{\sigma} \big( D(x, \sigma) - x \big)

    It is Euler's step of the probability-flow equation from :math:`\sigma` down to
    :math:`\sigma_\min`: where :math:`D` is a teacher's, the first guess of where the trajectory
    through :math:`x` ends. The boundary condition holds for any :math:`D`.

    Of :math:`D = c_\mathrm{skip} x + c_\mathrm{out} F`, the preconditioning of EDM, it makes

    .. math:: f = \Big( 1 - \frac{\sigma (\sigma - \sigma_\min)}{\sigma^2 + \sigma_d^2} \Big) x
        + \frac{\sigma_d (\sigma - \sigma_\min)}{\sqrt{\sigma^2 + \sigma_d^2}} F

    which is EDM's own pair, :math:`c_\mathrm{skip} = 1 - \sigma \sigma / (\sigma^2 +
    \sigma_d^2)` and :math:`c_\mathrm{out} = \sigma_d \sigma / \sqrt{\sigma^2 + \sigma_d^2}`, with
    one :math:`\sigma` of each numerator moved to :math:`\sigma - \sigma_\min`. The paper has the
    same :math:`c_\mathrm{out}`, and :math:`c_\mathrm{skip} = \sigma_d^2 / ((\sigma -
    \sigma_\min)^2 + \sigma_d^2)`: both are one at :math:`\sigma_\min`, both tend to EDM's as
    :math:`\sigma_\min \to 0`, and :math:`F` makes up for the difference elsewhere.

    References:
        | Consistency Models (Song et al., 2023), https://arxiv.org/abs/2303.01469, Appendix C

    Arguments:
        denoiser: The denoiser :math:`D`.
        sigma_min: The level :math:`\sigma_\min` of the boundary; the denoiser's by default.
        sigma_max: The largest level; the denoiser's by default.

    Raises:
        ValueError: The levels are not positive, not increasing, or out of the denoiser's range.
    """

    def __init__(
        self, denoiser: Denoiser, sigma_min: float | None = None, sigma_max: float | None = None
    ) -> None:
        super().__init__()
        low = denoiser.sigma_min if sigma_min is None else sigma_min
        high = denoiser.sigma_max if sigma_max is None else sigma_max
        if not (0 < low < high and denoiser.sigma_min <= low and high <= denoiser.sigma_max):
            raise ValueError(
                "sigma_min and sigma_max must be positive, increasing and within "
                f"[{denoiser.sigma_min:g}, {denoiser.sigma_max:g}], the denoiser's range, "
                f"got {low:g} and {high:g}"
            )
        self.denoiser = denoiser
        self.sigma_min, self.sigma_max = low, high
        self.arguments = {"sigma_min": low, "sigma_max": high}
        self.shape, self.conditions = tuple(denoiser.shape), denoiser.conditions
        # Not terminal, whatever the denoiser is: no trajectory starts at an infinite level.
        self.origin = denoiser.origin

    @property
    def taps(self) -> tuple[str, ...]:
        return self.denoiser.taps

    @property
    def bottleneck(self) -> str:
        return self.denoiser.bottleneck

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return self._bounded(x_t, sigma, self.denoiser(x_t, sigma, **cond))

    def features(
        self, x_t: Tensor, sigma: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        denoised, kept = self.denoiser.features(x_t, sigma, at, **cond)
        return self._bounded(x_t, sigma, denoised), kept

    def generate(self, z: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        r"""Returns what is made of a latent in one call; the denoiser is shown what its own
        `generate` shows it."""
        x_t = self.denoiser.pure_noise(z, sigma)
        denoised = self.denoiser.generate(z, sigma, **cond)
        return self._bounded(x_t, z.new_full((z.shape[0],), sigma), denoised)

    def pure_noise(self, z: Tensor, sigma: float) -> Tensor:
        return self.denoiser.pure_noise(z, sigma)

    def noise_gain(self, sigma: float) -> float:
        return self.denoiser.noise_gain(sigma)

    def trainable_copy(self) -> Denoiser:
        r"""Returns a trainable copy, which starts where the denoiser inside does."""
        return ConsistencyDenoiser(
            self.denoiser.trainable_copy(), self.sigma_min, self.sigma_max
        ).train()

    def _bounded(self, x_t: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
        # A difference of equal levels is exactly zero; one less their quotient need not be.
        moved = expand_like((sigma - self.sigma_min) / sigma, x_t)
        return x_t + moved * (denoised - x_t)

    def extra_repr(self) -> str:
        return f"sigma_min={self.sigma_min:g}, sigma_max={self.sigma_max:g}"


class LatentConsistencyDenoiser(Denoiser):
    r"""A denoiser with the boundary of latent consistency models.

    .. math:: f(x_t) = c_\mathrm{skip}(\tau) \, \alpha x_t + c_\mathrm{out}(\tau) \, D(x_t, \sigma)

    with the time :math:`\tau` of the level and :math:`\alpha x_t`, what the network sees; see
    `vardiu.functional.consistency.index_scalings`.

    References:
        | Latent Consistency Models (Luo et al., 2023), https://arxiv.org/abs/2310.04378

    Arguments:
        denoiser: The denoiser :math:`D`.
        coordinates: What its network's times mean.
        scaling: The factor of a time.
    """

    def __init__(self, denoiser: Denoiser, coordinates: Coordinates, scaling: float) -> None:
        super().__init__()
        self.denoiser, self.coordinates, self.scaling = denoiser, coordinates, scaling
        self.arguments = {"scaling": scaling}
        self.shape, self.conditions = tuple(denoiser.shape), denoiser.conditions
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        # Not terminal: there is no state of noise alone in the library's coordinate.
        self.origin = denoiser.origin

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return self._bounded(x_t, sigma, self.denoiser(x_t, sigma, **cond))

    def generate(self, z: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        denoised = self.denoiser.generate(z, sigma, **cond)
        return self._bounded(self.pure_noise(z, sigma), z.new_full((len(z),), sigma), denoised)

    def pure_noise(self, z: Tensor, sigma: float) -> Tensor:
        return self.denoiser.pure_noise(z, sigma)

    def _bounded(self, x_t: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
        skip, out = index_scalings(self.coordinates.time(sigma), self.scaling)
        seen = expand_like(skip * self.coordinates.scales(sigma)[0], x_t) * x_t
        return seen + expand_like(out, x_t) * denoised

    def extra_repr(self) -> str:
        return f"scaling={self.scaling:g}"
