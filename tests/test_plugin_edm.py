"""Published pickles as teachers: their preconditionings, their weights, and back to disk."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pickled
import pytest
import torch

from vardiu import models
from vardiu.data.digits import digits
from vardiu.denoisers.adapted import AdaptedDenoiser
from vardiu.denoisers.edm_schedules import IDDPMLevels, VELevels, VPLevels
from vardiu.denoisers.guidance import Guided
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.errors import ConfigError, NotADenoiser
from vardiu.export import in_single_precision
from vardiu.export.onnx import to_onnx
from vardiu.nn import DhariwalUNet, EDM2UNet, SongUNet
from vardiu.problems.images import ImageProblem
from vardiu.settings.fields import ImageSettings
from vardiu.students.few_step import OneStep
from vardiu.teachers import edm
from vardiu.teachers.edm_records import Refused
from vardiu.teachers.probe import probe

SMALL = {"label_dim": 4, "num_blocks": 1, "attn_resolutions": [4], "channel_mult": [1, 1]}
NCSN = {"embedding_type": "fourier", "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}


def song(**options):
    return SongUNet(8, 2, 2, **(SMALL | {"model_channels": 8, "augment_dim": 9} | options))


CASES = {
    "EDMPrecond": song,
    "VPPrecond": song,
    "VEPrecond": lambda: song(**NCSN),
    "iDDPMPrecond": lambda: DhariwalUNet(8, 2, 4, **SMALL, model_channels=64),
    "Precond": lambda: EDM2UNet(8, 2, **SMALL, model_channels=64),
}


def made(name, path, **options):
    """Writes a network with weights that do something; returns it and what was read."""
    network = CASES[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    network.eval()
    buffers = {"u": IDDPMLevels().u} if name == "iDDPMPrecond" else {}
    item = pickled.preconditioned(name, network, buffers=buffers, img_channels=2, **options)
    return network, edm.load(pickled.write(path / "a.pkl", {"ema": item}))


def formula(name, network, x, sigma, label):
    """Table 1 of EDM, by hand, row by row."""
    rows = []
    for x_t, s, k in zip(x, sigma.tolist(), label, strict=True):
        if name in ("EDMPrecond", "Precond"):
            total = s**2 + 0.25
            skip, out = 0.25 / total, s * 0.5 / math.sqrt(total)
            inner, noise = 1 / math.sqrt(total), math.log(s) / 4
        elif name == "VEPrecond":
            skip, out, inner, noise = 1, s, 1, math.log(s / 2)
        else:
            skip, out, inner = 1, -s, 1 / math.sqrt(1 + s**2)
            if name == "VPPrecond":
                time = (math.sqrt(0.1**2 + 2 * 19.9 * math.log(1 + s**2)) - 0.1) / 19.9
                noise = 999 * time
            else:
                u = IDDPMLevels().u.tolist()
                noise = 999 - min(range(1001), key=lambda j: abs(u[j] - s))
        f = network(inner * x_t[None], torch.tensor([float(noise)]), k[None])[0, :2]
        rows.append(skip * x_t + out * f)
    return torch.stack(rows)


@pytest.mark.parametrize("name", CASES)
def test_a_pickle_is_its_papers_formula(name, tmp_path):
    network, denoiser = made(name, tmp_path)
    assert "torch_utils.persistence" not in sys.modules and "dnnlib" not in sys.modules
    x, sigma = torch.randn(5, 2, 8, 8), torch.tensor([0.01, 0.3, 1.0, 7.0, 60.0])
    label = torch.tensor([0, 1, 2, 3, 4])  # the last: no class
    with torch.no_grad():
        wanted = formula(name, network, x, sigma, label)
        found = denoiser(x, sigma, label=label)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found, denoiser(x, sigma, label=label.flip(0)), atol=1e-5)
    assert denoiser.shape == (2, 8, 8) and denoiser.conditions == ("label",)
    assert denoiser.sigma_min <= 0.02 and 80 <= denoiser.sigma_max < 153
    assert not denoiser.training


@pytest.mark.parametrize("name", CASES)
def test_what_was_read_is_written_and_read_bit_for_bit(name, tmp_path):
    torch.set_default_dtype(torch.float32)
    _, denoiser = made(name, tmp_path)
    models.save(denoiser, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.json", "model.safetensors"}
    again = models.load(tmp_path / "out")
    before, after = denoiser.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    x, sigma, label = torch.randn(2, 2, 8, 8), torch.tensor([0.5, 9.0]), torch.tensor([1, 4])
    with torch.no_grad():
        assert torch.equal(denoiser(x, sigma, label=label), again(x, sigma, label=label))
    for attribute in ("shape", "conditions", "sigma_min", "sigma_max"):
        assert getattr(denoiser, attribute) == getattr(again, attribute)


def test_training_only_parts_do_nothing(tmp_path):
    """Dropout, label dropout and augmentation: the same numbers in training mode, twice."""
    network = song()
    item = pickled.preconditioned("EDMPrecond", network, img_channels=2)
    inner = item.meta["state"]["_modules"]["model"].meta["state"]["_init_kwargs"]
    inner |= {"label_dropout": 0.5, "dropout": 0.9}
    denoiser = edm.load(pickled.write(tmp_path / "a.pkl", {"ema": item}))
    torch.nn.init.normal_(denoiser.network.dec["8x8_aux_conv"].weight)
    x, sigma, label = torch.randn(2, 2, 8, 8), torch.ones(2), torch.tensor([1, 2])
    wanted = denoiser(x, sigma, label=label)
    for _ in range(2):
        assert torch.equal(denoiser.train()(x, sigma, label=label), wanted)
    denoiser.network.map_augment.weight.fill_(1e3)
    assert torch.equal(denoiser(x, sigma, label=label), wanted)
    assert all(p.grad is not None for p in trained(denoiser, x, sigma, label))


def trained(denoiser, x, sigma, label):
    denoiser(x, sigma, label=label).sum().backward()
    return list(denoiser.parameters())


def test_half_weights_are_widened_exactly(tmp_path):
    torch.set_default_dtype(torch.float32)
    network, denoiser = made("Precond", tmp_path, half=True)
    ours = denoiser.network.state_dict()
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}
    assert all(torch.equal(ours[k], v.float()) for k, v in network.state_dict().items())
    assert not any("logvar" in name for name in denoiser.state_dict())


@pytest.mark.parametrize("name", ["EDMPrecond", "VPPrecond"])
def test_a_student_starts_from_it(name, tmp_path):
    _, denoiser = made(name, tmp_path)
    student = OneStep.like(denoiser, 40.0).eval()
    z, label = torch.randn(2, 2, 8, 8), torch.tensor([0, 3])
    # Where the input keeps its variance, noise alone is the network's own input.
    coordinates = getattr(denoiser, "coordinates", None)
    scale = 40.0 if coordinates is None or coordinates.exploding else math.sqrt(1 + 40.0**2)
    wanted = denoiser(scale * z, torch.full((2,), 40.0), label=label)
    assert torch.allclose(student(z, label=label), wanted, rtol=1e-4, atol=1e-4 * scale)


# -- Levels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [VELevels, VPLevels, IDDPMLevels])
def test_levels_are_monotone_and_invert(cls):
    levels = cls()
    ends = torch.tensor([levels.sigma_min, levels.sigma_max]).log()
    sigma = torch.linspace(*ends.tolist(), 400).exp()
    told = levels.time(sigma)
    steps = told.diff()
    if cls is IDDPMLevels:
        sigma = levels.u[1:-1]
        told = levels.time(sigma)
        assert torch.equal(told, torch.arange(998, -1, -1).to(told))
        steps = levels.time(sigma.flip(0)).diff()
    assert (steps > 0).all()
    torch.testing.assert_close(levels.inverse(told), sigma, rtol=1e-9, atol=0)


def test_ranges_are_the_papers():
    """VP: sigma(1e-5) to sigma(1), 152; iDDPM: u_0 is 20,291, and u_8 is near 80."""
    assert VPLevels().sigma_max == pytest.approx(math.sqrt(math.expm1(9.95 + 0.1)), rel=1e-12)
    assert VPLevels().sigma_min == pytest.approx(1e-3, rel=1e-3)
    levels = IDDPMLevels()
    assert levels.u[0] == pytest.approx(20291, rel=1e-4)
    assert levels.sigma_max == pytest.approx(80.2, abs=0.05) == levels.u[8].item()
    assert levels.sigma_min == levels.u[999].item() and levels.u[1000] == 0


@pytest.mark.parametrize("cls", [VELevels, VPLevels, IDDPMLevels])
def test_the_exact_noise_gives_the_exact_denoiser(cls):
    """Of data of variance v the noise is sigma x_t / (v + sigma^2) on expectation, and the
    denoiser v x_t / (v + sigma^2): signs and scales are right only then."""
    levels, v = cls(), 0.36

    class Exact(torch.nn.Module):
        def forward(self, x, c_noise):
            sigma = levels.inverse(c_noise)[:, None]
            x_t = x if cls is VELevels else (1 + sigma.square()).sqrt() * x
            noise = sigma * x_t / (v + sigma.square())
            return -noise if cls is VELevels else noise

    denoiser = AdaptedDenoiser(Exact(), levels, prediction=levels.prediction, shape=(3,))
    sigma = levels.u[[20, 400, 900]] if cls is IDDPMLevels else torch.tensor([0.05, 1.0, 70.0])
    x_t = torch.randn(3, 3)
    wanted = v * x_t / (v + sigma.square()[:, None])
    torch.testing.assert_close(denoiser(x_t, sigma), wanted, rtol=1e-8, atol=1e-8)


# -- What does not fit -----------------------------------------------------------------------


def broken(tmp_path, change, name="EDMPrecond"):
    item = pickled.preconditioned(name, CASES[name](), img_channels=2)
    inner = next(iter(item.meta["state"]["_modules"].values())).meta
    change(item.meta, inner, inner["state"]["_modules"])
    return pickled.write(tmp_path / "a.pkl", {"ema": item})


def test_a_missing_an_unknown_and_a_wrong_tensor_are_named(tmp_path):
    def change(outer, inner, parts):
        del parts["map_layer0"].meta["state"]["_parameters"]["weight"]
        parts["map_layer1"].meta["state"]["_parameters"]["weight"] = torch.zeros(3, 3)
        parts["map_layer1"].meta["state"]["_parameters"]["extra"] = torch.zeros(7)

    match = (
        r"(?s)a\.pkl does not fit.*1 missing: map_layer0\.weight \(32, 8\).*"
        r"1 unknown: map_layer1\.extra \(7,\).*"
        r"1 of another shape: map_layer1\.weight \(3, 3\), expected \(32, 32\)"
    )
    with pytest.raises(ConfigError, match=match):
        edm.load(broken(tmp_path, change))


def test_other_classes_and_arguments_are_named(tmp_path):
    def rename(outer, inner, parts):
        outer["class_name"] = "MyPrecond"

    def rename_inner(outer, inner, parts):
        inner["class_name"] = "MyUNet"

    def argue(outer, inner, parts):
        inner["state"]["_init_kwargs"]["tricks"] = 1

    def positional(outer, inner, parts):
        inner["state"]["_init_args"] = (8,)

    def mistype(outer, inner, parts):
        inner["state"]["_init_kwargs"]["channel_mult"] = 3

    def magic(outer, inner, parts):
        inner["state"]["_init_kwargs"]["encoder_type"] = "magic"

    def shapeless(outer, inner, parts):
        del outer["state"]["_init_kwargs"]["img_channels"]

    for change, match in (
        (rename, "of the class MyPrecond, expected one of EDMPrecond, Precond"),
        (rename_inner, "must hold one of the networks .* it holds model: MyUNet"),
        (argue, "unexpected keyword argument 'tricks'; known are img_resolution"),
        (positional, "arguments without names"),
        (mistype, "arguments of SongUNet"),
        (magic, r"a\.pkl does not fit: encoder_type must be one of"),
        (shapeless, "no argument 'img_channels'"),
    ):
        with pytest.raises(ConfigError, match=match):
            edm.load(broken(tmp_path, change))
    path = pickled.write(tmp_path / "a.pkl", {"net": pickled.preconditioned("Precond", CASES["Precond"]())})  # fmt: skip
    with pytest.raises(Refused, match="holds no network 'ema'"):
        edm.load(path)
    assert isinstance(edm.load(path, key="net"), PreconditionedDenoiser)


def test_pickles_are_known_by_their_name():
    assert edm.matches(Path("a/edm-cifar10.pkl")) and not edm.matches(Path("a/model.json"))


# -- A teacher -------------------------------------------------------------------------------


def makes_a_student(folder):
    """The file by the command's own way: guided, to a student of one call."""
    settings = ImageSettings(
        teacher=str(folder / "digits.pkl"), data="digits", guidance=1.5, reference=300, sigma=40.0
    )
    problem = ImageProblem(settings)
    assert problem.space.classes == 10 and isinstance(problem.teacher, Guided)
    student = problem.networks.student()
    assert student.conditions == ("label",) and not isinstance(student.denoiser, Guided)
    return student


