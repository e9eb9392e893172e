"""VarDiU against closed forms: an affine student, a Gaussian teacher."""

from __future__ import annotations

import math

import pytest
import torch
from problems import Affine, ExactPosterior, LinearGaussian, mixture_teacher, standard_error

from vardiu.data.batch import Batch
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.levels import Geometric, LogUniform
from vardiu.functional.bounds import gaussian_kl, same_condition, shared_log_marginal
from vardiu.functional.scores import denoised_to_score, score_difference
from vardiu.functional.tensors import lattice_normal
from vardiu.methods.vardiu import Draw, Settings, VarDiU
from vardiu.nn import MLP
from vardiu.posteriors.encoder import Encoder, UnitScale
from vardiu.posteriors.families import GaussianPosterior, MixturePosterior
from vardiu.settings.build import Bounded
from vardiu.students.pushforward import Pushforward
from vardiu.training.optimizers import Optimisation, cosine
from vardiu.training.trainer import Trainer

LEVELS = LogUniform(0.2, 5.0)
SHAPES = [(3, 2), (2, 2), (2, 4)]


def draw_of(problem: LinearGaussian, n: int, sigma: float, seed: int = 1) -> Draw:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, problem.k, generator=g)
    noise = torch.randn(n, problem.d, generator=g)
    return Draw(z, noise, torch.full((n,), sigma), {})


def objective_of(problem: LinearGaussian, posterior, **options) -> VarDiU:
    return VarDiU(problem.teacher, problem.generator, posterior, levels=LEVELS, **options)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_bound_with_the_exact_posterior_is_the_divergence(shape, sigma):
    problem = LinearGaussian(*shape)
    objective = objective_of(problem, ExactPosterior(problem.generator))
    with torch.no_grad():
        values = objective.bound(draw_of(problem, 20_000, sigma))
    kl = problem.kl(problem.matrix, problem.shift, sigma)
    assert abs(values.mean() - kl) < 5 * standard_error(values)
    assert standard_error(values) < 0.05 * (1 + kl)


@pytest.mark.parametrize("inflate, move", [(2.0, 0.0), (1.0, 0.7), (0.6, -0.3)])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_slack_of_a_wrong_posterior_is_its_own_divergence(inflate, move, sigma):
    problem = LinearGaussian()
    wrong = ExactPosterior(problem.generator, inflate=inflate, move=move)
    draw = draw_of(problem, 20_000, sigma)
    with torch.no_grad():
        exact = objective_of(problem, ExactPosterior(problem.generator)).bound(draw)
        loose = objective_of(problem, wrong).bound(draw)
        mean, covariance = wrong.moments(torch.zeros(1, problem.d), draw.sigma[:1])
    # Both Gaussians move with x_t alike: their divergence is the same everywhere.
    slack = gaussian_kl(mean[0], covariance[0], mean[0] + move, covariance[0] * inflate**2)
    difference = loose - exact
    assert slack > 0
    assert abs(difference.mean() - slack) < 5 * standard_error(difference)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("control_variate", [False, True])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_gradient_is_that_of_the_divergence(antithetic, control_variate, sigma):
    problem = LinearGaussian()
    objective = objective_of(
        problem,
        ExactPosterior(problem.generator),
        weight=torch.ones_like,
        antithetic=antithetic,
        control_variate=control_variate,
    )
    wanted = problem.kl_gradient(sigma)
    # Many small batches: the spread of their gradients is the standard error.
    gradients = []
    for seed in range(400):
        loss = objective.evaluate(draw_of(problem, 32, sigma, seed)).value
        gradients.append(
            torch.autograd.grad(loss, (problem.generator.matrix, problem.generator.shift))
        )
    for got, exact in zip(zip(*gradients, strict=True), wanted, strict=True):
        sample = torch.stack(got)
        assert bool(((sample.mean(0) - exact).abs() < 5 * standard_error(sample)).all())


