r"""The bound itself: its estimates, what they are at each level, and how loose they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...denoisers.exact import ExactDenoiser
from ...denoisers.levels import Levels
from ...functional.bounds import (
    diagonal_normal_log_prob,
    entropy_constant,
    importance_log_marginal,
    same_condition,
    shared_log_marginal,
    standard_normal_log_prob,
)
from ...functional.tensors import expand_like
from ...posteriors.encoder import Posterior
from ...training.distributed import standard_error
from ...training.objective import Objective

__all__ = ["Bound", "Draw"]


class Draw(NamedTuple):
    r"""The random numbers of one loss, and the conditions they go with."""

    z: Tensor
    noise: Tensor
    sigma: Tensor
    cond: Mapping[str, Tensor]


class Bound(Objective):
    r"""An objective of which the bound can be told: what `VarDiU` descends, and measures.

    Its attributes are the arguments of `VarDiU`.
    """

    posterior: Posterior
    levels: Levels
    particles: int
    shared: bool
    own: float

    def negative_entropy(
        self,
        z: Tensor,
        x: Tensor,
        x_0: Tensor,
        x_t: Tensor,
        sigma: Tensor,
        cond: Mapping[str, Tensor],
        role: str = "particle",
    ) -> Tensor:
        r"""Returns the estimate of :math:`\log p_\sigma(x_t)`, never too low on average, `(B,)`.

        Arguments:
            z: The latents, with shape :math:`(B, *)`.
            x: The samples :math:`g(z)`, with shape :math:`(B, *)`.
            x_0: The distinct samples of the batch, for shared latents; :math:`(N, *)`.
            x_t: The noisy samples, with shape :math:`(B, *)`.
            sigma: Their levels, with shape :math:`(B)`.
            cond: Their conditions.
            role: The stream of the particles.
        """
        if self.shared:
            same = same_condition(cond, len(x_0))
            return shared_log_marginal(x_t, x_0, sigma, same, self.own)
        r = self.posterior(x_t, sigma, **cond)
        z = z.flatten(1)
        # The entropies of the prior and of the kernel are exact: only log r is estimated.
        constant = entropy_constant(sigma, x[0].numel(), z.shape[1])
        if not self.particles:
            if not self.posterior.estimated:
                return constant - r.log_prob(z)
            with self.streams.torch_seeded(f"{role} density", x.device):
                return constant - r.log_prob(z)
        if not r.has_rsample:
            raise TypeError(
                f"particles need a posterior with reparametrised samples; "
                f"{type(self.posterior).__name__} has none: set particles=0 or take a Gaussian or "
                "a flow"
            )
        with self.streams.torch_seeded(role, x.device):
            zs = torch.cat([z[None], r.rsample((self.particles,))])  # (K + 1, B, k)
        log_r = r.log_prob(zs)
        flat = zs[1:].flatten(0, 1).unflatten(1, self.generator.latent_shape)
        tiled = {
            name: value.repeat(self.particles, *[1] * (value.ndim - 1))
            for name, value in cond.items()
        }
        others = self.generator(flat, **tiled).unflatten(0, (self.particles, len(x)))
        difference = (x_t - torch.cat([x[None], others])).flatten(0, 1)
        kernel = diagonal_normal_log_prob(difference, sigma.repeat(self.particles + 1))
        log_ratio = kernel.view_as(log_r) - log_r
        log_ratio = log_ratio + standard_normal_log_prob(zs.flatten(0, 1)).view_as(log_r)
        return importance_log_marginal(log_ratio.T)

    def bound(self, draw: Draw, x: Tensor | None = None) -> Tensor:
        r"""Returns estimates of :math:`U^K_\sigma`, one a row, `(B,)`, without reductions of
        variance.

        Without a density of the teacher, the part :math:`- \log q_\sigma(x_t)` is left out.

        Arguments:
            draw: The random numbers.
            x: The samples :math:`g(z)`, if they are known.
        """
        z, noise, sigma, cond = draw
        x = self.generator(z, **cond) if x is None else x
        x_t = x + expand_like(sigma, x) * noise
        if self.shared:  # with weights of one, whatever those of training are
            value = shared_log_marginal(x_t, x, sigma, same_condition(cond, len(x)))
        else:
            value = self.negative_entropy(z, x, x, x_t, sigma, cond, "diagnostic particle")
        teacher = self.teacher.module
        return value - teacher.log_prob(x_t, sigma, **cond) if exact(teacher) else value

    def diagnostics(self, batch: Batch, step: int) -> dict[str, Tensor]:
        r"""Returns the bound's value at eight levels, each with its standard error over the batch,
        and the posterior's gap at three quantiles of the levels. The error is that of independent
        rows. Those of a lattice vary less together: there it is an upper limit (MoG-40: 1.3 to
        1.9 times the deviation of independent lattices for the shared bound, 4 to 8 otherwise).

        Named `bound` where the teacher's density is known, `negative_entropy` otherwise.
        """
        n = batch.rows
        ends = torch.tensor([0.0, 1 - 1e-6], dtype=torch.float64)
        # The levels of a finished annealing: the same ones at every report.
        low, high = self.levels(ends, 2**62).log10().tolist()
        name = "bound" if exact(self.teacher.module) else "negative_entropy"
        values: dict[str, Tensor] = {}
        z = self.latents(n, "diagnostic")
        noise = self.noise_like(z.new_empty(n, *self.generator.shape), "diagnostic")
        x = self.generator(z, **batch.cond)
        for sigma in torch.logspace(low, high, 8).tolist():
            value = self.bound(Draw(z, noise, z.new_full((n,), sigma), batch.cond), x)
            values[f"{name}/{sigma:.3g}"] = value.mean()
            values[f"{name}_error/{sigma:.3g}"] = standard_error(value)
        if not self.shared:
            # At levels of this step's distribution: the posterior knows no others yet.
            for u in (0.1, 0.5, 0.9):
                sigma = self.levels(z.new_full((n,), u), step)
                gap = self.gap(Draw(z, noise, sigma, batch.cond), x)
                values[f"posterior_gap_quantile/{u}"] = gap.mean()
        return values

    def gap(self, draw: Draw, x: Tensor | None = None) -> Tensor:
        r"""Returns estimates of what the posterior lacks to be calibrated, one a row, `(B,)`.

        .. math:: \mathbb{E}_{z \sim p(z \mid x_t)} [- \log r(z \mid x_t)] -
            \mathbb{E}_{z \sim r} [- \log r(z \mid x_t)]

        Zero where the posterior is exact, and at the optimum of a Gaussian family, by moments;
        positive where it is too narrow or in the wrong place, negative where too broad: it lags.
        """
        z, noise, sigma, cond = draw
        x = self.generator(z, **cond) if x is None else x
        r = self.posterior(x + expand_like(sigma, x) * noise, sigma, **cond)
        with self.streams.torch_seeded("diagnostic posterior", x.device):
            own = r.sample()
            return r.log_prob(own) - r.log_prob(z.flatten(1))


def exact(denoiser: Denoiser) -> TypeGuard[ExactDenoiser]:
    return isinstance(denoiser, ExactDenoiser)
