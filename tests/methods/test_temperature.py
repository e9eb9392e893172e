"""A temperature: what is descended is the divergence less a share of the student's entropy."""

from __future__ import annotations

import math

import pytest
import torch
from cases import denoiser, student
from problems import ExactPosterior, LinearGaussian, mixture_teacher, standard_error
from torch import Tensor

from vardiu.cli.main import main
from vardiu.data.batch import Batch
from vardiu.denoisers.levels import LogUniform
from vardiu.errors import ConfigError
from vardiu.functional.bounds import gaussian_kl
from vardiu.functional.scores import tempered
from vardiu.methods import METHODS
from vardiu.methods.anchored import AnchoredVarDiU
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.methods.emd import EMD
from vardiu.methods.lagging import Anchor
from vardiu.methods.sid import SiD
from vardiu.methods.vardiu import Draw, VarDiU
from vardiu.problems.toy import ToyProblem
from vardiu.settings.fields import AnchorSettings, ChainSettings
from vardiu.students.affine import Affine, AffineDenoiser
from vardiu.training.stage import Context

SIGMA, TAU = 0.8, 1.3
LEVEL = LogUniform(SIGMA, SIGMA * (1 + 1e-12))
RANGE = {"sigma_min": 0.1, "sigma_max": 10.0}
OPTIONS = {"levels": LEVEL, "weight": torch.ones_like, "temperature": TAU}


def noisy(matrix: Tensor) -> Tensor:
    return matrix @ matrix.T + SIGMA**2 * torch.eye(len(matrix))


def entropy(matrix: Tensor) -> Tensor:
    return 0.5 * torch.logdet(2 * math.pi * math.e * noisy(matrix))


def gradient(value: Tensor, student: Affine) -> list[Tensor]:
    return list(torch.autograd.grad(value, [student.matrix, student.shift]))


def wanted(problem: LinearGaussian) -> list[Tensor]:
    """The gradient of KL(p || q) - (tau - 1) H(p)."""
    a, b = problem.generator.matrix, problem.generator.shift
    return gradient(problem.kl(a, b, SIGMA) - (TAU - 1) * entropy(a), problem.generator)


def matched(problem: LinearGaussian) -> Affine:
    """The student whose noisy covariance is tau times the teacher's."""
    eye = torch.eye(len(problem.mean))
    covariance = TAU * (problem.covariance + SIGMA**2 * eye) - SIGMA**2 * eye
    return Affine(torch.linalg.cholesky(covariance), problem.mean)


def means(objective, repeats: int = 300, rows: int = 64) -> tuple[list[Tensor], list[Tensor]]:
    """The mean gradient of the student's loss, and its standard error."""
    found: list[list[Tensor]] = [[], []]
    for _ in range(repeats):
        if isinstance(objective, VarDiU):
            loss = objective.loss(Batch(rows), 0)
        else:
            loss = objective.student_loss(objective.prepare(Batch(rows), 0), 0)
        for kept, value in zip(found, gradient(loss.value, objective.generator), strict=True):
            kept.append(value)
    stacked = [torch.stack(kept) for kept in found]
    return [rows.mean(0) for rows in stacked], [standard_error(rows) for rows in stacked]


def agree(objective, exact: list[Tensor]) -> None:
    for mean, error, value in zip(*means(objective), exact, strict=True):
        assert bool(((mean - value).abs() < 5 * error + 1e-9).all()), (mean, error, value)
        # Errors that could hide the temperature would make the comparison void.
        assert float(error.mean()) < 0.05


def fake_of(student: Affine) -> AffineDenoiser:
    return AffineDenoiser(student, follows=True, **RANGE)


def test_it_is_the_score_times_the_temperature():
    mean, x_t = torch.randn(5, 3), torch.randn(5, 3)
    score = (mean - x_t) / SIGMA**2
    torch.testing.assert_close((tempered(mean, x_t, TAU) - x_t) / SIGMA**2, TAU * score)
    assert tempered(mean, x_t, 1.0) is mean


