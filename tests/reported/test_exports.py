"""Exports of what people really have: half-precision pipelines, images that are not square, pixels'
networks of latents; and a card that the hub's own reader takes and whose lines run to a picture."""

from __future__ import annotations

import itertools
import json
import re
import shutil

import diffusers
import pipelines
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from small import autoencoder, unet

from vardiu.denoisers.consistency import ConsistencyDenoiser
from vardiu.denoisers.lora import adapt, adapters, merge
from vardiu.denoisers.lora_files import save_adapter
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.errors import ConfigError
from vardiu.export import EXPORTS, card, export
from vardiu.export.diffusers import to_diffusers
from vardiu.export.peft import with_adapter
from vardiu.nn import MLP, UNet
from vardiu.problems.kept import KeptTeacher
from vardiu.students.few_step import FewStep, OneStep
from vardiu.students.pushforward import Pushforward
from vardiu.teachers.readers import load


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_pipeline_saved_in_half_precision_is_exported(tmp_path, kind):
    pipeline = pipelines.stable(tmp_path / "whole")
    pipeline.to(kind).save_pretrained(tmp_path / "half")
    teacher = load(str(tmp_path / "half"))
    student = OneStep(teacher.trainable_copy().eval())
    assert to_diffusers(student, tmp_path / "out", teacher.origin) < 1e-5


def test_a_network_of_pixels_on_latents_is_an_ldm_pipeline(tmp_path):
    parts = autoencoder(), unet(classes=0, channels=4), diffusers.DDIMScheduler(clip_sample=False)
    diffusers.LDMPipeline(*parts).save_pretrained(tmp_path / "teacher")
    teacher = load(str(tmp_path / "teacher"))
    student = OneStep.like(teacher).eval()
    assert to_diffusers(student, tmp_path / "out", teacher.origin) < 1e-5
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert isinstance(loaded, diffusers.LDMPipeline)
    calls = []
    loaded.unet.register_forward_hook(lambda module, inputs, output: calls.append(inputs[1]))
    loaded()  # nothing said of steps
    assert len(calls) == 1 and int(calls[0]) == teacher.coordinates.place(student.sigma)


def change(path, **settings):
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_images_that_are_not_square_are_refused_where_stock_diffusers_makes_none(tmp_path):
    pipelines.pixels(tmp_path / "teacher", classes=0)
    change(tmp_path / "teacher" / "unet" / "config.json", sample_size=[16, 8])
    teacher = load(str(tmp_path / "teacher"))
    assert teacher.shape == (1, 16, 8)
    with pytest.raises(ConfigError, match="makes square images, and the student's are 16 by 8"):
        to_diffusers(OneStep.like(teacher).eval(), tmp_path / "out", teacher.origin)
    assert not (tmp_path / "out").exists()


def test_stable_diffusion_need_not_be_square(tmp_path):
    pipelines.stable(tmp_path / "teacher")
    change(tmp_path / "teacher" / "unet" / "config.json", sample_size=[16, 8])
    teacher = load(str(tmp_path / "teacher"))
    assert teacher.shape == (4, 16, 8)
    student = OneStep.like(teacher).eval()
    assert to_diffusers(student, tmp_path / "out", teacher.origin) < 1e-5


