"""Mean shift against closed forms: the product's mean, where it stops, and the sampler's decimals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vardiu.data.batch import Batch
from vardiu.data.batches import DataFree
from vardiu.data.densities import DENSITIES
from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.levels import karras_grid
from vardiu.errors import ConfigError
from vardiu.methods.mean_shift import METHOD, MeanShift, Settings, recipe
from vardiu.problems.toy import ToyProblem
from vardiu.samplers.products import attracted, product_sample
from vardiu.settings.fields import KernelSettings, VariableSettings
from vardiu.students.table import Table
from vardiu.training.optimizers import Optimisation
from vardiu.training.stage import Context
from vardiu.training.trainer import Trainer


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def table(x: Tensor) -> Table:
    return Table.of(x)


def mixture(seed: int = 0, n: int = 7) -> tuple[Tensor, Tensor]:
    return 3 * normal(n, 2, seed), normal(n, 1, seed + 1).abs()[:, 0] + 0.2


# ---------------------------------------------------------------------------------- the mean


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_the_mean_of_the_product_is_the_denoisers_answer_at_a_clean_point(width):
    """E_r[y] of a mixture: weights N(x; m_k, s^2 + l^2), means (m_k l^2 + x s^2) / (s^2 + l^2)."""
    means, _ = mixture()
    s, x = 0.6, normal(9, 2, 5)
    total = s**2 + width**2
    square = (x[:, None] - means).square().sum(-1)
    share = (-square / (2 * total)).softmax(1)
    exact = (share[..., None] * (means * width**2 + x[:, None] * s**2) / total).sum(1)
    objective = MeanShift(MixtureDenoiser(means, s), table(x), width=width, solver_steps=0)
    torch.testing.assert_close(objective.mean(x, Batch(9), 0), exact)
    # And it is the smoothed density's own score, by its gradient.
    y = x.clone().requires_grad_(True)
    log_p = (-(y[:, None] - means).square().sum(-1) / (2 * total)).logsumexp(1).sum()
    (score,) = torch.autograd.grad(log_p, y)
    torch.testing.assert_close(exact - x, width**2 * score)


def test_the_smoothed_density_never_falls_along_the_mean_shift():
    for seed in range(8):
        means, _ = mixture(seed)
        width, s, x = 0.3 + 0.3 * seed, 0.4, 4 * normal(50, 2, seed + 9)
        objective = MeanShift(MixtureDenoiser(means, s), table(x), width=width, solver_steps=0)

        def log_p(x: Tensor, total: float = s**2 + width**2, means: Tensor = means) -> Tensor:
            return (-(x[:, None] - means).square().sum(-1) / (2 * total)).logsumexp(1)

        value = log_p(x)
        for _ in range(20):
            x = objective.mean(x, Batch(50), 0)
            assert bool((log_p(x) >= value - 1e-10).all())
            value = log_p(x)


def test_the_gradient_is_the_point_less_the_mean():
    x = normal(4, 2)
    objective = MeanShift(ToyProblem().known_teacher, table(x), width=1.0, solver_steps=0)
    objective.streams.reset(0)
    index = objective.latents(32)
    objective.streams.reset(0)
    objective.loss(Batch(32), 0).value.backward()
    count = torch.bincount(index, minlength=4)[:, None]
    wanted = (x - objective.mean(x, Batch(4), 0)) * count / 32
    torch.testing.assert_close(objective.generator.table.grad, wanted)


# Two modes at -2 and 2 of standard deviation 0.5; SDS, which noises x, stops elsewhere.
@pytest.mark.parametrize(
    "width, stop, twice",
    [
        (0.5, 2.0000, 1.9993),
        (1.0, 1.9932, 1.7427),
        (1.25, 1.9462, 1.0054),
        (1.5, 1.7813, 0.0),
        (1.75, 1.3344, 0.0),
        (1.95, 0.0, 0.0),
    ],
)
def test_it_stops_at_modes_of_the_density_that_is_smoothed_once(width, stop, twice):
    teacher = MixtureDenoiser(torch.tensor([[2.0], [-2.0]]), 0.5)
    x = torch.tensor([[0.4]])
    objective = MeanShift(teacher, table(x), width=width, solver_steps=0)
    # Next to the threshold 1.9365 a step contracts by 1 in a hundred.
    for _ in range(900 if width == 1.95 else 100):
        x = objective.mean(x, Batch(1), 0)
    assert abs(float(x) - stop) < 1e-4
    assert width in (0.5, 1.95) or abs(float(x) - twice) > 0.2


# ---------------------------------------------------------------------------------- the sampler


# y / x of N(0, 2^2), of the continuous sampler, of 2,000 and of 40 levels from 80 to 0.002.
GAUSSIAN = {
    0.5: (0.946610, 0.946720, 0.952072),
    1.0: (0.842738, 0.842971, 0.854583),
    2.0: (0.655680, 0.655985, 0.671747),
    4.0: (0.438182, 0.438441, 0.452115),
}


@pytest.mark.parametrize("width", GAUSSIAN)
def test_the_sampler_has_the_known_decimals_and_forgets_its_noise(width):
    """y / x = sqrt(pi / 2r) exp(1 / 2r) erfc(1 / sqrt(2r)), r = (l / S)^2, and not 1 / (1 + r)."""
    ratio = (width / 2) ** 2
    continuous = math.sqrt(math.pi / (2 * ratio)) * math.exp(1 / (2 * ratio))
    continuous *= math.erfc(1 / math.sqrt(2 * ratio))
    wanted = GAUSSIAN[width]
    assert abs(continuous - wanted[0]) < 1e-6
    teacher = GaussianDenoiser(torch.zeros(1), 4 * torch.eye(1), sigma_min=1e-3, sigma_max=80.0)
    x, z = torch.full((2, 1), 1.7), torch.tensor([[1.3], [-0.8]])
    for n, number in ((2000, wanted[1]), (40, wanted[2])):
        y = product_sample(teacher, x, z, karras_grid(n, 2e-3, 80.0), width)
        assert float((y / x - number).abs().max()) < 1e-6
        assert abs(float(y[0] - y[1])) < 1e-6
    # The sampler is not exact, and we know by how much: the product's own mean is 1 / (1 + r).
    exact = {0.5: 0.941176, 1.0: 0.8, 2.0: 0.5, 4.0: 0.2}[width]
    mean = MeanShift(teacher, table(x), width=width, solver_steps=0).mean(x, Batch(2), 0)
    assert float((mean / x - exact).abs().max()) < 1e-6 and abs(number - exact) > 0.01


def test_the_mean_of_draws_is_that_of_so_many_samples_of_the_product():
    """With a kernel so wide that what is drawn depends on its noise."""
    teacher, x = ToyProblem().known_teacher, normal(5, 2)
    found = MeanShift(teacher, table(x), width=50.0, solver_steps=4, draws=3)
    noises = [normal(5, 2, seed) for seed in (1, 2, 3)]
    left = iter(noises)
    found.noise_like = lambda like: next(left)
    grid = karras_grid(4, teacher.sigma_min, teacher.sigma_max)
    each = [product_sample(teacher, x, z, grid, 50.0) for z in noises]
    torch.testing.assert_close(found.mean(x, Batch(5), 0), torch.stack(each).mean(0))
    assert not list(left) and float((each[0] - each[1]).abs().max()) > 0.1
    # And the levels between which the kernel pulls are those that were given.
    for limits in ({"low": 1.0}, {"high": 1.0}):
        within = MeanShift(teacher, table(x), width=1.0, solver_steps=4, **limits)
        within.noise_like = lambda like: noises[0]
        wanted = product_sample(teacher, x, noises[0], grid, 1.0, **limits)
        torch.testing.assert_close(within.mean(x, Batch(5), 0), wanted)
        assert (
            float((wanted - product_sample(teacher, x, noises[0], grid, 1.0)).abs().max()) > 0.01
        )


def test_the_pull_of_two_steps_is_that_of_one_and_stable_at_any_width():
    z, x = normal(5, 2), normal(5, 2, 1)
    a, b, c = (torch.full((5,), level) for level in (9.0, 2.0, 0.0))
    for width in (1e-3, 0.5, 30.0):
        whole = attracted(z, x, a, c, width)
        torch.testing.assert_close(
            attracted(attracted(z, x, a, b, width), x, b, c, width), whole, atol=1e-12, rtol=1e-9
        )
        assert bool(((whole - x).norm(dim=1) <= (z - x).norm(dim=1)).all())
    # exp(-(81 - 4) / 2): in half the square of the level, not in the level.
    moved = attracted(z, x, torch.full((5,), 1.2), torch.full((5,), 0.4), 1.0)
    torch.testing.assert_close((moved - x) / (z - x), torch.full((5, 2), math.exp(-0.64)))


def test_the_kernel_pulls_within_its_levels_only():
    teacher = GaussianDenoiser(torch.zeros(1), torch.eye(1), sigma_min=1e-3, sigma_max=80.0)
    x, z, grid = torch.full((1, 1), 3.0), torch.ones(1, 1), karras_grid(30, 1e-2, 80.0)
    free = product_sample(teacher, x, z, grid, 1.0, low=1.0, high=0.5)
    far = product_sample(teacher, x, z, grid, 1e6)
    torch.testing.assert_close(free, far, rtol=1e-6, atol=1e-9)  # the teacher's own sample
    pulled = [product_sample(teacher, x, z, grid, 1.0, high=high) for high in (80.0, 0.3)]
    assert float(pulled[0]) > float(pulled[1]) > float(free)
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        product_sample(teacher, x, z, grid, 0.0)
    with pytest.raises(ValueError, match="sigmas must decrease"):
        product_sample(teacher, x, z, grid.flip(0), 1.0)


@pytest.mark.parametrize("width, cosine", [(1.0, 0.98), (3.0, 0.9)])
def test_its_direction_is_the_mean_shift_of_mog40(width, cosine):
    """Of 200 points, half near modes: the cosine of one sample with the exact direction."""
    spec = DENSITIES["mog40"]()
    teacher = MixtureDenoiser(spec.means, spec.stds, spec.weights, sigma_min=0.01, sigma_max=80.0)
    near = spec.means[torch.arange(100) % 40] + 1.5 * normal(100, 2)
    x = torch.cat([near, 90 * torch.rand(100, 2, generator=torch.Generator().manual_seed(1)) - 45])
    grid = karras_grid(40, 0.01, 80.0)
    shift = product_sample(teacher, x, normal(200, 2, 3), grid, width) - x
    exact = teacher(x, torch.full((200,), width)) - x
    found = torch.cosine_similarity(shift, exact).mean()
    assert float(found) > cosine


# ---------------------------------------------------------------------------------- trainings


def test_particles_go_to_the_modes_of_mog40_where_the_level_is_annealed():
    """400 particles from all over, one call a step; data themselves have a median of 1.54."""
    spec = DENSITIES["mog40"]()
    teacher = MixtureDenoiser(spec.means, spec.stds, spec.weights, sigma_min=0.01, sigma_max=80.0)
    particles = 90 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 45
    objective = MeanShift(
        teacher,
        table(particles),
        width=lambda i: 3 * 0.1 ** (i / 99),
        solver_steps=0,
        lattice=True,
    )
    optimisation = Optimisation.adam({"generator": 1.0}, decay=lambda t: 1 - t)
    trainer = Trainer(objective, optimisation, steps=100)
    trainer.fit(DataFree(400))
    x = objective.generator.table.detach()
    # Modes of the density itself: overlapping Gaussians have fewer than forty.
    modes = spec.means.clone()
    for _ in range(200):
        modes = teacher(modes, torch.full((40,), 0.3))
    distance, nearest = torch.cdist(x, modes).min(1)
    assert float(distance.median()) < 0.15 * float(spec.stds[0])
    assert len(nearest.unique()) >= 25
    assert -float(spec.log_prob(x).mean()) < 6.1


def test_a_kernel_that_narrows_reaches_the_stage_and_what_does_not_fit_is_refused():
    settings = replace(METHOD.examples["mean-shift"].settings, kernel=KernelSettings(width=2.0))
    stage = next(recipe(ToyProblem(), settings, Context()))
    widths = [stage.objective.width(i) for i in (0, 9, 20)]
    assert widths == pytest.approx([2.0, 0.3, 0.3])
    for wrong, words in (
        ({"width": 0.1}, "width_end must be at most kernel.width"),
        ({"width": -1.0}, "kernel.width must be positive"),
        ({"low": 3.0, "high": 2.0}, "kernel.low must be below kernel.high"),
        ({"high": 0.0}, "kernel.high must be positive"),
    ):
        with pytest.raises(ConfigError, match=words):
            KernelSettings(**wrong)
    asked = Settings(estimator="denoiser", kernel=KernelSettings(width=9.0))
    with pytest.raises(ConfigError, match="must be within 0.1 and 8, its noise levels, got 9"):
        next(recipe(ToyProblem(), asked, Context()))
    with pytest.raises(ConfigError, match="draws must be at least 1"):
        Settings(draws=0)


def test_new_densities_have_mass_one_and_the_lengths_that_are_told():
    arms, tree = DENSITIES["pinwheel"](), DENSITIES["fractal"]()
    for spec in (arms, tree):
        assert float(spec.weights.sum()) == pytest.approx(1.0)
        x = spec.sample(500, torch.Generator().manual_seed(0))
        assert x.shape == (500, 2) and bool(x.isfinite().all())
    assert len(tree.means) == 4 * 127 and len(arms.means) == 200
    assert float(tree.stds.min() / tree.stds.max()) == pytest.approx(0.7**6)
    # Each generation has the same mass; five arms are one turned by a fifth.
    generations = [tree.weights[tree.stds == s].sum() for s in tree.stds.unique()]
    assert torch.stack(generations).tolist() == pytest.approx([1 / 7] * 7)
    c, s = math.cos(2 * math.pi / 5), math.sin(2 * math.pi / 5)
    turned = arms.means[:40] @ torch.tensor([[c, s], [-s, c]])
    torch.testing.assert_close(turned, arms.means[40:80])


def test_a_student_of_it_gathers_and_particles_stay_apart():
    """The method claims no law: four corners, a student of a latent, and particles."""
    variables = VariableSettings(kind="particles", particles=60)
    settings = replace(METHOD.examples["mean-shift-denoiser"].settings, variables=variables)
    problem = ToyProblem()
    x = problem.networks.variables(variables).table.detach()
    objective = next(recipe(problem, settings, Context())).objective
    for _ in range(60):
        x = objective.mean(x, Batch(len(x)), 9)
    corners = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]])
    distance, nearest = torch.cdist(x, corners).min(1)
    # Data are 0.3 wide about a corner: no width within a mode is left, and all corners have some.
    assert float(distance.median()) < 0.01 and len(nearest.unique()) == 4
