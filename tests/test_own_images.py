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
from vardiu.problems.image_scores import ImageScores, refuse_few
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


def write_folder(folder="shapes", each=120):
    """Two classes of 8x8 images: a bright left half, and a bright upper half."""
    random = np.random.default_rng(0)
    for name in ("left", "up"):
        (Path(folder) / name).mkdir(parents=True)
        for i in range(each):
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


TAUGHT = "--side 8 --channels 1 --widths 8 8 --depth 1 --precision float32 --steps 4".split()


@pytest.mark.filterwarnings("always")
def test_a_teacher_of_few_images_is_measured_without_the_kernel_distance():
    """Its blocks need twenty images; the others judge ten, and the teacher is written."""
    write_folder(each=5)
    words = ["teach", "patches", "--data", "shapes", *TAUGHT, *SMALL, "--out", "a"]
    with pytest.warns(UserWarning, match="shapes has 10 images: the kernel distance, .* left out"):
        assert main(words) == 0
    names = {row["name"] for row in json.loads(Path("a/result.json").read_text())["metrics"]}
    assert {"frechet", "precision", "recall", "density", "coverage"} == names
    assert models.load("a/teacher") is not None


def test_too_few_images_are_refused_before_a_teacher_is_trained(capsys):
    write_folder(each=3)
    words = ["teach", "patches", "--data", "shapes", *TAUGHT, *SMALL, "--batch", "4"]
    assert main([*words, "--out", "a"]) == 2
    told = capsys.readouterr().err.strip()
    assert told.endswith("shapes has 6 images, and a teacher is judged on at least 8: give more "
                         "images (--data)")  # fmt: skip
    assert not Path("a").exists()


@pytest.mark.parametrize("n, words", [(5, "5 images, and"), (1, "1 image, and")])
def test_samples_are_compared_with_six_images_at_least(n, words):
    with pytest.raises(ConfigError, match=f"faces has {words} samples .* at least 6: give more"):
        refuse_few(n, "faces")
    refuse_few(20, "faces")


def test_what_only_the_end_of_a_teaching_needs_is_tried_before_it(capsys, monkeypatch):
    """A measurement that fails is told without a training."""
    write_folder(each=20)

    def broken(self, source, n=0, seed=0):
        raise ValueError(f"nothing to measure {tuple(source(3, torch.Generator())[0].shape)} by")

    monkeypatch.setattr(ImageScores, "measure", broken)
    words = ["teach", "patches", "--data", "shapes", *TAUGHT, *SMALL, "--out", "a"]
    assert main(words) != 0
    assert "nothing to measure (3, 1, 8, 8) by" in capsys.readouterr().err
    assert not Path("a/checkpoints").exists()


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
