"""FreeFlow against closed forms: of Gaussians of variance 1/4, where the flow map is linear."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import denoiser, is_noised
from torch import Tensor, nn

from vardiu.data.batch import Batch
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.ends import told_ends
from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.levels import Levels, LogUniform, karras_grid
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.errors import ConfigError
from vardiu.functional.derivatives import difference, forward
from vardiu.methods.freeflow import METHOD, FreeFlow, PathRegression, Settings, recipe
from vardiu.methods.freeflow.start import Asked
from vardiu.nn import Precision, UNet
from vardiu.problems.toy import ToyProblem
from vardiu.samplers.pairs import teacher_pairs
from vardiu.samplers.trajectories import trajectory
from vardiu.settings.fields import PairSettings
from vardiu.students.flow_map import FlowMap
from vardiu.training.stage import Context, Trained

V, TOP = 0.25, 80.0


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def exact(t: Tensor, s: Tensor) -> Tensor:
    """G of N(0, V) per unit of x_t: the state is x_t sqrt((V + s^2) / (V + t^2))."""
    moved = ((V + s**2) / (V + t**2)).sqrt()
    return (moved - s / t) / (1 - s / t)


class Stub(Denoiser):
    """A function G = f(t, s) x_t of the levels in place of a network; s from its feature."""

    def __init__(self, f, shape=(1,), top=TOP) -> None:
        super().__init__()
        self.f, self.shape = f, shape
        self.sigma_min, self.sigma_max = 1e-4, top
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x_t: Tensor, sigma: Tensor, *, end: Tensor, **cond: Tensor) -> Tensor:
        s = ((4 * end).exp() - 1e-4 * self.sigma_max).clamp_min(0)  # the feature's own offset
        return self.f(sigma, s)[:, None] * x_t + 0 * self.unused


def teacher() -> GaussianDenoiser:
    return GaussianDenoiser(torch.zeros(1), V * torch.eye(1), sigma_min=1e-4, sigma_max=TOP)


def objective(f, **options) -> FreeFlow:
    levels = options.pop("levels", LogUniform(1e-2, TOP))
    options = {"correction": 0.0, "below": 0.0, "adaptive": 0.0, **options}
    return FreeFlow(
        teacher(),
        FlowMap(Stub(f), [TOP]),
        options.pop("fake", None),
        levels=levels,
        noise_levels=options.pop("noise_levels", levels),
        **options,
    )


# G* of z = 1, x_T = 80, with T = 80.
@pytest.mark.parametrize(
    "s, wanted",
    [(0.0, 0.4999902), (0.1, 0.4104050), (0.5, 0.2083954), (1.0, 0.1195060), (2.0, 0.0630898),
     (79.999999, 0.0031249)],
)  # fmt: skip
def test_the_exact_answer_has_the_known_decimals(s, wanted):
    t, s = torch.tensor([TOP]), torch.tensor([s])
    flow = FlowMap(Stub(exact), [TOP])
    assert abs(float(flow.answer(flow.start(torch.ones(1, 1)), t, s)) - wanted) < 1e-7


@pytest.mark.parametrize("top, std", [(80.0, 0.4999902), (10.0, 0.4993762), (3.0, 0.4931970)])
def test_the_deviation_that_a_finite_start_leaves(top, std):
    assert abs(float(FlowMap(Stub(exact, top=top), [top])(torch.ones(1, 1))) - std) < 1e-7


@pytest.mark.parametrize(
    "delta, state, velocity",
    [
        (0.25, 0.7603453, -0.9586187),
        (0.5, 0.5590170, -0.8819660),
        (0.75, 0.4506939, -0.7324081),
        (1.0, 0.5, -0.5),
    ],
)
def test_the_exact_map_in_flow_coordinates(delta, state, velocity):
    """f* = rho z and F* = (rho - 1) / delta z, of noise of a level far away."""
    far, z = 1e6, torch.ones(1, 1)
    flow = FlowMap(Stub(exact, top=far), [far])
    s = torch.tensor([(1 - delta) / delta])
    found = float(flow.move(flow.start(z), torch.tensor([far]), s) / (1 + s))
    assert found == pytest.approx(state, abs=2e-6)
    assert (found - 1) / delta == pytest.approx(velocity, abs=5e-6)


@pytest.mark.parametrize("steps, wanted", [(10, 0.4307826), (100, 0.4926455)])
def test_a_path_of_eulers_steps_falls_short_of_the_map(steps, wanted):
    """Even in flow time, where a step of DDIM is one of Euler."""
    t = torch.linspace(1 - 1e-9, 0, steps + 1)
    levels = t / (1 - t)
    *_, x = trajectory(GaussianDenoiser(torch.zeros(1), V * torch.eye(1), sigma_min=0.0,
                                        sigma_max=2e9), levels[0] * torch.ones(1, 1), levels)  # fmt: skip
    assert float(x) == pytest.approx(wanted, abs=1e-7)


# Of data at -2 and 2, each of deviation 0.25, the map of one dimension is the monotone one:
# latents, and where they are at delta 0.5 and 1.
MONOTONE = [
    (0.1, 0.294926, 1.648152),
    (0.5, 0.846743, 1.925548),
    (1.0, 1.244939, 2.118808),
    (2.0, 1.871080, 2.422536),
]


def monotone(z: Tensor, s: Tensor) -> Tensor:
    """Where latents are at levels, in flow coordinates: the quantiles of the noised data."""
    t, normal = s / (1 + s), torch.special.ndtr
    spread = ((1 - t) ** 2 * 0.0625 + t**2).sqrt()
    low, high = -10 * torch.ones_like(z), 10 * torch.ones_like(z)
    for _ in range(70):
        y = (low + high) / 2
        mass = (normal((y + 2 * (1 - t)) / spread) + normal((y - 2 * (1 - t)) / spread)) / 2
        low, high = torch.where(mass < normal(z), y, low), torch.where(mass < normal(z), high, y)
    return y


class Monotone(Stub):
    """The exact answer of two modes: the start is taken for noise alone."""

    def __init__(self, wrong: float, top: float) -> None:
        super().__init__(exact, top=top)
        self.wrong = wrong

    def forward(self, x_t: Tensor, sigma: Tensor, *, end: Tensor, **cond: Tensor) -> Tensor:
        s, t = ((4 * end).exp() - 1e-4 * self.sigma_max)[:, None], sigma[:, None]
        state = (1 + s) * monotone(x_t / t, s) * (1 + self.wrong * (1 - s / t))
        return (state - s / t * x_t) / (1 - s / t) + 0 * self.unused


@pytest.mark.parametrize("wrong", [0.0, 0.02])
def test_the_identity_holds_where_the_map_is_not_linear(wrong):
    z, far = torch.tensor([row[:1] for row in MONOTONE]), 1e6
    for column, level in ((1, 1.0), (2, 1e-12)):
        wanted = torch.tensor([row[column : column + 1] for row in MONOTONE])
        found = monotone(z, torch.full_like(z, level))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    teacher = MixtureDenoiser(torch.tensor([[-2.0], [2.0]]), 0.25, sigma_min=1e-4, sigma_max=far)
    levels = Listed(torch.tensor([1.0, 0.8, 2.0, 1.5]))
    found = FreeFlow(
        teacher,
        FlowMap(Monotone(wrong, far), [far]),
        levels=levels,
        noise_levels=levels,
        correction=0.0,
        below=0.0,
        derivative="difference",
    )
    error = float(found.predicted(z, {}, 0)[1].abs().max())
    assert error < 1e-3 if wrong == 0 else error > 1e-2


@pytest.mark.parametrize("below", [0.0, 0.5])
@pytest.mark.parametrize("derivative, slack", [("forward", 1e-8), ("difference", 2e-5)])
def test_the_velocity_of_the_exact_map_is_the_teachers(derivative, slack, below):
    f = objective(exact, derivative=derivative, below=below)
    _, error, t = f.predicted(torch.randn(64, 1), {}, 0)
    assert float(error.abs().max()) < slack
    assert abs(int((t < TOP).sum()) - 64 * below) <= 24 * below * 2  # six standard deviations
    # And sees a map that is off by a hundredth.
    g = objective(lambda t, s: 1.01 * exact(t, s), derivative=derivative, below=below)
    assert float(g.predicted(torch.randn(64, 1), {}, 0)[1].abs().max()) > 100 * slack


def test_lower_starts_are_the_students_samples_with_noise_of_their_level():
    f, z = objective(exact, below=0.5, levels=LogUniform(0.5, 5.0)), torch.randn(4_000, 1)
    x_t, t = f.starts(z, {}, 0)
    lower = t < TOP
    torch.testing.assert_close(x_t[~lower], f.flow.start(z)[~lower])
    noise = (x_t - f.flow(z))[lower] / t[lower, None]
    assert float(t[lower].max()) < 5.1 and abs(float(noise.std()) - 1) < 5 / (2 * 2_000) ** 0.5
    assert abs(float((noise * z[lower]).mean())) < 5 / 2_000**0.5  # fresh, not the latent


def rho(delta: Tensor) -> Tensor:
    return (delta**2 * V + (1 - delta) ** 2).sqrt()


# Of a map f(delta) = r(delta) z from noise in flow coordinates, T infinite: the rate of the stub's
# fixed point at delta 0.5 and 1.
STUBS = {
    "no derivative": (0.625, math.inf),
    "teacher at the noise": (0.4184246, 0.3068528),
    "the wrong tangent": (0.4761905, 0.4),
    "one step of Euler": (0.5, 0.0),
}


def stub_map(name: str, delta: Tensor) -> Tensor:
    r = rho(delta)
    return {
        "no derivative": r**2 / (1 - delta),
        "teacher at the noise": 1 + r.log(),
        "the wrong tangent": 2 * r**2 / (1 + r**2),
        "one step of Euler": 1 - delta,
    }[name]


@pytest.mark.parametrize("name", STUBS)
def test_maps_of_other_identities_are_seen_to_be_wrong(name):
    """The fixed points of what could be trained by mistake have another velocity than the
    teacher's where they are."""
    half = float(stub_map(name, torch.tensor(0.5)))
    assert abs(half - STUBS[name][0]) < 1e-6
    end = float(stub_map(name, torch.tensor(1.0 - 1e-12)))
    assert abs(end - STUBS[name][1]) < 1e-5 or (end > 1e9 and STUBS[name][1] == math.inf)

    def f(t: Tensor, s: Tensor) -> Tensor:
        # y = r z at time tau = s / (1 + s), with data of unit scale in the coordinates.
        tau = s / (1 + s)
        state = (1 + s) * stub_map(name, 1 - tau) / t
        return (state - s / t) / (1 - s / t)

    error = objective(f, levels=LogUniform(0.2, 5.0)).predicted(torch.ones(64, 1), {}, 0)[1]
    assert float(error.abs().mean()) > 0.05
    exact_error = objective(exact, levels=LogUniform(0.2, 5.0)).predicted(torch.ones(64, 1), {}, 0)
    assert float(exact_error[1].abs().max()) < 1e-8


