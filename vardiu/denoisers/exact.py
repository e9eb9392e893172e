r"""Exact denoisers, which need no training."""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor

from ..functional.tensors import log_sum_exp, pairwise_square
from .base import Denoiser

__all__ = ["EmpiricalDenoiser", "ExactDenoiser", "GaussianDenoiser", "MixtureDenoiser"]


class ExactDenoiser(Denoiser):
    r"""A denoiser whose noisy marginal has a known density."""

    @abc.abstractmethod
    def log_prob(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns the log-density of the noisy marginal at `x_t`, in nats, with shape `(B,)`."""


class GaussianDenoiser(ExactDenoiser):
    r"""The exact denoiser of :math:`x \sim \mathcal{N}(m, C)`.

    .. math:: D(x_t, \sigma) = m + C (C + \sigma^2 I)^{-1} (x_t - m)

    Arguments:
        mean: The mean :math:`m`, with any shape :math:`(*)`, of :math:`d` elements.
        covariance: The covariance :math:`C` over the flattened elements, with shape
            :math:`(d, d)`, or the variances, with shape :math:`(*)`.
        sigma_min: The smallest noise level.
        sigma_max: The largest noise level.

    Raises:
        ValueError: The covariance has another shape, or is not positive semi-definite.
    """

    mean: Tensor
    values: Tensor
    vectors: Tensor

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        *,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
    ) -> None:
        super().__init__()
        d = mean.numel()
        if covariance.shape == (d, d):
            values, vectors = torch.linalg.eigh(covariance)
        elif covariance.shape == mean.shape:
            values, vectors = covariance.flatten(), torch.eye(d).to(covariance)
        else:
            raise ValueError(
                f"covariance must have shape {(d, d)} or {tuple(mean.shape)}, "
                f"got {tuple(covariance.shape)}"
            )
        if values.min() < -1e-6 * values.abs().max():
            low = values.min().item()
            raise ValueError(f"covariance must be positive semi-definite, got eigenvalue {low:g}")
        self.shape = tuple(mean.shape)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.register_buffer("mean", mean.flatten())
        self.register_buffer("values", values.clamp_min(0.0))
        self.register_buffer("vectors", vectors)

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.check(x_t, sigma)
        u = (x_t.flatten(1) - self.mean) @ self.vectors
        # Without variance and noise a coordinate is the mean's, and not 0 / 0.
        total = (self.values + sigma.square()[:, None]).clamp_min(torch.finfo(u.dtype).tiny)
        u = u * self.values / total
        return (self.mean + u @ self.vectors.T).reshape(x_t.shape)

    def log_prob(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.check(x_t, sigma)
        u = (x_t.flatten(1) - self.mean) @ self.vectors
        variance = self.values + sigma.square()[:, None]
        return -0.5 * (u.square() / variance + variance.log() + math.log(2 * math.pi)).sum(1)


class MixtureDenoiser(ExactDenoiser):
    r"""The exact denoiser of a mixture of diagonal Gaussians.

    Rows and components are visited in chunks with a running log-sum-exp: memory is linear in the
    batch and in the number of components, whatever their product.

    Arguments:
        means: The means :math:`\mu_m`, with shape :math:`(M, *)`.
        stds: The standard deviations :math:`s_m \geq 0`, with shape :math:`()`, :math:`(M)`, or
            that of `means`.
        weights: The weights, positive, with shape :math:`(M)`; normalised here. Equal by default.
        labels: The class of each component, with shape :math:`(M)`. With it, the denoiser takes
            the condition `label`, and component :math:`m` counts where the label is its own; of a
            label without components the answer is not a number.
        sigma_min: The smallest noise level.
        sigma_max: The largest noise level.
        chunk: The largest number of elements of a temporary tensor. By default what stays in a
            CPU's cache, and 64 times as much on an accelerator, which wants large kernels.

    Raises:
        ValueError: A shape, a sign or a value does not fit.
    """

    means: Tensor
    stds: Tensor
    log_weights: Tensor
    labels: Tensor | None

    def __init__(
        self,
        means: Tensor,
        stds: Tensor | float,
        weights: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        stds = torch.as_tensor(stds, dtype=means.dtype, device=means.device)
        if stds.ndim == means.ndim and stds.ndim > 1:
            stds = stds.flatten(1)
        elif stds.ndim == 0:
            stds = stds.expand(len(means))
        if stds.shape[0] != len(means) or stds.ndim > 2:
            raise ValueError(
                f"stds must be a number or have shape ({len(means)},) or "
                f"{tuple(means.shape)}, got {tuple(stds.shape)}"
            )
        weights = torch.ones_like(means.flatten(1)[:, 0]) if weights is None else weights
        if weights.shape != (len(means),) or not bool((weights > 0).all()):
            raise ValueError(
                f"weights must be positive, with shape ({len(means)},), "
                f"got shape {tuple(weights.shape)} and minimum {weights.min().item():g}"
            )
        if not (means.isfinite().all() and stds.isfinite().all() and bool((stds >= 0).all())):
            raise ValueError("means and stds must be finite, and stds at least zero")
        self.shape = tuple(means.shape[1:])
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.conditions = () if labels is None else ("label",)
        self.chunk = chunk
        self.register_buffer("means", means.flatten(1))
        self.register_buffer("stds", stds.contiguous())
        # One width for all components: what depends on it is one number a row.
        self.common = bool((self.stds == self.stds.flatten()[0]).all())
        total = weights.sum()
        if labels is not None:  # a class's own density is normalised
            total = weights.new_zeros(int(labels.max()) + 1).index_add(0, labels, weights)[labels]
        self.register_buffer("log_weights", (weights / total).log())
        self.register_buffer("labels", labels)

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.check(x_t, sigma)
        return self._moments(x_t.flatten(1), sigma, cond.get("label"))[1].reshape(x_t.shape)

    def log_prob(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.check(x_t, sigma)
        return self._moments(x_t.flatten(1), sigma, cond.get("label"))[0]

    def _moments(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        r"""Returns the log-density `(B,)` and the posterior mean `(B, d)`: an online softmax."""
        if (label is None) != (self.labels is None):
            raise ValueError(
                "this mixture has no classes, `label` must not be given"
                if self.labels is None
                else "this mixture has classes: give `label`, with shape (B,)"
            )
        d = x.shape[1]
        rows, size = self._sizes(len(x), d)
        label = x.new_zeros(len(x)) if label is None else label
        parts = zip(x.split(rows), sigma.split(rows), label.split(rows), strict=True)
        values, means = zip(*(self._visit(*part, size) for part in parts), strict=True)
        return torch.cat(values) - 0.5 * d * math.log(2 * math.pi), torch.cat(means)

    def _sizes(self, batch: int, d: int) -> tuple[int, int]:
        r"""Returns the numbers of rows and of components of a chunk."""
        chunk = self.chunk or (2**18 if self.means.device.type == "cpu" else 2**24)
        wide = d if self.stds.ndim == 2 else 1
        rows = min(batch, max(16, chunk // (len(self.means) * wide)))
        return max(1, rows), max(1, chunk // (max(1, rows) * wide))

    def _visit(self, x: Tensor, sigma: Tensor, label: Tensor, size: int) -> tuple[Tensor, Tensor]:
        variance = sigma.square()[:, None]
        log_prob, mean = x.new_full((len(x),), -math.inf), torch.zeros_like(x)
        for begin in range(0, len(self.means), size):
            part = slice(begin, begin + size)
            log_p, gain = self._log_joint(x, variance, part)
            if self.labels is not None:
                log_p = log_p.masked_fill(self.labels[part] != label[:, None], -math.inf)
            value, share = log_sum_exp(log_p)
            pull = self._pull(x, share, gain, part)
            total = torch.logaddexp(log_prob, value)
            # Where all components so far are of other classes, both terms are -inf.
            share_before = (log_prob - total).exp().masked_fill(total == -math.inf, 0.0)[:, None]
            share_here = (value - total).exp().masked_fill(total == -math.inf, 0.0)[:, None]
            mean = share_before * mean + share_here * pull
            log_prob = total
        # Of a class without components nothing is known. To refuse it would make the host wait.
        return log_prob, mean.masked_fill((log_prob == -math.inf)[:, None], math.nan)

    def _log_joint(self, x: Tensor, variance: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        r"""Returns the log of weight times density `(B, m)` less a constant, and the gain
        :math:`s_m^2 / (s_m^2 + \sigma^2)`, `(B, 1)`, `(B, m)` or `(B, m, d)`."""
        means, square = self.means[part], self.stds[part].square()
        if square.ndim == 1:
            square = square[:1] if self.common else square
            spread = square + variance  # (B, 1) or (B, m)
            log_p = pairwise_square(x, means).div_(-2 * spread)
            log_p = log_p.sub_(0.5 * x.shape[1] * spread.log()).add_(self.log_weights[part])
            return log_p, square / spread
        spread = square + variance[..., None]  # (B, m, d)
        log_p = -0.5 * ((x[:, None] - means).square() / spread + spread.log()).sum(-1)
        return log_p.add_(self.log_weights[part]), square / spread

    def _pull(self, x: Tensor, weight: Tensor, gain: Tensor, part: slice) -> Tensor:
        r"""Returns the weighted sum of the components' posterior means, `(B, d)`."""
        means = self.means[part]
        if gain.ndim == 3:
            return (weight[..., None] * (means + gain * (x[:, None] - means))).sum(1)
        with torch.autocast(x.device.type, enabled=False):
            if gain.shape[1] == 1:  # one gain for all components: their weights sum to one
                return (1 - gain) * (means.T @ weight.T).T + gain * x
            kept = weight * gain
            return (means.T @ (weight - kept).T).T + kept.sum(1, keepdim=True) * x


class EmpiricalDenoiser(MixtureDenoiser):
    r"""The exact denoiser of a data set, or of its kernel density estimate.

    .. math:: D(x_t, \sigma) = \sum_i \rho_i(x_t) \, x_i \quad (\text{bandwidth } 0), \qquad
        \rho_i(x_t) \propto \exp \left( - \frac{\| x_t - x_i \|^2}{2 \sigma^2} \right)

    Arguments:
        points: The data :math:`x_i`, with shape :math:`(N, *)`.
        bandwidth: The standard deviation of the kernel around each point, in units of the data.
        labels: The class of each point, with shape :math:`(N)`.
        sigma_min: The smallest noise level; the score of bare points is singular at zero.
        sigma_max: The largest noise level.
        chunk: The largest number of elements of a temporary tensor.
    """

    def __init__(
        self,
        points: Tensor,
        *,
        bandwidth: float = 0.0,
        labels: Tensor | None = None,
        sigma_min: float,
        sigma_max: float = math.inf,
        chunk: int | None = None,
    ) -> None:
        super().__init__(
            points,
            bandwidth,
            labels=labels,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            chunk=chunk,
        )
