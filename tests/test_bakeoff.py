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

from vardiu.cli import bake_off as bake_off_
from vardiu.cli.main import main
from vardiu.comparison.contests import CONTESTS, Arm, Contest
from vardiu.comparison.plan import BUDGETS, BakeOff, calibrate, updates_of
from vardiu.comparison.tables import interval, markdown
from vardiu.comparison.workers import alone
from vardiu.errors import ConfigError, RunError
from vardiu.methods import METHODS, diff_instruct, vardiu
from vardiu.settings.fields import DensitySettings
from vardiu.storage.run_folder import RunFolder

SMALL = DensitySettings(name="ring8", width=16, depth=1)
TINY = Contest(
    "two arms on eight Gaussians",
    {"exact": SMALL, "kde": dataclasses.replace(SMALL, teacher="kde", points=50)},
    {
        "gaussian": Arm("Gaussian", "vardiu", vardiu.Config(batch=16)),
        "fake": Arm("Fake", "diff_instruct", diff_instruct.Config(batch=32, ratio=2)),
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
    prices = {"seconds": 0.01, "rows": 32.0}
    assert updates_of(arm, prices, bake, "time") == 200
    assert updates_of(arm, prices, bake, "calls") == 125
    assert updates_of(arm, {}, bake, "own") == arm.settings.steps
    with pytest.raises(ConfigError, match="pay for 2 updates of Gaussian.*raise --seconds"):
        updates_of(arm, {"seconds": 1.0}, bake, "time")


def test_prices_count_the_teachers_rows(tmp_path):
    prices = calibrate(bake_of(tmp_path), "exact", rounds=0)
    # Pairs of opposite noise, 16 latents; 32 rows where the fake is updated twice an update.
    assert prices == {"gaussian": {"rows": 32.0}, "fake": {"rows": 32.0}}
    timed = calibrate(bake_of(tmp_path), "exact", rounds=1)
    assert all(price["seconds"] > 0 for price in timed.values())


def test_every_contest_has_arms_that_its_teachers_can_train():
    for contest in CONTESTS.values():
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
    bad = Arm("Bad", "vardiu", vardiu.Config(batch=16, lr=1e30, clip=1e30, delay=20))
    arms = {"gaussian": TINY.arms["gaussian"], "bad": bad}
    monkeypatch.setitem(CONTESTS, "tiny", dataclasses.replace(TINY, arms=arms))
    words = ("tiny", "--budgets", "calls", "--teachers", "exact", "--seeds", "1", "--no-study")
    assert bake_off(*words) == 2
    error = capsys.readouterr().err
    assert "1 runs failed" in error and "bad, seed 0" in error and "learning rate" in error
    groups = json.loads(Path("runs/bake-off-tiny/results.json").read_text())["groups"]
    assert len(groups["calls-2000rows/exact"]["gaussian"]) == 1
    assert groups["calls-2000rows/exact"]["bad"] == []


@pytest.mark.parametrize(
    "words, message",
    [
        (("mog41",), "did you mean mog40"),
        (("tiny", "--seeds", "0"), "--seeds must be at least 1"),
        (("tiny", "--arms", "gausian"), "did you mean gaussian"),
        (("tiny", "--teachers", "none"), "--teachers: unknown 'none'"),
        (("digits", "--budgets", "time"), "--budgets: unknown 'time'"),
    ],
)
def test_bad_input_is_named(tiny, capsys, words, message):
    assert bake_off(*words) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


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
    assert callable(bake_off_.bake_off)
