r"""Is it converging? What a run measures on the way, and the alarms that follow from it.

Instruments draw from streams of their own and put everything back: a run with them and one
without train the same student, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .denoise import EmpiricalDenoiser
from .estimators import student_gradient
from .functional import expand_like
from .objective import Batch, Frozen, Objective
from .problems import Problem

__all__ = ["Alarm", "alarms", "gradient_snr", "look", "score_gap", "spread"]

# Below half of the data's variance whole modes or whole directions are missing.
SPREAD = 0.5
# Its square root is the blow-up of every direction by two: no start or noise level asks for it.
BLOWN = 4.0
# A mode or class counts as alive from a fifth of the share that is its due.
ALIVE_SHARE, ALIVE = 0.2, 0.5
# Where samples of the teacher reach 0.9, a student of a few prototypes a class stays near zero.
RECALL = 0.25
# The part of a stage after which a student must have spread: it starts as one lump.
SETTLED = 0.2
# Evaluations of the last third that must have brought nothing, before a run counts as saturated.
PATIENCE = 3
# What a metric may rise above its first value, beyond its error.
WORSE = 1.1
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
    expectation; the estimate can be negative where that is nothing beside the noise. Its standard
    deviation there is :math:`\sqrt{2 / (n (n - 1) r)}`, with :math:`r = (\mathrm{tr} \, C)^2 /
    \mathrm{tr} \, C^2` the number of directions that the noise has: look at several evaluations.

    Returns:
        The ratio; infinite where all gradients are the same.
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
    the larger ones only. Compare a level with itself over training there, not with zero.

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
    middle = len(others) // 2
    parts = slice(0, middle), slice(middle, None)
    own = [
        EmpiricalDenoiser(
            others[part],
            labels=None if label is None else label[len(x) :][part],
            sigma_min=0.0,
        )
        for part in parts
    ]
    given = {} if label is None else {"label": label[: len(x)]}
    found = {}
    for sigma in sigmas:
        level = x.new_full((len(x),), sigma)
        x_t = x + expand_like(level, x) * noise
        denoised = teacher(x_t, level, **given)
        first, second = (half(x_t, level, **given) - denoised for half in own)
        linear = sigma**2 * sigma_data**2 / (sigma**2 + sigma_data**2)
        found[sigma] = float((first * second).mean() / linear)
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
    row["spread"] = spread(x, problem.variance)
    row["histogram"], row["due"] = problem.histogram(x), problem.due
    teacher, device = problem.teacher, objective.device
    held = (m for m in objective.children() if isinstance(m, Frozen))
    asked = (frozen.ask for frozen in held if frozen.teacher is teacher)
    low = math.log10(max(problem.sigma_data / 8, teacher.sigma_min))
    high = math.log10(min(2 * problem.sigma_data, teacher.sigma_max / 2))
    n = len(x) // 16  # the teacher's calls are what it costs
    # The same noise at every look: what changes is the student.
    noise = torch.randn(n, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    gaps = score_gap(
        next(asked, teacher),  # on the samples' device, wherever the teacher waits
        x[:n].to(device),
        x[n:].to(device),
        noise.to(device),
        torch.logspace(low, high, 6).tolist(),
        problem.sigma_data,
        {name: value.to(device) for name, value in cond.items()},
    )
    return row | {f"score_gap/{sigma:.3g}": value for sigma, value in gaps.items()}


# ---------------------------------------------------------------- alarms


def alarms(
    rows: Sequence[Mapping[str, Any]], total: int, latent: int, metric: str, floor: float = 0.0
) -> list[Alarm]:
    r"""Returns the alarms that a log gives reason for, each once, at its first row.

    Arguments:
        rows: The rows of one stage.
        total: The steps that the stage is going to take.
        latent: The dimensions of the student's latent.
        metric: The headline metric, smaller is better.
        floor: What that metric is for the teacher, or for true samples.
    """
    raised: dict[str, Alarm] = {}
    for i, row in enumerate(rows):
        seen = rows[: i + 1]
        found = [
            _divergence(row, total),
            _posterior(seen, latent),
            _collapse(row, total),
            _saturation(seen, total, metric, floor),
            _worsening(seen, total, metric),
        ]
        for alarm in found:
            if alarm is not None:
                raised.setdefault(alarm.name, alarm)
    return list(raised.values())


def _collapse(row: Mapping[str, Any], total: int) -> Alarm | None:
    if "histogram" not in row or row["step"] < SETTLED * total or not row["updates"]:
        return None
    shares, recall = row["histogram"], row.get("metric/recall")
    due = row.get("due") or [1 / len(shares)] * len(shares)
    alive = sum(share >= ALIVE_SHARE * own for share, own in zip(shares, due, strict=True))
    spread = row["spread"]
    narrow = alive < ALIVE * len(shares) or (spread is not None and spread < SPREAD)
    if not narrow and (recall is None or recall >= RECALL):
        return None
    message = f"{alive} of {len(shares)} modes or classes are alive"
    message += "" if spread is None else f", the samples have {spread:.0%} of the data's variance"
    message += "" if recall is None else f" and a recall of {recall:.2f}"
    cure = (
        "start from a spread student (pairs, --posterior framed), raise the smallest noise level, "
        "or take a tighter bound (--posterior shared or flow, --particles 4)"
    )
    return Alarm("collapse", row["step"], message, cure)


def _saturation(
    rows: Sequence[Mapping[str, Any]], total: int, metric: str, floor: float
) -> Alarm | None:
    name = f"metric/{metric}"
    # A student that waits for its posterior cannot improve.
    seen = [row for row in rows if row.get(name) is not None and row["updates"]]
    late = len(seen) // 3
    if late < PATIENCE or rows[-1] is not seen[-1]:
        return None
    progress = seen[-1]["step"] / total
    error = seen[-1].get(f"{name}_error") or 0.0
    before, best = (min(row[name] for row in part) for part in (seen[:-late], seen[-late:]))
    # A student as good as can be told from the best has converged: that is no alarm.
    if best < before - error or best <= floor + 2 * error or not 0.5 <= progress <= 0.95:
        return None
    known = [row["gradient_snr"] for row in seen[-late:] if row.get("gradient_snr") is not None]
    snr = sum(known) / len(known) if known else None
    noisy = snr is not None and snr < NOISE
    cure = (
        f"the gradient is noise (ratio {snr:.2g}): raise the batch or lower the learning rate"
        if noisy
        else "the gradient is not noise: the bound may be loose here; take a tighter posterior"
    )
    message = f"{metric} has not improved in the last {late} evaluations, at {progress:.0%}"
    return Alarm("saturation", seen[-1]["step"], message, cure)


def _worsening(rows: Sequence[Mapping[str, Any]], total: int, metric: str) -> Alarm | None:
    name, now = f"metric/{metric}", rows[-1]
    if now["step"] < 0.5 * total or not now["updates"] or now.get(name) is None:
        return None
    first = next(row for row in rows if row.get(name) is not None)
    noise = math.hypot(*(each.get(f"{name}_error") or 0.0 for each in (first, now)))
    if now[name] <= WORSE * first[name] + 3 * noise:
        return None
    message = (
        f"{metric} is {now[name]:.3g}, and was {first[name]:.3g} at step {first['step']}: "
        "training leads away from where it started"
    )
    cure = (
        "fewer --steps, a lower --lr, or a start that the method holds: more --frame.components "
        "for --posterior framed, a larger --anchor after pairs"
    )
    return Alarm("worsening", now["step"], message, cure)


def _posterior(rows: Sequence[Mapping[str, Any]], latent: int) -> Alarm | None:
    names = [key for key in rows[-1] if key.startswith("posterior_gap")]
    late = [row for row in rows if names and names[0] in row][-PATIENCE:]
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


def _divergence(row: Mapping[str, Any], total: int) -> Alarm | None:
    # The log writes null, and names it. An infinite ratio is that of a gradient without noise.
    bad = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
    bad = [key for key in bad or row.get("nonfinite", ()) if key != "gradient_snr"]
    wide = row.get("spread") or 0.0
    if bad:
        message = f"not finite: {', '.join(bad)}"
    elif wide > BLOWN and row["step"] >= SETTLED * total:
        message = f"the samples have {wide:.3g} times the data's variance"
    else:
        return None
    return Alarm("divergence", row["step"], message, "lower --lr or raise --levels.sigma-min")
