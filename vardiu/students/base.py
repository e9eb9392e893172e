r"""Generators: functions that turn a latent into a sample.

A generator is what distillation trains, and what is shipped. Its latent has a density that is
known exactly, most often :math:`z \sim \mathcal{N}(0, I_k)`; the variational bounds rest on that.
Which it is, the generator says in `latent_from`; who draws it (a sampler, a training's streams, a
lattice) is of no concern to it.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..errors import amount
from ..nn.backbones import Interface

__all__ = ["Draws", "Generator", "rows_at_once"]


class Draws(Protocol):
    r"""Rows of random numbers, so many as whoever draws wants."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        r"""Returns standard normal numbers, with shape :math:`(B, *)`."""

    def uniform(self) -> Tensor:
        r"""Returns uniform numbers in [0, 1), with shape :math:`(B)`."""


class IndependentDraws:
    r"""Independent rows, the same ones on every device if the generator is the same.

    Arguments:
        n: The number of rows.
        generator: The source of randomness; torch's own where there is none.
        like: A tensor of the type and device that the numbers have.
    """

    def __init__(self, n: int, generator: torch.Generator | None, like: Tensor) -> None:
        self.n, self.generator, self.like = n, generator, like
        self.device = like.device if generator is None else generator.device

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        like, device = self.like, self.device
        size = (self.n, *shape)
        z = torch.randn(size, generator=self.generator, device=device, dtype=like.dtype)
        return z.to(like.device)

    def uniform(self) -> Tensor:
        like, device = self.like, self.device
        u = torch.rand(self.n, generator=self.generator, device=device, dtype=like.dtype)
        return u.to(like.device)


# Of samples of up to so many numbers, so many are made at once; of larger ones as many fewer.
ROWS_AT_ONCE, NUMBERS = 4096, 1024


def rows_at_once(shape: Sequence[int], part: int | None = None) -> int:
    r"""Returns how many samples to make at once.

    Small samples are made 4,096 at a time. Of larger ones no more are made than four million
    numbers, and no more rows than a step of training holds: that many fit, gradients included. A
    row does not depend on those beside it but by rounding.

    Arguments:
        shape: The shape of one sample.
        part: The rows that a step of training visits at once.

    Example:
        >>> rows_at_once((1, 8, 8), part=32), rows_at_once((3, 64, 64), part=32)
        (4096, 32)
    """
    size = math.prod(shape)
    if size <= NUMBERS:
        return ROWS_AT_ONCE
    fit = max(1, ROWS_AT_ONCE * NUMBERS // size)
    return fit if part is None else max(1, min(fit, part))


class Generator(Interface, abc.ABC):
    r"""The interface: `generator(z, **cond)` returns :math:`x = g(z)`.

    Attributes:
        latent_shape: The shape of one latent, without the batch; empty where the input is the
            index of a row.
        shape: The shape of one sample.
        conditions: The names of its conditions.
        calls: The number of network evaluations a sample costs.
        jumps: Whether a sample may jump as its latent moves: its gradient in the latent is then
            not that of a mean over latents, which particles from a posterior would need.
        draws: Whether its input is drawn; else it is given, as a degraded image is.
    """

    latent_shape: tuple[int, ...]
    shape: tuple[int, ...]
    conditions: tuple[str, ...] = ()
    calls: int = 1
    jumps: bool = False
    draws: bool = True

    if TYPE_CHECKING:  # nn.Module's own takes and returns anything

        def __call__(self, z: Tensor, **cond: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns samples, with shape :math:`(B, *)`, of latents :math:`z`."""

    def latent_from(self, draws: Draws) -> Tensor:
        r"""Returns the latents that random rows stand for, :math:`(B, *)`: standard normal ones,
        unless a subclass says otherwise."""
        return draws.normal(tuple(self.latent_shape))

    def call(self, index: int, state: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns what one network call makes of its input, `(B, *)`; of a student of one call
        the sample.

        Arguments:
            index: The place of the call, from zero.
            state: Its input, see `simulated`.
            cond: The conditions.
        """
        return self(state, **cond)

    def simulated(self, index: int, z: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns the input of a call as the student's own calls before it make it of latents,
        `(B, *)`, without a gradient; of a student of one call the latents."""
        return z

    def with_calls(self, calls: int) -> Generator:
        r"""Returns the same network asked another number of times, where it knows more than one.

        Raises:
            ValueError: It does not.
        """
        if calls != self.calls:
            raise ValueError(
                f"this student makes a sample in {amount(self.calls, 'call')} and no other "
                f"number, got {calls}: students of --method freeflow, lcm and of consistency "
                "know others"
            )
        return self

    @property
    def words(self) -> str:
        r"""How a sample is made, for cards and pages: the number of calls, and what is known of
        them."""
        return amount(self.calls, "call")

    def latent(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        r"""Draws :math:`n` latents; the same ones on every device if `generator` is the same."""
        return self.latent_from(IndependentDraws(n, generator, next(self.parameters())))

    def tried_on(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        r"""Returns :math:`n` inputs to try it on, as an export does: latents, unless a subclass
        draws none."""
        return self.latent(n, generator)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        batch: int = ROWS_AT_ONCE,
        **cond: Tensor,
    ) -> Tensor:
        r"""Draws samples in evaluation mode, a batch at a time.

        Arguments:
            n: The number of samples.
            generator: The source of randomness; torch's own by default.
            batch: The largest number of samples made at once.
            cond: Conditions, each with :math:`n` rows.

        Returns:
            The samples, with shape :math:`(n, *)`.

        Raises:
            ValueError: A condition is missing, unknown, or has another number of rows.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if set(cond) != set(self.conditions):
            raise ValueError(f"conditions must be {list(self.conditions)}, got {sorted(cond)}")
        for name, value in cond.items():
            if len(value) != n:
                raise ValueError(f"{name} must have {n} rows, got {len(value)}")
        z = self.latent(n, generator)
        cond = {name: value.to(z.device) for name, value in cond.items()}
        training = self.training
        self.eval()
        parts = [
            self(z[i : i + batch], **{k: v[i : i + batch] for k, v in cond.items()})
            for i in range(0, n, batch)
        ]
        self.train(training)
        return torch.cat(parts)
