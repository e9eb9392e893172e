"""Steps, trajectories and samplers against closed forms of Gaussians."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.levels import karras_grid, log_grid
from vardiu.functional.trajectories import step, step_target
from vardiu.samplers.multistep import DPMSolver, UniPC
from vardiu.samplers.noise import RowNoise
from vardiu.samplers.ode import DDIM, Ancestral, Euler, Heun
from vardiu.samplers.pairs import teacher_pairs
from vardiu.samplers.trajectories import trajectory

STD, MEAN, TOP = 0.8, 0.5, 10.0
TEACHER = GaussianDenoiser(torch.full((3,), MEAN).double(), torch.full((3,), STD**2).double())


def exact(x):
    """x - m shrinks as sqrt(std^2 + sigma^2) along the flow."""
    return MEAN + (x - MEAN) * STD / (STD**2 + TOP**2) ** 0.5


@pytest.mark.parametrize("sampler, order", [(Euler, 1), (Heun, 2)])
def test_error_falls_with_the_order(sampler, order):
    x = TOP * torch.randn(50, 3)
    errors = []
    for n in (40, 80, 160):
        grid = log_grid(n, 1e-3, TOP)
        errors.append((sampler(TEACHER, grid)(x) - exact(x)).abs().mean().item())
    rates = [torch.tensor(a / b).log2().item() for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(rate - order) < 0.35 for rate in rates)


def test_ancestral_samples_have_the_targets_moments():
    n = 20_000
    sampler = Ancestral(TEACHER, karras_grid(300, 1e-3, TOP))
    x = sampler.sample(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert bool(((x.mean(0) - MEAN).abs() < 5 * STD / n**0.5).all())
    # Five standard errors of a standard deviation, and what 300 steps of order one leave.
    assert bool(((x.std(0) - STD).abs() < 5 * STD / (2 * n) ** 0.5 + 0.03).all())


def test_calls_are_counted():
    x = torch.randn(2, 3)
    for make, n, calls in ((Euler, 7, 7), (Heun, 7, 13), (Heun, 35, 69), (Ancestral, 7, 7)):
        sampler = make(TEACHER, karras_grid(n, 0.01, TOP))
        sampler(x)
        assert sampler.calls == calls


def test_one_step_of_euler_is_the_denoiser():
    x = torch.randn(4, 3)
    got = Euler(TEACHER, torch.tensor([TOP, 0.0]))(x)
    torch.testing.assert_close(got, TEACHER(x, torch.full((4,), TOP)))


def test_same_generator_same_samples():
    grid = karras_grid(5, 0.01, TOP)
    a, b = (
        Ancestral(TEACHER, grid).sample(3, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert torch.equal(a, b) and a.dtype == torch.float32


@pytest.mark.parametrize("shape", [(3,), (2, 9, 9)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_do_not_depend_on_the_size_of_the_batch(eta, shape):
    """Of rows whose noise is drawn some steps ahead, and of ones that are larger than that."""
    teacher = GaussianDenoiser(
        torch.zeros(shape), torch.ones(shape), sigma_min=0.01, sigma_max=TOP
    )
    sampler = DDIM(teacher, karras_grid(30, 0.01, TOP), eta=eta)
    first, second, other = (
        sampler.sample(20, generator=torch.Generator().manual_seed(seed), batch=batch)
        for seed, batch in ((1, 20), (1, 7), (2, 7))
    )
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(first, other, atol=0.1)


def test_noise_of_rows_is_drawn_ahead_and_stays_their_own():
    like = torch.zeros(3, 2)
    noise, alone = RowNoise([5, 6, 7], ahead=4), RowNoise([6], ahead=4)
    drawn = [noise(like) for _ in range(6)]
    assert torch.equal(
        torch.stack(drawn)[:, 1:2], torch.stack([alone(like[:1]) for _ in range(6)])
    )
    assert len({tuple(row.tolist()) for x in drawn for row in x}) == 18


def test_wrong_grids_are_refused():
    with pytest.raises(ValueError, match="sigmas must decrease"):
        Heun(TEACHER, torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"eta must be within \[0, 1\]"):
        DDIM(TEACHER, torch.tensor([2.0, 1.0]), eta=1.5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_steps_keep_the_marginal_and_mix_as_eta_says(eta):
    """Data at one point: the state stays N(m, sigma^2), and forgets as its covariance tells."""
    n, sigma, target = 100_000, 3.0, 1.2
    teacher = GaussianDenoiser(torch.full((1,), MEAN), torch.zeros(1))
    x = MEAN + sigma * torch.randn(n, 1)
    y = DDIM(teacher, torch.tensor([sigma, target]), eta=eta)(x)
    assert abs(y.var() - target**2) < 5 * target**2 * (2 / n) ** 0.5
    # Of one step the fresh share is eta times that of ancestral sampling, whose mean given x is
    # Bayes' rule: m + (target / sigma)^2 (x - m).
    fresh = eta**2 * target**2 * (1 - target**2 / sigma**2)
    kept = (target**2 - fresh) ** 0.5 / sigma
    slope = ((y - MEAN) * (x - MEAN)).mean() / sigma**2
    assert abs(slope - kept) < 5 * 2 * target / (sigma * n**0.5)
    if eta == 1:
        assert kept == pytest.approx((target / sigma) ** 2)


def test_conditions_and_rows_stay_together():
    means = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])
    teacher = MixtureDenoiser(means, 0.1, labels=torch.arange(3), sigma_min=0.01, sigma_max=20.0)
    label = torch.arange(60) % 3
    for make in (Euler, Heun, Ancestral):
        sampler = make(teacher, karras_grid(30, 0.01, 20.0))
        x = sampler.sample(60, generator=torch.Generator().manual_seed(0), label=label)
        # Ten standard deviations; the other modes are thirty away and more.
        assert (x - means[label]).norm(dim=1).max() < 1.0


def test_a_grid_that_ends_above_zero_ends_there():
    """Of a Gaussian the state at level s is normal with variance std^2 + s^2."""
    x = (STD**2 + TOP**2) ** 0.5 * torch.randn(40, 3)
    sigmas = log_grid(400, 0.5, TOP)[:-1]
    wanted = x * ((STD**2 + 0.5**2) / (STD**2 + TOP**2)) ** 0.5
    got = Heun(TEACHER, sigmas)(x + MEAN) - MEAN
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def test_deterministic_samples_have_the_targets_moments():
    """They remember their start: it must have the spread of the first level."""
    n = 20_000
    sampler = Heun(TEACHER, karras_grid(40, 1e-3, TOP))
    x = sampler.sample(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The start N(0, TOP^2) lacks the target's own mean and variance: both shrink with the flow.
    shrink = STD / (STD**2 + TOP**2) ** 0.5
    assert bool(((x.mean(0) - MEAN * (1 - shrink)).abs() < 5 * STD / n**0.5).all())
    assert bool(((x.std(0) - TOP * shrink).abs() < 5 * STD / (2 * n) ** 0.5 + 5e-3).all())


# ---------------------------------------------------------------- closed forms of steps


def centred(v):
    """The exact denoiser of N(0, v) in one dimension."""
    return GaussianDenoiser(torch.zeros(1), torch.full((1,), v))


def factor(denoiser, sigmas, **options):
    """Steps of a linear denoiser are linear: what a state of one becomes is the factor."""
    *_, last = trajectory(denoiser, torch.ones(1, 1), sigmas, **options)
    return last.item()


def cosine(n):
    """alpha = cos(pi u / 2), s = sin(pi u / 2) at u = 1, 1 - 1/n, ..., 0."""
    return (torch.linspace(1, 0, n + 1) * math.pi / 2).tan()


@pytest.mark.parametrize(
    ("n", "std"),
    [
        (1, 0.0),
        (2, 0.2),
        (4, 0.33344),
        (8, 0.4113754689),
        (16, 0.45393),
        (64, 0.48809),
        (1024, 0.49925),
    ],
)
def test_ddim_of_a_gaussian_has_the_known_spread(n, std):
    grid = cosine(n)
    assert grid[0] * factor(centred(0.25), grid) == pytest.approx(
        std, abs=6e-6 if n != 8 else 1e-10
    )


def two_steps(u, width=0.25):
    """A state of one at time u in variance-preserving units, and two steps of the teacher on."""
    t, m, s = (torch.tensor([u - i * width / 2]) for i in range(3))
    sigma, middle, target = (torch.tan(time * math.pi / 2) for time in (t, m, s))
    x = 1 / torch.cos(t * math.pi / 2)[:, None]
    states = list(trajectory(centred(0.25), x, torch.cat([sigma, middle, target])))
    second = centred(0.25)(states[1], middle)
    return x, sigma, states[2], target, second


KNOWN = {0.25: 0.7368092434, 0.5: 0.3412660231, 0.75: 0.1410545261, 1.0: 0.0255946497}
STUB = {0.25: 0.7368092, 0.5: 0.3728845, 0.75: 0.1667549, 1.0: 0.0492410}


@pytest.mark.parametrize("u", KNOWN)
def test_the_target_of_two_steps_is_the_known_coefficient_and_lands_there(u):
    x, sigma, x_next, target, second = two_steps(u)
    wanted = step_target(x, sigma, x_next, target)
    assert wanted.item() == pytest.approx(KNOWN[u], abs=1e-10)
    torch.testing.assert_close(step(x, sigma, target, wanted), x_next, rtol=1e-12, atol=1e-12)
    # The teacher's second estimate is another number, and lands there only where it ends at zero.
    assert second.item() == pytest.approx(STUB[u], abs=1e-7)
    landed = step(x, sigma, target, second)
    assert torch.allclose(landed, x_next, rtol=1e-6) == (u == 0.25)


@pytest.mark.parametrize(("table", "std"), [(KNOWN, 0.4113754689), (STUB, 0.43065)])
def test_a_student_of_those_coefficients_has_the_known_spread(table, std):
    def student(x_t, sigma):
        u = torch.atan(sigma) * 2 / math.pi
        return table[round(u.item(), 6)] * torch.cos(torch.atan(sigma))[:, None] * x_t

    grid = cosine(4)
    tolerance = 1e-9 if table is KNOWN else 1e-5
    assert grid[0] * factor(student, grid) == pytest.approx(std, abs=tolerance)


def test_the_target_at_level_zero_is_the_state_itself():
    x, x_next = torch.randn(3, 2), torch.randn(3, 2)
    assert torch.equal(step_target(x, torch.rand(3) + 1, x_next, torch.zeros(3)), x_next)


@pytest.mark.parametrize(
    ("n", "euler", "heun"),
    [
        (10, 0.36523, 0.60982),
        (18, 0.42305, 0.52764),
        (40, 0.46487, 0.50489),
        (80, 0.48234, 0.50116),
    ],
)
def test_solvers_lose_the_known_part_of_the_spread(n, euler, heun):
    grid = karras_grid(n, 0.002, 80.0)[:-1]
    start = (0.25 + 80.0**2) ** 0.5
    assert start * factor(centred(0.25), grid) == pytest.approx(euler, abs=6e-6)
    assert start * factor(centred(0.25), grid, correct=True) == pytest.approx(heun, abs=6e-6)
    if n == 18:
        assert 80.0 * factor(centred(0.25), grid) == pytest.approx(0.42304, abs=6e-6)


def test_a_step_with_fresh_noise_has_the_known_coefficients():
    """From 4 to 1.5 with eta = 0.3: the two parts of the noise at the new level."""
    sigma, target, nothing = torch.tensor([4.0]), torch.tensor([1.5]), torch.zeros(1, 1)
    fresh = step(nothing, sigma, target, nothing, torch.ones(1, 1), 0.3)
    kept = step(4.0 * torch.ones(1, 1), sigma, target, nothing, nothing, 0.3)
    assert fresh.item() == pytest.approx(0.417161, abs=1e-6)
    assert kept.item() == pytest.approx(1.440825, abs=1e-6)
    assert fresh.square() + kept.square() == pytest.approx(1.5**2)
    with pytest.raises(ValueError, match="a step of eta=0.3 needs noise of the shape of x"):
        step(nothing, sigma, target, nothing, eta=0.3)


def test_ancestral_steps_keep_the_marginal_in_the_limit():
    """The variance's own recursion: its error at the end is of order one in the step."""
    v, errors = 0.64, []
    for n in (400, 800, 1600):
        grid = log_grid(n, 1e-3, 10.0)
        variance = v + grid[0] ** 2
        for sigma, target in zip(grid[:-1, None], grid[1:, None], strict=True):
            one, nothing = torch.ones(1, 1), torch.zeros(1, 1)
            kept = step(one, sigma, target, centred(v)(one, sigma), nothing, 1.0)
            fresh = step(nothing, sigma, target, nothing, one, 1.0)
            variance = kept.square() * variance + fresh.square()
        errors.append(abs(variance.item() - v))
    rates = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(rate - 1) < 0.1 for rate in rates) and errors[-1] < 0.01 * v


