r"""What happens to the gradient of a measurement before a solver takes its step with it.

One seam for every solver: it asks `around` once where its state changes (a step of a sampler, or a
loop within it), and puts each gradient through what that returns.

References:
    | Diffusion State-Guided Projected Gradient for Inverse Problems (Zirvi et al., 2025)
    | https://arxiv.org/abs/2410.03463
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...functional.inverse import row_norm
from ...functional.projection import (
    MODES,
    RANK_RULES,
    Subspace,
    leading_subspace,
    projected,
    random_subspace,
)

__all__ = ["STATES", "DiffStateGrad", "Gradients", "Passed", "Unprojected"]


STATES = ("xt", "x0hat")


# A gradient, and the number of the iteration within the solver: what passes of it.
Through = Callable[[Tensor, int], Tensor]


class Passed(NamedTuple):
    r"""What one projection did.

    Arguments:
        rank: The rank of each row, `(B,)`.
        share: :math:`\\|P G\\| / \\|G\\|` of each row, `(B,)`.
    """

    rank: Tensor
    share: Tensor


class Gradients(abc.ABC):
    r"""The interface of the seam."""

    @abc.abstractmethod
    def around(self, state: Tensor, clean: Tensor) -> Through:
        r"""Returns what gradients are put through until the state changes.

        Arguments:
            state: The state before its update, in the space of the gradients, `(B, *)`.
            clean: The estimate of the clean sample there, in that space too.
        """

    def fresh(self) -> Gradients:
        r"""Returns the same without a memory of what passed."""
        return self


class Unprojected(Gradients):
    r"""Every gradient passes as it is."""

    def around(self, state: Tensor, clean: Tensor) -> Through:
        return lambda gradient, iteration: gradient


class DiffStateGrad(Gradients):
    r"""Lets through what lies in the leading singular directions of the state.

    The directions are computed once a state, when the first gradient is to be projected; nothing
    is renormalised afterwards.

    Arguments:
        tau: The share of the state's energy that the directions have.
        period: Gradients of iterations that are multiples of it are projected; none at zero.
        mode: `core` (published) or `tangent`.
        rank_rule: `per_channel`, or `concat` as in the authors' released function.
        state: Whose directions: those of the state (`xt`) or of the clean estimate (`x0hat`).
        control: A seed; random directions of the same rank are taken in place of the state's.

    Attributes:
        passed: What each projection did, in order.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        tau: float = 0.99,
        period: int = 1,
        *,
        mode: str = "core",
        rank_rule: str = "per_channel",
        state: str = "xt",
        control: int | None = None,
    ) -> None:
        if not 0 < tau <= 1:
            raise ValueError(f"tau must be above 0 and at most 1, got {tau:g}")
        if period < 0:
            raise ValueError(f"period must be at least 0, got {period}")
        for name, value, known in (
            ("mode", mode, MODES),
            ("rank_rule", rank_rule, RANK_RULES),
            ("state", state, STATES),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.tau, self.period, self.mode = tau, period, mode
        self.rank_rule, self.state, self.control = rank_rule, state, control
        self.passed: list[Passed] = []
        self._random = torch.Generator().manual_seed(0 if control is None else control)

    def fresh(self) -> DiffStateGrad:
        return DiffStateGrad(
            self.tau,
            self.period,
            mode=self.mode,
            rank_rule=self.rank_rule,
            state=self.state,
            control=self.control,
        )

    def around(self, state: Tensor, clean: Tensor) -> Through:
        seen = (state if self.state == "xt" else clean).detach()
        found: list[Subspace] = []

        def through(gradient: Tensor, iteration: int) -> Tensor:
            if self.period == 0 or iteration % self.period:
                return gradient
            if not found:
                found.append(self._directions(seen))
            kept = projected(gradient, found[0], self.mode)
            share = row_norm(kept) / row_norm(gradient).clamp_min(1e-30)
            self.passed.append(Passed(found[0].rank, share.detach()))
            return kept

        return through

    def _directions(self, state: Tensor) -> Subspace:
        own = leading_subspace(state, self.tau, self.rank_rule)
        return own if self.control is None else random_subspace(own, self._random)
