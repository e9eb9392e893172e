"""A bake-off: budgets, resumption, what it writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from vardiu.cli.main import COMMANDS, main
from vardiu.comparison.contests import CONTESTS, Competitor, Contest, entered
from vardiu.comparison.plan import BUDGETS, BakeOff, calibrate, cells, plan, updates_of
from vardiu.comparison.prices import StageCost, price
from vardiu.comparison.tables import interval, markdown
from vardiu.comparison.workers import alone
from vardiu.errors import ConfigError, RunError
from vardiu.methods import METHODS, diff_instruct, regression, vardiu
from vardiu.settings.fields import DensitySettings, NetworkOptimizer, PairSettings
from vardiu.storage.run_folder import RunFolder

SMALL = DensitySettings(name="ring8", width=16, depth=1)
TINY = Contest(
    "two arms on eight Gaussians",
    {"exact": SMALL, "kde": dataclasses.replace(SMALL, teacher="kde", points=50)},
    {
        "gaussian": Competitor("Gaussian", "vardiu", vardiu.Settings(batch=16)),
        "fake": Competitor("Fake", "diff_instruct", diff_instruct.Settings(batch=32, ratio=2)),
    },
    seconds=0.4,
    rows=2_000,
)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(CONTESTS, "tiny", TINY)
    monkeypatch.chdir(tmp_path)
    for name, value in {"MARGINAL": 512, "ROWS": 1024, "DRAWS": 16}.items():
        monkeypatch.setattr(f"vardiu.comparison.study.{name}", value)
    return tmp_path


def bake_off(*words: str) -> int:
    return main(["bake-off", *words, "--samples", "400", "--evaluations", "1"])


def bake_of(tmp_path: Path, **changes) -> BakeOff:
    given = {
        "name": "tiny",
        "contest": TINY,
        "out": tmp_path,
        "seeds": 1,
        "seconds": 2.0,
        "rows": 4_000,
        "budgets": ("time", "calls"),
        "teachers": ("exact",),
        "arms": ("gaussian", "fake"),
    }
    return BakeOff(**{**given, **changes})


def test_budgets_become_updates(tmp_path):
    bake, arm = bake_of(tmp_path), TINY.arms["gaussian"]
    prices = {"seconds": {"fixed": 0.0, "update": 0.01}, "rows": {"fixed": 800.0, "update": 32.0}}
    assert updates_of(arm, prices, bake, "time") == 200
    assert updates_of(arm, prices, bake, "calls") == 100
    assert updates_of(arm, {}, bake, "own") == arm.settings.steps
    with pytest.raises(ConfigError, match="pay for 2 updates of Gaussian.*raise --seconds to 50"):
        updates_of(arm, {"seconds": {"fixed": 0.0, "update": 1.0}}, bake, "time")
    eaten = {"rows": {"fixed": 4_001.0, "update": 2.0}}
    line = (
        r"^Gaussian spends 4001 rows before its first update .* the budget is 4000 rows: raise "
        r"--calls to 4101 at least, or leave it out with --arms$"
    )
    with pytest.raises(ConfigError, match=line):
        updates_of(arm, eaten, bake, "calls")
    # Updates that ask the teacher nothing are as many as the arm's own.
    nothing = {"rows": {"fixed": 4_000.0, "update": 0.0}}
    assert updates_of(arm, nothing, bake, "calls") == arm.settings.steps


def test_a_run_costs_its_fixed_part_and_a_price_an_update():
    # A start of 50 steps; two stages of 1/4 and 3/4 of 1,000 updates, the last with two steps an
    # update: 100 + 50 * 7 and 0.25 * 3 + 0.75 * 2 * 5.
    stages = [
        StageCost(50, 0.0, 7.0, [1.0, 9.0, 2.0]),
        StageCost(250, 0.25, 3.0, [0.5]),
        StageCost(1_500, 0.75, 5.0, [0.25]),
    ]
    assert price(stages, 100.0, 1_000, "rows") == (450.0, 8.25, 0.0)
    assert price(stages, 10.0, 1_000, "seconds") == (110.0, 0.25 * 0.5 + 0.75 * 2 * 0.25, 0.0)
    # The first 150 steps of the last stage, two an update, ask the teacher for 1 row and not 5:
    # 600 rows are saved, and the student's first update comes after what is 100 of all updates.
    stages[2].delay, stages[2].delayed = 150, StageCost(1_500, 0.75, 1.0, [0.25])
    assert price(stages, 100.0, 1_000, "rows") == (450.0 - 600.0, 8.25, 100.0)
    assert price(stages, 10.0, 1_000, "seconds") == (110.0, 0.5, 100.0)
    assert price(stages, 100.0, 1_000, "rows").before == 675.0


def test_prices_count_the_teachers_rows(tmp_path):
    prices = calibrate(bake_of(tmp_path), "exact", rounds=0)
    # Pairs of opposite noise, 16 latents; 32 rows where the fake is updated twice an update.
    each = {"rows": {"fixed": 0.0, "update": 32.0, "delayed": 0.0}}
    assert prices == {"gaussian": each, "fake": each}
    timed = calibrate(bake_of(tmp_path), "exact", rounds=1)
    assert all(price["seconds"]["update"] > 0 for price in timed.values())


PAIRS = PairSettings(pairs=1_200, solver_steps=3, steps=30, batch=16)
STARTED = dataclasses.replace(
    TINY,
    arms={
        "started": Competitor(
            "Started", "diff_instruct", diff_instruct.Settings(batch=32, ratio=2, pairs=PAIRS)
        ),
        "pairs": Competitor("Pairs", "regression", regression.Settings(pairs=PAIRS)),
    },
)


def test_a_start_is_paid_from_the_budget(tiny, monkeypatch):
    # 1,200 pairs at five calls each, a regression that asks nothing, then 32 rows an update.
    bake = bake_of(tiny, contest=STARTED, arms=("started", "pairs"))
    prices = calibrate(bake, "exact", rounds=0)
    each = {"fixed": 6_000.0, "delayed": 0.0}
    assert prices["started"] == {"rows": {**each, "update": 32.0}}
    assert prices["pairs"] == {"rows": {**each, "update": 0.0}}
    monkeypatch.setitem(CONTESTS, "tiny", STARTED)
    words = ("tiny", "--budgets", "calls", "--arms", "started", "--teachers", "exact")
    words += ("--seeds", "1", "--no-study")
    assert bake_off(*words, "--calls", "8000") == 0
    groups = json.loads(Path("runs/bake-off-tiny/results.json").read_text())["groups"]
    (run,) = groups["calls-8000rows/exact"]["started"]
    # (8,000 - 6,000) / 32 = 62.5 updates after a start of 30; they are even.
    assert run["cost"]["student_updates"] == 30 + 62
    assert run["cost"]["teacher_rows"] == 6_000 + 62 * 32


def test_a_start_that_eats_the_budget_is_refused_in_a_line(tiny, monkeypatch, capsys):
    monkeypatch.setitem(CONTESTS, "tiny", STARTED)
    words = ("tiny", "--budgets", "calls", "--teachers", "exact", "--calls", "5000")
    assert bake_off(*words) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "Started spends 6000 rows before its first update" in error
    assert "the budget is 5000 rows: raise --calls to 7600 at least" in error


def test_a_plan_of_an_older_version_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text('{"prices": {"exact": {"fake": {"rows": 32.0}}}}')
    with pytest.raises(ConfigError, match="format 4, got None.*Work in another folder"):
        plan(bake_of(tmp_path), Console(quiet=True))


def test_every_contest_has_arms_that_its_teachers_can_train():
    for name, ground in CONTESTS.items():
        contest = entered(name, ground)
        assert len(contest.arms) >= 3
        for arm in contest.arms.values():
            assert isinstance(arm.settings, METHODS[arm.method].settings)
        assert set(contest.budgets) <= set(BUDGETS)


def test_it_fills_a_table_keeps_finished_runs_and_grows(tiny, capsys):
    words = ("tiny", "--budgets", "calls", "--calls", "2000", "--out", "bake")
    assert bake_off(*words, "--seeds", "1", "--jobs", "2") == 0
    result = json.loads(Path("bake/results.json").read_text())
    groups = result["groups"]
    assert set(groups) == {"calls-2000rows/exact", "calls-2000rows/kde"}
    for arms in groups.values():
        for runs in arms.values():
            (run,) = runs
            # 2,000 rows at 32 an update; 2,016 or 1,984 is as near as whole updates come.
            assert run["cost"]["student_updates"] == 62
            assert run["cost"]["teacher_rows"] == 62 * 32
            assert {"log_density", "mmd2", "modes"} <= set(run["metrics"])
    gradients = result["gradients"]["exact"]["gaussian"]
    assert [round(row["progress"], 2) for row in gradients] == [0.32, 0.66, 1.0]
    assert len(gradients[-1]["slack"]) == 7
    assert "slack" not in result["gradients"]["exact"]["fake"][-1]
    for name in ("results.md", "bakeoff.html", "gradients-exact.png", "slack-kde.png"):
        assert (Path("bake") / name).stat().st_size > 500
    first = {p: p.stat().st_mtime_ns for p in Path("bake/runs").rglob("result.json")}
    assert len(first) == 4
    capsys.readouterr()
    assert bake_off(*words, "--seeds", "2", "--teachers", "exact") == 0
    told = capsys.readouterr().out
    assert "2 of 2: calls, exact, fake, seed 1" in told
    after = {p: p.stat().st_mtime_ns for p in Path("bake/runs").rglob("result.json")}
    assert len(after) == 6
    assert all(after[path] == stamp for path, stamp in first.items())
    table = Path("bake/results.md").read_text()
    assert "| Gaussian |" in table and "[" in table


def test_a_run_that_fails_is_named_and_the_others_are_kept(tiny, monkeypatch, capsys):
    row = vardiu.Settings(batch=16, steps=60, lr=1e30, clip=1e30, delay=20)
    posterior = NetworkOptimizer(lr=1e-3)
    bad = Competitor("Bad", "vardiu", dataclasses.replace(row, posterior_optimizer=posterior))
    good = Competitor("Gaussian", "vardiu", vardiu.Settings(batch=16, steps=60))
    arms = {"gaussian": good, "bad": bad}
    monkeypatch.setitem(CONTESTS, "tiny", dataclasses.replace(TINY, arms=arms))
    words = ("tiny", "--budgets", "own", "--teachers", "exact", "--seeds", "1", "--no-study")
    assert bake_off(*words) == 2
    error = capsys.readouterr().err
    assert "1 runs failed" in error and "bad, seed 0" in error and "learning rate" in error
    groups = json.loads(Path("runs/bake-off-tiny/results.json").read_text())["groups"]
    assert len(groups["own/exact"]["gaussian"]) == 1
    assert groups["own/exact"]["bad"] == []


@pytest.mark.parametrize(
    "words, message",
    [
        (("mog41",), "did you mean mog40"),
        (("tiny", "--seeds", "0"), "--seeds must be at least 1"),
        (("tiny", "--arms", "gausian"), "did you mean gaussian"),
        (("tiny", "--teachers", "none"), "unknown value of --teachers: 'none'"),
        (("digits", "--budgets", "tim"), "unknown value of --budgets: 'tim'"),
        (("tiny", "--budgets", "own,calls,own"), "--budgets names own twice"),
        (("tiny", "--arms", "fake,Fake"), "--arms names fake twice"),
        (("tiny", "--seconds", "0"), "--seconds must be a positive, finite number, got 0"),
        (("tiny", "--seconds", "nan"), "--seconds must be a positive, finite number, got nan"),
        (("tiny", "--seconds", "inf"), "--seconds must be a positive, finite number, got inf"),
        (("tiny", "--seconds", "-3"), "--seconds must be a positive, finite number, got -3"),
        (("tiny", "--calls", "0"), "--calls must be a positive, finite number, got 0"),
        (("tiny", "--calls", "-1"), "--calls must be a positive, finite number, got -1"),
        (("tiny", "--seeds", "-1"), "--seeds must be at least 1"),
        (("tiny", "--threads", "0"), "--threads must be at least 1, got 0"),
        (("tiny", "--threads", "5000"), "run.threads must be at most 4,096, got 5000"),
    ],
)
def test_bad_input_is_named(tiny, capsys, words, message):
    assert bake_off(*words) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("number", ["1", "99", "-5"])
def test_too_few_samples_are_refused_before_an_arm_is_timed(tiny, capsys, number):
    assert main(["bake-off", "tiny", "--samples", number]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "run.samples must be" in line and f"got {number}" in line
    assert not Path("runs").exists()


def test_an_arm_that_diverges_while_it_is_timed_is_one_failed_arm(tiny, monkeypatch, capsys):
    bad = Competitor("Bad", "vardiu", vardiu.Settings(batch=16, lr=1e30, clip=1e30))
    arms = {"gaussian": TINY.arms["gaussian"], "bad": bad}
    monkeypatch.setitem(CONTESTS, "tiny", dataclasses.replace(TINY, arms=arms))
    words = ("tiny", "--budgets", "calls", "--teachers", "exact", "--seeds", "1", "--no-study")
    stamps = []
    for _ in range(2):
        assert bake_off(*words) == 2
        told, error = capsys.readouterr()
        assert "1 runs failed:" in error and "calls, exact, bad: Bad cannot be timed" in error
        stamps.append(Path("runs/bake-off-tiny/plan.json").stat().st_mtime_ns)
    assert stamps[0] == stamps[1]  # what failed is kept: nothing is timed again
    (line,) = [
        row
        for row in Path("runs/bake-off-tiny/results.md").read_text().splitlines()
        if row.startswith("| Bad")
    ]
    assert line.endswith("| failed: it diverged while it was timed |")
    result = json.loads(Path("runs/bake-off-tiny/results.json").read_text())
    assert len(result["groups"]["calls-2000rows/exact"]["gaussian"]) == 1
    assert result["groups"]["calls-2000rows/exact"]["bad"] == []
    # Its own number of updates needs no price: there it is run, and fails as a run does.
    bake = bake_of(tiny, contest=CONTESTS["tiny"], arms=("gaussian", "bad"))
    failed = json.loads(Path("runs/bake-off-tiny/plan.json").read_text())["failed"]
    assert [
        cell.arm for cell in cells(dataclasses.replace(bake, budgets=("own",)), {}, failed)
    ] == [
        "gaussian",
        "bad",
    ]


def test_timing_says_in_a_pipe_how_far_it_is(tmp_path):
    heard = []
    calibrate(bake_of(tmp_path), "exact", 1, lambda done, words="": heard.append((done, words)))
    assert [done for done, _ in heard] == [1, 2, 2, 3, 4, 4]
    said = [words for _, words in heard if words]
    assert said == ["2 arms, round 1 of 2", "2 arms, round 2 of 2"]


def test_one_process_at_a_time(tmp_path):
    with alone(tmp_path), pytest.raises(RunError, match="another process carries out"):
        with alone(tmp_path):
            pass


def test_intervals():
    assert interval([]) == "–"
    assert interval([1.0]) == "1"
    assert interval([3.0, 1.0, 2.0]) == "2 [1, 3]"
    lines = [{"a": "1", "b": "2"}]
    assert markdown(lines) == "| a | b |\n|---|---|\n| 1 | 2 |"


WORDS = ["bake-off", "mog40", "--budgets", "calls", "--calls", "200000", "--arms", "shared"]
WORDS += ["--teachers", "exact", "--seeds", "1", "--no-study"]
WORDS += ["--samples", "400", "--evaluations", "1", "--out"]


def start(folder: Path) -> subprocess.Popen:
    code = "import sys; from vardiu.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *WORDS, str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_killed_and_stopped_it_goes_on_to_the_same_student(tmp_path):
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    run = broken / "runs/calls-200000rows/exact/shared-0"
    process = start(broken)
    wait_for((run / "metrics.jsonl").is_file)
    process.kill()
    process.communicate(timeout=60)

    # The worker notices that its parent died without a word, saves and ends.
    def free() -> bool:
        try:
            with RunFolder(run).lock():
                return True
        except RunError:
            return False

    wait_for(free, 60)
    process = start(broken)
    wait_for(lambda: "going on" in run.with_suffix(".log").read_text())
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "To go on: vardiu bake-off mog40" in error
    for folder in (broken, whole):
        process = start(folder)
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    path = "runs/calls-200000rows/exact/shared-0/student/model.safetensors"
    assert (broken / path).read_bytes() == (whole / path).read_bytes()


def test_the_command_is_known():
    assert "bake-off" in COMMANDS
