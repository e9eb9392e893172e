r"""The direction of Diff-Instruct, weighted by a ratio of densities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...errors import ConfigError, known
from ...functional.divergences import DIVERGENCES, Divergence
from ...students.base import Generator
from ...training.frozen import Frozen
from ...training.objective import Loss, Phase
from ..critics import RatioLearner
from ..diff_instruct import DiffInstruct, Fakes, shown

__all__ = ["FDistill", "divergence"]


# Divergences whose second derivative is no function, and where.
KINKED = {"total_variation": "r = 1", "hockey_stick": "r = 1"}


def divergence(name: str) -> Divergence:
    r"""Returns the divergence of a name.

    Raises:
        ConfigError: There is none of this name, or it has no finite weight.
    """
    found = known(name, [*DIVERGENCES, *KINKED], "divergence")
    if found in KINKED:
        raise ConfigError(
            f"the divergence {found!r} has no finite weight f''(r) r^2: its f has a kink at "
            f"{KINKED[found]}, and no sample has a direction; take one of "
            f"{', '.join(DIVERGENCES)}"
        )
    return DIVERGENCES[found]


class FDistill(DiffInstruct, RatioLearner):
    r"""The gradient of an f-divergence.

    The ratio is learned of data, see `vardiu.methods.critics`. A step updates the fake and the
    discriminator; each `ratio`-th step the student after them.

    Needs:
        Data for the ratio, but for the reverse divergence; no gradient of the teacher.

    Deviations:
        - A ratio is held within `limit` of one; the paper normalises weights over a batch, which
          couples its rows.
        - No adversarial loss of the student's beside the direction.

    References:
        | One-step Diffusion Models with f-Divergence Distribution Matching (Xu et al., 2025)
        | https://arxiv.org/abs/2502.15681

    Arguments:
        teacher: The denoiser to distil.
        generator: The student. Of a few-step one, one call a step is trained, see `DMD2`.
        fake: The denoiser of the student's samples.
        head: The discriminator; none for the reverse divergence. What has no weights is not
            trained.
        name: The divergence, of `vardiu.functional.divergences`.
        limit: The largest ratio, and one over the smallest, by which a direction is weighted.
        reads: Whose features the discriminator reads: `teacher` or `fake`.
        options: See `DiffInstruct`.

    Raises:
        ConfigError: There is no such divergence, or it has no finite weight.
        ValueError: There is a head for the reverse divergence, or none for another; or the limit
            is not above one.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        head: nn.Module | None,
        *,
        name: str = "jensen_shannon",
        limit: float = 20.0,
        reads: str = "teacher",
        **options: Any,  # noqa: ANN401 (those of Diff-Instruct)
    ) -> None:
        super().__init__(teacher, generator, fake, **options)
        self.name, self.divergence = name, divergence(name)
        if (head is None) != (name == "reverse_kl"):
            raise ValueError("a ratio is needed by every divergence but the reverse one")
        if not 1 < limit < math.inf:
            raise ValueError(f"limit must be above 1 and finite, got {limit:g}")
        self.head, self.limit, self.reads = head, limit, reads

    @property
    def phases(self) -> tuple[Phase, ...]:
        fake, student = super().phases
        if not self.has_weights:
            return fake, student
        return fake, Phase("head", self.head_loss, updates=("head",)), student

    def prepare(self, batch: Batch, step: int) -> Fakes:
        state, index = shown(self, batch)
        return Fakes(state, self.generator.call(index, state, **batch.cond), batch, index)

    def read(self) -> Denoiser | Frozen[Denoiser]:
        return self.fake if self.reads == "fake" else self.teacher

    def importance(self, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        if self.head is None:
            return super().importance(x_t, sigma, cond)
        most = math.log(self.limit)
        return self.divergence.weight(self.log_ratio(x_t, sigma, cond).clamp(-most, most))

    def head_loss(self, drawn: Fakes, step: int) -> Loss:
        cond = drawn.batch.cond
        generated = self.noisy_logits(drawn.x.detach(), cond, step, "head fake")
        real = self.noisy_logits(drawn.batch.clean().to(drawn.x), cond, step, "head real")
        return self.classified(generated, real)

    def student_loss(self, drawn: Fakes, step: int) -> Loss:
        cond = drawn.batch.cond
        x = self.generator.call(drawn.call, drawn.z, **cond)
        return self.regressed(self.matching(x, cond, step), len(x))
