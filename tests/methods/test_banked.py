"""The bank of the anchor's samples against closed forms: affine students, a Gaussian teacher."""

from __future__ import annotations

import math

import pytest
import torch
from problems import LinearGaussian, mixture_teacher
from test_anchored import LEVEL, RANGE, SIGMA, bound, closed_gradient, estimated, moved, off

from vardiu.data.batch import Batch
from vardiu.denoisers.levels import LogUniform
from vardiu.functional.bounds import shared_log_marginal, shared_mean
from vardiu.methods.banked import BankedVarDiU
from vardiu.methods.lagging import Anchor
from vardiu.methods.vardiu import Settings
from vardiu.nn import MLP
from vardiu.settings.fields import AnchorSettings
from vardiu.students.affine import Affine, AffineDenoiser
from vardiu.students.base import Generator
from vardiu.students.pushforward import Pushforward


def banked(problem: LinearGaussian, anchor: Affine, **options) -> BankedVarDiU:
    """An objective whose fake is of another student: where it is asked, the gradient is wrong."""
    wrong = AffineDenoiser(Affine(3 * anchor.matrix.detach(), anchor.shift.detach() + 5), **RANGE)
    return BankedVarDiU(
        problem.teacher,
        problem.generator,
        wrong,
        **{
            "levels": LEVEL,
            "anchor": Anchor(anchor, AnchorSettings(), 1, 100),
            "weight": torch.ones_like,
            "bank": 0,
            **options,
        },
    )


@pytest.mark.parametrize(("own", "normalised"), [(1.0, True), (0.5, False)])
def test_the_posterior_of_a_bank_is_normalised_where_all_samples_weigh_the_same(own, normalised):
    """Integrated over a grid of z, averaged over banks of three samples."""
    random = torch.Generator().manual_seed(0)
    grid = torch.linspace(-8, 8, 801)[:, None]
    prior = (-0.5 * grid.squeeze(1).square()).exp() / math.sqrt(2 * math.pi)
    x_t, a = torch.tensor(1.3), 1.5
    z = torch.randn(20_000, 1, 3, generator=random)

    def weight(z):
        return (-0.5 * ((x_t - a * z) / SIGMA).square()).exp()

    mean = (own * weight(grid[None]) + weight(z).sum(2, keepdim=True)) / (3 + own)
    density = (weight(grid[None]) / mean).mean(0).squeeze(1) * prior
    total, error = float(density.sum() * 0.02), 0.01
    assert (abs(total - 1) < error) == normalised, total


def test_the_value_is_a_bound_that_tightens_with_the_bank():
    problem = LinearGaussian(2, 2)
    anchor = moved(problem.generator)
    exact = float(problem.kl(problem.matrix, problem.shift, SIGMA))
    limit = float(bound(problem, problem.matrix, problem.shift, anchor))
    random = torch.Generator().manual_seed(0)
    rows, values = 100_000, []
    z = torch.randn(rows, 2, generator=random)
    noise = torch.randn(rows, 2, generator=random)
    x = (z @ problem.matrix.T + problem.shift).detach()
    x_t, level = x + SIGMA * noise, torch.full((rows,), SIGMA)
    teacher = problem.teacher.log_prob(x_t, level)
    far = (x - anchor(z)).square().sum(1) / (2 * SIGMA**2)
    for n in (1, 8, 64):
        others = anchor(torch.randn(rows, n, 2, generator=random))
        samples = torch.cat([anchor(z)[:, None], others], 1)
        logs = -0.5 * (x_t[:, None] - samples).square().sum(2) / SIGMA**2
        value = logs.logsumexp(1) - math.log((n + 1) * 2 * math.pi * SIGMA**2)
        values.append((far + value - teacher).detach())
    means = [float(v.mean()) for v in values]
    error = float(values[-1].std()) / rows**0.5
    assert means[0] > means[1] > means[2] > limit - 4 * error > exact
    assert means[2] - limit < 0.1 * (means[0] - limit)


