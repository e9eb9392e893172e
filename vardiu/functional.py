r"""Pure functions of tensors: scores, losses, kernels, bounds.

Nothing here draws a random number, holds a parameter or imports another module of the library, so
that each function can be compared with its closed form on given tensors.

Notation: :math:`x` is a clean sample, :math:`x_t = x + \sigma \varepsilon` a noisy one with
:math:`\varepsilon \sim \mathcal{N}(0, I)`, and :math:`D(x_t, \sigma) = \mathbb{E}[x \mid x_t]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

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
    "importance_log_marginal",
    "lattice_normal",
    "log_sum_exp",
    "pairwise_square",
    "same_condition",
    "scale_gradient",
    "score",
    "shared_log_marginal",
    "standard_normal_log_prob",
    "surrogate",
    "teacher_direction",
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
    r"""Returns the inner product of each pair of rows, with shape `(B,)`."""
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


def score(denoiser: Callable[..., Tensor], x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
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
        # One coordinate after the other, each contiguous: strided ones are not vectorised.
        columns = zip(x.T.contiguous(), y.T.contiguous(), strict=True)
        differences = (a[:, None] - b for a, b in columns)
        total = next(differences).square_()
        for difference in differences:
            total = total.addcmul_(difference, difference)
        return total
    with torch.autocast(x.device.type, enabled=False):
        square = x.square().sum(-1)[:, None] + y.square().sum(-1)[None, :]
        return torch.addmm(square, x, y.T, alpha=-2.0).clamp_min(0.0)


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
    return _LogMixture.apply(x_t.flatten(1), x.flatten(1), sigma, same)


def lattice_normal(shift: Tensor, n: int) -> Tensor:
    r"""Returns `n` points that are each standard normal, and together evenly spread, `(n, k)`.

    .. math:: z_i = \Phi^{-1} \big( (s + i \alpha) \bmod 1 \big), \qquad
        \alpha_j = \phi_k^{-j}, \quad \phi_k^{k + 1} = \phi_k + 1

    a Kronecker sequence with the generalised golden ratio, moved by one uniform shift.

    References:
        | The Unreasonable Effectiveness of Quasirandom Sequences (Roberts, 2018)
        | Randomization of Number Theoretic Methods for Multiple Integration (Cranley and
        | Patterson, 1976), https://doi.org/10.1137/0713071

    Arguments:
        shift: The shift :math:`s`, uniform in [0, 1), with shape :math:`(k)`.
        n: The number of points.
    """
    k = len(shift)
    phi = 2.0
    for _ in range(64):
        phi = (1 + phi) ** (1 / (k + 1))
    powers = torch.arange(1, k + 1, device=shift.device, dtype=torch.float64)
    index = torch.arange(n, device=shift.device, dtype=torch.float64)[:, None]
    u = (shift.double() + index * phi**-powers) % 1.0
    # Both ends are out of reach of a normal's quantile function.
    return torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12)).to(shift.dtype)


def scale_gradient(x: Tensor, factor: Tensor) -> Tensor:
    r"""Returns `x`; its gradient is multiplied by a factor for each row, `(B,)`."""
    factor = expand_like(factor, x)
    return factor * x + (x - factor * x).detach()


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
    ) -> Tensor:
        exponents = pairwise_square(x_t, x).div_(-2 * sigma.square()[:, None])
        count = torch.full_like(sigma, len(x))
        if same is not None:
            exponents.masked_fill_(~same, -math.inf)
            count = same.sum(1).to(sigma)
        value, responsibilities = log_sum_exp(exponents)
        ctx.save_for_backward(x_t, x, sigma, responsibilities)
        constant = x.shape[1] * (sigma.log() + 0.5 * math.log(2 * math.pi))
        return value - count.log() - constant

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:  # noqa: ANN401
        x_t, x, sigma, rho = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            scale = (gradient / sigma.square())[:, None]
            # Thin products are several times faster with the thin matrix on the left.
            of_x_t = scale * ((x.T @ rho.T).T - x_t)
            pulled = (torch.cat([scale * x_t, scale], dim=1).T @ rho).T
        return of_x_t, pulled[:, :-1] - x * pulled[:, -1:], None, None


def log_sum_exp(exponents: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the log-sum-exp of each row `(B,)`, and the softmax `(B, N)`.

    The softmax's kernel flushes what underflows; `torch.exp` takes some ten times longer there,
    and nearly all components of a mixture underflow at small noise. Rows of :math:`-\infty` have
    the value :math:`-\infty` and a softmax of zeros.
    """
    peak = exponents.amax(dim=1)
    share = exponents.softmax(dim=1)
    # The largest share is at least 1 / N: its logarithm is exact to rounding.
    value = peak - share.amax(dim=1).log()
    empty = peak == -math.inf
    if bool(empty.any()):
        share = share.masked_fill(empty[:, None], 0.0)
        value = value.masked_fill(empty, -math.inf)
    return value, share


def teacher_direction(
    denoised: Tensor, x: Tensor, x_t: Tensor, sigma: Tensor, *, control_variate: bool
) -> Tensor:
    r"""Returns the teacher's score, less its part of zero mean if `control_variate`, `(B, *)`."""
    return (denoised - (x if control_variate else x_t)) / expand_like(sigma, x).square()


def same_condition(cond: Mapping[str, Tensor], n: int) -> Tensor | None:
    r"""Returns which of the first `n` rows share each row's conditions, `(B, n)`, or `None`."""
    same = None
    for value in cond.values():
        rows = value.flatten(1) if value.ndim > 1 else value[:, None]
        equal = (rows[:, None] == rows[None, :n]).all(dim=-1)
        same = equal if same is None else same & equal
    return same
