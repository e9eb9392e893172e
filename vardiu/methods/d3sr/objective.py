r"""The distance of restored images to the true ones, and the discriminator beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...denoisers.levels import Levels
from ...discriminators.diffusion import DiffusionDiscriminator
from ...functional.adversarial import softplus_discriminator, softplus_generator
from ...functional.perception import edge_aware_dists
from ...functional.tensors import expand_like
from ...students.base import Generator
from ...training.objective import Loss, Objective, Phase

if TYPE_CHECKING:
    from ...problems.base import Problem, Space

__all__ = ["D3SR", "Shown", "Spatial"]


class Shown(NamedTuple):
    r"""What a step shows, in the teacher's space but for the clean images."""

    degraded: Tensor
    """The student's input."""
    clean: Tensor
    """What it was."""
    images: Tensor
    """The clean images; the same where the teacher is none of latents."""
    cond: Mapping[str, Tensor]


class Spatial:
    r"""The distance of restored images to the true ones, :math:`\mathrm{MSE} + \lambda_2
    \text{EA-DISTS}`, a scalar.

    Arguments:
        problem: The problem, whose space decodes and whose network compares.
        weight: :math:`\lambda_2`; with 0 no network is asked.
    """

    def __init__(self, problem: Problem, weight: float) -> None:
        self.space: Space = problem.space
        self.weight, self.net = weight, problem.networks.perceptual() if weight else None

    def shown(self, batch: Batch, like: Tensor) -> Shown:
        r"""Returns a batch of images in the teacher's space, on a device and of a type."""
        if batch.truth is None:
            raise ValueError("this needs pairs: batches of degraded samples with their truth")
        degraded, images = batch.clean().to(like), batch.truth.to(like)
        encode = self.space.encode
        return Shown(encode(degraded), encode(images), images, batch.cond)

    def __call__(self, sample: Tensor, images: Tensor) -> Loss:
        r"""Returns the loss of samples, of which the gradient goes through the decoder."""
        x = self.space.decode(sample)
        value = (x - images).square().mean()
        info = {"mse": value.detach()}
        if self.net is not None:
            pair, net = ((x + 1) / 2, (images + 1) / 2), self.net.to(x.device)
            unlike = edge_aware_dists(*pair, net, net.weights).mean()
            value, info = value + self.weight * unlike, {**info, "dists": unlike.detach()}
        return Loss(value, info)


class D3SR(Objective):
    r"""D3SR.

    .. math:: \mathcal{L}_D = \mathbb{E} \left[ \log \left( 1 + e^{c(\hat z_t, \sigma)} \right) +
        \log \left( 1 + e^{-c(z_{t}, \sigma)} \right) \right]

    with the clean :math:`z` of the same images. A step updates the student, then encoder and head.
    With :math:`\lambda_1 = 0` there is no discriminator, and it is a regression.

    Needs:
        Pairs of degraded and clean images. The teacher gives weights and is not asked.

    Deviations:
        - Any denoiser of any schedule; the level is the student's own.
        - The range of the discriminator's levels is an option; the paper has all times.

    References:
        | Unleashing the Power of One-Step Diffusion based Image Super-Resolution via a Large-Scale
        | Diffusion Discriminator (Li et al., 2025), https://arxiv.org/abs/2410.04224

    Arguments:
        generator: The student, shown a degraded image.
        spatial: The distance of restored images to the true ones.
        critic: The encoder that the discriminator reads; none without it.
        head: Its head, a logit a place.
        levels: The distribution of its noise levels.
        adversarial_weight: :math:`\lambda_1`.

    Raises:
        ValueError: A discriminator is there without its weight, levels or head, or the reverse.
    """

    def __init__(
        self,
        generator: Generator,
        spatial: Spatial,
        critic: Denoiser | None = None,
        head: DiffusionDiscriminator | None = None,
        *,
        levels: Levels | None = None,
        adversarial_weight: float = 0.0,
    ) -> None:
        super().__init__(None, generator)
        wanted = adversarial_weight > 0
        if any((part is not None) != wanted for part in (critic, head, levels)):
            raise ValueError("critic, head, levels and a positive adversarial_weight go together")
        self.spatial, self.critic, self.head = spatial, critic, head
        self.levels, self.adversarial_weight = levels, adversarial_weight

    @property
    def phases(self) -> tuple[Phase, ...]:
        student = Phase("student", self.student_loss, updates=("generator",))
        if self.head is None:
            return (student,)
        return student, Phase("critic", self.critic_loss, updates=("critic", "head"))

    def prepare(self, batch: Batch, step: int) -> Shown:
        return self.spatial.shown(batch, self.like)

    def logits(
        self, samples: Sequence[Tensor], cond: Mapping[str, Tensor], step: int, role: str
    ) -> list[list[Tensor]]:
        r"""Returns of each tensor of samples the logits of each tap, at the same levels."""
        assert self.critic is not None and self.head is not None and self.levels is not None
        n = len(samples[0])
        sigma = self.levels(self.quantiles(n, f"{role} level", f"{role} order"), step)
        found = []
        for index, z in enumerate(samples):
            z_t = z + expand_like(sigma, z) * self.noise_like(z, f"{role} noise {index}")
            found.append(self.head(self.critic, z_t, sigma, **cond))
        return found

    def student_loss(self, drawn: Shown, step: int) -> Loss:
        z = self.generator(drawn.degraded, **drawn.cond)
        loss = self.spatial(z, drawn.images)
        if self.head is None:
            return loss
        (logits,) = self.logits([z], drawn.cond, step, "adversarial")
        error = torch.stack([softplus_generator(c).mean() for c in logits]).mean()
        info = {**loss.info, "adversarial": error.detach()}
        return Loss(loss.value + self.adversarial_weight * error, info)

    def critic_loss(self, drawn: Shown, step: int) -> Loss:
        with torch.no_grad():
            z = self.generator(drawn.degraded, **drawn.cond)
        fake, real = self.logits([z, drawn.clean], drawn.cond, step, "critic")
        both = list(zip(real, fake, strict=True))
        error = torch.stack([softplus_discriminator(r, f).mean() for r, f in both]).mean()
        right = torch.stack([torch.cat([r > 0, f < 0]).float().mean() for r, f in both]).mean()
        return Loss(error, {"critic": error.detach(), "accuracy": right})