def test_derivatives_agree_and_the_difference_has_the_stated_error():
    """At delta 0.6, where the mean velocity's derivative is known: by h^2 / 6 of the third."""

    def f(s: Tensor) -> Tensor:
        return s.log().sin()[:, None]

    s, tangent = torch.tensor([0.3, 2.0]), torch.tensor([0.7, -0.2])
    value, along = forward(f, s, tangent)
    torch.testing.assert_close(along[:, 0], tangent / s * s.log().cos())
    torch.testing.assert_close(value, f(s))
    for h in (0.1, 0.01):
        rough = difference(f, s, tangent, h)[1]
        # In ln s, of sin: the third derivative is -cos, and s (1 + h) is not s e^h: h^2 / 2 more.
        third, second = -s.log().cos(), -s.log().sin()
        bias = h**2 / 6 * (third - 3 * second + 2 * s.log().cos())
        torch.testing.assert_close(
            rough[:, 0] - along[:, 0], tangent / s * bias, rtol=4 * h, atol=1e-12
        )


class Fixed(Levels):
    def __init__(self, level: float) -> None:
        self.level = level

    def __call__(self, u: Tensor, step: int = 0) -> Tensor:
        return torch.full_like(u, self.level)


class Scale(Stub):
    """G = c z at all levels."""

    def __init__(self, c: float) -> None:
        super().__init__(lambda t, s: 1 / t)
        self.c = nn.Parameter(torch.tensor(c))

    def forward(self, x_t: Tensor, sigma: Tensor, *, end: Tensor, **cond: Tensor) -> Tensor:
        return self.c * super().forward(x_t, sigma, end=end)


