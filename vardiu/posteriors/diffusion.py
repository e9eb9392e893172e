r"""A posterior that is a diffusion model of the latent, conditioned on the noisy sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ..functional.bounds import diffusion_log_prob
from ..functional.tensors import expand_like
from .encoder import Encoder, Posterior
from .families import GaussianPosterior

__all__ = ["DiffusionPosterior"]


class Diffused(Distribution):
    r"""A diffusion model of :math:`w = (z - \mu) / s`; its log-density is a bound, see
    `DiffusionPosterior`."""

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(
        self, posterior: DiffusionPosterior, features: Tensor, mean: Tensor, std: Tensor
    ) -> None:
        self.posterior, self.features, self.mu, self.std = posterior, features, mean, std
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        posterior = self.posterior
        w = (value - self.mu) / self.std
        # One level in each of as many equal shares, in random order.
        place = torch.randperm(len(w), device=w.device) + torch.rand(len(w), device=w.device)
        tau = posterior.level(place.to(w) / len(w))
        w_tau = w + tau[:, None] * torch.randn_like(w)
        error = w - posterior.denoised(w_tau, tau, self.features)
        bound = diffusion_log_prob(error, w, tau, posterior.LOW, posterior.HIGH)
        return bound - self.std.log().sum(1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        if sample_shape:
            return torch.stack([self.sample() for _ in range(math.prod(sample_shape))])
        posterior = self.posterior
        places = torch.linspace(1, 0, posterior.STEPS + 1, device=self.mu.device)
        taus = posterior.level(places.to(self.mu))
        w = torch.randn_like(self.mu) * (1 + taus[0].square()).sqrt()
        for now, then in zip(taus[:-1], taus[1:], strict=True):
            slope = (w - posterior.denoised(w, now.expand(len(w)), self.features)) / now
            ahead = w + (then - now) * slope  # Heun's step of the probability flow
            there = (ahead - posterior.denoised(ahead, then.expand(len(w)), self.features)) / then
            w = w + (then - now) * 0.5 * (slope + there)
        w = w + posterior.LOW * torch.randn_like(w)
        return self.mu + self.std * w


class DiffusionPosterior(Posterior):
    r"""A conditional diffusion model on top of the Gaussian's whitening, :math:`w = (z - \mu) /
    s`.

    .. math:: \hat{w}(w_\tau, \tau) = \frac{w_\tau}{1 + \tau^2} + \frac{\tau}{\sqrt{1 + \tau^2}}
        \, f \Big( \frac{w_\tau}{\sqrt{1 + \tau^2}}, \log \tau, h(x_t, \sigma) \Big)

    It starts as the Gaussian itself, where :math:`f = 0`. `log_prob` is an estimate of a lower
    bound of :math:`\log r` with one random level and noise a row, drawn from torch's own
    generator: what takes it for :math:`\log r` minimises an upper bound of VarDiU's bound. It has
    no reparametrised samples.

    References:
        | Variational Diffusion Models (Kingma et al., 2021), https://arxiv.org/abs/2107.00630

    Arguments:
        encoder: The encoder :math:`h` of the noisy sample.
        k: The number of latent dimensions.
        hidden: The width of the network :math:`f`.
    """

    # The levels at the ends; what they miss of a standard normal is 2e-4 nats a dimension.
    LOW, HIGH, STEPS = 0.02, 50.0, 32

    estimated = True

    def __init__(self, encoder: Encoder, k: int, hidden: int = 256) -> None:
        super().__init__()
        self.gaussian = GaussianPosterior(encoder, k)
        self.first = nn.Linear(k + 1 + encoder.features, hidden)
        self.inner = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, k)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def level(self, place: Tensor) -> Tensor:
        r"""Returns levels between the ends of places in [0, 1]."""
        return self.LOW * (self.HIGH / self.LOW) ** place

    def denoised(self, w_tau: Tensor, tau: Tensor, features: Tensor) -> Tensor:
        r"""Returns the denoiser's answer, `(B, k)`."""
        total = expand_like((1 + tau.square()).sqrt(), w_tau)
        seen = torch.cat([w_tau / total, tau.log()[:, None] / 4, features], dim=1)
        h = nn.functional.silu(self.inner(nn.functional.silu(self.first(seen))))
        return w_tau / total.square() + expand_like(tau, w_tau) / total * self.last(h)

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Distribution:
        gaussian = self.gaussian
        features = gaussian.encoder(x_t, sigma, **cond)
        mean, std = gaussian.moments_of(features, x_t, sigma)
        return Diffused(self, features, mean, std)
