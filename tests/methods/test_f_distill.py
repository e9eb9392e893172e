"""f-distill against closed forms of two Gaussians, by quadrature in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from cases import denoiser, is_noised, mixture_teacher, student
from problems import standard_error

from vardiu.data.batch import Batch
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.errors import ConfigError
from vardiu.functional.divergences import DIVERGENCES
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.methods.f_distill import METHOD, FDistill, divergence
from vardiu.problems.toy import ToyProblem
from vardiu.students.affine import Affine, AffineDenoiser, AffineRatio
from vardiu.training.stage import Context

RANGE = {"sigma_min": 0.01, "sigma_max": 10.0}
GRID = torch.linspace(-14.0, 14.0, 28001, dtype=torch.float64)
# A student N(.8, .9^2) of a teacher N(-.5, 1.1^2), both at the noise .9.
M, S, MU, SIGMA_P, SIGMA = 0.8, 0.9, -0.5, 1.1, 0.9
NAMES = sorted(DIVERGENCES)


def log_normal(mean, variance):
    return -0.5 * ((GRID - mean) ** 2 / variance + torch.log(2 * math.pi * variance))


def both(m, s, sigma=SIGMA):
    """The log-densities of the teacher's noisy samples and the student's."""
    m, s, sigma = (torch.as_tensor(v, dtype=torch.float64) for v in (m, s, sigma))
    teacher = log_normal(torch.tensor(MU).double(), torch.tensor(SIGMA_P**2).double() + sigma**2)
    return teacher, log_normal(m, s**2 + sigma**2)


def value(name, m, s, sigma=SIGMA):
    p, q = both(m, s, sigma)
    return torch.trapezoid(q.exp() * DIVERGENCES[name].f(p - q), GRID)


def gradient_of_value(name):
    m, s = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (M, S))
    return [g.item() for g in torch.autograd.grad(value(name, m, s), (m, s))]


def weighted_direction(weight):
    """The mean of h(r) (score q - score p) times dx/dm = 1, and E[z | x_t] for dx/ds."""
    p, q = both(M, S)
    vq, vp = S**2 + SIGMA**2, SIGMA_P**2 + SIGMA**2
    direction = weight(p - q) * (-(GRID - M) / vq + (GRID - MU) / vp) * q.exp()
    z = S * (GRID - M) / vq
    return [float(torch.trapezoid(direction * each, GRID)) for each in (1.0 + 0 * z, z)]


# By the mean and by the standard deviation. The reverse divergence's are what a stub gives that
# forgets the weight.
DECIMALS = {
    "reverse_kl": (0.643564, -0.110011),
    "forward_kl": (0.802469, -0.716735),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_the_divergence_is_the_weighted_direction(name):
    wanted = gradient_of_value(name)
    found = weighted_direction(DIVERGENCES[name].weight)
    assert found == pytest.approx(wanted, abs=1e-8)
    if name in DECIMALS:
        assert found == pytest.approx(DECIMALS[name], abs=1e-6)
    if name != "reverse_kl":
        stub = weighted_direction(torch.ones_like)
        assert max(abs(a - b) for a, b in zip(stub, wanted, strict=True)) > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_the_weight_is_the_second_derivative_times_the_squared_ratio(name):
    r = torch.linspace(0.05, 8.0, 200, dtype=torch.float64, requires_grad=True)
    chosen = DIVERGENCES[name]
    (first,) = torch.autograd.grad(chosen.f(r.log()).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    torch.testing.assert_close(chosen.weight(r.log()), second * r**2, rtol=1e-9, atol=1e-10)
    one = torch.zeros(1, dtype=torch.float64)
    assert chosen.f(one).abs() < 1e-12 and bool((second > 0).all())


def test_divergences_of_gaussians_have_their_closed_forms():
    vq, vp = S**2 + SIGMA**2, SIGMA_P**2 + SIGMA**2
    gap = (M - MU) ** 2
    reverse = 0.5 * (math.log(vp / vq) + (vq + gap) / vp - 1)
    forward = 0.5 * (math.log(vq / vp) + (vp + gap) / vq - 1)
    assert value("reverse_kl", M, S).item() == pytest.approx(reverse, abs=1e-9)
    assert value("forward_kl", M, S).item() == pytest.approx(forward, abs=1e-9)
    assert value("jeffreys", M, S).item() == pytest.approx(reverse + forward, abs=1e-9)
    affinity = math.sqrt(2 * math.sqrt(vp * vq) / (vp + vq)) * math.exp(-gap / 4 / (vp + vq))
    assert value("hellinger", M, S).item() == pytest.approx(2 - 2 * affinity, abs=1e-9)
    p, q = (d.exp() for d in both(M, S))
    middle = (p + q) / 2

    def kl(a, b):
        return float(torch.trapezoid(a * (a / b).log(), GRID))

    shannon = value("jensen_shannon", M, S).item()
    assert shannon == pytest.approx((kl(p, middle) + kl(q, middle)) / 2, abs=1e-9)
    softened = value("softened_reverse_kl", M, S).item()
    assert softened == pytest.approx(2 * kl(middle, p), abs=1e-9)
    softened = value("softened_forward_kl", M, S).item()
    assert softened == pytest.approx(2 * kl(middle, q), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_divergence_is_the_integral_over_noise_of_the_weighted_squared_score_gap(name):
    """Uni-Instruct's: between two levels it falls by sigma E[h(r) |score gap|^2]."""
    low, high = 0.6, 1.4
    nodes = torch.linspace(low, high, 201, dtype=torch.float64)
    rates = []
    for sigma in nodes:
        p, q = both(M, S, sigma)
        gap = -(GRID - M) / (S**2 + sigma**2) + (GRID - MU) / (SIGMA_P**2 + sigma**2)
        rate = q.exp() * DIVERGENCES[name].weight(p - q) * gap.square()
        rates.append(sigma * torch.trapezoid(rate, GRID))
    fallen = value(name, M, S, low) - value(name, M, S, high)
    assert fallen.item() == pytest.approx(
        torch.trapezoid(torch.stack(rates), nodes).item(), rel=1e-4
    )


@pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon", "forward_kl"])
def test_the_objective_has_this_gradient(name):
    """With the exact fake and ratio, within five standard errors."""
    generator = Affine(torch.tensor([[S]]), torch.tensor([M]))
    teacher = GaussianDenoiser(torch.tensor([MU]), torch.tensor([[SIGMA_P**2]]), **RANGE)
    objective = FDistill(
        teacher,
        generator,
        AffineDenoiser(generator, **RANGE),
        None if name == "reverse_kl" else AffineRatio(generator, teacher),
        name=name,
        limit=1e6,
        levels=LogUniform(SIGMA, SIGMA * (1 + 1e-9)),
        weight=torch.ones_like,
    )
    sample = []
    for _ in range(300):
        loss = objective.student_loss(objective.prepare(Batch(256), 0), 0).value
        shift, matrix = torch.autograd.grad(loss, (generator.shift, generator.matrix))
        sample.append(torch.cat([shift, matrix[0]]))
    got, wanted = torch.stack(sample), torch.tensor(gradient_of_value(name))
    error = standard_error(got)
    assert bool((error < 0.03).all()), error
    assert bool(((got.mean(0) - wanted).abs() < 5 * error).all()), (got.mean(0), wanted)


def test_the_exact_ratio_is_that_of_the_densities():
    generator = Affine(torch.tensor([[S]]), torch.tensor([M]))
    teacher = GaussianDenoiser(torch.tensor([MU]), torch.tensor([[SIGMA_P**2]]), **RANGE)
    (found,) = AffineRatio(generator, teacher)(
        None, GRID[::1000, None], torch.full((29,), SIGMA, dtype=torch.float64)
    )
    p, q = both(M, S)
    torch.testing.assert_close(found, (p - q)[::1000])


