"""A student is sampled, evaluated and exported without its teacher; what is missing is asked for."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pipelines
import pytest
import small
import torch
import yaml

from vardiu.cli.main import main
from vardiu.export import EXPORTS

QUICK = ["--method", "regression", "--batch", "8", "--evaluations", "1", "--reports", "1"]
QUICK += ["--reference", "200", "--pairs.pairs", "16", "--pairs.batch", "8", "--samples", "200"]
QUICK += ["--pairs.solver-steps", "2", "--pairs.steps", "2", "--steps", "2", "--threads", "1"]

OWN = """
import torch
import vardiu


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, sigma, **cond):
        scale = (1 + sigma**2).view(-1, 1, 1, 1)
        return x / scale + 0.01 * self.layer(x / scale.sqrt())


def make():
    torch.manual_seed(0)
    return vardiu.FunctionDenoiser(Net(), shape=(1, 8, 8), sigma_min=0.05, sigma_max=20.0)
"""


def distilled(tmp_path_factory, name, make, *words) -> Path:
    """Makes a teacher with the name given, distils it two steps, and moves the run away."""
    place = tmp_path_factory.mktemp(name)
    before, here = torch.get_default_dtype(), Path.cwd()
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    os.chdir(place)
    try:
        make(place)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vardiu.problems.image_scores.ImageScores.quick", 100)
            patch.setattr("vardiu.runs.distill.checked", lambda *arguments: [])
            pipelines.call_less(patch)
            patch.setattr("vardiu.runs.listeners.ReportPage.write", lambda page, shipped: None)
            assert main(["distill", *QUICK, *words, "--out", "run"]) == 0
        shutil.move("run", place / "moved")
    finally:
        os.chdir(here)
        torch.set_default_dtype(before)
    return place


@pytest.fixture(scope="module")
def of_pixels(tmp_path_factory) -> Path:
    def make(place):
        pipelines.pixels(place / "epsu")

    return distilled(tmp_path_factory, "pixels", make, "--teacher", "epsu")


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory) -> Path:
    def make(place):
        pipelines.stable(place / "sd")
        (place / "prompts.txt").write_text("a cat\na dog\na house\n")

    words = ["--teacher", "sd", "--prompts", "prompts.txt"]
    return distilled(tmp_path_factory, "texts", make, *words)


@pytest.fixture(scope="module")
def of_latents(tmp_path_factory) -> Path:
    def make(place):
        codec, network = small.autoencoder(), small.unet(classes=0, channels=4)
        codec.register_to_config(scaling_factor=0.5)
        parts = codec, network, diffusers.DDIMScheduler(clip_sample=False)
        diffusers.LDMPipeline(*parts).save_pretrained(place / "ldm")

    return distilled(tmp_path_factory, "latents", make, "--teacher", "ldm")


def test_a_student_of_latents_is_exported_without_its_teacher(here, of_latents, refused):
    """But to stock diffusers, whose pipeline has the teacher's own autoencoder in it."""
    shutil.copytree(of_latents / "moved", here / "run")
    assert main(["export", "run", "--to", "safetensors"]) == 0
    text = Path("run/export-safetensors/README.md").read_text()
    assert "AutoencoderKL.from_pretrained(" in text and '"TEACHER", subfolder="vqvae"' in text
    assert "torch.from_numpy(x) / 0.5 + 0.0" in text
    line = refused("export", "run", "--to", "diffusers")
    assert "needs the student's teacher, ldm, which is not there" in line and "--teacher" in line


@pytest.fixture(scope="module")
def of_own_code(tmp_path_factory) -> Path:
    def make(place):
        (place / "mine.py").write_text(OWN)

    return distilled(tmp_path_factory, "own", make, "--teacher", "mine.py:make")


def test_a_student_of_pixels_is_used_without_its_teacher(here, of_pixels, refused, capsys):
    shutil.copytree(of_pixels / "moved", here / "other" / "run")  # no teacher is near
    run = "other/run"
    assert main(["sample", run, "--num", "20"]) == 0
    arrays = np.load("other/run/samples-20-seed0.npz")
    assert arrays["x"].shape == (20, 1, 8, 8)
    assert arrays["label"].tolist() == [*range(10), *range(10)]
    for form in ("safetensors", "diffusers"):
        assert main(["export", run, "--to", form]) == 0
    card = Path("other/run/export-safetensors/README.md").read_text()
    assert "- teacher: `epsu`" in card
    # What it is compared with are the teacher's own samples, of which a run keeps none.
    line = refused("evaluate", run)
    assert "needs the student's teacher, epsu, which is not there" in line and "--teacher" in line
    capsys.readouterr()
    told = ["--teacher", str(of_pixels / "epsu")]
    assert main(["evaluate", run, "--num", "200", *told]) == 0
    kept = json.loads(Path(run, "result.json").read_text())["reference"]
    shown = json.loads(Path(run, "evaluation-200-seed0.json").read_text())["reference"]
    assert shown == kept and kept["name"] in capsys.readouterr().out.replace("\n", " ")
    # Of another number of samples distances are others: the teacher is measured anew.
    assert main(["evaluate", run, "--num", "100", *told]) == 0
    shown = json.loads(Path(run, "evaluation-100-seed0.json").read_text())["reference"]
    assert shown["name"] == kept["name"] and {row["n"] for row in shown["metrics"]} == {100}
    capsys.readouterr()
    x = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), "uint8")
    np.savez("real.npz", x=x, label=np.arange(300) % 10)
    assert main(["evaluate", run, "--num", "101", "--data", "real.npz"]) == 0
    (path,) = Path(run).glob("evaluation-101-seed0-data-real.npz-*.json")
    shown = json.loads(path.read_text())["reference"]
    assert shown == {"name": "", "metrics": []}  # what is kept is of other images
    assert "not compared with the teacher" in capsys.readouterr().out.replace("\n", " ")


