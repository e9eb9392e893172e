"""Generators, averages, streams, the probe."""

from __future__ import annotations

import math

import pytest
import torch
from cases import denoiser, student
from problems import LinearGaussian, mixture_teacher

from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.errors import NotADenoiser
from vardiu.nn import MLP
from vardiu.students.few_step import FewStep, OneStep
from vardiu.teachers.probe import probe
from vardiu.training.ema import Average
from vardiu.training.streams import Streams


def test_one_step_is_one_call_at_one_level():
    inner = denoiser()
    generator = OneStep(inner, 4.0)
    z = torch.randn(5, 2)
    torch.testing.assert_close(generator(z), inner(4 * z, torch.full((5,), 4.0)))


def test_a_student_like_its_teacher_starts_from_its_weights_and_leaves_them_alone():
    teacher = denoiser()
    generator = OneStep.like(teacher)
    before = [p.clone() for p in teacher.parameters()]
    for parameter in generator.parameters():
        assert parameter.requires_grad
        parameter.data.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    with pytest.raises(TypeError, match="MixtureDenoiser has no weights"):
        OneStep.like(mixture_teacher())
    with pytest.raises(ValueError, match="sigma must be finite and within"):
        OneStep(teacher, 99.0)


def test_few_steps_renoise_between_calls():
    inner = denoiser()
    generator = FewStep(inner, [4.0, 1.0])
    z = torch.randn(3, 2, 2)
    first = inner(4 * z[:, 0], torch.full((3,), 4.0))
    wanted = inner(first + z[:, 1], torch.ones(3))
    torch.testing.assert_close(generator(z), wanted)
    assert generator.calls == 2
    with pytest.raises(ValueError, match="sigmas must decrease"):
        FewStep(inner, [1.0, 2.0])


def test_sampling_in_batches_changes_nothing():
    generator = student(2)
    label = torch.arange(10) % 2
    a, b = (
        generator.sample(10, generator=torch.Generator().manual_seed(0), batch=n, label=label)
        for n in (10, 3)
    )
    torch.testing.assert_close(a, b)
    assert generator.training
    with pytest.raises(ValueError, match=r"conditions must be \['label'\], got \[\]"):
        generator.sample(3)
    with pytest.raises(ValueError, match="label must have 3 rows, got 10"):
        generator.sample(3, label=label)
    with pytest.raises(ValueError, match="n must be at least 1"):
        generator.sample(0, label=label)


def test_average_is_the_exponential_one_in_samples():
    module = torch.nn.Linear(2, 1)
    average = Average(module, halflife=100.0, ramp=1e9)
    wanted = module.weight.detach().clone()
    for _ in range(5):
        module.weight.data.add_(torch.randn_like(module.weight))
        average.update(module, 50)
        beta = 0.5 ** (50 / 100)
        wanted = beta * wanted + (1 - beta) * module.weight.detach()
    torch.testing.assert_close(average.module.weight.data, wanted)
    # The half-life does not change with the batch: ten updates of ten are one of a hundred.
    one, ten = (Average(torch.nn.Linear(2, 1), 100.0, ramp=1e9) for _ in range(2))
    ten.module.load_state_dict(one.module.state_dict())
    one.update(module, 100)
    for _ in range(10):
        ten.update(module, 10)
    torch.testing.assert_close(one.module.weight, ten.module.weight)
    with pytest.raises(ValueError, match="halflife must be at least 0"):
        Average(module, -1.0)


def test_streams_are_independent_and_restored():
    streams = Streams(3)
    a = streams.normal("a", 4, (2,))
    state = streams.state_dict()
    after = streams.normal("a", 4, (2,)), streams.uniform("b", 3)
    other = Streams(99)
    other.load_state_dict(state)
    assert torch.equal(other.normal("a", 4, (2,)), after[0])
    fresh = Streams(3)
    assert torch.equal(fresh.uniform("b", 3), after[1])  # whatever "a" drew before
    assert torch.equal(fresh.normal("a", 4, (2,)), a)
    assert not torch.equal(Streams(4).normal("a", 4, (2,)), a)


def test_two_processes_share_the_draws_of_one():
    whole = Streams(0).normal("z", 6, (3,))
    parts = [Streams(0, rank=r, world=2).normal("z", 3, (3,)) for r in (0, 1)]
    assert torch.equal(torch.cat(parts), whole)


def test_ambient_stream_leaves_torchs_own_generator_alone():
    torch.manual_seed(5)
    wanted = torch.randn(3)
    torch.manual_seed(5)
    streams = Streams(0)
    with streams.torch_seeded("particle"):
        inside = torch.randn(3)
    assert torch.equal(torch.randn(3), wanted)
    with Streams(0).torch_seeded("particle"):
        assert torch.equal(torch.randn(3), inside)


class Wrong(Denoiser):
    """A teacher that is wrong in a given way."""

    shape, sigma_min, sigma_max = (3,), 0.1, 10.0

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x_t, sigma, **cond):
        return self.function(x_t, sigma[:, None])


torch.set_default_dtype(torch.float64)
RIGHT = LinearGaussian().teacher
torch.set_default_dtype(torch.float32)
WRONG = {
    "noise": lambda x, s: (x - RIGHT(x, s[:, 0])) / s,
    "score": lambda x, s: (RIGHT(x, s[:, 0]) - x) / s**2,
    "identity": lambda x, s: x,
    "zero": lambda x, s: 0 * x,
    "scaled": lambda x, s: 3 * RIGHT(x, s[:, 0]),
    "level": lambda x, s: RIGHT(x, 0.2 * s[:, 0]),
}


def data(n=2000):
    problem = LinearGaussian()
    return problem.mean + torch.randn(n, 3) @ torch.linalg.cholesky(problem.covariance).T


@pytest.mark.parametrize("name", WRONG)
def test_probe_refuses_what_does_not_denoise(name):
    with pytest.raises(NotADenoiser, match="does not denoise: at sigma="):
        probe(Wrong(WRONG[name]), data())


def test_probe_accepts_an_exact_teacher_and_measures_its_error():
    problem = LinearGaussian()
    for row in probe(problem.teacher, data(20_000)):
        # The probe's levels are float64; its row's sigma is the level that was used.
        values = torch.linalg.eigvalsh(problem.covariance)
        wanted = (values * row.sigma**2 / (values + row.sigma**2)).mean().item()
        assert abs(row.error - wanted) < 5 * row.deviation


def test_probe_names_other_faults():
    with pytest.raises(NotADenoiser, match="not finite, at sigma="):
        probe(Wrong(lambda x, s: x * math.nan), data())
    with pytest.raises(NotADenoiser, match="must return the shape of its input"):
        probe(Wrong(lambda x, s: x[:, :2]), data())
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        probe(GaussianDenoiser(torch.zeros(3), torch.ones(3)), data())


def test_networks_refuse_what_they_do_not_take():
    with pytest.raises(ValueError, match="a noise level must be given where"):
        MLP((2,), (2,), noisy=True)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="a label must be given where"):
        MLP((2,), (2,), classes=3)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"features have shape \(256,\)"):
        MLP((2,), (2,), final=False)
