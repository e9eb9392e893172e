"""What a run makes once: not in its checkpoints, not made again, and made by one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vardiu.cli.main import main
from vardiu.data import DataFree
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.methods.regression import Regression, pairs
from vardiu.nn import UNet
from vardiu.problems.base import Data
from vardiu.samplers.pairs import Pairs
from vardiu.storage.checkpoints import save_state
from vardiu.students.few_step import OneStep
from vardiu.training.optimizers import Optimisation
from vardiu.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
WORDS = ["distill", "ring8", "--width", "16", "--depth", "1", "--threads", "1"]
WORDS += ["--steps", "6", "--batch", "16", "--samples", "200", "--evaluations", "1"]
PAIRS = ["--pairs.pairs", "1600", "--pairs.steps", "8", "--pairs.batch", "16"]
PAIRS += ["--pairs.solver-steps", "2", "--posterior", "gaussian"]
FRAME = ["--posterior", "framed", "--frame.samples", "300", "--frame.solver-steps", "2"]
FRAME += ["--frame.clusters", "3", "--frame.components", "1", "--frame.sigma", "0.3"]


@pytest.fixture
def single(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 200)


def student_of(run: str) -> bytes:
    return Path(run, "student", "model.safetensors").read_bytes()


def cost_of(run: str) -> dict[str, float]:
    cost = json.loads(Path(run, "result.json").read_text())["cost"]
    return {name: value for name, value in cost.items() if name != "seconds"}


def test_a_checkpoint_holds_networks_and_no_pairs(tmp_path):
    torch.set_default_dtype(torch.float32)
    network = UNet(3, widths=(16, 32), depth=1)
    denoiser = PreconditionedDenoiser(
        network, shape=(3, 16, 16), sigma_data=0.5, sigma_min=0.02, sigma_max=20.0
    )
    pairs = Pairs(torch.randn(2_000, 3, 16, 16), torch.randn(2_000, 3, 16, 16), {})
    objective = Regression(denoiser, OneStep(denoiser.trainable_copy()), pairs)
    trainer = Trainer(objective, Optimisation.adam({"generator": 1e-3}), steps=2)
    batches = DataFree(2)
    trainer.advance(batches)
    save_state(tmp_path / "x", trainer.state_dict(batches))
    written = sum(file.stat().st_size for file in (tmp_path / "x").iterdir())
    weights = 4 * sum(p.numel() for p in objective.generator.parameters())
    # The student, its average, and the optimiser's two moments.
    assert 4 * weights < written < 1.2 * 4 * weights
    assert 2 * 4 * pairs.z.numel() > 5 * written


def test_a_frame_is_not_made_again_by_a_run_that_goes_on(single, monkeypatch):
    assert main([*WORDS, *FRAME, "--out", "whole"]) == 0
    made, real = [], Data.frame_samples

    def frame_samples(self, row, seed):
        if row.samples == 300:  # the rehearsal of a run takes a few
            made.append(seed)
        return real(self, row, seed)

    monkeypatch.setattr(Data, "frame_samples", frame_samples)
    with monkeypatch.context() as patch:

        def fit(self, batches, **options):
            raise KeyboardInterrupt

        patch.setattr(Trainer, "fit", fit)  # after the artefact, before the first checkpoint
        assert main([*WORDS, *FRAME, "--out", "stopped"]) == 130
    assert made == [0] and not list(Path("stopped").glob("checkpoints/*/0*"))
    assert main([*WORDS, *FRAME, "--out", "stopped"]) == 0
    assert made == [0]
    assert student_of("stopped") == student_of("whole")
    # What the frame took is counted once in either: 300 samples of three calls, pairs of noise.
    assert cost_of("stopped") == cost_of("whole")
    assert cost_of("whole")["teacher_rows"] == 3 * 300 + 6 * 2 * 16


def test_a_stop_while_pairs_are_made_is_gone_on_with_to_the_bit(single, monkeypatch, capsys):
    assert main([*WORDS, *PAIRS, "--out", "whole"]) == 0
    solved, real = [], pairs.teacher_pairs

    def teacher_pairs(teacher, z, cond, **options):
        if len(z) > 4:  # the rehearsal of a run solves a few
            solved.append(len(z))
            if len(solved) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
        return real(teacher, z, cond, **options)

    monkeypatch.setattr(pairs, "teacher_pairs", teacher_pairs)
    capsys.readouterr()
    assert main([*WORDS, *PAIRS, "--out", "stopped"]) == 130
    told = capsys.readouterr().err
    assert "stopped after portion 2 of 4 of the pairs, and saved." in told
    assert "To go on: vardiu distill ring8" in told and "--out stopped" in told
    assert not Path("stopped/student").exists()
    assert main([*WORDS, *PAIRS, "--out", "stopped"]) == 0
    assert solved == [512, 512, 512, 64]
    assert student_of("stopped") == student_of("whole")
    assert cost_of("stopped") == cost_of("whole")


MAKE = """
import os, sys, time
from pathlib import Path
import torch
from vardiu.storage.artefacts import Artefacts

folder = Path(sys.argv[1])

def make(index):
    with (folder / "made.txt").open("a") as file:
        file.write(f"{index}\\n")
    time.sleep(0.3)
    return {"x": torch.full((2,), float(index))}

(folder / f"ready-{os.getpid()}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
print(Artefacts(folder / "artefacts").get("pairs", {"seed": 0}, 3, make)["x"].tolist())
"""


def test_two_processes_that_ask_at_once_make_it_once(tmp_path):
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert told == ["[0.0, 0.0, 1.0, 1.0, 2.0, 2.0]"] * 2
    assert (tmp_path / "made.txt").read_text().split() == ["0", "1", "2"]
