"""What is saved is what is loaded, and nothing is executed."""

from __future__ import annotations

import json

import pytest
import torch
from cases import denoiser, framed, student

from vardiu import models
from vardiu.denoisers.adapted import AdaptedDenoiser
from vardiu.denoisers.consistency import ConsistencyDenoiser
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.denoisers.schedules import Flow
from vardiu.nn import MLP, Precision, UNet
from vardiu.students.few_step import FewStep, OneStep
from vardiu.students.pushforward import Pushforward


def unet() -> OneStep:
    network = Precision(UNet(1, widths=(8, 16), depth=1, classes=3, embedding=16), "bfloat16")
    inner = PreconditionedDenoiser(
        network,
        shape=(1, 8, 8),
        sigma_data=0.7,
        sigma_min=0.1,
        sigma_max=9.0,
        mean=-0.4,
        conditions=("label",),
    )
    return OneStep(inner, 7.0)


def from_noise() -> FewStep:
    network = MLP((2,), (2,), width=8, depth=1, noisy=True)
    inner = AdaptedDenoiser(network, Flow(terminal=True), prediction="flow", shape=(2,))
    return FewStep(inner, [float("inf"), 2.0])


MODELS = {
    "one_step": lambda: OneStep(denoiser(), 4.0),
    "few_step": lambda: FewStep(denoiser(), [4.0, 1.0]),
    "consistency": lambda: FewStep(ConsistencyDenoiser(denoiser()), [4.0, 1.0], floor=0.1),
    "few_step_ddim": lambda: FewStep(denoiser(), [4.0, 1.0, 0.5], "ddim"),
    "few_step_from_noise": from_noise,
    "pushforward": lambda: student(2),
    "fourier": lambda: Pushforward(
        MLP((2,), (2,), width=8, depth=1, fourier=3),
        latent_shape=(2,),
        shape=(2,),
        mean=torch.tensor([1.0, 2.0]),
    ),
    "codes": lambda: Pushforward(
        MLP((2,), (2,), width=8, depth=1, codes=5), latent_shape=(2,), shape=(2,)
    ),
    "framed": lambda: framed().generator,
    "unet": unet,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_generator_makes_the_same_samples(name, tmp_path):
    torch.set_default_dtype(torch.float32)
    model = MODELS[name]().float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    models.save(model, tmp_path, {"note": "x"})
    loaded = models.load(tmp_path)
    cond = {"label": torch.arange(6) % 2} if model.conditions else {}
    a, b = (
        m.sample(6, generator=torch.Generator().manual_seed(0), **cond) for m in (model, loaded)
    )
    assert torch.equal(a, b) and not loaded.training
    assert {p.name for p in tmp_path.iterdir()} == {"model.json", "model.safetensors"}


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model: model.json is missing"):
        models.load(tmp_path)
    models.save(student(), tmp_path)
    path = tmp_path / "model.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"model": good["model"] | {"kind": "pushforwrd"}}))
    with pytest.raises(
        ValueError, match="unknown kind of network 'pushforwrd'; did you mean push"
    ):
        models.load(tmp_path)
    path.write_text(json.dumps(good | {"format": 9}))
    with pytest.raises(ValueError, match="must be of format 2, got 9"):
        models.load(tmp_path)
    wider = good["model"] | {"network": good["model"]["network"] | {"width": 9}}
    path.write_text(json.dumps(good | {"model": wider}))
    with pytest.raises(ValueError, match="do not fit model.json"):
        models.load(tmp_path)
    with pytest.raises(TypeError, match="a Linear cannot be saved"):
        models.save(torch.nn.Linear(2, 2), tmp_path / "x")
