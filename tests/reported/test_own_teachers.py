"""A user's network, its weights and ten lines: through every command, or refused before training."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import vardiu
from vardiu.cli.main import main
from vardiu.denoisers.rescaled import Rescaled
from vardiu.errors import ConfigError
from vardiu.teachers import ddpm, flow, load

CODE = """
import torch
import vardiu
from neighbour import hidden


class Net(torch.nn.Module):
    def __init__(self, d, classes=0):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(d, hidden)
        self.norm = torch.nn.BatchNorm1d(hidden)
        self.drop = torch.nn.Dropout(0.5)
        self.last = torch.nn.Linear(hidden, d)
        self.table = torch.nn.Embedding(classes + 1, d) if classes else None

    def forward(self, x, sigma, label=None):
        h = x.flatten(1)
        level = sigma[:, None]
        mean = h / (1 + level**2)
        if label is not None:
            mean = mean + 1e-3 * self.table(label)
        change = self.last(self.drop(self.norm(self.first(h / (1 + level))).tanh()))
        return (mean + 1e-3 * change).reshape(x.shape)


LEVELS = {"sigma_min": 0.05, "sigma_max": 20.0}


def plane():
    return vardiu.FunctionDenoiser(Net(2), shape=(2,), **LEVELS)


def tensors():
    return vardiu.FunctionDenoiser(Net(6, 3), shape=(2, 3), classes=3, null=3, **LEVELS)


def images():
    return vardiu.FunctionDenoiser(
        Net(64, 3), shape=(1, 8, 8), classes=3, null=3, names="abc", licence="mit", **LEVELS
    )


def latents():
    def decode(z):
        return torch.nn.functional.interpolate(z[:, :1], scale_factor=2.0).tanh()

    return vardiu.FunctionDenoiser(Net(64), shape=(4, 4, 4), decode=decode, **LEVELS)


def score(x_t, sigma):
    return -x_t / (1 + sigma[:, None] ** 2)


def closure():
    return vardiu.FunctionDenoiser(score, shape=(2,), returns="score", **LEVELS)


class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(2))

    def forward(self, x, sigma):
        return self.one * x / (1 + sigma[:, None] ** 2)


def layerless():
    return vardiu.FunctionDenoiser(Scale(), shape=(2,), **LEVELS)


class Silent(Net):
    @torch.no_grad()
    def forward(self, x, sigma):
        return super().forward(x, sigma)


def silent():
    return vardiu.FunctionDenoiser(Silent(2), shape=(2,), **LEVELS)


def unlabelled():
    return vardiu.FunctionDenoiser(Net(2), shape=(2,), conditions=["label"], **LEVELS)


def angled():
    return vardiu.FunctionDenoiser(Net(2), shape=(2,), conditions=["angle"], **LEVELS)


def misshapen():
    return vardiu.FunctionDenoiser(lambda x, s: x[:, :1], shape=(2,), **LEVELS)


def raising():
    return vardiu.FunctionDenoiser(Net(3), shape=(2,), **LEVELS)


def weightless():
    return torch.load("nowhere.pth", weights_only=True)


def undecoded():
    return vardiu.FunctionDenoiser(Net(64), shape=(4, 4, 4), decode=lambda z: z, **LEVELS)


def infinite():
    return vardiu.FunctionDenoiser(lambda x, s: x / (s - s), shape=(2,), **LEVELS)