@pytest.mark.slow
def test_a_student_of_a_pickle_is_one_graph(tmp_path):
    torch.set_default_dtype(torch.float32)
    item = pickled.preconditioned(
        "EDMPrecond", network_of_digits(), img_channels=1, sigma_data=0.75
    )
    pickled.write(tmp_path / "digits.pkl", {"ema": item})
    student = makes_a_student(tmp_path)
    assert to_onnx(in_single_precision(student), tmp_path / "graph") < 1e-4


def network_of_digits():
    return SongUNet(
        8, 1, 1, label_dim=10, model_channels=16, channel_mult=[1], num_blocks=1,
        attn_resolutions=[],
    )  # fmt: skip


def test_a_teacher_of_digits_is_accepted(tmp_path):
    """Trained for seconds, written as the published ones, read, and asked for its errors."""
    torch.set_default_dtype(torch.float32)
    x, label = digits()
    network = network_of_digits()
    teacher = PreconditionedDenoiser(
        network, shape=(1, 8, 8), sigma_data=0.75, sigma_min=0.002, sigma_max=80.0,
        conditions=("label",),
    )  # fmt: skip
    adam = torch.optim.Adam(teacher.parameters(), 4e-3)
    for _ in range(150):
        rows = torch.randint(len(x), (64,))
        sigma = (1.2 * torch.randn(64) - 0.5).exp()
        noisy = x[rows] + sigma[:, None, None, None] * torch.randn(64, 1, 8, 8)
        weight = (sigma.square() + 0.75**2) / (sigma * 0.75).square()
        error = (teacher(noisy, sigma, label=label[rows]) - x[rows]).square().mean((1, 2, 3))
        adam.zero_grad()
        (weight * error).mean().backward()
        adam.step()
    item = pickled.preconditioned("EDMPrecond", network, img_channels=1, sigma_data=0.75)
    loaded = edm.load(pickled.write(tmp_path / "digits.pkl", {"ema": item}))
    rows = probe(loaded, x[:200], {"label": label[:200]})
    makes_a_student(tmp_path)
    middle = next(row for row in rows if row.sigma > 0.3)
    assert (
        middle.error + 5 * middle.deviation < middle.linear
    )  # it learnt more than any linear map can
    with torch.no_grad():
        loaded.network.map_layer1.weight.mul_(-1.0)
        loaded.network.dec["8x8_aux_conv"].weight.mul_(-1.0)
    with pytest.raises(NotADenoiser):
        probe(loaded, x[:200], {"label": label[:200]})
