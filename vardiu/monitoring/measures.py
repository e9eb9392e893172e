r"""Is it converging? What a run measures on the way, and the alarms that follow from it.

Instruments draw from streams of their own and put everything back: a run with them and one
without train the same student, bit for bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.exact import EmpiricalDenoiser
from ..functional.tensors import expand_like
from ..problems.base import Problem
from ..training.frozen import Frozen
from ..training.objective import Objective
from .gradients import student_gradient

__all__ = ["gradient_snr", "measure_convergence", "score_gap", "variance_ratio"]


# ---------------------------------------------------------------- instruments


def gradient_snr(objective: Objective, batch: Batch, step: int, draws: int = 8) -> float:
    r"""Returns the signal-to-noise ratio of one update's gradient of the student.

    .. math:: \frac{\| \bar g \|^2 - \tfrac1n \mathrm{tr} \, \hat C}{\mathrm{tr} \, \hat C},
        \qquad \mathrm{tr} \, \hat C = \frac{1}{n - 1} \sum_i \| g_i - \bar g \|^2

    of :math:`n` independent gradients. The numerator has the squared norm of the mean for its
    expectation; the estimate can be negative where that is nothing beside the noise. Its standard
    deviation there is :math:`\sqrt{2 / (n (n - 1) r)}`, with :math:`r = (\mathrm{tr} \, C)^2 /
    \mathrm{tr} \, C^2` the number of directions that the noise has: look at several evaluations.

    Returns:
        The ratio; infinite where all gradients are the same, to rounding.
    """
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")
    first, total, squares = torch.zeros(()), torch.zeros(()), 0.0
    with objective.undisturbed(f"gradient/{step}"), torch.enable_grad():
        for i in range(draws):
            gradient = student_gradient(objective, batch, step).double()
            # Less the first: nearly equal gradients would cancel.
            first = gradient if i == 0 else first
            total = total.to(gradient) + (gradient - first)
            squares += float((gradient - first).square().sum())
    mean = float((first + total / draws).square().sum())
    trace = (squares - float(total.square().sum()) / draws) / (draws - 1)
    return math.inf if trace == 0 else (mean - trace / draws) / trace


def score_gap(
    teacher: Callable[..., Tensor],
    x: Tensor,
    others: Tensor,
    noise: Tensor,
    sigmas: Sequence[float],
    sigma_data: float,
    cond: Mapping[str, Tensor] | None = None,
) -> dict[float, float]:
    r"""Returns how far the student's denoiser is from the teacher's, for each level.

    .. math:: \frac{\mathbb{E} \, \| D_p(x_t, \sigma) - D_q(x_t, \sigma) \|^2}
        {d \, \sigma^2 \sigma_d^2 / (\sigma^2 + \sigma_d^2)}, \qquad x_t = x + \sigma \varepsilon

    on the student's own samples; the divisor is the squared error of a linear denoiser, so that a
    gap of one is that of a denoiser which knows nothing but mean and variance. :math:`D_p` comes
    from `others`, further samples of the student, of the same class where there are classes. They
    are halved, and the squared norm is the product of the two halves' differences: the halves are
    independent given :math:`x_t`, and their variance drops out. What remains is the bias of the
    exact denoiser of :math:`N / 2` samples. It is small where many of them lie within
    :math:`\sigma` of :math:`x_t`: in two dimensions at all levels shown, in tens of dimensions at
    the larger ones only. Compare a level with itself over training there, not with zero. Samples
    of classes that either half lacks are left out.

    Arguments:
        teacher: The teacher.
        x: Samples of the student, with shape :math:`(B, *)`.
        others: Further ones, with shape :math:`(N, *)`.
        noise: Standard normal noise, with shape :math:`(B, *)`.
        sigmas: The levels.
        sigma_data: The data's standard deviation.
        cond: The conditions of both, as `x` and `others` together; `label` or none.

    Returns:
        The gap at each level; none where no sample is left.
    """
    label = (cond or {}).get("label")
    middle = len(others) // 2
    parts = slice(0, middle), slice(middle, None)
    given: dict[str, Tensor] = {}
    classes: list[Tensor | None] = [None, None]
    if label is not None:
        halves = [label[len(x) :][part] for part in parts]
        kept, given = _known(label[: len(x)], *halves)
        x, noise, classes = x[kept], noise[kept], [*halves]
        if len(x) == 0:
            return {}
    own = [
        EmpiricalDenoiser(others[part], labels=labels, sigma_min=0.0)
        for part, labels in zip(parts, classes, strict=True)
    ]
    found = {}
    for sigma in sigmas:
        level = x.new_full((len(x),), sigma)
        x_t = x + expand_like(level, x) * noise
        denoised = teacher(x_t, level, **given)
        first, second = (half(x_t, level, **given) - denoised for half in own)
        linear = sigma**2 * sigma_data**2 / (sigma**2 + sigma_data**2)
        found[sigma] = float((first * second).mean() / linear)
    return found


def _known(label: Tensor, *halves: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Returns which rows are of a class that each half has, and their labels as a condition."""
    kept = torch.stack([torch.isin(label, half) for half in halves]).all(0)
    return kept, {"label": label[kept]}


