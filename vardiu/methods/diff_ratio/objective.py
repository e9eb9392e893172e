r"""The slope of a ratio of densities, and the discriminator that learns it."""

from __future__ import annotations

import torch
from torch import nn

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...denoisers.levels import Levels
from ...functional.scores import Weight, surrogate
from ...functional.tensors import expand_like
from ...samplers.pairs import Pairs
from ...students.base import Generator
from ...training.objective import Loss, Phase
from ..critics import RatioLearner
from ..diff_instruct import Fakes, shown
from ..regression import drawn_pairs

__all__ = ["DiffRatio"]


class DiffRatio(RatioLearner):
    r"""The gradient of the reverse divergence, by a ratio's slope.

    A step updates the discriminator; each `ratio`-th step the student after it.

    Needs:
        Samples of the teacher, which pairs hold; no call of it but for its features.

    Deviations:
        - The real samples are the teacher's, not data.

    References:
        | DiffRatio: Training One-Step Diffusion Models Without Teacher Supervision
        | (Chen et al., 2025), https://arxiv.org/abs/2502.08005

    Arguments:
        teacher: The teacher.
        generator: The student. Of a few-step one, one call a step is trained, see `DMD2`.
        head: The discriminator. What has no weights is not trained.
        pairs: Samples of the teacher, with their conditions.
        levels: The distribution of noise levels.
        weight: The weight of a level, applied to the slope; :math:`\sigma^2` by default.
        ratio: The number of updates of the discriminator a student update.
        lattice: Whether latents and levels are spread evenly, see `Objective`.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        head: nn.Module,
        pairs: Pairs,
        *,
        levels: Levels,
        weight: Weight = torch.square,
        ratio: int = 1,
        lattice: bool = False,
    ) -> None:
        super().__init__(teacher, generator)
        if ratio < 1:
            raise ValueError(f"ratio must be at least 1, got {ratio}")
        self.head, self.levels, self.weight = head, levels, weight
        self.ratio, self.lattice = ratio, lattice
        # An artefact of the run: known to whoever made the objective, and in no checkpoint.
        self.pairs = pairs

    @property
    def phases(self) -> tuple[Phase, ...]:
        student = Phase("student", self.student_loss, updates=("generator",), every=self.ratio)
        if not self.has_weights:
            return (student,)
        return Phase("head", self.head_loss, updates=("head",)), student

    def prepare(self, batch: Batch, step: int) -> Fakes:
        state, index = shown(self, batch)
        return Fakes(state, self.generator.call(index, state, **batch.cond), batch, index)

    def head_loss(self, drawn: Fakes, step: int) -> Loss:
        pairs = drawn_pairs(self, self.pairs, len(drawn.x), "real")
        generated = self.noisy_logits(drawn.x.detach(), drawn.batch.cond, step, "fake")
        real = self.noisy_logits(pairs.x, pairs.cond, step, "real")
        return self.classified(generated, real)

    def student_loss(self, drawn: Fakes, step: int) -> Loss:
        cond = drawn.batch.cond
        x = self.generator.call(drawn.call, drawn.z, **cond)
        sigma = self.levels(self.quantiles(len(x)), step)
        with torch.enable_grad():
            x_t = (x + expand_like(sigma, x) * self.noise_like(x)).detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.log_ratio(x_t, sigma, cond).sum(), x_t)
        direction = -expand_like(self.weight(sigma), x) * slope
        value = surrogate(x, direction).mean()
        return Loss(value, {"direction": direction.flatten(1).norm(dim=1).mean()})
