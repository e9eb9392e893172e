"""ReDiF against closed forms: the exact policy gradient, its truth table, and what may go wrong."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch
from cases import Repeat, last_stage, stages_of
from torch import Tensor, nn

from vardiu.data.batch import Batch
from vardiu.denoisers.base import Denoiser
from vardiu.errors import ConfigError, Diverged
from vardiu.functional.bounds import gaussian_kl
from vardiu.functional.policy import (
    GUARDS,
    centred_in_groups,
    clipped_surrogate,
    cosine_agreement,
    gaussian_agreement,
    step_divergence,
    step_log_density,
    unbiased_ratio_divergence,
)
from vardiu.functional.trajectories import step
from vardiu.methods.base import Example
from vardiu.methods.policy_gradient import PolicyGradient, answers
from vardiu.methods.redif import METHOD, Settings, recipe
from vardiu.methods.rewards import Agreement, OwnReward, principal
from vardiu.problems.toy import ToyProblem
from vardiu.samplers.pairs import Pairs
from vardiu.samplers.policy import StepPolicy
from vardiu.settings.fields import PairSettings
from vardiu.storage.code import OwnCode
from vardiu.students.few_step import FewStep
from vardiu.training.memory import History
from vardiu.training.stage import Context, Trained
from vardiu.training.trainer import Trainer

T1, T2, K, S1, S2 = 0.7, 0.9, 1.2, 0.3, 0.2
EXACT = torch.tensor([1.026, 0.6363])


def nodes(count: int, points: int = 5) -> tuple[Tensor, Tensor]:
    """Points of so many independent normal numbers, and weights under which means of polynomials
    of degree 9 in each are exact."""
    x, w = np.polynomial.hermite_e.hermegauss(points)
    w = w / w.sum()
    grid = torch.tensor(list(itertools.product(x, repeat=count)))
    weights = torch.tensor([math.prod(row) for row in itertools.product(w, repeat=count)])
    return grid, weights


def episode(z: Tensor, n1: Tensor, n2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two steps of a linear policy, its reward, and the log-density with a graph to its weights."""
    t = torch.tensor([T1, T2], requires_grad=True)
    x1 = T1 * z + S1 * n1
    x2 = T2 * x1 + S2 * n2
    ones = torch.ones(len(z))
    density = sum(
        step_log_density(after[:, None], (w * before)[:, None], s * ones, average=False)
        for after, w, before, s in ((x1, t[0], z, S1), (x2, t[1], x1, S2))
    )
    return t, -((x2 - K * z) ** 2), density, x2


def gradient(density: Tensor, t: Tensor, advantage: Tensor, weights: Tensor) -> Tensor:
    loss = clipped_surrogate(density - density.detach(), advantage, 0.2)
    return -torch.autograd.grad((weights * loss).sum(), t)[0]


def test_the_gradient_of_a_linear_policy_is_exact():
    grid, weights = nodes(3)
    t, reward, density, _ = episode(*grid.T)
    value = -((T1 * T2 - K) ** 2 + T2**2 * S1**2 + S2**2)
    assert float(weights @ reward) == pytest.approx(value, abs=1e-12)
    assert value == pytest.approx(-0.4378, abs=5e-5)
    found = gradient(density, t, reward, weights)
    wanted = torch.tensor([-2 * T2 * (T1 * T2 - K), -2 * T1 * (T1 * T2 - K) - 2 * T2 * S1**2])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(wanted, torch.tensor([1.026, 0.636]), rtol=0, atol=5e-4)
    # The deviation of one episode's estimate, without a baseline and with the mean reward.
    z, n1, n2 = grid.T
    slopes = torch.stack([n1 / S1 * z, n2 / S2 * (T1 * z + S1 * n1)], 1)
    for baseline, deviations in ((0.0, [5.9, 5.2]), (value, [5.0, 4.3])):
        rows = slopes * (reward - baseline)[:, None]
        torch.testing.assert_close(weights @ rows, wanted)  # a constant moves no mean
        found = (weights @ (rows - wanted).square()).sqrt()
        torch.testing.assert_close(found, torch.tensor(deviations), rtol=0, atol=0.06)


