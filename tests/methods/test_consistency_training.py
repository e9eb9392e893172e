"""Consistency training: its curricula in closed form, its fixed point that of Euler's method."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import denoiser
from consistent import HIGH, LOW, PerLevel, V, prepared, solver_factors

from vardiu.data.batch import Batch
from vardiu.denoisers.consistency import ConsistencyDenoiser
from vardiu.denoisers.grids import spaced_levels
from vardiu.errors import ConfigError
from vardiu.functional.consistency import (
    doubling,
    growing_decay,
    log_normal_shares,
    square_root,
)
from vardiu.functional.distances import distance_of
from vardiu.methods.consistency_training import METHOD, ConsistencyTraining, Settings
from vardiu.methods.self_consistency import SelfConsistency
from vardiu.problems.toy import ToyProblem
from vardiu.training.memory import Target
from vardiu.training.stage import Context

# ---------------------------------------------------------------- closed forms


def test_the_number_of_levels_doubles_eight_times():
    """s0 = 10, s1 = 1280, 400,000 steps: a stage has K' = 400,000 / 8 of them."""
    found = [doubling(k, 400_000, 10, 1_280) for k in range(0, 400_001, 50_000)]
    assert found == [11, 21, 41, 81, 161, 321, 641, 1_281, 1_281]
    assert doubling(49_999, 400_000, 10, 1_280) == 11
    # No power of two apart: floor(log2(floor(50 / 8))) + 1 = 3 stages, and no more than asked for.
    assert [doubling(k, 9, 8, 50) for k in range(10)] == [9] * 3 + [17] * 3 + [33] * 3 + [51]
    assert doubling(0, 1, 4, 4) == 5


def test_the_first_curriculum_and_the_rate_of_its_target():
    """s0 = 2, s1 = 150, mu0 = 0.95, 800,000 steps."""
    found = [square_root(k, 800_000, 2, 150) for k in (0, 1, 200_000, 400_000, 800_000)]
    assert found == [2, 3, 76, 107, 151]
    assert growing_decay(2, 2, 0.95) == pytest.approx(0.9025)
    assert growing_decay(151, 2, 0.95) == pytest.approx(0.99931632, abs=1e-8)
    assert growing_decay(7, 2, 0.0) == 0.0


def test_intervals_are_drawn_by_their_share_of_a_log_normal_law():
    levels = torch.tensor([80.0, 5.0, 0.5, 0.002])
    shares = log_normal_shares(levels, -1.1, 2.0)
    below = [math.erf((math.log(t) + 1.1) / (math.sqrt(2) * 2.0)) for t in levels.tolist()]
    gaps = torch.tensor([a - b for a, b in itertools.pairwise(below)])
    torch.testing.assert_close(shares, gaps / gaps.sum())
    assert shares.tolist() == pytest.approx([0.085403, 0.334435, 0.580161], abs=1e-6)


@pytest.mark.parametrize("c", [0.00054, 0.03, 2.0])
def test_the_distance_is_squared_below_its_softness_and_straight_above(c):
    v = torch.randn(5, 3, 2)
    wanted = (v.square().mean((1, 2)) + c**2).sqrt() - c
    torch.testing.assert_close(distance_of("pseudo_huber", c)(v), wanted)
    tiny = distance_of("pseudo_huber", c)(1e-9 * torch.ones(1, 4))
    assert tiny.item() == pytest.approx(1e-18 / (2 * c), rel=1e-6)  # and no cancellation
    assert distance_of("pseudo_huber", c)(1e9 * torch.ones(1, 4)).item() == pytest.approx(1e9)


# ---------------------------------------------------------------- the fixed point


def case(n, **options):
    """A grid of n levels that does not change, on a line."""
    grid = spaced_levels(PerLevel(torch.tensor([HIGH, LOW])), n, 7.0)
    network = ConsistencyDenoiser(PerLevel(grid))
    return ConsistencyTraining(network, curriculum=lambda step: n, most=n, **options)


@pytest.mark.parametrize("n, std", [(10, 0.36523), (18, 0.42305), (40, 0.46487)])
def test_a_linear_student_converges_to_eulers_map(n, std):
    """The regression of a state on the one below has Euler's factor, (v + t t') / (v + t^2).

    Rows of both signs of data and noise at each level have the moments of the law exactly.
    """
    objective = case(n)
    factor = objective.generator.denoiser.factor
    shares = log_normal_shares(objective.grid, objective.mean, objective.std)
    inside = (shares.cumsum(0) - shares / 2).repeat_interleave(4)
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=2))).repeat(n - 1, 1)
    objective.quantiles = lambda rows: inside
    objective.noise_like = lambda x: signs[:, 1:]
    given = Batch.of(math.sqrt(V) * signs[:, :1])
    for step in range(n - 1):
        drawn = prepared(objective, given)
        value = objective.loss(drawn, step).value
        (gradient,) = torch.autograd.grad(value, factor, create_graph=True)
        (curvature,) = torch.autograd.grad(gradient.sum(), factor)
        with torch.no_grad():
            factor[:-1] -= gradient[:-1] / curvature[:-1]
            objective.remember([drawn], step)
    x = torch.ones(1, 1)
    theta = objective.generator(x, x.new_full((1,), HIGH)).item()
    assert theta == pytest.approx(solver_factors(objective.grid, False).prod().item(), rel=1e-9)
    assert theta * math.sqrt(V + HIGH**2) == pytest.approx(std, abs=6e-6)
    assert abs(std - 0.5) > 0.03


