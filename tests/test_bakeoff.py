"""A bake-off: budgets, resumption, what it writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import platform
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from processes import Command, forked_workers
from rich.console import Console

from vardiu.cli.main import COMMANDS, main
from vardiu.comparison.contests import (
    CONTESTS,
    Competitor,
    Contest,
    contest_of,
    entered,
    without_data,
)
from vardiu.comparison.plan import (
    BUDGETS,
    BakeOff,
    calibrate,
    cells,
    plan,
    refuse_arms,
    updates_of,
    why_not,
)
from vardiu.comparison.prices import StageCost, price
from vardiu.comparison.results import Result, differences, in_order
from vardiu.comparison.screening import may_go_on
from vardiu.comparison.tables import interval, markdown, table
from vardiu.errors import ConfigError, Interrupted, RunError
from vardiu.methods import METHODS, diff_instruct, regression, vardiu
from vardiu.methods.vardiu import VarDiU
from vardiu.runs.presets import PRESETS
from vardiu.runs.task import PROBLEMS
from vardiu.settings.fields import (
    DensitySettings,
    ImageSettings,
    NetworkOptimizer,
    PairSettings,
    RestorationSettings,
    VectorSettings,
)
from vardiu.storage.finished import sole_writer
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
    torch.set_default_dtype(torch.float32)
    forked_workers(monkeypatch)
    monkeypatch.setitem(CONTESTS, "tiny", TINY)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 400)
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
    each = {"fixed": 0.0, "update": 32.0, "delayed": 0.0}
    assert {name: row["rows"] for name, row in prices.items()} == {"gaussian": each, "fake": each}
    assert all(row["rough"]["update"] > 0 for row in prices.values())
    timed = calibrate(bake_of(tmp_path), "exact", rounds=1)
    assert all(price["seconds"]["update"] > 0 for price in timed.values())


PAIRS = PairSettings(pairs=1_200, solver_steps=3, steps=30, batch=16)
STARTED = dataclasses.replace(
    TINY,
    arms={
        "started": Competitor(
            "Started", "diff_instruct", diff_instruct.Settings(batch=32, ratio=2, pairs=PAIRS)
        ),
        "pairs": Competitor("Pairs", "regression", regression.Settings(pairs=PAIRS, steps=60)),
    },
)


def test_a_start_is_paid_from_the_budget(tiny, monkeypatch):
    # 1,200 pairs at five calls each, a regression that asks nothing, then 32 rows an update.
    bake = bake_of(tiny, contest=STARTED, arms=("started", "pairs"))
    prices = calibrate(bake, "exact", rounds=0)
    each = {"fixed": 6_000.0, "delayed": 0.0}
    assert prices["started"]["rows"] == {**each, "update": 32.0}
    assert prices["pairs"]["rows"] == {**each, "update": 0.0}
    monkeypatch.setitem(CONTESTS, "tiny", STARTED)
    words = ("tiny", "--budgets", "calls", "--arms", "started", "--teachers", "exact")
    words += ("--seeds", "1", "--no-study")
    assert bake_off(*words, "--calls", "8000") == 0
    groups = json.loads(Path("runs/bake-off-tiny/results.json").read_text())["groups"]
    (run,) = groups["calls-8000rows/exact"]["started"]
    # (8,000 - 6,000) / 32 = 62.5 updates after a start of 30; they are even.
    assert run["cost"]["student_updates"] == 30 + 62
    assert run["cost"]["teacher_rows"] == 6_000 + 62 * 32


def test_pairs_are_made_once_for_all_arms_and_paid_by_each(tiny, monkeypatch):
    monkeypatch.setitem(CONTESTS, "tiny", STARTED)
    words = (
        "tiny",
        "--budgets",
        "calls",
        "--teachers",
        "exact",
        "--calls",
        "8000",
        "--seeds",
        "2",
    )
    assert bake_off(*words, "--arms", "started,pairs", "--no-study", "--jobs", "2") == 0
    out = Path("runs/bake-off-tiny")
    groups = json.loads((out / "results.json").read_text())["groups"]["calls-8000rows/exact"]
    spent = {arm: [run["cost"]["teacher_rows"] for run in runs] for arm, runs in groups.items()}
    assert spent == {"started": [6_000 + 62 * 32] * 2, "pairs": [6_000] * 2}
    # Of each seed those of one arm, which the other one took.
    kept = list((out / "artefacts").iterdir())
    assert len(kept) == 2 and all(folder.name.startswith("pairs-") for folder in kept)
    assert not [*(out / "runs").rglob("artefacts")]


def test_a_start_that_eats_the_budget_is_refused_in_a_line(tiny, monkeypatch, capsys):
    monkeypatch.setitem(CONTESTS, "tiny", STARTED)
    words = ("tiny", "--budgets", "calls", "--teachers", "exact", "--calls", "5000")
    assert bake_off(*words, "--arms", "started,pairs") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "Started spends 6000 rows before its first update" in error
    assert "the budget is 5000 rows: raise --calls to 7600 at least" in error
    assert "; nor does it pay for pairs, and all are paid for by --calls 7600" in error


def test_a_plan_of_an_older_version_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text('{"prices": {"exact": {"fake": {"rows": 32.0}}}}')
    with pytest.raises(ConfigError, match="format 5, got None.*Work in another folder"):
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
    # A copy without weights is reported as it stands, and nothing is run.
    without = shutil.ignore_patterns("student", "checkpoints", "milestones", "*.png")
    shutil.copytree("bake", "copy", ignore=without)
    more = ("--seeds", "3", "--teachers", "exact", "--out", "copy", "--report")
    assert bake_off(*words, *more) == 0
    text = Path("copy/results.md").read_text()
    assert "exact teacher: 4 of 6 runs are complete" in text and "2 of 3 (1 missing)" in text
    assert "median and range of the seeds; 4 of 6 runs complete](quality-" in text
    assert "paired differences" in text and "Gaussian" in text
    assert not Path("copy/runs/calls-2000rows/exact/fake-2").exists()
    assert bake_off(*words, "--out", "none", "--report") == 2
    assert "none is no bake-off: it has no plan.json" in capsys.readouterr().err


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
    assert "1 run failed" in error and "bad, seed 0" in error and "learning rate" in error
    groups = json.loads(Path("runs/bake-off-tiny/results.json").read_text())["groups"]
    assert len(groups["own/exact"]["gaussian"]) == 1
    assert groups["own/exact"]["bad"] == []


def test_any_density_takes_the_arms_of_mog40_with_levels_of_its_own():
    tuned = entered("mog40", CONTESTS["mog40"])
    for word in ("ring8", "spiral"):
        name, contest = contest_of(word)
        contest = entered(name, contest)
        assert list(contest.arms) == list(tuned.arms)
        row, before = PRESETS[word], PRESETS["mog40"]
        # The default arm is the density's own preset, but for what was tuned for its sake.
        assert contest.arms["shared"].settings.levels == row.settings.levels
        assert row.settings.levels != before.settings.levels
        assert contest.teachers["exact"] == row.problem
        assert set(contest.teachers) == {"exact", "learned", "kde"}


def test_a_table_of_points_is_a_contest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    angle = torch.linspace(0, 6, 300)
    rows = torch.stack([30 * angle.cos(), 30 * angle.sin()], 1)
    Path("circle.csv").write_text("\n".join(f"{x},{y}" for x, y in rows.tolist()))
    name, contest = contest_of("circle.csv")
    assert (name, list(contest.teachers)) == ("circle", ["exact"])
    (ground,) = contest.grounds
    levels = entered(name, contest).arms["shared"].settings.levels
    assert levels.sigma_max == pytest.approx(20.0 * ground.spread, rel=1e-2)


def test_images_and_vectors_take_the_nearest_arms():
    name, patches = contest_of("patches")
    patches, digits = entered(name, patches), entered("digits", CONTESTS["digits"])
    assert set(patches.arms) == set(digits.arms)
    # But for the steps that solve a pair, which were measured for the digits' teacher.
    ours, theirs = patches.arms["sid"].settings, digits.arms["sid"].settings
    assert (ours.pairs.solver_steps, theirs.pairs.solver_steps) == (10, 8)
    assert ours == dataclasses.replace(theirs, pairs=ours.pairs)
    assert patches.arms["sid"].settings.pairs.pairs == theirs.pairs.pairs
    assert patches.arms["redif"].settings == digits.arms["redif"].settings
    assert patches.arms["framed"].settings.frame.components == 64  # its own arm of images
    name, images = contest_of("images", ImageSettings(teacher="some/where"))
    images = entered(name, images)
    # The bound of patches was tuned on them, for the contest; other images take what was tuned on
    # none.
    bound, preset = patches.arms["anchored"].settings, PRESETS["patches-vardiu"].settings
    assert (bound.levels.sigma_max, bound.anchor.rate) == (6.0, 0.5)
    assert dataclasses.replace(bound, levels=preset.levels, anchor=preset.anchor) == preset
    assert images.arms == {
        **patches.arms,
        "anchored": dataclasses.replace(
            patches.arms["anchored"], settings=PRESETS["images-vardiu"].settings
        ),
    }
    wanting = {"dmd2", "consistency", "f-distill"}
    assert wanting <= set(without_data(images, "given"))
    assert without_data(patches, "learned") == without_data(digits, "learned") == []
    name, vectors = contest_of("vectors", VectorSettings(teacher="some/where"))
    vectors = entered(name, vectors)
    # Levels are multiples of the data's standard deviation, MoG-40's are of one of about 25.
    assert vectors.arms["sid"].settings.levels.sigma_max < 2.5
    assert (
        vectors.arms["diff-instruct"].settings
        == METHODS["diff_instruct"].presets["vectors"].settings
    )


def test_a_screening_lets_the_best_and_the_baseline_go_on(tiny, monkeypatch, capsys):
    slow = Competitor("Slow", "vardiu", vardiu.Settings(batch=16, lr=1e-9))
    bad = Competitor("Bad", "vardiu", vardiu.Settings(batch=16, lr=1e30, clip=1e30))
    arms = {**TINY.arms, "slow": slow, "bad": bad}
    monkeypatch.setitem(CONTESTS, "tiny", dataclasses.replace(TINY, arms=arms))
    words = ("tiny", "--budgets", "calls", "--calls", "8000", "--teachers", "exact", "--no-study")
    words += ("--seeds", "2", "--screen", "1", "--out", "bake")
    assert bake_off(*words, "--dry-run") == 0
    told = capsys.readouterr().out
    # One of the four will diverge while it is timed, which nobody knows before.
    assert "to be run: a screening of 4 runs (0 complete) and at most 4 runs (0 complete)" in told
    assert not Path("bake").exists()
    with monkeypatch.context() as patch:
        patch.setattr("vardiu.cli.bake_off.decide", interrupt)
        assert bake_off(*words) == 130  # after the screening, before what it decides is kept
    heats = {p: p.stat().st_mtime_ns for p in Path("bake/runs").rglob("result.json")}
    assert len(heats) == 3
    assert bake_off(*words) == 2  # one arm diverged while it was timed
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in heats.items())
    result = json.loads(Path("bake/results.json").read_text())
    (decided,) = result["screening"].values()
    assert "fake" in decided["kept"] and "bad" not in decided["kept"] and len(decided["kept"]) < 3
    group = result["groups"]["calls-8000rows/exact"]
    assert {arm: len(runs) for arm, runs in group.items() if runs} == dict.fromkeys(
        decided["kept"], 2
    )
    assert "left out by the screening" in result["left_out"]["calls-8000rows/exact"].values()
    text = Path("bake/results.md").read_text()
    assert "## screening: 2,000 rows of the teacher, exact teacher: 3 of 3 runs" in text
    assert "| yes, the baseline |" in text and "| no |" in text
    assert json.loads(Path("bake/plan.json").read_text())["screening"] == result["screening"]


def test_a_place_that_cannot_be_written_is_told_before_a_teacher_is_trained(
    tiny, monkeypatch, capsys
):
    learned = {"learned": dataclasses.replace(SMALL, name="mog40", teacher="learned")}
    monkeypatch.setitem(CONTESTS, "tiny", dataclasses.replace(TINY, teachers=learned))
    Path("file").touch()
    assert bake_off("tiny", "--out", "file/bake") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "file/bake cannot be written (Not a directory): give a folder" in said
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_a_teacher_that_is_trained_first_is_told_before(tiny, monkeypatch, capsys):
    """With its number of updates: it may take longer than all runs."""

    def never(*_, **__):
        raise ConfigError("not now")

    learned = {"learned": dataclasses.replace(SMALL, name="mog40", teacher="learned")}
    monkeypatch.setitem(CONTESTS, "tiny", dataclasses.replace(TINY, teachers=learned))
    monkeypatch.setattr("vardiu.cli.bake_off.ensure_teacher", never)
    assert bake_off("tiny", "--out", "bake") == 2
    first = "to be trained first: the learned teacher, runs/teach-mog40, by 20,000 updates\n"
    assert capsys.readouterr().out == first


def test_a_dry_run_trains_times_and_writes_nothing(tiny, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("a dry run starts nothing")

    learned = dataclasses.replace(SMALL, name="mog40", teacher="learned")
    teachers = {"exact": SMALL, "learned": learned}
    monkeypatch.setitem(CONTESTS, "tiny", dataclasses.replace(TINY, teachers=teachers))
    words = ("tiny", "--budgets", "time,calls", "--seeds", "3", "--no-study", "--out", "bake")
    with monkeypatch.context() as patch:
        for name in ("cli.bake_off.ensure_teacher", "comparison.plan.calibrate"):
            patch.setattr(f"vardiu.{name}", never)
        assert bake_off(*words, "--seconds", "60", "--dry-run") == 0
    told = capsys.readouterr().out.splitlines()
    # Under time 12 runs of a minute; nothing is known of the 12 others' seconds.
    line = "to be run: at most 24 runs (0 complete); about 12 min 00 s of training, 1 at a time, "
    assert told == [
        "to be trained first: the learned teacher, runs/teach-mog40, by 20,000 updates (--teachers "
        "exact needs none)",
        line + "and those of arms that are not timed yet",
        *(f"to be timed first, {name} teacher: gaussian, fake" for name in teachers),
    ]
    assert list(Path().iterdir()) == []
    # With stored prices the hours are known, and an arm that its budget does not pay for.
    free = {"fixed": 0.0, "update": 10.0, "delayed": 0.0}
    row = {"rows": {**free, "update": 2.0}, "rough": free, "seconds": free}
    dear = {**row, "seconds": {**free, "fixed": 900.0}}
    prices = {"exact": {"gaussian": row, "fake": dear}}
    kept = {"format": 5, "problems": {}, "prices": prices, "failed": {}, "screening": {}}
    Path("bake").mkdir()
    Path("bake/plan.json").write_text(json.dumps(kept))
    known = (*words, "--teachers", "exact", "--seconds", "600", "--calls", "200", "--dry-run")
    assert bake_off(*known) == 0
    first, *others = capsys.readouterr().out.splitlines()
    # 3 of 600 s; 3 of 100 updates of 10 s, and 3 with 900 s before them.
    assert 3 * 600 + 3 * 1000 + 3 * 1900 == 2 * 3600 + 55 * 60
    assert first.startswith("to be run: 9 runs (0 complete); about 2 h 55 min of training")
    assert len(others) == 1 and "fake: left out: Fake spends 900 seconds before" in others[0]
    assert json.loads(Path("bake/plan.json").read_text()) == kept
    assert bake_off(*known, "--arms", "fake") == 2
    assert "fake: Fake spends 900 seconds" in capsys.readouterr().err


def test_a_run_of_other_settings_is_named_with_the_cure_before_anything_is_trained(
    tiny, monkeypatch, capsys
):
    words = ("tiny", "--budgets", "calls", "--teachers", "exact", "--seeds", "1", "--no-study")
    words += ("--arms", "gaussian")
    assert bake_off(*words) == 0
    run = Path("runs/bake-off-tiny/runs/calls-2000rows/exact/gaussian-0")
    config = (run / "config.yaml").read_text()

    def left(text: str, *, finished: bool) -> list[str]:
        capsys.readouterr()
        (run / "config.yaml").write_text(text)
        if not finished:
            (run / "result.json").unlink(missing_ok=True)
        status = bake_off(*words)
        lines = capsys.readouterr().err.strip().splitlines()
        assert (status, len(lines)) == ((2, 1) if lines else (0, 0))
        return lines

    # A finished run may have been measured otherwise and may have other updates.
    other = config.replace("evaluations: 1", "evaluations: 6")
    other = other.replace("\n  steps: 62\n", "\n  steps: 70\n")
    assert "steps: 70" in other and "evaluations: 6" in other
    assert left(other, finished=True) == []
    (line,) = left(config.replace("lr: 0.001", "lr: 0.5"), finished=True)
    assert f"{run}: this run was carried out with other settings" in line
    assert "method.lr: there 0.5, now 0.001" in line
    (line,) = left(config.replace("evaluations: 1", "evaluations: 6"), finished=False)
    assert f"{run}: this run was begun with other settings" in line
    assert "run.evaluations: there 6, now 1" in line and "Move this folder away" in line
    (line,) = left(config.replace("    lr:", "    gone: 1\n    lr:"), finished=False)
    assert "there 1, now None" in line
    # Without the check in front the run itself says the same, on one whole line.
    monkeypatch.setattr("vardiu.cli.bake_off.refuse_changed_runs", lambda todo: None)
    (run / "config.yaml").write_text(config.replace("evaluations: 1", "evaluations: 6"))
    assert bake_off(*words) == 2
    told = capsys.readouterr()
    whole = f"{run} holds another run, whose settings differ: run.evaluations: there 6, now 1."
    assert any(line.startswith("failed: ") and whole in line for line in told.out.splitlines())
    assert whole in told.err


def interrupt(*_):
    raise Interrupted("stopped")


def result_of(arm: str, *values: float, verdict: str = "GOOD", first: int = 0) -> Result:
    runs = [
        {"seed": seed, "metrics": {"mmd2": value}, "verdict": verdict}
        for seed, value in enumerate(values, start=first)
    ]
    return Result(arm, arm.title(), runs, 0)


def test_paired_differences_have_an_interval_of_students_distribution():
    a, b = result_of("a", 1.0, 2.0, 3.0), result_of("b", 2.0, 3.5, 3.9)
    found = {(row.arm, row.other): row for row in differences([b, a], "mmd2", "b")}
    (row,) = found.values()  # the best one is what the baseline is compared with
    assert (row.arm, row.other, row.seeds) == ("b", "a", 3)
    # Differences 1, 1.5, 0.9: mean 1.1333, s = 0.32146, t = 4.3027 of two degrees of freedom.
    assert row.mean == pytest.approx(3.4 / 3)
    assert row.half == pytest.approx(4.302653 * 0.3214550 / 3**0.5, rel=1e-5)
    assert row.verdict == "worse"
    c = result_of("c", 5.0, 0.0, first=2)  # one common seed with the others
    pairs = {(row.arm, row.other): row for row in differences([a, b, c], "mmd2", "b")}
    assert pairs["c", "b"].seeds == 1 and pairs["c", "b"].verdict == "undecided"
    holed = result_of("holed", 0.5, math.nan, 0.6)
    (row,) = differences([a, holed], "mmd2")
    assert (row.arm, row.verdict) == ("holed", "undecided") and math.isnan(row.mean)
    lost = result_of("lost", 0.1, 0.1, verdict="COLLAPSED")
    assert [row.arm for row in in_order([lost, b, a], "mmd2")] == ["a", "b", "lost"]
    assert not may_go_on(lost, "mmd2") and may_go_on(a, "mmd2")
    assert not may_go_on(result_of("never"), "mmd2")
    assert not may_go_on(result_of("nan", math.nan), "mmd2")


def test_a_table_is_in_the_order_of_what_its_problem_is_judged_by():
    """Restored images show their PSNR first, which is to be high, and are judged by a distance."""
    problem = PROBLEMS[RestorationSettings]

    def arm(name: str, peak: float, far: float) -> Result:
        metrics = {"psnr": peak, "high_frequencies": 0.9, "frechet": far}
        cost = {"seconds": 1.0, "teacher_rows": 1, "student_updates": 1}
        run = {"verdict": "GOOD", "samples": 10, "cost": cost, "metrics": metrics}
        runs = [{**run, "seed": seed, "errors": metrics} for seed in range(2)]
        return Result(name, name, runs, 0)

    rows = [arm("far", 20.0, 50.0), arm("near", 30.0, 5.0)]
    assert problem.headline[0] == "psnr"
    found = table(rows, problem.headline, problem.judged.metric)
    assert [row["arm"] for row in found] == ["near", "far"]


@pytest.mark.parametrize(
    "words, message",
    [
        (("mog41",), "did you mean mog40"),
        (("ring9",), "did you mean ring8"),
        (("images",), "the contest images is of a teacher of your own: give --teacher"),
        (("tiny", "--screen", "0"), "--screen must be at least 1, got 0"),
        (("tiny", "--screen", "-2"), "--screen must be at least 1, got -2"),
        (("tiny", "--baseline", "fakes"), "did you mean fake"),
        (("tiny", "--arms", "gaussian", "--baseline", "fake"), "is none of --arms"),
        (("tiny", "--sead", "1"), "did you mean --seeds"),
        (("mog40", "--teacher", "x"), "did you mean --teachers"),
        (("--teacher", "no/such", "--sead", "1"), "unknown option --sead; did you mean --seeds"),
        (("missing.csv",), "missing.csv"),
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
        assert "1 run failed:" in error and "calls, exact, bad: Bad cannot be timed" in error
        stamps.append(Path("runs/bake-off-tiny/plan.json").stat().st_mtime_ns)
    assert stamps[0] == stamps[1]  # what failed is kept: nothing is timed again
    line, reason = [
        row
        for row in Path("runs/bake-off-tiny/results.md").read_text().splitlines()
        if row.startswith("| Bad")
    ]
    assert line.endswith("| failed while it was timed |")
    assert "Bad cannot be timed" in reason
    result = json.loads(Path("runs/bake-off-tiny/results.json").read_text())
    assert len(result["groups"]["calls-2000rows/exact"]["gaussian"]) == 1
    assert result["groups"]["calls-2000rows/exact"]["bad"] == []
    # Its own number of updates needs no price: there it is run, and fails as a run does.
    arms = ("gaussian", "bad")
    bake = bake_of(tiny, contest=CONTESTS["tiny"], arms=arms, budgets=("calls",))
    planned = json.loads(Path("runs/bake-off-tiny/plan.json").read_text())
    own = dataclasses.replace(bake, budgets=("own",))
    assert [cell.arm for cell in cells(own, planned)] == ["gaussian", "bad"]
    assert [cell.arm for cell in cells(bake, planned)] == ["gaussian"]


def test_timing_is_stopped_at_once_and_names_what_nobody_foresaw(tmp_path, monkeypatch):
    def raises(error):
        def walk(self, seconds):
            raise error

        monkeypatch.setattr("vardiu.comparison.plan.Rehearsal.walk", walk)

    failed: dict[str, str] = {}
    raises(Interrupted("stopped"))
    with pytest.raises(Interrupted):
        calibrate(bake_of(tmp_path), "exact", 0, failed=failed)
    assert not failed
    raises(TypeError("odd"))
    assert calibrate(bake_of(tmp_path), "exact", 0, failed=failed) == {}
    assert failed["fake"].startswith("TypeError: odd; see ")
    assert "Traceback" in (tmp_path / "timing-fake.log").read_text()
    raises(ConfigError("no classes"))
    refused: dict[str, str] = {}
    calibrate(bake_of(tmp_path), "exact", 0, failed=refused)
    planned = {"prices": {}, "failed": {"exact": refused}, "screening": {}}
    bake = bake_of(tmp_path)
    assert why_not(bake, planned, "own", "exact", "fake") == (
        "left out: it cannot be run here: no classes"
    )
    assert list(cells(bake, planned)) == []
    with pytest.raises(ConfigError, match="^gaussian: it cannot be run here: no classes$"):
        refuse_arms(bake, planned)


def test_timing_says_in_a_pipe_how_far_it_is(tmp_path):
    heard = []
    calibrate(bake_of(tmp_path), "exact", 1, lambda done, words="": heard.append((done, words)))
    assert [done for done, _ in heard] == [1, 2, 2, 3, 4, 4]
    said = [words for _, words in heard if words]
    assert said == ["2 arms, round 1 of 2", "2 arms, round 2 of 2"]


def test_one_process_at_a_time(tiny, capsys):
    with sole_writer(tiny / "bake"):
        assert main([*WORDS, str(tiny / "bake")]) == 2
    told = capsys.readouterr().err
    assert "another process writes to" in told and "with --out" in told
    assert list((tiny / "bake").iterdir()) == []


def _pid_of_the_dead():
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    return process.pid


def test_a_dead_writers_pictures_are_cleared_away_and_nothing_else(tiny):
    dead = _pid_of_the_dead()
    host = platform.node() or "here"
    names = [
        f".quality.tmp-{dead}-{host}~x.png",
        f".q.tmp-{os.getppid()}-{host}~x.png",
        "mine.png",
    ]
    for name in names:
        (tiny / name).touch()
    with sole_writer(tiny):
        assert not (tiny / names[0]).exists()
        assert all((tiny / name).exists() for name in names[1:])


def test_intervals():
    assert interval([]) == "–"
    assert interval([1.0]) == "1"
    assert interval([3.0, 1.0, 2.0]) == "2 [1, 3]"
    lines = [{"a": "1", "b": "2"}]
    assert markdown(lines) == "| a | b |\n|---|---|\n| 1 | 2 |"


WORDS = ["bake-off", "tiny", "--budgets", "calls", "--calls", "6400", "--arms", "gaussian"]
WORDS += ["--teachers", "exact", "--seeds", "1", "--no-study"]
WORDS += ["--samples", "400", "--evaluations", "1", "--out"]


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_killed_and_stopped_it_goes_on_to_the_same_student(tiny, monkeypatch):
    broken, whole = tiny / "broken", tiny / "whole"
    run = broken / "runs/calls-6400rows/exact/gaussian-0"
    step = VarDiU.loss

    def slowly(self, drawn, at):  # a signal comes while it trains
        time.sleep(0.02)
        return step(self, drawn, at)

    monkeypatch.setattr(VarDiU, "loss", slowly)

    def start(folder: Path) -> Command:
        return Command([*WORDS, str(folder)], tiny / f"{folder.name}.log")

    process = start(broken)
    wait_for((run / "metrics.jsonl").is_file)
    process.kill()

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
    process.kill(signal.SIGTERM)
    status, told = process.wait()
    assert status == 130, told
    assert "To go on: vardiu bake-off tiny" in told
    monkeypatch.setattr(VarDiU, "loss", step)
    for folder in (broken, whole):
        status, told = start(folder).wait()
        assert status == 0, told
    path = "runs/calls-6400rows/exact/gaussian-0/student/model.safetensors"
    assert (broken / path).read_bytes() == (whole / path).read_bytes()


def test_the_command_is_known():
    assert "bake-off" in COMMANDS


def test_a_folder_of_somebody_else_is_refused_before_anything_is_written(tiny, capsys):
    words = ("tiny", "--budgets", "calls", "--teachers", "exact", "--seeds", "1", "--no-study")
    words += ("--arms", "gaussian", "--out", "bake")
    Path("bake").mkdir()
    Path("bake/results.md").write_text("mine")
    for more in ((), ("--dry-run",)):
        assert bake_off(*words, *more) == 2
        assert capsys.readouterr().err.split("bake-off: ")[1].strip() == (
            "bake is not empty and holds no bake-off (no plan.json). Give another folder with --out"
        )
    assert os.listdir("bake") == ["results.md"] and os.listdir() == ["bake"]
    places = {"bake/results.md": "Not a directory", "bake/results.md/deeper": "Not a directory"}
    for place, why in {**places, "x" * 299: "File name too long"}.items():
        assert bake_off(*words, "--out", place, "--dry-run") == 2
        line = f"{place} cannot be written ({why}): give a folder that can with --out"
        assert line in capsys.readouterr().err
    assert Path("bake/results.md").read_text() == "mine"


def test_what_a_killed_timing_left_and_runs_without_their_plan_are_a_bake_offs_own(tiny):
    words = ("tiny", "--budgets", "calls", "--teachers", "exact", "--seeds", "1", "--no-study")
    words += ("--arms", "gaussian", "--out", "bake")
    Path("bake").mkdir()
    Path("bake/timing-fake.log").touch()
    assert bake_off(*words) == 0
    run = Path("bake/runs/calls-2000rows/exact/gaussian-0/result.json")
    before = run.stat().st_mtime_ns
    Path("bake/plan.json").unlink()  # the cure for one that is damaged
    assert bake_off(*words) == 0
    assert Path("bake/plan.json").is_file() and run.stat().st_mtime_ns == before
