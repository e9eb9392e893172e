"""What a finished run has shipped is lost or damaged: its command makes it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from vardiu.cli.main import main


def typed(run: Path) -> list[str]:
    """The words that made a run, in the folder that it is in now."""
    words = json.loads((run / "provenance.json").read_text())["command"]
    return [*words[1 : words.index("--out")], "--out", str(run)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 300)
    monkeypatch.setattr("vardiu.runs.listeners.ReportPage.write", lambda page, shipped: None)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "the folder": ("student", remove),
    "the weights": ("student/model.safetensors", remove),
    "the description": ("student/model.json", remove),
    "a bit of the weights": ("student/model.safetensors", flip),
    "an empty description": ("student/model.json", lambda path: path.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lost_student_is_made_again_bit_for_bit(small_run, refused, capsys, damage):
    name, change = DAMAGES[damage]
    result, log = small_run / "result.json", small_run / "metrics.jsonl"
    whole = (small_run / "student/model.safetensors").read_bytes()
    about = (small_run / "student/model.json").read_bytes()
    before = [result.read_bytes(), log.read_bytes()]
    change(small_run / name)
    damaged = {p.name: p.read_bytes() for p in (small_run / "student").glob("*")}
    refused("sample", small_run)
    assert main(typed(small_run)) == 0
    told = capsys.readouterr().out
    assert "made again from the checkpoint: " in told and "nothing to do" not in told
    assert (small_run / "student/model.safetensors").read_bytes() == whole
    assert (small_run / "student/model.json").read_bytes() == about
    assert [result.read_bytes(), log.read_bytes()] == before
    kept = small_run / "student-damaged"
    assert {p.name: p.read_bytes() for p in kept.glob("*")} == damaged
    assert kept.is_dir() == (name != "student") == (f"kept in {kept}" in told)
    assert main(typed(small_run)) == 0 and "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("left", ["steps", "a lost student"])
@pytest.mark.parametrize("begun", ["cuda", "cpu"])
def test_a_run_of_another_kind_of_device_is_not_gone_on_with(
    small_run, refused, capsys, monkeypatch, left, begun
):
    """Its random numbers are of that device. Nothing is trained, made or written."""
    if begun == "cuda":
        for state in small_run.glob("checkpoints/*/*/state.json"):
            text = state.read_text()
            assert text.count('["device", "cpu"]') == 1
            state.write_text(text.replace('["device", "cpu"]', '["device", "cuda"]'))
    else:
        device = torch.device("meta")  # in the place of a card
        monkeypatch.setattr("vardiu.runs.execute.device_of", lambda *named: device)
        monkeypatch.setattr(
            "vardiu.problems.base.Problem.compute_on", lambda *given, **named: None
        )
    assert main(typed(small_run)) == 0  # nothing is left to do
    remove(small_run / ("result.json" if left == "steps" else "student/model.safetensors"))
    before = {p: p.read_bytes() for p in small_run.rglob("*") if p.is_file()}
    line = refused(*typed(small_run))
    now = "cpu" if begun == "cuda" else "meta"
    assert f"{small_run} was begun on {begun} and would go on on {now}" in line
    assert "begin anew in another folder with --out" in line
    after = {p: p.read_bytes() for p in small_run.rglob("*") if p.is_file()}
    assert before.pop(small_run / ".lock") and after.pop(small_run / ".lock")
    assert after == before


def test_without_a_checkpoint_nothing_is_touched(small_run, refused):
    shutil.rmtree(small_run / "checkpoints")
    assert main(typed(small_run)) == 0  # its student is whole
    flip(small_run / "student/model.safetensors")
    before = {p: p.read_bytes() for p in small_run.rglob("*") if p.is_file() and p.name != ".lock"}
    line = refused(*typed(small_run))
    assert "student/model.safetensors was changed since it was written" in line
    assert "the run has no checkpoint to make it again from. Bring it back from a copy" in line
    after = {p: p.read_bytes() for p in small_run.rglob("*") if p.is_file() and p.name != ".lock"}
    assert after == before


def test_a_lost_teacher_is_made_again_bit_for_bit(here, refused, capsys):
    words = ["mog40", "--steps", "4", "--batch", "16", "--samples", "300", "--threads", "1"]
    assert main(["teach", *words, "--out", "runs/teach-mog40"]) == 0
    weights = Path("runs/teach-mog40/teacher/model.safetensors")
    whole = weights.read_bytes()
    shutil.rmtree(weights.parent)
    line = refused("evaluate", "runs/teach-mog40", "--num", "100")
    assert "runs/teach-mog40/teacher" in line and "is made again by the command" in line
    assert main(["teach", *words, "--out", "runs/teach-mog40"]) == 0
    assert "made again from the checkpoint: runs/teach-mog40/teacher" in capsys.readouterr().out
    assert weights.read_bytes() == whole


def test_a_lost_student_of_a_stage_is_made_again(here, capsys):
    words = ["mog40", "--method", "progressive", "--grid", "4", "--steps", "8", "--batch", "16"]
    words += ["--samples", "300", "--threads", "1", "--width", "8", "--out", "run"]
    assert main(["distill", *words]) == 0
    places = sorted(Path("run/students").iterdir())
    assert len(places) >= 2
    place = places[0] / "model.safetensors"
    whole = place.read_bytes()
    flip(place)
    capsys.readouterr()
    assert main(["distill", *words]) == 0
    assert f"made again from the checkpoint: {place} was changed" in capsys.readouterr().out
    assert place.read_bytes() == whole and sorted(Path("run/students").iterdir()) == places
