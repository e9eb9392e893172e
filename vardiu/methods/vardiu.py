r"""VarDiU: a variational diffusive upper bound for one-step distillation.

The student is :math:`x = g(z)`, :math:`z \sim p(z) = \mathcal{N}(0, I_k)`; its noisy marginal is
:math:`p_\sigma(x_t) = \int \mathcal{N}(x_t; g(z), \sigma^2 I) \, p(z) \, \mathrm{d}z`, the teacher's
is :math:`q_\sigma`. For latents :math:`z_0` that made :math:`x_t`, and :math:`z_1, \ldots, z_K \sim
r(\cdot \mid x_t)`,

.. math:: \mathrm{KL}(p_\sigma \,\|\, q_\sigma) \leq U^K_\sigma = \mathbb{E} \left[ \log
    \frac{1}{K + 1} \sum_{j=0}^{K} \frac{\mathcal{N}(x_t; g(z_j), \sigma^2 I) \, p(z_j)}
    {r(z_j \mid x_t)} \right] - \mathbb{E} \big[ \log q_\sigma(x_t) \big].

With :math:`K = 0` the bracket is :math:`-\log r(z_0 \mid x_t)` and a constant: the paper's bound, whose
slack is :math:`\mathbb{E} \, \mathrm{KL}(p(z \mid x_t) \,\|\, r(z \mid x_t))`. :math:`U^K` does not
increase with :math:`K` and tends to the divergence itself.

The teacher's log-density is never needed, only its score :math:`S`. In

.. math:: \nabla_\theta \, \mathbb{E} \big[ \log q_\sigma(x_t) \big]
    = \mathbb{E} \big[ S(x_t)^\top \nabla_\theta g(z) \big], \qquad
    S(x_t) = \frac{D(x_t) - g(z)}{\sigma^2} - \frac{\varepsilon}{\sigma}

the last term has zero mean, as :math:`\varepsilon` is independent of :math:`z`: it may be dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..denoise import Denoiser, ExactDenoiser
from ..functional import (
    Weight,
    diagonal_normal_log_prob,
    dot,
    entropy_constant,
    expand_like,
    pairwise_square,
    standard_normal_log_prob,
    surrogate,
)
from ..generate import Generator
from ..noise import Levels
from ..objective import Batch, Loss, Objective, Phase
from ..posterior import Posterior, PriorPosterior

__all__ = ["Draw", "VarDiU", "importance_log_marginal", "shared_log_marginal", "teacher_direction"]


def importance_log_marginal(log_ratios: Tensor) -> Tensor:
    r"""Returns :math:`\log \frac{1}{K+1} \sum_j e^{\ell_j}` of log-ratios `(B, K + 1)`, `(B,)`.

    References:
        | Importance Weighted Hierarchical Variational Inference (Sobolev and Vetrov, 2019)
        | https://arxiv.org/abs/1905.03290
    """
    return log_ratios.logsumexp(dim=1) - math.log(log_ratios.shape[1])


def shared_log_marginal(
    x_t: Tensor, x: Tensor, sigma: Tensor, same: Tensor | None = None
) -> Tensor:
    r"""Returns the log-density of the minibatch mixture at each noisy sample.

    .. math:: \log \frac{1}{N_i} \sum_{j \in \mathcal{N}_i} \mathcal{N}(x_{t,i}; x_j, \sigma_i^2 I)

    This is the bound with the prior as posterior, where all rows share their latents.

    References:
        | Semi-Implicit Variational Inference (Yin and Zhou, 2018)
        | https://arxiv.org/abs/1805.11183

    Arguments:
        x_t: Noisy samples, with shape :math:`(B, *)`.
        x: Clean samples, among them the one that each noisy sample was made of, :math:`(N, *)`.
        sigma: The levels of the noisy samples, with shape :math:`(B)`.
        same: Which clean samples share the condition of each noisy one, with shape
            :math:`(B, N)`. All by default.

    Returns:
        The log-densities, with shape :math:`(B)`, in nats.
    """
    d = x[0].numel()
    exponents = pairwise_square(x_t.flatten(1), x.flatten(1)) / (-2 * sigma.square()[:, None])
    count = torch.full_like(sigma, len(x))
    if same is not None:
        exponents, count = exponents.masked_fill(~same, -math.inf), same.sum(1).to(sigma)
    constant = d * (sigma.log() + 0.5 * math.log(2 * math.pi))
    return exponents.logsumexp(dim=1) - count.log() - constant


def teacher_direction(
    denoised: Tensor, x: Tensor, x_t: Tensor, sigma: Tensor, *, control_variate: bool
) -> Tensor:
    r"""Returns the teacher's score, less its part of zero mean if `control_variate`, `(B, *)`."""
    return (denoised - (x if control_variate else x_t)) / expand_like(sigma, x).square()