def test_students_of_more_calls_and_consistency_functions_have_their_own_reason(tmp_path):
    pipelines.pixels(tmp_path / "teacher", classes=0)
    teacher = load(str(tmp_path / "teacher"))
    consistency = ConsistencyDenoiser(teacher)
    for student, words in (
        (FewStep(teacher, [2.5, 0.5]), "pipelines know whole times"),
        (
            FewStep(consistency, [2.5, 0.5], floor=consistency.sigma_min),
            "is a consistency function",
        ),
        (OneStep(consistency), "is a consistency function about its denoiser"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            to_diffusers(student.eval(), tmp_path / "out", teacher.origin)
        assert "not of diffusers" not in str(caught.value)


# ---------------------------------------------------------------- cards


METRICS = [
    {"name": "frechet", "value": 3.25, "error": 0.125, "n": 5000, "features": "some features"},
    {"name": "recall", "value": 0.5, "error": None, "n": 500},
]
ABOUT = card.About(
    "digits", "A method", {"metrics": METRICS}, {}, "@x{y}", None, "my digits/train"
)


def images(classes=0):
    network = UNet(1, widths=(8, 16), depth=1, classes=classes)
    return OneStep(
        PreconditionedDenoiser(
            network,
            shape=(1, 8, 8),
            sigma_data=0.5,
            sigma_min=0.02,
            sigma_max=20.0,
            conditions=("label",) if classes else (),
        )
    )


def points():
    network = MLP((2,), (2,), width=8, depth=1)
    return Pushforward(network, latent_shape=(2,), shape=(2,))


def latents(folder):
    pipelines.stable(folder)
    teacher = load(str(folder))
    return OneStep.like(teacher), teacher.origin


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        *itertools.product(["images", "points"], ["onnx", "safetensors"]),
        *(pytest.param(kind, "onnx", marks=pytest.mark.slow) for kind in ("classes", "latents")),
        ("classes", "safetensors"),
        ("latents", "safetensors"),
    ],
)
def test_the_hub_reads_the_card_and_its_lines_run_to_a_picture(tmp_path, monkeypatch, to, kind):
    origin = None
    if kind == "latents":
        student, origin = latents(tmp_path / "teacher")
    else:
        student = {"images": images, "classes": lambda: images(10), "points": points}[kind]()
    done = export(student, to, tmp_path / "out", origin=origin, about=ABOUT)
    read = ModelCard.load(done.folder / "README.md")
    results = read.data.eval_results
    assert [(r.metric_type, r.metric_value) for r in results] == [
        ("frechet", 3.25),
        ("recall", 0.5),
    ]
    assert {(r.dataset_name, r.dataset_type) for r in results} == {
        ("my digits/train", "my-digits-train")
    }
    assert read.data.library_name == {"onnx": "onnx", "safetensors": "vardiu"}[to]
    (code,) = re.findall(r"```python\n(.*?)```", read.content, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    code = code.replace("FOLDER", str(done.folder)).replace("TEACHER", str(tmp_path / "teacher"))
    exec(compile(code, "card", "exec"), {})
    picture = Image.open(tmp_path / "samples.png")
    size = {"images": (32, 8), "classes": (32, 8), "latents": (64, 16)}
    assert kind == "points" or picture.size == size[kind]


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("to", ["diffusers", "onnx", "safetensors"])
def test_the_lines_of_a_card_run_of_a_student_of_few_classes(tmp_path, monkeypatch, to, classes):
    """A fourth class was asked for of any student."""
    pipelines.pixels(tmp_path / "teacher", classes=classes)
    teacher = load(str(tmp_path / "teacher"))
    done = export(OneStep.like(teacher), to, tmp_path / "out", origin=teacher.origin, about=ABOUT)
    run_card(done.folder, tmp_path, monkeypatch)
    assert Image.open(tmp_path / "samples.png").size == ((8, 8) if to == "diffusers" else (32, 8))


@pytest.mark.parametrize("to", ["onnx", "safetensors"])
def test_the_classes_of_a_student_of_no_teacher_are_those_of_its_network(
    tmp_path, monkeypatch, to
):
    done = export(images(2), to, tmp_path / "out", about=ABOUT)
    assert "arange(4) % 2" in run_card(done.folder, tmp_path, monkeypatch)


@pytest.mark.parametrize("to", ["safetensors", "onnx"])
def test_the_lines_of_a_card_run_of_a_teacher_of_fp16_alone(tmp_path, monkeypatch, to):
    """Its autoencoder was asked for by a name that its folder has no file of."""
    whole = pipelines.stable(tmp_path / "whole")
    whole.to(torch.float16).save_pretrained(tmp_path / "teacher", variant="fp16")
    teacher = load(str(tmp_path / "teacher"))
    kept = KeptTeacher.of(teacher, 2, (3, 16, 16), (), teacher.origin.encode(["one"]))
    for origin in (teacher.origin, kept.origin(lambda: teacher.origin)):
        done = export(OneStep.like(teacher), to, tmp_path / "out", origin=origin, about=ABOUT)
        code = run_card(done.folder, tmp_path, monkeypatch)
        assert code.count('variant="fp16", torch_dtype=torch.float32') == 2
        assert Image.open(tmp_path / "samples.png").size == (64, 16)
        shutil.rmtree(done.folder)


@pytest.mark.parametrize("make", [pipelines.stable, pipelines.pixart])
def test_the_lines_of_a_card_make_what_a_student_is_told_of_a_prompt(tmp_path, monkeypatch, make):
    """They told it ones."""
    make(tmp_path / "teacher")
    teacher = load(str(tmp_path / "teacher"))
    student, origin = OneStep.like(teacher), teacher.origin
    done = export(student, "safetensors", tmp_path / "out", origin=origin, about=ABOUT)
    scope = {}
    run_card(done.folder, tmp_path, monkeypatch, scope)
    for name, value in origin.encode(["a prompt"] * 4).items():
        torch.testing.assert_close(scope[name], value)


@pytest.mark.parametrize("calls", [1, 2])
def test_the_lines_of_an_adapters_card_draw_the_students_samples(tmp_path, monkeypatch, calls):
    """They began with a `network` that nothing made."""
    pipelines.pixels(tmp_path / "teacher", "v_prediction", classes=2)
    teacher = load(str(tmp_path / "teacher"))
    inner = adapt(teacher, 2)
    adapted = OneStep(inner) if calls == 1 else FewStep.on_grid(inner, calls, None, "ddim")
    pipelines.stir(adapters(adapted)[0])
    save_adapter(adapters(adapted)[0], tmp_path / "adapter")
    origin, student = with_adapter(teacher.origin, tmp_path / "adapter"), merge(adapted).eval()
    done = export(student, "lora", tmp_path / "out", origin=origin, about=ABOUT)
    scope = {}
    run_card(done.folder, tmp_path, monkeypatch, scope)
    assert Image.open(tmp_path / "samples.png").size == (32, 8)
    z = torch.randn(4, *student.latent_shape)
    cond = {"label": torch.arange(4) % 2}
    torch.testing.assert_close(scope["student"](z, **cond), student(z, **cond))


def run_card(folder, place, monkeypatch, scope=None):
    """Runs the lines of a card, as somebody who fills in its two folders; returns them."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(place)
    code = code.replace("FOLDER", str(folder)).replace("TEACHER", str(place / "teacher"))
    exec(compile(code, "card", "exec"), {} if scope is None else scope)
    return code


def test_the_lines_of_a_pipelines_card_run(tmp_path, monkeypatch):
    pipelines.pixels(tmp_path / "teacher")
    teacher = load(str(tmp_path / "teacher"))
    student = OneStep.like(teacher)
    done = export(student, "diffusers", tmp_path / "out", origin=teacher.origin, about=ABOUT)
    read = ModelCard.load(done.folder / "README.md")
    assert read.data.library_name == "diffusers"
    (code,) = re.findall(r"```python\n(.*?)```", read.content, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("FOLDER", str(done.folder)), "card", "exec"), {})
    assert Image.open(tmp_path / "samples.png").size == (8, 8)
    assert set(EXPORTS) == {"diffusers", "onnx", "safetensors", "lora"}
    shutil.rmtree(done.folder)
