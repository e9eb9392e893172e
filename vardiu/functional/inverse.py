r"""Closed forms of measurements :math:`y = A x + s \, n`: posteriors, and what solvers draw from.

References:
    | Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023)
    | https://arxiv.org/abs/2209.14687
    | Solving Inverse Problems with Latent Diffusion Models via Hard Data Consistency (Song et al.,
    | 2024), https://arxiv.org/abs/2307.08123
    | Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing (Zhang et al.,
    | 2025), https://arxiv.org/abs/2407.01521
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .tensors import expand_like

__all__ = [
    "Mixture",
    "gaussian_posterior",
    "gaussian_product",
    "mixture_posterior",
    "resample_variance",
    "row_norm",
    "vp_scale",
]


class Mixture(NamedTuple):
    r"""Weights `(K,)`, means `(K, d)` and covariances `(K, d, d)` of a mixture of Gaussians."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        r"""Draws samples, with shape `(n, d)`."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        values, vectors = torch.linalg.eigh(self.covariances)
        roots = vectors * values.clamp_min(0).sqrt()[:, None]
        drawn = torch.randn(n, self.means.shape[1], 1, generator=generator, dtype=self.means.dtype)
        return self.means[which] + (roots[which] @ drawn)[..., 0]


def row_norm(x: Tensor) -> Tensor:
    r"""Returns the Euclidean norm of each row, `(B,)`, whose gradient is zero where it is."""
    square = x.flatten(1).square().sum(1)
    some = square > 0
    return torch.where(some, torch.where(some, square, torch.ones_like(square)).sqrt(), square)


def vp_scale(sigma: Tensor) -> Tensor:
    r"""Returns :math:`\sqrt{1 + \sigma^2}`: a state here over a variance-preserving one.

    With :math:`\sigma^2 = (1 - \bar\alpha) / \bar\alpha` that is :math:`\bar\alpha^{-1/2}`. A
    gradient is divided by it: what :math:`x'_{vp} - \zeta \, \nabla_{x_{vp}}` does there, is done
    here by :math:`\zeta \sqrt{1 + \sigma^2} \sqrt{1 + \sigma'^2} \, \nabla_x`.
    """
    return (1 + sigma.square()).sqrt()


def gaussian_posterior(
    mean: Tensor, covariance: Tensor, matrix: Tensor, y: Tensor, noise: float
) -> tuple[Tensor, Tensor]:
    r"""Returns mean and covariance of :math:`x \sim \mathcal{N}(m, C)` given a measurement.

    .. math:: m + K (y - A m), \qquad C - K A C, \qquad
        K = C A^\top (A C A^\top + s^2 I)^{-1}

    Arguments:
        mean: With shape :math:`(*, d)`.
        covariance: With shape :math:`(*, d, d)`.
        matrix: The operator :math:`A`, with shape :math:`(m, d)`.
        y: The measurement, with shape :math:`(m)` or that of the means' batch before it.
        noise: The standard deviation :math:`s` of the noise.
    """
    seen = covariance @ matrix.mT
    spread = matrix @ seen + noise**2 * torch.eye(len(matrix)).to(matrix)
    gain = torch.linalg.solve(spread, seen.mT).mT
    residual = y - mean @ matrix.mT
    return mean + (gain @ residual[..., None])[..., 0], covariance - gain @ matrix @ covariance


def mixture_posterior(prior: Mixture, matrix: Tensor, y: Tensor, noise: float) -> Mixture:
    r"""Returns the posterior of a mixture given one measurement `(m,)`: a mixture as well.

    .. math:: w'_k \propto w_k \, \mathcal{N}(y; A m_k, A C_k A^\top + s^2 I)

    with the means and covariances of `gaussian_posterior`.
    """
    means, covariances = gaussian_posterior(
        prior.means, prior.covariances, matrix, y.expand(len(prior.means), -1), noise
    )
    spread = matrix @ prior.covariances @ matrix.mT
    spread = spread + noise**2 * torch.eye(len(matrix)).to(matrix)
    seen = torch.distributions.MultivariateNormal(prior.means @ matrix.mT, spread)
    return Mixture((prior.weights.log() + seen.log_prob(y)).softmax(0), means, covariances)


def gaussian_product(a: Tensor, var_a: Tensor, b: Tensor, var_b: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns mean and variance of the normalised product of two Gaussians of each row.

    .. math:: \frac{v_b a + v_a b}{v_a + v_b}, \qquad \frac{v_a v_b}{v_a + v_b}

    Arguments:
        a: The mean of one, with shape :math:`(B, *)`.
        var_a: Its variance, with shape :math:`(B)`.
        b: The mean of the other.
        var_b: Its variance.
    """
    total = var_a + var_b
    mean = expand_like(var_b / total, a) * a + expand_like(var_a / total, b) * b
    return mean, var_a * var_b / total


def resample_variance(sigma: Tensor, target: Tensor, gamma: float = 40.0) -> Tensor:
    r"""Returns the variance that ReSample gives a solver's state at the level of its target.

    .. math:: s^2 = \gamma \, \frac{1 - \bar\alpha'}{1 - \bar\alpha}
        \left( 1 - \frac{\bar\alpha}{\bar\alpha'} \right), \qquad
        \bar\alpha = \frac{1}{1 + \sigma^2}

    in the variance-preserving form; here it is divided by :math:`\bar\alpha'`.
    """
    now, then = 1 / (1 + sigma.square()), 1 / (1 + target.square())
    return gamma * (1 - then) / (1 - now) * (1 - now / then) / then
