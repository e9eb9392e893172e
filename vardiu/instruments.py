r"""Is it converging? What a run measures on the way, and the alarms that follow from it.

Instruments draw from streams of their own and put everything back: a run with them and one
without train the same student, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .denoise import Denoiser, EmpiricalDenoiser
from .estimators import student_gradient
from .functional import expand_like
from .generate import Generator
from .objective import Batch, Objective
from .problems import Problem

__all__ = ["Alarm", "alarms", "gradient_snr", "look", "score_gap", "spread"]

# Below half of the data's variance whole modes or whole directions are missing.
SPREAD = 0.5
# A mode or class counts as alive from a fifth of the share that is its due.
ALIVE_SHARE, ALIVE = 0.2, 0.5
# Where samples of the teacher reach 0.9, a student of a few prototypes a class stays near zero.
RECALL = 0.25
# Evaluations of the last third that must have brought nothing, before a run counts as saturated.
PATIENCE = 3
# One update moves at random a hundred times as far as along the gradient.
NOISE = 1e-2
# Nats a dimension of the latent: a Gaussian of half the right standard deviation has 0.8.
GAP = 1.0


class Alarm(NamedTuple):
    r"""Something that is wrong with a run.

    Arguments:
        name: Its kind: collapse, saturation, posterior or divergence.
        step: The step of the report at which it was raised.
        message: What was measured.
        cure: What to try.
    """

    name: str
    step: int
    message: str
    cure: str


# ---------------------------------------------------------------- instruments


def gradient_snr(objective: Objective, batch: Batch, step: int, draws: int = 8) -> float:
    r"""Returns the signal-to-noise ratio of one update's gradient of the student.

    .. math:: \frac{\| \bar g \|^2 - \tfrac1n \mathrm{tr} \, \hat C}{\mathrm{tr} \, \hat C},
        \qquad \mathrm{tr} \, \hat C = \frac{1}{n - 1} \sum_i \| g_i - \bar g \|^2

    of :math:`n` independent gradients. The numerator has the squared norm of the mean for its
    expectation; the estimate can be negative where that is nothing beside the noise.
    """
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")
    total, squares = torch.zeros(()), 0.0
    with objective.aside(f"gradient/{step}"), torch.enable_grad():
        for _ in range(draws):
            gradient = student_gradient(objective, batch, step).double()
            total, squares = (
                total.to(gradient) + gradient,
                squares + float(gradient.square().sum()),
            )
    mean = float(total.square().sum()) / draws**2
    trace = (squares - draws * mean) / (draws - 1)
    return (mean - trace / draws) / trace if trace > 0 else math.inf


def score_gap(
    teacher: Denoiser,
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

    on the student's own samples; the divisor is the error of a linear denoiser. :math:`D_p` is
    the exact denoiser of `others`, further samples of the student, of the same class where there
    are classes. In few dimensions that is the student's; in many, at levels below the distance of
    neighbours, it is not, and the value is an upper limit.

    Arguments:
        teacher: The teacher.
        x: Samples of the student, with shape :math:`(B, *)`.
        others: Further ones, with shape :math:`(N, *)`.
        noise: Standard normal noise, with shape :math:`(B, *)`.
        sigmas: The levels.
        sigma_data: The data's standard deviation.
        cond: The conditions of both, as `x` and `others` together; `label` or none.
    """
    label = (cond or {}).get("label")
    known = None if label is None else label[len(x) :]
    own = EmpiricalDenoiser(others, labels=known, sigma_min=0.0)
    given = {} if label is None else {"label": label[: len(x)]}
    found = {}
    for sigma in sigmas:
        level = x.new_full((len(x),), sigma)
        x_t = x + expand_like(level, x) * noise
        difference = own(x_t, level, **given) - teacher(x_t, level, **given)
        linear = sigma**2 * sigma_data**2 / (sigma**2 + sigma_data**2)
        found[sigma] = float(difference.square().mean() / linear)
    return found


def spread(x: Tensor, variance: float) -> float:
    r"""Returns the trace of the samples' covariance over that of the data.

    Arguments:
        x: The samples, with shape :math:`(N, *)`.
        variance: The data's variance, an average over dimensions.
    """
    return float(x.flatten(1).var(dim=0).mean()) / variance