class FakeOf(Denoiser):
    def __init__(self, c: float) -> None:
        super().__init__()
        self.c, self.shape, self.sigma_min, self.sigma_max = c, (1,), 1e-4, 1e3

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return x_t * (self.c**2 / (self.c**2 + sigma**2))[:, None]


def gauss(n: int = 60) -> tuple[Tensor, Tensor]:
    """Points of (0, 1), and weights under which means are those of uniform numbers."""
    x, w = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(n))
    return (x + 1) / 2, w / 2


def slopes(k: float) -> tuple[float, float]:
    """Of a student F = k z of one unit latent, the means of v_G - u over uniform flow times, and
    of (v_N - u) times the latent over uniform levels; from noise of a level far away."""
    far, (u, w) = 1e6, gauss()
    c = 1 + k

    def f(t: Tensor, s: Tensor) -> Tensor:
        # y = z + delta k z = (1 + delta k) z, and G = (y (1 + s) - s z) / (1 - s / T)
        return ((1 + (1 - s / (1 + s)) * k) * (1 + s) - s) / (1 - s / t) / t

    levels = Listed((1 - u) / u)
    found = FreeFlow(
        GaussianDenoiser(torch.zeros(1), V * torch.eye(1), sigma_min=1e-4, sigma_max=far),
        FlowMap(Stub(f, top=far), [far]),
        FakeOf(c),
        levels=levels,
        noise_levels=levels,
        correction=0.5,
        below=0.0,
        adaptive=0.0,
    )
    found.noise_like = lambda x, *role: torch.zeros_like(x)  # of a linear gap it has no part
    z = torch.ones(len(u), 1)
    error, gap = found.predicted(z, {}, 0)[1], found.corrected(z, {}, 0)[1]
    return float(w @ error[:, 0]), float(w @ gap[:, 0])


