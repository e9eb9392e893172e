"""Odd names, races, closed pipes, damaged files: a clear end, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vardiu.cli.main import main
from vardiu.errors import ConfigError
from vardiu.storage.files import LEAVINGS, partial_suffix, whole_file

QUICK = "--steps 4 --batch 16 --samples 200 --evaluations 1 --reports 1 --threads 1".split()
QUICK += ["--width", "8", "--depth", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a few steps, that nobody changes."""
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("made") / "run"
    assert main(["distill", "mog40-gaussian", *QUICK, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, tmp_path / "run"))


def typed(*words: object, **more: object) -> subprocess.CompletedProcess[str]:
    """A command of its own process."""
    return subprocess.run(
        [sys.executable, "-m", "vardiu", *map(str, words)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        **more,
    )


def test_a_folder_whose_name_is_no_text_is_refused_before_it_is_made(tmp_path, capsys):
    name = os.fsdecode(str(tmp_path).encode() + b"/caf\xe9")
    assert main(["distill", "mog40-gaussian", *QUICK, "--out", name]) == 2
    told = capsys.readouterr().err
    assert "no text in UTF-8" in told and "give another folder" in told
    assert os.listdir(tmp_path) == []


def test_a_student_in_such_a_folder_names_what_is_wrong(run, tmp_path, capsys):
    name = os.fsdecode(str(tmp_path).encode() + b"/caf\xe9")
    os.rename(run, name)
    assert main(["sample", name, "--num", "5"]) == 2
    told = capsys.readouterr().err
    assert "no text in UTF-8" in told and "rename this one" in told


def test_of_two_that_write_a_new_file_at_once_one_is_refused(tmp_path):
    place = tmp_path / "a.npz"
    with pytest.raises(ConfigError, match=r"a\.npz exists"), whole_file(place, fresh=True) as mine:
        with whole_file(place, fresh=True) as other:
            other.write_text("first")
        mine.write_text("second")
    assert place.read_text() == "first" and os.listdir(tmp_path) == ["a.npz"]


def test_samples_whose_picture_fails_leave_nothing(run, tmp_path, monkeypatch, capsys):
    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device", "s.png")

    monkeypatch.setattr("vardiu.problems.densities.DensityScores.plot_samples", full)
    words = ["sample", str(run), "--num", "5", "--out", str(tmp_path / "s.npz")]
    assert main(words) == 1 and "run the same command again" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(words) == 0 and len(np.load(tmp_path / "s.npz")["x"]) == 5


def test_a_comparison_that_was_stopped_is_made_by_the_same_command(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "other")
    words = ["compare", str(run), str(tmp_path / "other"), "--out", str(tmp_path / "c")]

    def stopped(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vardiu.cli.compare.comparison", stopped)
        assert main(words) == 130 and os.listdir(tmp_path / "c") == ["comparison.json"]
    assert main(words) == 0 and (tmp_path / "c/comparison.html").is_file()
    before = (tmp_path / "c/comparison.json").read_bytes()
    # Of another metric it is another comparison, which is not written over this one.
    assert main([*words, "--metric", "modes"]) == 2
    assert (tmp_path / "c/comparison.json").read_bytes() == before


def test_a_preset_of_a_settings_file_is_no_path(run, tmp_path, capsys):
    text = (run / "config.yaml").read_text()
    for name in ("../../x", "/x", "..", "a/b"):
        changed = text.replace("preset: mog40-gaussian", f"preset: {name}")
        assert changed != text
        (tmp_path / "other.yaml").write_text(changed)
        assert main(["distill", "--config", str(tmp_path / "other.yaml")]) == 2
        assert "preset must be a name, not a path" in capsys.readouterr().err


def test_a_latent_of_any_size_is_not_made(run, capsys):
    path = run / "student/model.json"
    described = json.loads(path.read_text())
    changed = path.read_text().replace('"latent_shape": [', '"latent_shape": [100000000, ', 1)
    assert json.loads(changed) != described
    path.write_text(changed)
    assert main(["sample", str(run), "--num", "5"]) == 2
    told = capsys.readouterr().err
    assert "numbers of a student's latent" in told and "model.json" in told


@pytest.mark.parametrize("both", [False, True])
def test_training_goes_on_where_nobody_reads_what_is_printed(both, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    words = ["distill", "mog40-gaussian", *QUICK, "--out", str(tmp_path / "run")]
    found = subprocess.run(
        [sys.executable, "-m", "vardiu", *words],
        stdout=writer,
        stderr=subprocess.STDOUT if both else subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert found.returncode == 0 and (both or "nothing reads the output" in found.stderr)
    assert (tmp_path / "run/result.json").is_file()


def test_a_terminal_of_few_signs_is_no_failure(run):
    found = typed("evaluate", run, "--num", "200", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert found.returncode == 0 and "\\xb1" in found.stdout, found.stderr


def test_files_are_as_private_as_the_user_has_them(run, tmp_path):
    words = ["sample", str(run), "--num", "5", "--out", "s.npz"]
    code = f"import sys; from vardiu.cli.main import main; sys.exit(main({words!r}))"
    shell = f'umask 077; exec {sys.executable} -c "$CODE"'
    subprocess.run(["sh", "-c", shell], env={**os.environ, "CODE": code}, check=True, cwd=tmp_path)
    for name in ("s.npz", "s.png"):
        assert stat.S_IMODE(os.stat(tmp_path / name).st_mode) == 0o600


def test_an_export_removes_what_a_killed_one_has_left(run, capsys):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = (
        run / f".export-safetensors.{partial_suffix().replace(str(os.getpid()), str(gone.pid))}~x"
    )
    left.mkdir()
    (left / "weights").write_text("half")
    assert main(["export", str(run), "--to", "safetensors"]) == 0
    assert not left.exists() and not list(run.glob(LEAVINGS))


def test_an_export_into_a_file_is_refused_with_a_cure(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["export", str(run), "--to", "safetensors", "--out", str(tmp_path / "file/x")]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "cannot be written" in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("file", "change", "words", "said"),
    [
        ("result.json", {"cost": {"seconds": 1e400}}, ["compare"], "cost must hold numbers"),
        ("result.json", {"metrics": "nan"}, ["compare"], "is no metric"),
        ("provenance.json", {"command": 5}, ["export", "--to", "safetensors"], "list of words"),
        (
            "evaluation-100-seed0-calls1.json",
            {"metrics": None},
            ["export", "--to", "safetensors", "--calls", "1"],
            "evaluation-100-seed0-calls1.json is damaged",
        ),
    ],
)
def test_damaged_files_are_named(file, change, words, said, run, tmp_path, capsys):
    path = run / file
    known = json.loads(path.read_text()) if path.is_file() else {}
    if change == {"metrics": "nan"}:
        known["metrics"][0]["value"] = float("nan")
    else:
        for key, value in change.items():
            known[key] = {**known[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(known).replace("Infinity", "1e400"))
    command, *rest = words
    runs = [str(run)]
    if command == "compare":
        shutil.copytree(run, tmp_path / "twin")
        runs.append(str(tmp_path / "twin"))
    assert main([command, *runs, *rest]) == 2
    told = capsys.readouterr().err
    assert said in told and file in told and "Traceback" not in told


def test_a_folder_among_checkpoints_that_looks_like_a_number_is_none(run):
    from vardiu.storage.checkpoints import Checkpoints

    place = next((run / "checkpoints").iterdir()) if (run / "checkpoints").is_dir() else run / "c"
    (place / "\u00b2").mkdir(parents=True)
    assert all(isinstance(step, int) for step in Checkpoints(place).steps())
