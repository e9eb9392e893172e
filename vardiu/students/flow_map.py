r"""Flow maps: students that lead from one noise level to any lower one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from ..denoisers.ends import told_ends
from ..denoisers.levels import karras_grid
from ..functional.trajectories import Guide, Passage, step
from .base import Generator
from .few_step import State, required_levels

__all__ = ["FlowMap"]


class FlowMap(Generator):
    r"""The map of the probability-flow equation from a level :math:`t` to a level :math:`s < t`.

    .. math:: X(x_t, t, s) = \frac{s}{t} x_t + \Big( 1 - \frac{s}{t} \Big) G(x_t, t, s)

    A step of DDIM with :math:`G`, a network that starts as the teacher's denoiser, in the
    denoiser's place. It is the equation's own map where

    .. math:: G = D(X, s) + s \Big( 1 - \frac{s}{t} \Big) \frac{\partial G}{\partial s},

    so that :math:`G(x_t, t, t) = D(x_t, t)`. A sample of one call is :math:`x = G(x_T, T, 0)`. The
    same network makes one of more calls, see `with_calls`: between two of them the sample is
    noised to the next level, :math:`x' = G(x + t \varepsilon, t, 0)`, and the latent has a part a
    call.

    References:
        | Flow Map Distillation Without Data (Tong et al., 2025), https://arxiv.org/abs/2511.19428

    Arguments:
        denoiser: The network :math:`G`, a denoiser that is told ends, see
            `vardiu.denoisers.ends`.
        sigmas: The levels at which it is asked, decreasing from :math:`T`; all are finite.
        spread: The standard deviation of :math:`x_T`; by default that of noise alone, :math:`T`.
            Where :math:`T` is not much larger than the data are wide, theirs adds to it.

    Raises:
        ValueError: The levels do not decrease or are none of the denoiser, or the spread is not
            positive.
    """

    def __init__(
        self, denoiser: Denoiser, sigmas: Sequence[float], spread: float | None = None
    ) -> None:
        super().__init__()
        self.sigmas = required_levels(denoiser, sigmas)
        self.spread = self.sigmas[0] if spread is None else float(spread)
        if not 0 < self.spread < float("inf"):
            raise ValueError(
                f"a flow map starts at a finite level, from a finite and positive spread, got "
                f"{self.sigmas[0]:g} and {self.spread:g}"
            )
        self.denoiser = denoiser
        self.arguments = {"sigmas": self.sigmas, "spread": self.spread}
        self.shape, self.conditions = tuple(denoiser.shape), denoiser.conditions
        self.calls = len(self.sigmas)
        self.latent_shape = self.shape if self.calls == 1 else (self.calls, *self.shape)
        # Where the feature of a level stops to fall; a level of zero has one as well.
        self.least = max(denoiser.sigma_min, 1e-4 * self.sigmas[0])

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        calls: int = 1,
        sigma: float | None = None,
        spread: float | None = None,
    ) -> FlowMap:
        r"""Returns a flow map of a denoiser that is not told ends yet, from a level or its
        largest.

        Raises:
            TypeError: Its network cannot be told where a map ends.
        """
        high = denoiser.sigma_max if sigma is None else sigma
        return cls(told_ends(denoiser), _grid(denoiser, calls, high), spread)

    def with_calls(self, calls: int) -> FlowMap:
        if calls < 1:
            raise ValueError(f"calls must be at least 1, got {calls}")
        return type(self)(
            self.denoiser, _grid(self.denoiser, calls, self.sigmas[0]), self.spread
        ).train(self.training)

    def start(self, z: Tensor) -> Tensor:
        r"""Returns the state :math:`x_T` of latents, `(B, *)`."""
        return self.spread * z

    def answer(self, x_t: Tensor, t: Tensor, s: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns :math:`G(x_t, t, s)`, `(B, *)`, of levels `(B,)`."""
        return self.denoiser(x_t, t, end=(s + self.least).log() / 4, **cond)

    def move(self, x_t: Tensor, t: Tensor, s: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns the state of level :math:`s` of a state of level :math:`t`, `(B, *)`."""
        return step(x_t, t, s, self.answer(x_t, t, s, **cond))

    def sampled(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns the sample that one call makes of a state, `(B, *)`."""
        return self.answer(x_t, t, torch.zeros_like(t), **cond)

    def call(self, index: int, state: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns the sample that a call makes of a state, `(B, *)`.

        Arguments:
            index: The place of the level.
            state: The state of that level; at the first level the latent.
            cond: The conditions.
        """
        x_t = self.start(state) if index == 0 else state
        return self.sampled(x_t, x_t.new_full((x_t.shape[0],), self.sigmas[index]), **cond)

    @torch.no_grad()
    def simulated(self, index: int, z: Tensor, **cond: Tensor) -> Tensor:
        parts = self._parts(z)
        if index == 0:
            return parts[0]
        *_, before = itertools.islice(self.states(z, **cond), index)
        return before.denoised + self.sigmas[index] * parts[index]

    def _parts(self, z: Tensor) -> Sequence[Tensor]:
        return [z] if self.calls == 1 else z.unbind(1)

    def states(self, z: Tensor, guide: Guide | None = None, /, **cond: Tensor) -> Iterator[State]:
        r"""Yields each call, see `FewStep.states`."""
        parts = self._parts(z)
        state = parts[0]
        for index, sigma in enumerate(self.sigmas):
            denoised = self.call(index, state, **cond)
            x_t = self.start(state) if index == 0 else state
            yield State(index, sigma, x_t, denoised)
            if index + 1 == self.calls:
                return
            state = denoised + self.sigmas[index + 1] * parts[index + 1]
            if guide is not None:
                here, there = (x_t.new_full((x_t.shape[0],), s) for s in self.sigmas[index:][:2])
                state = guide(Passage(index, x_t, here, there, denoised, state, cond))

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        x = z
        for state in self.states(z, **cond):
            x = state.denoised
        return x


def _grid(denoiser: Denoiser, calls: int, high: float) -> list[float]:
    r"""Returns so many levels from one down, those of EDM's grid of one call more."""
    low = max(denoiser.sigma_min, 1e-4 * high)
    return [high, *karras_grid(calls + 1, low, high)[1:calls].tolist()]
