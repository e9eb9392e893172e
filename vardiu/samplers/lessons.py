r"""What a student is taught about its own step by the steps of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from torch import Tensor

from ..functional.trajectories import step_target
from .trajectories import trajectory

__all__ = ["Lesson", "lesson"]


class Lesson(NamedTuple):
    r"""States, and what a student is taught about one step from each."""

    x_t: Tensor
    """The states, `(B, *)`."""
    sigma: Tensor
    """Their levels, `(B,)`."""
    end: Tensor
    """The levels that the teacher arrives at, `(B,)`."""
    x_end: Tensor
    """The states that it arrives at, `(B, *)`."""
    target: Tensor
    """The clean sample with which one step of the student arrives there, `(B, *)`."""
    cond: Mapping[str, Tensor]
    """The conditions of the rows."""


def lesson(
    teacher: Callable[..., Tensor],
    x_t: Tensor,
    levels: Tensor,
    cond: Mapping[str, Tensor],
    *,
    correct: bool = False,
    arrives: bool = False,
) -> Lesson:
    r"""Returns what the deterministic steps of a teacher make of states.

    Arguments:
        teacher: A denoiser, which is asked once a step, or twice.
        x_t: The states, `(B, *)`.
        levels: The levels of each row, its state's own first, `(S + 1, B)`, which decrease; the
            last may be zero.
        cond: The teacher's conditions.
        correct: Whether its steps are Heun's, of two calls each, and not DDIM's.
        arrives: Whether the last level of every row is zero, see `trajectory`.
    """
    asked = partial(teacher, **cond)
    *_, x_end = trajectory(asked, x_t, levels, correct=correct, arrives=arrives)
    target = step_target(x_t, levels[0], x_end, levels[-1])
    return Lesson(x_t, levels[0], levels[-1], x_end, target, cond)