def variance_ratio(x: Tensor, variance: float) -> float:
    r"""Returns the trace of the samples' covariance over that of the data.

    Arguments:
        x: The samples, with shape :math:`(N, *)`.
        variance: The data's variance, an average over dimensions.
    """
    return float(x.flatten(1).var(dim=0).mean()) / variance


def mean_offset(x: Tensor, mean: Tensor, variance: float) -> float:
    r"""Returns how far the mean of samples is from that of the data, in standard deviations of the
    data: the root of the mean square over dimensions.

    Arguments:
        x: The samples, with shape :math:`(N, *)`.
        mean: The data's mean, one number or one a dimension.
        variance: The data's variance, an average over dimensions.
    """
    return float(((x.mean(0) - mean.to(x)).square().mean() / variance).sqrt())


def device_of_module(module: nn.Module) -> torch.device:
    r"""Returns the device of a module's weights, the CPU where it has none."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


@torch.no_grad()
def measure_convergence(
    problem: Problem,
    objective: Objective,
    samples: tuple[Tensor, Mapping[str, Tensor]],
    batch: Batch,
    step: int,
    draws: int = 8,
) -> dict[str, Any]:
    r"""Returns what the instruments show, as entries of a row of the log.

    Arguments:
        problem: The problem.
        objective: What is trained.
        samples: Samples of the averaged student, and their conditions.
        batch: A batch of the training.
        step: The step.
        draws: The number of gradients; 0 for none.
    """
    row: dict[str, Any] = {}
    if draws:
        row["gradient_snr"] = gradient_snr(objective, batch, step, draws)
    x, cond = samples
    row["spread"] = variance_ratio(x, problem.space.variance)
    row["offset"] = mean_offset(x, problem.space.mean, problem.space.variance)
    row["histogram"] = problem.scores.histogram(x)
    row["expected_shares"] = problem.scores.expected_shares
    if problem.teacher is not None:
        row |= teacher_gaps(problem, problem.teacher, objective, x, cond)
    return row


def teacher_gaps(
    problem: Problem,
    teacher: Denoiser,
    objective: Objective,
    x: Tensor,
    cond: Mapping[str, Tensor],
) -> dict[str, float]:
    r"""Returns the gaps of `score_gap` at six levels, as entries of a row of the log.

    Arguments:
        problem: The problem.
        teacher: Its teacher.
        objective: What is trained.
        x: Samples of the averaged student, with shape :math:`(N, *)`.
        cond: Their conditions.
    """
    held = (m for m in objective.children() if isinstance(m, Frozen))
    frozen = next((m for m in held if m.module is teacher), None)
    ask: Callable[..., Tensor] = teacher if frozen is None else frozen.uncounted
    # On the samples' device, wherever the teacher waits; an objective that trains a denoiser on
    # data has no teacher, and leaves the problem's where it is.
    device = device_of_module(teacher) if frozen is None else objective.like.device
    low = math.log10(max(problem.space.sigma_data / 8, teacher.sigma_min))
    high = math.log10(min(2 * problem.space.sigma_data, teacher.sigma_max / 2))
    n = len(x) // 16  # the teacher's calls are what it costs
    # The same noise at every evaluation: what changes is the student.
    noise = torch.randn(n, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    gaps = score_gap(
        ask,
        x[:n].to(device),
        x[n:].to(device),
        noise.to(device),
        torch.logspace(low, high, 6).tolist(),
        problem.space.sigma_data,
        {name: value.to(device) for name, value in cond.items()},
    )
    return {f"score_gap/{sigma:.3g}": value for sigma, value in gaps.items()}
