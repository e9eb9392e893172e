"""What a run was made from is compared with its hash whenever the run is gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from vardiu import models
from vardiu.cli.main import main
from vardiu.data.digests import digest_of_data
from vardiu.data.digits import digits
from vardiu.runs.events import StepTaken

SHORT = ["--reports", "2", "--evaluations", "1", "--threads", "1", "--samples", "100"]
NAMES = ["--teacher", "teacher", "--data", "data.npz", "--reference", "200"]
DISTILL = ["distill", "images", "--method", "regression", "--steps", "6", "--batch", "8", *NAMES]
DISTILL += ["--pairs.pairs", "8", "--pairs.batch", "8", "--pairs.solver-steps", "2", *SHORT]


def save_data(first: int) -> None:
    x, label = digits()
    np.savez("data.npz", x=x[first : first + 300].numpy(), label=label[first : first + 300])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher of digits that is hardly trained, and a run of it that was stopped."""
    before, kind = Path.cwd(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    place = tmp_path_factory.mktemp("inputs")
    os.chdir(place)
    save_data(0)
    words = ["--data", "data.npz", "--side", "8", "--channels", "1", "--reference", "200"]
    words += ["--widths", "8", "16", "--depth", "1", "--steps", "2", "--batch", "8", *SHORT]
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        assert main(["teach", "patches", *words, "--out", "teacher"]) == 0
        stop_at(patch, 3)
        assert main([*DISTILL, "--out", "run"]) == 130
    os.chdir(before)
    torch.set_default_dtype(kind)
    return place


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Few samples; and no probe: the teacher is hardly trained."""
    for name in ("samples", "quick"):
        patch.setattr(f"vardiu.problems.image_scores.ImageScores.{name}", 100)
    patch.setattr("vardiu.runs.listeners.ReportPage.write", lambda page, shipped: None)
    patch.setattr("vardiu.runs.teach.measured", lambda *given: [])
    patch.setattr("vardiu.runs.distill.checked", lambda *given: [])


def stop_at(patch: pytest.MonkeyPatch, step: int, method: int = signal.SIGTERM) -> None:
    """Has a run that prints its progress be asked to stop at a step."""

    def listeners(console):
        def stop(event):
            if isinstance(event, StepTaken) and event.step == step:
                os.kill(os.getpid(), method)

        return [stop]

    patch.setattr("vardiu.runs.listeners.console_listeners", listeners)


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    make_quick(monkeypatch)
    for path in made.rglob("*"):
        there = tmp_path / path.relative_to(made)
        if path.is_dir():
            there.mkdir(parents=True, exist_ok=True)
        else:
            there.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def change_teacher() -> str:
    """Another teacher in its place, whole: its own hash does not tell."""
    teacher = models.load("teacher/teacher")
    with torch.no_grad():
        next(teacher.parameters()).mul_(1.001)
    shutil.rmtree("teacher/teacher")
    models.save(teacher, "teacher/teacher")
    return "teacher"


def change_data() -> str:
    size = Path("data.npz").stat().st_size
    save_data(500)
    assert Path("data.npz").stat().st_size == size
    return "data.npz"


@pytest.mark.parametrize("change", [change_teacher, change_data])
def test_a_run_goes_on_with_what_it_was_begun_with_or_not_at_all(run, capsys, change):
    place = change()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main([*DISTILL, "--out", "run"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"run was begun with another {place.partition('.')[0]}" in line
    assert f"{place} was changed since (SHA-256 " in line and "--out" in line
    lock, events = run / ".lock", run / "events.jsonl"
    assert events.read_bytes().startswith(before.pop(events))  # the refusal was added
    assert before == {p: p.read_bytes() for p in before if p != lock} | {lock: before[lock]}


def test_what_was_not_changed_goes_on_and_is_measured_until_it_is(run, capsys):
    assert main([*DISTILL, "--out", "run"]) == 0
    assert main(["evaluate", "run", "--num", "100"]) == 0
    change_data()
    capsys.readouterr()
    assert main(["evaluate", "run", "--num", "100"]) == 2
    assert "begun with another data files: data.npz" in capsys.readouterr().err


def test_a_provenance_that_is_damaged_is_named(run, capsys):
    for text in ("", "[1]", json.dumps({"sha256": "gone"})):
        (run / "provenance.json").write_text(text)
        capsys.readouterr()
        assert main([*DISTILL, "--out", "run"]) == 2
        assert f"{Path('run/provenance.json')} " in capsys.readouterr().err


def test_a_teacher_that_was_mended_before_the_first_step_is_taken(run):
    """Nothing was made of the one before."""
    change_teacher()
    shutil.rmtree(run / "checkpoints")
    assert main([*DISTILL, "--out", "run"]) == 0


def test_a_digest_sees_names_sizes_and_bytes_of_folders_and_large_files(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    (folder / "0").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (folder / "0" / name).write_bytes(b"x" * 100)
    first = digest_of_data(str(folder))
    (folder / ".hidden").write_bytes(b"1")
    assert digest_of_data(str(folder)) == first
    (folder / "0" / "b.png").rename(folder / "0" / "c.png")
    renamed = digest_of_data(str(folder))
    (folder / "0" / "c.png").write_bytes(b"x" * 99 + b"y")
    assert len({first, renamed, digest_of_data(str(folder))}) == 3
    assert digest_of_data("photos") is None and digest_of_data("hf://mnist") is None
    monkeypatch.setattr("vardiu.data.digests.WHOLE", 50)
    monkeypatch.setattr("vardiu.data.digests.END", 10)
    large = tmp_path / "large.npy"
    digests = set()
    for place in (0, 99, 50):
        content = bytearray(100)
        content[place] = 1
        large.write_bytes(content)
        digests.add(digest_of_data(str(large)))
    large.write_bytes(bytearray(100))
    # The middle of a file that is too large is not read.
    assert len(digests) == 3 and digest_of_data(str(large)) in digests