@pytest.mark.parametrize("group", [2, 3])
def test_centred_rewards_of_groups_give_a_share_of_the_gradient(group):
    """The mean has the row's own reward in it: (G - 1) / G of the gradient, 0.89775 for G = 8."""
    grid, weights = nodes(1 + 2 * group, 3)
    z = grid[:, 0].repeat_interleave(group)
    noise = grid[:, 1:].reshape(-1, 2)
    t, reward, density, _ = episode(z, *noise.T)
    advantage = centred_in_groups(reward, group, "none")
    found = gradient(density, t, advantage, weights.repeat_interleave(group) / group)
    whole, all_weights = nodes(3)
    t, reward, density, _ = episode(*whole.T)
    exact = gradient(density, t, reward, all_weights)
    torch.testing.assert_close(found, (group - 1) / group * exact, rtol=1e-9, atol=1e-10)
    eight = 7 / 8 * exact
    torch.testing.assert_close(eight, torch.tensor([0.89775, 0.5565]), rtol=0, atol=5e-4)


def test_deviations_of_groups_turn_the_gradient_and_groups_that_mix_noises_spoil_it():
    random, groups, size = torch.Generator().manual_seed(0), 20_000, 8
    z = torch.randn(groups, generator=random).repeat_interleave(size)
    noise = torch.randn(2, groups * size, generator=random)
    ones = torch.ones(len(z))
    t, reward, density, _ = episode(z, *noise)

    def rows(advantage: Tensor) -> Tensor:
        n1, n2 = noise
        x1 = T1 * z + S1 * n1
        return torch.stack([n1 / S1 * z, n2 / S2 * x1], 1) * advantage[:, None]

    advantage = centred_in_groups(reward, size, "none")
    right = rows(advantage)
    found = gradient(density, t, advantage, ones / len(z))
    torch.testing.assert_close(right.mean(0), found, rtol=1e-9, atol=1e-9)
    each = rows(centred_in_groups(reward, size, "group"))
    error = each.reshape(groups, size, 2).mean(1).std(0) / math.sqrt(groups)
    gap = each.mean(0) - torch.tensor([1.752, 0.966])
    assert bool((gap.abs() < 5 * error).all())
    assert float(each.mean(0)[0] / each.mean(0)[1]) > 1.72 > float(EXACT[0] / EXACT[1])
    # Groups of consecutive rows that are of different noises: about the mean, with more spread.
    mixed = torch.arange(len(z)).reshape(groups, size).T.reshape(-1)
    advantage = torch.empty_like(reward)
    advantage[mixed] = centred_in_groups(reward[mixed], size, "none")
    spoilt = rows(advantage)
    assert right[:, 0].std() < 3.3 and spoilt[:, 0].std() > 4.2


def test_groups_may_end_early_and_a_constant_reward_teaches_nothing():
    reward = torch.tensor([1.0, 3.0, 5.0])
    torch.testing.assert_close(
        centred_in_groups(reward, 2, "none"), torch.tensor([-1.0, 1.0, 0.0])
    )
    divided = centred_in_groups(reward, 2, "global")
    torch.testing.assert_close(
        divided, torch.tensor([-1.0, 1.0, 0.0]) / math.sqrt(2 / 3), rtol=1e-5, atol=0
    )
    by_group = centred_in_groups(reward, 2, "group")
    torch.testing.assert_close(by_group, torch.tensor([-1.0, 1.0, 0.0]), rtol=1e-5, atol=0)
    for divide in ("none", "global", "group"):
        assert not centred_in_groups(torch.full((6,), 0.3), 3, divide).any()


def test_averaged_densities_are_a_power_of_summed_ones():
    x, mean, s = torch.randn(4, 3, 2), torch.randn(4, 3, 2), torch.rand(4) + 0.5
    whole = step_log_density(x, mean, s, average=False)
    normal = torch.distributions.Normal(mean, s[:, None, None].expand_as(mean))
    torch.testing.assert_close(whole, normal.log_prob(x).sum((1, 2)))
    torch.testing.assert_close(step_log_density(x, mean, s, average=True), whole / 6)
    apart = step_divergence(mean, x, s, average=False)
    torch.testing.assert_close(step_divergence(mean, x, s, average=True), apart / 6)
    unit = torch.eye(6)
    for row in range(4):
        cov = s[row] ** 2 * unit
        exact = gaussian_kl(mean[row].flatten(), cov, x[row].flatten(), cov)
        torch.testing.assert_close(apart[row], exact)


