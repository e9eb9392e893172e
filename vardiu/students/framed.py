r"""Frames, and the students that start from one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..denoisers.base import Denoiser
from ..errors import amount
from ..functional.tensors import covariance
from .base import Generator

__all__ = ["Frame", "Framed"]


class Frame(nn.Module):
    r"""A mixture of probabilistic principal components for each class; nothing to train.

    References:
        | Mixtures of Probabilistic Principal Component Analyzers (Tipping and Bishop, 1999)
        | https://doi.org/10.1162/089976699300016728

    Arguments:
        classes: The number of classes; 1 for data without.
        clusters: The number of clusters a class.
        d: The number of dimensions of a sample.
        k: The number of principal components.
    """

    means: Tensor
    bases: Tensor
    variances: Tensor
    residuals: Tensor
    weights: Tensor

    def __init__(self, classes: int, clusters: int, d: int, k: int) -> None:
        super().__init__()
        if not 1 <= k < d or clusters < 1 or classes < 1:
            raise ValueError(
                f"k must be within [1, {d - 1}], clusters and classes at least 1, "
                f"got {k}, {clusters} and {classes}"
            )
        self.arguments = {"classes": classes, "clusters": clusters, "d": d, "k": k}
        self.clusters, self.d, self.k = clusters, d, k
        n = classes * clusters
        self.register_buffer("means", torch.zeros(n, d))
        self.register_buffer("bases", torch.zeros(n, d, k))
        self.register_buffer("variances", torch.ones(n, k))
        self.register_buffer("residuals", torch.ones(n))
        self.register_buffer("weights", torch.full((classes, clusters), 1 / clusters))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Frame:
        r"""Returns the frame of a `state_dict`, whose shapes say its size."""
        (classes, clusters), (_, d, k) = state["weights"].shape, state["bases"].shape
        frame = cls(classes, clusters, d, k)
        frame.load_state_dict(state)
        return frame

    def fit(self, x: Tensor, label: Tensor | None = None, seed: int = 0) -> Frame:
        r"""Fits clusters by k-means and their components by maximum likelihood.

        A cluster with too few samples for its components joins the nearest others. The heaviest
        one that is left then stands twice, each with half its weight: the mixture is the same.

        Arguments:
            x: Samples, with shape :math:`(N, *)`.
            label: Their classes, with shape :math:`(N)`; none for a frame of one class.
            seed: The seed of k-means.

        Raises:
            ValueError: A class has fewer samples than clusters, or than a cluster's components.
        """
        from sklearn.cluster import KMeans  # two seconds that only a fit is to pay for

        x, label = x.flatten(1).double(), self.labels(x, label)
        for a in range(len(self.weights)):
            rows = x[label == a]
            if len(rows) <= max(self.k, self.clusters - 1):
                raise ValueError(
                    f"class {a} of the frame has {amount(len(rows), 'sample')} for "
                    f"{self.clusters} clusters of {self.k} components: take more samples, fewer "
                    "clusters or components, or one frame for all classes (--frame.no-by-class)"
                )
            fitted = KMeans(self.clusters, n_init=1, random_state=seed).fit(rows.cpu().numpy())
            groups = gathered(rows, torch.as_tensor(fitted.labels_, device=x.device), self.k + 1)
            copies = [1] * len(groups)
            while sum(copies) < self.clusters:
                shares = [len(group) / n for group, n in zip(groups, copies, strict=True)]
                copies[shares.index(max(shares))] += 1
            slots = [(g, n) for g, n in zip(groups, copies, strict=True) for _ in range(n)]
            for c, (group, n) in enumerate(slots):
                self._fit_cluster(a * self.clusters + c, group)
                self.weights[a, c] = len(group) / (n * len(rows))
        return self

    def _fit_cluster(self, n: int, rows: Tensor) -> None:
        values, bases = components(rows, self.k)
        residual = (rows.var(0).sum() - values.sum()).clamp_min(0) / (self.d - self.k)
        self.means[n] = rows.mean(0)
        self.bases[n] = bases
        # Maximum likelihood takes the residual off the leading variances.
        self.variances[n] = (values - residual).clamp_min(1e-3)
        self.residuals[n] = residual

    def labels(self, x: Tensor, label: Tensor | None) -> Tensor:
        r"""Returns the classes of rows, `(B,)`; all zero where the frame has one for all."""
        if label is None or len(self.weights) == 1:
            # Not len(x): a graph of any batch would be one of this batch.
            return torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
        return label

    def cluster(self, u: Tensor, label: Tensor) -> Tensor:
        r"""Returns the cluster of each row, `(B,)`: the interval that :math:`\Phi(u)` falls in."""
        edges = self.weights[label].cumsum(1)[:, :-1]
        return (torch.special.ndtr(u)[:, None] >= edges).sum(1)

    def decode(self, z: Tensor, label: Tensor) -> Tensor:
        r"""Returns :math:`m_c + V_c \Lambda_c^{1/2} z`, `(B, d)`, of latents `(B, k + 1)`."""
        n = label * self.clusters + self.cluster(z[:, -1], label)
        scaled = self.variances[n].sqrt() * z[:, :-1]
        return self.means[n] + torch.einsum("bdk,bk->bd", self.bases[n], scaled)

    def log_clusters(self, x_t: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        r"""Returns :math:`\log \pi_c + \log p(x_t \mid c)` less a constant, `(B, clusters)`."""
        n = label[:, None] * self.clusters + torch.arange(self.clusters, device=label.device)
        difference = x_t.flatten(1)[:, None] - self.means[n]
        v = sigma.square()[:, None] + self.residuals[n]
        total = self.variances[n] + v[..., None]
        along = torch.einsum("bcd,bcdk->bck", difference, self.bases[n])
        explained = (along.square() * self.variances[n] / total).sum(2)
        square = (difference.square().sum(2) - explained) / v
        log_det = total.log().sum(2) + (self.d - self.k) * v.log()
        return self.weights[label].log() - 0.5 * (square + log_det)

    def turned(self, z: Tensor, cluster: Tensor, label: Tensor) -> Tensor:
        r"""Returns latents `(B, k)` in the coordinates of `moments`: here their own."""
        return z

    def turned_back(self, z: Tensor, cluster: Tensor, label: Tensor) -> Tensor:
        r"""Returns latents of the coordinates of `moments`, `(B, k)`."""
        return z

    def moments(
        self, x_t: Tensor, sigma: Tensor, cluster: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the mean and the standard deviation of z given the cluster, each `(B, k)`."""
        n = label * self.clusters + cluster
        v = (sigma.square() + self.residuals[n])[:, None]
        along = torch.einsum("bd,bdk->bk", x_t.flatten(1) - self.means[n], self.bases[n])
        total = self.variances[n] + v
        return self.variances[n].sqrt() / total * along, (v / total).sqrt()


