r"""Posteriors: normalised densities over the latent given a noisy sample, :math:`r(z \mid x_t)`.

A posterior is a module that returns a `torch.distributions.Distribution` with batch shape `(B,)`
and event shape `(k,)`, the flattened latent. A Gaussian, a mixture and a flow are therefore one
constructor argument apart.

Each is a head on an encoder. The encoder sees the noisy sample at unit scale, and the head's
spread is stated relative to that of a linear student,

.. math:: c_\mathrm{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}, \qquad
    c_\mathrm{sd} = \frac{\sigma}{\sqrt{\sigma^2 + \sigma_d^2}},

since for :math:`g(z) = \sigma_d z` the posterior of :math:`z` has exactly the standard deviation
:math:`c_\mathrm{sd}`: the noise pins the latent down where it is small, and leaves the prior
where it is large.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import zuko
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from .encoder import UNIT, Encoder, Posterior, UnitScale

__all__ = [
    "CholeskyPosterior",
    "FlowPosterior",
    "GaussianPosterior",
    "MixturePosterior",
    "PriorPosterior",
]


class PriorPosterior(Posterior):
    r"""The prior itself, :math:`r(z \mid x_t) = \mathcal{N}(z; 0, I_k)`: nothing to train.

    With latents shared over the batch it makes the bound that of the minibatch mixture.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Distribution:
        zeros = x_t.new_zeros(len(x_t), self.k)
        return Independent(Normal(zeros, 1.0, validate_args=False), 1)


class GaussianPosterior(Posterior):
    r"""A diagonal Gaussian.

    .. math:: r(z \mid x_t) = \mathcal{N} \big( z; \mu(x_t, \sigma), \mathrm{diag}(s^2) \big),
        \qquad s = c_\mathrm{sd} \, \mathrm{softplus}(\cdot)

    A residual one starts as the exact posterior of a residual student that starts at zero: there
    is no slack to begin with, in any number of dimensions, and the network learns what the student
    adds.

    Arguments:
        encoder: The encoder of the noisy sample.
        k: The number of latent dimensions.
        residual: Whether the mean is that of the linear student, and what the head adds to it.

    Raises:
        ValueError: It is residual, and the encoder's scaling knows no linear student.
    """

    def __init__(self, encoder: Encoder, k: int, *, residual: bool = False) -> None:
        super().__init__()
        self.encoder, self.residual = encoder, residual
        self.head = nn.Linear(encoder.features, 2 * k)
        if residual:
            if not isinstance(encoder.scale, UnitScale):
                raise ValueError("a residual posterior needs an encoder with UnitScale")
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def moments(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the mean and the standard deviation, each `(B, k)`."""
        return self.moments_of(self.encoder(x_t, sigma, **cond), x_t, sigma)

    def moments_of(self, features: Tensor, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the moments from the encoder's features, `(B, F)`."""
        mean, raw = self.head(features).chunk(2, dim=-1)
        scale = self.encoder.scale
        spread = scale.unit_std(sigma)[:, None]
        if self.residual:
            assert isinstance(scale, UnitScale)  # no other is taken
            mean = scale.linear(x_t, sigma) + spread * mean
        return mean, nn.functional.softplus(raw + UNIT) * spread

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Distribution:
        mean, std = self.moments(x_t, sigma, **cond)
        return Independent(Normal(mean, std, validate_args=False), 1)


class CholeskyPosterior(Posterior):
    r"""A Gaussian with full covariance :math:`L L^\top`, the exact family of an affine student.

    The columns of :math:`L` have the unit :math:`c_\mathrm{sd}`; its diagonal is positive.

    Arguments:
        encoder: The encoder of the noisy sample.
        k: The number of latent dimensions; the head has :math:`k (k + 3) / 2` outputs.
    """

    lower: Tensor

    def __init__(self, encoder: Encoder, k: int) -> None:
        super().__init__()
        self.encoder, self.k = encoder, k
        self.head = nn.Linear(encoder.features, k * (k + 3) // 2)
        self.register_buffer("lower", torch.tril_indices(k, k, -1), persistent=False)

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Distribution:
        raw = self.head(self.encoder(x_t, sigma, **cond))
        mean, diagonal, below = raw.split([self.k, self.k, raw.shape[1] - 2 * self.k], dim=-1)
        spread = self.encoder.scale.unit_std(sigma)[:, None]
        tril = torch.diag_embed(nn.functional.softplus(diagonal + UNIT) * spread)
        tril = tril.index_put(
            (torch.arange(len(x_t), device=x_t.device)[:, None], *self.lower[:, None]),
            below * spread,
        )
        return MultivariateNormal(mean, scale_tril=tril, validate_args=False)


class MixturePosterior(Posterior):
    r"""A conditional mixture of diagonal Gaussians.

    .. math:: r(z \mid x_t) = \sum_m \pi_m \, \mathcal{N} \big( z; \mu_m, \mathrm{diag}(s_m^2)
    \big)

    A student that maps many latents to one sample has a posterior of several modes; this holds
    them for the price of a wider last layer.

    Arguments:
        encoder: The encoder of the noisy sample.
        k: The number of latent dimensions.
        components: The number of components.
    """

    def __init__(self, encoder: Encoder, k: int, components: int = 16) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}")
        self.encoder, self.k, self.components = encoder, k, components
        self.head = nn.Linear(encoder.features, components * (1 + 2 * k))

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Distribution:
        raw = self.head(self.encoder(x_t, sigma, **cond))
        raw = raw.unflatten(1, (self.components, 1 + 2 * self.k))
        logits, mean, width = raw.split([1, self.k, self.k], dim=-1)
        spread = self.encoder.scale.unit_std(sigma)[:, None, None]
        std = nn.functional.softplus(width + UNIT) * spread
        return MixtureSameFamily(
            Categorical(logits=logits.squeeze(-1), validate_args=False),
            Independent(Normal(mean, std, validate_args=False), 1),
            validate_args=False,
        )


class FlowPosterior(Posterior):
    r"""A conditional neural spline flow on top of the Gaussian's whitening.

    .. math:: \log r(z \mid x_t) = \log r_\mathrm{flow} \big( (z - \mu) / s \mid h(x_t, \sigma)
    \big)
        - \sum_i \log s_i

    The flow is bijective in :math:`z` for every context, so the density is normalised, with all
    Jacobians counted, and gradients reach :math:`x_t` through the context.

    References:
        | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032

    Arguments:
        encoder: The encoder :math:`h` of the noisy sample.
        k: The number of latent dimensions.
        transforms: The number of autoregressive transformations.
        hidden: The widths of their networks.
        bins: The number of bins of each spline.
    """

    # An autoregressive flow samples one dimension at a time; beyond a few, two passes (coupling).
    AUTOREGRESSIVE = 4

    def __init__(
        self,
        encoder: Encoder,
        k: int,
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
    ) -> None:
        super().__init__()
        self.gaussian = GaussianPosterior(encoder, k)
        self.flow = zuko.flows.NSF(
            features=k,
            context=encoder.features,
            bins=bins,
            transforms=transforms,
            hidden_features=tuple(hidden),
            passes=None if k <= self.AUTOREGRESSIVE else 2,
        )

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Distribution:
        features = self.gaussian.encoder(x_t, sigma, **cond)
        mean, std = self.gaussian.moments_of(features, x_t, sigma)
        whitening = AffineTransform(mean, std, event_dim=1)
        return TransformedDistribution(self.flow(features), whitening, validate_args=False)
