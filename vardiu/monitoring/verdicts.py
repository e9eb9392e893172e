r"""Verdicts: what a finished run is worth, in one word and one sentence with its numbers.

The rules are the table `RULES`, judged from the top; `docs/usage/converging.md` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..errors import with_error
from ..metrics.metric import title_of
from ..metrics.sets import judges
from ..problems.base import Judged
from ..storage.run_folder import RunFolder

__all__ = [
    "COLLAPSED",
    "GOOD",
    "IMPROVING",
    "RULES",
    "STUCK",
    "UNJUDGED",
    "Verdict",
    "best_first",
    "judge",
    "verdict_of",
]


# A row of any table.
Row = TypeVar("Row")


COLLAPSED, GOOD, IMPROVING = "COLLAPSED", "GOOD", "STILL IMPROVING"
STUCK, UNJUDGED = "STUCK", "NOT JUDGED"


# What is missing of the start's or the teacher's coverage, errors that count as equal, and the
# part of the last stage that must have brought something; and how many times the student's
# distance a reference may have and still be one: a teacher that is farther is broken, or asked
# in a way that is not its own.
HALF, ERRORS, LAST, FAR = 0.5, 2.0, 0.2, 3.0


RULES: Mapping[str, str] = {
    COLLAPSED: "a coverage metric (recall, modes, classes) is below half of what it was where the "
    "last stage started, or below half of the reference's",
    UNJUDGED: "the headline metric, or the reference's, is missing or not finite; or the "
    "reference's distance is more than three times the student's; or the student is not as good "
    "as the reference, and was measured too seldom to tell whether it improves",
    GOOD: "the headline metric is no worse than the reference's by more than twice the standard "
    "error of their difference",
    IMPROVING: "the last fifth of the last stage made the headline metric better by more than the "
    "standard error of that difference",
    STUCK: "none of these",
}


class Verdict(NamedTuple):
    r"""What a run is worth.

    Arguments:
        name: A key of `RULES`.
        sentence: Why, with the numbers.
    """

    name: str
    sentence: str

    @property
    def may_lead(self) -> bool:
        r"""Whether a table may name its student the best: one that collapsed never is."""
        return self.name != COLLAPSED

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}"


def best_first(
    rows: Sequence[Row], verdict: Callable[[Row], Verdict], value: Callable[[Row], float]
) -> list[Row]:
    r"""Returns the rows of a table from the best to the worst: those that collapsed, and those
    without a finite value, come after all others.

    Arguments:
        rows: The rows.
        verdict: The verdict on a row.
        value: The headline metric of a row, the smaller the better.
    """

    def place(row: Row) -> tuple[bool, bool, float]:
        number = value(row)
        known = math.isfinite(number)
        return not verdict(row).may_lead, not known, number if known else 0.0

    return sorted(rows, key=place)


class Value(NamedTuple):
    r"""A number and its standard error, which is zero where none is known."""

    number: float
    error: float

    def __str__(self) -> str:
        return with_error(self.number, self.error or None)


def judge(
    rows: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]],
    reference: Sequence[Mapping[str, Any]],
    reference_name: str,
    judged: Judged,
) -> Verdict:
    r"""Returns the verdict on a finished run.

    What is compared with the start was measured on the way, what is compared with the reference
    at the end: with equal numbers of samples each. A number that is missing or not finite passes
    no comparison. Nor does one in features that the student was trained in.

    Arguments:
        rows: The run's log, of all stages.
        metrics: The student's final metrics, see `Metric.row`.
        reference: Those of true samples or of the teacher.
        reference_name: Whose those are, for instance "true samples".
        judged: By which metrics the problem is judged.
    """
    who = called(reference_name)
    metrics = [row for row in metrics if judges(row.get("features", ""))]
    covered = [_coverage(rows, metrics, reference, name) for name in judged.coverage]
    lost = [
        words for name in judged.coverage for words in _losses(rows, metrics, reference, who, name)
    ]
    value, line = known(metrics, judged.metric), known(reference, judged.metric)
    parts = [_headline(value, line, who, judged), *(words for words in covered if words)]
    if lost:
        return Verdict(COLLAPSED, ", ".join([*lost, *parts[:1]]))
    if value is None or line is None:
        whose = "the student's" if value is None else "a reference's"
        reason = f"{whose} {title_of(judged.metric)} is not known"
        return Verdict(UNJUDGED, ", ".join([reason, *(parts if value is not None else parts[1:])]))
    if judged.reaches and judged.lower_is_better and no_measure(value, line):
        reason = f"{who} is too far off to judge by: look at its samples, and run vardiu probe"
        return Verdict(UNJUDGED, ", ".join([reason, *parts]))
    allowed = ERRORS * math.hypot(value.error, line.error)
    if gap(value, line, judged) <= allowed:
        return Verdict(GOOD, ", ".join(parts))
    return _by_progress(rows, judged, parts)


def _by_progress(
    rows: Sequence[Mapping[str, Any]], judged: Judged, parts: Sequence[str]
) -> Verdict:
    r"""Returns the verdict on a student that is not as good as the reference."""
    seen = measured(rows, judged.metric, last_stage_only=True)
    end = max((row["step"] for row in rows if row["stage"] == rows[-1]["stage"]), default=0)
    before = [value for step, value in seen if step <= (1 - LAST) * end]
    late = [value for step, value in seen if step > (1 - LAST) * end]
    if not before or not late:
        return Verdict(UNJUDGED, ", ".join([*parts, "measured too seldom to tell whether better"]))
    first, now = before[-1], late[-1]
    moved = f"{first.number:.3g} to {now.number:.3g}"
    if gap(first, now, judged) > math.hypot(first.error, now.error):
        return Verdict(IMPROVING, ", ".join([*parts, f"from {moved} in the last fifth"]))
    reason = f"no better by more than its error in the last fifth ({moved})"
    return Verdict(STUCK, ", ".join([*parts, reason]))


def verdict_of(folder: RunFolder, judged: Judged) -> Verdict:
    r"""Returns the verdict on a run in its folder; `NOT JUDGED` if it is not finished.

    Raises:
        RunError: The log or the result is damaged.
    """
    result = folder.result()
    if result is None:
        return Verdict(UNJUDGED, "the run is not finished")
    reference = result.get("reference", {})
    compared, who = reference.get("metrics", []), reference.get("name", "")
    return judge(folder.metrics(), result.get("metrics", []), compared, who, judged)


# ---------------------------------------------------------------- numbers


def gap(value: Value, other: Value, judged: Judged) -> float:
    r"""Returns by how much a headline value is worse than another; negative if it is better."""
    difference = value.number - other.number
    return difference if judged.lower_is_better else -difference


def no_measure(value: Value, line: Value) -> bool:
    r"""Whether a reference's distance is above `FAR` times the student's, by more than twice the
    standard error of that difference."""
    error = math.hypot(line.error, FAR * value.error)
    return line.number - FAR * value.number > ERRORS * error


def known(metrics: Sequence[Mapping[str, Any]], name: str) -> Value | None:
    r"""Returns a metric among rows of `Metric.row`; `None` if it is missing or not finite."""
    row = next((row for row in metrics if row["name"] == name), None)
    return None if row is None else finite(row["value"], row["error"])


def measured(
    rows: Sequence[Mapping[str, Any]], name: str, *, last_stage_only: bool = False
) -> list[tuple[int, Value]]:
    r"""Returns the steps and the finite values of a metric on the way."""
    found = []
    for row in rows:
        if last_stage_only and row["stage"] != rows[-1]["stage"]:
            continue
        value = finite(row.get(f"metric/{name}"), row.get(f"metric/{name}_error"))
        if value is not None:
            found.append((row["step"], value))
    return found


def finite(number: float | None, error: float | None) -> Value | None:
    r"""Returns a number and its error; `None` without the number, or if one is not finite."""
    error = 0.0 if error is None else error
    if number is None or not math.isfinite(number) or not math.isfinite(error):
        return None
    return Value(number, error)


def started(rows: Sequence[Mapping[str, Any]], name: str) -> Value | None:
    r"""Returns a metric where the last stage started: at the end of the stage before, or else
    where this one was first measured."""
    stage = rows[-1]["stage"] if rows else None
    before = measured([row for row in rows if row["stage"] != stage], name)
    here = measured(rows, name, last_stage_only=True)
    return before[-1][1] if before else here[0][1] if here else None


def _losses(
    rows: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]],
    reference: Sequence[Mapping[str, Any]],
    who: str,
    name: str,
) -> list[str]:
    r"""Returns in words where a coverage metric is below half of what it should be."""
    on_the_way = measured(rows, name, last_stage_only=True)
    latest = on_the_way[-1][1] if on_the_way else None
    pairs = [
        ("the start", latest, started(rows, name)),
        (who, known(metrics, name), known(reference, name)),
    ]
    return [
        f"{title_of(name)} {now.number:.3g}, below half of the {then.number:.3g} of {whose}"
        for whose, now, then in pairs
        if now is not None and then is not None and now.number < HALF * then.number
    ][:1]


# ---------------------------------------------------------------- words


def called(reference_name: str) -> str:
    r"""Returns who a reference is, in a sentence: "true samples", "the teacher"."""
    name = reference_name.split(",")[0]
    return f"the {name}" if name == "teacher" else name or "the reference"


def _headline(value: Value | None, line: Value | None, who: str, judged: Judged) -> str:
    title = title_of(judged.metric)
    if value is None:
        return f"{title} not known"
    if line is None:
        return f"{title} {value}"
    # A ratio says something of what is positive and ideally zero.
    if judged.lower_is_better and line.number > 0 and value.number > 0:
        ratio = value.number / line.number
        times = f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}"
        return (
            f"{title} {times} times that of {who} ({value.number:.3g} against {line.number:.3g})"
        )
    return f"{title} {value}, of {who} {line}"


def _coverage(
    rows: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]],
    reference: Sequence[Mapping[str, Any]],
    name: str,
) -> str:
    value, line = known(metrics, name), known(reference, name)
    if value is None:
        return ""
    if name not in COUNTED:
        beside = "" if line is None else f" (reference {line.number:.2g})"
        return f"{title_of(name)} {value.number:.2g}{beside}"
    shares = next((row["histogram"] for row in reversed(rows) if "histogram" in row), ())
    total = len(shares) or (None if line is None else round(line.number))
    return f"{value.number:.0f}{'' if total is None else f' of {total}'} {name}"


# Coverage metrics that are a number of things, and not a share.
COUNTED = ("modes", "classes")
