"""Networks that wait: nothing is asked for their sake, and one that waits for ever is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from cases import CASES

from vardiu.cli.main import main
from vardiu.comparison.contests import Competitor, Contest
from vardiu.comparison.plan import BakeOff, calibrate, cells, updates_of
from vardiu.data import DataFree
from vardiu.errors import ConfigError
from vardiu.methods import diff_instruct, vardiu
from vardiu.runs.distill import distill
from vardiu.settings.fields import DensitySettings
from vardiu.training.optimizers import Optimisation, OptimizerRow
from vardiu.training.trainer import Trainer

SMALL = DensitySettings(name="ring8", width=8, depth=1)
SETTINGS = {
    "vardiu": vardiu.Settings(batch=8),
    "diff_instruct": diff_instruct.Settings(batch=16, ratio=2),
}


@pytest.mark.parametrize("name", ["vardiu-gaussian", "vardiu-gaussian-weighted", "diff-instruct"])
def test_the_teacher_is_asked_for_updates_that_are_made_and_for_no_others(name):
    objective = CASES[name]()
    rows = {n: OptimizerRow(lr=1e-2) for n in objective.trained}
    rows["generator"] = OptimizerRow(lr=1e-2, delay=4)
    trainer = Trainer(objective, Optimisation(rows), steps=10)
    other = next(n for n in objective.trained if n != "generator")
    before = [p.clone() for p in objective.network(other).parameters()]
    batches = DataFree(4)
    for step in range(10):
        calls, updates = objective.teacher_cost[0], trainer.updates["generator"]
        trainer.advance(batches)
        asked = objective.teacher_cost[0] - calls
        assert asked == trainer.updates["generator"] - updates
        assert asked == 0 or step >= 4
        if step == 3:  # meanwhile the other network learns
            moved = zip(before, objective.network(other).parameters(), strict=True)
            assert trainer.updates[other] == 4 and not all(torch.equal(*pair) for pair in moved)
    assert trainer.updates["generator"] > 0


@pytest.mark.parametrize("weighted", [False, True])
def test_a_posterior_that_learns_alone_has_the_gradient_that_it_has_beside_the_student(weighted):
    """What the teacher adds to the loss does not depend on the posterior."""
    grads = []
    for frozen in (False, True):
        torch.manual_seed(0)
        objective = CASES["vardiu-gaussian-weighted" if weighted else "vardiu-gaussian"]()
        objective.streams.reset(1)
        objective.generator.requires_grad_(not frozen)
        batch = next(DataFree(8))
        objective.loss(batch, 0).value.backward()
        grads.append([p.grad for p in objective.posterior.parameters() if p.grad is not None])
        assert (objective.teacher_cost[0] == 0) == frozen
    assert grads[0]
    for beside, alone in zip(*grads, strict=True):
        torch.testing.assert_close(beside, alone)


def test_a_network_that_waits_longer_than_the_run_is_refused_before_it(tmp_path, capsys):
    words = ["distill", "mog40-gaussian", "--width", "8", "--batch", "8", "--samples", "100"]
    words += ["--out", str(tmp_path / "run")]
    assert main([*words, "--steps", "3", "--delay", "3"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the generator would never be updated: its delay is of 3 steps" in line
    assert "its last turn is after 2 of 3 steps" in line
    assert not list(tmp_path.glob("run/checkpoints/*"))
    assert main([*words, "--steps", "3", "--posterior-optimizer.delay", "3"]) == 2
    assert "the posterior would never be updated" in capsys.readouterr().err
    objective = CASES["diff-instruct"]()
    rows = {"fake": OptimizerRow(), "generator": OptimizerRow(delay=9)}
    every = next(p.every for p in objective.phases if "generator" in p.updates)
    assert every == 2
    with pytest.raises(ConfigError, match="its last turn is after 8 of 10"):
        Trainer(objective, Optimisation(rows), steps=10)


def test_a_later_stage_that_trains_nothing_is_refused_before_the_first_one(
    tmp_path, capsys, monkeypatch
):
    """The pairs are made and learned first: hours, after which the second stage was refused."""

    def taken(trainer, batches):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(Trainer, "advance", taken)
    words = ["distill", "mog40-diff-instruct", "--width", "8", "--batch", "8", "--samples", "100"]
    words += ["--pairs.pairs", "8", "--pairs.steps", "2", "--pairs.batch", "8"]
    words += ["--pairs.solver-steps", "2", "--steps", "6", "--delay", "600"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    assert "the generator would never be updated" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", sorted(SETTINGS))
def test_a_budget_pays_for_what_a_delayed_run_really_asks(method, tmp_path, monkeypatch):
    settings = dataclasses.replace(SETTINGS[method], delay=20)
    arm = Competitor("Late", method, settings)
    contest = Contest("one arm", {"exact": SMALL}, {"late": arm}, seconds=1.0, rows=1_200)
    bake = BakeOff("late", contest, tmp_path, 1, 1.0, 1_200, ("calls",), ("exact",), ("late",))
    prices = calibrate(bake, "exact", rounds=0)["late"]
    # 16 rows an update; the delay is of twenty updates of one step, or of ten of two.
    delayed = 20 if method == "vardiu" else 10
    wanted = {"fixed": -16.0 * delayed, "update": 16.0, "delayed": float(delayed)}
    assert prices["rows"] == wanted
    assert updates_of(arm, prices, bake, "calls") == 1_200 // 16 + delayed
    few = dataclasses.replace(bake, rows=16 * 49)
    with pytest.raises(ConfigError, match="pay for 49 updates of Late.* and 0 before the first"):
        updates_of(arm, prices, few, "calls")
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr("vardiu.runs.listeners.ReportPage.write", lambda page, shipped: None)
    planned = {"prices": {"exact": {"late": prices}}, "failed": {}, "screening": {}}
    (cell,) = cells(dataclasses.replace(bake, samples=100), planned)
    distill(cell.task, cell.folder)
    cost = json.loads((cell.folder / "result.json").read_text())["cost"]
    assert (cost["teacher_rows"], cost["student_updates"]) == (1_200, 75)
