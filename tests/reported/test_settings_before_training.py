"""Every setting is judged before the first step: what is wrong is refused there, or does no harm."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from vardiu.cli.main import main
from vardiu.data.digits import digits
from vardiu.errors import ConfigError
from vardiu.methods import METHODS
from vardiu.runs.distill import distill
from vardiu.runs.task import RunSettings, Task, task_from_preset
from vardiu.settings.fields import DensitySettings, DigitsSettings, ImageSettings
from vardiu.storage.run_folder import RunFolder

SMALL = {"name": "ring8", "width": 8, "depth": 1, "points": 50, "dim": 3, "modes": 5}
PRESETS = ["mog40-gaussian", "mog40-diff-instruct", "mog40-dmd2", "mog40-consistency"]


def small_task(preset: str) -> Task:
    task = task_from_preset("distill", preset)
    return dataclasses.replace(
        task,
        problem=dataclasses.replace(task.problem, **SMALL),
        settings=dataclasses.replace(task.settings, steps=2, batch=8),
        run=RunSettings(samples=100, reports=1, evaluations=1, threads=1),
    )


def numbers(row, prefix: str = ""):
    """The places of all numbers in a row of settings, and their values."""
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{prefix}{field.name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{field.name}", value


def replaced(row, path: str, value):
    name, _, rest = path.partition(".")
    value = replaced(getattr(row, name), rest, value) if rest else value
    return dataclasses.replace(row, **{name: value})


def extremes(value: float) -> list[float]:
    if isinstance(value, int):
        return [0, -1, 10**12]
    return [0.0, -1.0, math.nan, math.inf]


ROWS = [DensitySettings(), DigitsSettings(), ImageSettings(), RunSettings()]
ROWS += [METHODS[name].settings() for name in sorted(METHODS)]


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{type(row).__module__}.{type(row).__name__}"
)
def test_no_number_is_without_a_range(row):
    """What is no number, infinite or beyond any machine is refused in one line that names it."""
    found = dict(numbers(row))
    assert found
    for path, value in found.items():
        extreme = 10**12 if isinstance(value, int) else math.nan
        with pytest.raises(ConfigError) as error:
            replaced(row, path, extreme)
        (line,) = str(error.value).splitlines()
        assert path.rpartition(".")[2] in line and "must" in line
        if isinstance(value, float) and path not in ("clip", "sigma"):
            with pytest.raises(ConfigError):
                replaced(row, path, math.inf)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 100)
    monkeypatch.setattr("vardiu.runs.listeners.ReportPage.write", lambda page, shipped: None)
    monkeypatch.setattr("vardiu.runs.execute.student_values", lambda *given: {})
    return tmp_path


def sweep(preset: str, place, most: int = 4) -> tuple[list[str], int, int]:
    """Tries every number of a run; returns what broke after the first step."""
    base = small_task(preset)
    late: list[str] = []
    refused = finished = 0
    for part in ("settings", "problem", "run"):
        for path, value in numbers(getattr(base, part)):
            for extreme in extremes(value)[:most]:
                out = place / f"{part}.{path}={extreme}"
                try:
                    changed = replaced(getattr(base, part), path, extreme)
                    task = dataclasses.replace(base, **{part: changed})
                    distill(task, out)
                    finished += 1
                except ValueError as error:
                    refused += 1
                    if (out / "checkpoints").exists() or len(str(error).splitlines()) > 1:
                        late.append(f"{out.name}: {error}")
                except Exception as error:
                    late.append(f"{out.name}: {type(error).__name__}: {error}")
    return late, refused, finished


def test_every_number_that_is_zero_is_refused_before_the_first_step_or_trains(quick):
    late, refused, finished = sweep(PRESETS[0], quick, most=1)
    assert not late
    assert refused > 20 and finished > 10


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_so_is_every_extreme_number_of_every_method(quick, preset):
    late, _, _ = sweep(preset, quick)
    assert not late


WORDS = ["distill", "mog40", "--steps", "3", "--batch", "2", "--evaluations", "1"]
WORDS += ["--reports", "1", "--width", "8"]


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--samples", "1"],
            "run.samples must be 0, for the problem's own number, or at least 100",
        ),
        (["--samples", "-5"], "run.samples must be at least 0"),
        (["--threads", "-1"], "run.threads must be at least 0"),
        (["--save-every", "nan"], "run.save_every must be a finite number"),
        (["--halflife", "nan"], "halflife must be a finite number"),
        (["--seed", "-1"], "run.seed must be at least 0"),
        (["--frame.clusters", "0"], "frame.clusters must be at least 1"),
        (["--particles", "2"], "particles must be 0 with posterior shared"),
        (["--posterior", "mixture", "--particles", "2"], "particles must be 0 with posterior"),
    ],
)
def test_what_failed_after_the_training_is_refused_before(quick, capsys, words, message):
    assert main([*WORDS, *words, "--out", "run"]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.strip().splitlines()) == 1
    assert not (quick / "run" / "checkpoints").exists()
    # The same folder takes the settings that are mended.
    if words == ["--samples", "1"]:
        assert main([*WORDS, "--samples", "100", "--out", "run"]) == 0


def test_a_second_stage_that_cannot_be_is_refused_before_the_first(quick, capsys):
    """The regression on pairs was trained before the method after it was found impossible."""
    words = ["distill", "mog40-diff-instruct", *WORDS[2:], "--samples", "100", "--out", "run"]
    words += ["--pairs.pairs", "4", "--pairs.steps", "2", "--pairs.batch", "2"]
    words += ["--pairs.solver-steps", "2", "--delay", "5000"]
    assert main(words) == 2
    assert "the generator would never be updated" in capsys.readouterr().err
    assert not (quick / "run" / "checkpoints").exists()
    assert not (quick / "run" / "artefacts").exists()


def test_images_of_two_channels_are_refused_before_they_are_trained(quick, capsys):
    x, _ = digits()
    np.savez("two.npz", x=x[:200].expand(-1, 2, -1, -1).numpy())
    words = ["--data", "two.npz", "--side", "8", "--channels", "2", "--reference", "200"]
    assert main(["teach", "patches", *words, "--steps", "2", "--batch", "8", "--out", "t"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "must have one channel or three, got shape (200, 2, 8, 8)" in line
    assert not RunFolder("t").exists
