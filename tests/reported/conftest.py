"""What the reported cases share: a small finished run, made once, and the words of the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from vardiu.cli.main import main

MOG40 = ["mog40", "--steps", "4", "--batch", "16", "--samples", "300", "--width", "8"]
MOG40 += ["--threads", "1", "--reports", "1", "--evaluations", "1"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished run of four steps; `small_run` gives a copy that may be changed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vardiu.problems.densities.DensityScores.quick", 300)
        patch.setattr("vardiu.runs.listeners.ReportPage.write", lambda page, shipped: None)
        assert main(["distill", *MOG40, "--out", str(folder)]) == 0
    torch.set_default_dtype(before)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working folder, and single precision as on the command line."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_run(here, finished) -> Path:
    """A copy of a finished run, in the working folder."""
    shutil.copytree(finished, here / "run")
    return here / "run"


@pytest.fixture
def refused(capsys):
    """Runs a command that must end in one line and the status 2; returns the line."""

    def run(*words: object) -> str:
        capsys.readouterr()
        status = main([str(word) for word in words])
        line = capsys.readouterr().err
        assert status == 2, (words, status, line)
        assert line.strip() and "Traceback" not in line and "\n" not in line.strip(), line
        return line

    return run
