"""What a run will need: counts are exact, times are of whole cycles, nothing is written."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
from cases import CASES
from rich.console import Console
from test_bigger import of_images
from torch import nn

from vardiu.cli.main import main
from vardiu.data import DataFree
from vardiu.data.batch import Batch
from vardiu.errors import ConfigError
from vardiu.methods import diff_instruct
from vardiu.reports.estimates import print_estimate
from vardiu.resources import estimate, rehearse
from vardiu.resources.footprint import Count, activations, size, weights
from vardiu.runs.execute import trainer_of
from vardiu.runs.stages import stages_of
from vardiu.runs.task import RunSettings, Task, problem_of, task_from_preset
from vardiu.samplers.pairs import Pairs
from vardiu.settings.fields import PairSettings
from vardiu.storage.checkpoints import save_state
from vardiu.training.optimizers import Optimisation
from vardiu.training.stage import Stage
from vardiu.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
QUICK = ["--steps", "40", "--batch", "32", "--samples", "500", "--width", "16", "--threads", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 500)


class Clock:
    """A clock that stands still until it is told to go on."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def stage_of(objective, every: int = 1) -> tuple[Stage, Trainer]:
    optimisation = Optimisation.adam(dict.fromkeys(objective.trained, 1e-3))
    stage = Stage("x", objective, 1000, DataFree(8), optimisation)
    return stage, Trainer(objective, optimisation, steps=1000)


def test_saved_tensors_are_counted_once_and_weights_never():
    first, second = nn.Linear(3, 5), nn.Linear(5, 2)
    x = torch.randn(7, 3)
    count = Count([*weights(first), *weights(second)])
    with count.counting({"first": first, "second": second}):
        h = nn.functional.silu(first(x))  # keeps x, and its own input
        (second(h) + second(h)).sum()  # keeps h, once for both
    assert count.found == {"first": 7 * 3 * 8, "": 7 * 5 * 8, "second": 7 * 5 * 8}
    assert not first._forward_hooks and not first._forward_pre_hooks


def test_activations_are_of_the_rows_and_of_what_is_trained():
    objective = of_images()
    four, eight = (activations(objective, Batch(n)) for n in (4, 8))
    assert set(four) == {"fake", "student"}
    # The fake's own loss keeps nothing of the student, and the student's nothing of the fake.
    assert four["fake"]["fake"] > 1000 and "generator" not in four["fake"]
    assert four["student"]["generator"] > 1000 and "fake" not in four["student"]
    assert eight["fake"]["fake"] == pytest.approx(2 * four["fake"]["fake"], rel=0.05)
    assert all(p.grad is None for p in objective.parameters())


def test_counted_activations_are_freed():
    objective, outputs = of_images(), []
    block = objective.fake.network.trunk[0]  # a graph keeps its output
    block.register_forward_hook(lambda m, a, output: outputs.append(weakref.ref(output)))
    found = activations(objective, Batch(4))
    assert outputs and all(output() is None for output in outputs)
    assert found["fake"]["fake"] > 1000


def test_activations_leave_training_as_it_was():
    objective = CASES["regression-classes"]()
    before = objective.streams.state_dict(), objective.teacher_cost
    activations(objective, Batch(4, cond={"label": torch.arange(4) % 2}))
    assert (objective.streams.state_dict(), objective.teacher_cost) == before


def test_a_step_is_timed_over_the_turns_of_all_phases():
    objective = CASES["diff-instruct"]()
    real = objective.student_loss

    def slow(drawn, step):
        time.sleep(0.05)
        return real(drawn, step)

    objective.__dict__["student_loss"] = slow
    stage, trainer = stage_of(objective)
    step, processor, _ = rehearse.steps(trainer, stage, budget=0.1)
    assert objective.phases[1].every == 2
    assert 0.025 < step < 0.05  # half of the steps are slow
    assert 0 < processor < step  # a sleep is no work


def test_the_checkpoint_has_the_size_that_is_told(tmp_path):
    objective = CASES["vardiu-gaussian"]()
    stage, trainer = stage_of(objective)
    trainer.advance(stage.batches)
    state = trainer.state_dict(stage.batches)
    save_state(tmp_path / "x", state)
    written = sum(p.stat().st_size for p in (tmp_path / "x").iterdir() if "manifest" not in p.name)
    # The structure of a file is written apart from its tensors: some bytes of JSON.
    assert rehearse.serialise(state) == pytest.approx(written, rel=0.01)


def test_the_command_tells_and_writes_nothing(capsys):
    torch.set_default_dtype(torch.float32)
    assert main(["estimate", "mog40-gaussian", *QUICK, "--precision", "float32", "--json"]) == 0
    assert os.listdir(".") == []
    found = json.loads(capsys.readouterr().out)
    (stage,) = found["stages"]
    assert stage["steps"] == 40 and stage["seconds"] == pytest.approx(
        40 * stage["step"] + stage["warm"]
    )
    generator = stage["networks"]["generator"]
    n = generator["parameters"]
    assert generator["gradients"] == 4 * n
    assert 8 * n <= generator["optimiser"] <= 8 * n + 100  # two moments, and counters of steps
    assert generator["average"] == generator["weights"] >= 4 * n
    assert stage["networks"]["teacher"]["gradients"] == 0
    seconds = found["seconds"]
    assert seconds["total"] == pytest.approx(sum(v for k, v in seconds.items() if k != "total"))
    assert 2e8 < found["memory"]["library"] < found["memory"]["peak"] < 4e9
    disk = found["disk"]
    assert disk["checkpoints"] == 2 * disk["checkpoint"] and disk["student"] >= 4 * n
    console = Console(width=100, record=True, file=open(os.devnull, "w"))
    print_estimate(found, console)
    text = console.export_text()
    assert "peak memory" in text and f"{n:,}" in text and "40 steps of" in text