"""

SHORT = ["--method", "regression", "--batch", "8", "--steps", "2", "--evaluations", "1"]
SHORT += ["--reports", "1", "--samples", "200", "--reference", "400", "--pairs.pairs", "8"]
SHORT += ["--pairs.batch", "8", "--pairs.solver-steps", "2", "--pairs.steps", "2"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a user's files, in which commands are typed."""
    torch.set_default_dtype(torch.float32)
    (tmp_path / "model.py").write_text(CODE)
    (tmp_path / "neighbour.py").write_text("hidden = 8\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


ROADS = {
    # What is distilled: the preset, the function, the student, and whether to ONNX.
    "images of classes": ("images", "images", "teacher", True),
    "an adapter on images": ("images", "images", "lora", False),
    "latents": ("images", "latents", "teacher", False),
    "a plane": ("vectors", "plane", "teacher", False),
    "an adapter on tensors": ("vectors", "tensors", "lora", False),
    "a function": ("vectors", "closure", "fresh", False),
}


MARKS = {
    "an adapter on images": pytest.mark.slow,
    "a plane": pytest.mark.slow,
    "an adapter on tensors": pytest.mark.drawn,
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in ROADS])
def test_own_code_goes_through_every_command(name, place, capsys):
    preset, function, student, onnx = ROADS[name]
    teacher = ["--teacher", f"model.py:{function}"]
    words = ["distill", preset, *teacher, "--student", student, *SHORT]
    assert main([*words, "--out", "run"]) == 0, capsys.readouterr().err
    # Another machine: the run alone, and the code given again, elsewhere.
    (place / "there").mkdir()
    for file in ("model.py", "neighbour.py"):
        shutil.move(place / file, place / "there" / file)
    shutil.move(place / "run", place / "moved")
    again = f"there/model.py:{function}"
    network = [] if student == "fresh" else ["--network", again]
    if network:
        assert main(["sample", "moved", "--num", "5"]) == 2
        assert "--network" in capsys.readouterr().err
    source = ["--teacher", again]
    assert main(["sample", "moved", "--num", "5", *network, *source]) == 0, capsys.readouterr().err
    with np.load(place / "moved" / "samples-5-seed0.npz") as arrays:
        shape = {"images": (1, 8, 8), "latents": (1, 8, 8), "tensors": (2, 3)}.get(function, (2,))
        assert arrays["x"].shape == (5, *shape) and np.isfinite(arrays["x"]).all()
    assert main(["evaluate", "moved", "--num", "100", *network, *source]) == 0
    if onnx:
        assert main(["export", "moved", "--to", "onnx", *network]) == 0
        assert (place / "moved" / "export-onnx" / "model.onnx").is_file()


@pytest.mark.parametrize("lost", ["adapter", "adapter/adapter_config.json"])
def test_a_lost_adapter_is_made_again_bit_for_bit(lost, place, capsys):
    words = ["distill", "vectors", "--teacher", "model.py:tensors", "--student", "lora"]
    assert main([*words, *SHORT, "--out", "run"]) == 0, capsys.readouterr().err
    before = {p: p.read_bytes() for p in Path("run/adapter").iterdir()}
    assert len(before) == 2
    if Path("run", lost).is_dir():
        shutil.rmtree(Path("run", lost))
    else:
        Path("run", lost).unlink()
    capsys.readouterr()
    assert main([*words, *SHORT, "--out", "run"]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "made again from the checkpoint: run/adapter holds no adapter" in told
    assert {p: p.read_bytes() for p in Path("run/adapter").iterdir()} == before
    assert Path("run/adapter-damaged").is_dir() == (lost != "adapter")
    assert main([*words, *SHORT, "--out", "run"]) == 0
    assert "nothing to do" in capsys.readouterr().out


REFUSED = {
    # What is named: the student, and what the one line says.
    "closure": ("teacher", "no weights that a student could start from: give --student fresh"),
    "layerless": ("lora", "no linear or convolutional layer.*give --student teacher or fresh"),
    "silent": ("teacher", "carries no gradient to its weights' parameters"),
    "unlabelled": ("fresh", "does not say of how many classes"),
    "angled": ("fresh", "a command gives label alone"),
    "misshapen": ("fresh", r"must return the shape of its input, \(2, 2\), got \(2, 1\)"),
    "raising": ("fresh", r"model\.py:raising, line \d+: its call .* failed, RuntimeError: mat1"),
    "weightless": ("fresh", r"model\.py:weightless, line \d+: FileNotFoundError"),
    "undecoded": ("fresh", "decode makes images .* one channel or three, got"),
    "infinite": ("fresh", "values that are not finite"),
    "images": ("teacher", None),
}


@pytest.mark.parametrize("function", REFUSED)
def test_what_cannot_be_distilled_is_refused_before_training(function, place, capsys):
    import re

    student, match = REFUSED[function]
    words = ["--teacher", f"model.py:{function}", "--student", student, *SHORT, "--out", "run"]
    preset = "vectors"
    if match is None:
        preset, match, words[1] = "images", "vectors are distilled by", "model.py:plane"
    assert main(["distill", preset, *words]) == 2
    said = capsys.readouterr().err.strip()
    assert re.search(match, " ".join(said.split())), said
    assert not (place / "run" / "checkpoints").exists()


def test_networks_stay_in_evaluation_mode_and_an_origin_is_kept(place):
    teacher = load("model.py:images")
    assert teacher.origin.source == "model.py:images" and teacher.origin.licence == "mit"
    assert (teacher.origin.classes, teacher.origin.null) == (3, 3)
    assert teacher.origin.names == ("a", "b", "c") and teacher.conditions == ("label",)
    copy = teacher.trainable_copy()
    assert all(p.requires_grad for p in copy.parameters())
    x, sigma, label = torch.randn(6, 1, 8, 8), torch.ones(6), torch.zeros(6, dtype=torch.long)
    with torch.no_grad():
        assert torch.equal(copy(x, sigma, label=label), copy(x, sigma, label=label))
        assert torch.equal(copy(x, sigma, label=label), teacher(x, sigma, label=label))
    (place / "by_hand.py").write_text(
        "from model import *\nfrom vardiu.teachers import Origin\n\n\ndef mine():\n"
        "    found = plane()\n    found.origin = Origin('my card', 'mine', licence='cc0')\n"
        "    return found\n"
    )
    origin = load("by_hand.py:mine").origin
    assert (origin.source, origin.kind, origin.licence) == ("my card", "mine", "cc0")


def test_a_method_that_asks_for_features_is_refused_before_training(place, capsys):
    np.save("points.npy", np.random.default_rng(0).normal(size=(64, 2)))
    words = ["--teacher", "model.py:plane", "--data", "points.npy", "--batch", "8", "--steps", "9"]
    words += ["--reference", "400", "--method", "dmd2", "--delay", "0", "--out", "run"]
    assert main(["distill", "vectors", *words]) == 2
    assert "lists none: give the network `taps`" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("option", "level", "told"),
    [
        ("--levels.sigma-max", "4000", "levels.sigma_max"),
        ("--levels.sigma-min", "1e-9", "levels.sigma_min"),
    ],
)
def test_a_level_that_the_teacher_does_not_know_is_refused_and_not_cut(
    place, capsys, option, level, told
):
    """It was cut to the teacher's range, and the run's settings said what was asked for."""
    np.save("points.npy", np.random.default_rng(0).normal(size=(640, 2)))
    words = ["--teacher", "model.py:plane", "--data", "points.npy", "--batch", "8", "--steps", "2"]
    words += ["--reference", "400", "--method", "vardiu", "--out", "run"]
    assert main(["distill", "vectors", *words, option, level]) == 2
    line = " ".join(capsys.readouterr().err.split())
    assert f"{told} is in units of the data's spread, " in line
    assert f": {float(level):g} is the level " in line
    assert "and the teacher knows 0.05 to 20; give " in line and not os.path.exists("run")
    spread = float(line.partition("spread, ")[2].partition(":")[0])
    limit = 0.05 if level == "1e-9" else 20
    assert float(line.rpartition(" ")[2]) * spread == pytest.approx(limit, rel=0.01)