@pytest.mark.parametrize("normalised", [False, True])
def test_the_fake_is_tempered_row_by_row(normalised):
    problem = LinearGaussian(3, 3)
    fake = fake_of(problem.generator)
    objective = DiffInstruct(
        problem.teacher, problem.generator, fake, normalised=normalised, **OPTIONS
    )
    z, noise = torch.randn(6, 3), torch.randn(6, 3)
    sigma = torch.linspace(0.3, 2, 6)
    x = problem.generator(z)
    got = gradient(objective.matched(x, sigma, noise, {}).value, problem.generator)
    s = sigma[:, None]
    x_t = (x + s * noise).detach()
    mine, theirs = fake(x_t, sigma).detach(), problem.teacher(x_t, sigma)
    direction = (x.detach() + TAU * (mine - x.detach()) - theirs) / s**2
    if normalised:
        size = (theirs - x.detach()).abs().mean(1, keepdim=True).clamp(min=objective.FLOOR)
        direction = direction / size
    value = (direction * problem.generator(z)).sum(1).mean()
    for a, b in zip(got, gradient(value, problem.generator), strict=True):
        torch.testing.assert_close(a, b)


def test_diff_instruct_descends_the_divergence_less_entropy():
    problem = LinearGaussian(3, 3)
    fake = fake_of(problem.generator)
    agree(DiffInstruct(problem.teacher, problem.generator, fake, **OPTIONS), wanted(problem))


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("control_variate", [False, True])
def test_the_bound_with_the_exact_posterior_has_the_same_gradient(antithetic, control_variate):
    problem = LinearGaussian(3, 3)
    posterior = ExactPosterior(problem.generator)
    options = {"antithetic": antithetic, "control_variate": control_variate}
    agree(
        VarDiU(problem.teacher, problem.generator, posterior, **OPTIONS, **options),
        wanted(problem),
    )


def test_a_posteriors_own_weight_leaves_the_students_gradient():
    """The student's gradient is the same on the same draws, whatever weighs the posterior."""
    problem = LinearGaussian(3, 3)
    draw = Draw(torch.randn(8, 3), torch.randn(8, 3), torch.linspace(0.3, 2, 8), {})
    found = []
    for own in (None, lambda sigma: 1 + 0.5 * sigma):
        posterior = ExactPosterior(problem.generator)
        objective = VarDiU(
            problem.teacher, problem.generator, posterior, posterior_weight=own, **OPTIONS
        )
        found.append(gradient(objective.evaluate(draw).value, problem.generator))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_anchored_bound_is_tempered_with_its_distance_from_the_anchor(antithetic):
    """tau (E |g - g_a|^2 / 2 sigma^2 + E log p_a) - E log q, the anchor elsewhere and held."""
    problem = LinearGaussian(3, 3)
    student = problem.generator
    away = Affine(student.matrix.detach() + 0.2 * torch.randn(3, 3), student.shift.detach() + 0.2)
    anchor = Anchor(away, AnchorSettings(), 1, 100)
    objective = AnchoredVarDiU(
        problem.teacher,
        student,
        fake_of(anchor.network),
        anchor=anchor,
        antithetic=antithetic,
        **OPTIONS,
    )
    a, b = student.matrix, student.shift
    c, d = away.matrix.detach(), away.shift.detach()
    far = ((a - c).square().sum() + (b - d).square().sum()) / (2 * SIGMA**2)
    mine, its = (b, noisy(a)), (d, noisy(c))
    anchored = far - entropy(a) - gaussian_kl(*mine, *its)
    agree(objective, gradient(TAU * anchored + entropy(a) + problem.kl(a, b, SIGMA), student))


