r"""Pure functions of tensors: scores, losses, kernels, bounds.

Nothing here draws a random number, holds a parameter or imports another module of the library, so
that each function can be compared with its closed form on given tensors.

Notation: :math:`x` is a clean sample, :math:`x_t = x + \sigma \varepsilon` a noisy one with
:math:`\varepsilon \sim \mathcal{N}(0, I)`, and :math:`D(x_t, \sigma) = \mathbb{E}[x \mid x_t]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "Weight",
    "denoised_to_score",
    "denoising",
    "diagonal_normal_log_prob",
    "dot",
    "edm_weight",
    "entropy_constant",
    "expand_like",
    "gaussian_kl",
    "pairwise_square",
    "score",
    "standard_normal_log_prob",
    "surrogate",
]

Weight = Callable[[Tensor], Tensor]


def expand_like(a: Tensor, x: Tensor) -> Tensor:
    r"""Appends singleton dimensions to `a`, shape `(B,)`, until it broadcasts with `x`, `(B, *)`.

    Example:
        >>> expand_like(torch.ones(4), torch.ones(4, 3, 8, 8)).shape
        torch.Size([4, 1, 1, 1])
    """
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim))


def dot(a: Tensor, b: Tensor) -> Tensor:
    r"""Returns the inner product of each pair, summed over all dimensions but the first, `(B,)`."""
    return (a * b).flatten(1).sum(dim=1)


def denoised_to_score(denoised: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
    r"""Returns the score of the noisy marginal, by Tweedie's formula.

    .. math:: \nabla_{x_t} \log p_\sigma(x_t) = \frac{\mathbb{E}[x \mid x_t] - x_t}{\sigma^2}

    References:
        | Tweedie's Formula and Selection Bias (Efron, 2011)
        | https://doi.org/10.1198/jasa.2011.tm11181

    Arguments:
        denoised: The posterior mean :math:`\mathbb{E}[x \mid x_t]`, with shape :math:`(B, *)`.
        x_t: A noisy tensor, with shape :math:`(B, *)`.
        sigma: The noise level :math:`\sigma > 0`, with shape :math:`(B)`.
    """
    return (denoised - x_t) / expand_like(sigma, x_t).square()


def score(
    denoiser: Callable[..., Tensor], x_t: Tensor, sigma: Tensor, **cond: Tensor
) -> Tensor:
    r"""Returns the score of the noisy marginal that a denoiser implies (Tweedie's formula).

    Arguments:
        denoiser: A denoiser :math:`\mathbb{E}[x \mid x_t]`.
        x_t: A noisy tensor :math:`x_t = x + \sigma \varepsilon`, with shape :math:`(B, *)`.
        sigma: The noise level :math:`\sigma > 0`, with shape :math:`(B)`.
        cond: Conditions, passed to the denoiser.

    Returns:
        The score, with shape :math:`(B, *)`.

    Example:
        >>> from vardiu.denoise import GaussianDenoiser
        >>> score(GaussianDenoiser(torch.zeros(2), torch.ones(2)), torch.ones(1, 2), torch.ones(1))
        tensor([[-0.5000, -0.5000]])
    """
    return denoised_to_score(denoiser(x_t, sigma, **cond), x_t, sigma)


def surrogate(x: Tensor, direction: Tensor) -> Tensor:
    r"""Returns scalars whose gradient with respect to `x` is `direction`, per sample.

    .. math:: \langle \mathrm{sg}[v], x \rangle

    Arguments:
        x: A differentiable tensor, with shape :math:`(B, *)`.
        direction: The gradient :math:`v` to send back, with the same shape; not differentiated.

    Returns:
        The inner products, with shape :math:`(B)`. Descending them moves `x` along `-direction`.
    """
    return dot(direction.detach(), x)


def denoising(denoised: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    r"""Returns the weighted denoising error, averaged over dimensions, with shape :math:`(B)`.

    .. math:: \frac{w(\sigma)}{d} \, \| D(x_t, \sigma) - x \|^2

    Its minimiser over functions is :math:`D(x_t, \sigma) = \mathbb{E}[x \mid x_t]` for any
    :math:`w > 0`.

    References:
        | A Connection Between Score Matching and Denoising Autoencoders (Vincent, 2011)
        | https://doi.org/10.1162/NECO_a_00142
    """
    return weight * (denoised - x).square().flatten(1).mean(dim=1)


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    r"""Returns :math:`(\sigma^2 + \sigma_d^2) / (\sigma \sigma_d)^2`, with the shape of `sigma`.

    With it an untrained preconditioned denoiser has a loss of one at every level.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364, Table 1
    """
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def pairwise_square(x: Tensor, y: Tensor) -> Tensor:
    r"""Returns squared Euclidean distances between rows, `(N, d), (M, d) -> (N, M)`.

    In few dimensions the differences are summed directly: the expansion
    :math:`\|x\|^2 + \|y\|^2 - 2 \langle x, y \rangle` is faster only where a matrix product is,
    and cancels where :math:`x \approx y`; it is clamped at zero.
    """
    if x.shape[-1] <= 4:
        return sum((x[:, None, i] - y[None, :, i]).square() for i in range(x.shape[-1]))
    with torch.autocast(x.device.type, enabled=False):
        square = x.square().sum(-1)[:, None] + y.square().sum(-1)[None, :]
        return torch.addmm(square, x, y.T, alpha=-2.0).clamp_min(0.0)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    r"""Returns :math:`\log \mathcal{N}(z; 0, I)`, summed over all dimensions but the first."""
    z = z.flatten(1)
    return -0.5 * z.square().sum(dim=1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


def diagonal_normal_log_prob(difference: Tensor, sigma: Tensor) -> Tensor:
    r"""Returns :math:`\log \mathcal{N}(x_t; x, \sigma^2 I)` of differences :math:`x_t - x`, `(B,)`."""
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
