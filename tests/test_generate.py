"""Generators, averages, streams, the probe."""

from __future__ import annotations

import math

import pytest
import torch
from cases import denoiser, student
from problems import LinearGaussian, mixture_teacher

from vardiu.denoisers.adapted import AdaptedDenoiser
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import karras_grid
from vardiu.denoisers.schedules import Flow
from vardiu.errors import NotADenoiser
from vardiu.nn import MLP
from vardiu.samplers.trajectories import trajectory
from vardiu.students.few_step import FewStep, OneStep
from vardiu.students.flow_map import FlowMap
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


def test_a_student_on_edms_grid_has_no_call_at_the_smallest_level():
    student = FewStep.on_grid(denoiser(), 3)
    assert student.sigmas == pytest.approx(karras_grid(4, 0.1, 8.0)[:3].tolist())
    assert FewStep.on_grid(denoiser(), 1, 4.0).sigmas == [4.0]


@pytest.mark.parametrize("rule", ["renoise", "ddim"])
def test_what_a_call_is_shown_is_what_the_calls_before_it_make(rule):
    student = FewStep(flowing(), [9.0, 4.0, 1.0], rule)
    z = torch.randn(5, *student.latent_shape)
    for state in student.states(z):
        shown = student.simulated(state.index, z)
        assert not shown.requires_grad
        torch.testing.assert_close(student.call(state.index, shown), state.denoised)


def test_the_one_call_of_a_student_is_shown_its_latent():
    plain, z = OneStep(denoiser(), 4.0), torch.randn(5, 2)
    assert plain.simulated(0, z) is z and torch.equal(plain.call(0, z), plain(z))


@pytest.mark.parametrize("kind", ["renoise", "ddim", "flow map"])
def test_a_guide_is_shown_what_a_student_makes_between_two_levels(kind):
    passages = []

    class Adding:
        differentiates = False

        def __call__(self, passage):
            passages.append(passage)
            return passage.x_next + 0.5

    levels = [9.0, 4.0, 1.0]
    if kind == "flow map":
        student = FlowMap.of(denoiser(), 3, 8.0)
        levels = student.sigmas
    else:
        floor = 0.5 if kind == "renoise" else 0.0
        student = FewStep(flowing(), levels, kind, floor)
    z = torch.randn(5, *student.latent_shape)
    plain, moved = list(student.states(z)), list(student.states(z, Adding()))
    assert [passage.index for passage in passages] == [0, 1]
    for i, passage in enumerate(passages):
        assert torch.equal(passage.x, moved[i].x_t)
        assert torch.equal(passage.denoised, moved[i].denoised)
        assert passage.sigma.tolist() == pytest.approx(5 * [levels[i]])
        assert passage.target.tolist() == pytest.approx(5 * [levels[i + 1]])
        torch.testing.assert_close(moved[i + 1].x_t, passage.x_next + 0.5)
        assert passage.floor == (0.5 if kind == "renoise" else 0.0)
    torch.testing.assert_close(passages[0].x_next, plain[1].x_t)


