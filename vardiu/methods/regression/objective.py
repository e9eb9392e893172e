r"""The distance of a student to the teacher's pairs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...functional.distances import pseudo_huber
from ...samplers.pairs import Pairs
from ...students.base import Generator
from ...training.objective import Loss, Objective, Phase
from .pairs import drawn_pairs

__all__ = ["Regression"]


class Regression(Objective):
    r"""Regression on pairs of noise and sample (knowledge distillation).

    Needs:
        Pairs of the teacher, no data, no further call of the teacher.

    Deviations:
        - The distance is pseudo-Huber over the image, not squared: pairs that the network cannot
          follow weigh less.

    References:
        | Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed
        | (Luhman and Luhman, 2021), https://arxiv.org/abs/2101.02388

    Arguments:
        teacher: The teacher, whose sampler made the pairs.
        generator: The student; its latent has the teacher's shape.
        pairs: The pairs.
        softness: The constant :math:`c`, in `unit`.
        unit: The length that differences are measured in.

    Raises:
        ValueError: The student's latents are not the teacher's noise.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        pairs: Pairs,
        *,
        softness: float = 0.03,
        unit: float = 1.0,
    ) -> None:
        super().__init__(teacher, generator)
        known, found = tuple(pairs.z.shape[1:]), tuple(generator.latent_shape)
        if found != known:
            several = found[1:] == known
            cure = (
                "; calls with fresh noise have one each: give --rule ddim, or --pairs.pairs 0 "
                "and, where there is one, --regression-weight 0"
            )
            raise ValueError(
                f"regression on pairs needs a latent of the pairs' shape {known}, got {found}"
                f"{cure if several else ''}"
            )
        self.softness, self.unit = softness, unit
        # An artefact of the run: known to whoever made the objective, and in no checkpoint.
        self.pairs = pairs

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("regression", self.loss, updates=("generator",)),)

    def prepare(self, batch: Batch, step: int) -> Any:  # noqa: ANN401 (for `answers`)
        return drawn_pairs(self, self.pairs, batch.rows)

    def answers(self, drawn: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 (what `prepare` drew)
        r"""Returns what the student makes of what was drawn, and what the teacher made of it, each
        `(B, *)`."""
        return self.generator(drawn.z, **drawn.cond), drawn.x

    def loss(self, drawn: Any, step: int) -> Loss:  # noqa: ANN401 (what `prepare` drew)
        found, known = self.answers(drawn)
        difference = found - known
        error = difference.flatten(1).square().mean().detach()
        value = pseudo_huber(difference / self.unit, self.softness).mean()
        return Loss(value, {"squared_error": error})
