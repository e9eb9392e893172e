r"""Students that ask a denoiser once, or a few times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from ..denoisers.levels import karras_grid
from ..errors import ConfigError, nearest
from ..functional.consistency import evenly_from_the_top
from ..functional.trajectories import Guide, Passage, step
from .base import Generator

__all__ = ["FewStep", "OneStep", "State"]


class OneStep(Generator):
    r"""A denoiser asked once, :math:`g(z) = D(\sigma z, \sigma)`.

    A network of other coordinates is shown :math:`z` itself, see `Denoiser.generate`.

    Arguments:
        denoiser: The denoiser :math:`D`.
        sigma: The level :math:`\sigma` at which it is asked; its `latent_sigma` by default.
            Infinite where the denoiser knows what noise alone is.

    Raises:
        ValueError: `sigma` is not a level of the denoiser.
    """

    def __init__(self, denoiser: Denoiser, sigma: float | str | None = None) -> None:
        super().__init__()
        sigma = denoiser.latent_sigma if sigma is None else float(sigma)
        within = denoiser.sigma_min <= sigma <= denoiser.sigma_max < math.inf
        if not (within or (denoiser.terminal and sigma == math.inf)):
            raise ValueError(
                f"sigma must be finite and within [{denoiser.sigma_min:g}, "
                f"{denoiser.sigma_max:g}], the denoiser's range, got {sigma:g}"
            )
        self.denoiser = denoiser
        self.sigma = sigma
        # JSON knows no infinity.
        self.arguments = {"sigma": sigma if math.isfinite(sigma) else "inf"}
        self.shape = self.latent_shape = denoiser.shape
        self.conditions = denoiser.conditions

    @classmethod
    def like(cls, teacher: Denoiser, sigma: float | None = None) -> OneStep:
        r"""Returns a student that starts from a copy of the teacher's weights.

        Raises:
            TypeError: The teacher is exact: it has no weights to start from.
        """
        return cls(teacher.trainable_copy(), sigma)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        return self.denoiser.generate(z, self.sigma, **cond)


class State(NamedTuple):
    r"""One call of a few-step student."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks a state for
    """The place of the level in the grid, from zero."""
    sigma: float
    """The level."""
    x_t: Tensor
    """The network's input in our coordinate, `(B, *)`; at an infinite level the latent itself."""
    denoised: Tensor
    """What the network makes of it, `(B, *)`."""


def required_levels(denoiser: Denoiser, sigmas: Sequence[float | str]) -> list[float]:
    r"""Returns the levels of a grid as numbers.

    Raises:
        ValueError: They do not decrease, or one is not a level of the denoiser. The first may be
            infinite where the denoiser knows what noise alone is.
    """
    levels = [float(sigma) for sigma in sigmas]
    if not levels or any(not a > b for a, b in zip(levels, levels[1:], strict=False)):
        raise ValueError(f"sigmas must decrease, got {levels}")
    low, high = denoiser.sigma_min, denoiser.sigma_max
    # The ends of a grid are known to rounding: they are powers of roots.
    low, high = low * (1 - 1e-6), high * (1 + 1e-6)
    for i, sigma in enumerate(levels):
        terminal = i == 0 and math.isinf(sigma) and denoiser.terminal
        if not (terminal or (0 < sigma < math.inf and low <= sigma <= high)):
            raise ValueError(
                f"sigmas[{i}] must be finite and within [{denoiser.sigma_min:g}, "
                f"{denoiser.sigma_max:g}], the denoiser's range, got {sigma:g}"
            )
    return levels


# The largest level inside a grid, in units of the data: EDM's own largest. At 80 times the unit a
# state's signal has at most 1/6400 of the noise's variance: a call there, or at the 20,000 of a
# squared cosine, sees noise alone, as the first call does, and adds nothing to it.
LAST_SEEN = 80.0


def spread_levels(denoiser: Denoiser, calls: int, high: float, unit: float = 1.0) -> list[float]:
    r"""Returns a first level, and below it those of EDM's grid that a denoiser has a time for;
    fewer than there are calls where two of them have the same time.

    Arguments:
        denoiser: The denoiser.
        calls: The number of calls.
        high: The first level, which may be infinite.
        unit: The unit of the data.
    """
    # Noise alone is a level of its own, and no end of a grid.
    top = min(high, denoiser.sigma_max, LAST_SEEN * max(1.0, unit))
    grid = karras_grid(calls + 1, denoiser.sigma_min, top)
    levels = [high]
    for sigma in map(denoiser.whole, grid[1:calls].tolist()):
        if sigma < levels[-1]:
            levels.append(sigma)
    return levels