@pytest.mark.parametrize("options", [{}, {"correct": True}, {"eta": 0.7}], ids=str)
def test_rows_with_levels_of_their_own_are_rows_alone(options):
    # The last level of one row is zero, those of the others are not.
    sigmas = torch.tensor([[9.0, 5.0, 3.0], [4.0, 2.0, 1.0], [2.0, 1.0, 0.0]])
    x, noise = torch.randn(3, 3), torch.randn(2, 3, 3)
    more = {"noise": noise} if "eta" in options else {}
    together = list(trajectory(TEACHER, x, sigmas, **options, **more))
    assert len(together) == 3 and torch.equal(together[0], x)
    for i in range(3):
        rows = slice(i, i + 1)
        more = {"noise": noise[:, rows]} if "eta" in options else {}
        alone = list(trajectory(TEACHER, x[rows], sigmas[:, i], **options, **more))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[rows], b, rtol=1e-13, atol=1e-13)
            assert bool(a.isfinite().all())


def test_a_trajectory_leaves_type_and_gradient_to_the_caller():
    x = torch.randn(2, 3, dtype=torch.float32, requires_grad=True)
    teacher = GaussianDenoiser(torch.zeros(3).float(), torch.ones(3).float())
    *_, last = trajectory(teacher, x, torch.tensor([3.0, 1.0, 0.0]), correct=True)
    assert last.dtype == torch.float32
    (gradient,) = torch.autograd.grad(last.sum(), x)
    assert gradient.abs().min() > 0


