r"""Log-densities and variational bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .tensors import log_sum_exp, pairwise_square

__all__ = [
    "diagonal_normal_log_prob",
    "diffusion_log_prob",
    "entropy_constant",
    "gaussian_kl",
    "importance_log_marginal",
    "same_condition",
    "shared_log_marginal",
    "shared_mean",
    "standard_normal_log_prob",
]


def standard_normal_log_prob(z: Tensor) -> Tensor:
    r"""Returns :math:`\log \mathcal{N}(z; 0, I)`, summed over all dimensions but the first."""
    z = z.flatten(1)
    return -0.5 * z.square().sum(dim=1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


def diagonal_normal_log_prob(difference: Tensor, sigma: Tensor) -> Tensor:
    r"""Returns :math:`\log \mathcal{N}(x_t; x, \sigma^2 I)` of :math:`x_t - x`, `(B,)`."""
    d = difference[0].numel()
    square = difference.flatten(1).square().sum(dim=1)
    return -0.5 * square / sigma.square() - d * (sigma.log() + 0.5 * math.log(2 * math.pi))


def entropy_constant(sigma: Tensor, d: int, k: int) -> Tensor:
    r"""Returns minus the entropy of the pair :math:`(x_t \mid z), z`, with the shape of `sigma`.

    .. math:: - \frac{d}{2} \log (2 \pi e \sigma^2) - \frac{k}{2} \log (2 \pi e)

    It is the part of the variational bound that no network moves; with it, values of the bound
    can be compared across noise levels.
    """
    log_2pie = math.log(2 * math.pi) + 1
    return -d * (sigma.log() + 0.5 * log_2pie) - 0.5 * k * log_2pie


def gaussian_kl(mean_p: Tensor, cov_p: Tensor, mean_q: Tensor, cov_q: Tensor) -> Tensor:
    r"""Returns :math:`\mathrm{KL}(\mathcal{N}(m_p, C_p) \,\|\, \mathcal{N}(m_q, C_q))`, in nats.

    .. math:: \tfrac12 \left( \mathrm{tr}(C_q^{-1} C_p) - d
        + (m_q - m_p)^\top C_q^{-1} (m_q - m_p) + \log \frac{\det C_q}{\det C_p} \right)

    Arguments:
        mean_p: The mean :math:`m_p`, with shape :math:`(d)`.
        cov_p: The covariance :math:`C_p`, with shape :math:`(d, d)`, positive definite.
        mean_q: The mean :math:`m_q`, with shape :math:`(d)`.
        cov_q: The covariance :math:`C_q`, with shape :math:`(d, d)`, positive definite.
    """
    chol_q, chol_p = torch.linalg.cholesky(cov_q), torch.linalg.cholesky(cov_p)
    scale = torch.linalg.solve_triangular(chol_q, chol_p, upper=False)
    shift = torch.linalg.solve_triangular(chol_q, (mean_q - mean_p)[:, None], upper=False)
    log_det = chol_q.diagonal().log().sum() - chol_p.diagonal().log().sum()
    return 0.5 * (scale.square().sum() + shift.square().sum() - len(mean_p)) + log_det


def diffusion_log_prob(
    error: Tensor, z: Tensor, tau: Tensor, tau_min: float, tau_max: float
) -> Tensor:
    r"""Returns an estimate, on average not too high, of the log-density of a diffusion model.

    The model draws :math:`z_\tau = z + \tau e` at :math:`\tau_\mathrm{max}` from
    :math:`\mathcal{N}(0, (1 + \tau_\mathrm{max}^2) I)`, follows its denoiser :math:`\hat{z}` down
    to :math:`\tau_\mathrm{min}`, and adds what was noise there, :math:`\mathcal{N}(z;
    z_{\tau_\mathrm{min}}, \tau_\mathrm{min}^2 I)`. With :math:`\log \tau` uniform,

    .. math:: - \log r(z) \leq L \, \mathbb{E} \left[ \frac{\| z - \hat{z}(z_\tau, \tau) \|^2}
        {\tau^2} \right] + \mathrm{KL} \big( \mathcal{N}(z, \tau_\mathrm{max}^2 I) \,\|\,
        \mathcal{N}(0, (1 + \tau_\mathrm{max}^2) I) \big)
        + \tfrac{k}{2} \log (2 \pi e \, \tau_\mathrm{min}^2), \qquad
        L = \log \frac{\tau_\mathrm{max}}{\tau_\mathrm{min}}.

    With the denoiser of :math:`\mathcal{N}(m, C)`, whose eigenvalues are :math:`\lambda_i`, the
    mean gap is that of the two ends, :math:`\tfrac12 \sum_i \log (1 + \tau_\mathrm{min}^2 /
    \lambda_i) + \mathrm{KL}(\mathcal{N}(m, C + \tau_\mathrm{max}^2 I) \,\|\, \mathcal{N}(0, (1 +
    \tau_\mathrm{max}^2) I))`.

    References:
        | Variational Diffusion Models (Kingma et al., 2021), https://arxiv.org/abs/2107.00630

    Arguments:
        error: What the denoiser misses, :math:`z - \hat{z}`, with shape :math:`(B, k)`.
        z: The points, with shape :math:`(B, k)`.
        tau: The levels, with shape :math:`(B)`, each log-uniform.
        tau_min: The smallest level.
        tau_max: The largest level.
    """
    k = z.shape[1]
    path = math.log(tau_max / tau_min) * error.square().sum(1) / tau.square()
    share = tau_max**2 / (1 + tau_max**2)
    end = 0.5 * (z.square().sum(1) / (1 + tau_max**2) + k * (share - 1 - math.log(share)))
    return -path - end - 0.5 * k * (math.log(2 * math.pi) + 1) - k * math.log(tau_min)


def importance_log_marginal(log_ratios: Tensor) -> Tensor:
    r"""Returns :math:`\log \frac{1}{K+1} \sum_j e^{\ell_j}` of log-ratios `(B, K + 1)`, `(B,)`.

    References:
        | Importance Weighted Hierarchical Variational Inference (Sobolev and Vetrov, 2019)
        | https://arxiv.org/abs/1905.03290
    """
    return log_ratios.logsumexp(dim=1) - math.log(log_ratios.shape[1])


def shared_log_marginal(
    x_t: Tensor, x: Tensor, sigma: Tensor, same: Tensor | None = None, own: float = 1.0
) -> Tensor:
    r"""Returns the log-density of the minibatch mixture at each noisy sample.

    .. math:: \log \frac{1}{\sum_j c_{ij}} \sum_{j \in \mathcal{N}_i} c_{ij} \,
        \mathcal{N}(x_{t,i}; x_j, \sigma_i^2 I), \qquad c_{ij} = c \text{ where } x_{t,i}
        \text{ was made of } x_j, \text{ else } 1

    With :math:`c = 1` this is the bound with the prior as posterior, where all rows share their
    latents: its mean is not below that of :math:`\log p_\sigma(x_t)`. With :math:`c = 0` it is
    not above. Let :math:`\rho = \mathcal{N}(x_t; x, \sigma^2 I) / p_\sigma(x_t)`, whose mean is
    one and whose variance is :math:`V`. A row's own ratio has the mean :math:`1 + V` given
    :math:`x_t`. To the first order in :math:`1 / N`, for independent rows,

    .. math:: \mathbb{E} \log \hat{p}_c - \mathbb{E} \log p_\sigma = \frac{(c - 1/2) \, V}{N},

    so that at :math:`c = 1/2` the estimate has no error of that order; it is no bound.

    References:
        | Semi-Implicit Variational Inference (Yin and Zhou, 2018)
        | https://arxiv.org/abs/1805.11183

    Arguments:
        x_t: Noisy samples, with shape :math:`(B, *)`.
        x: Clean samples, among them the one that each noisy sample was made of, :math:`(N, *)`.
        sigma: The levels of the noisy samples, with shape :math:`(B)`.
        same: Which clean samples share the condition of each noisy one, with shape
            :math:`(B, N)`. All by default.
        own: The weight :math:`c` of a row's own sample; 1 where no other has its condition. Below
            one, the noisy samples must be made of the clean ones in their order, over and over.

    Returns:
        The log-densities, with shape :math:`(B)`, in nats.
    """
    return _LogMixture.apply(x_t.flatten(1), x.flatten(1), sigma, same, own)


def shared_mean(
    x_t: Tensor,
    x: Tensor,
    sigma: Tensor,
    same: Tensor | None = None,
    own: float = 1.0,
    rows: int | None = None,
) -> Tensor:
    r"""Returns the minibatch mixture's posterior mean of the clean sample, `(B, *)`.

    It is the denoiser whose score is the gradient of `shared_log_marginal` in `x_t` with `x` held.

    Arguments:
        x_t: See there, as for all but the last.
        x: See there.
        sigma: See there.
        same: See there.
        own: See there.
        rows: How many of the clean samples, the first ones, the noisy ones were made of; by
            default all.
    """
    exponents = _exponents(x_t.flatten(1), x.flatten(1), sigma, same, own, rows)
    share = log_sum_exp(exponents)[1]
    return (x.flatten(1).T @ share.T).T.reshape(x_t.shape)


def _exponents(
    x_t: Tensor, x: Tensor, sigma: Tensor, same: Tensor | None, own: float, rows: int | None = None
) -> Tensor:
    r"""Returns the logarithms of the mixture's terms, without their constant, `(B, N)`."""
    exponents = pairwise_square(x_t, x).div_(-2 * sigma.square()[:, None])
    if same is not None:
        exponents.masked_fill_(~same, -math.inf)
    if own != 1:
        rows = len(x) if rows is None else rows
        index = torch.arange(len(x_t), device=x_t.device)
        # A sample that is alone stays: a mixture of nothing has no density.
        count = torch.full_like(index, len(x)) if same is None else same.sum(1)
        less = math.log(own) if own else -math.inf
        exponents[index, index % rows] += torch.where(count == 1, 0.0, less).to(exponents)
    return exponents