@pytest.mark.parametrize(
    "balance, wanted", [(0.0, 0.41400), (0.3, 0.42550), (1, 0.44351), (3, 0.46688), (10, 0.48656)]
)
def test_the_correction_repairs_a_student_that_is_not_told_its_end(balance, wanted):
    """F = k z at all ends: where the mean of the prediction, and so many times that of the
    correction, vanish; the deviation of the data is 0.5."""
    low, high = -1.0, 0.0
    for _ in range(20):
        k = (low + high) / 2
        prediction, correction = slopes(k)
        low, high = (k, high) if prediction + balance * correction < 0 else (low, k)
    assert 1 + k == pytest.approx(wanted, abs=1e-5)


def test_the_correction_over_uniform_times_and_where_it_holds_a_wrong_sign():
    assert slopes(-0.2)[1] == pytest.approx(0.22442, abs=1e-5)
    # With prediction c + lambda g(c) = 0.5: of a negative c there is a root from 4.73 on.
    signs = torch.linspace(-0.2, -0.05, 31)
    pulls = torch.tensor([slopes(float(c) - 1)[1] for c in signs])
    for balance, stuck in ((3.0, False), (4.72, False), (4.74, True), (10.0, True)):
        assert bool(((signs + balance * pulls) > 0.5).any()) == stuck


@pytest.mark.parametrize("r, wanted", [(0.25, 0.44413), (1.0, 0.30439), (4.0, 0.02308)])
def test_the_gradient_of_the_correction_is_the_closed_form(r, wanted):
    """Of a student c z with its own exact score: c r (1 + r) (c^2 - v) / ((c^2 + r^2) (v + r^2)),
    times 1 / tau(T) = (1 + T) / T."""
    c = 0.8
    assert abs(c * r * (1 + r) * (c**2 - V) / ((c**2 + r**2) * (V + r**2)) - wanted) < 1e-5
    found = FreeFlow(
        teacher(),
        FlowMap(Scale(c), [TOP]),
        FakeOf(c),
        levels=LogUniform(0.1, 1.0),
        noise_levels=Fixed(r),
        correction=1.0,
        below=0.0,
    )
    gradients = []
    for _ in range(40):
        loss = found.student_loss(found.prepare(Batch(4096), 0), 0)
        gradients.append(torch.autograd.grad(loss.value, found.generator.denoiser.c)[0])
    mean, error = torch.stack(gradients).mean(), torch.stack(gradients).std() / 40**0.5
    # Five standard errors, each a few thousandths of the value.
    assert abs(float(mean) - wanted * (1 + TOP) / TOP) < 5 * float(error) < 0.1 * wanted


