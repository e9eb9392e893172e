r"""The discriminator of steps, and the student that it moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...functional.adversarial import hinge_discriminator, hinge_generator
from ...functional.scores import mean_correction
from ...functional.tensors import expand_like
from ...functional.trajectories import step as solver_step
from ...students.base import Generator
from ...training.objective import Loss, Phase
from ..diff_instruct import DiffInstruct, Fakes, shown

__all__ = ["ADM"]


class ADM(DiffInstruct):
    r"""Adversarial distribution matching.

    .. math:: \mathcal{L}_D = \mathbb{E} \left[ \max(0, 1 + D_\tau(x_\mathrm{fake}, \sigma')) +
        \max(0, 1 - D_\tau(x_\mathrm{real}, \sigma')) \right], \qquad
        \mathcal{L}_g = - \mathbb{E} \left[ w(\sigma) \, D_\tau(x_\mathrm{fake}, \sigma') \right]

    A step updates the fake, then the discriminator's heads; each `ratio`-th step the student after
    them. Over functions the least :math:`\mathcal{L}_D` is :math:`2 - 2 \, \mathrm{TV}`; the
    signal is proportional to the step: a loss near two is no sign of convergence.

    Needs:
        No data, no gradient of the teacher but through its features.

    Deviations:
        - A step is a share of the range of :math:`\log \sigma`, not of a time.
        - The weight of a level; one by default.

    References:
        | Adversarial Distribution Matching for Diffusion Distillation Towards Efficient Image and
        | Video Synthesis (Lu et al., 2025), https://arxiv.org/abs/2507.18569

    Arguments:
        teacher: The denoiser to distil, guided or not.
        generator: The student. Of a few-step one, one call a step is trained, see `DMD2`.
        fake: The denoiser :math:`D_\phi` of the student's samples, never guided.
        head: The discriminator.
        shrink: The ratio :math:`\sigma' / \sigma` of a step, in (0, 1).
        reads: Whose features the discriminator reads: `teacher` or `fake`.
        detach_fake: Whether the student's gradient goes around the fake's network.
        options: See `DiffInstruct`.

    Raises:
        ValueError: The ratio is out of its range.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        head: nn.Module,
        *,
        shrink: float,
        reads: str = "teacher",
        detach_fake: bool = False,
        **options: Any,  # noqa: ANN401 (those of Diff-Instruct)
    ) -> None:
        super().__init__(
            teacher, generator, fake, **{"weight": torch.ones_like, "ratio": 1, **options}
        )
        if not 0 < shrink < 1:
            raise ValueError(f"shrink must be within (0, 1), got {shrink:g}")
        self.head, self.shrink, self.reads, self.detach_fake = head, shrink, reads, detach_fake

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("fake", self.fake_loss, updates=("fake",)),
            Phase("head", self.head_loss, updates=("head",)),
            Phase("student", self.student_loss, updates=("generator",), every=self.ratio),
        )

    def prepare(self, batch: Batch, step: int) -> Fakes:
        state, index = shown(self, batch)
        return Fakes(state, self.generator.call(index, state, **batch.cond), batch, index)

    def lower(self, sigma: Tensor) -> Tensor:
        r"""Returns the levels on which a step from these lands, `(B,)`."""
        return (self.shrink * sigma).clamp_min(self.teacher.module.sigma_min)

    def logits(self, y_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r"""Returns the logits of states at their levels, one a head, with shape `(K, B)`."""
        read = self.fake if self.reads == "fake" else self.teacher
        return torch.stack(self.head(read, y_t, sigma, **cond))

    def head_loss(self, drawn: Fakes, step: int) -> Loss:
        x, cond = drawn.x, drawn.batch.cond
        sigma = self.levels(self.quantiles(len(x), "head level", "head order"), step)
        x_t, lower = (
            x + expand_like(sigma, x) * self.noise_like(x, "head noise"),
            self.lower(sigma),
        )
        with torch.no_grad():
            fake, real = (d(x_t, sigma, **cond) for d in (self.fake, self.teacher))
            ends = [solver_step(x_t, sigma, lower, denoised) for denoised in (fake, real)]
            # DMD's loss of the same sample, which nothing descends.
            size = expand_like(mean_correction(real, x, self.FLOOR * self.unit), x)
            dmd = 0.5 * ((fake - real) / size).square().mean()
        both = {name: torch.cat([value, value]) for name, value in cond.items()}
        logits = self.logits(torch.cat(ends), torch.cat([lower, lower]), both)
        generated, real_logits = logits.chunk(2, dim=1)
        error = hinge_discriminator(real_logits, generated).mean()
        gap = (ends[0] - ends[1]).flatten(1).norm(dim=1).mean()
        return Loss(error, {"hinge": error.detach(), "gap": gap, "dmd": dmd})

    def student_loss(self, drawn: Fakes, step: int) -> Loss:
        cond = drawn.batch.cond
        x = self.generator.call(drawn.call, drawn.z, **cond)
        sigma = self.levels(self.quantiles(len(x)), step)
        x_t, lower = x + expand_like(sigma, x) * self.noise_like(x), self.lower(sigma)
        if self.detach_fake:
            with torch.no_grad():
                fake = self.fake(x_t, sigma, **cond)
        else:
            fake = self.fake(x_t, sigma, **cond)
        logits = self.logits(solver_step(x_t, sigma, lower, fake), lower, cond)
        value = (self.weight(sigma) * hinge_generator(logits).mean(0)).mean()
        return self.regressed(Loss(value, {"logit": logits.mean().detach()}), len(x))