def test_a_network_with_taps_gives_its_features():
    network = vardiu.MLP((2,), (2,), width=8, depth=2, noisy=True)
    teacher = vardiu.FunctionDenoiser(
        network, shape=(2,), sigma_min=0.1, sigma_max=9.0, data_range=(0, 1), returns="epsilon"
    )
    x_t, sigma = torch.randn(3, 2), torch.ones(3)
    mean, kept = teacher.features(x_t, sigma, (teacher.bottleneck,))
    assert torch.equal(mean, teacher(x_t, sigma)) and kept["hidden.1"].shape == (3, 8)


# ---------------------------------------------------------------- coordinates


def exact(mean=0.3, variance=0.5):
    """The denoiser of a normal distribution of numbers."""
    return vardiu.GaussianDenoiser(
        torch.full((2,), mean).double(), torch.full((2,), variance).double()
    )


class Discrete(torch.nn.Module):
    """What a network that was trained to the end predicts, at whole times."""

    def __init__(self, alphas_cumprod, denoiser, prediction):
        super().__init__()
        self.register_buffer("table", alphas_cumprod)
        self.denoiser, self.prediction = denoiser, prediction

    def forward(self, x_s, t):
        assert t.dtype == torch.long
        alpha, s = self.table[t].sqrt()[:, None], (1 - self.table[t]).sqrt()[:, None]
        x = self.denoiser(x_s / alpha, (s / alpha)[:, 0])
        noise = (x_s - alpha * x) / s
        return {"sample": x, "epsilon": noise, "v": alpha * noise - s * x}[self.prediction]


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_a_discrete_network_is_its_denoiser(prediction):
    betas = torch.linspace(1e-4, 0.02, 1000).double()
    products = (1 - betas).cumprod(0)
    network = Discrete(products, exact(), prediction)
    sigma = ((1 - products) / products).sqrt()[[0, 200, 600, 999]]
    x_t = torch.randn(4, 2).double()
    for schedule in ({"betas": betas.numpy()}, {"alphas_cumprod": products.tolist()}):
        teacher = ddpm(network, shape=(2,), prediction=prediction, **schedule)
        assert torch.allclose(teacher(x_t, sigma), exact()(x_t, sigma), atol=1e-4)
    assert teacher.latent_sigma == pytest.approx(2.5 if prediction == "epsilon" else 157.4, 0.01)


