r"""Trajectories: the states that the steps of a solver make, a row at a time or all together.

The probability-flow equation in the coordinate of this library is

.. math:: \frac{\mathrm{d} x}{\mathrm{d} \sigma} = \frac{x - D(x, \sigma)}{\sigma}.

Nothing here chooses a type, a device or whether there is a gradient: that is the caller's.

References:
    | Denoising Diffusion Implicit Models (Song et al., 2020), https://arxiv.org/abs/2010.02502
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ..functional.tensors import expand_like
from ..functional.trajectories import fresh_noise, slope, step

__all__ = ["inversion", "require_decreasing", "trajectory"]


def require_decreasing(sigmas: Tensor) -> None:
    r"""Refuses levels `(N + 1,)` or `(N + 1, B)` that do not decrease, or are negative.

    Raises:
        ValueError: They are so, or there are fewer than two.
    """
    shaped = sigmas.ndim in (1, 2) and len(sigmas) > 1
    if not (shaped and bool((sigmas.diff(dim=0) < 0).all() and (sigmas[-1] >= 0).all())):
        raise ValueError(f"sigmas must decrease to zero or above, got {sigmas.tolist()}")


def trajectory(
    denoiser: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    *,
    correct: bool = False,
    eta: float = 0.0,
    noise: Iterable[Tensor] | None = None,
    **cond: Tensor,
) -> Iterator[Tensor]:
    r"""Yields the states of a sampler: the one given, then one a level.

    With `correct` it is Heun's method, of order two: a step is taken with the mean of the slopes
    at both of its ends, and a step to zero is Euler's.

    Arguments:
        denoiser: The denoiser :math:`D(x_t, \sigma)`, with levels of shape :math:`(B)`.
        x: The state at the first level, with shape :math:`(B, *)`.
        sigmas: The levels, decreasing, with shape :math:`(N + 1)`, or :math:`(N + 1, B)` where
            each row has its own; the last may be zero.
        correct: Whether a step is corrected.
        eta: The share :math:`\eta \in [0, 1]` of fresh noise of each step.
        noise: Standard normal noise, one tensor of the shape of `x` for each step that has fresh
            noise; a step to zero has none.
        cond: The denoiser's conditions.

    Raises:
        ValueError: The levels do not decrease, a corrected step is asked for fresh noise, or
            there is too little noise.
    """
    require_decreasing(sigmas)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be within [0, 1], got {eta}")
    if correct and eta > 0:
        raise ValueError(f"a corrected step has no fresh noise: eta must be 0, got {eta:g}")
    levels = sigmas.to(x) if sigmas.ndim == 2 else sigmas.to(x)[:, None].expand(-1, len(x))
    return _states(denoiser, x, levels, correct, eta, iter(() if noise is None else noise), cond)


def inversion(
    denoiser: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    *,
    eta: float = 0.0,
    noise: Iterable[Tensor] = (),
    **cond: Tensor,
) -> Tensor:
    r"""Returns the state at the last level of which the sampler makes a given state at the first.

    Euler's steps of the probability-flow equation from low levels to high ones. With
    :math:`\eta > 0` each adds the noise that a step back would draw anew.

    References:
        | Score Distillation via Reparametrized DDIM (Lukoianov et al., 2024)
        | https://arxiv.org/abs/2405.15891

    Arguments:
        denoiser: The denoiser :math:`D(x_t, \sigma)`, with levels of shape :math:`(B)`.
        x: The state at the first level, with shape :math:`(B, *)`.
        sigmas: The levels, positive and not decreasing, with shape :math:`(N + 1, B)`.
        eta: The share of fresh noise.
        noise: Standard normal noise, one tensor of the shape of `x` for each step.
        cond: The denoiser's conditions.

    Raises:
        ValueError: The levels decrease or are not positive, or there is too little noise.
    """
    if not bool((sigmas.diff(dim=0) >= 0).all() and (sigmas[0] > 0).all()):
        raise ValueError("the levels of an inversion must be positive and not decrease")
    fresh = iter(noise)
    for sigma, target in zip(sigmas, sigmas[1:], strict=False):
        x = step(x, sigma, target, denoiser(x, sigma, **cond))
        if eta > 0:
            drawn = next(fresh, None)
            if drawn is None:
                raise ValueError(f"an inversion of eta={eta:g} needs noise for each step")
            x = x + expand_like(fresh_noise(target, sigma, eta), x) * drawn
    return x


def _states(
    denoiser: Callable[..., Tensor],
    x: Tensor,
    levels: Tensor,
    correct: bool,
    eta: float,
    noise: Iterator[Tensor],
    cond: dict[str, Tensor],
) -> Iterator[Tensor]:
    yield x
    for sigma, target in zip(levels, levels[1:], strict=False):
        denoised = denoiser(x, sigma, **cond)
        above = target > 0
        if not bool(above.any()):
            x = step(x, sigma, target, denoised)
        elif correct:
            guess = step(x, sigma, target, denoised)
            # A row that has arrived is asked somewhere else, where there is a slope.
            there = torch.where(above, target, sigma)
            mean = (
                slope(x, sigma, denoised) + slope(guess, there, denoiser(guess, there, **cond))
            ) / 2
            moved = x + expand_like(target - sigma, x) * mean
            x = torch.where(expand_like(above, x), moved, guess)
        else:
            x = step(x, sigma, target, denoised, next(noise, None) if eta > 0 else None, eta)
        yield x
