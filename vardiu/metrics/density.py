r"""Metrics against a density that is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import amount
from .metric import Metric, check_samples
from .shares import reaching

__all__ = ["log_density", "mode_masses", "modes_covered"]


def log_density(samples: Tensor, log_prob: Callable[[Tensor], Tensor]) -> Metric:
    r"""Returns the mean log-density of samples under the target, in nats.

    .. math:: \frac1N \sum_i \log q(x_i)

    A value above that of true samples is a sign of collapse, not of quality.

    Arguments:
        samples: The samples, with shape :math:`(N, d)`.
        log_prob: The target's log-density.
    """
    check_samples(samples, "samples")
    values = log_prob(samples).double()
    if not bool(values.isfinite().all()):
        found = amount(int((~values.isfinite()).sum()), "sample")
        raise ValueError(f"log_prob is not finite at {found}")
    error = values.std().item() / math.sqrt(len(values))
    note = "beside the value of true samples; higher than that is collapse"
    return Metric("log_density", values.mean().item(), error, len(values), True, note)


def mode_masses(samples: Tensor, means: Tensor) -> Tensor:
    r"""Returns the share of the samples nearest to each mean, with shape `(M,)`."""
    x, m = check_samples(samples, "samples"), check_samples(means, "means", 1)
    nearest = torch.cat([torch.cdist(chunk, m).argmin(dim=1) for chunk in x.split(8192)])
    return torch.bincount(nearest, minlength=len(m)).double() / len(x)


def modes_covered(samples: Tensor, means: Tensor, threshold: float = 0.01) -> Metric:
    r"""Returns the number of modes that hold at least a share of the samples.

    Its standard error is near zero where no share is near the threshold, see
    `vardiu.metrics.shares.reaching`.
    """
    share = mode_masses(samples, means)
    n = len(samples)
    found, error = reaching(share, n, threshold)
    note = (
        f"of {len(share)}, with at least {threshold:.2%} of the samples; least {share.min():.2%}"
    )
    return Metric("modes", found, error, n, True, note)