class Draw(NamedTuple):
    r"""The random numbers of one loss, and the conditions they go with."""

    z: Tensor
    noise: Tensor
    sigma: Tensor
    cond: Mapping[str, Tensor]


class VarDiU(Objective):
    r"""The variational diffusive upper bound.

    .. math:: \mathcal{L} = \mathbb{E}_{\sigma, z, \varepsilon} \left[ w(\sigma) \left(
        - \log r(z \mid x_t) - \langle \mathrm{sg}[S(x_t, \sigma)], g(z) \rangle \right) \right]

    (Section 3 of the paper.) One phase trains the student and the posterior together.

    Needs:
        No data, no gradient of the teacher, one call of the teacher a row.

    Deviations:
        - The weight multiplies each row. The authors' script broadcasts it over the batch, where
          it acts as a constant.
        - A flow posterior is conditioned on :math:`x_t`, and normalised; the authors' flow mixes
          the latent and the sample in a network that is not bijective, and detaches both.
        - `particles`, `shared` and `control_variate` are not in the paper.

    References:
        | VarDiU: A Variational Diffusive Upper Bound for One-Step Diffusion Distillation
        | (Wang, Zhang, Ou and Barber, 2025), https://arxiv.org/abs/2508.20646

    Arguments:
        teacher: The denoiser to distil.
        generator: The student :math:`g`.
        posterior: The posterior :math:`r`; `None` stands for the prior.
        levels: The distribution of noise levels.
        weight: The weight :math:`w(\sigma)` of a level; :math:`\sigma^2` by default.
        particles: The number :math:`K` of further latents from the posterior, which must then
            have reparametrised samples.
        shared: Whether all rows of a batch share their latents, which makes the student's marginal
            that of the minibatch. It goes with the prior, and with no particles.
        antithetic: Whether each latent and level is used with :math:`\pm \varepsilon`.
        control_variate: Whether the part of zero mean is dropped from the teacher's score.

    Raises:
        ValueError: The options exclude each other.

    See also:
        `vardiu.methods.diff_instruct`, which learns the student's score instead.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        posterior: Posterior | None = None,
        *,
        levels: Levels,
        weight: Weight = torch.square,
        particles: int = 0,
        shared: bool = False,
        antithetic: bool = True,
        control_variate: bool = True,
    ) -> None:
        super().__init__(teacher, generator)
        k = math.prod(generator.latent_shape)
        posterior = PriorPosterior(k) if posterior is None else posterior
        if particles < 0:
            raise ValueError(f"particles must be at least 0, got {particles}")
        if shared != isinstance(posterior, PriorPosterior):
            raise ValueError(
                "shared latents go with the prior as posterior, and the prior with shared latents: "
                "give a posterior and shared=False, or no posterior and shared=True"
            )
        if shared and particles:
            raise ValueError("shared latents take no further particles: set particles=0")
        self.posterior = posterior
        self.levels, self.weight = levels, weight
        self.particles, self.shared = particles, shared
        self.antithetic, self.control_variate = antithetic, control_variate

    @property
    def phases(self) -> tuple[Phase, ...]:
        # The prior has no parameters: it is not trained.
        names = ("generator",) if self.shared else ("generator", "posterior")
        return (Phase("bound", self.loss, updates=names),)

    def draw(self, batch: Batch, step: int) -> Draw:
        r"""Draws latents, levels and noise for a batch; pairs of rows differ in the noise's sign."""
        n = len(batch.x)
        z = self.latent(n)
        sigma = self.levels(self.uniform(n), step)
        noise = self.noise_like(z.new_empty(n, *self.generator.shape))
        return Draw(z, noise, sigma, batch.cond)

    def loss(self, batch: Batch, step: int) -> Loss:
        return self.evaluate(self.draw(batch, step))

    def evaluate(self, draw: Draw) -> Loss:
        r"""Returns the loss of given random numbers."""
        z, noise, sigma, cond = draw
        x_0 = x = self.generator(z, **cond)
        if self.antithetic:
            z, x, sigma = torch.cat([z, z]), torch.cat([x, x]), torch.cat([sigma, sigma])
            noise = torch.cat([noise, -noise])
            cond = {name: torch.cat([value, value]) for name, value in cond.items()}
        x_t = x + expand_like(sigma, x) * noise
        with torch.no_grad():
            denoised = self.teacher(x_t, sigma, **cond)
            direction = teacher_direction(
                denoised, x, x_t, sigma, control_variate=self.control_variate
            )
        entropy = self.negative_entropy(z, x, x_0, x_t, sigma, cond)
        value = self.weight(sigma) * (entropy - surrogate(x, direction))
        return Loss(value.mean(), {"negative_entropy": entropy.mean().detach()})

    def negative_entropy(
        self, z: Tensor, x: Tensor, x_0: Tensor, x_t: Tensor, sigma: Tensor, cond: Mapping
    ) -> Tensor:
        r"""Returns the estimate of :math:`\log p_\sigma(x_t)`, never too low on average, `(B,)`.

        Arguments:
            z: The latents, with shape :math:`(B, *)`.
            x: The samples :math:`g(z)`, with shape :math:`(B, *)`.
            x_0: The distinct samples of the batch, for shared latents; :math:`(N, *)`.
            x_t: The noisy samples, with shape :math:`(B, *)`.
            sigma: Their levels, with shape :math:`(B)`.
            cond: Their conditions.
        """
        if self.shared:
            return shared_log_marginal(x_t, x_0, sigma, same_condition(cond, len(x_0)))
        r = self.posterior(x_t, sigma, **cond)
        z = z.flatten(1)
        # The entropies of the prior and of the kernel are exact: only log r is estimated.
        constant = entropy_constant(sigma, x[0].numel(), z.shape[1])
        if not self.particles:
            return constant - r.log_prob(z)
        if not r.has_rsample:
            raise TypeError(
                f"particles need a posterior with reparametrised samples; "
                f"{type(self.posterior).__name__} has none: set particles=0 or take a Gaussian or "
                "a flow"
            )
        zs = torch.cat([z[None], r.rsample((self.particles,))])  # (K + 1, B, k)
        log_r = r.log_prob(zs)
        flat = zs[1:].flatten(0, 1).unflatten(1, self.generator.latent_shape)
        tiled = {name: value.repeat(self.particles) for name, value in cond.items()}
        others = self.generator(flat, **tiled).unflatten(0, (self.particles, len(x)))
        difference = (x_t - torch.cat([x[None], others])).flatten(0, 1)
        kernel = diagonal_normal_log_prob(difference, sigma.repeat(self.particles + 1))
        log_ratio = kernel.view_as(log_r) - log_r
        log_ratio = log_ratio + standard_normal_log_prob(zs.flatten(0, 1)).view_as(log_r)
        return importance_log_marginal(log_ratio.T)

    def bound(self, draw: Draw) -> Tensor:
        r"""Returns estimates of :math:`U^K_\sigma`, one a row, `(B,)`, without reductions of variance.

        Without a density of the teacher, the part :math:`- \log q_\sigma(x_t)` is left out.
        """
        z, noise, sigma, cond = draw
        x = self.generator(z, **cond)
        x_t = x + expand_like(sigma, x) * noise
        value = self.negative_entropy(z, x, x, x_t, sigma, cond)
        teacher = self.teacher.teacher
        return value - teacher.log_prob(x_t, sigma, **cond) if exact(teacher) else value

    def diagnostics(self, batch: Batch, step: int) -> dict[str, Tensor]:
        r"""Returns the bound's value at eight levels, each with its standard error over the batch.

        Named `bound` where the teacher's density is known, `negative_entropy` otherwise.
        """
        n = len(batch.x)
        ends = torch.tensor([0.0, 1 - 1e-6], dtype=torch.float64)
        low, high = self.levels(ends, step).log10().tolist()
        name = "bound" if exact(self.teacher.teacher) else "negative_entropy"
        values: dict[str, Tensor] = {}
        z = self.latent(n, "diagnostic")
        noise = self.noise_like(z.new_empty(n, *self.generator.shape), "diagnostic")
        for sigma in torch.logspace(low, high, 8).tolist():
            value = self.bound(Draw(z, noise, z.new_full((n,), sigma), batch.cond))
            values[f"{name}/{sigma:.3g}"] = value.mean()
            values[f"{name}_error/{sigma:.3g}"] = value.std() / math.sqrt(n)
        return values


def exact(denoiser: Denoiser) -> bool:
    return isinstance(denoiser, ExactDenoiser)


def same_condition(cond: Mapping[str, Tensor], n: int) -> Tensor | None:
    r"""Returns which of the first `n` rows share each row's conditions, `(B, n)`; `None` if all."""
    same = None
    for value in cond.values():
        rows = value.flatten(1) if value.ndim > 1 else value[:, None]
        equal = (rows[:, None] == rows[None, :n]).all(dim=-1)
        same = equal if same is None else same & equal
    return same
