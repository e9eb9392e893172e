"""ADM and its adversarial start against closed forms, and what they refuse."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import denoiser, is_noised, mixture_teacher
from torch import nn

from vardiu.cli.main import main
from vardiu.comparison.contests import CONTESTS, entered
from vardiu.comparison.prices import Rehearsal
from vardiu.data.batch import Batch
from vardiu.data.batches import DataFree
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import CubicTime, LogUniform
from vardiu.discriminators.diffusion import EncodedDiscriminator, discriminator_on
from vardiu.discriminators.heads import ConvHead
from vardiu.discriminators.hybrid import HybridDiscriminator
from vardiu.errors import ConfigError, Diverged
from vardiu.functional.adversarial import hinge_discriminator, hinge_generator
from vardiu.methods.adm import ADM, METHOD
from vardiu.methods.adp import ADP
from vardiu.problems.toy import ToyProblem
from vardiu.runs.task import task_from_preset
from vardiu.samplers.pairs import Pairs
from vardiu.settings.fields import NetworkOptimizer, PairSettings, StartSettings
from vardiu.students.affine import Affine, AffineDenoiser
from vardiu.students.few_step import OneStep
from vardiu.training.optimizers import Optimisation
from vardiu.training.stage import Context
from vardiu.training.trainer import Trainer

RANGE = {"sigma_min": 0.01, "sigma_max": 10.0}
GRID = torch.linspace(-14.0, 14.0, 56001, dtype=torch.float64)


def level(sigma: float) -> LogUniform:
    return LogUniform(sigma, sigma * (1 + 1e-9))


class LinearHead(nn.Module):
    """The discriminator w x + b, which keeps what it was called with."""

    def __init__(self, slope: float = 0.8) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.bias = nn.Parameter(torch.tensor(0.1))
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, read, y_t, sigma, **cond):
        self.seen.append((y_t.detach(), sigma.detach()))
        return [self.slope * y_t[:, 0] + self.bias]


def gaussians(
    m=1.5, s=0.7, mu=-0.5, S=1.2, sigma=0.9, lower=0.6, head=None, **options: object
) -> ADM:
    """A student N(m, s^2) with its exact fake, a teacher N(mu, S^2), steps from sigma to lower."""
    generator = Affine(torch.tensor([[s]]), torch.tensor([m]))
    return ADM(
        GaussianDenoiser(torch.tensor([mu]), torch.tensor([[S**2]]), **RANGE),
        generator,
        AffineDenoiser(generator, **RANGE),
        LinearHead() if head is None else head,
        shrink=lower / sigma,
        levels=level(sigma),
        **options,
    )


def normal(mean: float, variance: float) -> torch.Tensor:
    return torch.exp(-((GRID - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def laws(m=1.5, s=0.7, mu=-0.5, S=1.2, sigma=0.9, lower=0.6):
    """The means and variances of the fake's step and of the teacher's."""
    vq, vp = s**2 + sigma**2, S**2 + sigma**2
    aq, ap = (s**2 + sigma * lower) / vq, (S**2 + sigma * lower) / vp
    return (m, aq**2 * vq), (ap * m + (1 - ap) * mu, ap**2 * vq)


# ---------------------------------------------------------------- the pair


def test_the_two_steps_have_the_laws_of_the_closed_form():
    (m_f, v_f), (m_r, v_r) = laws()
    assert (m_f, m_r) == pytest.approx((1.5, 1.26)) and (v_f, v_r) == pytest.approx(
        (0.816077, 1.006720), abs=1e-6
    )
    objective = gaussians()
    n = 400_000
    with torch.no_grad():
        objective.head_loss(objective.prepare(Batch(n), 0), 0)
    ((y, sigma),) = objective.head.seen
    assert torch.allclose(sigma, torch.full((2 * n,), 0.6))  # the level after the step, not before
    fake, real = y[:, 0].chunk(2)
    for x, mean, variance in ((fake, m_f, v_f), (real, m_r, v_r)):
        assert abs(x.mean() - mean) < 5 * math.sqrt(variance / n)
        assert abs(x.var() - variance) < 5 * variance * math.sqrt(2 / n)
    # One noisy sample for both: they differ by a linear function of it alone.
    assert torch.corrcoef(torch.stack([fake, real]))[0, 1] > 1 - 1e-9


@pytest.mark.parametrize("detach, factor", [(False, -0.633846), (True, -0.533333)])
def test_the_gradient_goes_through_the_fake_or_around_it(detach, factor):
    """A linear discriminator: -w a_q with the fake's graph, -w sigma'/sigma without."""
    objective = gaussians(detach_fake=detach)
    loss = objective.student_loss(objective.prepare(Batch(7), 0), 0)
    (gradient,) = torch.autograd.grad(loss.value, objective.generator.shift)
    assert gradient.item() == pytest.approx(factor, abs=1e-6)


def test_the_margin_is_of_each_heads_logit_and_not_of_their_mean():
    class Two(LinearHead):
        """One head that is sure and right, and one that is wrong by half of it."""

        def forward(self, read, y_t, sigma, **cond):
            n = len(y_t) // 2
            right = torch.cat([-torch.ones(n), torch.ones(n)])  # of the fake's step, the teacher's
            return [4 * right, -2 * right]

    objective = gaussians(head=Two())
    loss = objective.head_loss(objective.prepare(Batch(8), 0), 0)
    # Nothing for the first; twice 1 + 2 for the second. Their mean, 1, would lose nothing.
    assert loss.value.item() == pytest.approx((0 + 6) / 2)


def test_the_laws_differ_by_the_divergence_of_the_score_difference():
    """-(s ds) div(q grad log q/p) to first order; the remainder is quadratic in the step."""
    m, s, mu, S, sigma = 1.5, 0.7, -0.5, 1.2, 0.9
    q, vq, vp = normal(m, s**2 + sigma**2), s**2 + sigma**2, S**2 + sigma**2
    flux = q * (-(GRID - m) / vq + (GRID - mu) / vp)
    found = []
    for ds in (0.1, 0.05, 0.01):
        fake, real = laws(lower=sigma - ds)
        exact = normal(*fake) - normal(*real)
        first = -sigma * ds * torch.gradient(flux, spacing=(GRID,))[0]
        found.append([float(torch.trapezoid(d.abs(), GRID)) for d in (exact - first, exact)])
    assert [row[0] for row in found] == pytest.approx([0.0069, 0.0017, 0.000066], rel=0.03)
    assert [row[1] for row in found] == pytest.approx([0.064, 0.031, 0.0061], rel=0.02)
    assert found[0][0] / found[2][0] == pytest.approx(100, rel=0.1)


def test_the_best_hinge_loss_is_two_less_twice_the_total_variation():
    row = {"m": 1.0, "s": 1.0, "mu": 0.0, "S": 1.0, "sigma": 1.0, "lower": 0.5}
    fake, real = (normal(*law) for law in laws(**row))
    total = 0.5 * float(torch.trapezoid((fake - real).abs(), GRID))
    assert total == pytest.approx(0.09381, abs=1e-5)
    # Of two Gaussians of one variance it is 2 Phi(|difference| / 2 sd) - 1.
    half = 0.25 / 2 / math.sqrt(1.125)
    assert laws(**row)[0][1] == pytest.approx(1.125) == laws(**row)[1][1]
    assert total == pytest.approx(math.erf(half / math.sqrt(2)), abs=1e-6)
    c, zero = (real - fake).sign(), torch.zeros_like(GRID)
    terms = fake * (hinge_discriminator(zero, c) - 1) + real * (hinge_discriminator(c, zero) - 1)
    best = float(torch.trapezoid(terms, GRID))
    assert best == pytest.approx(1.81237, abs=1e-4) == pytest.approx(2 - 2 * total, abs=1e-4)


def test_where_the_laws_agree_both_steps_are_one_and_the_heads_have_no_gradient():
    """What tells a stub: a fake that is the teacher leaves the loss at two, exactly."""
    objective = gaussians(m=-0.5, s=1.2)
    with torch.no_grad():
        objective.head.slope.fill_(0.05)  # logits within the margins
    loss = objective.head_loss(objective.prepare(Batch(64), 0), 0)
    ((y, _),) = objective.head.seen
    a, b = y.chunk(2)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    assert loss.value.item() == pytest.approx(2.0, abs=1e-12)
    gradients = torch.autograd.grad(loss.value, list(objective.head.parameters()))
    assert all(g.abs() < 1e-14 for g in gradients)
    with torch.no_grad():
        objective.head.slope.fill_(5.0)
    assert objective.head_loss(objective.prepare(Batch(64), 0), 0).value > 2.5


def test_the_signal_is_proportional_to_the_step():
    gaps = []
    for ds in (0.02, 0.04):
        objective = gaussians(lower=0.9 - ds)
        loss = objective.head_loss(objective.prepare(Batch(4000), 0), 0)
        gaps.append(loss.info["gap"].item())
    assert gaps[1] / gaps[0] == pytest.approx(2.0, rel=1e-6)


def test_it_reads_no_data_and_steps_stay_within_the_teachers_levels():
    objective = gaussians(lower=0.001)
    twin = copy.deepcopy(objective)
    values = []
    for each, x in ((objective, torch.zeros(16, 1)), (twin, torch.full((16, 1), math.nan))):
        drawn = each.prepare(Batch.of(x), 0)
        values.append([p.loss(drawn, 0).value.item() for p in each.phases])
    assert values[0] == values[1] and all(math.isfinite(v) for v in values[0])
    assert all(bool((sigma == 0.01).all()) for _, sigma in objective.head.seen)


class Quadratic(nn.Module):
    """A linear head on {1, u, u^2} x {1, l}, with u = x / sqrt(sigma^2 + 1) and l = log sigma."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 2))

    def forward(self, read, y_t, sigma, **cond):
        u, low = y_t[:, 0] / (sigma.square() + 1).sqrt(), sigma.log()
        a = torch.stack([torch.ones_like(u), u, u.square()], 1)
        return [
            torch.einsum(
                "bi,ij,bj->b", a, self.weight, torch.stack([torch.ones_like(low), low], 1)
            )
        ]