class Constant(torch.nn.Module):
    """A discriminator that says one number of every row."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = torch.nn.Parameter(torch.tensor(logit))

    def forward(self, read, y_t, sigma, **cond):
        return [self.logit.expand(len(y_t)), self.logit.expand(len(y_t)) + 2]


@pytest.mark.parametrize("logit, ratio", [(0.5, math.exp(1.5)), (9.0, 20.0), (-9.0, 1 / 20)])
def test_directions_are_weighted_by_the_mean_logit_within_a_limit(logit, ratio):
    given = mixture_teacher(), student(), denoiser()
    plain = DiffInstruct(*given, levels=LogUniform(0.2, 5.0))
    other = FDistill(*given, Constant(logit), name="forward_kl", levels=LogUniform(0.2, 5.0))
    for each in (plain, other):
        each.streams.reset(0)
        with torch.no_grad():
            drawn = each.prepare(Batch(16), 0)
        each.zero_grad()
        each.student_loss(drawn, 0).value.backward()
        each.kept = [p.grad.clone() for p in each.generator.parameters()]
    for a, b in zip(plain.kept, other.kept, strict=True):
        torch.testing.assert_close(b, ratio * a, rtol=1e-6, atol=1e-9)


def test_the_classifier_raises_the_logits_of_data():
    objective = FDistill(
        mixture_teacher(), student(), denoiser(), Constant(0.3), levels=LogUniform(0.2, 5.0)
    )
    batch = Batch.of(torch.randn(8, 2))
    loss = objective.head_loss(objective.prepare(batch, 0), 0).value
    c = 0.3 + 1.0
    assert loss.item() == pytest.approx(math.log1p(math.exp(c)) + math.log1p(math.exp(-c)))

    class Sees(Constant):
        def forward(self, read, y_t, sigma, **cond):
            return [torch.where(y_t[:, 0] > 50, self.logit, -self.logit)]

    objective.head = Sees(3.0)
    far = Batch.of(torch.full((8, 2), 100.0))
    right = objective.head_loss(objective.prepare(far, 0), 0).value
    assert right.item() == pytest.approx(2 * math.log1p(math.exp(-3.0)))


def test_the_classifier_is_shown_noisy_data_and_noisy_samples():
    class Seen(Constant):
        def forward(self, read, y_t, sigma, **cond):
            shown.append((y_t.detach(), sigma))
            return super().forward(read, y_t, sigma)

    shown: list[tuple[torch.Tensor, torch.Tensor]] = []
    objective = FDistill(
        mixture_teacher(), student(), denoiser(), Seen(0.3), levels=LogUniform(0.2, 5.0)
    )
    batch = Batch.of(torch.randn(2_000, 2))
    with torch.no_grad():
        drawn = objective.prepare(batch, 0)
        objective.head_loss(drawn, 0)
    (generated, s), (real, t) = shown
    assert is_noised(generated, drawn.x, s) and is_noised(real, batch.clean(), t)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"divergence": "total_variation"}, "has no finite weight f''.*kink at r = 1"),
        ({"divergence": "jensen_shanon"}, "unknown divergence 'jensen_shanon'; did you mean"),
        ({"limit": 1.0}, "limit must be above 1, got 1"),
        ({"limit": math.nan}, "limit must be a finite number"),
    ],
)
def test_bad_settings_are_refused_in_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        METHOD.settings(**changes)
    assert "\n" not in str(error.value)


def test_a_ratio_goes_with_every_divergence_but_the_reverse_one():
    given = mixture_teacher(), student(), denoiser()
    for head, name in ((None, "forward_kl"), (Constant(0.0), "reverse_kl")):
        with pytest.raises(ValueError, match="every divergence but the reverse one"):
            FDistill(*given, head, name=name, levels=LogUniform(0.2, 5.0))
    with pytest.raises(ConfigError, match="no finite weight"):
        divergence("Total-Variation")
    settings = replace(METHOD.examples["f-distill"].settings, critic="fake", taps="middle.0")
    with pytest.raises(ConfigError, match="unknown tap 'middle.0'"):
        next(METHOD.recipe(ToyProblem(), settings, Context()))


@pytest.mark.parametrize("reads", ["teacher", "fake"])
def test_the_ratio_is_read_off_the_network_that_is_named(reads):
    given = mixture_teacher(), student(), denoiser(), Constant(0.3)
    objective = FDistill(*given, levels=LogUniform(0.2, 5.0), reads=reads)
    assert objective.read() is getattr(objective, reads)