TABLE = [
    # advantage, ratio, whether there is a gradient
    (1.0, 1.0, True),
    (-1.0, 1.0, True),
    (1.0, 1.3, False),
    (-1.0, 0.7, False),
    (1.0, 0.7, True),
    (-1.0, 1.3, True),
]


@pytest.mark.parametrize("advantage, ratio, moves", TABLE)
def test_the_truth_table_of_clipped_ratios(advantage, ratio, moves):
    log_ratio = torch.tensor(math.log(ratio), requires_grad=True)
    loss = clipped_surrogate(log_ratio, torch.tensor(advantage), 0.2)
    (found,) = torch.autograd.grad(loss, log_ratio)
    assert float(found) == pytest.approx(-advantage * ratio if moves else 0.0)
    clipped = min(max(ratio, 0.8), 1.2)
    assert loss.item() == pytest.approx(max(-advantage * ratio, -advantage * clipped))


def test_the_estimate_of_a_divergence_is_never_negative_and_right_on_average():
    (n,), weights = nodes(1, 60)[0].T, nodes(1, 60)[1]
    mean, other, s = 0.3, 0.5, 0.7
    x = mean + s * n
    d = ((x - mean) ** 2 - (x - other) ** 2) / (2 * s**2)
    estimate = unbiased_ratio_divergence(d)
    assert bool((estimate >= 0).all())
    exact = (mean - other) ** 2 / (2 * s**2)
    assert float(weights @ estimate) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("guard", sorted(GUARDS))
def test_a_guard_and_its_gradient_are_zero_at_the_start(guard):
    mean = torch.randn(5, 3, requires_grad=True)
    other, s = mean.detach().clone(), torch.full((5,), 0.4)
    x = other + 0.4 * torch.randn(5, 3)
    ratio = step_log_density(x, other, s, average=True) - step_log_density(
        x, mean, s, average=True
    )
    value = GUARDS[guard](mean, other, s, ratio, True).mean()
    (found,) = torch.autograd.grad(value, mean)
    assert float(value.abs()) < 1e-12 and float(found.abs().max()) < 1e-12


# -------------------------------------------------------------------------------- the sampler


CONSTANTS = [(0.3, 0.417161, 1.440825), (1.0, 1.390537, 0.5625)]


@pytest.mark.parametrize("eta, deviation, kept", CONSTANTS)
def test_constants_of_an_ancestral_step(eta, deviation, kept):
    policy = StepPolicy([4.0, 1.5], eta, 0.5)
    assert policy.deviations == pytest.approx([deviation, 0.5 * eta], abs=5e-7)
    x, denoised = torch.randn(6, 3), torch.randn(6, 3)
    mean = policy.mean(0, x, denoised)
    torch.testing.assert_close(mean, denoised + kept / 4 * (x - denoised), rtol=1e-5, atol=1e-6)
    assert policy.mean(1, x, denoised) is denoised
    noise = torch.randn(6, 3)
    levels = torch.full((6,), 4.0), torch.full((6,), 1.5)
    torch.testing.assert_close(
        mean + policy.deviations[0] * noise, step(x, *levels, denoised, noise, eta)
    )
    if eta == 1:  # the variance of the posterior of DDPM
        assert deviation**2 == pytest.approx(1.5**2 * (4**2 - 1.5**2) / 4**2, abs=1e-6)


def test_without_noise_it_is_eulers_step_and_from_infinite_noise_that_of_the_estimate():
    x, denoised = torch.randn(6, 3), torch.randn(6, 3)
    levels = torch.full((6,), 4.0), torch.full((6,), 1.5)
    little = StepPolicy([4.0, 1.5], 1e-6, 0.5)
    torch.testing.assert_close(little.mean(0, x, denoised), step(x, *levels, denoised))
    endless = StepPolicy([math.inf, 1.5], 0.6, 0.5)
    assert endless.deviations[0] == pytest.approx(0.9)
    torch.testing.assert_close(endless.mean(0, x, denoised), denoised + 1.2 * x)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (([1.0, 2.0], 0.3, 0.5), "must decrease and be positive"),
        (([2.0, 0.0], 0.3, 0.5), "must decrease and be positive"),
        (([2.0, 1.0], 0.0, 0.5), r"within \(0, 1\], got 0: a step without noise has no density"),
        (([2.0, 1.0], 0.3, 1.5), "at most the smallest level, 1, got 1.5"),
    ],
)
def test_a_policy_without_a_density_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        StepPolicy(*arguments)


