"""Distillation++: a teacher that corrects a few-step student, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from cases import denoiser
from torch import Tensor

from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.guidance import Guided
from vardiu.denoisers.levels import log_grid
from vardiu.functional.trajectories import Passage
from vardiu.metrics.transport import wasserstein2_sliced
from vardiu.samplers import DDIM, Heun, TeacherGuide
from vardiu.students import FewStep, FlowMap, GuidedStudent, OneStep

MU, V = 0.3, 0.7


def gaussian(mean=MU, variance=V, low=0.0, high=math.inf):
    mean, variance = torch.tensor([mean]).double(), torch.tensor([variance]).double()
    return GaussianDenoiser(mean, variance, sigma_min=low, sigma_max=high)


def level(alpha):
    """Of a variance-preserving scale: sigma_s / alpha_s."""
    return math.sqrt(1 - alpha**2) / alpha


class Line(Denoiser):
    """A student that is no denoiser: always wrong in the same way."""

    def __init__(self, slope=0.4, shift=0.2):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([slope, shift], dtype=torch.float64))
        self.shape, self.sigma_min, self.sigma_max = (1,), 0.01, 20.0

    def forward(self, x_t, sigma, **cond):
        return self.weight[0] * x_t + self.weight[1]


LEVELS = [8.0, 4.0, 2.0, 1.0]


def endpoint(**options):
    return FewStep(Line(), LEVELS, **options)


def along(guide, sigma, **given):
    """What a guide makes of one row that is nothing but ones of the given parts."""

    def at(denoised=0.0, kept=0.0, fresh=0.0):
        d, n = (torch.full((1, 1), value).double() for value in (denoised, kept))
        here, there = torch.tensor([2 * sigma]).double(), torch.tensor([sigma]).double()
        drawn = guide.drawing(lambda like: torch.full_like(like, fresh))
        return drawn(Passage(0, d, here, there, d, d + n, {})).item()

    return at(**given)


def test_the_moments_of_a_corrected_gaussian_are_those_known():
    """Mean error b (1 - lam (1 - a)), variance (1 - lam (1 - a))^2 v_th + lam^2 a (1 - a) v."""
    guide = TeacherGuide(gaussian(), 0.6, renoise="fresh")
    origin = along(guide, level(0.5))
    by_d, by_e = (
        along(guide, level(0.5), **{name: 1.0}) - origin for name in ("denoised", "fresh")
    )
    assert along(guide, level(0.5), denoised=MU + 0.6) == pytest.approx(0.60811, abs=5e-6)
    assert by_d**2 * 0.5 + by_e**2 == pytest.approx(0.17050, abs=6e-6)
    a = 0.25 * V / (0.25 * V + 0.75)
    assert by_d == pytest.approx(1 - 0.6 * (1 - a), rel=1e-12)
    assert by_e**2 == pytest.approx(0.36 * a * (1 - a) * V, rel=1e-12)


@pytest.mark.parametrize("renoise, change", [("fresh", -0.1275), ("shared", 0.0225)])
def test_what_a_guide_costs_a_perfect_student_is_of_its_order(renoise, change):
    """a = 1/2, lam = 0.3: the next state's variance, relative to what it is without a guide.

    Of a perfect student D and the noise are independent, with variances v and s^2.
    """
    s = math.sqrt(V)
    guide = TeacherGuide(gaussian(0.0), 0.3, renoise=renoise)
    by = {name: along(guide, s, **{name: 1.0}) for name in ("denoised", "kept", "fresh")}
    variance = by["denoised"] ** 2 * V + by["kept"] ** 2 * s**2 + by["fresh"] ** 2
    assert variance / (V + s**2) - 1 == pytest.approx(change)
    assert (by["fresh"] == 0) == (renoise == "shared")


@pytest.mark.parametrize("rule, renoise", [("renoise", "fresh"), ("ddim", "shared")])
def test_at_strength_zero_samples_are_the_same_bits_and_no_teacher_is_asked(rule, renoise):
    student = endpoint(rule=rule)
    guide = TeacherGuide(gaussian(), 0.0, None, renoise=renoise)
    guided = GuidedStudent(student, guide)
    plain = student.sample(50, generator=torch.Generator().manual_seed(3))
    random = torch.Generator().manual_seed(3)
    assert torch.equal(guided.sample(50, generator=random), plain)
    student.sample(50, generator=(again := torch.Generator().manual_seed(3)))
    assert torch.equal(random.get_state(), again.get_state())
    assert (guide.calls, guide.rows, guided.calls) == (0, 0, 4)


@pytest.mark.parametrize("kind", ["renoise", "ddim", "flow map"])
@pytest.mark.parametrize("renoise", ["fresh", "shared"])
def test_calls_are_those_of_the_student_and_of_the_guided_steps(kind, renoise):
    student = FlowMap.of(denoiser(), 4, 8.0) if kind == "flow map" else endpoint(rule=kind)
    shape = tuple(student.shape)
    teacher = GaussianDenoiser(torch.zeros(shape), torch.ones(shape))
    for steps, count in (((0,), 1), ((0, 2), 2), (None, 3), ((), 0)):
        guide = TeacherGuide(teacher, 0.3, steps, renoise=renoise)
        guided = GuidedStudent(student, guide)
        x = guided.sample(6, batch=3, generator=torch.Generator().manual_seed(0))
        assert x.shape == (6, *shape) and bool(x.isfinite().all())
        assert guided.calls == 4 + count and guide.calls == 2 * count and guide.rows == 6 * count
        plain = student.sample(6, batch=3, generator=torch.Generator().manual_seed(0))
        assert torch.equal(plain, x) == (count == 0)


class Labelled(Line):
    conditions = ("label",)


def test_a_guided_teacher_counts_twice():
    inner = Labelled()
    guide = TeacherGuide(Guided(inner, 3.0, {"label": torch.tensor([0])}), 0.3, (0, 1))
    student = FewStep(Labelled(), LEVELS)
    guided = GuidedStudent(student, guide)
    guided.sample(5, label=torch.ones(5, dtype=torch.long))
    assert (guided.calls, guide.calls, guide.rows) == (4 + 4, 4, 20)


def test_at_strength_one_the_next_state_is_the_teachers_estimate_noised():
    student, teacher = endpoint(), gaussian()
    guided = GuidedStudent(student, TeacherGuide(teacher, 1.0, renoise="fresh"))
    z = guided.latent(7, torch.Generator().manual_seed(0))
    own, eps = z[:, :4, None], z[:, 4:]
    first, second = list(student.states(own, guided.guide.drawing(lambda like: eps)))[:2]
    x_s = first.denoised + LEVELS[1] * eps
    wanted = teacher(x_s, torch.full((7,), LEVELS[1])) + LEVELS[1] * own[:, 1]
    torch.testing.assert_close(second.x_t, wanted)
    *_, last = student.states(own, guided.guide.drawing(lambda like: eps))
    torch.testing.assert_close(guided(z), last.denoised)


@pytest.mark.parametrize("rule", ["renoise", "ddim"])
def test_the_noise_of_the_next_state_is_kept(rule):
    """Of a trajectory student that of the estimate before it was moved."""
    student, teacher = endpoint(rule=rule), gaussian()
    z = student.latent(7, torch.Generator().manual_seed(0))
    plain = list(student.states(z))
    for renoise in ("shared", "fresh"):
        eps = torch.randn(7, 1).double()
        guide = TeacherGuide(teacher, 0.4, renoise=renoise, noise=lambda like, eps=eps: eps)
        moved = list(student.states(z, guide))
        d, s = plain[0].denoised, LEVELS[1]
        noise = z[:, 1] if rule == "renoise" else (plain[0].x_t - d) / LEVELS[0]
        x_s = d + s * (eps if renoise == "fresh" else noise)
        better = (1 - 0.4) * d + 0.4 * teacher(x_s, torch.full((7,), s))
        torch.testing.assert_close(moved[1].x_t, better + s * noise)


def test_the_correction_is_affine_in_the_strength():
    student, teacher = endpoint(), gaussian()
    z = student.latent(7)

    def second(strength, renoise="shared", level="next"):
        eps = torch.ones(7, 1).double()
        options = {"renoise": renoise, "level": level, "noise": lambda like: eps}
        return list(student.states(z, TeacherGuide(teacher, strength, **options)))[1].x_t

    for options in ({}, {"renoise": "fresh"}, {"level": "same"}):
        ends = second(0.0), second(1.0, **options)
        torch.testing.assert_close(second(0.25, **options), 0.75 * ends[0] + 0.25 * ends[1])
    assert not torch.allclose(second(0.5), second(0.5, level="same"))
    assert not torch.allclose(second(0.5), second(0.5, renoise="fresh"))


@pytest.mark.parametrize("rule", ["renoise", "ddim"])
def test_at_the_same_level_the_teacher_is_shown_where_the_student_has_been(rule):
    student, seen = endpoint(rule=rule), []

    class Watching(Line):
        def forward(self, x_t, sigma):
            seen.append((x_t, sigma))
            return x_t

    z = student.latent(7)
    states = list(student.states(z, TeacherGuide(Watching(), 0.1, level="same")))
    (x_s, sigma), first = seen[0], states[0]
    assert sigma.tolist() == 7 * [LEVELS[0]]
    noise = z[:, 1] if rule == "renoise" else z
    torch.testing.assert_close(
        x_s, first.denoised + LEVELS[0] * noise if rule == "renoise" else first.x_t
    )


def test_the_noise_that_an_estimate_has_already_is_not_added_again():
    """A consistency function ends at its smallest level; its next state is at s all the same."""
    student, seen = FewStep(Line(), LEVELS, floor=0.5), []

    class Watching(Line):
        def forward(self, x_t, sigma):
            seen.append(x_t)
            return x_t

    z = student.latent(7)
    for level, s in (("next", 4.0), ("same", 8.0)):
        for renoise in ("shared", "fresh"):
            guide = TeacherGuide(
                Watching(), 0.1, renoise=renoise, level=level, noise=torch.ones_like
            )
            first = next(iter(list(student.states(z, guide))))
            noise = torch.ones(7, 1) if renoise == "fresh" else z[:, 1]
            torch.testing.assert_close(seen.pop(), first.denoised + math.sqrt(s**2 - 0.25) * noise)
    assert not seen


def test_the_loss_of_score_distillation_is_what_the_step_descends():
    """|eps(x_s) - eps|^2 = |x - D(x_s)|^2 / s^2: identity (1) of the predicted noise."""
    teacher, s = gaussian(), 1.7
    x, eps = torch.randn(50, 1).double(), torch.randn(50, 1).double()
    x_s = x + s * eps
    d = teacher(x_s, torch.full((50,), s))
    torch.testing.assert_close(((x_s - d) / s - eps).square(), (x - d).square() / s**2)
    # Half of the gradient's step of size s^2 / 2 is half of the way.
    guide = TeacherGuide(teacher, 0.5, renoise="fresh", noise=lambda like: eps)
    levels = torch.full((50,), 2 * s), torch.full((50,), s)
    got = guide(Passage(0, x, *levels, x, x, {}))
    held = x.clone().requires_grad_(True)
    loss = ((held - d).square() / s**2).sum()
    (gradient,) = torch.autograd.grad(loss, held)
    torch.testing.assert_close(got, x - 0.5 * s**2 / 2 * gradient)


def test_a_sampler_of_many_steps_takes_the_guide_as_well():
    student, teacher = gaussian(1.0, 0.5), gaussian()
    sigmas, x = torch.tensor([8.0, 4.0, 1.0, 0.0]), 8 * torch.randn(5, 1)
    guide = TeacherGuide(teacher, 0.5, None)
    sampler = DDIM(student, sigmas, guide=guide)
    got = sampler(x)
    assert (sampler.calls, guide.calls) == (3, 2)
    state = x.double()
    for s, t in zip(sigmas, sigmas[1:], strict=False):
        d = student(state, s.expand(5))
        state = d + t / s * (state - d)
        if t > 0:
            state = state + 0.5 * (teacher(state, t.expand(5)) - d)
    torch.testing.assert_close(got.double(), state, rtol=1e-5, atol=1e-5)


def test_what_no_guide_can_be_is_refused_in_one_line():
    teacher = gaussian()
    for given, words in (
        ({"strength": -0.1}, "strength of a guide must be within .0, 1., got -0.1"),
        ({"strength": 1.5}, "got 1.5"),
        ({"strength": math.nan}, "got nan"),
        ({"renoise": "freshly"}, "unknown renoise 'freshly'; did you mean fresh"),
        ({"level": "last"}, "unknown level 'last'"),
        ({"steps": (0, -1)}, "counted from zero, got -1"),
    ):
        with pytest.raises(ValueError, match=words):
            TeacherGuide(teacher, **given)


def test_students_that_a_guide_cannot_guide_are_refused_in_one_line():
    good = TeacherGuide(gaussian())
    two = GaussianDenoiser(torch.zeros(2).double(), torch.ones(2).double())
    one = FewStep(Line(), [4.0])
    cases = (
        (OneStep(Line()), good, "a OneStep has no step between two levels to guide"),
        (one, good, "a student of one call has no step between two levels"),
        (endpoint(), TeacherGuide(two), r"the guide is of samples of shape \(2,\)"),
        (endpoint(), TeacherGuide(Labelled()), "the guide takes label, which the student is not"),
        (endpoint(), TeacherGuide(gaussian(), 0.1, (3,)), "step 3 cannot be guided: .* 0 to 2"),
        (endpoint(), TeacherGuide(gaussian(high=2.0)), r"asked at level 4, .* \[0, 2\]"),
        (
            endpoint(),
            TeacherGuide(gaussian(low=1.5), 0.1, None),
            r"asked at level 1, .* \[1.5, inf\]",
        ),
        (
            endpoint(),
            TeacherGuide(gaussian(high=4.0), level="same"),
            r"asked at level 8, .* \[0, 4\]",
        ),
    )
    for student, guide, words in cases:
        with pytest.raises(ValueError, match=words) as found:
            GuidedStudent(student, guide)
        assert "\n" not in str(found.value)
    with pytest.raises(ValueError, match="asked at level 4"):
        list(endpoint().states(endpoint().latent(2), TeacherGuide(gaussian(high=2.0))))
    GuidedStudent(endpoint(), TeacherGuide(gaussian(high=2.0), 0.1, (1,)))


class Estimate(Denoiser):
    """A teacher's denoiser in the place of a student: nothing was distilled."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.shape = inner, inner.shape
        self.sigma_min, self.sigma_max = 0.02, 200.0

    def forward(self, x_t, sigma):
        return self.inner(x_t, sigma)


