r"""How good a gradient is: bias and variance of an objective's estimate, and the slack of a bound.

The reference is the gradient of the diffusive divergence itself,

.. math:: \nabla_\theta \, \mathbb{E}_\sigma \big[ w(\sigma) \, \mathrm{KL}(p_\sigma \,\|\,
    q_\sigma) \big] = \mathbb{E} \left[ w(\sigma) \left( \nabla \log p_\sigma(x_t) - \nabla \log
    q_\sigma(x_t) \right)^\top \nabla_\theta \, g(z) \right],

with the student's score taken from the exact mixture of a great many of its own samples. In few
dimensions that score is as exact as one wants; in many it is not, and the number of samples a
neighbourhood holds must be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.exact import EmpiricalDenoiser
from ..denoisers.levels import Levels
from ..functional.scores import Weight, surrogate
from ..functional.tensors import expand_like, lattice_normal
from ..students.base import Generator
from ..training.distributed import averaged
from ..training.objective import Objective, only

__all__ = [
    "GradientQuality",
    "gradient_quality",
    "reference_gradient",
    "slack",
    "student_gradient",
    "student_marginal",
]


@dataclass(frozen=True)
class GradientQuality:
    r"""Bias and variance of one estimate of the gradient, in units of the reference's norm.

    Arguments:
        bias: :math:`\| \mathbb{E} \, \hat g - g \| / \| g \|`.
        bias_error: Its standard error.
        deviation: :math:`\sqrt{\mathrm{tr} \, \mathrm{Cov}(\hat g)} / \| g \|` of one update.
        cosine: The cosine of the angle between :math:`\mathbb{E} \, \hat g` and :math:`g`.
        norm: :math:`\| g \|`.
        draws: The number of estimates.
    """

    bias: float
    bias_error: float
    deviation: float
    cosine: float
    norm: float
    draws: int


def student_gradient(objective: Objective, batch: Batch, step: int) -> Tensor:
    r"""Returns one estimate of the gradient of the student's parameters, flat; that of the rows
    of all processes.

    The sum over the phases that update the student; draws from the objective's streams, and
    moves what `prepare` moves: an instrument calls it within `Objective.undisturbed`. Frozen
    parameters have no part in it.
    """
    with torch.no_grad():
        drawn = objective.prepare(batch, step)
    parameters = [p for p in objective.generator.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    for phase in objective.phases:
        if "generator" in phase.updates:
            with only(objective, ("generator",)):
                value = phase.loss(drawn, step).value
                parts = torch.autograd.grad(value, parameters, allow_unused=True)
            total = [t if p is None else t + p for t, p in zip(total, parts, strict=True)]
    return averaged(torch.cat([t.flatten() for t in total]))


@torch.no_grad()
def student_marginal(generator: Generator, n: int, random: torch.Generator) -> EmpiricalDenoiser:
    r"""Returns the exact denoiser of `n` samples of a student without conditions.

    The latents are the points of a shifted lattice: the mixture's density varies less than that of
    independent samples.
    """
    shape = generator.latent_shape
    shift = torch.rand(math.prod(shape), generator=random)
    z = lattice_normal(shift, n).unflatten(1, shape)
    x = torch.cat([generator(part) for part in z.split(8192)])
    return EmpiricalDenoiser(x, sigma_min=0.0)


def reference_gradient(
    generator: Generator,
    student: Denoiser,
    teacher: Denoiser,
    *,
    levels: Callable[[Tensor], Tensor],
    weight: Weight,
    random: torch.Generator,
    rows: int = 16_384,
    blocks: int = 16,
) -> tuple[Tensor, Tensor]:
    r"""Returns the gradient of the weighted divergence, flat, and the spread of its error,
    `(blocks, P)`, whose product with its own transpose is the covariance :math:`R^\top R`.

    Arguments:
        generator: The student.
        student: The denoiser of the student's own samples, see `student_marginal`.
        teacher: The teacher.
        levels: Noise levels from uniform numbers.
        weight: Their weight.
        random: The generator of all draws.
        rows: The number of noisy samples.
        blocks: The number of independent blocks they are made in; their spread is the error's.
    """
    parameters = list(generator.parameters())
    n = rows // blocks
    gradients = []
    for _ in range(blocks):
        shape = generator.latent_shape
        shift = torch.rand(math.prod(shape), generator=random)
        z = lattice_normal(shift, n).unflatten(1, shape)
        u = (torch.randperm(n, generator=random) + torch.rand(n, generator=random)) / n
        sigma = levels(u)
        x = generator(z)
        noise = torch.randn(x.shape, generator=random)
        with torch.no_grad():
            x_t = x + expand_like(sigma, x) * noise
            difference = student(x_t, sigma) - teacher(x_t, sigma)
            scale = expand_like(weight(sigma) / sigma.square(), x)
        value = surrogate(x, scale * difference).mean()
        parts = torch.autograd.grad(value, parameters)
        gradients.append(torch.cat([p.flatten() for p in parts]))
    stacked = torch.stack(gradients)
    mean = stacked.mean(0)
    return mean, (stacked - mean) / math.sqrt(blocks * (blocks - 1))


def gradient_quality(
    objective: Objective,
    batch: Batch,
    step: int,
    reference: Tensor,
    spread: Tensor | None = None,
    draws: int = 128,
) -> GradientQuality:
    r"""Returns bias and variance of an objective's estimate against a reference.

    The squared bias is estimated without bias of its own: from the squared distance of the mean to
    the reference, the variance of that mean and of the reference are taken away. A negative
    estimate is shown as zero. The standard error follows from the projections on the bias of the
    estimates and of the reference's blocks, and from the noise floor where there is no bias.

    Streams, counters and buffers of the objective are put back.

    Arguments:
        objective: The objective.
        batch: What an estimate is made of.
        step: The step.
        reference: The gradient that is compared with, flat, with shape :math:`(P)`.
        spread: That of its error, see `reference_gradient`; none for an exact one.
        draws: The number of estimates.
    """
    with objective.undisturbed(f"gradient quality/{step}"):
        gradients = torch.stack([student_gradient(objective, batch, step) for _ in range(draws)])
    mean, norm = gradients.mean(0), reference.norm()
    trace = gradients.var(0).sum()
    spread = reference.new_zeros(0, len(reference)) if spread is None else spread
    distance = mean - reference
    # Var |mean - g|^2 is 4 d' S d and 2 tr S^2, with the covariances S of both means together:
    # from products of the draws and of the reference's blocks, each row once with each other one.
    rows = torch.cat([(gradients - mean) / draws, spread])
    squared = (distance.square().sum() - trace / draws - spread.square().sum()).clamp_min(0.0)
    along = 4 * (rows @ distance).square().sum()
    gram = rows @ rows.T
    second = 2 * (gram.square().sum() - gram.diagonal().square().sum())
    error = (along + second).sqrt()
    bias = squared.sqrt()
    # The error of a root: by its derivative, and never more than the root of the error.
    bias_error = torch.minimum(error / (2 * bias.clamp_min(1e-12)), error.sqrt())
    cosine = torch.nn.functional.cosine_similarity(mean, reference, dim=0)
    return GradientQuality(
        bias=float(bias / norm),
        bias_error=float(bias_error / norm),
        deviation=float(trace.sqrt() / norm),
        cosine=float(cosine),
        norm=float(norm),
        draws=draws,
    )


@torch.no_grad()
def slack(
    log_marginal: Callable[[int, float], tuple[Tensor, Tensor]],
    student: EmpiricalDenoiser,
    sigmas: list[float],
    repeats: int = 16,
) -> list[tuple[float, float, float]]:
    r"""Returns level, slack and standard error for each level, in nats.

    .. math:: U_\sigma - \mathrm{KL}(p_\sigma \,\|\, q_\sigma) = \mathbb{E} \left[
        \widehat{\log p_\sigma}(x_t) - \log p_\sigma(x_t) \right]

    on the same noisy samples, so that the teacher and most of the noise drop out.

    Arguments:
        log_marginal: Of a repeat and a level, noisy samples `(B, *)` and the bound's estimates
            of their log-density `(B,)`; rows of one repeat may depend on each other.
        student: The denoiser of the student's own samples, see `student_marginal`.
        sigmas: The levels.
        repeats: The number of independent batches; their spread gives the error.
    """
    rows = []
    for sigma in sigmas:
        values = []
        for repeat in range(repeats):
            x_t, estimate = log_marginal(repeat, sigma)
            exact = student.log_prob(x_t, x_t.new_full((len(x_t),), sigma))
            values.append((estimate - exact).mean())
        stacked = torch.stack(values)
        rows.append((sigma, float(stacked.mean()), float(stacked.std() / math.sqrt(repeats))))
    return rows


def at_step(levels: Levels, step: int) -> Callable[[Tensor], Tensor]:
    r"""Returns the quantile function of a distribution of levels at a step."""
    return lambda u: levels(u, step)
