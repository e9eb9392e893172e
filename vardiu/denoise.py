r"""Denoisers: the mean of a clean sample given a noisy one.

Every teacher, every critic and every guidance of the library speaks one language,

.. math:: D(x_t, \sigma) = \mathbb{E}[x \mid x_t], \qquad x_t = x + \sigma \varepsilon, \quad
    \varepsilon \sim \mathcal{N}(0, I),

so that no method knows about schedules, discrete times or prediction types. A variance-preserving
or a flow-matching network is brought to this coordinate once, where it is loaded.

The exact denoisers below need no training. For a mixture :math:`\sum_m w_m \mathcal{N}(\mu_m,
\mathrm{diag}(s_m^2))` the noisy marginal is the mixture of :math:`\mathcal{N}(\mu_m,
\mathrm{diag}(s_m^2 + \sigma^2))`, with responsibilities :math:`\rho_m(x_t)`, and

.. math:: D(x_t, \sigma) = \sum_m \rho_m(x_t) \left( \mu_m
    + \frac{s_m^2}{s_m^2 + \sigma^2} (x_t - \mu_m) \right).
"""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .functional import expand_like, log_sum_exp, pairwise_square

__all__ = [
    "Denoiser",
    "EmpiricalDenoiser",
    "ExactDenoiser",
    "GaussianDenoiser",
    "MixtureDenoiser",
    "PreconditionedDenoiser",
]


class Denoiser(nn.Module, abc.ABC):
    r"""The interface: `denoiser(x_t, sigma, **cond)` returns :math:`\mathbb{E}[x \mid x_t]`.

    Attributes:
        shape: The shape of one sample, without the batch.
        sigma_min: The smallest noise level at which it can be trusted.
        sigma_max: The largest one.
        conditions: The names of its keyword arguments, each a tensor with :math:`B` rows.
        terminal: Whether `generate` can be asked at infinite noise.
        origin: Where it was loaded from, see `vardiu.teachers`.
    """

    shape: tuple[int, ...]
    sigma_min: float
    sigma_max: float
    conditions: tuple[str, ...] = ()
    terminal: bool = False
    origin: Any = None

    @abc.abstractmethod
    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns the denoised tensor.

        Arguments:
            x_t: A noisy tensor, with shape :math:`(B, *)`.
            sigma: The noise level of each row, with shape :math:`(B)`.
            cond: The conditions, by name.

        Returns:
            The mean of the clean sample, with the shape and the type of `x_t`.
        """

    def generate(self, z: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        r"""Returns what is made in one call of a standard normal latent, :math:`D(\sigma z,
        \sigma)`."""
        return self(sigma * z, z.new_full((z.shape[0],), sigma), **cond)

    def noise_gain(self, sigma: float) -> float:
        r"""Returns how many times the error of the predicted noise is in the mean; zero where the
        network does not predict noise.

        At a great level a prediction that is nearly exact gives a mean that is far off, and
        samples well all the same.
        """
        return 0.0

    @property
    def latent_sigma(self) -> float:
        r"""The level at which a student asks it unless told otherwise."""
        return self.sigma_max

    def start(self) -> Denoiser:
        r"""Returns a trainable copy, for a student or a fake to start from.

        Raises:
            TypeError: It has no weights.
        """
        if next(self.parameters(), None) is None:
            raise TypeError(
                f"{type(self).__name__} has no weights that a student could start from; "
                "give a network: Pushforward(network, latent_shape=..., shape=...)"
            )
        return copy.deepcopy(self).requires_grad_(True).train()

    def check(self, x_t: Tensor, sigma: Tensor) -> None:
        r"""Raises a `ValueError` that names what is wrong with the shapes or types, if any."""
        if tuple(x_t.shape[1:]) != tuple(self.shape):
            raise ValueError(
                f"x_t must have shape (B, {', '.join(map(str, self.shape))}), "
                f"got {tuple(x_t.shape)}"
            )
        if sigma.shape != x_t.shape[:1]:
            raise ValueError(
                f"sigma must have shape ({len(x_t)},), one level a row of x_t, "
                f"got {tuple(sigma.shape)}"
            )
        if not x_t.is_floating_point():
            raise ValueError(f"x_t must be of a floating-point type, got {x_t.dtype}")


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
        u = u * self.values / (self.values + sigma.square()[:, None])
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
            the condition `label`, and component :math:`m` counts where the label is its own.
        sigma_min: The smallest noise level.
        sigma_max: The largest noise level.
        chunk: The largest number of elements of a temporary tensor. By default what stays in a
            CPU's cache, and 64 times as much on an accelerator, which wants large kernels.

    Raises:
        ValueError: A shape, a sign or a value does not fit.
    """

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
        return log_prob, mean

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


class PreconditionedDenoiser(Denoiser):
    r"""A network :math:`F` with scaled input, output and skip connection.

    .. math:: D(x_t, \sigma) = m + c_\mathrm{skip} (x_t - m)
        + c_\mathrm{out} F \big( c_\mathrm{in} (x_t - m), \tfrac14 \log \sigma \big)

    with :math:`c_\mathrm{skip} = \sigma_d^2 / (\sigma^2 + \sigma_d^2)`, :math:`c_\mathrm{out} =
    \sigma \sigma_d / \sqrt{\sigma^2 + \sigma_d^2}` and :math:`c_\mathrm{in} = 1 / \sqrt{\sigma^2 +
    \sigma_d^2}`, so that the network's input and target have unit variance at every level.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364, Table 1

    Arguments:
        network: The module :math:`F(x, c_\mathrm{noise}, \ldots)`, of a tensor :math:`(B, *)` and
            of levels :math:`(B)`.
        shape: The shape of one sample.
        sigma_data: The standard deviation :math:`\sigma_d` of the data.
        sigma_min: The smallest noise level of the training.
        sigma_max: The largest one.
        mean: The mean :math:`m` of the data, a number or a tensor that broadcasts with a sample.
        conditions: The names of the network's conditions.

    Raises:
        ValueError: `sigma_min` is not below `sigma_max`, or `sigma_data` not positive.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        shape: Sequence[int],
        sigma_data: float,
        sigma_min: float,
        sigma_max: float,
        mean: Tensor | float = 0.0,
        conditions: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not 0 <= sigma_min < sigma_max:
            raise ValueError(f"sigma_min must be below sigma_max, got {sigma_min}, {sigma_max}")
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}")
        self.network = network
        self.shape = tuple(shape)
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, sigma_min, sigma_max
        self.conditions = tuple(conditions)
        self.arguments = {
            "shape": list(shape),
            "sigma_data": sigma_data,
            "sigma_min": sigma_min,
            "sigma_max": sigma_max,
            "mean": torch.as_tensor(mean).tolist(),
            "conditions": list(conditions),
        }
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.get_default_dtype()))

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.check(x_t, sigma)
        total = (sigma.square() + self.sigma_data**2).sqrt()
        c_in = expand_like(1 / total, x_t)
        c_out = expand_like(sigma * self.sigma_data / total, x_t)
        c_skip = expand_like((self.sigma_data / total).square(), x_t)
        centred = x_t - self.mean
        output = self.network(c_in * centred, sigma.log() / 4, **cond)
        return self.mean + c_skip * centred + c_out * output.to(x_t.dtype)

    def extra_repr(self) -> str:
        return (
            f"shape={self.shape}, sigma_data={self.sigma_data:g}, "
            f"sigma_min={self.sigma_min:g}, sigma_max={self.sigma_max:g}"
        )
