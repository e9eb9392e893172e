r"""A frame: latents whose posterior is nearly known before anything is trained.

A student that maps sixty-four dimensions of noise to an image has a posterior that no simple
family holds; what the family misses is slack in the variational bound, and a student that
collapses has none. The frame turns this round. Samples of the teacher are described by a mixture
of probabilistic principal components (Tipping and Bishop, 1999), a few clusters a class:

.. math:: x = m_c + V_c \Lambda_c^{1/2} z + \rho_c^{1/2} \epsilon, \qquad c \sim \pi, \quad
    z \sim \mathcal{N}(0, I_k).

The student starts as a denoiser of :math:`m_c + V_c \Lambda_c^{1/2} z`, and the posterior as that
of this model, in closed form. It is exact for samples of the model. The student's samples are what
its denoiser makes of these, so that the bound has some slack at the start as well:

.. math:: z \mid x_t, c \sim \mathcal{N} \left( \frac{\Lambda^{1/2}}{\Lambda + v} V^\top (x_t -
    m_c), \frac{v}{\Lambda + v} \right), \qquad v = \sigma^2 + \rho_c, \qquad
    \pi(c \mid x_t) \propto \pi_c \, \mathcal{N}(x_t; m_c, V \Lambda V^\top + v I).

Networks then learn what is left. The cluster is chosen by one more normal coordinate :math:`u`:
:math:`c` is the interval of :math:`[0, 1]` that :math:`\Phi(u)` falls in. Given the cluster,
:math:`u` is the prior cut to its interval, so that
:math:`r(u \mid x_t) = \mathcal{N}(u; 0, 1) \, \pi(c \mid x_t) / \pi_c` is normalised, and the
latent stays standard normal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ..functional.bounds import standard_normal_log_prob
from ..students.framed import Frame
from .encoder import Encoder, Posterior

__all__ = ["FramedPosterior", "PairFrame"]


class ClusteredNormal(Distribution):
    r"""Given a cluster a Gaussian, and the last coordinate the prior cut to its interval."""

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, posterior: FramedPosterior, features: Tensor, state: tuple) -> None:
        self.posterior, self.features, self.state = posterior, features, state
        x_t = state[0]
        event = torch.Size([posterior.frame.k + 1])
        super().__init__(x_t.shape[:1], event, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        x_t, sigma, label = self.state
        frame = self.posterior.frame
        cluster = frame.cluster(value[:, -1], label)
        shares = self.posterior.log_shares(self.features, x_t, sigma, label)
        prior = frame.weights[label].log()
        ratio = (shares - prior).gather(1, cluster[:, None]).squeeze(1)
        mean, std = self.posterior.moments(self.features, x_t, sigma, cluster, label)
        scaled = (self.posterior.frame.turned(value[:, :-1], cluster, label) - mean) / std
        last = standard_normal_log_prob(value[:, -1:])
        return standard_normal_log_prob(scaled) - std.log().sum(1) + ratio + last

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        if sample_shape:
            return torch.stack([self.sample() for _ in range(math.prod(sample_shape))])
        x_t, sigma, label = self.state
        frame = self.posterior.frame
        shares = self.posterior.log_shares(self.features, x_t, sigma, label).exp()
        cluster = torch.multinomial(shares, 1).squeeze(1)
        weights = frame.weights[label]
        rows = torch.arange(len(cluster), device=cluster.device)
        low = (weights.cumsum(1) - weights)[rows, cluster]
        quantile = low + weights[rows, cluster] * torch.rand_like(low)
        mean, std = self.posterior.moments(self.features, x_t, sigma, cluster, label)
        z = frame.turned_back(mean + std * torch.randn_like(mean), cluster, label)
        return torch.cat([z, torch.special.ndtri(quantile)[:, None]], dim=1)


class PairFrame(Frame):
    r"""A linear model of a student's own samples in each cluster of its frame, fitted to pairs.

    .. math:: x = m_c + W_c z + \rho_c^{1/2} \epsilon, \qquad W_c = V_c \Lambda_c^{1/2} R_c^\top

    by least squares of :math:`g(z)` on :math:`z`, with :math:`\rho_c` the mean square of what is
    left. Its posterior of the turned latent :math:`R_c^\top z` is diagonal, that of a frame. It
    is exact where the student is linear in each cluster.
    """

    rotations: Tensor

    def __init__(self, classes: int, clusters: int, d: int, k: int) -> None:
        super().__init__(classes, clusters, d, k)
        self.register_buffer("rotations", torch.eye(k).repeat(classes * clusters, 1, 1))

    @classmethod
    def of_pairs(cls, frame: Frame, z: Tensor, x: Tensor, label: Tensor | None) -> PairFrame:
        r"""Returns the model of pairs.

        Arguments:
            frame: The frame whose clusters the latents choose.
            z: Latents, with shape :math:`(N, k + 1)`.
            x: What the student makes of them, with shape :math:`(N, *)`.
            label: Their classes, with shape :math:`(N)`; none for a frame of one class.

        Raises:
            ValueError: A cluster has fewer than twice as many pairs as numbers to fit.
        """
        found = cls(**frame.arguments).to(x)
        found.weights.copy_(frame.weights)
        label = frame.labels(z, label)
        place = label * frame.clusters + frame.cluster(z[:, -1], label)
        for n in range(frame.weights.numel()):
            rows = place == n
            count = int(rows.sum())
            if count < 2 * (frame.k + 1):
                raise ValueError(
                    f"cluster {n} of the frame has {count} pairs for {frame.k + 1} coefficients "
                    f"a dimension, and needs {2 * (frame.k + 1)}: take more --frame.samples, or "
                    "fewer clusters or components"
                )
            found._fit_pairs(n, z[rows, :-1], x[rows].flatten(1))
        return found

    def _fit_pairs(self, n: int, z: Tensor, x: Tensor) -> None:
        inputs = torch.cat([torch.ones_like(z[:, :1]), z], dim=1).double()
        solution = torch.linalg.lstsq(inputs, x.double()).solution
        left = x.double() - inputs @ solution
        free = (len(z) - inputs.shape[1]) * self.d
        directions, values, turns = torch.linalg.svd(solution[1:].T, full_matrices=False)
        self.means[n], self.bases[n] = solution[0], directions
        self.variances[n], self.rotations[n] = values.square(), turns.T
        self.residuals[n] = left.square().sum() / free

    def turned(self, z: Tensor, cluster: Tensor, label: Tensor) -> Tensor:
        turns = self.rotations[label * self.clusters + cluster]
        return torch.einsum("bk,bkj->bj", z, turns)

    def turned_back(self, z: Tensor, cluster: Tensor, label: Tensor) -> Tensor:
        turns = self.rotations[label * self.clusters + cluster]
        return torch.einsum("bj,bkj->bk", z, turns)


class FramedPosterior(Posterior):
    r"""The frame's exact posterior, and networks for what the trained student adds to it.

    The heads start at zero: before training this is the posterior of the frame itself.

    Arguments:
        encoder: The encoder of the noisy sample.
        frame: The frame of the student, or a model of pairs in its clusters.
        hidden: The width of the head that sees the cluster.
    """

    def __init__(self, encoder: Encoder, frame: Frame, hidden: int = 256) -> None:
        super().__init__()
        self.encoder, self.frame = encoder, frame
        inputs = encoder.features + 2 * frame.k + frame.d
        self.shares = nn.Linear(encoder.features, frame.clusters)
        self.first = nn.Linear(inputs, hidden)
        self.embedding = nn.Embedding(frame.weights.numel(), hidden)
        self.last = nn.Linear(hidden, 2 * frame.k)
        for layer in (self.shares, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def log_shares(self, features: Tensor, x_t: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        r"""Returns the log-probability of each cluster, `(B, clusters)`."""
        logits = self.frame.log_clusters(x_t, sigma, label) + self.shares(features)
        return logits.log_softmax(dim=1)

    def moments(
        self, features: Tensor, x_t: Tensor, sigma: Tensor, cluster: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the mean and the standard deviation of z given the cluster."""
        mean, std = self.frame.moments(x_t, sigma, cluster, label)
        scaled, _ = self.encoder.scale.inputs(x_t, sigma)
        seen = torch.cat([features, mean, std.log(), scaled.flatten(1)], dim=1)
        h = self.first(seen) + self.embedding(label * self.frame.clusters + cluster)
        shift, narrow = self.last(nn.functional.silu(h)).chunk(2, dim=1)
        # A density that leaves these bounds has diverged; the prior's own is within.
        return mean + shift, (std.log() - narrow).clamp(-6, 3).exp()

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Distribution:
        label = self.frame.labels(x_t, cond.get("label"))
        features = nn.functional.silu(self.encoder(x_t, sigma, **cond))
        return ClusteredNormal(self, features, (x_t, sigma, label))
