"""Students that start from another run, and methods that ask no teacher."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from vardiu import models
from vardiu.cli.main import main
from vardiu.problems import digits as digits_problem
from vardiu.problems.densities import DensityScores
from vardiu.problems.digits import DigitsScores
from vardiu.problems.image_scores import ImageScores
from vardiu.runs.task import problem_of, task_from_preset

FEW = "--reports 1 --evaluations 1 --samples 100 --threads 1".split()
SMALL = [
    "--width",
    "16",
    "--depth",
    "1",
    "--fourier",
    "1",
    "--precision",
    "float32",
    "--batch",
    "32",
]
TINY = [*FEW, *SMALL]
TRAINED = [*FEW, "--steps", "3", "--batch", "8", "--grid-start", "2", "--grid", "4"]


def command(*words):
    return main([str(word) for word in words])


def weights(run, place="student"):
    return models.load(run / place).state_dict()


def provenance(run):
    return json.loads((run / "provenance.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def quick():
    """What is measured on the way is of few samples."""
    with pytest.MonkeyPatch.context() as patch:
        for scores in (DensityScores, DigitsScores, ImageScores):
            patch.setattr(scores, "quick", 100)
        yield


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A run of progressive distillation to four calls."""
    run = tmp_path_factory.mktemp("runs") / "four"
    halved = ["--grid", "8", "--sampling-steps", "4", "--steps", "6"]
    assert not command("distill", "mog40-progressive", *TINY, *halved, "--out", run)
    return run


# ------------------------------------------------------------- another run's student


def test_relations_are_learned_from_the_student_of_another_run(four, tmp_path, capsys):
    out = tmp_path / "one"
    words = ["distill", "mog40-rdd", *TINY, "--grid", 4, "--steps", 6, "--start-from", four]
    words += ["--relations.queue", 64, "--relations.contrast", 32, "--relations.enqueue", 8]
    assert not command(*words, "--lr", "1e-9", "--out", out)
    student = models.load(out / "student")
    before = models.load(four / "student")
    # It is halved from its own four calls on, at its own levels, and is hardly moved by this rate.
    assert (before.calls, student.calls) == (4, 1)
    assert student.sigma == before.sigmas[0]
    assert models.load(out / "students" / "2").sigmas == before.sigmas[::2]
    for name, value in before.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], value, rtol=0, atol=1e-5)
    told = provenance(out)
    assert told["start"] == str(four) and told["sha256"]["start"]


def test_a_run_that_goes_on_wants_the_student_that_it_started_from(four, tmp_path, capsys):
    moved, out = tmp_path / "moved", tmp_path / "out"
    shutil.copytree(four, moved)
    words = ["distill", "mog40-rdd", *TINY, "--grid", 4, "--steps", 6, "--start-from", moved]
    words += ["--relations.queue", 64, "--relations.contrast", 32, "--relations.enqueue", 8]
    assert not command(*words, "--out", out)
    (out / "result.json").unlink()
    student = models.load(moved / "student")
    about = models.about_of(moved / "student")
    with torch.no_grad():
        next(student.parameters()).add_(1)
    shutil.rmtree(moved / "student")
    models.save(student, moved / "student", about)
    capsys.readouterr()
    assert command(*words, "--out", out) in (1, 2)
    said = capsys.readouterr().err
    assert "was begun with another start" in said and "moved" in said


def test_rewards_tune_the_student_of_another_run(four, tmp_path):
    out = tmp_path / "redif"
    words = ["distill", "mog40-redif", *FEW, *SMALL[:-2], "--steps", 2, "--batch", 16]
    words += ["--pairs.pairs", 40, "--pairs.solver-steps", 3, "--last", 0.2, "--withheld", 8]
    assert not command(*words, "--sampling-steps", 4, "--start-from", four, "--out", out)
    student, before = (models.load(run / "student") for run in (out, four))
    assert student.sigmas == before.sigmas and student.rule == "ddim"
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"redif"}  # no stage before it