@pytest.mark.parametrize("adaptive, balance", [(1.0, 1.0), (0.5, 0.3), (0.0, 3.0)])
def test_large_errors_weigh_less_and_both_directions_are_balanced(adaptive, balance):
    """The gradient of both terms together, by hand: w = (|v_G - u|^2 / d + 1e-3)^-k, and
    lambda = a E |w (v_G - u)| / E |v_N - u|."""
    made = FreeFlow(
        teacher(),
        FlowMap(Scale(0.9), [TOP]),
        FakeOf(0.7),
        levels=LogUniform(0.1, 5.0),
        noise_levels=LogUniform(0.1, 5.0),
        correction=0.25,
        balance=balance,
        adaptive=adaptive,
        below=0.0,
    )
    c = made.flow.denoiser.c
    with torch.no_grad():
        drawn = made.prepare(Batch(64), 0)
    made.streams.reset(3)
    (got,) = torch.autograd.grad(made.student_loss(drawn, 0).value, c)
    made.streams.reset(3)
    answer, error, _ = made.predicted(drawn.z[:48], {}, 0)
    x, gap, _ = made.corrected(drawn.z[48:], {}, 0)
    error, gap = error.detach(), gap.detach()
    weighted = error * (error.square().mean(1, keepdim=True) + 1e-3) ** -adaptive
    factor = balance * weighted.norm(dim=1).mean() / gap.norm(dim=1).mean()
    terms = 0.75 * (weighted * answer).mean(), 0.25 * factor * (gap * x).mean()
    (wanted,) = torch.autograd.grad(sum(terms) * (1 + TOP) / TOP, c)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=0)
    assert abs(float(got)) > 1e-3


def test_data_in_other_units_have_the_same_velocities_and_the_same_loss():
    found = {}
    for unit in (1.0, 3.0):
        top = unit * TOP

        def wrong(t: Tensor, s: Tensor, unit=unit) -> Tensor:
            return 1.01 * exact(t / unit, s / unit)

        levels = LogUniform(0.1 * unit, 5.0 * unit)
        made = FreeFlow(
            GaussianDenoiser(
                torch.zeros(1), unit**2 * V * torch.eye(1), sigma_min=1e-4 * unit, sigma_max=top
            ),
            FlowMap(Stub(wrong, top=top), [top]),
            FakeOf(0.7 * unit),
            levels=levels,
            noise_levels=levels,
            sigma_data=unit,
        )
        made.streams.reset(5)
        z = torch.linspace(-2, 2, 32)[:, None]
        error, gap = made.predicted(z, {}, 0)[1], made.corrected(z, {}, 0)[1]
        with torch.no_grad():
            drawn = made.prepare(Batch(32), 0)
        loss = made.student_loss(drawn, 0).value
        found[unit] = [
            part.detach() for part in (error, gap, loss, made.fake_loss(drawn, 0).value)
        ]
    for one, other in zip(found[1.0], found[3.0], strict=True):
        assert float(one.abs().max()) > 1e-4
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_the_correction_and_the_fake_see_noisy_samples_of_their_levels():
    class Seen(FakeOf):
        def forward(self, x_t, sigma, **cond):
            shown.append((x_t.detach(), sigma))
            return super().forward(x_t, sigma)

    shown: list[tuple[Tensor, Tensor]] = []
    made = FreeFlow(
        teacher(),
        FlowMap(Scale(0.9), [TOP]),
        Seen(0.7),
        levels=LogUniform(0.1, 5.0),
        noise_levels=LogUniform(0.5, 5.0),
        correction=1.0,
        below=0.0,
    )
    drawn = made.prepare(Batch(2_000), 0)
    made.corrected(drawn.z, {}, 0)
    made.fake_loss(drawn, 0)
    for x_r, r in shown:
        assert is_noised(x_r, 0.9 * drawn.z, r) and 0.5 < float(r.min()) < float(r.max()) < 5.0
    assert len(shown) == 2 and not torch.equal(shown[0][1], shown[1][1])


class Listed(Levels):
    """These levels, one a row."""

    def __init__(self, levels: Tensor) -> None:
        self.levels = levels

    def __call__(self, u: Tensor, step: int = 0) -> Tensor:
        return self.levels


class Table(Stub):
    """F of z = 1 by linear interpolation over the flow time delta from the start."""

    def __init__(self, knots: int) -> None:
        super().__init__(exact)
        self.values = torch.full((knots + 1,), -1.0)

    def forward(self, x_t: Tensor, sigma: Tensor, *, end: Tensor, **cond: Tensor) -> Tensor:
        s = (4 * end).exp() - 8e-3
        last = TOP / (1 + TOP)
        place = (1 - s / (1 + s) / last) * (len(self.values) - 1)
        hats = (1 - (place[:, None] - torch.arange(len(self.values))).abs()).clamp_min(0)
        return last * (hats @ self.values + 1)[:, None] + 0 * self.unused