def test_wrong_trajectories_are_refused_before_the_first_call():
    x = torch.randn(2, 3)
    with pytest.raises(ValueError, match="sigmas must decrease to zero or above"):
        trajectory(TEACHER, x, torch.tensor([2.0, 1.0, -0.5]))
    with pytest.raises(ValueError, match="a corrected step has no fresh noise"):
        trajectory(TEACHER, x, torch.tensor([2.0, 1.0]), correct=True, eta=0.5)
    with pytest.raises(ValueError, match="needs noise"):
        list(trajectory(TEACHER, x, torch.tensor([3.0, 2.0, 1.0]), eta=0.5, noise=[x]))


def test_pairs_are_the_ends_of_corrected_trajectories():
    teacher = GaussianDenoiser(
        torch.full((3,), MEAN), torch.full((3,), STD**2), sigma_min=0.01, sigma_max=TOP
    )
    z = torch.randn(7, 3)
    *_, wanted = trajectory(teacher, TOP * z, karras_grid(6, 0.01, TOP), correct=True)
    got = teacher_pairs(teacher, z, {}, steps=6, batch=3)
    torch.testing.assert_close(got.x, wanted, rtol=1e-12, atol=1e-12)
    # Whole paths have the state of every level but the first, which is the latent's own.
    _, *below = trajectory(teacher, TOP * z, karras_grid(6, 0.01, TOP), correct=True)
    paths = teacher_pairs(teacher, z, {}, steps=6, batch=3, whole=True)
    torch.testing.assert_close(paths.x, torch.stack(below, 1), rtol=1e-12, atol=1e-12)