@torch.no_grad()
def look(
    problem: Problem,
    objective: Objective,
    student: Generator,
    batch: Batch,
    step: int,
    draws: int = 8,
) -> dict[str, Any]:
    r"""Returns what the instruments show, as entries of a row of the log."""
    row: dict[str, Any] = {"gradient_snr": gradient_snr(objective, batch, step, draws)}
    random = torch.Generator().manual_seed(step)
    n, more = 512, 4096
    x, cond = problem.from_generator(student)(n + more, random)
    row["spread"] = spread(x, problem.variance)
    row["histogram"] = problem.histogram(x)
    teacher = problem.teacher
    device = next(iter(student.parameters())).device
    low = math.log10(max(problem.sigma_data / 8, teacher.sigma_min))
    high = math.log10(min(2 * problem.sigma_data, teacher.sigma_max / 2))
    noise = torch.randn(n, *x.shape[1:], generator=random)
    gaps = score_gap(
        teacher,
        x[:n].to(device),
        x[n:].to(device),
        noise.to(device),
        torch.logspace(low, high, 4).tolist(),
        problem.sigma_data,
        {name: value.to(device) for name, value in cond.items()},
    )
    return row | {f"score_gap/{sigma:.3g}": value for sigma, value in gaps.items()}


# ---------------------------------------------------------------- alarms


def alarms(rows: Sequence[Mapping[str, Any]], total: int, latent: int, metric: str) -> list[Alarm]:
    r"""Returns the alarms that a log gives reason for, each once, at its first row.

    Arguments:
        rows: The rows of one stage.
        total: The steps that the stage is going to take.
        latent: The dimensions of the student's latent.
        metric: The headline metric, smaller is better.
    """
    raised: dict[str, Alarm] = {}
    looked = 0
    for i, row in enumerate(rows):
        looked += "histogram" in row
        found = [_divergence(row), _posterior(rows[: i + 1], latent)]
        if looked > 1:  # the first evaluation sees a student that has hardly begun
            found += [_collapse(row), _saturation(rows[: i + 1], total, metric)]
        for alarm in found:
            if alarm is not None:
                raised.setdefault(alarm.name, alarm)
    return list(raised.values())


def _collapse(row: Mapping[str, Any]) -> Alarm | None:
    if "histogram" not in row:
        return None
    shares, recall = row["histogram"], row.get("metric/recall")
    alive = sum(share >= ALIVE_SHARE / len(shares) for share in shares)
    narrow = alive < ALIVE * len(shares) or row["spread"] < SPREAD
    if not narrow and (recall is None or recall >= RECALL):
        return None
    message = (
        f"{alive} of {len(shares)} modes or classes are alive, the samples have "
        f"{row['spread']:.0%} of the data's variance"
    )
    message += "" if recall is None else f" and a recall of {recall:.2f}"
    cure = (
        "start from a spread student (pairs, --posterior framed), raise the smallest noise level, "
        "or take a tighter bound (--posterior shared or flow, --particles 4)"
    )
    return Alarm("collapse", row["step"], message, cure)


def _saturation(rows: Sequence[Mapping[str, Any]], total: int, metric: str) -> Alarm | None:
    name = f"metric/{metric}"
    seen = [row for row in rows if row.get(name) is not None]
    late = len(seen) // 3
    if rows[-1] is not seen[-1] or late < PATIENCE:
        return None
    progress = seen[-1]["step"] / total
    error = seen[-1].get(f"{name}_error") or 0.0
    before = min(row[name] for row in seen[:-late])
    if min(row[name] for row in seen[-late:]) < before - error or not 0.5 <= progress <= 0.95:
        return None
    snr = seen[-1].get("gradient_snr")
    noisy = snr is not None and snr < NOISE
    cure = (
        f"the gradient is noise (ratio {snr:.2g}): raise the batch or lower the learning rate"
        if noisy
        else "the gradient is not noise: the bound may be loose here; take a tighter posterior"
    )
    message = f"{metric} has not improved in the last {late} evaluations, at {progress:.0%}"
    return Alarm("saturation", seen[-1]["step"], message, cure)


def _posterior(rows: Sequence[Mapping[str, Any]], latent: int) -> Alarm | None:
    names = [key for key in rows[-1] if key.startswith("posterior_gap")]
    late = rows[-PATIENCE:]
    if not names or len(late) < PATIENCE:
        return None
    # The least of the last few reports: one alone is a guess.
    gaps = {name: min(row.get(name) or 0.0 for row in late) for name in names}
    name, worst = max(gaps.items(), key=lambda item: item[1])
    if worst <= GAP * latent:
        return None
    row, quantile = rows[-1], name.rpartition("/")[2]
    message = f"the posterior misses {worst:.2g} nats at the {quantile} quantile of the levels"
    cure = "raise --posterior-lr, give it a --delay, or lower the student's --lr"
    return Alarm("posterior", row["step"], message, cure)


def _divergence(row: Mapping[str, Any]) -> Alarm | None:
    # The log writes null, and names it.
    bad = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
    bad = bad or row.get("nonfinite", [])
    if not bad:
        return None
    message = f"not finite: {', '.join(bad)}"
    return Alarm("divergence", row["step"], message, "lower --lr or raise --levels.sigma-min")
