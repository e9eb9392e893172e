"""What a run costs, and what it keeps on the way."""

from __future__ import annotations

import copy

import pytest
import torch

from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.errors import ConfigError
from vardiu.nn import MLP
from vardiu.runs.execute import TeacherMeter
from vardiu.runs.task import RunSettings, task_of
from vardiu.storage.checkpoints import Checkpoints


def test_a_copy_of_the_teacher_is_not_counted_as_the_teacher():
    network = MLP((2,), (2,), width=4, depth=1, noisy=True)
    teacher = PreconditionedDenoiser(
        network, shape=(2,), sigma_data=1.0, sigma_min=0.1, sigma_max=10.0
    )
    meter = TeacherMeter(teacher)
    before = meter()["seconds"]
    x, sigma = torch.zeros(5, 2), torch.ones(5)
    with meter.watching():
        fake = copy.deepcopy(teacher)
        teacher(x, sigma)
        fake(x, sigma)
    teacher(x, sigma)
    fake(x, sigma)
    assert (meter()["teacher_calls"], meter()["teacher_rows"]) == (1, 5)
    assert meter()["seconds"] > before


def test_milestones_are_kept_and_hold_the_run_as_it_was(tmp_path):
    words = ["--width", "8", "--depth", "1", "--steps", "30", "--batch", "8"]
    words += ["--samples", "200", "--evaluations", "1", "--reports", "2", "--milestones", "3"]
    from vardiu.cli.main import main

    assert main(["distill", "ring8", *words, "--out", str(tmp_path / "run")]) == 0
    store = Checkpoints(tmp_path / "run/milestones/0-vardiu")
    assert store.steps() == [10, 20, 30]
    newest = Checkpoints(tmp_path / "run/checkpoints/0-vardiu").newest()
    assert newest is not None
    last = store.load(30)
    assert store.load(10)["trainer"]["step"] == 10
    for key, value in newest[1]["networks"].items():
        assert torch.equal(last["networks"][key], value)


def test_settings_out_of_range_are_named():
    with pytest.raises(ConfigError, match=r"run\.milestones must be at least 0, got -1"):
        RunSettings(milestones=-1)
    with pytest.raises(ConfigError, match="must hold the groups"):
        task_of({"other": 1}, "here")