@pytest.mark.parametrize("detach", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_game_of_gaussians_ends_at_the_teacher(detach):
    """From N(3, .3^2) to N(0, 1), by a trained discriminator; the start of 12 s is shortened."""
    generator = Affine(torch.tensor([[0.3]]), torch.tensor([3.0]))
    objective = ADM(
        GaussianDenoiser(torch.zeros(1), torch.ones(1, 1), **RANGE),
        generator,
        AffineDenoiser(generator, follows=True, **RANGE),
        Quadratic(),
        shrink=0.5,
        detach_fake=detach,
        levels=LogUniform(0.2, 10.0),
    )
    rates = {"generator": 1e-2, "fake": 1e-3, "head": 1e-2}
    optimisation = Optimisation.adam(rates, betas=(0.0, 0.99), halflife=12_800.0)
    trained = Trainer(objective, optimisation, steps=900, seed=0).fit(DataFree(128))
    assert abs(trained.shift.item()) < 0.15 and abs(abs(trained.matrix.item()) - 1) < 0.15


# ---------------------------------------------------------------- the adversarial start


def test_levels_between_noise_and_sample_are_dense_at_the_noise():
    """1 - u^3: the mean is 3/4, and above 1/2 with probability 2^(-1/3) = .7937."""
    levels, u = CubicTime(1e-9, 30.0, 2.0), (torch.arange(200_000) + 0.5) / 200_000
    t = levels.time(u)
    assert t.mean().item() == pytest.approx(0.75, abs=1e-9)
    assert (t > 0.5).double().mean().item() == pytest.approx(2 ** (-1 / 3), abs=1e-5)
    sigma = levels(u)
    # Back on the straight line, the noise has the share t of its own.
    torch.testing.assert_close(sigma / (2.0 + sigma) * 32 / 30, t, rtol=1e-6, atol=1e-6)
    assert bool((sigma[1:] > sigma[:-1]).all()) and sigma[-1] <= 30.0


def pre_training(row: StartSettings, head=None, decode=None, n: int = 40) -> ADP:
    random = torch.Generator().manual_seed(0)
    pairs = Pairs(*(torch.randn(n, 2, generator=random, dtype=torch.float64) for _ in "zx"), {})
    hybrid = HybridDiscriminator(LinearHead(), head)
    return ADP(
        mixture_teacher(), OneStep(denoiser(), 8.0), hybrid, pairs,
        levels=level(0.05), sigma_data=2.0, row=row, decode=decode,
    )  # fmt: skip


def test_the_student_is_shown_what_lies_between_or_noise_alone():
    objective = pre_training(StartSettings(kind="adversarial", pure=0.5))
    with torch.no_grad():
        drawn = objective.prepare(Batch(4000), 0)
    pure = drawn.sigma == 8.0
    assert abs(pure.double().mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)
    torch.testing.assert_close(drawn.x_t[pure], 8.0 * drawn.pairs.z[pure])
    torch.testing.assert_close(drawn.x[pure], objective.generator(drawn.pairs.z[pure]))
    inside = drawn.pairs.x + drawn.sigma[:, None] * drawn.pairs.z
    torch.testing.assert_close(drawn.x_t[~pure], inside[~pure])
    assert drawn.sigma[~pure].std() > 0.5


def test_at_small_noise_and_without_images_it_is_a_hinge_game_on_pairs():
    objective = pre_training(StartSettings(kind="adversarial"))
    objective.levels = level(1e-12)
    with torch.no_grad():
        drawn = objective.prepare(Batch(32), 0)
    real, fake = (0.8 * x[:, 0] + 0.1 for x in (drawn.pairs.x, drawn.x))
    wanted = hinge_discriminator(real, fake).mean()
    torch.testing.assert_close(objective.head_loss(drawn, 0).value, wanted)
    torch.testing.assert_close(
        objective.student_loss(drawn, 0).value, hinge_generator(fake).mean()
    )
    squared = pre_training(StartSettings(kind="adversarial", squared_weight=2.0))
    squared.levels, squared.generator = level(1e-12), objective.generator
    wanted = hinge_generator(fake).mean() + 2 * (drawn.x - drawn.pairs.x).square().mean()
    torch.testing.assert_close(squared.student_loss(drawn, 0).value, wanted)


def test_the_discriminator_of_pairs_is_shown_noisy_samples():
    objective = pre_training(StartSettings(kind="adversarial"), n=400)
    objective.levels = level(3.0)
    with torch.no_grad():
        drawn = objective.prepare(Batch(2_000), 0)
        objective.head_loss(drawn, 0)
    (real, s), (fake, t) = objective.head.noisy.seen
    assert is_noised(real, drawn.pairs.x, s) and is_noised(fake, drawn.x, t)


def test_the_gradient_of_the_image_logit_goes_through_the_decoder():
    """Two weights that add to one; a decoder x -> 3 x as an image of four pixels."""

    def decode(x):
        return torch.cat([3 * x, -3 * x], 1).reshape(len(x), 1, 2, 2)

    row = StartSettings(kind="adversarial", pixel_weight=0.15)
    objective = pre_training(row, ConvHead(1, (2, 2)), decode)
    with torch.no_grad():
        drawn = objective.prepare(Batch(16), 0)
    objective.streams.reset(7)
    got = objective.student_loss(drawn, 0).value
    twin = pre_training(row, ConvHead(1, (2, 2)), decode)
    twin.load_state_dict(objective.state_dict())
    twin.streams.reset(7)
    x = twin.student.denoiser(drawn.x_t, drawn.sigma)
    noisy = -twin.logits(x, {}, 0, "student").mean()
    image = -twin.head.pixel(decode(x)).mean()
    wanted = 0.85 * noisy + 0.15 * image
    torch.testing.assert_close(got, wanted)
    through, expected = (
        torch.autograd.grad(loss, of.generator.denoiser.network.last.weight, retain_graph=True)[0]
        for loss, of in ((got, objective), (wanted, twin))
    )
    torch.testing.assert_close(through, expected)
    (alone,) = torch.autograd.grad(image, twin.generator.denoiser.network.last.weight)
    assert alone.abs().max() > 0  # the image's part is one of it
    with pytest.raises(ValueError, match="go together"):
        pre_training(StartSettings(kind="adversarial", pixel_weight=0.15))
    with pytest.raises(TypeError, match="no head on images"):
        HybridDiscriminator(LinearHead()).of_images(torch.zeros(1, 1, 2, 2))


# ---------------------------------------------------------------- what is refused


ADVERSARIAL = StartSettings(kind="adversarial")
PAIRS = PairSettings(pairs=8, solver_steps=2, steps=2, batch=4)


@pytest.mark.parametrize(
    "changes, student, message",
    [
        ({"critic": "fake", "taps": "hiden.0"}, "pushforward", "unknown tap 'hiden.0'; did you"),
        ({"critic": "fake", "taps": "hidden.0,hidden.0"}, "pushforward", "name each tap once"),
        ({"critic": "teacher"}, "pushforward", "the teacher's network, and it lists none: give"),
        ({"taps": "hidden.0"}, "pushforward", "reads no features: leave out --taps"),
        ({"critic": "fake", "pairs": PAIRS, "start": ADVERSARIAL}, "one_step", "has no fake"),
        ({"pairs": PAIRS, "start": ADVERSARIAL}, "few_step", "of one call, got 2"),
        (
            {"pairs": PAIRS, "start": replace(ADVERSARIAL, pixel_weight=0.15)},
            "one_step",
            "--start.pixel-weight 0.15 asks for .* this teacher has no decoder",
        ),
    ],
)
def test_bad_input_is_one_line_before_training(changes, student, message):
    settings = replace(METHOD.examples["adm"].settings, **changes)
    with pytest.raises(ConfigError, match=message) as error:
        next(METHOD.recipe(ToyProblem(student=student), settings, Context()))
    assert "\n" not in str(error.value)


def test_numbers_that_are_not_finite_never_train():
    damaged = denoiser()
    with torch.no_grad():
        damaged.network.hidden[0].weight[0, 0] = math.nan
    with pytest.raises(ConfigError, match="'hidden.1' of a PreconditionedDenoiser gives them"):
        discriminator_on(damaged)
    problem = ToyProblem()
    with torch.no_grad():
        problem.teacher.means[0, 0] = math.nan
    settings = replace(METHOD.examples["adm"].settings, pairs=PAIRS)
    with pytest.raises(ConfigError, match="8 pairs some samples are not finite"):
        next(METHOD.recipe(problem, settings, Context()))
    objective = gaussians()
    with torch.no_grad():
        objective.head.bias.fill_(math.nan)
    before = objective.generator.shift.item()
    trainer = Trainer(
        objective, Optimisation.adam({"generator": 0.1, "fake": 0.1, "head": 0.1}), steps=1
    )
    with pytest.raises(Diverged, match="phase 'head': its loss is nan. Nothing was updated"):
        trainer.advance(DataFree(4))
    assert objective.generator.shift.item() == before


def test_a_network_of_its_own_looks_at_no_denoiser():
    problem = ToyProblem()
    encoder = problem.networks.encoder()
    critic = EncodedDiscriminator(encoder, encoder.features)
    (logit,) = critic(None, torch.zeros(5, 2), torch.ones(5))
    assert logit.shape == (5,)


# ---------------------------------------------------------------- DMDX


def test_dmdx_is_resumed_between_its_stages_and_inside_each(tmp_path, monkeypatch, capsys):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 200)
    monkeypatch.setattr("vardiu.runs.listeners.ReportPage.write", lambda page, shipped: None)
    words = ["distill", "mog40-dmdx", "--steps", "12", "--batch", "8", "--samples", "200"]
    words += ["--width", "8", "--threads", "1", "--pairs.pairs", "16", "--pairs.steps", "10"]
    words += ["--pairs.batch", "8", "--pairs.solver-steps", "2", "--save-every", "0"]
    words += ["--delay", "0", "--reports", "1", "--evaluations", "1"]
    assert main([*words, "--out", "whole"]) == 0
    for cls, at in ((ADP, 5), (ADM, 0), (ADM, 6)):
        real = cls.head_loss

        def broken(self, batch, step, real=real, at=at):
            if step == at:
                raise KeyboardInterrupt
            return real(self, batch, step)

        with monkeypatch.context() as patch:
            patch.setattr(cls, "head_loss", broken)
            assert main([*words, "--out", "stopped"]) == 130
        capsys.readouterr()
    assert main([*words, "--out", "stopped"]) == 0
    told = capsys.readouterr().out
    assert any(f"going on with adm from step {n} of" in told for n in (5, 6)), told
    a, b = (Path(run, "student", "model.safetensors").read_bytes() for run in ("whole", "stopped"))
    assert a == b
    lines = Path("whole/metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["stage"] for line in lines} == {"adp", "adm"}


def test_each_stage_of_dmdx_has_a_price_of_its_own():
    torch.set_default_dtype(torch.float32)
    assert {"adm", "dmdx"} <= set(entered("mog40", CONTESTS["mog40"]).arms)
    task = task_from_preset("distill", "mog40-dmdx")
    small = replace(
        task.settings, steps=12, batch=8, delay=0, fake_optimizer=NetworkOptimizer(), pairs=PAIRS
    )
    rehearsal = Rehearsal(replace(task, settings=small), "DMDX")
    rehearsal.walk(0.0)
    first, second = rehearsal.stages
    assert (first.steps, first.share, first.rows) == (2, 0.0, 0.0)  # an own critic: no teacher
    assert (second.steps, second.share, second.rows) == (12, 1.0, 8.0)
    price = rehearsal.prices(["rows"])["rows"]
    assert price.update == 8.0 and price.fixed > 0