def test_the_mean_is_the_gradient_of_the_mixtures_log_density():
    x, sigma = torch.randn(7, 2), torch.rand(8) + 0.5
    x_t = torch.randn(8, 2, requires_grad=True)
    for own in (1.0, 0.4):
        value = shared_log_marginal(x_t, x[:4], sigma, None, own)
        (score,) = torch.autograd.grad(value.sum(), x_t)
        mean = shared_mean(x_t, x[:4], sigma, None, own)
        torch.testing.assert_close(score, (mean - x_t) / sigma[:, None] ** 2, rtol=1e-9, atol=1e-9)
    # Of further samples than the noisy ones were made of, a row's own is still its own.
    log_w = -0.5 * torch.cdist(x_t, x).square() / sigma[:, None] ** 2
    share = log_w.exp()
    share[torch.arange(8), torch.arange(8) % 4] *= 0.4
    wanted = share @ x / share.sum(1, keepdim=True)
    torch.testing.assert_close(shared_mean(x_t, x, sigma, None, 0.4, 4), wanted)


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_gradient_of_a_large_bank_is_that_of_the_anchored_bound(antithetic):
    problem = LinearGaussian(2, 2)
    anchor = moved(problem.generator)
    of_bound = closed_gradient(problem, lambda a, b: bound(problem, a, b, anchor))
    objective = banked(problem, anchor, bank=30, own=0.5, antithetic=antithetic)
    assert [phase.name for phase in objective.phases] == ["student"]
    assert off(estimated(objective, problem), of_bound) < 5
    # A small level asks the fake, which is wrong here.
    wrong = banked(problem, anchor, bank=30, above=2 * SIGMA, antithetic=antithetic)
    assert [phase.name for phase in wrong.phases] == ["fake", "student"]
    assert off(estimated(wrong, problem), of_bound) > 10


def with_a_bank_of_three(teacher, student):
    return BankedVarDiU(
        teacher,
        student,
        teacher,
        levels=LogUniform(0.5, 5.0),
        anchor=Anchor(student, AnchorSettings(), 1, 10),
        bank=3,
    )


def test_rows_of_another_class_are_no_part_of_a_bank():
    student = Pushforward(
        MLP((2,), (2,), width=8, depth=1, classes=2),
        latent_shape=(2,),
        shape=(2,),
        conditions=("label",),
    )
    teacher = mixture_teacher(labels=True)
    objective = with_a_bank_of_three(teacher, student)
    label = torch.tensor([0, 0, 0, 1])
    with torch.no_grad():
        drawn = objective.prepare(Batch(4, cond={"label": label}), 0)
        x_t = torch.randn(4, 2)
        cond = {"label": label}
        level = torch.full((4,), 50.0)
        got = objective.denoised(objective.samples(drawn), x_t, level, cond, 4)
    # Where the noise is large, a row's mean is that of all samples of its class.
    assert (got[0] - got[1]).norm() < 0.01 and (got[0] - got[2]).norm() < 0.01
    assert (got[0] - got[3]).norm() > 0.05


def test_a_bank_is_fresh_samples_with_the_conditions_of_its_rows():
    class Told(Generator):
        """The label, and what the latent is."""

        shape = latent_shape = (2,)
        conditions = ("label",)

        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones(()))

        def forward(self, z, *, label):
            return self.one * torch.stack([label.to(z), z[:, 0]], dim=1)

    student, teacher = Told(), mixture_teacher(labels=True)
    objective = with_a_bank_of_three(teacher, student)
    label = torch.tensor([0, 1, 1, 2, 3])
    with torch.no_grad():
        samples = objective.samples(objective.prepare(Batch(5, cond={"label": label}), 0))
    assert torch.equal(samples[:, 0], label.repeat(4).to(samples))
    assert len(samples[:, 1].unique()) == 20  # no latent twice, none of the batch's own


def test_numbers_out_of_their_range_are_refused():
    problem = LinearGaussian(2, 2)
    for options in ({"bank": -1}, {"above": math.inf}, {"own": 1.5}, {"own": math.nan}):
        with pytest.raises(ValueError, match="bank and above must be finite and at least 0"):
            banked(problem, problem.generator, **options)
    with pytest.raises(ValueError, match=r"anchor\.bank_above must be 0 without a bank, got 0.5"):
        AnchorSettings(bank_above=0.5)
    with pytest.raises(ValueError, match="own must be 1 with posterior anchored, got 0.5"):
        Settings(posterior="anchored", own=0.5)
    Settings(posterior="anchored", own=0.5, anchor=AnchorSettings(bank=2))