def test_each_method_rests_where_the_noisy_law_is_the_tempered_one():
    problem = LinearGaussian(3, 3)
    student = matched(problem)
    fake = fake_of(student)
    chain = ChainSettings(steps=1, gamma_z=0.0)
    resting = [
        DiffInstruct(problem.teacher, student, fake, **OPTIONS),
        SiD(problem.teacher, student, fake, normalised=False, **OPTIONS),
        SiD(problem.teacher, student, fake, normalised=False, alpha=0.5, **OPTIONS),
        EMD(problem.teacher, student, fake, chain=chain, **OPTIONS),
    ]
    zero = [torch.zeros(3, 3), torch.zeros(3)]
    for objective in resting:
        agree(objective, zero)
    # Of the teacher's own law each would move: the comparison above can fail.
    own = Affine(torch.linalg.cholesky(problem.covariance), problem.mean)
    for kind, row in ((DiffInstruct, {}), (SiD, {"normalised": False}), (EMD, {"chain": chain})):
        objective = kind(problem.teacher, own, fake_of(own), **row, **OPTIONS)
        mean, error = means(objective)
        assert bool(((mean[0].diagonal()).abs() > 5 * error[0].diagonal()).all()), kind


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_is_positive_and_finite(value):
    problem = LinearGaussian(2, 2)
    words = "temperature must be positive and finite"
    with pytest.raises(ValueError, match=words):
        DiffInstruct(
            problem.teacher,
            problem.generator,
            fake_of(problem.generator),
            **{**OPTIONS, "temperature": value},
        )
    with pytest.raises(ValueError, match=words):
        VarDiU(
            problem.teacher,
            problem.generator,
            ExactPosterior(problem.generator),
            **{**OPTIONS, "temperature": value},
        )


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("vardiu", {"posterior": "gaussian"}),
        ("vardiu", {"posterior": "anchored"}),
        ("diff_instruct", {}),
        ("dmd2", {}),
        ("sid", {}),
        ("emd", {}),
        ("f_distill", {"divergence": "reverse_kl"}),
    ],
)
def test_a_run_passes_it_on(method, options):
    settings = METHODS[method].settings(steps=10, batch=8, temperature=TAU, **options)
    stage = next(METHODS[method].recipe(ToyProblem(), settings, Context()))
    assert stage.objective.temperature == TAU


@pytest.mark.parametrize("preset", ["digits", "digits-vardiu", "digits-sid"])
def test_a_temperature_out_of_range_is_refused_where_it_is_typed(preset, capsys):
    assert main(["distill", preset, "--temperature", "0"]) == 2
    assert "temperature must be positive, got 0" in capsys.readouterr().err


def test_a_divergence_weighed_by_a_ratio_takes_none():
    settings = METHODS["f_distill"].settings
    with pytest.raises(ConfigError, match="temperature must be 1 with --divergence jensen_shan"):
        settings(temperature=1.1)
    assert settings(temperature=1.1, divergence="reverse_kl").temperature == 1.1


def test_sid_descends_half_the_fisher_divergence_from_the_warmer_score():
    """E_p |s_q - tau s_p|^2, away from where it is zero; with alpha = 1/2 nothing else is left."""
    problem = LinearGaussian(3, 3)
    student = problem.generator
    theirs = torch.linalg.inv(problem.covariance + SIGMA**2 * torch.eye(3))
    mine = noisy(student.matrix)
    slope = TAU * torch.linalg.inv(mine) - theirs
    spread = torch.trace(slope @ mine @ slope.T)
    apart = (theirs @ (student.shift - problem.mean)).square().sum()
    objective = SiD(
        problem.teacher, student, fake_of(student), normalised=False, alpha=0.5, **OPTIONS
    )
    agree(objective, gradient(0.5 * (spread + apart), student))


def test_sid_projects_on_what_the_warmer_score_has_for_its_mean():
    """The naive formula: of a Gaussian problem the gap is linear, and hides a part of it."""
    objective = SiD(
        mixture_teacher(), student(), denoiser(), normalised=False, alpha=0.8, **OPTIONS
    )
    z, noise, sigma = torch.randn(6, 2), torch.randn(6, 2), torch.linspace(0.3, 2, 6)
    x = objective.generator(z)
    got = objective.matched(x, sigma, noise, {}).value
    s = sigma[:, None]
    x_t = x + s * noise
    theirs = (objective.teacher(x_t, sigma) - x_t) / s**2
    mine = (objective.fake(x_t, sigma) - x_t) / s**2
    gap = theirs - TAU * mine
    # E[s_p | x_t] is that of -noise / sigma: the score of x_t given x.
    projected = (gap * (theirs + TAU * noise / s)).sum(1)
    value = (projected - 0.8 * gap.square().sum(1)).mean()
    torch.testing.assert_close(got, value)