class Adding:
    """A guide that adds to the next state, and keeps what it was shown."""

    differentiates = False

    def __init__(self, amount=0.0):
        self.amount, self.passages = amount, []

    def __call__(self, passage):
        self.passages.append(passage)
        return passage.x_next + self.amount


@pytest.mark.parametrize("options", [{}, {"correct": True}, {"eta": 0.7}], ids=str)
def test_a_guide_is_shown_each_step_and_says_where_it_ends(options):
    x, sigmas = torch.randn(4, 3).double(), torch.tensor([9.0, 3.0, 1.0, 0.0])
    drawn = list(torch.randn(2, 4, 3).double())
    more = {**options, **({"noise": drawn} if "eta" in options else {})}
    plain, guide = list(trajectory(TEACHER, x, sigmas, **more)), Adding()
    watched = list(trajectory(TEACHER, x, sigmas, guide=guide, **more))
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    for i, passage in enumerate(guide.passages):
        assert passage.index == i and passage.floor == 0 and not passage.cond
        assert torch.equal(passage.x, plain[i]) and torch.equal(passage.x_next, plain[i + 1])
        assert passage.sigma.tolist() == 4 * [sigmas[i]]
        assert passage.target.tolist() == 4 * [sigmas[i + 1]]
        assert torch.equal(passage.denoised, TEACHER(plain[i], passage.sigma))
    moved = list(trajectory(TEACHER, x, sigmas, guide=Adding(0.5), **more))
    torch.testing.assert_close(moved[1], plain[1] + 0.5)
    more["noise"] = drawn[1:]
    again = list(trajectory(TEACHER, moved[1], sigmas[1:], guide=Adding(0.5), **more))
    torch.testing.assert_close(moved[2:], again[1:])