def test_a_table_relaxes_at_the_known_speed():
    """In function space, at unit rate from F = -1: f(1) at times 0.5, 1, 2, 3. The error moves
    along delta as a wave, from noise to data."""
    wanted, n, steps = {0.5: 0.39602, 1.0: 0.48009, 2.0: 0.49848, 3.0: 0.49983}, 120, 100
    table, last = Table(n), TOP / (1 + TOP)
    # A hair to the side of noise of each knot: its slope is the one from there.
    tau = last * (1 - (torch.arange(1, n + 1) - 1e-6) / n)
    found = FreeFlow(
        teacher(),
        FlowMap(table, [TOP]),
        levels=Listed(tau / (1 - tau)),
        noise_levels=LogUniform(0.1, 1.0),
        correction=0.0,
        below=0.0,
        adaptive=0.0,
    )
    z, ends = torch.ones(n, 1), {}
    for i in range(1, 3 * steps + 1):
        with torch.no_grad():
            error = found.predicted(z, {}, 0)[1]
        table.values[1:] -= error[:, 0] / steps
        if i / steps in wanted:
            ends[i / steps] = last * (1 + float(table.values[-1]))
    for time, number in wanted.items():
        assert abs(ends[time] - number) < 6e-3, (time, ends)


@pytest.mark.parametrize(
    "of, wanted", [("state", (0.5803391, 0.5074643)), ("velocity", (0.5254816, 0.5025185))]
)
def test_where_a_derivative_backward_on_a_grid_would_end(of, wanted):
    """Of the state or of the mean velocity, on 10 and on 100 steps, from noise of a level far
    away; the exact end is 0.5."""
    far = 1e7
    for n, end in zip((10, 100), wanted, strict=True):
        values = torch.zeros(n + 1)
        values[0] = -1.0  # F at the noise itself

        class Knots(Stub):
            def forward(self, x_t, sigma, *, end, values=values, n=n, **cond):
                s = ((4 * end).exp() - 1e-4 * self.sigma_max).clamp_min(0)
                place = ((1 - s / (1 + s)) * n).round().long()
                return (values[place] + 1)[:, None] * x_t / sigma[:, None] + 0 * self.unused

        def backward(f, s, tangent, values=values, n=n):
            place = int(((1 - s / (1 + s)) * n).round())
            rise = (values[place] - values[place - 1]) * n
            share = (place - 1) / place if of == "state" else 1.0
            return f(s), (-tangent / (1 + s) ** 2 * rise * share)[:, None]

        for place in range(1, n + 1):
            tau = torch.tensor([max(1 - place / n, 1e-7)])
            levels = Listed(tau / (1 - tau))
            made = FreeFlow(
                GaussianDenoiser(torch.zeros(1), V * torch.eye(1), sigma_min=1e-9, sigma_max=far),
                FlowMap(Knots(exact, top=far), [far]),
                levels=levels,
                noise_levels=levels,
                correction=0.0,
                below=0.0,
            )
            made.derivative = backward
            errors = []
            for value in (-1.0, 0.0):  # it is affine in the knot's value
                values[place] = value
                errors.append(float(made.predicted(torch.ones(1, 1), {}, 0)[1]))
            values[place] = errors[1] / (errors[0] - errors[1])
        assert 1 + float(values[-1]) == pytest.approx(end, abs=2e-6)


# ---------------------------------------------------------------------------------- the student


def test_exact_maps_lead_by_any_path_to_the_same_end():
    z, t = torch.randn(5, 1), torch.full((5,), TOP)
    flow = FlowMap(Stub(exact), [TOP])
    torch.testing.assert_close(flow(z), 0.4999902345 * z, rtol=1e-7, atol=1e-9)
    for path in ([20.0, 0.0], [30.0, 3.0, 0.3, 0.0]):
        x, here = flow.start(z), t
        for level in path:
            there = torch.full_like(t, level)
            x, here = flow.move(x, here, there), there
        torch.testing.assert_close(x, flow(z), rtol=1e-7, atol=1e-9)
    other = FlowMap(Stub(exact), [TOP], spread=math.sqrt(TOP**2 + V))
    torch.testing.assert_close(other(z), 0.5 * z)  # of a start as spread as the noised data


