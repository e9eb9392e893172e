r"""Alarms: what in a log tells that a run does not converge.

They know no method. What to try against each of them is told by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..metrics.metric import title_of
from ..training.cures import CURES

__all__ = ["Alarm", "alarms"]


# Below half of the data's variance whole modes or whole directions are missing.
SPREAD = 0.5


# Its square root is the blow-up of every direction by two: no start or noise level asks for it.
BLOWN = 4.0


# In standard deviations of the data: samples in one outer mode of forty have a mean within two.
FAR = 5.0


# A mode or class counts as alive from a fifth of the share that is expected of it.
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


# Nats a dimension of a call's input: a Gaussian of half the right standard deviation has 0.8.
GAP = 1.0


# A fake's error where it is used, in units of that where it is trained.
LAG = 2.0


class Alarm(NamedTuple):
    r"""Something that is wrong with a run.

    Arguments:
        name: Its kind, a key of `CURES`.
        step: The step of the report at which it was raised.
        message: What was measured.
        cure: What to try.
    """

    name: str
    step: int
    message: str
    cure: str


def alarms(
    rows: Sequence[Mapping[str, Any]],
    total: int,
    latent: int | None,
    metric: str,
    floor: Callable[[], float | None] = lambda: 0.0,
    cures: Mapping[str, str] = CURES,
) -> list[Alarm]:
    r"""Returns the alarms that a log gives reason for, each once, at its first row.

    Arguments:
        rows: The rows of one stage.
        total: The steps that the stage is going to take.
        latent: The dimensions of the input of a call of the student; `None` where the stage has
            no student.
        metric: The headline metric, smaller is better.
        floor: Returns what that metric is for the teacher, or for true samples, measured with as
            many samples as the student; `None` if that is not known, and then nothing can be told
            to be saturated. It is asked only where it decides.
        cures: What to try, for every key of `CURES`.
    """
    raised: dict[str, Alarm] = {}
    for i, row in enumerate(rows):
        seen = rows[: i + 1]
        found = [
            _divergence(row, total, cures),
            _posterior(seen, latent, cures),
            _anchor(seen, latent, cures),
            _fake(seen, cures),
            _collapse(row, total, cures),
            _saturation(seen, total, metric, floor, cures),
            _worsening(seen, total, metric, cures),
        ]
        for alarm in found:
            if alarm is not None:
                raised.setdefault(alarm.name, alarm)
    return list(raised.values())


def _collapse(row: Mapping[str, Any], total: int, cures: Mapping[str, str]) -> Alarm | None:
    if "histogram" not in row or row["step"] < SETTLED * total or not row["updates"]:
        return None
    shares, recall = row["histogram"], row.get("metric/recall")
    expected = row.get("expected_shares") or [1 / len(shares)] * len(shares)
    alive = sum(share >= ALIVE_SHARE * own for share, own in zip(shares, expected, strict=True))
    spread = row["spread"]
    narrow = alive < ALIVE * len(shares) or (spread is not None and spread < SPREAD)
    if not narrow and (recall is None or recall >= RECALL):
        return None
    message = f"{alive} of {len(shares)} modes or classes are alive"
    message += "" if spread is None else f", the samples have {spread:.0%} of the data's variance"
    message += "" if recall is None else f" and a recall of {recall:.2f}"
    return Alarm("collapse", row["step"], message, cures["collapse"])


def _saturation(
    rows: Sequence[Mapping[str, Any]],
    total: int,
    metric: str,
    floor: Callable[[], float | None],
    cures: Mapping[str, str],
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
    if best < before - error or not 0.5 <= progress <= 0.95:
        return None
    # A student as good as can be told from the best has converged: that is no alarm. What the
    # best is may cost thousands of the teacher's calls.
    least = floor()
    if least is None or not best > least + 2 * error:
        return None
    known = [row["gradient_snr"] for row in seen[-late:] if row.get("gradient_snr") is not None]
    snr = sum(known) / len(known) if known else None
    cure = cures["saturation"]
    if snr is not None and snr < NOISE:
        cure = f"the gradient is noise (ratio {snr:.2g}): {cures['noise']}"
    message = (
        f"{title_of(metric)} has not improved in the last {late} evaluations, at {progress:.0%}"
    )
    return Alarm("saturation", seen[-1]["step"], message, cure)


def _worsening(
    rows: Sequence[Mapping[str, Any]], total: int, metric: str, cures: Mapping[str, str]
) -> Alarm | None:
    name, now = f"metric/{metric}", rows[-1]
    if now["step"] < 0.5 * total or not now["updates"] or now.get(name) is None:
        return None
    first = next(row for row in rows if row.get(name) is not None)
    noise = math.hypot(*(each.get(f"{name}_error") or 0.0 for each in (first, now)))
    if now[name] <= WORSE * first[name] + 3 * noise:
        return None
    message = (
        f"{title_of(metric)} is {now[name]:.3g}, and was {first[name]:.3g} at step "
        f"{first['step']}: training leads away from where it started"
    )
    return Alarm("worsening", now["step"], message, cures["worsening"])


def _late(rows: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, list[float]]:
    r"""Returns by quantile of the levels the values of the last few reports: one alone is a
    guess. Empty where there are too few."""
    names = [key for key in rows[-1] if key.startswith(f"{prefix}/")]
    late = [row for row in rows if names and names[0] in row][-PATIENCE:]
    if len(late) < PATIENCE:
        return {}
    return {name.rpartition("/")[2]: [row.get(name) or 0.0 for row in late] for name in names}


def _lasting(rows: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, float]:
    r"""Returns by quantile of the levels the least of the last few reports."""
    return {quantile: min(values) for quantile, values in _late(rows, prefix).items()}


def _posterior(
    rows: Sequence[Mapping[str, Any]], latent: int | None, cures: Mapping[str, str]
) -> Alarm | None:
    gaps = _lasting(rows, "posterior_gap_quantile")
    if latent is None or not gaps:
        return None
    quantile, worst = max(gaps.items(), key=lambda item: item[1])
    if worst <= GAP * latent:
        return None
    message = f"the posterior misses {worst:.2g} nats at the {quantile} quantile of the levels"
    return Alarm("posterior", rows[-1]["step"], message, cures["posterior"])


def _anchor(
    rows: Sequence[Mapping[str, Any]], latent: int | None, cures: Mapping[str, str]
) -> Alarm | None:
    nats = _lasting(rows, "trust_quantile").get("0.5")
    if latent is None or nats is None or nats <= GAP * latent:
        return None
    message = f"the student is {nats:.2g} nats from its anchor at the middle level"
    return Alarm("anchor", rows[-1]["step"], message, cures["anchor"])


def _fake(rows: Sequence[Mapping[str, Any]], cures: Mapping[str, str]) -> Alarm | None:
    own, other = (_late(rows, f"fake_error_{who}_quantile") for who in ("anchor", "student"))
    # Of each report by itself: the least of one error may be of another report than that of the
    # other.
    ratios = {
        u: min(theirs / ours for ours, theirs in zip(own[u], other[u], strict=True))
        for u in own.keys() & other.keys()
        if min(own[u]) > 0
    }
    if not ratios or max(ratios.values()) <= LAG:
        return None
    quantile, worst = max(ratios.items(), key=lambda item: item[1])
    message = (
        f"the fake's error on the student's samples is {worst:.2g} times that on the anchor's at "
        f"the {quantile} quantile of the levels"
    )
    return Alarm("fake", rows[-1]["step"], message, cures["fake"])


def _divergence(row: Mapping[str, Any], total: int, cures: Mapping[str, str]) -> Alarm | None:
    # The log writes null, and names it. An infinite ratio is that of a gradient without noise.
    bad = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
    bad = [key for key in bad or row.get("nonfinite", ()) if key != "gradient_snr"]
    wide, far = row.get("spread") or 0.0, row.get("offset") or 0.0
    if bad:
        message = f"not finite: {', '.join(bad)}"
    elif wide > BLOWN and row["step"] >= SETTLED * total:
        message = f"the samples have {wide:.3g} times the data's variance"
    elif far > FAR and row["step"] >= SETTLED * total:
        message = f"the samples' mean is {far:.3g} standard deviations of the data from the data's"
    else:
        return None
    return Alarm("divergence", row["step"], message, cures["divergence"])
