r"""Distances of two samples in a space of features."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..functional.frechet import (
    Moments,
    frechet_square,
    square_of_cross,
    symmetric_root,
    transport,
)
from .metric import Metric, check_pair, fingerprint

__all__ = [
    "LEAST_OF_KERNEL",
    "frechet",
    "frechet_of_moments",
    "frechet_ratio",
    "kernel_distance",
]


# Blocks of the kernel distance, and the samples of each set that they need: two a block.
BLOCKS = 10
LEAST_OF_KERNEL = 2 * BLOCKS


def frechet_of_moments(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    r"""Returns the squared 2-Wasserstein distance of two Gaussians, see `frechet_square`.

    References:
        | GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017)
        | https://arxiv.org/abs/1706.08500
    """
    return frechet_square(Moments(mean_x, cov_x), Moments(mean_y, cov_y)).item()


def frechet(real: Tensor, fake: Tensor, *, features: str = "") -> Metric:
    r"""Returns the Fréchet distance of two sets of features.

    It is biased upward by a term of order :math:`d / N`: compare equal numbers of samples only.
    Its standard error is that of fresh generated samples, by the first-order influence of each

    .. math:: \varphi(x) = 2 \langle m - m_r, \, x - m \rangle + (x - m)^\top (I - T) \, (x - m),
        \qquad \mathrm{error} = \frac{s(\varphi)}{\sqrt N},

    with the moments :math:`m, C` of the generated set, those of the reference, :math:`m_r, C_r`,
    which is fixed and shared by what is compared, and the optimal transport :math:`T` between
    both, see `transport`. It is an upper limit where :math:`d` is not small beside :math:`N`:
    there it was up to twice the spread of fresh samples. (Resampled sets repeat rows, and state up
    to six times it.)

    References:
        | Optimal Transport for Applied Mathematicians (Santambrogio, 2015), Proposition 7.17

    Arguments:
        real: Features of real samples, with shape :math:`(M, d)`.
        fake: Features of generated ones, with shape :math:`(N, d)`.
        features: The name of the features.
    """
    real, fake = check_pair(real, fake, ("real", "fake"))
    reference, own = Moments.of(real), Moments.of(fake)
    matrix, cross = transport(symmetric_root(reference.covariance), own.covariance)
    value = square_of_cross(reference, own, cross)
    centred = fake - own.mean
    influence = 2 * centred @ (own.mean - reference.mean)
    influence += ((centred - centred @ matrix) * centred).sum(1)
    error = influence.std().item() / math.sqrt(len(fake))
    about = fingerprint(real)
    return Metric("frechet", value.item(), error, len(fake), False, "", about, features)


def frechet_ratio(
    real: Tensor,
    held_out: Tensor,
    fake: Tensor,
    *,
    features: str = "",
    seed: int = 0,
) -> tuple[Metric, Metric, Metric]:
    r"""Returns the Fréchet distance of generated samples to real ones, that of other real ones,
    and the first over the second.

    The distance of `held_out` to `real` is what the numbers of samples and the data themselves
    cost: a ratio of one is that of real images. Below one the samples are nearer to `real` than
    real images are, as those of a model are that has memorised them. Both sets are cut to the same
    size, on which the distance depends.

    The error of each distance is that of `frechet`, with `real` fixed; that of the
    ratio is of both, to first order: an upper limit where the second is not well known.

    References:
        | Representation Fréchet Loss for Visual Generation (Yang et al., 2026)
        | https://arxiv.org/abs/2604.28190

    Arguments:
        real: Features of real samples, with shape :math:`(M, d)`.
        held_out: Features of other real samples, with shape :math:`(N, d)`.
        fake: Features of generated ones, with shape :math:`(N', d)`.
        features: The name of the features.
        seed: The seed of the cut.

    Raises:
        ValueError: `held_out` has the moments of `real`: there is nothing to divide by.
    """
    n = min(len(held_out), len(fake))
    generator = torch.Generator().manual_seed(seed)
    held_out, fake = (x[torch.randperm(len(x), generator=generator)[:n]] for x in (held_out, fake))
    found, floor = (frechet(real, x, features=features) for x in (fake, held_out))
    if not floor.value > 1e-9 * float(real.var(0).sum()):
        raise ValueError("held_out has the moments of real: give other real samples")
    assert found.error is not None and floor.error is not None
    ratio = found.value / floor.value
    error = math.hypot(found.error, ratio * floor.error) / floor.value
    note = f"of {n:,} samples to {len(real):,} real ones, over that of {n:,} other real ones"
    return (
        found,
        dataclasses.replace(floor, name="frechet_real", higher_is_better=None),
        dataclasses.replace(found, name="frechet_ratio", value=ratio, error=error, note=note),
    )


def kernel_distance(
    real: Tensor, fake: Tensor, *, features: str = "", blocks: int = BLOCKS, seed: int = 0
) -> Metric:
    r"""Returns the kernel distance of two sets of features (KID on features of Inception).

    The unbiased MMD^2 of :math:`k(x, y) = (\langle x, y \rangle / d + 1)^3`, averaged over
    disjoint blocks; its standard error is that over blocks.

    References:
        | Demystifying MMD GANs (Binkowski et al., 2018), https://arxiv.org/abs/1801.01401
    """
    real, fake = check_pair(real, fake, ("real", "fake"))
    size = min(len(real), len(fake)) // blocks
    if size < 2:
        raise ValueError(
            f"{blocks} blocks need at least {2 * blocks} samples of each set, got {len(real)} "
            f"real and {len(fake)} generated ones: give more, or fewer blocks"
        )
    generator = torch.Generator().manual_seed(seed)
    order_x = torch.randperm(len(real), generator=generator)
    order_y = torch.randperm(len(fake), generator=generator)
    d, values = real.shape[1], []
    for i in range(blocks):
        x = real[order_x[i * size : (i + 1) * size]]
        y = fake[order_y[i * size : (i + 1) * size]]
        xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        values.append((within - 2 * xy.mean()).item())
    sample = torch.tensor(values, dtype=torch.float64)
    error = sample.std().item() / math.sqrt(blocks)
    note = f"unbiased, {blocks} blocks of {size}"
    return Metric(
        "kernel_distance",
        sample.mean().item(),
        error,
        len(fake),
        False,
        note,
        fingerprint(real),
        features,
    )
