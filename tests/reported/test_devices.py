"""A student is used on the device that the command line names, with the latents of any other."""

from __future__ import annotations

import pytest
import torch

from vardiu.cli.main import main
from vardiu.denoisers.base import Denoiser, place_of
from vardiu.denoisers.exact import MixtureDenoiser
from vardiu.errors import NotADenoiser
from vardiu.nn import MLP
from vardiu.problems.sampled_teachers import SampledTeacher
from vardiu.students.base import Generator
from vardiu.students.few_step import FewStep, OneStep
from vardiu.students.pushforward import Pushforward
from vardiu.teachers.probe import measured


def words(command, run):
    extra = {"export": ["--to", "safetensors"], "probe": []}.get(command, ["--num", "100"])
    return [command, "mog40" if command == "probe" else str(run), *extra]


@pytest.mark.parametrize("command", ["sample", "evaluate", "export", "probe"])
def test_a_device_that_is_not_here_is_refused_in_one_line(
    small_run, refused, command, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    before = sorted(small_run.rglob("*"))
    line = refused(*words(command, small_run), "--device", "gpu")
    assert "--device gpu: there is no GPU here" in line
    line = refused(*words(command, small_run), "--device", "nonsense")
    assert "--device nonsense cannot be used here: there is no such device; take auto," in line
    assert sorted(small_run.rglob("*")) == before
    line = refused(*words(command, small_run), "--device", "hpu")
    assert "--device hpu cannot be used here: " in line and len(line) < 120
    assert main([*words(command, small_run), "--device", "cpu"]) == 0


def meta(name, rounded=False):
    assert name == "cuda"
    return torch.device("meta")


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_a_student_and_its_teacher_are_moved_there(small_run, command, monkeypatch):
    """The device meta stands for a GPU: it is another one, and holds no numbers."""
    places = []

    def sample(self, n, **options):
        assert options["generator"].device.type == "cpu"
        if n > 1:  # one sample, before it is moved, tells whether it can be used at all
            places.append(place_of(self).type)
        return torch.randn(n, *self.shape)

    monkeypatch.setattr("vardiu.cli.folders.device_of", meta)
    monkeypatch.setattr(Generator, "sample", sample)
    assert main([*words(command, small_run), "--device", "cuda"]) == 0
    assert set(places) == {"meta"}


def test_a_probe_asks_the_teacher_there(here, monkeypatch):
    places = []

    def checked(teacher, x, cond, resample):
        places.append((place_of(teacher).type, x.device.type))
        raise NotADenoiser("enough")

    monkeypatch.setattr("vardiu.cli.probe.device_of", meta)
    monkeypatch.setattr("vardiu.cli.probe.checked", checked)
    assert main(["probe", "mog40", "--device", "cuda"]) == 2
    assert places == [("meta", "cpu")]


class There(Denoiser):
    """Denoises samples of unit variance about zero; its tensors are on the device meta."""

    def __init__(self):
        super().__init__()
        self.shape, self.sigma_min, self.sigma_max = (2,), 0.1, 10.0
        self.register_buffer("weight", torch.empty(1, device="meta"))
        self.inputs = []

    def forward(self, x_t, sigma, **cond):
        assert {t.device.type for t in (x_t, sigma, *cond.values())} == {"meta"}
        self.inputs.append(tuple(x_t.shape))
        return torch.zeros(x_t.shape)  # a device that computes gives its numbers back


def test_the_teachers_inputs_go_to_where_it_is_and_its_outputs_come_back(monkeypatch):
    teacher, x = There(), torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    rows = measured(teacher, x, {"label": torch.zeros(64, dtype=torch.long)}, levels=3)
    assert teacher.inputs == [(64, 2)] * 3
    assert rows[0].error == pytest.approx(float(x.square().mean()))
    one = torch.ones(1)
    levels = {"sigma_min": 0.1, "sigma_max": 10.0}
    sampled = SampledTeacher(MixtureDenoiser(torch.zeros(1, 2), one, one, **levels))
    sampled.device, seen = torch.device("meta"), []

    def solved(self, x, generator, **cond):
        seen.extend(t.device.type for t in (x, *cond.values()))
        return torch.zeros(x.shape)

    monkeypatch.setattr("vardiu.problems.sampled_teachers.Heun.__call__", solved)
    assert sampled.solve_from(torch.zeros(3, 2), {"label": torch.zeros(3)}, 2).shape == (3, 2)
    assert seen == ["meta", "meta"]


def students():
    one, levels = torch.ones(1), {"sigma_min": 0.1, "sigma_max": 10.0}
    teacher = MixtureDenoiser(torch.zeros(1, 2), one, one, **levels)
    network = MLP((2,), (2,), width=4, depth=1)
    pushforward = Pushforward(network, latent_shape=(2,), shape=(2,))
    return [OneStep(teacher), FewStep(teacher, [2.5, 0.5]), pushforward]


@pytest.mark.parametrize("student", students(), ids=lambda s: type(s).__name__)
def test_latents_of_a_seed_are_the_same_on_every_device(student, monkeypatch):
    """They are drawn on the CPU, whose generator it is, and moved."""
    drawn, randn = [], torch.randn

    def spied(*size, **options):
        drawn.append(randn(*size, **options))
        return drawn[-1]

    monkeypatch.setattr(torch, "randn", spied)
    student.register_parameter("dummy", torch.nn.Parameter(torch.zeros(1)))
    here = student.latent(5, torch.Generator().manual_seed(3))
    there = student.to("meta").latent(5, torch.Generator().manual_seed(3))
    half = len(drawn) // 2
    assert here.device.type == "cpu" and there.device.type == "meta" and half
    assert here.shape == there.shape
    for a, b in zip(drawn[:half], drawn[half:], strict=True):
        assert a.device.type == b.device.type == "cpu" and torch.equal(a, b)
