r"""Guidance: denoisers made of denoisers.

.. math:: D_w(x_t, \sigma \mid c) = D_0(x_t, \sigma) + w \left( D_1(x_t, \sigma \mid c)
    - D_0(x_t, \sigma) \right)

With :math:`D_0` the same network under the null or a negative condition it is classifier-free
guidance, with a worse network under the same condition autoguidance. A student that is distilled
from :math:`D_w` has the guidance in its weights, and asks one call. The scale is a constant, or a
condition `guidance` of each row.

References:
    | Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), https://arxiv.org/abs/2207.12598
    | Guiding a Diffusion Model with a Bad Version of Itself (Karras et al., 2024)
    | https://arxiv.org/abs/2406.02507
    | Applying Guidance in a Limited Interval (Kynkäänniemi et al., 2024)
    | https://arxiv.org/abs/2404.07724
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from ..functional.tensors import expand_like
from .base import Denoiser

__all__ = ["Autoguided", "Guided"]


class Mixed(Denoiser):
    r"""What both guidances share: the scale, its interval, and where a student starts."""

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float | None,
        interval: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        super().__init__()
        if scale is not None and not math.isfinite(scale):
            raise ValueError(f"the guidance scale must be finite, got {scale}")
        if not interval[0] < interval[1]:
            raise ValueError(f"the interval must be of positive length, got {interval}")
        self.denoiser, self.scale, self.interval = denoiser, scale, interval
        self.shape, self.conditions = denoiser.shape, denoiser.conditions
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        # Not terminal, whatever the denoiser is: two answers are mixed at finite levels only.
        self.origin = denoiser.origin

    def trainable_copy(self) -> Denoiser:
        r"""Returns a copy of the guided network: one call, and no guidance yet."""
        return self.denoiser.trainable_copy()

    def features(
        self, x_t: Tensor, sigma: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Raises a `ValueError`: two calls have two sets of features."""
        raise ValueError(
            f"{type(self).__name__} mixes two calls and has no features of its own; ask the "
            "unguided denoiser, its `denoiser`"
        )

    def mix(
        self, good: Tensor, bad: Tensor, sigma: Tensor, guidance: Tensor | None = None
    ) -> Tensor:
        low, high = self.interval
        inside = (sigma >= low) & (sigma <= high)
        wanted = self.scale if guidance is None else guidance
        assert wanted is not None
        scale = expand_like(torch.where(inside, wanted, 1.0).to(good.dtype), good)
        return bad + scale * (good - bad)

    def extra_repr(self) -> str:
        scale = "a condition" if self.scale is None else f"{self.scale:g}"
        return f"scale={scale}, interval={self.interval}"


class Guided(Mixed):
    r"""Classifier-free guidance, in one call of twice the batch.

    Arguments:
        denoiser: The conditional denoiser.
        scale: The scale :math:`w`; one is no guidance. `None` makes it a condition: `guidance`,
            one number a row, :math:`(B)`. A network that starts from the denoiser does not take
            it: student and fake of a changing scale are networks that know the condition.
        null: The condition that stands for none, or a negative one, by name; each of one row, as
            one row of the condition.
        interval: The levels between which there is guidance.

    Raises:
        ValueError: `null` names other conditions than the denoiser takes, or the denoiser has a
            condition `guidance` itself.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float | None = None,
        null: Mapping[str, Tensor] = MappingProxyType({}),
        interval: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        super().__init__(denoiser, scale, interval)
        if scale is None:
            if "guidance" in denoiser.conditions:
                raise ValueError("the denoiser takes a condition 'guidance' itself: give a scale")
            self.conditions = (*denoiser.conditions, "guidance")
        if set(null) != set(denoiser.conditions) or not null:
            raise ValueError(
                f"null must give {list(denoiser.conditions)}, the denoiser's conditions, got "
                f"{sorted(null)}"
            )
        for name, value in null.items():
            self.register_buffer(f"null_{name}", value, persistent=False)

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        guidance = cond.pop("guidance", None) if self.scale is None else None
        if self.scale is None and (guidance is None or guidance.shape != sigma.shape):
            found = "none" if guidance is None else str(tuple(guidance.shape))
            raise ValueError(
                f"guidance must have shape ({len(sigma)},), one scale a row, got {found}"
            )
        both = {
            name: torch.cat([value, getattr(self, f"null_{name}").to(value).expand_as(value)])
            for name, value in cond.items()
        }
        good, bad = self.denoiser(torch.cat([x_t, x_t]), sigma.repeat(2), **both).chunk(2)
        return self.mix(good, bad, sigma, guidance)


class Autoguided(Mixed):
    r"""Guidance by a worse version of the network: smaller, or trained for less time.

    Arguments:
        denoiser: The denoiser.
        weak: The worse one, with the same conditions or none.
        scale: The scale :math:`w`.
        interval: The levels between which there is guidance.

    Raises:
        ValueError: The two denoise other shapes, or `weak` takes a condition that is not given.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        weak: Denoiser,
        scale: float,
        interval: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        super().__init__(denoiser, scale, interval)
        if tuple(weak.shape) != tuple(denoiser.shape):
            raise ValueError(f"the weak denoiser is of {weak.shape}, not of {denoiser.shape}")
        if not set(weak.conditions) <= set(denoiser.conditions):
            raise ValueError(f"the weak denoiser asks for {list(weak.conditions)}")
        self.weak = weak
        self.sigma_min = max(denoiser.sigma_min, weak.sigma_min)
        self.sigma_max = min(denoiser.sigma_max, weak.sigma_max)

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        bad = self.weak(x_t, sigma, **{name: cond[name] for name in self.weak.conditions})
        return self.mix(self.denoiser(x_t, sigma, **cond), bad, sigma)
