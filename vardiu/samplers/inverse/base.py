r"""What the solvers of inverse problems have in common.

.. math:: y = A(x) + s \, n, \qquad x \sim p(x \mid y) \propto p(x) \, p(y \mid x)

A solver walks down the levels of a denoiser and draws its state towards the measurement. Rows do
not meet: norms, noise and stopping are each row's own, so that what is restored of a measurement
depends on its seed and not on what else is in the batch.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ...denoisers.base import Denoiser
from ...errors import Diverged, amount
from ...functional.inverse import row_norm
from ..noise import RowNoise
from .projection import Gradients, Unprojected

__all__ = ["IDENTITY", "Codec", "Moment", "Operator", "Solver", "is_linear"]


class Operator(Protocol):
    r"""What is measured; the names are those of `deepinv.physics`.

    A linear operator has `A_adjoint(y)` as well, with :math:`\langle A x, y \rangle = \langle x,
    A^\top y \rangle`.
    """

    def A(self, x: Tensor) -> Tensor:
        r"""Returns the measurement without noise, `(B, *)`, of images `(B, C, H, W)`."""
        ...


def is_linear(operator: Operator) -> bool:
    r"""Whether an operator says that it is linear: it has an adjoint."""
    return callable(getattr(operator, "A_adjoint", None))


class Codec(NamedTuple):
    r"""From the denoiser's samples to what is measured, and back; both carry gradients."""

    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]


def _same(x: Tensor) -> Tensor:
    return x


IDENTITY = Codec(_same, _same)


class Moment(NamedTuple):
    r"""Where a solver is after a step.

    Arguments:
        done: Steps that are taken.
        total: Steps that there are.
        state: The state, `(B, *)`.
        clean: The estimate of the clean sample, in the denoiser's space; what is restored, at the
            end.
    """

    done: int
    total: int
    state: Tensor
    clean: Tensor


class Solver(abc.ABC):
    r"""The interface: `solver(y, noise)` yields a `Moment` a step.

    Arguments:
        denoiser: The denoiser.
        operator: What was measured.
        steps: The number of levels; the solver's own by default.
        step: How many times its own step size it takes; what it scales each says.
        noise: The standard deviation :math:`s` of the measurement's noise.
        gradients: What the measurement's gradients are put through.
        codec: From the denoiser's samples to what is measured.
        weigh: Returns the factor of each row's misfit, `(B,)`, of a measurement; one by default.

    Attributes:
        NAME: What it is called.
        STEPS: Its number of levels unless told otherwise.
        STEP: Its own step size.
        NEEDS_ADJOINT: Whether it needs a linear operator.

    Raises:
        TypeError: It needs an adjoint, and the operator has none.
    """

    NAME: ClassVar[str]
    STEPS: ClassVar[int]
    STEP: ClassVar[float] = 1.0
    NEEDS_ADJOINT: ClassVar[bool] = False

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        *,
        steps: int | None = None,
        step: float | None = None,
        noise: float = 0.05,
        gradients: Gradients | None = None,
        codec: Codec = IDENTITY,
        weigh: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if self.NEEDS_ADJOINT and not is_linear(operator):
            raise TypeError(
                f"{self.NAME} needs a linear operator with its adjoint (A_adjoint), and "
                f"{type(operator).__name__} has none: take dps, resample or daps"
            )
        self.denoiser, self.operator, self.codec = denoiser, operator, codec
        self.steps = self.STEPS if steps is None else steps
        self.step = self.STEP if step is None else step
        self.noise, self.weigh = noise, weigh
        self.gradients = Unprojected() if gradients is None else gradients
        self.levels = self.grid()

    @abc.abstractmethod
    def grid(self) -> Tensor:
        r"""Returns the levels, decreasing, in float64."""

    @abc.abstractmethod
    def run(
        self, y: Tensor, x: Tensor, noise: RowNoise, cond: dict[str, Tensor]
    ) -> Iterator[Moment]:
        r"""Yields the moments from a first state, at the first level."""

    def __call__(self, y: Tensor, noise: RowNoise, **cond: Tensor) -> Iterator[Moment]:
        r"""Yields the moments of a restoration.

        Arguments:
            y: The measurements, with shape :math:`(B, *)`.
            noise: The noise of each row.
            cond: The denoiser's conditions.

        Raises:
            Diverged: A state is not finite; names the step and the rows.
        """
        z = noise(y.new_empty(len(y), *self.denoiser.shape))
        first = self.denoiser.pure_noise(z, self.levels[0].item())
        for moment in self.run(y, first, noise, cond):
            both = torch.stack([moment.state, moment.clean], dim=1)
            finite = both.flatten(1).isfinite().all(1)
            if not bool(finite.all()):
                raise Diverged(
                    f"{self.NAME} is not finite after step {moment.done} of {moment.total} in "
                    f"{int((~finite).sum())} of {amount(len(finite), 'measurement')}: take "
                    "a smaller --step"
                )
            yield moment

    def levels_of(self, i: int, x: Tensor) -> Tensor:
        r"""Returns the level of a place of the grid, for each row."""
        return self.levels[i].to(x).expand(len(x))

    def misfit(self, y: Tensor, clean: Tensor) -> Tensor:
        r"""Returns :math:`\\| y - A(\mathrm{Dec}(x)) \\|` of each row, `(B,)`, weighed."""
        found = row_norm(y - self.operator.A(self.codec.decode(clean)))
        return found if self.weigh is None else found * self.weigh(y)
