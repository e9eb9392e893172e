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
from ..nn.numbers import with_number
from ..nn.taps import with_child
from .base import Denoiser

__all__ = ["Autoguided", "Guided", "Steerable", "steered"]


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
        if scale is None and "guidance" in denoiser.conditions:
            raise ValueError("the denoiser takes a condition 'guidance' itself: give a scale")
        if not interval[0] < interval[1]:
            raise ValueError(f"the interval must be of positive length, got {interval}")
        self.denoiser, self.scale, self.interval = denoiser, scale, interval
        self.shape = denoiser.shape
        told = ("guidance",) if scale is None else ()
        self.conditions = (*denoiser.conditions, *told)
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        # Not terminal unless a subclass mixes two answers to noise alone.
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

    def asked_for(self, cond: dict[str, Tensor], sigma: Tensor) -> Tensor | None:
        r"""Takes the scale of each row out of conditions, `(B,)`; none where it is a constant.

        Raises:
            ValueError: There is none, or it is of another shape.
        """
        guidance = cond.pop("guidance", None) if self.scale is None else None
        if self.scale is None and (guidance is None or guidance.shape != sigma.shape):
            found = "none" if guidance is None else str(tuple(guidance.shape))
            raise ValueError(
                f"guidance must have shape ({len(sigma)},), one scale a row, got {found}"
            )
        return guidance

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
        if set(null) != set(denoiser.conditions) or not null:
            raise ValueError(
                f"null must give {list(denoiser.conditions)}, the denoiser's conditions, got "
                f"{sorted(null)}"
            )
        for name, value in null.items():
            self.register_buffer(f"null_{name}", value, persistent=False)
        self.terminal = denoiser.terminal

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        guidance = self.asked_for(cond, sigma)
        both = self._both(cond)
        good, bad = self.denoiser(torch.cat([x_t, x_t]), sigma.repeat(2), **both).chunk(2)
        return self.mix(good, bad, sigma, guidance)

    def generate(self, z: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        r"""Of noise alone, at an infinite level, two answers to the network's own input."""
        if math.isfinite(sigma):
            return super().generate(z, sigma, **cond)
        level = z.new_full((z.shape[0],), sigma)
        guidance = self.asked_for(cond, level)
        both = self.denoiser.generate(torch.cat([z, z]), sigma, **self._both(cond))
        good, bad = both.chunk(2)
        return self.mix(good, bad, level, guidance)

    def _both(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        r"""Returns the conditions of twice the batch: those given, and those of none."""
        return {
            name: torch.cat([value, getattr(self, f"null_{name}").to(value).expand_as(value)])
            for name, value in cond.items()
        }


class Autoguided(Mixed):
    r"""Guidance by a worse version of the network: smaller, or trained for less time.

    Arguments:
        denoiser: The denoiser.
        weak: The worse one, with the same conditions or none.
        scale: The scale :math:`w`; `None` makes it a condition, as of `Guided`.
        interval: The levels between which there is guidance.

    Raises:
        ValueError: The two denoise other shapes, or `weak` takes a condition that is not given.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        weak: Denoiser,
        scale: float | None,
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
        guidance = self.asked_for(cond, sigma)
        bad = self.weak(x_t, sigma, **{name: cond[name] for name in self.weak.conditions})
        return self.mix(self.denoiser(x_t, sigma, **cond), bad, sigma, guidance)


class Steerable(Denoiser):
    r"""A denoiser whose network is told the scale of guidance: one call, of any scale of a range.

    Arguments:
        denoiser: The denoiser, which takes the keyword `guidance`, one scale a row, and does not
            list it among its conditions.
        low: The smallest scale that it was trained with.
        high: The largest one.
        scale: The scale where a call names none; the smallest by default.

    Raises:
        ValueError: The range is empty or not finite, or the scale is not in it.
    """

    def __init__(
        self, denoiser: Denoiser, low: float, high: float, scale: float | None = None
    ) -> None:
        super().__init__()
        scale = low if scale is None else scale
        if not (-math.inf < low <= high < math.inf and low <= scale <= high):
            raise ValueError(
                f"the guidance must be within [{low:g}, {high:g}], which the student was trained "
                f"with, got {scale:g}"
            )
        self.denoiser, self.low, self.high, self.scale = denoiser, low, high, scale
        self.arguments = {"low": low, "high": high, "scale": scale}
        self.shape, self.conditions = tuple(denoiser.shape), denoiser.conditions
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        self.terminal, self.origin = denoiser.terminal, denoiser.origin

    @classmethod
    def of(cls, denoiser: Denoiser, low: float, high: float) -> Steerable:
        r"""Returns a denoiser that is told the scale, and starts by not heeding it.

        Raises:
            TypeError: Its network has no room for it.
        """
        return cls(told_guidance(denoiser), low, high)

    @property
    def taps(self) -> tuple[str, ...]:
        return self.denoiser.taps

    @property
    def bottleneck(self) -> str:
        return self.denoiser.bottleneck

    @property
    def latent_sigma(self) -> float:
        return self.denoiser.latent_sigma

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return self.denoiser(x_t, sigma, **self._told(x_t, cond))

    def features(
        self, x_t: Tensor, sigma: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.denoiser.features(x_t, sigma, at, **self._told(x_t, cond))

    def generate(self, z: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        return self.denoiser.generate(z, sigma, **self._told(z, cond))

    def pure_noise(self, z: Tensor, sigma: float) -> Tensor:
        return self.denoiser.pure_noise(z, sigma)

    def noise_gain(self, sigma: float) -> float:
        return self.denoiser.noise_gain(sigma)

    def trainable_copy(self) -> Denoiser:
        return Steerable(self.denoiser.trainable_copy(), self.low, self.high, self.scale).train()

    def _told(self, x: Tensor, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"guidance": x.new_full((x.shape[0],), self.scale), **cond}

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, range=[{self.low:g}, {self.high:g}]"


def told_guidance(denoiser: Denoiser) -> Denoiser:
    r"""Returns a denoiser that takes the keyword `guidance`, one scale a row; see `with_number`.

    Raises:
        TypeError: It has no network, or one that cannot be told.
    """
    for name in ("denoiser", "network"):
        inner = denoiser._modules.get(name)
        if isinstance(inner, Denoiser):
            return with_child(denoiser, name, told_guidance(inner))
        if inner is not None:
            return with_child(denoiser, name, with_number(inner, "guidance"))
    raise TypeError(f"{type(denoiser).__name__} has no network that could be told a scale")


def steered(denoiser: Denoiser, scale: float) -> Denoiser:
    r"""Returns a denoiser that is guided by another scale, which its network is told.

    Raises:
        ValueError: The scale is out of the range, or the network is told none.
    """
    if isinstance(denoiser, Steerable):
        twin = Steerable(denoiser.denoiser, denoiser.low, denoiser.high, scale)
        return twin.train(denoiser.training)
    inner = denoiser._modules.get("denoiser")
    if not isinstance(inner, Denoiser):
        raise ValueError(
            "this student is told no guidance: it has that of its training in its weights "
            "(vardiu distill ... --method lcm --guidance-max 8 trains one that is told)"
        )
    return with_child(denoiser, "denoiser", steered(inner, scale))