class Flow(Estimate):
    """The map of a mixture's probability-flow equation from a level to its end."""

    def forward(self, x_t, sigma):
        grid = torch.cat([log_grid(12, 0.05, float(sigma[0])), torch.zeros(1)])
        return Heun(self.inner, grid.unique().flip(0))(x_t)


def test_on_forty_modes_shared_noise_mends_a_flawed_student_and_fresh_noise_contracts():
    """The table's order of 4,000 samples: undistilled 0.872, 0.877, 0.678; exact 0.084, 0.201, 0.088."""
    random = torch.Generator().manual_seed(0)
    means = 8 * torch.rand(40, 2, generator=random) - 4
    teacher = MixtureDenoiser(means, 0.15)
    chosen = torch.randint(40, (1000,), generator=random)
    truth = means[chosen] + 0.15 * torch.randn(1000, 2, generator=random)
    levels = [200.0, *(math.tan(math.pi * u / 2) for u in (0.75, 0.5, 0.25))]

    def distance(inner, renoise=None):
        student = FewStep(inner, levels)
        if renoise is not None:
            student = GuidedStudent(student, TeacherGuide(teacher, 0.3, (0, 1), renoise=renoise))

        class Draws:
            def normal(self, shape: tuple[int, ...]) -> Tensor:
                return torch.randn(1000, *shape, generator=same)

        same = torch.Generator().manual_seed(1)
        with torch.no_grad():
            x = student(student.latent_from(Draws()))
        slices = torch.Generator().manual_seed(2)
        return wasserstein2_sliced(x, truth, projections=64, generator=slices).value

    undistilled = [distance(Estimate(teacher), how) for how in (None, "fresh", "shared")]
    perfect = [distance(Flow(teacher), how) for how in (None, "fresh", "shared")]
    for (plain, fresh, shared), mended in ((undistilled, 0.9), (perfect, 1.2)):
        assert shared < mended * plain, (plain, fresh, shared)
        assert fresh > (1.5 if mended > 1 else 0.9) * plain, (plain, fresh, shared)