class Scalars(Denoiser):
    """D = a_k x, with a number for each of two levels."""

    conditions = ()
    shape = (1,)
    sigma_min, sigma_max = 0.1, 10.0

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.4, 0.8]))

    def forward(self, x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return self.a[(sigma < 1.5).long()][:, None] * x


def scalar_objective(**options: object) -> PolicyGradient:
    student = FewStep(Scalars(), [2.0, 1.0], "ddim")
    policy = StepPolicy([2.0, 1.0], 0.5, 0.4, average=False)
    z = torch.randn(4_000, 1, generator=torch.Generator().manual_seed(3))
    pairs = Pairs(z, K * z, {})
    given = {"by_deviation": False, "guard_weight": 0.0, "group": 4, **options}
    reward = options.pop("reward", lambda x, y, cond: -(x - y).square().sum(1))
    given.pop("reward", None)
    return PolicyGradient(Scalars(), student, policy, reward, pairs, pairs, **given)


def test_the_loss_has_the_exact_gradient_of_a_gaussian_in_one_dimension():
    objective = scalar_objective()
    grid, weights = nodes(3)
    z, policy = grid[:, :1], objective.policy
    student = objective.student
    with torch.no_grad():
        noise = iter([grid[:, 1:2], grid[:, 2:]])
        done = policy.roll_out(lambda k, x: student.call(k, z if k == 0 else x), 2 * z, noise)
        drawn = objective.prepare(Batch(len(z)), 1)
        reward = objective.reward(done.states[:, -1], K * z, {})
        drawn = drawn._replace(
            z=z,
            states=done.states,
            log_prob=done.log_prob,
            advantage=len(z) * weights * reward,
        )
    objective.loss(drawn, 0).value.backward()
    a = student.denoiser.a
    # x_1 = t_1 z + s_1 n and x_2 = t_2 x_1 + s_2 n', from 2 z at level 2.
    s1, s2 = policy.deviations
    assert s1 == pytest.approx(0.5 * math.sqrt(3 / 4)) and s2 == 0.2
    kept = math.sqrt(1 - s1**2) / 2
    a0, a1 = a.tolist()
    t1, t2 = 2 * (a0 + kept * (1 - a0)), a1
    wanted = torch.tensor(
        [
            -2 * t2 * (t1 * t2 - K) * 2 * (1 - kept),
            -2 * t1 * (t1 * t2 - K) - 2 * t2 * s1**2,
        ]
    )
    torch.testing.assert_close(-2 * a.grad, wanted, rtol=1e-9, atol=1e-11)  # a mean of two steps


def test_it_is_the_gradient_through_the_episodes_of_a_smooth_reward():
    """Two steps by matrices in the plane: the policy gradient, and that through the samples."""
    rows, random = 60_000, torch.Generator().manual_seed(0)
    z, n1, n2 = torch.randn(3, rows, 2, generator=random)
    first = torch.tensor([[0.7, 0.2], [-0.1, 0.6]], requires_grad=True)
    second = torch.tensor([[0.9, -0.2], [0.1, 0.8]], requires_grad=True)
    target = z @ torch.tensor([[1.0, 0.3], [0.0, 0.8]])
    x1 = z @ first + S1 * n1
    x2 = x1 @ second + S2 * n2
    reward = (-(x2 - target).square().sum(1) / 2).exp()
    path = torch.autograd.grad(reward.mean(), (first, second), retain_graph=True)
    y1, y2, ones = x1.detach(), x2.detach(), torch.ones(rows)
    density = step_log_density(y1, z @ first, S1 * ones, average=False)
    density = density + step_log_density(y2, y1 @ second, S2 * ones, average=False)
    advantage = reward.detach() - reward.detach().mean()
    loss = clipped_surrogate(density - density.detach(), advantage, 0.2).mean()
    found = torch.autograd.grad(loss, (first, second))
    a, b = (torch.cat([g.flatten() for g in grads]) for grads in (path, found))
    assert float(torch.cosine_similarity(a, -b, dim=0)) > 0.99
    assert float(b.norm() / a.norm()) == pytest.approx(1, abs=0.05)


# -------------------------------------------------------------------------------- roll-outs


def prepared(objective: PolicyGradient, rows: int = 8, step: int = 1):
    with torch.no_grad():
        return objective.prepare(Batch(rows), step)


@pytest.mark.parametrize("minibatches", [1, 2, 4])
def test_the_first_ratio_is_exactly_one(minibatches):
    objective = scalar_objective(minibatches=minibatches).float()
    drawn = prepared(objective, 16, step=0)
    assert float(objective.ratio_gap(drawn)) == 0
    if minibatches == 1:
        told = objective.loss(drawn, 0).info
        assert float(told["ratio"]) == 1 and float(told["clipped"]) == 0
    assert float(objective.diagnostics(Batch(16), 0)["first_ratio"]) == 1


def test_roll_outs_of_a_noise_stand_together_and_are_compared_with_its_own_sample():
    objective = scalar_objective()
    drawn = prepared(objective, 10)
    same = drawn.z[:, None, 0] == drawn.z[None, :, 0]
    place = torch.arange(10) // 4
    assert torch.equal(same, place[:, None] == place[None, :])
    torch.testing.assert_close(drawn.states[:, 0], 2 * drawn.z)
    wanted = -(drawn.states[:, -1] - K * drawn.z).square().sum(1)
    torch.testing.assert_close(drawn.reward, wanted)
    # The control compares with the sample of the noise before it.
    shuffled = scalar_objective(shuffled=True)
    drawn = prepared(shuffled, 8)
    other = K * drawn.z.roll(4, 0)
    torch.testing.assert_close(drawn.reward, -(drawn.states[:, -1] - other).square().sum(1))
    # What is held out is compared with its own sample all the same.
    z = shuffled.held_out.z
    wanted = -(shuffled.generator(z) - K * z).square().mean()
    torch.testing.assert_close(shuffled.diagnostics(Batch(8), 0)["held_out"], wanted)


def test_the_instruments_are_of_the_student_as_it_is_and_of_what_was_withheld():
    objective = scalar_objective(clip=0.05)
    z = torch.randn(30, 1)
    objective.held_out = Pairs(z, K * z, {})
    drawn = prepared(objective, 64, step=0)
    with torch.no_grad():
        objective.student.denoiser.a *= 1.03
        found, info = objective.diagnostics(Batch(64), 0), objective.loss(drawn, 0).info
    assert found["drift"].item() == pytest.approx(0.03)
    for name, student in (("held_out", objective.generator), ("held_out_start", objective.start)):
        reward = -(student(z) - K * z).square().sum(1)
        torch.testing.assert_close(found[name], reward.mean())
        torch.testing.assert_close(found[f"{name}_error"], reward.std() / math.sqrt(30))
    groups = drawn.reward.view(-1, 4)
    spread = (groups - groups.mean(1, keepdim=True)).square().mean().sqrt()
    torch.testing.assert_close(info["spread"], spread)
    now = objective.policy.log_probs(answers(objective.student, drawn.z, {}), drawn.states)
    ratio = (now - drawn.log_prob).exp()
    share = ((ratio - 1).abs() > 0.05).double().mean()
    assert 0.1 < share < 0.9
    torch.testing.assert_close(info["clipped"], share)
    torch.testing.assert_close(info["ratio"], ratio.mean())


def test_no_roll_out_starts_from_what_is_withheld():
    objective = last_stage("redif").objective
    row = METHOD.examples["redif"].settings
    assert len(objective.held_out.z) == row.withheld
    assert len(objective.pairs.z) == row.pairs.pairs - row.withheld
    assert not bool((objective.pairs.z[:, None] == objective.held_out.z).flatten(2).all(2).any())


def test_a_constant_reward_has_no_gradient():
    objective = scalar_objective(reward=lambda x, y, cond: torch.full((len(x),), 0.7))
    objective.loss(prepared(objective), 0).value.backward()
    assert not objective.student.denoiser.a.grad.any()


def test_advantages_are_cut():
    objective = scalar_objective(limit=0.3)
    reward = torch.tensor([0.0, 0.0, 0.0, 5.0])
    assert objective.advantages(reward, torch.zeros(4).long()).abs().max() == 0.3


def test_a_step_weighs_as_much_as_its_noise():
    objective = scalar_objective(by_deviation=True)
    s = objective.policy.deviations
    assert objective.omega == pytest.approx([2 * s[0] / sum(s), 2 * s[1] / sum(s)])
    assert scalar_objective().omega == [1.0, 1.0]


def test_the_guard_is_part_of_the_loss_and_stays_with_the_start():
    objective = scalar_objective(guard_weight=0.5, epochs=3)
    with torch.no_grad():
        objective.student.denoiser.a += 0.1
    drawn = prepared(objective)
    loss = objective.loss(drawn, 0)
    s, a = objective.policy.deviations, objective.start.network.denoiser.a
    assert a.tolist() == [0.4, 0.8]
    kept = math.sqrt(1 - s[0] ** 2) / 2
    moved = (0.1 * (1 - kept) * drawn.states[:, 0, 0]) ** 2 / (2 * s[0] ** 2)
    last = (0.1 * drawn.states[:, 1, 0]) ** 2 / (2 * s[1] ** 2)
    torch.testing.assert_close(loss.info["guard"], (moved.mean() + last.mean()) / 2)
    torch.testing.assert_close(
        loss.value.detach(), -drawn.advantage.mean() + 0.5 * loss.info["guard"]
    )
    with torch.no_grad():
        objective.remember([drawn], 0)
    assert a.tolist() == [0.4, 0.8]


class Dropping(Scalars):
    def forward(self, x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x, sigma), 0.2, self.training)


