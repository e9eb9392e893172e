r"""Samplers: many calls of a denoiser, from noise to a sample.

The probability-flow equation in the coordinate of this library is

.. math:: \frac{\mathrm{d} x}{\mathrm{d} \sigma} = \frac{x - D(x, \sigma)}{\sigma},

from :math:`x \sim \mathcal{N}(0, \sigma_\max^2 I)` (about the data's mean) down to
:math:`\sigma = 0`. States are kept in float64; the denoiser is called in its own type.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from ..denoisers.base import Denoiser

__all__ = ["Ancestral", "DDIM", "Euler", "Heun", "Sampler"]


class Sampler(abc.ABC):
    r"""The interface: `sampler(x, **cond)` integrates from the first level to the last.

    Arguments:
        denoiser: The denoiser.
        sigmas: The levels, decreasing; the last may be zero. See
            `vardiu.denoisers.levels.karras_grid`.

    Attributes:
        calls: The number of calls of the denoiser so far.

    Raises:
        ValueError: The levels do not decrease.
    """

    def __init__(self, denoiser: Denoiser, sigmas: Tensor) -> None:
        sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
        if sigmas.ndim != 1 or len(sigmas) < 2 or bool((sigmas.diff() >= 0).any()):
            raise ValueError(f"sigmas must decrease, got {sigmas.tolist()}")
        self.denoiser, self.sigmas = denoiser, sigmas
        self.calls = 0

    @abc.abstractmethod
    def step(
        self,
        x: Tensor,
        sigma: float,
        target: float,
        generator: torch.Generator | None,
        **cond: Tensor,
    ) -> Tensor:
        r"""Returns the state at level `target` of a state at level `sigma`."""

    def denoised(self, x: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        self.calls += 1
        x_t = x.to(self.dtype)
        return self.denoiser(x_t, x_t.new_full((len(x),), sigma), **cond).double()

    def slope(self, x: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        r"""Returns :math:`(x - D(x, \sigma)) / \sigma`."""
        return (x - self.denoised(x, sigma, **cond)) / sigma

    @torch.no_grad()
    def __call__(
        self, x: Tensor, *, generator: torch.Generator | None = None, **cond: Tensor
    ) -> Tensor:
        r"""Integrates from a state at the first level.

        Arguments:
            x: The state, :math:`\sigma_\max` times noise, with shape :math:`(B, *)`.
            generator: The source of noise of stochastic samplers.
            cond: The denoiser's conditions.

        Returns:
            The state at the last level, with the shape and type of `x`.
        """
        self.dtype = x.dtype
        state = x.double()
        grid = self.sigmas.tolist()
        for sigma, target in zip(grid, grid[1:], strict=False):
            state = self.step(state, sigma, target, generator, **cond)
        return state.to(x.dtype)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch: int = 1000,
        **cond: Tensor,
    ) -> Tensor:
        r"""Draws `n` samples, with shape `(n, *shape)`, so many at a time."""
        shape = (n, *self.denoiser.shape)
        # The same latents on every device, if the generator is the same.
        place = device if generator is None else generator.device
        z = torch.randn(shape, generator=generator, device=place, dtype=dtype).to(device)
        parts = []
        for i in range(0, n, batch):
            rows = {name: value[i : i + batch] for name, value in cond.items()}
            x = self.sigmas[0].item() * z[i : i + batch]
            parts.append(self(x, generator=generator, **rows))
        return torch.cat(parts)


class DDIM(Sampler):
    r"""Denoising diffusion implicit steps, of order one.

    .. math:: x' = D + \frac{\sqrt{\sigma'^2 - \tau^2}}{\sigma} (x - D) + \tau \varepsilon, \qquad
        \tau = \eta \, \sigma' \sqrt{1 - \sigma'^2 / \sigma^2}

    With :math:`\eta = 0` it is Euler's method, with :math:`\eta = 1` ancestral sampling.

    References:
        | Denoising Diffusion Implicit Models (Song et al., 2020), https://arxiv.org/abs/2010.02502

    Arguments:
        denoiser: The denoiser.
        sigmas: The levels, decreasing.
        eta: The share :math:`\eta \in [0, 1]` of fresh noise.
    """

    def __init__(self, denoiser: Denoiser, sigmas: Tensor, eta: float = 0.0) -> None:
        super().__init__(denoiser, sigmas)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be within [0, 1], got {eta}")
        self.eta = eta

    def step(
        self,
        x: Tensor,
        sigma: float,
        target: float,
        generator: torch.Generator | None,
        **cond: Tensor,
    ) -> Tensor:
        denoised = self.denoised(x, sigma, **cond)
        tau = self.eta * target * (1 - (target / sigma) ** 2) ** 0.5
        x = denoised + (target**2 - tau**2) ** 0.5 / sigma * (x - denoised)
        if tau > 0:
            place = x.device if generator is None else generator.device
            noise = torch.randn(x.shape, generator=generator, device=place, dtype=self.dtype)
            x = x + tau * noise.to(x.device)
        return x


def Euler(denoiser: Denoiser, sigmas: Tensor) -> DDIM:  # noqa: N802 (reads as the class it makes)
    r"""Returns Euler's method, of order one: `DDIM` with :math:`\eta = 0`."""
    return DDIM(denoiser, sigmas, eta=0.0)


def Ancestral(denoiser: Denoiser, sigmas: Tensor) -> DDIM:  # noqa: N802
    r"""Returns ancestral sampling: `DDIM` with :math:`\eta = 1`."""
    return DDIM(denoiser, sigmas, eta=1.0)


class Heun(Sampler):
    r"""Heun's method, of order two, with an Euler step to zero: :math:`2 n - 1` calls.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364, Algorithm 1
    """

    def step(
        self,
        x: Tensor,
        sigma: float,
        target: float,
        generator: torch.Generator | None,
        **cond: Tensor,
    ) -> Tensor:
        slope = self.slope(x, sigma, **cond)
        guess = x + (target - sigma) * slope
        if target == 0:
            return guess
        return x + (target - sigma) * 0.5 * (slope + self.slope(guess, target, **cond))