@pytest.mark.parametrize("make", [DDIM, Heun])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_guide_that_differentiates_has_a_graph_to_the_state(make, dtype):
    """D = m + (x - m) v / (v + sigma^2): its gradient in x is that slope, also without a mode."""

    class Pulling:
        differentiates = True

        def __call__(self, passage):
            (found,) = torch.autograd.grad(passage.denoised.sum(), passage.x)
            slopes.append(found)
            return passage.x_next - found

    slopes: list[torch.Tensor] = []
    moments = (torch.full((3,), value, dtype=dtype) for value in (MEAN, STD**2))
    teacher = GaussianDenoiser(*moments)
    x, sigmas = torch.randn(4, 3, dtype=dtype), torch.tensor([2.0, 1.0, 0.0])
    got = make(teacher, sigmas, guide=Pulling())(x)
    assert got.dtype == dtype and not got.requires_grad and len(slopes) == 2
    for found, sigma in zip(slopes, sigmas, strict=False):
        wanted = torch.full_like(found, STD**2 / (STD**2 + float(sigma) ** 2))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    one = make(teacher, sigmas[:2], guide=Pulling())(x)
    torch.testing.assert_close(one, make(teacher, sigmas[:2])(x) - slopes[0].to(dtype))


@pytest.mark.parametrize("solver", [DPMSolver, UniPC])
def test_solvers_of_several_steps_are_of_order_two_with_one_call_a_step(solver):
    """The flow of a Gaussian is known: half the step, a quarter of the error."""
    std = torch.tensor([0.5, 2.0], dtype=torch.float64)
    teacher = GaussianDenoiser(torch.zeros(2), std.square(), sigma_min=1e-3, sigma_max=50.0)
    x = 50.0 * torch.randn(8, 2, dtype=torch.float64)
    wanted = x * ((std.square() + 0.05**2) / (std.square() + 50.0**2)).sqrt()
    errors = []
    for steps in (30, 60):
        grid = torch.logspace(math.log10(50.0), math.log10(0.05), steps + 1, dtype=torch.float64)
        sampler = solver(teacher, grid)
        errors.append((sampler(x) - wanted).abs().max().item())
        assert sampler.calls == steps
    euler = (Euler(teacher, grid)(x) - wanted).abs().max().item()
    assert errors[0] > 3.2 * errors[1] and errors[1] < euler / 10
    with pytest.raises(ValueError, match="starts from a finite level"):
        solver(teacher, torch.tensor([math.inf, 1.0, 0.0]))


@pytest.mark.parametrize("sampler", [Euler, Heun, DDIM, DPMSolver, UniPC])
def test_sampling_does_not_wait_for_an_accelerator(sampler):
    """On a device whose tensors have no values, to look at one is an error."""
    there = copy.deepcopy(TEACHER).to("meta")
    solver = sampler(there, karras_grid(5, 0.01, TOP).to(torch.float64))
    assert solver(torch.empty(2, 3, device="meta")).shape == (2, 3)
    assert solver.calls >= 5
    grid = torch.tensor([[TOP, TOP], [1.0, 0.5], [0.0, 0.1]], device="meta")
    *_, last = trajectory(
        there, torch.empty(2, 3, device="meta"), grid, correct=True, arrives=False
    )
    assert last.device.type == "meta"


def test_what_is_told_of_levels_is_what_would_be_seen():
    calls = []

    def asked(x, sigma):
        calls.append(sigma)
        return TEACHER(x, sigma)

    x = TOP * torch.randn(2, 3)
    ends = {True: [0.0, 0.0], False: [0.0, 0.1]}
    for arrives, last in ends.items():
        grid = torch.tensor([[TOP, TOP], [1.0, 0.5], last])
        found = {}
        for told in (None, arrives):
            calls.clear()
            *_, found[told] = trajectory(asked, x, grid, correct=True, arrives=told)
            assert len(calls) == 4 - arrives
        assert torch.equal(found[None], found[arrives])
    # Rows that end at zero are the same where it is not known that all do, with a call more.
    calls.clear()
    grid = torch.tensor([[TOP, TOP], [1.0, 0.5], ends[True]])
    *_, later = trajectory(asked, x, grid, correct=True, arrives=False)
    assert len(calls) == 4
    assert torch.equal(later, list(trajectory(TEACHER, x, grid, correct=True))[-1])