def test_a_student_that_draws_at_random_is_refused_before_its_first_update():
    objective = scalar_objective()
    objective.student.denoiser = Dropping()
    with pytest.raises(Diverged, match="answers otherwise in an update than in a roll-out"):
        prepared(objective, 64, step=0)


def test_a_student_of_other_levels_is_refused():
    policy = StepPolicy([2.0, 1.0], 0.5, 0.4)
    pairs = Pairs(torch.randn(4, 1), torch.randn(4, 1), {})
    for student in (
        FewStep(Scalars(), [2.0, 0.5], "ddim"),
        FewStep(Scalars(), [2.0, 1.0], "renoise"),
    ):
        with pytest.raises(ValueError, match="rule 'ddim' on the levels of its policy"):
            PolicyGradient(Scalars(), student, policy, cosine_agreement, pairs, pairs)


# -------------------------------------------------------------------------------- histories


def test_a_history_keeps_the_latest_numbers_of_each_kind():
    history = History(2, 3, "reward", "kind")
    drawn = last_stage("redif-ddpo").objective.prepare(
        Batch(4, None, {"label": torch.zeros(4).long()}), 1
    )
    for values, kinds in (([1.0, 2.0], [0, 1]), ([3.0, 4.0, 5.0], [0, 0, 0])):
        row = drawn._replace(reward=torch.tensor(values), kind=torch.tensor(kinds))
        history.follow(None, [row], 0)
    assert history.rows.tolist() == [[3, 4, 5], [0, 0, 2]]
    assert history.written.tolist() == [4, 1]
    assert history.with_new(1, torch.tensor([7.0, 8.0])).tolist() == [2, 7, 8]
    assert history.with_new(0, torch.arange(5.0)).tolist() == [2, 3, 4]
    with pytest.raises(ValueError, match="kinds and size must be at least 1, got 0 and 3"):
        History(0, 3, "reward", "kind")