@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_each_reduction_of_variance_reduces_it(sigma):
    """At equal numbers of latents. With the exact posterior both remove the same term, the noise's
    own, so that the second one adds nothing to the first."""

    def variance(**options: bool) -> float:
        problem = LinearGaussian()
        posterior = ExactPosterior(problem.generator)
        objective = objective_of(problem, posterior, weight=torch.ones_like, **options)
        gradients = []
        for seed in range(300):
            loss = objective.evaluate(draw_of(problem, 32, sigma, seed)).value
            gradients.append(torch.autograd.grad(loss, problem.generator.matrix)[0])
        return torch.stack(gradients).var(0).sum().item()

    plain = variance(antithetic=False, control_variate=False)
    # The spread of a variance of 300 draws is about 8 %; both effects are larger.
    assert variance(antithetic=False, control_variate=True) < 0.85 * plain
    pairs = variance(antithetic=True, control_variate=False)
    assert pairs < 0.85 * plain
    assert variance(antithetic=True, control_variate=True) == pytest.approx(pairs, rel=1e-9)


def test_without_the_path_through_the_noisy_sample_the_entropy_is_lost():
    problem, sigma = LinearGaussian(), 1.0
    draw = draw_of(problem, 50_000, sigma)
    posterior = ExactPosterior(problem.generator)
    x = problem.generator(draw.z)
    x_t = x.detach() + sigma * draw.noise
    term = -posterior(x_t, draw.sigma).log_prob(draw.z).mean()
    assert not term.requires_grad  # what a detached x_t would leave of the entropy's gradient
    full = objective_of(problem, posterior, weight=torch.ones_like).evaluate(draw).value
    (got,) = torch.autograd.grad(full, problem.generator.matrix)
    exact, _ = problem.kl_gradient(sigma)
    assert (got - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("inflate, move", [(1.5, 0.5), (1.0, 0.0)])
def test_particles_tighten_the_bound_toward_the_divergence(inflate, move):
    problem, sigma = LinearGaussian(), 0.7
    draw = draw_of(problem, 20_000, sigma)
    kl = problem.kl(problem.matrix, problem.shift, sigma)
    means, errors = [], []
    for particles in (0, 1, 4, 16):
        posterior = ExactPosterior(problem.generator, inflate=inflate, move=move)
        objective = objective_of(problem, posterior, particles=particles)
        with torch.no_grad():
            values = objective.bound(draw)
        means.append(values.mean().item())
        errors.append(standard_error(values).item())
    if inflate == 1.0:
        assert all(abs(m - kl) < 5 * e for m, e in zip(means, errors, strict=True))
        return
    assert means[0] > means[1] > means[2] > means[3] > kl - 5 * errors[3]
    assert means[3] - kl < 0.25 * (means[0] - kl)


def test_gradient_with_particles_is_that_of_the_divergence_for_the_exact_posterior():
    problem, sigma = LinearGaussian(), 1.0
    objective = objective_of(
        problem, ExactPosterior(problem.generator), weight=torch.ones_like, particles=3
    )
    sample = []
    for seed in range(300):
        loss = objective.evaluate(draw_of(problem, 32, sigma, seed)).value
        sample.append(torch.autograd.grad(loss, problem.generator.matrix)[0])
    got, (exact, _) = torch.stack(sample), problem.kl_gradient(sigma)
    assert bool(((got.mean(0) - exact).abs() < 5 * standard_error(got)).all())


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_shared_bound_is_above_the_divergence_and_approaches_it(sigma):
    problem = LinearGaussian()
    kl = problem.kl(problem.matrix, problem.shift, sigma)
    gaps = []
    for n in (4, 32, 256):
        objective = objective_of(problem, None, shared=True)
        values = []
        for seed in range(20_000 // n):
            with torch.no_grad():
                values.append(objective.bound(draw_of(problem, n, sigma, seed)).mean())
        sample = torch.stack(values)
        gaps.append(((sample.mean() - kl) / standard_error(sample)).item())
        last = sample.mean() - kl
        assert gaps[-1] > -5
        if n == 4:
            first = last
    assert gaps[0] > 5 and last < 0.15 * first


def test_a_lattice_keeps_the_shared_bound_and_tightens_it():
    """The mixture over a shifted lattice has the student's marginal for mean: KL is convex."""
    problem, sigma, n = LinearGaussian(), 0.7, 32
    kl = problem.kl(problem.matrix, problem.shift, sigma)
    g = torch.Generator().manual_seed(5)
    objective = objective_of(problem, None, shared=True)
    gaps = {}
    for lattice in (False, True):
        values = []
        for _ in range(2000):
            if lattice:
                z = lattice_normal(torch.rand(2, generator=g), n)
            else:
                z = torch.randn(n, 2, generator=g)
            noise = torch.randn(n, 3, generator=g)
            with torch.no_grad():
                draw = Draw(z, noise, torch.full((n,), sigma), {})
                values.append(objective.bound(draw).mean())
        sample = torch.stack(values) - kl
        gaps[lattice] = (sample.mean().item(), standard_error(sample).item())
    assert gaps[True][0] > -5 * gaps[True][1]
    error = math.hypot(gaps[True][1], gaps[False][1])
    assert gaps[True][0] < gaps[False][0] - 3 * error


def test_shared_marginal_is_the_mixture_of_rows_of_the_same_class():
    x = torch.randn(5, 3)
    label = torch.tensor([0, 1, 0, 1, 1])
    x_t, sigma = x + 0.3, torch.tensor([0.5, 1.0, 0.3, 2.0, 0.7])
    same = same_condition({"label": label}, 5)
    got = shared_log_marginal(x_t, x, sigma, same)
    for i in range(5):
        rows = x[label == label[i]]
        normal = torch.distributions.Normal(rows, sigma[i])
        wanted = normal.log_prob(x_t[i]).sum(1).logsumexp(0) - math.log(len(rows))
        assert got[i].item() == pytest.approx(wanted.item(), rel=1e-12)


def test_shared_marginal_has_the_gradient_of_its_value():
    x_t, x = torch.randn(6, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    sigma = torch.rand(6) + 0.3
    same = torch.rand(6, 4) > 0.4
    same[:, 0] = True
    for mask in (None, same):
        torch.autograd.gradcheck(
            lambda a, b, m=mask: shared_log_marginal(a, b, sigma, m), (x_t, x)
        )


@pytest.mark.parametrize("own", [0.0, 0.5, 1.0])
def test_a_rows_own_weight_decides_the_error_of_the_first_order(own):
    """One dimension: V = A^2 / sigma^2, whose mean error is (c - 1/2) V / N."""
    sigma, n, draws = 1.25, 20, 2_000
    random = torch.Generator().manual_seed(3)
    z = torch.randn(draws, n, 1, generator=random)
    x_t = z + sigma * torch.randn(draws, n, 1, generator=random)
    variance = 1 + sigma**2
    exact = (-0.5 * x_t.square() / variance - 0.5 * math.log(2 * math.pi * variance)).squeeze(2)
    level = torch.full((n,), sigma)
    got = [shared_log_marginal(a, b, level, own=own) for a, b in zip(x_t, z, strict=True)]
    off = (torch.stack(got) - exact).mean(1)
    error, wanted = float(off.std()) / draws**0.5, (own - 0.5) / sigma**2 / n
    # What is left is of the second order: at c = 0 or 1 the first is five times as large.
    assert abs(float(off.mean()) - wanted) < 4 * error + 0.2 * 0.5 / sigma**2 / n
    assert own == 0.5 or abs(float(off.mean())) > 4 * error


@pytest.mark.parametrize("own", [0.0, 0.3])
def test_a_rows_own_weight_has_the_gradient_of_its_value(own):
    x, sigma = torch.randn(4, 2), torch.rand(8) + 0.5
    x_t = torch.cat([x, x]) + torch.randn(8, 2)
    x.requires_grad_(True), x_t.requires_grad_(True)
    same = torch.rand(8, 4) > 0.4
    same[torch.arange(8), torch.arange(8) % 4] = True
    same[:, 0] = True

    def by_hand(a, b):
        log_w = -0.5 * torch.cdist(a, b).square() / sigma[:, None] ** 2
        weight = torch.where(same, 1.0, 0.0)
        weight[torch.arange(8), torch.arange(8) % 4] *= own
        value = (weight * log_w.exp()).sum(1).log() - weight.sum(1).log()
        return value - 2 * (sigma.log() + 0.5 * math.log(2 * math.pi))

    rows = torch.tensor([1, 2, 3, 5, 6, 7]) if own == 0 else torch.arange(8)
    got = shared_log_marginal(x_t, x, sigma, same, own)[rows]
    torch.testing.assert_close(got, by_hand(x_t, x)[rows], rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(by_hand(x_t, x)[rows].sum(), (x_t, x))
    found = torch.autograd.grad(got.sum(), (x_t, x))
    for mine, its in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-10)


def test_what_is_reported_is_a_bound_whatever_a_rows_own_weight():
    problem = LinearGaussian(2, 2)
    plain, weighted = (
        VarDiU(problem.teacher, problem.generator, levels=LogUniform(0.5, 2.0), shared=True, own=c)
        for c in (1.0, 0.5)
    )
    draw = draw_of(problem, 64, 1.0)
    assert torch.equal(plain.bound(draw), weighted.bound(draw))
    assert plain.evaluate(draw).value != weighted.evaluate(draw).value


def test_particles_are_refused_for_a_student_that_jumps():
    student = Pushforward(
        MLP((2,), (2,), width=8, depth=1, codes=3), latent_shape=(2,), shape=(2,)
    )
    teacher = mixture_teacher()
    posterior = GaussianPosterior(
        Encoder(MLP((2,), (8,), width=8, depth=1, noisy=True, final=False), 8, UnitScale(2.0)), 2
    )
    options = {"levels": LogUniform(0.5, 2.0)}
    with pytest.raises(ValueError, match="continuous in its latent, and this Pushforward jumps"):
        VarDiU(teacher, student, posterior, particles=2, **options)
    VarDiU(teacher, student, posterior, **options)
    for own, shared in ((1.5, True), (0.5, False), (float("nan"), True)):
        with pytest.raises(ValueError, match=r"own must be within \[0, 1\], and 1 unless shared"):
            VarDiU(
                teacher, student, None if shared else posterior, shared=shared, own=own, **options
            )
    with pytest.raises(ValueError, match="own must be 1 with posterior gaussian, got 0.5"):
        Settings(own=0.5)


def test_own_weight_of_the_posterior_changes_its_gradient_alone():
    torch.manual_seed(3)
    teacher = mixture_teacher()

    def gradients(own):
        torch.manual_seed(3)
        student = Pushforward(MLP((2,), (2,), width=8, depth=2), latent_shape=(2,), shape=(2,))
        encoder = Encoder(
            MLP((2,), (8,), width=8, depth=2, noisy=True, final=False), 8, UnitScale(2.0)
        )
        objective = VarDiU(
            teacher,
            student,
            GaussianPosterior(encoder, 2),
            levels=LEVELS,
            weight=torch.square,
            posterior_weight=own,
        )
        objective.loss(Batch(64), 0).value.backward()
        networks = (objective.generator, objective.posterior)
        return [torch.cat([p.grad.flatten() for p in m.parameters()]) for m in networks]

    same, square = gradients(None), gradients(torch.square)
    other = gradients(torch.ones_like)
    torch.testing.assert_close(same[1], square[1])
    for wanted, got in ((same[0], square[0]), (same[0], other[0])):
        torch.testing.assert_close(wanted, got)
    assert (other[1] - same[1]).norm() > 0.1 * same[1].norm()


def test_a_lagging_fake_biases_diff_instruct_and_not_vardiu():
    """The paper's claim: the posterior of a moved student is refitted, the fake's score is not.

    The fake is the exact denoiser of the student as it was a few steps ago.
    """
    problem, sigma, n = LinearGaussian(), 1.0, 200_000
    exact, _ = problem.kl_gradient(sigma)
    old = Affine(problem.matrix * 0.6, problem.shift - 0.3)
    draw = draw_of(problem, n, sigma)
    x = problem.generator(draw.z)
    x_t = (x + sigma * draw.noise).detach()
    real = problem.teacher(x_t, draw.sigma)

    def direction(student: Affine) -> torch.Tensor:
        covariance = (student.matrix @ student.matrix.T).detach()
        inverse = torch.linalg.inv(covariance + sigma**2 * torch.eye(problem.d))
        fake = student.shift.detach() + (x_t - student.shift.detach()) @ inverse @ covariance
        return score_difference(fake, real, draw.sigma)

    def bias(value: torch.Tensor) -> torch.Tensor:
        (got,) = torch.autograd.grad(value, problem.generator.matrix, retain_graph=True)
        return (got - exact).norm() / exact.norm()

    lagging = bias((direction(old) * x).sum(1).mean())
    fresh = bias((direction(problem.generator) * x).sum(1).mean())
    objective = objective_of(problem, ExactPosterior(problem.generator), weight=torch.ones_like)
    ours = bias(objective.evaluate(draw).value)
    # With 200,000 draws the relative standard error of a gradient is below one per cent.
    assert fresh < 0.05 and ours < 0.05 and lagging > 0.2


def test_options_that_exclude_each_other():
    teacher = mixture_teacher()
    student = Pushforward(MLP((2,), (2,), width=8, depth=2), latent_shape=(2,), shape=(2,))
    encoder = Encoder(
        MLP((2,), (8,), width=8, depth=2, noisy=True, final=False), 8, UnitScale(2.0)
    )
    gaussian = GaussianPosterior(encoder, 2)
    with pytest.raises(ValueError, match="shared latents go with the prior"):
        VarDiU(teacher, student, None, levels=LEVELS)
    with pytest.raises(ValueError, match="shared latents go with the prior"):
        VarDiU(teacher, student, gaussian, levels=LEVELS, shared=True)
    with pytest.raises(ValueError, match="set particles=0"):
        VarDiU(teacher, student, None, levels=LEVELS, shared=True, particles=2)
    with pytest.raises(ValueError, match="particles must be at least 0, got -1"):
        VarDiU(teacher, student, gaussian, levels=LEVELS, particles=-1)
    mixture = VarDiU(teacher, student, MixturePosterior(encoder, 2, 3), levels=LEVELS, particles=2)
    with pytest.raises(TypeError, match="MixturePosterior has none: set particles=0"):
        mixture.loss(Batch(4), 0)
    wide = Pushforward(MLP((2,), (3,), width=8, depth=2), latent_shape=(2,), shape=(3,))
    with pytest.raises(ValueError, match=r"samples of shape \(3,\)"):
        VarDiU(teacher, wide, gaussian, levels=LEVELS)
    with pytest.raises(TypeError, match="generator must be a vardiu.Generator, got Linear"):
        VarDiU(teacher, torch.nn.Linear(2, 2), gaussian, levels=LEVELS)
    assert isinstance(teacher, Denoiser)


def test_a_short_training_covers_a_mixture():
    """Four modes, two thousand steps of the shared bound: each holds its quarter within 8 %."""
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    teacher = mixture_teacher()
    student = Pushforward(
        MLP((2,), (2,), width=64, depth=2), latent_shape=(2,), shape=(2,), std=2.0
    )
    steps = 2000
    objective = VarDiU(
        teacher,
        student,
        levels=LogUniform(Geometric(3.0, 0.2, steps), 6.0),
        shared=True,
        weight=Bounded(1.0),
    )
    from vardiu.data import DataFree

    optimisation = Optimisation.adam({"generator": 3e-3}, decay=cosine, halflife=2000.0)
    trained = Trainer(objective, optimisation, steps=steps).fit(DataFree(128))
    x = trained.sample(4000, generator=torch.Generator().manual_seed(0))
    share = torch.cdist(x, teacher.means).argmin(1).bincount(minlength=4) / 4000
    assert bool(((share - 0.25).abs() < 0.08).all())
    # Of true samples 0.03 % are further than four standard deviations; a continuous map of 64 units
    # leaks some between the modes.
    far = (torch.cdist(x, teacher.means).amin(1) > 4 * 0.3).double().mean()
    assert far < 0.25


def test_direction_is_the_score_up_to_a_part_of_zero_mean():
    from vardiu.functional.scores import teacher_direction

    problem, sigma = LinearGaussian(), 0.8
    draw = draw_of(problem, 50_000, sigma)
    x = problem.generator(draw.z).detach()
    x_t = x + sigma * draw.noise
    denoised = problem.teacher(x_t, draw.sigma)
    arguments = (denoised, x, x_t, draw.sigma)
    full = teacher_direction(*arguments, control_variate=False)
    torch.testing.assert_close(full, denoised_to_score(denoised, x_t, draw.sigma))
    dropped = teacher_direction(*arguments, control_variate=True) - full
    torch.testing.assert_close(dropped, draw.noise / sigma)


class Shifted(Affine):
    """x = A z + b + 3 label."""

    def forward(self, z, *, label):
        return super().forward(z) + 3 * label[:, None]


class ShiftedPosterior(ExactPosterior):
    def forward(self, x_t, sigma, *, label):
        return super().forward(x_t - 3 * label[:, None], sigma)


class Texted(Affine):
    """x = A z + b + 3 sum of the text, a condition of two dimensions a row."""

    def forward(self, z, *, text):
        return super().forward(z) + 3 * text.sum((1, 2))[:, None]


class TextedPosterior(ExactPosterior):
    def forward(self, x_t, sigma, *, text):
        return super().forward(x_t - 3 * text.sum((1, 2))[:, None], sigma)


def test_particles_take_conditions_of_more_than_one_dimension():
    problem, n = LinearGaussian(), 5
    student = Texted(problem.matrix, problem.shift)
    objective = VarDiU(
        problem.teacher, student, TextedPosterior(student), levels=LEVELS, particles=2
    )
    text = torch.randn(n, 3, 4)
    draw = draw_of(problem, n, 1.0)._replace(cond={"text": text})
    x = student(draw.z, text=text)
    x_t = (x + draw.noise).detach()
    with torch.no_grad():
        got = objective.negative_entropy(draw.z, x, x, x_t, draw.sigma, draw.cond)
    mean = problem.shift + 3 * text.sum((1, 2))[:, None]
    covariance = problem.matrix @ problem.matrix.T + torch.eye(3)
    marginal = torch.distributions.MultivariateNormal(mean, covariance)
    # With the exact posterior each ratio is the marginal itself, with the row's own condition.
    torch.testing.assert_close(got, marginal.log_prob(x_t), rtol=1e-10, atol=1e-10)
    loss = objective.loss(Batch(n, cond={"text": text}), 0)
    loss.value.backward()
    assert loss.value.isfinite() and student.matrix.grad.abs().max() > 0


@pytest.mark.parametrize("particles", [1, 3])
def test_with_the_exact_posterior_particles_have_no_variance(particles):
    """Each ratio is the marginal itself, row by row, with the row's own level and class."""
    problem, n = LinearGaussian(), 7
    student = Shifted(problem.matrix, problem.shift)
    objective = VarDiU(
        problem.teacher,
        student,
        ShiftedPosterior(student),
        levels=LEVELS,
        particles=particles,
    )
    draw = draw_of(problem, n, 1.0)._replace(
        sigma=torch.linspace(0.3, 4.0, n), cond={"label": torch.arange(n) % 3}
    )
    x = student(draw.z, **draw.cond)
    x_t = (x + draw.sigma[:, None] * draw.noise).detach()
    with torch.no_grad():
        got = objective.negative_entropy(draw.z, x, x, x_t, draw.sigma, draw.cond)
    noise = draw.sigma.square()[:, None, None] * torch.eye(3)
    mean = problem.shift + 3 * draw.cond["label"][:, None]
    marginal = torch.distributions.MultivariateNormal(
        mean, problem.matrix @ problem.matrix.T + noise
    )
    torch.testing.assert_close(got, marginal.log_prob(x_t), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("antithetic", [False, True])
def test_classes_share_latents_among_themselves_only(antithetic):
    """A batch of two classes costs what its classes cost alone, weighted by their rows."""
    problem, n = LinearGaussian(), 30
    objective = objective_of(problem, None, shared=True, antithetic=antithetic)
    label = (torch.arange(n) % 3 > 0).long()
    draw = draw_of(problem, n, 0.8)._replace(sigma=torch.linspace(0.3, 2.0, n))
    parts = []
    for c in (0, 1):
        rows = label == c
        parts.append(Draw(draw.z[rows], draw.noise[rows], draw.sigma[rows], {}))
    both = draw._replace(cond={"label": label})
    wanted = sum(len(p.z) * objective.evaluate(p).value for p in parts) / n
    torch.testing.assert_close(objective.evaluate(both).value, wanted)
    assert abs(objective.evaluate(draw).value - wanted) > 1e-3
    for c in (0, 1):
        torch.testing.assert_close(objective.bound(both)[label == c], objective.bound(parts[c]))


def test_the_weight_is_a_factor_of_each_row():
    """Per row, not over the batch: the loss is the mean of weight times the rows' own losses."""
    problem, n = LinearGaussian(), 6
    draw = draw_of(problem, n, 1.0)._replace(sigma=torch.linspace(0.3, 3.0, n))

    def weight(sigma):
        return 2 + sigma**3

    posterior = ExactPosterior(problem.generator)
    options = {"antithetic": True, "control_variate": True}
    plain = objective_of(problem, posterior, weight=torch.ones_like, **options)
    weighted = objective_of(problem, posterior, weight=weight, **options)
    rows = [Draw(*(v[i : i + 1] for v in draw[:3]), {}) for i in range(n)]
    values = torch.stack([plain.evaluate(row).value for row in rows])
    wanted = (weight(draw.sigma) * values).mean()
    torch.testing.assert_close(weighted.evaluate(draw).value, wanted)