def test_exact_maps_make_samples_of_the_law_in_any_number_of_calls():
    """Of n calls x <- a(t) (x + t e): the variance stays V, as x + t e has V + t^2 of it."""
    flow = FlowMap(Stub(exact), [TOP], spread=math.sqrt(TOP**2 + V))
    for calls in (1, 2, 3, 7):
        student = flow.with_calls(calls)
        assert student.calls == calls == len(student.sigmas)
        assert student.latent_shape == ((1,) if calls == 1 else (calls, 1))
        z = torch.eye(calls).reshape(calls, *student.latent_shape)  # each part alone
        assert float((student(z) ** 2).sum()) == pytest.approx(V, rel=1e-7)  # it is linear
        states = [student.simulated(i, z) for i in range(calls)]
        last = student.call(calls - 1, states[-1])
        torch.testing.assert_close(last, student(z))
    with pytest.raises(ValueError, match="at least 1"):
        flow.with_calls(0)


def test_the_student_starts_as_the_teachers_denoiser_and_heeds_its_end_once_trained():
    for network in (
        denoiser(2),
        ToyProblem(2, "one_step").networks.student_denoiser(),
    ):
        told = told_ends(network)
        x, t, cond = torch.randn(4, 2), torch.full((4,), 3.0), {"label": torch.arange(4) % 2}
        end = torch.linspace(-1, 1, 4)
        torch.testing.assert_close(told(x, t, end=end, **cond), network(x, t, **cond))
        with torch.no_grad():
            for name, parameter in told.named_parameters():
                if ".end." in name:
                    parameter += torch.randn_like(parameter)
        assert not torch.allclose(told(x, t, end=end, **cond), told(x, t, end=-end, **cond))
    with pytest.raises(ValueError, match="the number 'end' must be given"):
        told(x, t, **cond)
    with pytest.raises(TypeError, match="MixtureDenoiser has no network"):
        told_ends(ToyProblem().known_teacher)