def test_advantages_by_the_history_of_a_class_or_of_the_batch_while_it_is_short():
    objective = scalar_objective(history=4, least=3, classes=2)
    objective.history.rows[0], objective.history.written[0] = torch.tensor([0.0, 1, 2, 3]), 4
    reward, kind = torch.tensor([5.0, 7.0, 1.0]), torch.tensor([0, 0, 1])
    found = objective.advantages(reward, kind)
    latest = torch.tensor([2.0, 3.0, 5.0, 7.0])
    own = (reward[:2] - latest.mean()) / latest.std(correction=0)
    whole = (reward[2] - reward.mean()) / reward.std(correction=0)
    torch.testing.assert_close(found, torch.cat([own, whole[None]]), rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------- rewards


def test_agreements_are_one_for_equal_samples():
    x, y = torch.randn(5, 2, 2), torch.randn(5, 2, 2)
    for agreement in (gaussian_agreement, cosine_agreement):
        torch.testing.assert_close(agreement(x, x, 0.5), torch.ones(5))
        assert bool((agreement(x, y, 0.5) < 1).all())
    # Of the plane, exp(-d^2 / 50) is of the length 5 / sqrt(2) a dimension.
    x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    assert float(gaussian_agreement(x, y, 5 / math.sqrt(2))) == pytest.approx(math.exp(-0.5))
    assert float(cosine_agreement(x, y)) == 0.0


def test_agreement_in_principal_components_is_blind_to_others():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=random) * torch.tensor([5.0, 2.0, 0.1]) + 4
    basis = principal(x, 2)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2))
    assert float(basis[0, 0].abs()) > 0.99 and float(basis[2].abs().max()) < 0.1
    reward = Agreement("cosine", 1.0, x.mean(0), basis)
    away = torch.linalg.cross(basis[:, 0], basis[:, 1])
    torch.testing.assert_close(reward(x + 3 * away, x, {}), torch.ones(500))
    with pytest.raises(ConfigError, match="principal must be at most 3, the numbers of a sample"):
        principal(x, 4)


