r"""Samplers: many calls of a denoiser, from noise to a sample.

They go from :math:`x \sim \mathcal{N}(0, \sigma_\max^2 I)` (about the data's mean) down to
:math:`\sigma = 0` by the steps of `vardiu.functional.trajectories`. States are kept in float64;
the denoiser is called in its own type.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from ..functional.trajectories import Guide
from .noise import RowNoise
from .trajectories import require_decreasing, trajectory

__all__ = ["Ancestral", "DDIM", "Euler", "Heun", "Sampler"]


ROWS_AT_ONCE = 1000


# Numbers of a row's noise that are drawn at once at least.
AHEAD = 64


class Sampler:
    r"""The interface: `sampler(x, **cond)` integrates from the first level to the last.

    Arguments:
        denoiser: The denoiser.
        sigmas: The levels, decreasing; the last may be zero. See
            `vardiu.denoisers.levels.karras_grid`.
        correct: Whether a step is corrected, see `vardiu.samplers.trajectory`.
        eta: The share :math:`\eta \in [0, 1]` of fresh noise.
        guide: What corrects the states between two levels, in float64.

    Attributes:
        calls: The number of calls of the denoiser so far.

    Raises:
        ValueError: The levels do not decrease, or :math:`\eta` is out of its range.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigmas: Tensor,
        *,
        correct: bool = False,
        eta: float = 0.0,
        guide: Guide | None = None,
    ) -> None:
        # On the host, where to look at them is not to wait.
        sigmas = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
        require_decreasing(sigmas)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be within [0, 1], got {eta}")
        self.denoiser, self.sigmas = denoiser, sigmas
        self.correct, self.eta, self.guide = correct, eta, guide
        self.calls = 0

    def states(
        self,
        x: Tensor,
        *,
        generator: torch.Generator | RowNoise | None = None,
        **cond: Tensor,
    ) -> Iterator[Tensor]:
        r"""Yields the states in float64, from the one given to that at the last level.

        Arguments:
            x: The state at the first level, with shape :math:`(B, *)`; the denoiser is called in
                its type.
            generator: The source of noise of stochastic samplers, of the batch as a whole or of
                each row.
            cond: The denoiser's conditions.
        """

        def denoised(state: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
            self.calls += 1
            return self.denoiser(state.to(x.dtype), sigma.to(x.dtype), **cond).double()

        def drawn() -> Iterator[Tensor]:
            while True:
                z = generator(x) if isinstance(generator, RowNoise) else together(x, generator)
                yield z.to(x.device, torch.float64)

        return trajectory(
            denoised,
            x.double(),
            self.sigmas,
            correct=self.correct,
            eta=self.eta,
            noise=drawn(),
            guide=self.guide,
            arrives=None,
            **cond,
        )

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        *,
        generator: torch.Generator | RowNoise | None = None,
        **cond: Tensor,
    ) -> Tensor:
        r"""Integrates from a state at the first level.

        Arguments:
            x: The state, :math:`\sigma_\max` times noise, with shape :math:`(B, *)`.
            generator: The source of noise of stochastic samplers, of the batch as a whole or of
                each row.
            cond: The denoiser's conditions.

        Returns:
            The state at the last level, with the shape and type of `x`.
        """
        (state,) = deque(self.states(x, generator=generator, **cond), maxlen=1)
        return state.to(x.dtype)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch: int = ROWS_AT_ONCE,
        **cond: Tensor,
    ) -> Tensor:
        r"""Draws `n` samples, with shape `(n, *shape)`, so many at a time: their noise is the same
        whatever that is."""
        shape = (n, *self.denoiser.shape)
        # The same latents on every device, if the generator is the same.
        place = device if generator is None else generator.device
        z = torch.randn(shape, generator=generator, device=place, dtype=dtype).to(device)
        seeds: list[int] = []
        if self.eta > 0:
            seeds = torch.randint(2**62, (n,), generator=generator, device=place).tolist()
        # Some steps' noise at once where rows are small: as much whatever the batch.
        ahead = max(1, AHEAD // max(1, math.prod(self.denoiser.shape)))
        parts = []
        for i in range(0, n, batch):
            part = slice(i, i + batch)
            rows = {name: value[part] for name, value in cond.items()}
            x = self.sigmas[0].item() * z[part]
            noise = RowNoise(seeds[part], ahead) if seeds else None
            parts.append(self(x, generator=noise, **rows))
        return torch.cat(parts)


def together(like: Tensor, generator: torch.Generator | None) -> Tensor:
    r"""Returns noise of a batch as a whole: the same on every device, if the generator is the
    same."""
    place = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=place, dtype=like.dtype)


class DDIM(Sampler):
    r"""Denoising diffusion implicit steps, of order one.

    References:
        | Denoising Diffusion Implicit Models (Song et al., 2020), https://arxiv.org/abs/2010.02502

    Arguments:
        denoiser: The denoiser.
        sigmas: The levels, decreasing.
        eta: The share :math:`\eta \in [0, 1]` of fresh noise.
        guide: What corrects the states between two levels.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigmas: Tensor,
        eta: float = 0.0,
        guide: Guide | None = None,
    ) -> None:
        super().__init__(denoiser, sigmas, eta=eta, guide=guide)


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

    Arguments:
        denoiser: The denoiser.
        sigmas: The levels, decreasing.
        guide: What corrects the states between two levels.
    """

    def __init__(self, denoiser: Denoiser, sigmas: Tensor, guide: Guide | None = None) -> None:
        super().__init__(denoiser, sigmas, correct=True, guide=guide)
