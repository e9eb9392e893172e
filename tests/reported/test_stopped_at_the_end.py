"""SIGTERM at the last step: the student is finished, not lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from vardiu.cli.main import main
from vardiu.runs.events import StepTaken

WORDS = ["distill", "ring8", "--width", "8", "--depth", "1", "--steps", "4"]
WORDS += ["--batch", "8", "--samples", "100", "--reports", "1", "--evaluations", "1"]
WORDS += ["--threads", "1", "--posterior", "gaussian"]
PAIRS = ["--pairs.pairs", "8", "--pairs.steps", "3", "--pairs.batch", "8"]
PAIRS += ["--pairs.solver-steps", "2"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 100)
    monkeypatch.setattr("vardiu.runs.listeners.ReportPage.write", lambda page, shipped: None)


def stop_at(patch: pytest.MonkeyPatch, stage: str, step: int, number: int) -> None:
    def stop(event):
        if isinstance(event, StepTaken) and (event.stage, event.step) == (stage, step):
            os.kill(os.getpid(), number)

    patch.setattr("vardiu.runs.listeners.console_listeners", lambda console: [stop])


def student(run: str) -> bytes:
    return Path(run, "student", "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_last_step_finishes_the_run(monkeypatch, number):
    assert main([*WORDS, "--out", "whole"]) == 0
    stop_at(monkeypatch, "vardiu", 4, number)
    assert main([*WORDS, "--out", "stopped"]) == 0
    assert json.loads(Path("stopped/result.json").read_text())["metrics"]
    assert student("stopped") == student("whole")


def test_the_last_step_of_a_stage_that_is_not_the_last_stops_the_run(monkeypatch, capsys):
    assert main([*WORDS, *PAIRS, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, "pairs", 3, signal.SIGTERM)
        assert main([*WORDS, *PAIRS, "--out", "stopped"]) == 130
    assert "stopped after pairs, before vardiu, and saved" in capsys.readouterr().err
    assert not list(Path("stopped/checkpoints").glob("*-vardiu"))
    assert main([*WORDS, *PAIRS, "--out", "stopped"]) == 0
    assert student("stopped") == student("whole")


def test_killed_while_it_is_measured_it_is_finished_by_the_same_command(monkeypatch):
    assert main([*WORDS, "--out", "whole"]) == 0

    class Killed(BaseException):
        """What no command hears of."""

    def killed(run):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("vardiu.runs.distill.ship_student", killed)
        main([*WORDS, "--out", "killed"])
    assert main([*WORDS, "--out", "killed"]) == 0
    assert student("killed") == student("whole")