def own(value: object) -> OwnReward:
    return OwnReward(OwnCode("mine.py:REWARD", "0" * 64, value, "0" * 64))


def raising(x, y, cond):
    raise RuntimeError("no\nsuch thing")


WRONG = [
    (lambda x, y, c: 0.5, r"must be a tensor of shape \(6,\), got float"),
    (lambda x, y, c: x, r"of shape \(6,\), a number each, got \(6, 2\)"),
    (lambda x, y, c: x.mean(), r"of shape \(6,\), a number each, got \(\)"),
    (lambda x, y, c: x[:3, 0], r"a number each, got \(3,\)"),
    (lambda x, y, c: x[:, 0] * 1j, r"of real numbers, got torch.complex"),
    (lambda x, y, c: x[:, 0] / 0 * 0, r"must be finite, and is not for 6 of 6 samples, first nan"),
    (lambda x, y, c: x[:, 0].abs() / 0, r"must be finite, and is not for 6 of 6 .* first inf"),
    (lambda x: x, r"the reward failed, TypeError: .* positional"),
    (raising, "the reward failed, RuntimeError: no such thing"),
]


@pytest.mark.parametrize("function, words", WRONG)
def test_a_wrong_reward_is_one_line_that_names_it(function, words):
    x = torch.randn(6, 2)
    with pytest.raises(ConfigError, match=f"mine.py:REWARD.*{words}") as caught:
        own(function)(x, x, {})
    assert "\n" not in str(caught.value)


def test_what_is_no_function_is_no_reward():
    for value in (3, Scalars, "text"):
        with pytest.raises(ConfigError, match="mine.py:REWARD must be a function reward"):
            own(value)


def test_a_reward_cannot_change_the_samples_and_may_be_of_whole_numbers():
    def writes(x, y, cond):
        x.zero_()
        return x[:, 0] == 0

    x = torch.randn(6, 2)
    before = x.clone()
    found = own(writes)(x, x, {})
    assert torch.equal(x, before) and found.dtype == x.dtype and found.tolist() == 6 * [1]