def test_all_stages_are_told_and_artefacts_are_part_of_the_start(monkeypatch):
    torch.set_default_dtype(torch.float32)
    preset = task_from_preset("distill", "mixture-diff-instruct")
    problem = dataclasses.replace(preset.problem, dim=2, latent=2, modes=4, width=16)
    settings = diff_instruct.Settings(
        steps=30, batch=32, ratio=1, pairs=PairSettings(pairs=2000, steps=50, batch=32)
    )
    run = RunSettings(samples=200, accumulate=2)
    task = Task("distill", preset.preset, problem, "diff_instruct", settings, run)
    # Three portions of 512 pairs and one of 464; two are made, each in 1,000 s of this clock.
    solved, clock = [], Clock()

    def solve(denoiser, z, cond, **options):
        solved.append(len(z))
        clock.now += 1000.0
        return Pairs(z, z, {})

    monkeypatch.setattr("vardiu.methods.regression.pairs.teacher_pairs", solve)
    monkeypatch.setattr("vardiu.storage.artefacts.time", clock)
    found = estimate.measure(task, budget=0.05)
    assert solved == [512, 464]
    assert 2000.0 < found["seconds"]["start"] < 2100.0  # the two portions that were not made
    assert [row["name"] for row in found["stages"]] == ["pairs", "diff_instruct"]
    assert set(found["stages"][-1]["networks"]) == {"teacher", "generator", "fake"}
    disk = found["disk"]
    assert disk["artefacts"] == 2000 * (2 + 2) * 4  # noise and sample of two float32 each
    assert disk["total"] == sum(value for name, value in disk.items() if name != "total")
    found["seconds"]["total"] = sum(found["seconds"].values())
    console = Console(width=150, record=True, file=open(os.devnull, "w"))
    print_estimate(found, console)
    assert "artefacts (pairs, a frame) 31.2 kB" in console.export_text()


def test_a_part_keeps_less_than_the_whole_batch():
    torch.set_default_dtype(torch.float32)
    task = task_from_preset("distill", "mog40-gaussian")
    problem = dataclasses.replace(task.problem, precision="float32")
    task = dataclasses.replace(task, problem=problem)
    settings = dataclasses.replace(task.settings, steps=20, batch=64)
    kept = []
    for accumulate in (1, 4):
        run = RunSettings(samples=200, accumulate=accumulate)
        stage = stages_of(dataclasses.replace(task, settings=settings), problem_of(task)).first()
        trainer = trainer_of(stage, run, torch.device("cpu"))
        trainer.advance(stage.batches)
        kept.append(activations(stage.objective, trainer.batch)["bound"]["generator"])
    assert kept[1] == pytest.approx(kept[0] / 4, rel=0.1)


def test_checkpoints_cost_a_twentieth_of_the_time_at_most():
    task = task_from_preset("distill", "mog40")
    row = {"seconds": 3600.0, "save": 10.0, "steps": 50}
    for every, number in ((30.0, 19), (360.0, 11), (0.0, 51)):
        run = dataclasses.replace(task.run, save_every=every)
        assert estimate.saves(dataclasses.replace(task, run=run), [row]) == 10 * number


def test_what_a_run_cannot_start_with_is_told(monkeypatch):
    missing = task_from_preset("distill", "mog40-learned")
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(missing.to_mapping())))
    monkeypatch.setattr("sys.argv", ["estimate"])
    with pytest.raises(SystemExit, match="vardiu teach"):
        estimate.main()
    task = task_from_preset("distill", "mog40")
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    with pytest.raises(ConfigError, match="killed by signal 9: does the run need more memory"):
        estimate.estimate(task, killed)
    failed = [sys.executable, "-c", "import sys; sys.exit('no teacher')"]
    with pytest.raises(ConfigError, match="no teacher"):
        estimate.estimate(task, failed)


def test_sizes_are_of_storages():
    x = torch.zeros(4, 4)
    assert size([x, x.T, {"row": x[1]}, (x[:, 2],)]) == 4 * 4 * 8
    assert size({"a": 1, "b": [None, "c"]}) == 0


@pytest.mark.slow
def test_the_process_that_measures_ends_with_the_one_that_asked():
    words = [sys.executable, "-m", "vardiu", "estimate", "mog40", "--threads", "1"]
    asking = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{asking.pid}/task/{asking.pid}/children")
    while not (found := children.read_text().split()) and asking.poll() is None:
        time.sleep(0.05)
    measuring = Path(f"/proc/{found[0]}")
    while len(list((measuring / "task").iterdir())) < 2:  # it follows, in a thread of its own
        time.sleep(0.05)
    asking.terminate()
    asking.wait()
    began = time.monotonic()
    while measuring.exists() and time.monotonic() < began + 30:
        time.sleep(0.05)
    assert not measuring.exists()