def test_schedules_that_are_none_are_refused():
    network = torch.nn.Identity()
    for schedule, match in (
        ({}, "betas or alphas_cumprod"),
        ({"betas": [0.1], "alphas_cumprod": [0.1]}, "betas or alphas_cumprod"),
        ({"betas": [0.1]}, "at least two numbers"),
        ({"betas": [[0.1, 0.2]]}, "at least two numbers"),
        ({"betas": [0.1, 1.2]}, "values outside"),
        ({"betas": [0.1, float("nan")]}, "values outside"),
        ({"alphas_cumprod": [0.2, 0.9]}, "is the schedule reversed"),
    ):
        with pytest.raises(ValueError, match=match):
            ddpm(network, shape=(2,), **schedule)


def test_data_in_another_range_have_the_same_denoiser():
    """y = (x + 1) / 2 in [0, 1]: the exact denoiser of either, asked in our coordinate."""
    ours, theirs = exact(0.4, 0.5), exact(0.7, 0.125)
    x_t, sigma = torch.randn(5, 2).double(), torch.logspace(-1, 1, 5).double()
    teachers = [
        Rescaled(theirs, (0, 1)),
        vardiu.FunctionDenoiser(theirs, shape=(2,), sigma_min=0.05, sigma_max=9, data_range=(0, 1)),
        vardiu.FunctionDenoiser(
            lambda y, level: (theirs(y, level) - y) / level.square()[:, None],
            shape=(2,), sigma_min=0.05, sigma_max=9, returns="score", data_range=(0, 1),
        ),
    ]  # fmt: skip
    for teacher in teachers:
        assert torch.allclose(teacher(x_t, sigma), ours(x_t, sigma), rtol=1e-9)
    assert (teachers[1].sigma_min, teachers[1].sigma_max) == (0.1, 18.0)
    table = torch.linspace(0.999, 0.01, 50).double()
    network = Discrete(table, theirs, "epsilon")
    discrete = ddpm(network, shape=(2,), alphas_cumprod=table, data_range=(0, 1))
    at = 2 * ((1 - table) / table).sqrt()[[3, 30]]
    assert torch.allclose(discrete(x_t[:2], at), ours(x_t[:2], at), atol=1e-4)
    for bad in ((1, 0), (0,), (0, float("inf"))):
        with pytest.raises(ValueError, match="data_range"):
            Rescaled(theirs, bad)


def test_a_latent_of_a_rescaled_network_is_the_state_that_it_stands_for():
    table = torch.linspace(0.999, 0.01, 50).double()
    teacher = ddpm(
        Discrete(table, exact(0.7, 0.125), "v"), shape=(2,), prediction="v",
        alphas_cumprod=table, data_range=(0, 1),
    )  # fmt: skip
    z = torch.randn(3, 2).double()
    sigma = teacher.sigma_max
    state = teacher.pure_noise(z, sigma)
    level = torch.full((3,), sigma).double()
    assert torch.allclose(teacher.generate(z, sigma), teacher(state, level), atol=1e-4)


def test_what_is_said_of_classes_must_fit():
    network = torch.nn.Linear(2, 2)
    for about, match in (
        ({"classes": -1}, "at least 0"),
        ({"null": 3}, "give classes as well"),
        ({"classes": 2, "names": ["a"]}, "one a class, got 1"),
        ({"classes": 2, "conditions": ["text"]}, "takes the condition 'label'"),
    ):
        with pytest.raises(ValueError, match=match):
            flow(network, shape=(2,), **about)
    assert flow(network, shape=(2,), classes=2).conditions == ("label",)


def test_a_module_of_the_working_folder_is_found(place, monkeypatch):
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "model", raising=False)  # another test's, of another folder
    assert load("model:plane").shape == (2,)
    with pytest.raises(ConfigError, match="has no 'nothing'"):
        load("model.py:nothing")