class Renoise:
    r"""The clean estimate and fresh noise, :math:`x' = D + \sigma' z'`: a latent a level."""

    @staticmethod
    def latent_shape(n: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (n, *shape)

    @staticmethod
    def first(z: Tensor) -> Tensor:
        r"""Returns the part of the latent that the first call is made of."""
        return z[:, 0]

    @staticmethod
    def fresh(z: Tensor, index: int) -> Tensor | None:
        r"""Returns the part of the latent that is drawn for a later level, if one is."""
        return z[:, index]

    @staticmethod
    def advance(
        x_t: Tensor, sigma: float, target: float, denoised: Tensor, z: Tensor | None, floor: float
    ) -> Tensor:
        if z is None:
            raise ValueError("the rule 'renoise' needs the latent of the next level: give `z`")
        return denoised + math.sqrt(target**2 - floor**2) * z


class Deterministic:
    r"""A step of DDIM, :math:`x' = D + \tfrac{\sigma'}{\sigma} (x - D)`: one latent.

    From an infinite level it is :math:`D + \sigma' z`.
    """

    @staticmethod
    def latent_shape(n: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    @staticmethod
    def first(z: Tensor) -> Tensor:
        return z

    @staticmethod
    def fresh(z: Tensor, index: int) -> Tensor | None:
        return None

    @staticmethod
    def advance(
        x_t: Tensor, sigma: float, target: float, denoised: Tensor, z: Tensor | None, floor: float
    ) -> Tensor:
        if math.isinf(sigma):  # the state is the noise itself
            return Renoise.advance(x_t, sigma, target, denoised, x_t, floor)
        here, there = (x_t.new_full((x_t.shape[0],), level) for level in (sigma, target))
        return step(x_t, here, there, denoised)


RULES: Mapping[str, type[Renoise] | type[Deterministic]] = {
    "renoise": Renoise,
    "ddim": Deterministic,
}


class FewStep(Generator):
    r"""A denoiser asked at a few levels, and a rule that leads from one level to the next.

    .. math:: x_1 = D(\sigma_1 z_1, \sigma_1), \qquad x_i = D(x_{t_i}, \sigma_i)

    By the rule `renoise` there is fresh noise between, and the latent has one part a level,

    .. math:: x_{t_i} = x_{i-1} + \sqrt{\sigma_i^2 - \sigma_0^2} \, z_i

    where :math:`\sigma_0` is the level that the network's answers have themselves: zero for a
    denoiser, the smallest level for a consistency function. By the rule `ddim` a state follows
    deterministically from the state before, :math:`x_{t_i} = x_{i-1} +
    \tfrac{\sigma_i}{\sigma_{i-1}} (x_{t_{i-1}} - x_{i-1})`, and the latent has the shape of a
    sample. The first call is `Denoiser.generate`: a network of other coordinates is shown
    :math:`z_1` itself, at an infinite level as well.

    References:
        | Consistency Models (Song et al., 2023), https://arxiv.org/abs/2303.01469, Algorithm 1
        | Progressive Distillation (Salimans and Ho, 2022), https://arxiv.org/abs/2202.00512

    Arguments:
        denoiser: The denoiser :math:`D`.
        sigmas: The levels, decreasing; the first may be infinite where the denoiser knows what
            noise alone is.
        rule: `renoise` or `ddim`.
        floor: The level :math:`\sigma_0` of what the network returns, for the rule `renoise`.
        grid: The levels at which the network may be asked, decreasing, where there are more than
            these calls; see `with_calls`.

    Raises:
        ValueError: The levels do not decrease, one is not a level of the denoiser, the rule is
            unknown, or the floor is above a level or not of the rule.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigmas: Sequence[float | str],
        rule: str = "renoise",
        floor: float = 0.0,
        grid: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}; {nearest(rule, RULES)}")
        self.sigmas = required_levels(denoiser, sigmas)
        self.grid = required_levels(denoiser, grid) if len(grid) else []
        if not 0 <= floor <= self.sigmas[-1] or (floor and rule != "renoise"):
            raise ValueError(
                f"floor must be within [0, {self.sigmas[-1]:g}], the smallest level, and 0 for "
                f"any rule but 'renoise', got {floor:g} for {rule!r}"
            )
        self.denoiser, self.rule, self.floor = denoiser, rule, floor
        # JSON knows no infinity.
        finite = [sigma if math.isfinite(sigma) else "inf" for sigma in self.sigmas]
        self.arguments = {"sigmas": finite, "rule": rule, "floor": floor}
        if self.grid:
            self.arguments["grid"] = self.grid
        self.shape = denoiser.shape
        self.latent_shape = RULES[rule].latent_shape(len(self.sigmas), tuple(denoiser.shape))
        self.conditions = denoiser.conditions
        self.calls = len(self.sigmas)

    @classmethod
    def on_grid(
        cls,
        denoiser: Denoiser,
        calls: int,
        sigma: float | None = None,
        rule: str = "renoise",
        unit: float = 1.0,
    ) -> FewStep:
        r"""Returns a student of so many calls, from a level or the denoiser's `latent_sigma`.

        The levels are those of EDM's grid of one call more, without its last: a call at the
        smallest level changes next to nothing. Of a network of whole times they are the nearest
        that have one. Below a first level of more than 80 units of the data, they are those of
        the grid from 80.

        Arguments:
            denoiser: The denoiser.
            calls: The number of calls.
            sigma: The first level; `latent_sigma` by default.
            rule: `renoise` or `ddim`.
            unit: The unit of the data; one of less counts as one.

        Raises:
            ConfigError: The network has not as many times in the grid.
        """
        high = sigma or denoiser.latent_sigma
        levels = spread_levels(denoiser, calls, high, unit)
        if len(levels) < calls:
            fewer = range(calls - 1, 0, -1)
            most = next(n for n in fewer if len(spread_levels(denoiser, n, high, unit)) == n)
            raise ConfigError(
                f"--calls {calls} needs {calls} levels, and the network has times of its own for "
                f"{len(levels)} of them from sigma {high:g} down: give --calls {most}, or "
                "another --sigma"
            )
        return cls(denoiser, levels, rule)

    @property
    def words(self) -> str:
        levels = ", ".join(f"{sigma:.3g}" for sigma in self.sigmas)
        return f"{super().words} by the rule {self.rule} at the levels {levels}"

    def with_calls(self, calls: int) -> Generator:
        r"""Returns the same network asked at so many levels of its grid, evenly from the first; of
        its own levels where it has no grid."""
        grid = self.grid or self.sigmas
        if calls == self.calls:
            return self
        if not 1 <= calls <= len(grid):
            held = f"1 to {len(grid)} calls" if len(grid) > 1 else "1 call"
            raise ValueError(f"this student makes a sample in {held}, got {calls}")
        sigmas = [grid[place] for place in evenly_from_the_top(len(grid), calls)]
        twin = type(self)(self.denoiser, sigmas, self.rule, self.floor, grid)
        return twin.train(self.training)

    def call(self, index: int, state: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns what the network makes of a state, `(B, *)`: one call.

        Arguments:
            index: The place of the level in the grid.
            state: The state :math:`x_t` of that level; at the first level its latent :math:`z_1`.
            cond: The conditions.
        """
        sigma = self.sigmas[index]
        if index == 0:
            return self.denoiser.generate(state, sigma, **cond)
        return self.denoiser(state, state.new_full((state.shape[0],), sigma), **cond)

    def advance(
        self, index: int, x_t: Tensor, denoised: Tensor, z: Tensor | None = None
    ) -> Tensor:
        r"""Returns the state of the next level, `(B, *)`.

        Arguments:
            index: The place of the level of `x_t`.
            x_t: The state; at an infinite level the latent itself.
            denoised: What the network made of it.
            z: The next level's latent, for the rule `renoise`.

        Raises:
            ValueError: The rule needs a latent, and there is none.
        """
        here, there = self.sigmas[index], self.sigmas[index + 1]
        return RULES[self.rule].advance(x_t, here, there, denoised, z, self.floor)

    @torch.no_grad()
    def simulated(self, index: int, z: Tensor, **cond: Tensor) -> Tensor:
        rule = RULES[self.rule]
        if index == 0:
            return rule.first(z)
        *_, before = itertools.islice(self.states(z, **cond), index)
        return self.advance(before.index, before.x_t, before.denoised, rule.fresh(z, index))

    def states(self, z: Tensor, guide: Guide | None = None, /, **cond: Tensor) -> Iterator[State]:
        r"""Yields each call.

        Arguments:
            z: The latents, :math:`(B, *)`.
            guide: What corrects the states between two levels; it is given no graph but the
                caller's own.
            cond: The conditions.
        """
        rule = RULES[self.rule]
        state = rule.first(z)
        for index, sigma in enumerate(self.sigmas):
            denoised = self.call(index, state, **cond)
            first = index == 0 and math.isfinite(sigma)
            x_t = self.denoiser.pure_noise(state, sigma) if first else state
            yield State(index, sigma, x_t, denoised)
            if index + 1 == len(self.sigmas):
                return
            state = self.advance(index, x_t, denoised, rule.fresh(z, index + 1))
            if guide is not None:
                here, there = (x_t.new_full((x_t.shape[0],), s) for s in self.sigmas[index:][:2])
                state = guide(Passage(index, x_t, here, there, denoised, state, cond, self.floor))

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        denoised = z
        for state in self.states(z, **cond):
            denoised = state.denoised
        return denoised