def test_a_student_of_texts_asks_for_its_teachers_decoder_and_encoder(
    here, of_texts, refused, monkeypatch
):
    shutil.copytree(of_texts / "moved", here / "run")
    told = ["--teacher", str(of_texts / "sd")]
    for words in (["sample", "run"], ["evaluate", "run"], ["export", "run", "--to", "diffusers"]):
        line = refused(*words)
        assert "needs the student's teacher, sd, which is not there" in line, words
        assert "name it with --teacher" in line
    assert main(["sample", "run", "--num", "6", *told]) == 0
    arrays = np.load("run/samples-6-seed0.npz")
    assert arrays["x"].shape[:2] == (6, 3) and arrays["label"].tolist() == [0, 1, 2, 0, 1, 2]
    words = ["sample", "run", "--num", "4", "--seed", "1", "--prompt", "a tree", *told]
    assert main(words) == 0
    (first,) = Path("run").glob("samples-4-seed1-prompt-a-tree-*.npz")
    assert np.load(first)["label"].tolist() == [0] * 4
    # Samples of other texts are another file, also where the first one is the same.
    assert main([*words, "--prompt", "a dog"]) == 0
    (other,) = set(Path("run").glob("samples-4-seed1-prompt-a-tree-*.npz")) - {first}
    assert np.load(other)["label"].tolist() == [0, 1, 0, 1]
    # What these forms say of the teacher's parts stands in the run's folder.
    kept = json.loads(Path("run/student/model.json").read_text())["about"]["teacher"]
    assert kept["codec"] == "AutoencoderKL" and kept["codec_place"] == "vae"

    def write(student, folder, origin):
        """The card is asked here; graphs of such networks take half a minute, in test_export."""
        folder.mkdir()
        return 0.0

    monkeypatch.setitem(EXPORTS, "onnx", EXPORTS["onnx"]._replace(write=write))
    assert main(["export", "run", "--to", "onnx"]) == 0
    text = Path("run/export-onnx/README.md").read_text()
    assert "AutoencoderKL.from_pretrained(" in text and '"TEACHER", subfolder="vae"' in text
    assert f"/ {kept['codec_scale']} + 0.0" in text and str((4, *kept["text_shape"])) in text
    # A hub is asked only for what this command line names.
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    config["problem"]["teacher"] = "someone/model"
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    assert "teacher, someone/model, which is not there" in refused("sample", "run", "--seed", 2)


def test_a_student_on_own_code_is_used_with_its_option(here, of_own_code, refused):
    shutil.copytree(of_own_code / "moved", here / "run")
    (here / "code").mkdir()
    shutil.copy(of_own_code / "mine.py", here / "code" / "mine.py")
    told = ["--network", "code/mine.py:make"]
    forms = (["--to", "safetensors"], ["--to", "onnx"])
    commands = [["sample", "run", "--num", "4"], *(["export", "run", *form] for form in forms)]
    for words in [*commands, ["evaluate", "run"]]:
        assert "repeat --network mine.py:make" in refused(*words)
    for words in commands:
        assert main([*words, *told]) == 0, words
    line = refused("evaluate", "run", *told)
    assert "repeat --teacher mine.py:make" in line
    both = [*told, "--teacher", "code/mine.py:make"]
    assert main(["evaluate", "run", "--num", "100", *both]) == 0
    (here / "code" / "mine.py").write_text(f"{OWN}\n# changed\n")
    assert "was changed since" in refused("sample", "run", "--seed", "1", *told)
    again = ["sample", "run", "--num", "4", "--seed", "1", *told, "--accept-changed-code"]
    assert main(again) == 0


def test_a_student_of_a_learned_density_needs_no_teacher(small_run, refused):
    path = small_run / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["problem"] |= {"teacher": "learned", "teacher_run": "nowhere"}
    path.write_text(yaml.safe_dump(values))
    assert main(["sample", str(small_run), "--num", "5"]) == 0
    assert main(["evaluate", str(small_run), "--num", "100"]) == 0
    assert main(["export", str(small_run), "--to", "safetensors"]) == 0
    assert "--teacher: this student needs none" in refused("sample", small_run, "--teacher", "x")


@pytest.mark.parametrize(
    "teacher",
    [
        None,
        [],
        {"classes": "x"},
        {"shape": [-1]},
        {"shape": 5},
        {"other": 1},
        {"latent": True},
        {"names": ["a"], "classes": 2},
        {"names": [1]},
        {"codec": "os"},
        {"codec_scale": 0.0},
        {"codec_shift": float("nan")},
        {"text_shape": [2]},
        {"codec_place": "../x"},
    ],
)
def test_damaged_facts_of_the_teacher_are_refused_by_name(small_run, refused, teacher):
    path = small_run / "student" / "model.json"
    values = json.loads(path.read_text())
    values["about"]["teacher"] = teacher
    path.write_text(json.dumps(values))
    assert "model.json" in refused("sample", small_run)
