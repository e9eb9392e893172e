r"""Fidelity and diversity, by nearest neighbours in a space of features.

Their standard errors are those of fresh fakes; the reference is fixed and shared by what is
compared. A share of fakes is a mean over fakes. A share of reals is decided on by all fakes
together: its error is a jackknife's, that leaves groups of fakes out, and an upper limit, 1.2 to
1.9 times the spread (Efron and Stein, 1981, https://doi.org/10.1214/aos/1176345462).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .metric import Metric, check_pair, fingerprint

__all__ = ["LEAST_OF_NEIGHBOURS", "density_coverage", "precision_recall"]


# The neighbour that sets a ball's radius in density and coverage, and the samples that this takes.
NEIGHBOUR = 5
LEAST_OF_NEIGHBOURS = NEIGHBOUR + 1

# Groups of fakes that are left out in turn.
GROUPS = 10
# Neighbours of a fake that are known beyond the k-th: more than a group takes of the nearest.
SPARE = 12


def _radii(x: Tensor, k: int) -> Tensor:
    r"""Returns the distance of each point to its k-th neighbour in the same set, `(N,)`."""
    if not 1 <= k < len(x):
        raise ValueError(f"k must be within [1, {len(x) - 1}], got {k}")
    parts = [torch.cdist(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(2048)]
    return torch.cat(parts)


def _radii_without_groups(x: Tensor, k: int) -> Tensor:
    r"""Returns the radii of all points where each group is left out, `(GROUPS, N)`.

    Those of the group itself are negative: nothing is in their balls.
    """
    member = torch.arange(len(x)) % GROUPS
    near = min(len(x), k + 1 + SPARE)
    radii = torch.full((GROUPS, len(x)), -1.0, dtype=x.dtype)
    for i in range(0, len(x), 2048):
        rows = slice(i, i + 2048)
        # Its own first neighbour is the point itself.
        values, places = torch.cdist(x[rows], x).topk(near, dim=1, largest=False)
        for g in range(GROUPS):
            found = (member[places] != g).cumsum(1) > k
            at = torch.where(found.any(1), found.int().argmax(1), near - 1)
            radius = values.gather(1, at[:, None]).squeeze(1)
            radii[g, rows] = radius.masked_fill(member[rows] == g, -1.0)
    return radii


def _inside(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    r"""Returns in how many balls each point lies, `(N,)`."""
    return torch.cat([(torch.cdist(p, centres) <= radii).sum(1) for p in points.split(2048)])


def _inside_without_groups(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    r"""Returns the shares of points within any ball of radii `(GROUPS, N)`, `(GROUPS,)`."""
    hits = torch.zeros(len(radii), dtype=torch.float64)
    for rows in points.split(2048):
        distances = torch.cdist(rows, centres)
        hits += torch.stack([(distances <= radius).any(1).sum() for radius in radii])
    return hits / len(points)


def _nearest_by_group(points: Tensor, centres: Tensor) -> Tensor:
    r"""Returns the distance of each point to the nearest centre of each group, `(GROUPS, N)`."""
    nearest = []
    for g in range(GROUPS):
        group = centres[g::GROUPS]
        parts = [torch.cdist(rows, group) for rows in points.split(2048)] if len(group) else []
        found = [part.amin(1) for part in parts]
        nearest.append(torch.cat(found) if found else points.new_full((len(points),), math.inf))
    return torch.stack(nearest)


def _jackknife(shares: Tensor) -> float:
    r"""Returns the standard error of a share, from those without each group `(GROUPS,)`."""
    return math.sqrt((len(shares) - 1) * shares.var(correction=0).item())


def _mean_error(hits: Tensor) -> float:
    r"""Returns the standard error of a mean over fakes."""
    return hits.double().std().item() / math.sqrt(len(hits))


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
    without = _inside_without_groups(real, fake, _radii_without_groups(fake, k))
    about = _About(f"k = {k}", fingerprint(real), features)
    return (
        about.metric("precision", precise, _mean_error(precise)),
        about.metric("recall", recalled, _jackknife(without)),
    )


def density_coverage(
    real: Tensor, fake: Tensor, *, k: int = NEIGHBOUR, features: str = "", seed: int = 0
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
    nearest = _nearest_by_group(real, fake)
    covered = nearest.amin(0) <= radii
    others = [torch.cat([nearest[:g], nearest[g + 1 :]]).amin(0) for g in range(GROUPS)]
    without = torch.stack([(group <= radii).double().mean() for group in others])
    about = _About(f"k = {k}", fingerprint(real), features)
    return (
        about.metric("density", density, _mean_error(density)),
        about.metric("coverage", covered, _jackknife(without)),
    )


def _same_size(real: Tensor, fake: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    n = min(len(real), len(fake))
    generator = torch.Generator().manual_seed(seed)
    cut = [x[torch.randperm(len(x), generator=generator)[:n]] for x in (real, fake)]
    return cut[0], cut[1]


class _About(NamedTuple):
    r"""What a share goes with."""

    note: str
    reference: str
    features: str

    def metric(self, name: str, hits: Tensor, error: float) -> Metric:
        value = hits.double().mean().item()
        return Metric(name, value, error, len(hits), True, *self)
