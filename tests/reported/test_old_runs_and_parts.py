"""Runs of another version, and samples that are made in parts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from vardiu.cli.main import main
from vardiu.problems.base import visit_in_parts
from vardiu.problems.densities import DensityProblem
from vardiu.runs.task import problem_of, task_from_preset
from vardiu.settings.fields import DensitySettings
from vardiu.storage.run_folder import RunFolder
from vardiu.students.base import Generator, rows_at_once


@pytest.mark.parametrize(
    "command, preset, method",
    [("teach", "mog40", "denoising"), ("distill", "mog40", "regression")],
)
def test_a_folder_of_another_version_is_refused_in_one_line_that_names_its_keys(
    tmp_path, monkeypatch, capsys, command, preset, method
):
    monkeypatch.chdir(tmp_path)
    chosen = None if command == "teach" else method
    config = json.loads(json.dumps(task_from_preset(command, preset, chosen).to_mapping()))
    old = {k: v for k, v in config["method"].items() if k not in ("optimizer", "weight_decay")}
    folder = RunFolder("old")
    folder.open({**config, "method": {**old, "decay_steps": 5}})
    Path("old/checkpoints").mkdir()
    before = Path("old/config.yaml").read_bytes()
    words = [command, preset, *([] if chosen is None else ["--method", chosen])]
    assert main([*words, "--out", "old"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "old/config.yaml is of another version of vardiu" in line
    assert "it has: method.decay_steps" in line
    assert "it lacks: method.optimizer, method.weight_decay" in line and "--out" in line
    assert Path("old/config.yaml").read_bytes() == before


def test_a_group_that_is_none_is_no_other_version(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = json.loads(json.dumps(task_from_preset("distill", "mog40").to_mapping()))
    assert config["method"]["posterior_weight"] is None
    config["method"]["posterior_weight"] = {"kind": "constant", "scale": 1.0, "power": 1.0}
    Path("run").mkdir()
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    Path("run/checkpoints").mkdir()
    assert main(["distill", "mog40", "--out", "run"]) == 2
    told = capsys.readouterr().err
    assert "another version" not in told and "holds another run" in told


class Counting(Generator):
    """A student of large samples that tells how many rows it was asked for."""

    latent_shape, shape = (2,), (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.rows: list[int] = []

    def forward(self, z, **cond):
        self.rows.append(len(z))
        x = torch.zeros(len(z), *self.shape, dtype=z.dtype)
        x[:, 0, 0, :2] = self.scale * z
        return x


def test_a_student_of_large_samples_is_asked_for_no_more_rows_than_a_step_holds():
    problem, student = DensityProblem(DensitySettings()), Counting()
    problem.space.shape = student.shape
    draws = []
    for part in (None, 16, 10**6):
        if part is not None:
            visit_in_parts(problem, part)
        student.rows.clear()
        draws.append(problem.student_source(student)(50, torch.Generator().manual_seed(1))[0])
        assert max(student.rows) == (50 if part != 16 else 16) and sum(student.rows) == 50
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])
    assert rows_at_once((3, 512, 512)) == 5 and rows_at_once((10**9,), part=7) == 1
    assert rows_at_once((3, 32, 32), part=0) == 1 and rows_at_once((2,), part=1) == 4096


def test_the_parts_are_those_of_the_task():

    task = task_from_preset("distill", "mog40")
    run = dataclasses.replace(task.run, accumulate=4)
    problem = problem_of(dataclasses.replace(task, run=run))
    assert problem.part == problem.data.teacher.part == task.settings.batch // 4