FILE = """
import torch

def nearest(x, y, cond):
    return ((x - y).flatten(1).norm(dim=1) < 0.5).float()

def broken(x, y, cond):
    return x.flatten(1)[:, 0] * float("nan")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


TINY = ["--pairs.pairs", "16", "--pairs.solver-steps", "2", "--withheld", "4", "--steps", "2"]


def test_a_reward_is_tried_before_training_and_only_loaded_where_it_is_named(
    file, tmp_path, capsys
):
    from vardiu.cli.main import main

    words = ["distill", "mog40-redif", "--out", str(tmp_path / "run"), *TINY]
    assert main([*words, "--reward", f"{file}:broken"]) == 2
    assert "must be finite, and is not for 3 of 3" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    config = tmp_path / "config.yaml"
    config.write_text(
        f"method: {{name: redif, reward: '{file}:nearest'}}\nproblem: {{kind: density}}\n"
    )
    assert main(["distill", "--config", str(config), "--out", str(tmp_path / "run")]) == 2
    assert f"repeat --reward {file}:nearest" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"eta": 0.0}, "eta must be positive, got 0: without noise there is no density"),
        ({"shuffled": True, "batch": 8}, "several noises, got batch=8 of one group"),
        ({"batch": 12}, r"batch must be a multiple of group \(8\), got 12"),
        ({"batch": 8, "minibatches": 3}, r"batch must be a multiple of minibatches \(3\)"),
        ({"clip_range": 0.0}, "clip_range must be positive"),
        ({"near": 0.0}, "near must be positive"),
        ({"group": 0}, "group must be at least 1"),
        ({"group": 1}, "group must be at least 2 with variant=grpo.*--variant ddpo"),
        ({"guard_weight": -1.0}, "guard_weight must be at least 0"),
    ],
)
def test_settings_out_of_range_are_one_line(change, words):
    with pytest.raises(ConfigError, match=words):
        Settings(**change)


def test_one_pair_alone_is_refused_as_none_could_be_withheld():
    few = PairSettings(pairs=1, solver_steps=2)
    settings = dataclasses.replace(METHOD.examples["redif"].settings, pairs=few)
    with pytest.raises(ConfigError, match=r"pairs.pairs must be at least 2.*, got 1"):
        next(recipe(ToyProblem(), settings, Context()))


def test_a_run_whose_reward_is_not_named_is_refused():
    settings = dataclasses.replace(METHOD.examples["redif"].settings, reward="mine.py:REWARD")
    with pytest.raises(ConfigError, match="repeat --reward mine.py:REWARD"):
        list(stages_of(METHOD, Example(settings)))


# -------------------------------------------------------------------------------- a training


def trained(**change: object) -> dict[str, float]:
    """What the instruments say after a short training of four Gaussians, in two calls."""
    given = {
        "steps": 30,
        "batch": 128,
        "lr": 1e-2,
        "guard_weight": 0.0,
        "sampling_steps": 2,
        "near": 0.5,
        "withheld": 200,
        "pairs": PairSettings(pairs=600, solver_steps=12, lr=5e-3),
        **change,
    }
    drive = recipe(ToyProblem(), Settings(**given), Context())
    stage = next(drive)
    network = copy.deepcopy(started(stage.optimisation.rows["generator"].lr))
    stage = drive.send(Trained(network, stage.objective))
    trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
    trainer.fit(stage.batches)
    return dict(trainer.summary().values)


@functools.cache
def started(lr: float) -> nn.Module:
    """The student as a start of 200 updates leaves it."""
    torch.manual_seed(0)
    row = PairSettings(pairs=600, solver_steps=12, steps=200, batch=128, lr=lr)
    stage = next(recipe(ToyProblem(), Settings(sampling_steps=2, pairs=row), Context()))
    trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
    trainer.fit(stage.batches)
    return trainer.average.module.requires_grad_(True)


def test_the_reward_of_what_is_held_out_rises_and_does_not_where_noises_are_shuffled():
    found, control = trained(), trained(shuffled=True)
    assert control["held_out_start"] == found["held_out_start"]
    gains = [row["held_out"] - row["held_out_start"] for row in (found, control)]
    assert gains[0] > 0.08 and gains[1] < gains[0] / 3
    assert found["first_ratio"] == 1 and found["drift"] > 0


def test_resuming_within_a_training_by_history_is_exact():
    stage = last_stage("redif-ddpo")
    trainer = Trainer(stage.objective, stage.optimisation, steps=4)
    batches = Repeat(stage.objective, 8)
    trainer.advance(batches)
    assert int(stage.objective.history.written.sum()) == 8
