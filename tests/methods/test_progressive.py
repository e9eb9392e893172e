"""Progressive distillation: of Gaussian data every student is the sampler that it was taught by."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from cases import denoiser, is_noised, last_stage
from torch import nn

from vardiu.data.batch import Batch
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.guidance import Guided
from vardiu.denoisers.levels import karras_grid
from vardiu.errors import ConfigError
from vardiu.functional.scores import edm_weight, truncated_snr
from vardiu.functional.trajectories import step
from vardiu.methods.progressive import METHOD, ProgressiveDistillation, Settings, noised, plan
from vardiu.problems.continued import Continued
from vardiu.problems.toy import ToyProblem
from vardiu.settings import build
from vardiu.students.few_step import FewStep, OneStep
from vardiu.training.stage import Context, Trained
from vardiu.training.states import Shown

V = 0.25  # the variance of the data
SNR = partial(truncated_snr, sigma_data=1.0)


def cosine(n):
    """The levels tan(pi u / 2) of alpha = cos(pi u / 2) at u = 1, 1 - 1/n, ..., 0."""
    u = torch.linspace(1, 0, n + 1)
    return (math.pi * u / 2).tan()


def alpha(sigma):
    return 1 / (1 + sigma.square()).sqrt()


def line():
    return GaussianDenoiser(torch.zeros(1), V * torch.ones(1), sigma_min=1e-9, sigma_max=2e16)


class PerLevel(Denoiser):
    """A denoiser of one factor a level; levels that are none of the grid are refused."""

    shape = (1,)

    def __init__(self, grid, factor=None):
        super().__init__()
        self.grid = grid[:-1]
        self.sigma_min, self.sigma_max = float(grid[-2]), float(grid[0])
        self.factor = nn.Parameter(torch.zeros(len(grid) - 1) if factor is None else factor)

    def forward(self, x_t, sigma, **cond):
        at = sigma[:, None] == self.grid
        assert at.any(1).all()
        return (at * self.factor).sum(1)[:, None] * x_t


def taught(teacher, grid, x=None, **options):
    """The best linear student of a stage: a denoiser of the ratios of targets and states."""
    objective = ProgressiveDistillation(
        teacher, PerLevel(grid[:: options.get("stride", 2)]), grid, weight=SNR, **options
    )
    n = objective.calls
    objective.quantiles = lambda rows: (torch.arange(rows) % n + 0.5) / n
    x = math.sqrt(V) * torch.randn(4 * n, 1) if x is None else x
    with torch.no_grad():
        drawn = objective.prepare(Batch.of(x), 0)
    return objective, drawn, (drawn.target / drawn.x_t)[:n, 0]


def deviation(student):
    """The standard deviation of samples of a student that is a factor of its latent."""
    return student(torch.ones(1, *student.latent_shape)).item()


def ddim_deviation(denoiser, n):
    sigmas = cosine(n)[:-1].tolist()
    return deviation(FewStep(denoiser, sigmas, "ddim"))


# ---------------------------------------------------------------- the closed forms


def ratio(t, s):
    """Of the noise scales of two signal scales."""
    return ((1 - s**2) / (1 - t**2)).clamp_min(0).sqrt()


def factor(t, s):
    """What a step of DDIM from signal scale t to s multiplies a state by."""
    k = V * t / (V * t**2 + 1 - t**2)
    return s * k + ratio(t, s) * (1 - t * k)


def test_the_coefficients_of_the_best_student_are_those_of_two_steps():
    grid = cosine(8)
    objective, drawn, factors = taught(line(), grid)
    found = (factors / alpha(grid[:-1:2])).flip(0)  # in the coordinate z = alpha x
    wanted = [0.7368092434, 0.3412660231, 0.1410545261, 0.0255946497]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=1e-9)
    own = line()(torch.ones(4, 1), grid[:-1:2])[:, 0] / alpha(grid[:-1:2])
    wanted = [0.6418772790, 0.2828427125, 0.1074754158, 0.0]
    torch.testing.assert_close(own.flip(0), torch.tensor(wanted), rtol=0, atol=1e-9)
    # The formula in the paper's own coordinate, at all but the first level.
    t, m, s = alpha(grid[2:-1:2]), alpha(grid[3::2]), alpha(grid[4::2])
    by_hand = (factor(t, m) * factor(m, s) - ratio(t, s)) / (s - ratio(t, s) * t)
    torch.testing.assert_close(by_hand, found.flip(0)[1:], rtol=1e-9, atol=0)


def test_a_student_of_four_steps_has_the_deviation_of_eight_exactly():
    grid = cosine(8)
    objective, _, factors = taught(line(), grid)
    student = objective.student_of(PerLevel(grid[::2], factors))
    assert (student.calls, student.rule) == (4, "ddim")
    assert deviation(student) == pytest.approx(0.4113754689, abs=1e-9)
    assert ddim_deviation(line(), 8) == pytest.approx(0.4113754689, abs=1e-9)
    # Newton's step on the loss, which is quadratic in each factor, leads to the same.
    network = objective.generator
    with torch.no_grad():
        drawn = objective.prepare(Batch.of(torch.randn(400, 1)), 0)
    objective.weight = torch.ones_like
    (g,) = torch.autograd.grad(objective.loss(drawn, 0).value, network.factor, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), network.factor)
    torch.testing.assert_close(network.factor - g / h, factors, rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize(
    "n, std",
    [
        (1, 0.0),
        (2, 0.2),
        (4, 0.33344),
        (8, 0.41138),
        (16, 0.45393),
        (64, 0.48809),
        (1024, 0.49925),
    ],
)
def test_the_deviation_of_ddim_by_its_number_of_steps(n, std):
    assert ddim_deviation(line(), n) == pytest.approx(std, abs=6e-6)


def test_the_next_teacher_is_the_last_student_down_to_one_step():
    """1,024 steps to one: the deviation of 1,024 steps, where DDIM in one step has none."""
    grid, teacher = cosine(1024), line()
    while len(grid) > 2:
        objective, _, factors = taught(teacher, grid)
        grid = grid[::2]
        teacher = PerLevel(grid, factors)
    student = objective.student_of(teacher)
    assert isinstance(student, OneStep)
    assert deviation(student) == pytest.approx(0.49925, abs=6e-6)
    assert deviation(student) == pytest.approx(ddim_deviation(line(), 1024), rel=1e-9)
    # In the limit of many steps one is the exact map, sqrt(v) z / rho.
    assert deviation(student) == pytest.approx(math.sqrt(V), abs=1e-3)


def test_a_stub_that_takes_the_second_estimate_for_its_target_is_seen():
    grid = cosine(8)
    objective, drawn, factors = taught(line(), grid)
    with torch.no_grad():  # the second estimate, of the state in the middle
        sigma, m = grid[:-1:2], grid[1::2]
        x = drawn.x_t[: len(sigma)]
        middle = step(x, sigma, m, line()(x, sigma))
        stub = (line()(middle, m) / x)[:, 0]
    found = stub / alpha(sigma)
    wanted = [0.0492410, 0.1667549, 0.3728845, 0.7368092]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=1e-7)
    assert deviation(objective.student_of(PerLevel(grid[::2], stub))) == pytest.approx(
        0.43065, abs=6e-6
    )
    assert (stub - factors)[:-1].abs().div(alpha(sigma)[:-1]).min() > 0.02


def test_one_step_with_the_target_lands_where_the_teacher_does():
    grid = karras_grid(8, 0.1, 8.0)
    teacher = denoiser()
    objective = ProgressiveDistillation(teacher, denoiser(), grid, weight=SNR)
    with torch.no_grad():
        drawn = objective.prepare(Batch.of(torch.randn(64, 2)), 0)
        x, place = drawn.x_t, (drawn.sigma[:, None] == grid).int().argmax(1)
        for i in range(2):
            x = step(x, grid[place + i], grid[place + i + 1], teacher(x, grid[place + i]))
    assert torch.equal(drawn.end, grid[place + 2]) and set((place % 2).tolist()) == {0}
    torch.testing.assert_close(drawn.x_end, x, rtol=0, atol=1e-12)
    landed = step(drawn.x_t, drawn.sigma, drawn.end, drawn.target)
    torch.testing.assert_close(landed, x, rtol=0, atol=1e-6)
    last = drawn.end == 0
    assert last.any() and torch.equal(drawn.target[last], drawn.x_end[last])


def heun_deviation(sigmas, v=V):
    """By hand: a step from t to s < t multiplies by 1 + (s - t)/2 (d_t + h d_s), d = t/(v + t^2)
    and h = 1 + (s - t) d_t, and the last one, which ends at the data, by h."""
    found = sigmas[0]
    for t, s in zip(sigmas, sigmas[1:], strict=False):
        d = t / (v + t**2)
        h = 1 + (s - t) * d
        found *= 1 + (s - t) / 2 * (d + h * s / (v + s**2)) if s else h
    return found


def test_a_first_teacher_of_heuns_method_is_followed_and_the_later_ones_are_as_always():
    """Four steps, two and one have the deviation of eight steps of Heun's method, 0.57584; with
    that method in every stage, of students that answer where steps of DDIM land, 3.78."""
    levels = karras_grid(8, 0.02, 20.0)
    exact = heun_deviation(levels.tolist())
    assert exact == pytest.approx(0.57584, abs=6e-6)
    found = {}
    for later in (False, True):
        grid, teacher, correct = levels, line(), True
        while len(grid) > 2:
            objective, drawn, factors = taught(teacher, grid, correct=correct)
            grid, correct = grid[::2], later
            teacher = PerLevel(grid, factors)
            student = objective.student_of(teacher)
            found[later, student.calls] = deviation(student)
    assert [found[False, n] for n in (4, 2, 1)] == pytest.approx(3 * [exact], rel=1e-9)
    assert found[True, 4] == pytest.approx(exact, rel=1e-9)
    assert found[True, 1] == pytest.approx(3.7775, abs=6e-5)


def test_the_weights_are_those_of_sample_noise_and_v():
    sigma = torch.logspace(-2, 2, 40)
    x, estimate, target = torch.randn(3, 40, 5)
    noise = [(x - other) / sigma[:, None] for other in (estimate, target)]
    mse_x = (estimate - target).square().mean(1)
    mse_eps = (noise[0] - noise[1]).square().mean(1)
    wanted = torch.maximum(mse_x, mse_eps)
    torch.testing.assert_close(SNR(sigma) * mse_x, wanted, rtol=1e-5, atol=0)
    # v = alpha eps - s x, of the network's own input alpha x_t.
    a, s = alpha(sigma)[:, None], sigma[:, None] * alpha(sigma)[:, None]
    v = [a * e - s * d for e, d in zip(noise, (estimate, target), strict=True)]
    mse_v = (v[0] - v[1]).square().mean(1)
    torch.testing.assert_close(edm_weight(sigma, 1.0) * mse_x, mse_v, rtol=1e-5, atol=0)
    # Of data twice as wide it is the same number at twice the level, of errors twice as large.
    torch.testing.assert_close(4 * truncated_snr(2 * sigma, 2.0), SNR(sigma))


def test_the_loss_weighs_each_rows_own_level():
    objective = ProgressiveDistillation(
        denoiser(), denoiser(), karras_grid(8, 0.1, 8.0), weight=SNR
    )
    with torch.no_grad():
        drawn = objective.prepare(Batch.of(torch.randn(64, 2)), 0)
    loss = objective.loss(drawn, 0)
    error = (objective.generator(drawn.x_t, drawn.sigma) - drawn.target).square().mean(1)
    wanted = (drawn.sigma**-2).clamp_min(1) * error
    torch.testing.assert_close(loss.value, wanted.mean())
    torch.testing.assert_close(loss.info["squared_error"], error.mean().detach())


# ---------------------------------------------------------------- the stages


def driven(problem, config):
    """The stages of a recipe and what it returns, with students as they start."""
    recipe, stages = METHOD.recipe(problem, config, Context()), []
    stage = next(recipe)
    while True:
        stages.append(stage)
        try:
            stage = recipe.send(Trained(stage.objective.generator, stage.objective))
        except StopIteration as stop:
            return stages, stop.value


def test_stages_halve_one_grid_and_the_teacher_is_the_last_student():
    config = Settings(steps=90, grid=8, fold=4.0)
    stages, student = driven(ToyProblem(), config)
    names = [stage.name for stage in stages]
    assert names == ["fold", "4-steps", "2-steps", "1-steps"]
    assert [stage.steps for stage in stages] == [40, 10, 20, 20]
    assert sum(stage.share for stage in stages) == pytest.approx(1) and stages[0].of == 4
    assert [s.objective.student_of(s.objective.generator).calls for s in stages] == [8, 4, 2, 1]
    for before, after in zip(stages, stages[1:], strict=False):
        teacher = after.objective.teacher.module
        assert teacher is before.objective.generator
        assert after.objective.generator is not teacher and not teacher.training
        for a, b in zip(teacher.parameters(), after.objective.generator.parameters(), strict=True):
            assert torch.equal(a, b) and a is not b and not a.requires_grad
        levels = before.objective.grid[:: before.objective.stride]
        assert torch.equal(after.objective.grid, levels)  # the same physical levels
    assert student.calls == 1 and student.sigma == 8.0


def test_a_student_that_has_the_teachers_weights_is_halved_at_once_and_a_guided_one_not():
    problem = ToyProblem(classes=2)
    problem.teacher = denoiser(2)
    names = [stage.name for stage in driven(problem, Settings(steps=9, grid=4))[0]]
    assert names == ["2-steps", "1-steps"]
    problem.teacher = Guided(denoiser(2), 2.0, null={"label": torch.tensor([0])})
    stages, _ = driven(problem, Settings(steps=9, grid=4))
    assert [stage.name for stage in stages] == ["fold", "2-steps", "1-steps"]
    # What is folded in is the guided answer itself, at the grid's own levels.
    objective = stages[0].objective
    batch = Batch.of(torch.randn(40, 2), {"label": torch.arange(40) % 2})
    with torch.no_grad():
        drawn = objective.prepare(batch, 0)
        guided = problem.teacher(drawn.x_t, drawn.sigma, **batch.cond)
    torch.testing.assert_close(drawn.target, guided, rtol=1e-9, atol=1e-9)
    assert set(drawn.sigma.tolist()) == set(objective.grid[:-1].tolist())
    assert not any(isinstance(m, Guided) for m in stages[1].objective.teacher.module.modules())


@pytest.mark.parametrize("fold", [True, False])
def test_heuns_method_is_the_first_teachers_and_of_its_steps_alone(fold):
    problem = ToyProblem()
    if not fold:
        problem.teacher = denoiser()
    stages, _ = driven(problem, Settings(steps=90, grid=8, solver="heun"))
    found = {stage.name: stage.objective.correct for stage in stages}
    wanted = {"4-steps": True, "2-steps": False, "1-steps": False}
    assert found == ({"fold": False} if fold else {}) | wanted
    stages, _ = driven(problem, Settings(steps=90, grid=8))
    assert not any(stage.objective.correct for stage in stages)


def test_the_student_of_another_run_is_asked_for_no_slope():
    problem = ToyProblem()
    student = FewStep(denoiser(), [8.0, 3.0, 1.0, 0.2], "ddim")
    problem.networks = Continued(problem.networks, student, "four")
    stages, _ = driven(problem, Settings(steps=9, grid=4, solver="heun"))
    assert [stage.name for stage in stages] == ["2-steps", "1-steps"]
    assert not any(stage.objective.correct for stage in stages)


def test_data_are_noised_by_the_levels_of_their_places():
    objective = last_stage("progressive").objective
    x, place = torch.randn(2_000, 2), torch.arange(2_000) % objective.calls
    states = noised(objective, Batch.of(x), place, 0)
    assert is_noised(states.x_t, x, objective.visited(place)[0]) and states.place is place


def test_where_states_come_from_is_an_argument():
    grid = karras_grid(4, 0.1, 8.0)

    def own(objective, batch, place, step):
        x_t = place[:, None] + objective.noise_like(torch.zeros(batch.rows, 2))
        return Shown(x_t, place, batch.cond)

    objective = ProgressiveDistillation(denoiser(), denoiser(), grid, weight=SNR, states=own)
    objective.streams.reset(0)
    with torch.no_grad():
        drawn = objective.prepare(Batch(10), 0)  # no data
    place = (drawn.sigma < 8).to(drawn.x_t)
    objective.streams.reset(0)
    noise = objective.noise_like(torch.zeros(10, 2))
    torch.testing.assert_close(drawn.x_t, place[:, None] + noise)
    assert set(drawn.sigma.tolist()) == {float(grid[0]), float(grid[2])}


# ---------------------------------------------------------------- bad input


def test_bad_input_is_one_line_before_training():
    message = (
        "sampling_steps must be one of 64, 32, 16, 8, 4, 2, 1, to which halving grid=64 leads"
    )
    with pytest.raises(ConfigError, match=f"{message}, got 3"):
        Settings(sampling_steps=3)
    with pytest.raises(
        ConfigError, match="one of 12, 6, 3, to which halving grid=12 leads, got 1"
    ):
        Settings(grid=12)
    with pytest.raises(ConfigError, match=r"grid_max must be above 0.1 and at most 8, .* got 9"):
        driven(ToyProblem(), Settings(grid=4, grid_max=9.0))
    make = partial(ProgressiveDistillation, denoiser(), denoiser(), weight=SNR)
    with pytest.raises(ValueError, match="must end at the data, at 0, got 1 at the end"):
        make(torch.tensor([8.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="3 steps of the teacher are no whole number of the"):
        make(torch.tensor([8.0, 2.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="sigmas must decrease"):
        make(torch.tensor([8.0, 9.0, 0.0]))


def test_all_updates_are_made_and_every_stage_has_one():
    problem = ToyProblem()
    for steps in (50, 51, 97, 1_000):
        stages, _ = driven(problem, Settings(steps=steps, grid=64))
        assert sum(stage.steps for stage in stages) == steps
        assert all(abs(stage.steps - steps * stage.share) <= 1 for stage in stages)
    # The lengths of the seven stages are as those of the fold, 1, 1, 1, 1, 2 and 2.
    for fold, least in ((1.0, 9), (4.0, 12)):
        config = Settings(grid=64, fold=fold)
        assert min(stage.steps for stage in driven(problem, replace(config, steps=least))[0]) == 1
        with pytest.raises(ConfigError, match=f"steps must be at least {least}, .* got 3"):
            driven(problem, replace(config, steps=3))


def test_a_plan_ends_where_it_is_asked_to_and_its_shares_are_one():
    rows = plan(Settings(grid=64, late=3.0, steps=1_234), fold=False)
    assert sum(row[3] for row in rows) == 1_234
    assert all(abs(steps - 1_234 * share) <= 1 for *_, share, steps in rows)
    assert [calls for calls, *_ in rows] == [32, 16, 8, 4, 2, 1]
    assert rows[-1][2] == pytest.approx(3 * rows[0][2]) and rows[-2][2] == rows[-1][2]
    assert [r[:2] for r in plan(Settings(grid=8, sampling_steps=4), True)] == [(8, 1), (4, 2)]
    assert [r[:2] for r in plan(Settings(grid=4, sampling_steps=4), False)] == [(4, 1)]
    grid = build.grid(denoiser(), 6, 4.0, 3.0)
    assert (grid[0], grid[-1], len(grid)) == (4.0, 0.0, 7)