def test_the_forward_mode_goes_through_attention_and_a_unet():
    """Against centred differences of the same network, attention and normalisation included."""
    torch.manual_seed(0)
    network = UNet(1, widths=(8, 16), depth=2, embedding=16, classes=3, ends=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    x, level = torch.randn(3, 1, 8, 8), torch.tensor([0.2, 0.4, 0.3])
    label, s = torch.arange(3), torch.tensor([0.1, 1.0, 5.0])

    def f(s: Tensor) -> Tensor:
        return network(x, level, label=label, end=(s + 0.01).log() / 4)

    value, along = forward(f, s, s)
    rough = difference(f, s, s, 1e-4)[1]
    torch.testing.assert_close(along, rough, rtol=1e-4, atol=1e-6)
    assert float(along.abs().max()) > 1e-3 and not along.requires_grad
    value.sum().backward()
    assert network.end.linear.weight.grad.abs().max() > 0


def test_a_student_of_a_teacher_in_bfloat16_computes_in_the_type_of_its_weights():
    torch.manual_seed(0)
    network = UNet(1, widths=(8, 16), depth=1, embedding=16)
    inner = PreconditionedDenoiser(
        Precision(network, "bfloat16"),
        shape=(1, 4, 4),
        sigma_data=0.5,
        sigma_min=0.02,
        sigma_max=8.0,
    )
    flow, z = FlowMap.of(inner), torch.randn(3, 1, 4, 4)
    assert not any(isinstance(m, Precision) for m in flow.modules())
    s, t = torch.tensor([0.1, 1.0, 3.0]), torch.full((3,), 8.0)
    value, along = forward(lambda s: flow.answer(flow.start(z), t, s), s, s)
    assert value.dtype == along.dtype == torch.float64 and value.shape == z.shape


def test_prediction_leads_and_the_correction_joins():
    settings = replace(METHOD.examples["freeflow"].settings, lead=0.5)
    stage = next(recipe(ToyProblem(student="one_step"), settings, Context()))
    found = stage.objective
    drawn = found.prepare(Batch(16), 0)
    assert found.lead == 5
    assert set(found.student_loss(drawn, 4).info) == {"prediction"}
    assert set(found.student_loss(drawn, 5).info) == {"prediction", "correction"}
    with pytest.raises(ConfigError, match="lead: correction alone has no prediction"):
        replace(settings, correction=1.0)


def on_paths(f, steps=200, n=64, **options) -> PathRegression:
    torch.manual_seed(3)
    one = teacher()
    paths = teacher_pairs(one, torch.randn(n, 1), {}, steps=steps, whole=True)
    _, *below = karras_grid(steps, one.sigma_min, one.sigma_max).tolist()
    return PathRegression(one, FlowMap(Stub(f), [TOP]), paths, [TOP, *below], **options)


@pytest.mark.parametrize(
    "f, right",
    [
        (exact, True),
        (lambda t, s: exact(t, 0 * s), False),  # the sample, whatever the end
        (lambda t, s: ((V + s**2) / (V + t**2)).sqrt(), False),  # the state for the answer
    ],
)
def test_the_exact_map_answers_what_the_teachers_paths_have(f, right):
    """Paths of 200 steps of Heun's method, whose own error is below a thousandth of the data."""
    found, rows = on_paths(f), torch.arange(64)
    some, worst = found.pairs.select(rows), []
    for starts, ends in ((0 * rows, 3 * rows + 1), (rows, 2 * rows + 2), (rows, 0 * rows + 200)):
        answer, known = found.answers(Asked(some, starts, ends))
        assert answer.shape == (64, 1)
        worst.append(float((answer - known).abs().max()))
    assert (max(worst) < 1e-3) == right
    # The sample itself is what one call is asked for, from wherever it starts.
    torch.testing.assert_close(known, found.pairs.x[:, -1])


@pytest.mark.parametrize("share, below", [(0.5, 0.0), (0.2, 0.25), (1.0, 0.6)])
def test_shares_of_the_rows_start_lower_and_ask_for_samples(share, below):
    """Five steps: six levels, of which the last is zero and the first T."""
    found, n = on_paths(exact, steps=5, share=share, below=below), 40_000
    paths, starts, ends = found.prepare(Batch(n), 0)
    assert paths.x.shape == (n, 5, 1) and bool((starts < ends).all())
    for start in range(5):
        first = 1 - below if start == 0 else below / 4
        for end in range(start + 1, 6):
            others = 4 - start  # the levels between
            last = share if others else 1.0
            wanted = first * (last if end == 5 else (1 - share) / others)
            rate = float(((starts == start) & (ends == end)).double().mean())
            assert abs(rate - wanted) <= 5 * math.sqrt(wanted * (1 - wanted) / n)
    # One step has one state.
    drawn = on_paths(exact, steps=1, share=share, below=below).prepare(Batch(9), 0)
    assert drawn.starts.tolist() == [0] * 9 and drawn.ends.tolist() == [1] * 9


def test_a_map_of_paths_comes_first_and_makes_samples_in_any_number_of_calls():
    settings = replace(
        METHOD.examples["freeflow"].settings,
        pairs=PairSettings(pairs=20, solver_steps=3, steps=4, batch=8),
    )
    problem = ToyProblem(student="one_step")
    stages = recipe(problem, settings, Context())
    start = next(stages)
    assert isinstance(start.objective, PathRegression) and start.steps == 4
    student = start.objective.generator
    then = stages.send(Trained(student, start.objective))
    assert (
        isinstance(then.objective, FreeFlow)
        and then.objective.generator.denoiser is student.denoiser
    )
    assert student.with_calls(3)(torch.randn(2, 3, 2)).shape == (2, 2)


def test_paths_that_start_elsewhere_are_refused(monkeypatch):
    found = on_paths(exact, steps=3)
    with pytest.raises(ValueError, match="a path of 3 states from the map's level 80"):
        PathRegression(teacher(), found.generator, found.pairs, [TOP, 1.0, 0.0])
    with pytest.raises(ValueError, match="a path of 3 states from the map's level 80"):
        PathRegression(teacher(), found.generator, found.pairs, [40.0, 2.0, 1.0, 0.0])
    with pytest.raises(
        ValueError, match=r"share must be within \(0, 1\] and below .*, got 0 and 0"
    ):
        on_paths(exact, steps=3, share=0.0)
    with pytest.raises(ValueError, match="got 0.5 and 1"):
        on_paths(exact, steps=3, below=1.0)
    problem, pairs = ToyProblem(student="one_step"), PairSettings(pairs=20, solver_steps=3)
    monkeypatch.setattr(type(problem.networks), "sigma", 3.0)
    with pytest.raises(
        ConfigError, match=r"highest level \d+, and the map starts at 3: give --si"
    ):
        next(recipe(problem, Settings(pairs=pairs), Context()))


def test_what_the_network_cannot_be_told_is_refused_before_any_training():
    problem = ToyProblem()
    problem.networks.denoiser = problem.networks.student_denoiser = lambda: problem.known_teacher
    with pytest.raises(ConfigError, match="has no network that could be told where a map ends"):
        next(recipe(problem, Settings(), Context()))
    for wrong in (
        {"below": 1.0},
        {"correction": 1.5},
        {"below": -0.1},
        {"balance": -1.0},
        {"lead": 2.0},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Settings(**wrong)
