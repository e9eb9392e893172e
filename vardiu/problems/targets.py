r"""What a problem of densities is about: a mixture that is known, or a table of points.

A table's teacher is the exact denoiser of its kernel density estimate. The kernel's width is the
one of a grid with the greatest likelihood of each point under the others,

.. math:: \sum_i \log \frac{1}{N - 1} \sum_{j \neq i} \mathcal{N}(x_i; x_j, h^2 I),

and a fifth of the points is held out: metrics compare with them, and nothing is made of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.densities import DENSITIES, MixtureSpec, even, mixture
from ..data.points import account, read_table, refuse_far
from ..errors import ConfigError, amount, known, shown
from ..functional.tensors import pairwise_square
from ..settings.fields import DensitySettings
from ..storage.code import OwnCode, is_source, not_named

__all__ = ["Target", "refuse_wide", "target_of"]


# The fewest points that can be distilled, and the most that are held out or clustered.
FEWEST, MOST = 100, 10_000


# Widths of a kernel, in units of Scott's rule.
WIDTHS = tuple(2.0 ** (k / 2) for k in range(-12, 3))


# Where columns differ more in spread, one noise level cannot be right for all of them.
WIDEST_RATIO = 30.0


@dataclass(frozen=True)
class Target:
    r"""What is distilled.

    Arguments:
        spec: The mixture whose denoiser is the exact teacher.
        centres: Points whose shares of samples are counted: the modes, or centres of clusters.
        points: The points of a table that a teacher is made of; none where there is no table.
        held_out: The points that metrics compare with; none where true samples can be drawn.
        account: What was read of points, in one line; empty where there are none.
    """

    spec: MixtureSpec
    centres: Tensor
    points: Tensor | None = None
    held_out: Tensor | None = None
    account: str = ""

    def truth(self, n: int, random: torch.Generator) -> Tensor:
        r"""Returns up to `n` samples to compare with: true ones, or points that are held out."""
        if self.held_out is None:
            return self.spec.sample(n, random)
        return self.held_out[torch.randperm(len(self.held_out), generator=random)[:n]]


def target_of(row: DensitySettings, code: OwnCode | None = None) -> Target:
    r"""Returns what a row of settings is about.

    Arguments:
        row: The settings.
        code: The own code that their source names, if it names code.

    Raises:
        ConfigError: There is no such density, or the table cannot be read or distilled.
    """
    if code is not None:
        return _of_code(row, code)
    if row.source is not None and is_source(row.source):
        raise ConfigError(not_named(row.source, "--source"))
    if row.source is not None:
        found = read_table(row.source)
        return _of_points(row, found.x, row.source, found.names)
    if row.name == "mixture":
        spec = mixture(row.dim, row.modes, seed=0)
    else:
        spec = DENSITIES[known(row.name, [*DENSITIES, "mixture"], "density")]()
    return Target(spec, spec.means)


def _of_code(row: DensitySettings, code: OwnCode) -> Target:
    made = code.made()
    if isinstance(made, MixtureSpec):
        numbers = torch.cat([made.means.flatten(), made.stds, made.weights])
        good = bool(numbers.isfinite().all()) and bool((made.stds > 0).all())
        if not good or not bool((made.weights > 0).all()):
            raise ConfigError(
                f"{code.source}: means must be finite, standard deviations and weights positive"
            )
        total = made.weights.sum()
        spec = MixtureSpec(made.means, made.stds, made.weights / total).to(torch.float32)
        return Target(spec, spec.means)
    if isinstance(made, np.ndarray):
        made = torch.from_numpy(made)
    if not isinstance(made, Tensor):
        raise ConfigError(
            f"{code.source} is a {type(made).__name__}: a density is a vardiu.data.MixtureSpec, "
            "an array of points, or a function without arguments that returns one"
        )
    if made.ndim != 2 or not bool(made.isfinite().all()):
        raise ConfigError(
            f"{code.source}: points must be finite, with shape (N, d), got {tuple(made.shape)}"
        )
    refuse_far(made.double().numpy(force=True), code.source)
    return _of_points(row, made.float(), code.source)


def _of_points(row: DensitySettings, x: Tensor, source: str, names: Sequence[str] = ()) -> Target:
    _check_points(x, shown(source))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    count = min(len(x) // 5, MOST)
    held_out, points = x[order[:count]], x[order[count:]]
    means = points[: row.points]
    refuse_wide(row.bandwidth, means, shown(source), by_default=True)
    spec = even(means, row.bandwidth or kernel_width(means))
    return Target(spec, _centres(points[:MOST]), points, held_out, account(x, names))


def _check_points(x: Tensor, source: str) -> None:
    r"""Raises a `ConfigError` where points cannot be distilled."""
    if len(x) < FEWEST:
        raise ConfigError(
            f"{source} has {amount(len(x), 'point')}, and at least {FEWEST} are needed"
        )
    stds = x.double().std(0)
    constant = [str(i + 1) for i, std in enumerate(stds.tolist()) if std == 0]
    if constant:
        raise ConfigError(
            f"{source}: column {', '.join(constant[:5])} has one value only: leave it out"
        )
    if float(stds.max() / stds.min()) > WIDEST_RATIO:
        raise ConfigError(
            f"{source}: the columns' standard deviations are {float(stds.min()):.3g} to "
            f"{float(stds.max()):.3g}, and noise has one level for all: divide each column by its "
            "own"
        )


def refuse_wide(bandwidth: float, x: Tensor, source: str, *, by_default: bool = False) -> None:
    r"""Raises a `ConfigError` where a kernel is wider than the points are spread.

    Arguments:
        bandwidth: The kernel's standard deviation.
        x: The points, with shape :math:`(N, d)`.
        source: Where they are from, for the message.
        by_default: Whether the width of the greatest likelihood is taken where none is given.
    """
    spread = spread_of(x)
    if bandwidth <= spread:
        return
    cure = "give less"
    if by_default:
        cure = f"leave it out for {kernel_width(x):.3g}, the width of the greatest likelihood"
    raise ConfigError(
        f"{source}: --bandwidth must be at most {spread:.3g}, the points' standard deviation, got "
        f"{bandwidth:g}: {cure}"
    )


def spread_of(x: Tensor) -> float:
    r"""Returns the standard deviation of points, root mean square over their dimensions."""
    return math.sqrt(float(x.double().var(0).mean()))


def kernel_width(x: Tensor) -> float:
    r"""Returns the kernel's standard deviation of greatest leave-one-out likelihood.

    Arguments:
        x: The points, with shape :math:`(N, d)`. The likelihood is that of a thousand of them.
    """
    n, d = x.shape
    scott = spread_of(x) * n ** (-1 / (d + 4))
    square = pairwise_square(x[:1000], x)
    index = torch.arange(len(square))
    square[index, index] = math.inf  # the point itself
    best, width = -math.inf, scott
    for factor in WIDTHS:
        h = factor * scott
        log_p = (square / (-2 * h * h)).logsumexp(1) - d * math.log(h)
        value = float(log_p.double().mean())
        if value > best:
            best, width = value, h
    return width


def _centres(x: Tensor) -> Tensor:
    r"""Returns the centres of up to twenty clusters of points, fifty points each at least."""
    from sklearn.cluster import KMeans  # two seconds that only a table is to pay for

    count = max(2, min(20, len(x) // 50))
    fitted = KMeans(count, n_init=1, random_state=0).fit(x.numpy())
    return torch.as_tensor(fitted.cluster_centers_, dtype=x.dtype)
