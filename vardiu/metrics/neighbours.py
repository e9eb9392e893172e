r"""Fidelity and diversity, by nearest neighbours in a space of features."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .metric import Metric, check_pair, fingerprint

__all__ = ["density_coverage", "precision_recall"]


def _radii(x: Tensor, k: int) -> Tensor:
    r"""Returns the distance of each point to its k-th neighbour in the same set, `(N,)`."""
    if not 1 <= k < len(x):
        raise ValueError(f"k must be within [1, {len(x) - 1}], got {k}")
    parts = [torch.cdist(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(2048)]
    return torch.cat(parts)


def _inside(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    r"""Returns in how many balls each point lies, `(N,)`."""
    return torch.cat([(torch.cdist(p, centres) <= radii).sum(1) for p in points.split(2048)])


def _share(name: str, hits: Tensor, real: Tensor, fake: Tensor, k: int, features: str) -> Metric:
    share = hits.double()
    error = share.std().item() / math.sqrt(len(share))
    about = fingerprint(real)
    note = f"k = {k}"
    return Metric(name, share.mean().item(), error, len(fake), True, note, about, features)


def precision_recall(
    real: Tensor, fake: Tensor, *, k: int = 3, features: str = "", seed: int = 0
) -> tuple[Metric, Metric]:
    r"""Returns the share of fakes within the reals' manifold, and the share of reals in the
    fakes'.

    A manifold is the union of balls around its points, each as wide as the distance to the
    :math:`k`-th neighbour. Both sets are cut to the same size, as the balls shrink with it.

    References:
        | Improved Precision and Recall Metric for Assessing Generative Models
        | (Kynkäänniemi et al., 2019), https://arxiv.org/abs/1904.06991

    Arguments:
        real: Features of real samples, with shape :math:`(M, d)`.
        fake: Features of generated ones, with shape :math:`(N, d)`.
        k: The neighbour that sets a ball's radius.
        features: The name of the features.
        seed: The seed of the cut.
    """
    real, fake = check_pair(real, fake, ("real", "fake"))
    real, fake = _same_size(real, fake, seed)
    precise = _inside(fake, real, _radii(real, k)) > 0
    recalled = _inside(real, fake, _radii(fake, k)) > 0
    return (
        _share("precision", precise, real, fake, k, features),
        _share("recall", recalled, real, fake, k, features),
    )


def density_coverage(
    real: Tensor, fake: Tensor, *, k: int = 5, features: str = "", seed: int = 0
) -> tuple[Metric, Metric]:
    r"""Returns density and coverage, which an outlier among the reals cannot lift.

    Density is the number of the reals' balls that hold a fake, over :math:`k`, averaged over
    fakes; coverage the share of the reals' balls that hold a fake.

    References:
        | Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020)
        | https://arxiv.org/abs/2002.09797
    """
    real, fake = check_pair(real, fake, ("real", "fake"))
    real, fake = _same_size(real, fake, seed)
    radii = _radii(real, k)
    density = _inside(fake, real, radii) / k
    nearest = [torch.cdist(rows, fake).amin(1) for rows in real.split(2048)]
    covered = torch.cat(nearest) <= radii
    return (
        _share("density", density, real, fake, k, features),
        _share("coverage", covered, real, fake, k, features),
    )


def _same_size(real: Tensor, fake: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    n = min(len(real), len(fake))
    generator = torch.Generator().manual_seed(seed)
    cut = [x[torch.randperm(len(x), generator=generator)[:n]] for x in (real, fake)]
    return cut[0], cut[1]
