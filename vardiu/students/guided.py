r"""Students that are guided while they sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..functional.trajectories import Guide
from .base import Draws, Generator
from .few_step import FewStep
from .flow_map import FlowMap

__all__ = ["GuidedStudent", "Guiding"]


class Guiding(Guide, Protocol):
    r"""A guide of students, as `vardiu.samplers.TeacherGuide` is one."""

    @property
    def evaluations(self) -> int:
        r"""Network evaluations of one guided step."""

    def check(
        self, shape: Sequence[int], conditions: Collection[str], sigmas: Sequence[float]
    ) -> None:
        r"""Raises a `ValueError` if it cannot guide a student of these levels."""

    def guided(self, calls: int) -> list[int]:
        r"""Returns the places of the steps that it corrects, of a student of so many calls."""

    def fresh(self, calls: int) -> int:
        r"""Returns how many standard normal noises it takes for a sample."""

    def drawing(self, noise: Callable[[Tensor], Tensor]) -> Guide:
        r"""Returns the same guide with a source of noise."""


class GuidedStudent(Generator):
    r"""A student of several calls, and a guide that corrects the states between them.

    It is a function of its latent like any other student: a latent is the student's own, then the
    noise that the guide takes. The student's own comes first, so that the same seed gives the same
    latent with a guide and without. The guide is neither trained nor saved, nor moved with the
    student.

    Arguments:
        student: The student, a `FewStep` or a `FlowMap`.
        guide: The guide.

    Attributes:
        calls: The number of network evaluations a sample costs, those of the guide included.
        rows: The number of samples that were made so far.

    Raises:
        ValueError: The student has no steps to guide, or the guide cannot guide it.
    """

    def __init__(self, student: Generator, guide: Guiding) -> None:
        super().__init__()
        if not isinstance(student, FewStep | FlowMap):
            raise ValueError(
                f"a {type(student).__name__} has no step between two levels to guide: take a "
                "student of at least two calls"
            )
        guide.check(student.shape, student.conditions, student.sigmas)
        self.student, self.guide = student, guide
        self.shape, self.conditions = tuple(student.shape), student.conditions
        self.fresh = guide.fresh(student.calls)
        own = tuple(student.latent_shape)
        size = math.prod(own) + self.fresh * math.prod(self.shape)
        self.latent_shape = (size,) if self.fresh else own
        self.rows = 0
        self.calls = student.calls + guide.evaluations * len(guide.guided(student.calls))

    def with_calls(self, calls: int) -> GuidedStudent:
        r"""Returns the student asked another number of times, guided alike."""
        return GuidedStudent(self.student.with_calls(calls), self.guide).train(self.training)

    def latent_from(self, draws: Draws) -> Tensor:
        z = self.student.latent_from(draws)
        if self.fresh == 0:
            return z
        noise = draws.normal((self.fresh, *self.shape))
        return torch.cat([z.flatten(1), noise.flatten(1)], 1)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        guide: Guide = self.guide
        self.rows += z.shape[0]
        if self.fresh:
            own = tuple(self.student.latent_shape)
            z, rest = z.split([math.prod(own), z.shape[1] - math.prod(own)], 1)
            z, noise = (
                z.unflatten(1, own),
                iter(rest.unflatten(1, (self.fresh, *self.shape)).unbind(1)),
            )
            guide = self.guide.drawing(lambda like: next(noise).to(like))
        x = z
        for state in self.student.states(z, guide, **cond):
            x = state.denoised
        return x
