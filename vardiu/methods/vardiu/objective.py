r"""The gradient of the bound."""

from __future__ import annotations

import math

import torch

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...denoisers.levels import Levels
from ...errors import ConfigError
from ...functional.scores import Weight, check_temperature, surrogate, teacher_direction
from ...functional.tensors import expand_like, scale_gradient
from ...posteriors.encoder import Posterior
from ...posteriors.families import (
    PriorPosterior,
)
from ...students.base import Generator
from ...training.objective import Loss, Phase
from .bound import Bound, Draw

__all__ = ["VarDiU"]


class VarDiU(Bound):
    r"""The variational diffusive upper bound.

    .. math:: \mathcal{L} = \mathbb{E}_{\sigma, z, \varepsilon} \left[ w(\sigma) \left(
        - \log r(z \mid x_t) - \langle \mathrm{sg}[S(x_t, \sigma)], g(z) \rangle \right) \right]

    (Section 3 of the paper.) One phase trains the student and the posterior together. With a
    temperature :math:`\tau` before its first term it is a bound of the divergence less
    :math:`(\tau - 1) \, \mathrm{H}(p_\sigma)`, see `DiffInstruct`.

    Needs:
        No data, no gradient of the teacher, one call of the teacher a row.

    Deviations:
        - The weight multiplies each row. The authors' script broadcasts it over the batch, where
          it acts as a constant.
        - A flow posterior is conditioned on :math:`x_t`, and normalised; the authors' flow mixes
          the latent and the sample in a network that is not bijective, and detaches both.
        - `particles`, `shared`, `temperature` and `control_variate` are not in the paper.

    References:
        | VarDiU: A Variational Diffusive Upper Bound for One-Step Diffusion Distillation
        | (Wang, Zhang, Ou and Barber, 2025), https://arxiv.org/abs/2508.20646

    Arguments:
        teacher: The denoiser to distil.
        generator: The student :math:`g`.
        posterior: The posterior :math:`r`; `None` stands for the prior.
        levels: The distribution of noise levels.
        weight: The weight :math:`w(\sigma)` of a level; :math:`\sigma^2` by default.
        posterior_weight: The weight of a level in the posterior's own gradient, the same by
            default. At each level the best posterior is the same whatever it is; a weight that
            vanishes at small noise leaves the posterior untrained there.
        particles: The number :math:`K` of further latents from the posterior, which must then
            have reparametrised samples.
        shared: Whether all rows of a batch share their latents, which makes the student's marginal
            that of the minibatch. It goes with the prior, and with no particles.
        own: The weight of a row's own sample in that mixture: 1 for a bound, see
            `vardiu.functional.bounds.shared_log_marginal`.
        temperature: The temperature :math:`\tau` of the law that is matched at each level.
        lattice: Whether latents and levels are spread evenly, see `Objective`. For shared latents
            the bound holds and is tighter: the mixture of the batch has the student's marginal
            for its mean, and the divergence is convex.
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
        posterior_weight: Weight | None = None,
        particles: int = 0,
        shared: bool = False,
        own: float = 1.0,
        temperature: float = 1.0,
        lattice: bool = False,
        antithetic: bool = True,
        control_variate: bool = True,
    ) -> None:
        super().__init__(teacher, generator)
        if not generator.latent_shape:
            raise ValueError(
                f"the bound needs a student of normal latents, got a {type(generator).__name__}, "
                "whose input is the index of a row: take diff_instruct"
            )
        k = math.prod(generator.latent_shape)
        posterior = PriorPosterior(k) if posterior is None else posterior
        if particles < 0:
            raise ValueError(f"particles must be at least 0, got {particles}")
        if shared != isinstance(posterior, PriorPosterior):
            raise ValueError(
                "shared latents go with the prior as posterior, and the prior with them: "
                "give a posterior and shared=False, or no posterior and shared=True"
            )
        if shared and particles:
            raise ValueError("shared latents take no further particles: set particles=0")
        if particles and generator.jumps:
            raise ConfigError(
                f"particles need a student that is continuous in its latent, and this "
                f"{type(generator).__name__} jumps: set particles=0, or codes=0 where it has codes"
            )
        if not 0 <= own <= 1 or (own != 1 and not shared):
            raise ValueError(f"own must be within [0, 1], and 1 unless shared, got {own}")
        check_temperature(temperature)
        if posterior_weight is not None and (shared or particles):
            raise ValueError(
                "a weight of the posterior's own takes no particles or shared latents"
            )
        self.posterior = posterior
        self.levels, self.weight = levels, weight
        self.posterior_weight = posterior_weight
        self.particles, self.shared, self.lattice = particles, shared, lattice
        self.own, self.temperature = own, temperature
        self.antithetic, self.control_variate = antithetic, control_variate

    @property
    def phases(self) -> tuple[Phase, ...]:
        # The prior has no parameters: it is not trained.
        names = ("generator",) if self.shared else ("generator", "posterior")
        return (Phase("bound", self.loss, updates=names),)

    @property
    def row_coupling(self) -> str:
        return "the minibatch mixture is made of all rows of a batch" if self.shared else ""

    def draw(self, batch: Batch, step: int) -> Draw:
        r"""Draws the latents, levels and noise of a batch."""
        n = batch.rows
        z = self.latents(n)
        sigma = self.levels(self.quantiles(n), step)
        noise = self.noise_like(z.new_empty(n, *self.generator.shape))
        return Draw(z, noise, sigma, batch.cond)

    @property
    def student_moves(self) -> bool:
        r"""Whether the student is to have a gradient; for the posterior's alone, before the
        student's first update, the teacher is not asked."""
        return any(p.requires_grad for p in self.generator.parameters())

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
        weight = self.weight(sigma)
        if not self.student_moves:
            own = weight if self.posterior_weight is None else self.posterior_weight(sigma)
            entropy = self.negative_entropy(z, x, x_0, x_t, sigma, cond)
            return Loss((own * entropy).mean(), {"negative_entropy": entropy.mean().detach()})
        with torch.no_grad():
            denoised = self.teacher(x_t, sigma, **cond)
            direction = teacher_direction(
                denoised, x, x_t, sigma, control_variate=self.control_variate
            )
        if self.posterior_weight is None:
            entropy = self.negative_entropy(z, x, x_0, x_t, sigma, cond)
            value = weight * (self.temperature * entropy - surrogate(x, direction))
        else:
            # One evaluation serves both: the student's gradient arrives through x_t alone.
            own = self.posterior_weight(sigma)
            seen = scale_gradient(x_t, self.temperature * weight / own)
            entropy = self.negative_entropy(z, x, x_0, seen, sigma, cond)
            value = own * entropy - weight * surrogate(x, direction)
        return Loss(value.mean(), {"negative_entropy": entropy.mean().detach()})