class Scaled(torch.nn.Module):
    """A network with one weight, that is told a time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x, time):
        return self.weight * x


def flowing(prediction="flow"):
    return AdaptedDenoiser(Scaled(), Flow(terminal=True), prediction=prediction, shape=(2,))


@pytest.mark.parametrize("rule", ["renoise", "ddim"])
def test_a_few_steps_start_from_noise_alone(rule):
    """Velocity w x: at infinity D = (1 - w) z, then x = (1 - w s) x_s, x_s = x_t / (1 + sigma)."""
    student = FewStep(flowing(), [math.inf, 1.0], rule)
    z = torch.randn(5, *student.latent_shape)
    first, then = (z[:, 0], z[:, 1]) if rule == "renoise" else (z, z)
    wanted = (1 - 0.3 / 2) * (0.7 * first + 1.0 * then) / 2
    torch.testing.assert_close(student(z), wanted)
    a, b = student.states(z)
    assert torch.equal(a.x_t, first) and a.sigma == math.inf
    torch.testing.assert_close(b.x_t, 0.7 * first + then)
    assert student.arguments == {"sigmas": ["inf", 1.0], "rule": rule, "floor": 0.0}
    again = FewStep(flowing(), **student.arguments)
    assert torch.equal(again(z), student(z))


def test_at_a_finite_level_a_network_of_other_coordinates_is_shown_the_latent():
    """Its own input is z, which is z / alpha in ours: a deterministic step goes on from there."""
    student, z = FewStep(flowing(), [9.0, 1.0], "ddim"), torch.randn(4, 2)
    first = z - 0.3 * 0.9 * z
    a, b = student.states(z)
    torch.testing.assert_close(a.denoised, first)
    torch.testing.assert_close(a.x_t, 10.0 * z)
    torch.testing.assert_close(student.denoiser(a.x_t, torch.full((4,), 9.0)), first)
    torch.testing.assert_close(b.x_t, first + (10.0 * z - first) / 9)


def test_levels_out_of_range_and_unknown_rules_are_refused():
    for sigmas, place in (([99.0, 1.0], 0), ([4.0, 0.01], 1), ([math.inf, 1.0], 0)):
        with pytest.raises(ValueError, match=rf"sigmas\[{place}\] must be finite and within"):
            FewStep(denoiser(), sigmas)
    with pytest.raises(ValueError, match=r"sigmas\[0\] must be finite"):
        FewStep(flowing("epsilon"), [math.inf, 1.0])  # of noise alone it says nothing
    with pytest.raises(ValueError, match="sigmas must decrease"):
        FewStep(denoiser(), [math.nan, 1.0])
    with pytest.raises(ValueError, match="unknown rule 'dimm'; did you mean ddim"):
        FewStep(denoiser(), [4.0, 1.0], "dimm")
    with pytest.raises(ValueError, match="needs the latent of the next level"):
        student = FewStep(denoiser(), [4.0, 1.0])
        student.advance(0, torch.zeros(1, 2), torch.zeros(1, 2))


V, LOW, HIGH = 0.7, 0.1, 20.0


class Line(Denoiser):
    """A denoiser that is a factor of each level."""

    shape, sigma_min, sigma_max = (1,), LOW, HIGH

    def __init__(self, factor) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x_t, sigma, **cond):
        return self.factor(sigma)[:, None] * x_t


def spread_of(student):
    """Samples are linear in the latent: the variance is the sum of squared derivatives."""
    z = torch.zeros(1, *student.latent_shape, requires_grad=True)
    (gradient,) = torch.autograd.grad(student(z).sum(), z)
    return gradient.square().sum().item()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_exact_consistency_function_keeps_its_variance_and_a_denoiser_contracts(n):
    """f maps N(0, v + s^2) to N(0, v + low^2); noise is added up to sqrt(s^2 - low^2)."""
    sigmas = torch.logspace(1.2, -0.3, 5)[:n]

    # The student's own level s is that of the noise it adds; f is told the level that makes.
    consistent = Line(lambda s: ((V + LOW**2) / (V + LOW**2 + s.square())).sqrt())
    start = sigmas[0].item() ** 2
    # The first state is noise alone: it lacks the variance of the data.
    first = (V + LOW**2) * start / (V + LOW**2 + start)
    variance = first
    for s in sigmas[1:].tolist():
        variance = (V + LOW**2) * (variance + s**2) / (V + LOW**2 + s**2)
    assert spread_of(FewStep(consistent, sigmas.tolist())) == pytest.approx(variance)
    # What lacks at the start is forgotten: each call multiplies it by its factor squared.
    lack = V + LOW**2 - first
    for s in sigmas[1:].tolist():
        lack *= (V + LOW**2) / (V + LOW**2 + s**2)
    assert variance == pytest.approx(V + LOW**2 - lack)

    plain = Line(lambda s: V / (V + s.square()))
    variance = 0.0
    for s in sigmas.tolist():
        variance = (V / (V + s**2)) ** 2 * (variance + s**2)
    assert spread_of(FewStep(plain, sigmas.tolist())) == pytest.approx(variance)
    assert variance < V


@pytest.mark.parametrize("n", [1, 2, 5])
def test_samples_of_the_data_keep_their_variance_through_renoising(n):
    """As above, from a first state that has the variance of data and noise: it stays."""
    sigmas = torch.logspace(1.2, -0.3, 5)[:n].tolist()
    student = FewStep(Line(lambda s: ((V + LOW**2) / (V + LOW**2 + s**2)).sqrt()), sigmas)
    one = torch.ones(1, 1)
    variance = V + LOW**2
    for index, sigma in enumerate(sigmas):
        if index:
            kept = student.advance(index - 1, one, one, 0 * one).item() ** 2
            fresh = student.advance(index - 1, one, 0 * one, one).item() ** 2
            variance = kept * variance + fresh
        else:
            variance += sigma**2
        # At the first level the state is a latent, which is multiplied by the level.
        factor = student.call(index, one).item() / (sigma if index == 0 else 1)
        variance *= factor**2
        assert variance == pytest.approx(V + LOW**2)


def test_one_renoised_call_of_the_denoiser_contracts_as_known():
    """At alpha = 1/2 the variance 0.7 becomes a v with a = v / (v + sigma^2): 0.132."""
    sigma = math.sqrt(0.75) / 0.5
    student = FewStep(Line(lambda s: V / (V + s.square())), [9.0, sigma])
    one = torch.ones(1, 1)
    state = student.advance(0, one, one, 0 * one), student.advance(0, one, 0 * one, one)
    kept, fresh = (student.call(1, part).item() ** 2 for part in state)
    a = V / (V + sigma**2)
    assert kept * V + fresh == pytest.approx(a * V)
    assert a * V == pytest.approx(0.132, abs=5e-4)


def test_the_deterministic_rule_is_the_samplers_trajectory():
    teacher = GaussianDenoiser(torch.randn(3), torch.rand(3), sigma_min=0.05, sigma_max=30.0)
    sigmas, z = [30.0, 4.0, 1.0, 0.05], torch.randn(6, 3)
    student = FewStep(teacher, sigmas, "ddim")
    grid = torch.tensor([*sigmas, 0.0])
    states = list(trajectory(teacher, 30.0 * z, grid))
    for mine, wanted in zip(student.states(z), states, strict=False):
        torch.testing.assert_close(mine.x_t, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(student(z), states[-1], rtol=1e-12, atol=1e-12)
    assert student.latent_shape == (3,) and student.calls == 4


def test_a_generator_says_how_its_input_is_drawn():
    class Doubled(FewStep):
        def latent(self, n, generator=None):
            return 2 * super().latent(n, generator)

    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    student = Doubled(denoiser(), [4.0, 1.0])
    wanted = student(2 * FewStep.latent(student, 5, draws[0]))
    torch.testing.assert_close(student.sample(5, generator=draws[1]), wanted)


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
