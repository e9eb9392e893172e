r"""ADP: the student learns the teacher's pairs adversarially, before ADM.

A pair is the noise :math:`z` and the sample :math:`x_0` that the teacher's probability-flow
equation makes of it. The student is shown what lies between them and asked for the sample,

.. math:: x_\sigma = x_0 + \sigma z, \qquad \tilde x_0 = D_\theta(x_\sigma, \sigma)

at the levels of `CubicTime`, or, in a share of the rows, noise alone, as when one samples.
Discriminators tell fresh re-noisings of :math:`\tilde x_0` from those of :math:`x_0`, and decoded
images from decoded images:

.. math:: \mathcal{L}_\theta = - \mathbb{E} \left[ \lambda_1 D_1(\tilde x_0 + \sigma'
    \varepsilon, \sigma') + \lambda_2 D_2(\mathrm{dec}(\tilde x_0)) \right].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.levels import CubicTime, Levels
from ..discriminators.heads import head_for
from ..discriminators.hybrid import HybridDiscriminator
from ..errors import ConfigError
from ..functional.adversarial import hinge_discriminator, hinge_generator
from ..functional.tensors import expand_like
from ..samplers.pairs import Pairs
from ..settings import build
from ..settings.fields import NetworkOptimizer, PairSettings, StartSettings, Training
from ..students.base import Generator
from ..students.few_step import OneStep
from ..training.objective import Loss, Objective, Phase
from ..training.stage import Context, Stage, Stages
from .regression import drawn_pairs, make_pairs

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["ADP", "train_adversarially"]


class Shown(NamedTuple):
    r"""What the student is shown, and its answer without a graph."""

    pairs: Pairs
    x_t: Tensor
    sigma: Tensor
    x: Tensor


class ADP(Objective):
    r"""Adversarial pre-training on the teacher's pairs.

    .. math:: \mathcal{L}_D = \lambda_1 \mathbb{E} \left[ \max(0, 1 + D_1(\tilde x_{t'})) +
        \max(0, 1 - D_1(x_{t'})) \right] + \lambda_2 \mathbb{E} \left[ \max(0, 1 + D_2(\tilde x_0))
        + \max(0, 1 - D_2(x_0)) \right]

    A step updates the discriminators, then the student.

    Needs:
        Pairs of the teacher; no data.

    Deviations:
        - The image discriminator is a convolutional head on decoded images, not one on SAM.
        - Inputs keep our scale, and a share of the rows is shown noise alone, see `docs`.

    References:
        | Adversarial Distribution Matching for Diffusion Distillation Towards Efficient Image and
        | Video Synthesis (Lu et al., 2025), https://arxiv.org/abs/2507.18569

    Arguments:
        teacher: The teacher; its features are read where the discriminator is one on features.
        generator: The student, a denoiser that is asked once.
        head: The discriminators.
        pairs: The pairs.
        levels: The noise levels of :math:`D_1`.
        sigma_data: The standard deviation of the data.
        row: The weights and shares.
        decode: Turns samples into images, differentiably, for :math:`D_2`.

    Raises:
        ValueError: The student is asked at infinite noise; or there is a weight of images
            without their head, or the reverse.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: OneStep,
        head: HybridDiscriminator,
        pairs: Pairs,
        *,
        levels: Levels,
        sigma_data: float,
        row: StartSettings,
        decode: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(teacher, generator)
        if (head.pixel is None) != (row.pixel_weight == 0):
            raise ValueError("a head on images and a positive pixel_weight go together")
        self.head, self.levels, self.decode = head, levels, decode
        self.row, low = row, max(generator.denoiser.sigma_min, 1e-3 * sigma_data)
        self.times = CubicTime(low, generator.sigma, sigma_data)
        # An artefact of the run: known to whoever made the objective, and in no checkpoint.
        self.pairs = pairs

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("head", self.head_loss, updates=("head",)),
            Phase("student", self.student_loss, updates=("generator",)),
        )

    @property
    def student(self) -> OneStep:
        r"""The student, which is asked at other levels than its own here."""
        assert isinstance(self.generator, OneStep)
        return self.generator

    def prepare(self, batch: Batch, step: int) -> Shown:
        pairs = drawn_pairs(self, self.pairs, batch.rows)
        alone = self.uniform(batch.rows, "pure") < self.row.pure
        top, network = self.student.sigma, self.student.denoiser
        sigma = torch.where(alone, top, self.times(self.uniform(batch.rows, "time"), step))
        x_t = pairs.x + expand_like(sigma, pairs.x) * pairs.z
        x_t = torch.where(expand_like(alone, x_t), network.pure_noise(pairs.z, top), x_t)
        return Shown(pairs, x_t, sigma, network(x_t, sigma, **pairs.cond))

    def logits(self, x: Tensor, cond: Mapping[str, Tensor], step: int, role: str) -> Tensor:
        r"""Returns the logits of samples at fresh levels and noises, with shape `(K, B)`."""
        sigma = self.levels(self.uniform(len(x), f"{role} level"), step)
        y_t = x + expand_like(sigma, x) * self.noise_like(x, f"{role} noise")
        return self.head.of_noisy(self.teacher, y_t, sigma, **cond)

    def images(self, x: Tensor) -> Tensor:
        r"""Returns the images of samples, with their gradients."""
        return x if self.decode is None else self.decode(x)

    def head_loss(self, drawn: Shown, step: int) -> Loss:
        pairs, share = drawn.pairs, self.row.pixel_weight
        real = self.logits(pairs.x, pairs.cond, step, "real")
        fake = self.logits(drawn.x, pairs.cond, step, "fake")
        value = hinge_discriminator(real, fake).mean()
        info = {"hinge": value.detach()}
        if share:
            images = (self.head.of_images(self.images(x)) for x in (pairs.x, drawn.x))
            error = hinge_discriminator(*images).mean()
            value = (1 - share) * value + share * error
            info["pixel"] = error.detach()
        return Loss(value, info)

    def student_loss(self, drawn: Shown, step: int) -> Loss:
        pairs, row = drawn.pairs, self.row
        x = self.student.denoiser(drawn.x_t, drawn.sigma, **pairs.cond)
        value = hinge_generator(self.logits(x, pairs.cond, step, "student")).mean()
        if row.pixel_weight:
            error = hinge_generator(self.head.of_images(self.images(x))).mean()
            value = (1 - row.pixel_weight) * value + row.pixel_weight * error
        error = (x - pairs.x).square().mean()
        info = {"adversarial": value.detach(), "squared_error": error.detach()}
        # Of the product with zero there would be a gradient to take.
        return Loss(value + row.squared_weight * error if row.squared_weight else value, info)


def asked_once(problem: Problem, student: Generator) -> OneStep:
    r"""Returns a student that can be asked at any level: the given one, or a denoiser asked once.

    Raises:
        ConfigError: The student has several calls, or is asked at infinite noise.
    """
    if student.calls > 1:
        raise ConfigError(
            f"an adversarial start is of a student of one call, got {student.calls}: set "
            "problem.calls to 1, or --start.kind regression"
        )
    if isinstance(student, OneStep) and student.sigma == math.inf:
        raise ConfigError(
            "an adversarial start shows the student what lies between noise and sample, and it is "
            "asked at infinite noise: give a finite --sigma, or --start.kind regression"
        )
    if isinstance(student, OneStep):
        return student
    return OneStep(problem.networks.student_denoiser())


def train_adversarially(
    problem: Problem,
    student: Generator,
    noisy: torch.nn.Module,
    levels: Levels,
    training: Training,
    rows: tuple[PairSettings, StartSettings],
    context: Context,
) -> Stages[tuple[Generator, Pairs]]:
    r"""Yields the stage of the pre-training, and returns the student and the pairs.

    Arguments:
        problem: The problem.
        student: The student; one that is not asked at levels is replaced by one that is.
        noisy: The discriminator of noisy samples.
        levels: Its levels.
        training: How the method is trained that comes after.
        rows: The pairs with the stage's length, batch and rate, and the discriminators' weights.
        context: The run's seed, device and artefacts.

    Raises:
        ConfigError: There is to be a discriminator of images, and the teacher has no decoder.
    """
    row, start = rows
    space, pixel = problem.space, None
    if start.pixel_weight:
        if not space.decodes:
            raise ConfigError(
                f"--start.pixel-weight {start.pixel_weight:g} asks for a discriminator of decoded "
                "images, and this teacher has no decoder: its samples are what is seen. Leave it "
                "out, or give a teacher of latents"
            )
        with torch.no_grad():
            pixel = head_for(space.decode(torch.zeros(1, *space.shape)))
    once, pairs = asked_once(problem, student), make_pairs(problem, row, context)
    objective = ADP(
        problem.known_teacher,
        once,
        HybridDiscriminator(noisy, pixel),
        pairs,
        levels=levels,
        sigma_data=problem.space.sigma_data,
        row=start,
        decode=space.decode if space.decodes else None,
    )
    settings = replace(training, lr=row.lr, delay=0, warmup=50)
    optimisation = build.optimisation(settings, head=NetworkOptimizer(lr=start.head_lr))
    batches = problem.data.free(row.batch, context.seed)
    trained = yield Stage("adp", objective, row.steps, batches, optimisation, 0.0, of=2)
    return trained.network, pairs