# ---------------------------------------------------------------- the loss


def test_a_pair_has_one_noise_and_each_network_its_own_level():
    objective = case(6)
    given = Batch.of(math.sqrt(V) * torch.randn(4_000, 1))
    drawn = prepared(objective, given)
    places = (drawn.sigma[:, None] == objective.grid).int().argmax(1)
    assert torch.equal(drawn.lower, objective.grid[places + 1])
    noise = (drawn.x_t - given.x) / drawn.sigma[:, None]
    x_next = given.x + drawn.lower[:, None] * noise
    (told,) = objective.target.network.denoiser.asked
    assert torch.equal(told, drawn.lower) and not objective.generator.denoiser.asked
    torch.testing.assert_close(drawn.value, objective.target(x_next, drawn.lower))
    error = (objective.generator(drawn.x_t, drawn.sigma) - drawn.value).square()[:, 0]
    wanted = (error / (drawn.sigma - drawn.lower)).mean()
    torch.testing.assert_close(objective.loss(drawn, 0).value, wanted)
    shares = log_normal_shares(objective.grid, -1.1, 2.0)
    counts = places.bincount(minlength=5)[:5]
    spread = (4_000 * shares * (1 - shares)).sqrt()
    assert ((counts - 4_000 * shares).abs() < 5 * spread + 1).all()


def test_no_teacher_is_held_and_the_gradient_is_that_of_the_first_network():
    network = ConsistencyDenoiser(denoiser())
    objective = ConsistencyTraining(network, curriculum=lambda step: 5, most=9)
    assert not hasattr(objective, "teacher") and objective.teacher_cost == (0, 0)
    drawn = prepared(objective, Batch.of(torch.randn(40, 2)))
    objective.loss(drawn, 0).value.backward()
    assert all(p.grad is not None for p in network.parameters())
    assert all(p.grad is None for p in objective.target.parameters())
    assert not drawn.value.requires_grad


def test_the_grid_grows_and_the_target_is_a_copy():
    problem, row = ToyProblem(), METHOD.examples["consistency-training"].settings
    stage = next(METHOD.recipe(problem, row, Context()))
    objective = stage.objective
    assert [len(objective.levels_at(k)) for k in range(10)] == [3] * 3 + [5] * 3 + [9] * 4
    assert isinstance(objective.target, Target) and objective.target.decay == 0.0
    assert objective.mean == pytest.approx(-0.41 + math.log(2.0))
    given = Batch.of(torch.randn(20, 2))
    with torch.no_grad():
        for p in objective.generator.parameters():
            p += 0.1
        objective.remember([prepared(objective, given)], 0)
    pairs = zip(objective.target.parameters(), objective.generator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_rate_of_a_target_may_grow_with_the_grid():
    row = METHOD.examples["consistency-training-classes"].settings
    objective = next(METHOD.recipe(ToyProblem(2), row, Context())).objective
    levels = [square_root(k, row.steps, row.grid_start, row.grid) for k in (0, 9)]
    wanted = [math.exp(2 * math.log(0.9) / (n - 1)) for n in levels]
    assert [objective.target.decay(k) for k in (0, 9)] == pytest.approx(wanted)


def test_it_starts_fresh_or_from_the_teacher():
    class Networks:
        calls, begins_elsewhere = [], False

        def denoiser(self):
            self.calls.append("fresh")
            return denoiser()

        def student_denoiser(self):
            self.calls.append("teacher")
            return denoiser()

    problem = ToyProblem()
    problem.networks = Networks()
    for elsewhere in (False, True):
        problem.networks.begins_elsewhere = elsewhere
        next(METHOD.recipe(problem, Settings(), Context()))
    assert Networks.calls == ["fresh", "teacher"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"grid_start": 20, "grid": 10}, r"grid_start must be within \[1, grid=10\], got 20"),
        ({"sampling_steps": 9, "grid": 8, "grid_start": 2}, r"sampling_steps must be within"),
        ({"target_decay": 1.0}, r"target_decay must be within \[0, 1\), got 1"),
        ({"softness": 0.0}, "softness must be positive"),
        ({"level_std": -1.0}, "level_std must be positive"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Settings(**options)


def test_levels_that_do_not_end_at_the_data_are_refused():
    network = ConsistencyDenoiser(denoiser())
    with pytest.raises(ValueError, match="levels must end at the data, 0.1, .* got 0.5"):
        SelfConsistency(None, network, torch.tensor([8.0, 0.5]), target_decay=0.0)
    with pytest.raises(ValueError, match="must decrease"):
        SelfConsistency(None, network, torch.tensor([0.1, 8.0]), target_decay=0.0)