def gathered(rows: Tensor, member: Tensor, least: int) -> list[Tensor]:
    r"""Returns the rows of each cluster; one with fewer than `least` joins the nearest others.

    Arguments:
        rows: All rows, `(n, d)`, of which there are at least `least`.
        member: The cluster of each, `(n)`.
        least: The smallest number of rows of a cluster.
    """
    groups = [rows[member == c] for c in member.unique()]
    while len(smallest := min(groups, key=len)) < least:
        groups = [group for group in groups if group is not smallest]
        centres = torch.stack([group.mean(0) for group in groups])
        nearest = torch.cdist(smallest, centres).argmin(1)
        groups = [torch.cat([g, smallest[nearest == c]]) for c, g in enumerate(groups)]
    return groups


def components(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    r"""Returns the leading variances `(k)` of rows `(n, d)`, and their directions `(d, k)`.

    Of whichever is smaller, the covariance `(d, d)` or the rows' inner products `(n, n)`.
    """
    n, d = rows.shape
    if d <= n:
        values, vectors = torch.linalg.eigh(covariance(rows))
        return values.flip(0)[:k], vectors.flip(1)[:, :k]
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred @ centred.T / (n - 1))
    directions = centred.T @ vectors.flip(1)[:, :k]
    return values.flip(0)[:k], directions / directions.norm(dim=0)


class Framed(Generator):
    r"""A denoiser of a frame's samples, :math:`g(z) = D(\mathrm{decode}(z), \sigma)`.

    Arguments:
        denoiser: The denoiser, which starts from the teacher's weights.
        frame: The frame.
        sigma: The level at which the denoiser is asked: about what the frame leaves out.

    Raises:
        ValueError: `sigma` is not a level of the denoiser.
    """

    jumps = True  # from one cluster to the next

    def __init__(self, denoiser: Denoiser, frame: Frame, sigma: float) -> None:
        super().__init__()
        if not denoiser.sigma_min <= sigma <= denoiser.sigma_max:
            raise ValueError(
                f"sigma must be within [{denoiser.sigma_min:g}, {denoiser.sigma_max:g}], the "
                f"denoiser's range, got {sigma:g}"
            )
        self.denoiser, self.frame, self.sigma = denoiser, frame, sigma
        self.arguments = {"sigma": sigma}
        self.shape, self.conditions = denoiser.shape, denoiser.conditions
        self.latent_shape = (frame.k + 1,)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        x = self.frame.decode(z, self.frame.labels(z, cond.get("label")))
        x = x.unflatten(1, self.shape)
        return self.denoiser(x, z.new_full((z.shape[0],), self.sigma), **cond)