def test_a_method_of_students_goes_on_with_one(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    words = [*TINY, "--steps", "2"]
    assert not command("distill", "mog40-diff-instruct", *words, "--out", first)
    on = ["--start-from", first, "--lr", "1e-12", "--out", second]
    assert not command("distill", "mog40-diff-instruct", *words, *on)
    for name, value in weights(first).items():
        torch.testing.assert_close(weights(second)[name], value, rtol=0, atol=1e-6)


BAD = {
    "no run": (
        ["mog40-rdd", *TINY, "--start-from", "nowhere"],
        "run.start_from: nowhere is no finished run of a student",
    ),
    "another number of calls": (
        ["mog40-rdd", *TINY, "--grid", "8", "--start-from", "FOUR"],
        "grid must be 4, the calls of the student of .*four, got 8: give --grid 4",
    ),
    "a slope that a student has not": (
        ["mog40-rdd", *TINY, "--grid", "4", "--solver", "heun", "--start-from", "FOUR"],
        "--solver does nothing with --start-from, whose student has levels and steps of its own",
    ),
    "calls of rewards": (
        ["mog40-redif", *TINY, "--sampling-steps", "2", "--start-from", "FOUR"],
        "sampling_steps must be 4, the calls of .*, got 2: give --sampling-steps 4",
    ),
    "another network": (
        ["mog40-consistency", *TINY, "--width", "8", "--start-from", "FOUR"],
        "has another network, of [0-9,]+ numbers, than is trained here, of [0-9,]+",
    ),
    "another kind of student": (
        ["mog40-diff-instruct", *TINY, "--start-from", "FOUR"],
        "is a FewStep, and a Pushforward is trained here",
    ),
    "another space": (
        ["mixture", "--method", "consistency", *TINY, "--dim", "3", "--latent", "3"]
        + ["--start-from", "FOUR"],
        r"is of samples of shape \(2,\), and these are of \(3,\)",
    ),
    "the teacher, where it is asked": (
        ["mog40-progressive", *TINY, "--start-from", "teacher"],
        "run.start_from teacher is of methods that ask no teacher, and progressive asks one",
    ),
    "a teacher without weights": (
        ["mog40-consistency-training", *TINY, "--start-from", "teacher"],
        "this teacher has no weights to start from",
    ),
    "what is trained in another way": (
        ["mog40-mean-shift", *TINY, "--variables.kind", "particles", "--start-from", "FOUR"],
        "mean_shift starts its student in a way of its own with these settings",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_start_that_does_not_fit_is_refused(case, four, tmp_path, capsys):
    words, message = BAD[case]
    out = tmp_path / "out"
    capsys.readouterr()
    words = [four if word == "FOUR" else word for word in words]
    assert command("distill", *words, "--out", out) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert re.search(message, said), said
    assert not (out / "checkpoints").exists()


# ------------------------------------------------------------- no teacher


@pytest.fixture
def classifier(monkeypatch):
    """The classifier of digits, untrained: to train it takes longer than all else here."""
    from vardiu.metrics.features import DigitsClassifier

    made = DigitsClassifier().float().eval().requires_grad_(False)
    monkeypatch.setattr(digits_problem, "digits_classifier", lambda *a, **b: made)


@pytest.mark.drawn
def test_digits_are_learned_without_a_teacher(tmp_path, monkeypatch, classifier, capsys):
    monkeypatch.chdir(tmp_path)
    assert not command("distill", "digits-consistency-training", *TRAINED)
    run = tmp_path / "runs" / "digits-consistency-training"
    assert not (tmp_path / "runs" / "teach-digits").exists()  # nor was one trained
    result = json.loads((run / "result.json").read_text())
    assert result["reference"] == {"name": "", "metrics": []}
    assert "teacher" not in provenance(run)["sha256"]
    assert not command("sample", run, "--num", 10) and not command("evaluate", run, "--num", 100)
    capsys.readouterr()
    words = ["--teacher-run", "nowhere", "--out", tmp_path / "other"]
    assert command("distill", "digits-consistency-training", *TRAINED, *words) == 2
    assert "--teacher-run: consistency_training asks no teacher" in capsys.readouterr().err


def test_a_folder_of_images_is_learned_without_a_teacher(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for i in range(100):
        place = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(place)
    words = ["distill", "images", "--method", "consistency_training", "--data", "images"]
    words += [*TRAINED, "--side", 8, "--widths", 8, 8, "--depth", 1]
    assert not command(*words, "--out", "run")
    assert models.load(tmp_path / "run" / "student").conditions == ("label",)
    assert not command("sample", "run", "--num", 10, "--label", "b")
    assert not command("evaluate", "run", "--num", 100)
    capsys.readouterr()
    assert command(*words, "--teacher", "nowhere", "--out", "other") == 2
    assert "--teacher: consistency_training asks no teacher" in capsys.readouterr().err


def test_a_density_that_is_known_stays_for_the_instruments():
    known = task_from_preset("distill", "mog40-consistency-training")
    assert problem_of(known).teacher is not None