class _LogMixture(torch.autograd.Function):
    r"""The minibatch mixture's log-density, with its gradient in closed form.

    With responsibilities :math:`\rho_{ij}` the gradients of row :math:`i` are

    .. math:: \nabla_{x_{t,i}} = - \frac{x_{t,i} - \sum_j \rho_{ij} x_j}{\sigma_i^2}, \qquad
        \nabla_{x_j} = \rho_{ij} \frac{x_{t,i} - x_j}{\sigma_i^2},

    two matrix products, where automatic differentiation would keep and visit seven matrices.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's own)
        x_t: Tensor,
        x: Tensor,
        sigma: Tensor,
        same: Tensor | None,
        own: float,
    ) -> Tensor:
        exponents = _exponents(x_t, x, sigma, same, own)
        count = torch.full_like(sigma, len(x)) if same is None else same.sum(1).to(sigma)
        count = count - (1 - own) * (count > 1).to(sigma)
        value, responsibilities = log_sum_exp(exponents)
        ctx.save_for_backward(x_t, x, sigma, responsibilities)
        constant = x.shape[1] * (sigma.log() + 0.5 * math.log(2 * math.pi))
        return value - count.log() - constant

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        gradient: Tensor,
    ) -> tuple[Tensor, Tensor, None, None, None]:
        x_t, x, sigma, rho = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            scale = (gradient / sigma.square())[:, None]
            # Thin products are several times faster with the thin matrix on the left.
            of_x_t = scale * ((x.T @ rho.T).T - x_t)
            pulled = (torch.cat([scale * x_t, scale], dim=1).T @ rho).T
        return of_x_t, pulled[:, :-1] - x * pulled[:, -1:], None, None, None


def same_condition(cond: Mapping[str, Tensor], n: int) -> Tensor | None:
    r"""Returns which of the first `n` rows share each row's conditions, `(B, n)`, or `None`."""
    same = None
    for value in cond.values():
        rows = value.flatten(1) if value.ndim > 1 else value[:, None]
        equal = (rows[:, None] == rows[None, :n]).all(dim=-1)
        same = equal if same is None else same & equal
    return same
