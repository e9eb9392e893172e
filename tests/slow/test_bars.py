"""Trainings of minutes, with the bars that the README states. Run by `make slow`."""

from __future__ import annotations

import pytest
import torch

from vardiu.cli.main import main
from vardiu.storage.run_folder import RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


def metrics_of(run: str) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in RunFolder(run).result()["metrics"]}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mog40(seed):
    assert main(["distill", "mog40", "--seed", str(seed), "--out", "run"]) == 0
    metrics = metrics_of("run")
    assert metrics["log_density"] >= -7.8
    assert metrics["mmd2"] <= 1e-3
    assert metrics["modes"] == 40


@pytest.mark.parametrize("preset", ["digits", "digits-vardiu", "digits-framed"])
def test_digits(preset):
    assert main(["distill", preset, "--out", "run"]) == 0
    student, teacher = metrics_of("run"), metrics_of("runs/teach-digits")
    assert student["classes"] == 10 and student["agreement"] >= 0.95
    assert student["recall"] >= 0.5
    if preset != "digits-framed":
        assert student["frechet"] <= 1.5 * teacher["frechet"]
        assert student["recall"] >= teacher["recall"] - 0.15
