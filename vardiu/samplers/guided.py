r"""Distillation++: a teacher corrects the first steps of a sampler, without training.

Between two levels the sampler's clean estimate :math:`D` is noised to the level to come, the
teacher denoises it, and the estimate is moved a part :math:`\lambda` of the way:

.. math:: x_s = D + s \, \varepsilon, \qquad
    D \leftarrow (1 - \lambda) D + \lambda \, D_\psi(x_s, s)

This is a step along the gradient of the score-distillation loss of :math:`D` at that level, with
the teacher's answer held: the loss is a weight times :math:`\| D - D_\psi(x_s, s) \|^2`, and a
constant :math:`\lambda` has the weight in it. The noise of the next state is kept.

References:
    | Inference-Time Diffusion Model Distillation (Park et al., 2024)
    | https://arxiv.org/abs/2412.08871
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from ..denoisers.guidance import Mixed
from ..errors import nearest
from ..functional.tensors import expand_like
from ..functional.trajectories import Passage

__all__ = ["LEVELS", "RENOISE", "TeacherGuide", "denoised_by"]


# With which noise the estimate is shown to the teacher, and at which level.
RENOISE = ("shared", "fresh")
LEVELS = ("next", "same")


# The ends of a grid are known to rounding.
ROUNDING = 1e-6


class TeacherGuide:
    r"""Moves the clean estimates of some steps towards a teacher's.

    .. math:: x' \leftarrow x' + \lambda \, ( D_\psi(x_s, s) - D )

    The next state :math:`x' = D + n` keeps its noise :math:`n`: fresh noise of an endpoint
    student, and of a trajectory student that of the estimate before it was moved. At strength
    zero, at steps that are not chosen and at the step to level zero, which has no level to come,
    :math:`x'` is returned as it is, and the teacher is not asked.

    With `fresh` noise, as published, the states of a perfect student become narrower to the first
    order in :math:`\lambda`; with that of the next state, `shared`, to the second order. Then
    :math:`x_s` is the next state itself.

    Arguments:
        teacher: The teacher, on the device of the states. It is asked in its own type, frozen.
        strength: The strength :math:`\lambda \in [0, 1]`.
        steps: The places of the steps, from zero; none for all.
        renoise: The noise of :math:`x_s`, `shared` or `fresh`.
        level: Its level :math:`s`: the `next` one, or for comparison the `same` as before the
            step, which takes the correction where the student has just been.
        noise: Returns standard normal noise like a tensor; torch's own generator by default.

    Attributes:
        calls: The number of evaluations of the teacher so far; a guided teacher takes two at once.
        rows: The number of rows that were evaluated, likewise.

    Raises:
        ValueError: The strength, a place, the noise or the level is none of these.
    """

    differentiates = False

    def __init__(
        self,
        teacher: Denoiser,
        strength: float = 0.2,
        steps: Collection[int] | None = (0,),
        *,
        renoise: str = "shared",
        level: str = "next",
        noise: Callable[[Tensor], Tensor] = torch.randn_like,
    ) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"the strength of a guide must be within [0, 1], got {strength:g}")
        for name, value, known in (("renoise", renoise, RENOISE), ("level", level, LEVELS)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; {nearest(value, known)}")
        for step in () if steps is None else steps:
            if step < 0:
                raise ValueError(f"the steps of a guide are counted from zero, got {step}")
        self.teacher = teacher.eval().requires_grad_(False)
        self.strength, self.renoise, self.level, self.noise = strength, renoise, level, noise
        self.steps = None if steps is None else frozenset(steps)
        self.counts = {"calls": 0, "rows": 0}
        # Guidance has another network, or the same a second time.
        self.evaluations = 1 + sum(isinstance(m, Mixed) for m in teacher.modules())

    @property
    def calls(self) -> int:
        return self.counts["calls"]

    @property
    def rows(self) -> int:
        return self.counts["rows"]

    def guided(self, calls: int) -> list[int]:
        r"""Returns the places of the steps at which a sampler of so many levels is guided."""
        if self.strength == 0:
            return []
        return [i for i in range(calls - 1) if self.steps is None or i in self.steps]

    def fresh(self, calls: int) -> int:
        r"""Returns how many noises a sampler of so many levels takes from here."""
        return len(self.guided(calls)) if self.renoise == "fresh" else 0

    def drawing(self, noise: Callable[[Tensor], Tensor]) -> TeacherGuide:
        r"""Returns the same guide with another source of noise; it counts with this one."""
        twin = copy.copy(self)
        twin.noise = noise
        return twin

    def check(
        self, shape: Sequence[int], conditions: Collection[str], sigmas: Sequence[float]
    ) -> None:
        r"""Refuses a sampler that the teacher cannot guide.

        Arguments:
            shape: The shape of one sample.
            conditions: The conditions that the sampler is given.
            sigmas: The levels at which it asks its network, decreasing.

        Raises:
            ValueError: The teacher is of another shape, takes a condition that is not there or is
                not trusted at a level, there is no step between two levels, or one of the chosen
                steps is none of them.
        """
        teacher, last = self.teacher, len(sigmas) - 2
        if tuple(teacher.shape) != tuple(shape):
            raise ValueError(
                f"the guide is of samples of shape {tuple(teacher.shape)}, the student of "
                f"{tuple(shape)}: a guide lives in the space of the student"
            )
        missing = sorted(set(teacher.conditions) - set(conditions))
        if missing:
            raise ValueError(
                f"the guide takes {', '.join(missing)}, which the student is not given: name a "
                "guide of the same conditions, or one without"
            )
        if last < 0:
            raise ValueError(
                "a student of one call has no step between two levels to guide: take a student "
                "of at least two calls"
            )
        beyond = [] if self.steps is None else sorted(i for i in self.steps if i > last)
        if beyond:
            raise ValueError(
                f"step {beyond[0]} cannot be guided: the steps between the {last + 2} levels of "
                f"this student are 0 to {last}, and the last call has no level to come"
            )
        for i in self.guided(len(sigmas)):
            self._refuse_level(sigmas[i + 1] if self.level == "next" else sigmas[i])

    def _refuse_level(self, sigma: float) -> None:
        low, high = self.teacher.sigma_min, self.teacher.sigma_max
        within = low * (1 - ROUNDING) <= sigma <= high * (1 + ROUNDING)
        if not (within and math.isfinite(sigma)):
            raise ValueError(
                f"the guide would be asked at level {sigma:g}, which is not within [{low:g}, "
                f"{high:g}], the range of its teacher: guide other steps, or take another guide"
            )

    @torch.no_grad()
    def __call__(self, passage: Passage) -> Tensor:
        r"""Returns the next state with the corrected estimate, `(B, *)`, in its own type."""
        chosen = self.steps is None or passage.index in self.steps
        if self.strength == 0 or not chosen or not bool((passage.target > 0).all()):
            return passage.x_next
        sigma = passage.target if self.level == "next" else passage.sigma
        for end in (sigma.min(), sigma.max()):
            self._refuse_level(float(end))
        correction = self.denoised(self.noised(passage, sigma), sigma, passage) - passage.denoised
        return passage.x_next + self.strength * correction

    def noised(self, passage: Passage, sigma: Tensor) -> Tensor:
        r"""Returns :math:`x_s`, `(B, *)`, of levels `(B,)`: what the teacher is shown."""
        d = passage.denoised
        # The estimate has some of the level's noise already, where it has any.
        own = sigma.square() - passage.floor**2
        if self.renoise == "fresh":
            return d + expand_like(own.sqrt(), d) * self.noise(d)
        if self.level == "next":
            return passage.x_next
        there = passage.target.square() - passage.floor**2
        return d + expand_like((own / there).sqrt(), d) * (passage.x_next - d)

    def denoised(self, x_s: Tensor, sigma: Tensor, passage: Passage) -> Tensor:
        r"""Returns the teacher's estimate, `(B, *)`, in the type of the states; counted."""
        self.counts["calls"] += self.evaluations
        self.counts["rows"] += self.evaluations * len(x_s)
        return denoised_by(self.teacher, x_s, sigma, passage.cond)


def denoised_by(
    teacher: Denoiser, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]
) -> Tensor:
    r"""Returns a teacher's estimate of states of any type, `(B, *)`, in theirs.

    Arguments:
        teacher: The teacher; it is asked in its own type.
        x_t: The states, with shape :math:`(B, *)`.
        sigma: Their levels, with shape :math:`(B)`.
        cond: Conditions, those that the teacher takes among them.
    """
    tensors = itertools.chain(teacher.parameters(), teacher.buffers())
    own = next((t.dtype for t in tensors if t.is_floating_point()), x_t.dtype)
    level = sigma.to(own).clamp(teacher.sigma_min, teacher.sigma_max)
    given = {name: cond[name] for name in teacher.conditions}
    return teacher(x_t.to(own), level, **given).to(x_t.dtype)
