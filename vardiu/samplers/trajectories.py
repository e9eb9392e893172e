r"""Trajectories: the states that the steps of a solver make, a row at a time or all together.

The probability-flow equation in the coordinate of this library is

.. math:: \frac{\mathrm{d} x}{\mathrm{d} \sigma} = \frac{x - D(x, \sigma)}{\sigma}.

Nothing here chooses a type, a device or whether there is a gradient: that is the caller's, and
where a sampler is guided the guide's.

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
from ..functional.trajectories import Guide, Passage, fresh_noise, slope, step

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
    guide: Guide | None = None,
    arrives: bool | None = None,
    **cond: Tensor,
) -> Iterator[Tensor]:
    r"""Yields the states of a sampler: the one given, then one a level.

    With `correct` it is Heun's method, of order two: a step is taken with the mean of the slopes
    at both of its ends, and a step to zero is Euler's. A guide is shown each step after it was
    taken, that to zero as well, and says where it ends.

    Arguments:
        denoiser: The denoiser :math:`D(x_t, \sigma)`, with levels of shape :math:`(B)`.
        x: The state at the first level, with shape :math:`(B, *)`.
        sigmas: The levels, decreasing, with shape :math:`(N + 1)`, or :math:`(N + 1, B)` where
            each row has its own; the last may be zero.
        correct: Whether a step is corrected.
        eta: The share :math:`\eta \in [0, 1]` of fresh noise of each step.
        noise: Standard normal noise, one tensor of the shape of `x` for each step that has fresh
            noise; a step to zero has none.
        guide: What corrects the states between two levels.
        arrives: Whether all rows end at zero, of levels that are known to decrease: these are not
            looked at, as that would wait for an accelerator they are on. Where they are looked
            at, nothing is told.
        cond: The denoiser's conditions.

    Raises:
        ValueError: The levels do not decrease, a corrected step is asked for fresh noise, or
            there is too little noise.
    """
    if arrives is None:
        require_decreasing(sigmas)
        arrives = bool((sigmas[-1] == 0).all())
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be within [0, 1], got {eta}")
    if correct and eta > 0:
        raise ValueError(f"a corrected step has no fresh noise: eta must be 0, got {eta:g}")
    levels = sigmas.to(x) if sigmas.ndim == 2 else sigmas.to(x)[:, None].expand(-1, len(x))
    fresh = iter(() if noise is None else noise)
    return _states(_Stepper(denoiser, correct, eta, fresh, cond), x, levels, arrives, guide)


def inversion(
    denoiser: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    *,
    eta: float = 0.0,
    noise: Iterable[Tensor] = (),
    checked: bool = False,
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
        checked: Whether the levels are known to be so, and are not looked at.
        cond: The denoiser's conditions.

    Raises:
        ValueError: The levels decrease or are not positive, or there is too little noise.
    """
    if not checked and not bool((sigmas.diff(dim=0) >= 0).all() and (sigmas[0] > 0).all()):
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


class _Stepper:
    r"""One step of a trajectory, see there."""

    def __init__(
        self,
        denoiser: Callable[..., Tensor],
        correct: bool,
        eta: float,
        noise: Iterator[Tensor],
        cond: dict[str, Tensor],
    ) -> None:
        self.denoiser, self.correct, self.eta = denoiser, correct, eta
        self.noise, self.cond = noise, cond

    def __call__(
        self, x: Tensor, sigma: Tensor, target: Tensor, to_zero: bool
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the clean estimate of a state and the next state, each `(B, *)`; to zero they
        are the same."""
        denoised = self.denoiser(x, sigma, **self.cond)
        if to_zero:
            return denoised, step(x, sigma, target, denoised)
        if not self.correct:
            fresh = next(self.noise, None) if self.eta > 0 else None
            return denoised, step(x, sigma, target, denoised, fresh, self.eta)
        guess, above = step(x, sigma, target, denoised), target > 0
        # A row that has arrived is asked somewhere else, where there is a slope.
        there = torch.where(above, target, sigma)
        again = slope(guess, there, self.denoiser(guess, there, **self.cond))
        mean = (slope(x, sigma, denoised) + again) / 2
        moved = x + expand_like(target - sigma, x) * mean
        return denoised, torch.where(expand_like(above, x), moved, guess)


def _states(
    stepper: _Stepper, x: Tensor, levels: Tensor, arrives: bool, guide: Guide | None
) -> Iterator[Tensor]:
    yield x
    for index, (sigma, target) in enumerate(zip(levels, levels[1:], strict=False)):
        to_zero = arrives and index == len(levels) - 2
        if guide is None:
            _, x = stepper(x, sigma, target, to_zero)
        elif not guide.differentiates:
            made = stepper(x, sigma, target, to_zero)
            x = guide(Passage(index, x, sigma, target, *made, stepper.cond))
        else:  # not around the yield: who takes the states has a mode of their own
            with torch.enable_grad():
                x = x.detach().requires_grad_(True)
                made = stepper(x, sigma, target, to_zero)
                x = guide(Passage(index, x, sigma, target, *made, stepper.cond)).detach()
        yield x
