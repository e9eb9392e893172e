"""Verdicts: each rule and its boundary on constructed curves, and true samples against themselves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from vardiu.monitoring.verdicts import (
    COLLAPSED,
    GOOD,
    IMPROVING,
    RULES,
    STUCK,
    UNJUDGED,
    Verdict,
    best_first,
    judge,
    verdict_of,
)
from vardiu.problems.base import Judged
from vardiu.problems.linear import LinearScores
from vardiu.problems.toy import ToyProblem
from vardiu.runs.task import PROBLEMS
from vardiu.storage.run_folder import RunFolder

ROOT = Path(__file__).parent.parent
MMD = Judged("mmd2", coverage=("modes",))


def metric(name, value, error=None):
    about = {"n": 500, "higher_is_better": None, "note": "", "reference": "", "features": ""}
    return {"name": name, "value": value, "error": error, **about}


def log(values, error=0.0, stage="main", modes=None, first=1):
    """An evaluation each tenth of a stage of ten steps."""
    return [
        {
            "stage": stage,
            "step": first + i,
            "metric/mmd2": value,
            "metric/mmd2_error": error,
            **({} if modes is None else {"metric/modes": modes[i], "histogram": [0.025] * 40}),
        }
        for i, value in enumerate(values)
    ]


def verdict(rows, value, line, *, error=0.0, line_error=0.0, modes=(40, 40), judged=MMD):
    return judge(
        rows,
        [metric("mmd2", value, error), metric("modes", modes[0])],
        [metric("mmd2", line, line_error), metric("modes", modes[1])],
        "true samples",
        judged,
    )


FLAT = [8.0] * 10


# ---------------------------------------------------------------- each rule, and its boundary


@pytest.mark.parametrize("value, name", [(5.0, GOOD), (5.01, STUCK), (0.5, GOOD)])
def test_good_is_within_twice_the_error_of_the_difference_of_the_line(value, name):
    # hypot(3, 4) / 2.5 = 2, twice that is 4.
    assert verdict(log(FLAT), value, 1.0, error=1.2, line_error=1.6).name == name


def test_without_errors_good_is_no_worse_than_the_line():
    assert verdict(log(FLAT), 1.0, 1.0).name == GOOD
    assert verdict(log(FLAT), 1.0 + 1e-9, 1.0).name == STUCK


@pytest.mark.parametrize("line, name", [(3.0, GOOD), (3.001, UNJUDGED), (1e5, UNJUDGED)])
def test_a_reference_far_behind_its_student_is_none(line, name):
    found = verdict(log(FLAT), 1.0, line)
    assert found.name == name
    assert ("too far off to judge by" in found.sentence) == (name == UNJUDGED)
    # Within twice the error of the difference, hypot(4, 3 * 1) = 5, it may be chance.
    assert verdict(log(FLAT), 1.0, 13.0, error=1.0, line_error=4.0).name == GOOD
    assert verdict(log(FLAT), 1.0, 13.1, error=1.0, line_error=4.0).name == UNJUDGED


@pytest.mark.parametrize("last, name", [(2.999, IMPROVING), (3.0, STUCK), (9.0, STUCK)])
def test_still_improving_is_better_by_more_than_the_error_in_the_last_fifth(last, name):
    # At step 8 of 10 it was 8; the difference has the error hypot(3, 4) = 5.
    rows = log([20, 20, 20, 20, 20, 20, 20, 8.0, 1.0, last])
    rows[7]["metric/mmd2_error"], rows[9]["metric/mmd2_error"] = 3.0, 4.0
    assert verdict(rows, last, 0.0).name == name


def test_progress_before_the_last_fifth_or_in_another_stage_does_not_count():
    rows = log([100, 90, 80, 70, 60, 50, 40, 8, 8, 8])
    assert verdict(rows, 8, 0.0).name == STUCK
    assert verdict(log([100.0] * 10, stage="pairs") + log(FLAT), 8, 0.0).name == STUCK


@pytest.mark.parametrize("modes, name", [(19, COLLAPSED), (20, STUCK)])
def test_collapsed_is_below_half_of_the_references_modes(modes, name):
    assert verdict(log(FLAT), 8.0, 1.0, modes=(modes, 40)).name == name


@pytest.mark.parametrize("modes, name", [(9, COLLAPSED), (10, STUCK)])
def test_collapsed_is_below_half_of_the_starts_modes(modes, name):
    rows = log(FLAT, modes=[20] * 9 + [modes])
    assert verdict(rows, 8.0, 1.0, modes=(modes, 18)).name == name


def test_the_start_is_the_end_of_the_stage_before():
    before = log([8.0] * 2, stage="pairs", modes=[4, 40])
    rows = before + log(FLAT, modes=[15] * 10)
    assert verdict(rows, 8.0, 1.0, modes=(15, 15)).name == COLLAPSED
    assert verdict(rows[2:], 8.0, 1.0, modes=(15, 15)).name == STUCK


def test_a_collapsed_student_is_collapsed_however_good_or_improving_its_headline():
    falling = log([9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5])
    found = verdict(falling, 0.5, 1.0, modes=(3, 40))
    assert found.name == COLLAPSED and not found.may_lead
    assert "modes covered 3, below half of the 40 of true samples" in found.sentence
    assert verdict(falling, 0.5, 1.0).may_lead


def test_what_is_better_higher_is_judged_upside_down():
    judged = Judged("mmd2", lower_is_better=False)
    assert verdict(log(FLAT), 2.0, 1.0, judged=judged).name == GOOD
    rising = log([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert verdict(rising, 10.0, 20.0, judged=judged).name == IMPROVING
    falling = log([10, 9, 8, 7, 6, 5, 4, 3, 2, 1])
    assert verdict(falling, 1.0, 20.0, judged=judged).name == STUCK


def test_a_reference_that_is_to_be_left_behind_may_be_far_off():
    """A perfect restorer beside bicubic enlargement; beside a teacher that far the teacher is
    broken."""
    beside = Judged("mmd2", reaches=False)
    assert verdict(log(FLAT), 2.0, 116.0).name == UNJUDGED
    assert verdict(log(FLAT), 2.0, 116.0, judged=beside).name == GOOD
    assert verdict(log(FLAT), 200.0, 116.0, judged=beside).name != GOOD


# ---------------------------------------------------------------- what cannot be judged


def test_without_a_reference_nothing_is_judged_but_a_collapse_from_the_start():
    rows = log(FLAT, modes=[40] * 9 + [5])
    found = judge(rows, [metric("mmd2", 1.0)], [], "", MMD)
    assert found.name == COLLAPSED
    found = judge(log(FLAT), [metric("mmd2", 1.0, 0.5)], [], "", MMD)
    assert found.name == UNJUDGED and "MMD^2 1 ± 0.5" in found.sentence


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["value", "line", "error", "modes"])
def test_nothing_that_is_not_finite_passes_a_comparison(where, bad):
    numbers = {"value": 0.5, "line": 1.0, "error": 0.1} | {where: bad}
    modes = (bad, 40) if where == "modes" else (40, 40)
    numbers.pop("modes", None)
    found = verdict(
        log(FLAT), numbers["value"], numbers["line"], error=numbers["error"], modes=modes
    )
    assert found.name == (GOOD if where == "modes" else UNJUDGED)
    assert "nan" not in found.sentence and "inf" not in found.sentence


def test_an_evaluation_that_was_not_finite_is_no_progress():
    rows = log([8.0] * 8 + [7.0, math.nan])
    assert verdict(rows, 8.0, 1.0).name == IMPROVING  # by the ninth, which is finite
    rows[8]["metric/mmd2"] = None
    assert verdict(rows, 8.0, 1.0).name == UNJUDGED


@pytest.mark.parametrize("rows", [[], log([8.0])])
def test_a_run_that_was_measured_too_seldom_is_not_judged(rows):
    assert verdict(rows, 8.0, 1.0).name == UNJUDGED
    assert verdict(rows, 1.0, 1.0).name == GOOD


# ---------------------------------------------------------------- words


def test_the_sentence_has_the_numbers():
    rows = log(FLAT, modes=[40] * 10)
    found = verdict(rows, 2.2e-3, 1e-3, error=1e-3)
    assert str(found) == (
        "GOOD: MMD^2 2.2 times that of true samples (0.0022 against 0.001), 40 of 40 modes"
    )
    stuck = verdict(rows, 8.0, 1.0).sentence
    assert stuck.endswith("no better by more than its error in the last fifth (8 to 8)")


def test_no_ratio_is_made_of_a_line_about_zero():
    found = verdict(log(FLAT), 8.0, -1e-5)
    assert "times" not in found.sentence and "of true samples -1e-05" in found.sentence


def test_the_page_shows_the_rules_as_they_are():
    page = (ROOT / "docs/usage/converging.md").read_text()
    for name, rule in RULES.items():
        assert f"| **{name}** | {rule} |" in page


def test_a_collapsed_student_never_tops_a_column():
    rows = [("a", GOOD, 2.0), ("b", COLLAPSED, 0.1), ("c", STUCK, math.nan), ("d", STUCK, 1.0)]
    found = best_first(rows, lambda row: Verdict(row[1], ""), lambda row: row[2])
    assert [row[0] for row in found] == ["d", "a", "c", "b"]


# ---------------------------------------------------------------- problems and runs


@pytest.mark.parametrize("scores", [*(c for c in PROBLEMS.values()), LinearScores, ToyProblem])
def test_every_problem_says_by_what_it_judges(scores):
    assert scores.judged.metric in scores.headline
    assert set(scores.judged.coverage) <= set(scores.headline)


def test_true_samples_are_good_and_the_declared_direction_is_the_metrics_own():
    problem = ToyProblem()
    scores = problem.scores
    metrics = [m.row() for m in scores.measure(problem.data.draw, 400, seed=3)]
    reference, who = scores.teacher_metrics(400)
    found = judge([], metrics, [m.row() for m in reference], who, scores.judged)
    assert found.name == GOOD and "4 modes" in found.sentence
    (headline,) = (m for m in reference if m.name == scores.judged.metric)
    assert headline.higher_is_better is not scores.judged.lower_is_better

    def one_mode(n, random):
        return torch.ones(n, 2) + 0.1 * torch.randn(n, 2, generator=random), {}

    metrics = [m.row() for m in scores.measure(one_mode, 400)]
    found = judge([], metrics, [m.row() for m in reference], who, scores.judged)
    assert found.name == COLLAPSED


COST = dict.fromkeys(("seconds", "teacher_calls", "teacher_rows", "student_updates"), 1)


def test_a_folder_is_judged_by_its_log_and_its_result(tmp_path):
    folder = RunFolder(tmp_path)
    assert verdict_of(folder, MMD).name == UNJUDGED
    for row in log(FLAT, modes=[40] * 10):
        folder.log(row)
    reference = {"name": "true samples", "metrics": [metric("mmd2", 1.0), metric("modes", 40)]}
    result = {"metrics": [metric("mmd2", 8.0), metric("modes", 40)], "reference": reference}
    (tmp_path / "result.json").write_text(json.dumps({**result, "cost": COST}))
    assert verdict_of(folder, MMD).name == STUCK
