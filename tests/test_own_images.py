"""A teacher and a student of images of one's own, with classes; two are compared in test_stories."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vardiu import models
from vardiu.cli.main import main
from vardiu.errors import ConfigError
from vardiu.problems.image_scores import ImageScores
from vardiu.problems.images import ImageProblem
from vardiu.settings.fields import ImageSettings

pytestmark = pytest.mark.usefixtures("few_calls")
SMALL = "--batch 8 --evaluations 1 --reports 1 --threads 1 --seed 0".split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    for name in ("quick", "samples"):
        monkeypatch.setattr(f"vardiu.problems.image_scores.ImageScores.{name}", 60)


def write_folder(folder="shapes"):
    """Two classes of 8x8 images: a bright left half, and a bright upper half."""
    random = np.random.default_rng(0)
    for name in ("left", "up"):
        (Path(folder) / name).mkdir(parents=True)
        for i in range(120):
            image = random.integers(0, 60, (8, 8))
            (image[:, :4] if name == "left" else image[:4])[:] += 180
            Image.fromarray(image.astype("uint8")).save(Path(folder) / name / f"{i}.png")


def test_a_student_of_images_of_ones_own_with_classes(capsys, monkeypatch):
    """The story of the documentation: a folder of class folders, a teacher, a student."""
    write_folder()
    data = ["--data", "shapes", "--reference", "200"]
    words = ["teach", "patches", "--name", "shapes", *data, "--side", "8", "--channels", "1"]
    words += ["--widths", "8", "16", "--depth", "1", "--precision", "float32"]
    assert main([*words, *SMALL, "--batch", "32", "--steps", "200", "--halflife", "600"]) == 0
    teacher = models.load("runs/teach-patches/teacher")
    assert tuple(teacher.conditions) == ("label",) and tuple(teacher.shape) == (1, 8, 8)
    # A class is not a wish: each half is bright in its own class.
    x = torch.zeros(2, 1, 8, 8) + 5.0 * torch.randn(2, 1, 8, 8)
    mean = teacher(x, torch.full((2,), 15.0), label=torch.tensor([0, 1]))
    left, up = mean[:, 0, :, :4].mean((1, 2)), mean[:, 0, :4].mean((1, 2))
    assert left[0] > up[0] and up[1] > left[1]
    start = ["distill", "--teacher", "runs/teach-patches", *data, *SMALL, "--steps", "2"]
    pairs = ["--pairs.pairs", "64", "--pairs.steps", "2", "--pairs.batch", "8"]
    pairs += ["--pairs.solver-steps", "2", "--delay", "0"]
    assert main([*start, *pairs, "--out", "runs/a"]) == 0
    capsys.readouterr()
    assert main(["sample", "runs/a", "--num", "6", "--label", "1"]) == 0
    assert np.load("runs/a/samples-6-seed0-label1.npz")["label"].tolist() == [1] * 6
    assert main(["sample", "runs/a", "--num", "4", "--label", "1", "--label", "0"]) == 0
    assert np.load("runs/a/samples-4-seed0-label1-label0.npz")["label"].tolist() == [1, 0, 1, 0]
    assert main(["sample", "runs/a", "--num", "4"]) == 0
    drawn = np.load("runs/a/samples-4-seed0.npz")
    assert drawn["label"].tolist() == [0, 1, 0, 1] and drawn["names"].tolist() == ["left", "up"]
    # By their names as well: the teacher and the run keep those of the folders.
    capsys.readouterr()
    titles = []
    monkeypatch.setattr(
        "vardiu.problems.image_scores.image_grid", lambda rows, path: titles.append(rows[0][0])
    )
    for name in ("up", "UP"):
        assert main(["sample", "runs/a", "--num", "5", "--label", name]) == 0
        assert "classes: up (number 1)\n" in capsys.readouterr().out
    assert np.load("runs/a/samples-5-seed0-label1.npz")["label"].tolist() == [1] * 5
    assert titles == ["5 samples of up"] * 2
    assert main(["sample", "runs/a", "--label", "lefft"]) == 2
    assert "unknown class 'lefft'; did you mean left?" in capsys.readouterr().err
    for label in ("2", "-1"):
        assert main(["sample", "runs/a", f"--label={label}", "--out", "new.npz"]) == 2
        assert f"--label must be within 0 and 1, got {label}" in capsys.readouterr().err
    assert not Path("new.npz").exists()


def test_a_teacher_is_measured_again_only_where_its_numbers_would_be_others(monkeypatch):
    write_folder()
    data = ["--data", "shapes", "--reference", "200", "--side", "8", "--channels", "1"]
    words = ["teach", "patches", *data, "--widths", "8", "16", "--depth", "1", "--drop", "0.5"]
    assert main([*words, *SMALL, "--steps", "2", "--out", "runs/t"]) == 0
    written = models.about_of("runs/t/teacher")["metrics"]
    n, measured = written[0]["n"], []
    monkeypatch.setattr(ImageScores, "measure", lambda scores, source, n: measured.append(n))
    row = ImageSettings(teacher="runs/t", data="shapes", reference=200)

    def numbers(n, chosen=(), **others):
        problem = ImageProblem(dataclasses.replace(row, **others))
        if chosen:
            problem.data.choose_classes(chosen)
        measured.clear()
        found, who = problem.scores.teacher_metrics(n)
        assert who == "teacher, 69 calls"
        return found

    assert [metric.row() for metric in numbers(n)] == written and not measured
    for others in ({"chosen": ["0"]}, {"guidance": 2.0}, {"reference": 210}, {"n": n + 1}):
        numbers(**{"n": n, **others})
        assert measured == [others.get("n", n)], others
    path = Path("runs/t/teacher/model.json")
    about = json.loads(path.read_text())
    for odd in ("none", [{"name": "frechet", "value": "low"}]):
        about["about"]["metrics"] = odd
        path.write_text(json.dumps(about))
        with pytest.raises(ConfigError, match="model.json: metrics must be a list of metrics"):
            ImageProblem(row)


def test_classes_are_not_asked_for_where_they_are_not_wanted():
    write_folder()
    words = ["teach", "patches", "--data", "shapes", "--reference", "200", "--side", "8"]
    words += ["--channels", "1", "--widths", "8", "16", "--depth", "1", "--no-conditional"]
    assert main([*words, *SMALL, "--steps", "1", "--out", "runs/t"]) == 0
    assert not models.load("runs/t/teacher").conditions
