"""A student's folder: its weights are hashed, its description is checked, own code is named."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from fuzz import fuzz
from safetensors.torch import load_file, save_file

import vardiu
from vardiu import models, teachers
from vardiu.errors import CheckpointError, ConfigError
from vardiu.nn import MLP, Precision
from vardiu.storage.code import load_code
from vardiu.students.few_step import FewStep, OneStep
from vardiu.students.pushforward import Pushforward

OWN = """
import torch
import vardiu


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x, sigma, **cond):
        return self.layer(x)


def make():
    net = Net()
    return vardiu.AdaptedDenoiser(
        net, vardiu.teachers.functions.Flow(1.0), prediction="flow", shape=(2,)
    )


def made_by_function():
    return vardiu.FunctionDenoiser(Net(), shape=(2,), sigma_min=0.1, sigma_max=9.0)


def network():
    return Net()
"""


@pytest.fixture
def saved(here) -> Path:
    network = MLP((2,), (2,), width=8, depth=1)
    models.save(Pushforward(network, latent_shape=(2,), shape=(2,)), here / "student", {"a": 1})
    return here / "student"


def test_one_flipped_bit_of_the_weights_is_refused_by_name_and_with_the_cure(saved):
    models.load(saved)
    path = saved / "model.safetensors"
    good = path.read_bytes()
    for at in (9, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[at] ^= 1
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"model.safetensors was changed since it was"):
            models.load(saved)
    path.write_bytes(good[:-4])
    with pytest.raises(CheckpointError, match="take a copy that is whole, or make the model"):
        models.load(saved)
    path.write_bytes(good)
    models.load(saved)


def test_damaged_descriptions_are_refused_by_name(saved):
    path = saved / "model.json"
    assert fuzz(path, lambda p: models.load(p.parent), good=path.read_bytes(), n=250) > 100
    assert models.about_of(saved) == {"a": 1}
    fuzz(path, lambda p: models.about_of(p.parent), good=path.read_bytes(), n=60)


def test_damaged_weights_whose_hash_was_made_to_fit_are_refused_by_name(saved):
    from vardiu.storage.checkpoints import digest_of_file

    description = json.loads((saved / "model.json").read_text())

    def read(path):
        forged = {**description, "weights": digest_of_file(path)}
        (saved / "model.json").write_text(json.dumps(forged))
        return models.load(saved)

    path = saved / "model.safetensors"
    assert fuzz(path, read, good=path.read_bytes(), n=120, name="model.json") > 60


def test_weights_that_are_not_finite_are_refused_whoever_wrote_them(saved):
    module = models.load(saved)
    with torch.no_grad():
        next(module.parameters())[0] = torch.nan
    models.save(module, saved)
    with pytest.raises(ConfigError, match=r"student, which model.json describes, hold \d+ values"):
        models.load(saved)


@pytest.mark.parametrize("dtype", ["__doc__", "float8_e4m3fn", "int64", "load", 5])
def test_a_description_names_no_attribute_of_torch_but_types(here, dtype):
    network = Precision(MLP((2,), (2,), width=8, depth=1), "bfloat16")
    models.save(Pushforward(network, latent_shape=(2,), shape=(2,)), here / "student")
    path = here / "student" / "model.json"
    description = json.loads(path.read_text())
    description["model"]["network"]["dtype"] = dtype
    path.write_text(json.dumps(description))
    with pytest.raises(ConfigError, match="model.json .*compute in auto, bfloat16, float16"):
        models.load(here / "student")


@pytest.mark.parametrize("size", [2**17, 2**40, 10**30])
def test_a_description_of_a_huge_network_is_refused_before_it_is_filled(saved, size):
    path = saved / "model.json"
    description = json.loads(path.read_text())
    description["model"]["network"]["width"] = size
    path.write_text(json.dumps(description))
    with pytest.raises(ConfigError, match="model.json"):
        models.load(saved)


@pytest.mark.parametrize("name", ["make", "made_by_function"])
@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_a_student_on_own_code_is_weights_a_reference_and_a_hash(here, name, precision):
    (here / "mine.py").write_text(OWN)
    teacher = teachers.load(f"mine.py:{name}")
    inner = teacher.trainable_copy()
    if precision is not None:
        inner.network = Precision(inner.network, precision)
    student = OneStep(inner, 5.0).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.normal_()
    models.save(student, here / "student")
    description = json.loads((here / "student/model.json").read_text())["model"]["denoiser"]
    sha256 = load_code("mine.py:network").sha256
    assert description["kind"] == "own_code" and description["sha256"] == sha256
    assert description["source"] == f"mine.py:{name}"

    with pytest.raises(ConfigError, match=f"model.json names own code, mine.py:{name}.*--network"):
        models.load(here / "student")
    loaded = models.load(here / "student", [load_code(f"mine.py:{name}")])
    z = torch.randn(5, 2)
    assert torch.equal(loaded(z), student(z))
    models.save(loaded, here / "again")  # what was read is saved again, as an export does
    assert (here / "again/model.json").read_text() == (here / "student/model.json").read_text()

    moved = here / "elsewhere" / "other.py"
    moved.parent.mkdir()
    moved.write_text(OWN)
    assert torch.equal(models.load(here / "student", [load_code(f"{moved}:{name}")])(z), loaded(z))
    with pytest.raises(ConfigError, match="makes a Net, and .*model.json holds a "):
        models.load(here / "student", [load_code("mine.py:network")])
    moved.write_text(f"{OWN}\n# changed\n")
    changed = load_code(f"{moved}:{name}")
    with pytest.raises(ConfigError, match="was changed since .*--accept-changed-code"):
        models.load(here / "student", [changed])
    again = models.load(here / "student", [changed], accept_changed=True)
    assert torch.equal(again(z), loaded(z))


def test_a_folder_names_no_code_to_execute(here, saved):
    description = json.loads((saved / "model.json").read_text())
    (here / "evil.py").write_text("from pathlib import Path\nPath('mark').touch()\n")
    for own in ("evil.py:f", "os:abort", "evil:f"):
        own_code = {"kind": "own_code", "source": own, "sha256": "0" * 64, "class": "X"}
        for model in (own_code, {**description["model"], "network": own_code}):
            (saved / "model.json").write_text(json.dumps({**description, "model": model}))
            with pytest.raises(ConfigError, match=f"repeat --network {own}"):
                models.load(saved)
    for kind in ("os.abort", "torch.nn.Linear", ["mlp"], None, 3):
        model = {**description["model"], "kind": kind}
        (saved / "model.json").write_text(json.dumps({**description, "model": model}))
        with pytest.raises(ConfigError, match="unknown kind of network"):
            models.load(saved)
    assert not Path("mark").exists()


def test_a_few_step_student_keeps_its_own_code_and_other_modules_say_what_can_be_saved(here):
    (here / "mine.py").write_text(OWN)
    student = FewStep.on_grid(teachers.load("mine.py:make").trainable_copy(), 3, 2.0)
    models.save(student, here / "student")
    loaded = models.load(here / "student", [load_code("mine.py:make")])
    assert loaded.calls == 3
    denoiser = vardiu.FunctionDenoiser(
        torch.nn.Identity(), shape=(2,), sigma_min=0.1, sigma_max=2.0
    )
    with pytest.raises(TypeError, match="own code that was loaded by name"):
        models.save(denoiser, here / "x")
    assert not (here / "x" / "model.json").exists()
    assert copy.deepcopy(loaded).denoiser.own_code is loaded.denoiser.own_code


def test_weights_of_other_names_do_not_fit(saved):
    from vardiu.storage.checkpoints import digest_of_file

    tensors = load_file(saved / "model.safetensors")
    save_file({f"{name}x": value for name, value in tensors.items()}, saved / "model.safetensors")
    description = json.loads((saved / "model.json").read_text())
    description["weights"] = digest_of_file(saved / "model.safetensors")
    (saved / "model.json").write_text(json.dumps(description))
    with pytest.raises(ConfigError, match="do not fit model.json") as error:
        models.load(saved)
    assert "\n" not in str(error.value)
