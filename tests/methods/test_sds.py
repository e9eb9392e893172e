"""SDS against closed forms: its gradient, where it stops, and how it gets there."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from cases import stages_of, student
from problems import Affine, LinearGaussian, mixture_teacher, standard_error
from torch import Tensor

from vardiu.cli.main import main
from vardiu.data.batch import Batch
from vardiu.denoisers.exact import MixtureDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.methods.base import Example
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.methods.registry import METHODS
from vardiu.methods.sds import SDS, OfNoises, Settings, recipe
from vardiu.problems.linear import LinearProblem
from vardiu.runs.stages import Stages
from vardiu.samplers.trajectories import inversion
from vardiu.settings.fields import LevelSettings, VariableSettings, WeightSettings
from vardiu.students.affine import AffineDenoiser
from vardiu.students.table import Table
from vardiu.training.stage import Context
from vardiu.training.trainer import Trainer

RATE, ROWS = 0.5, 16_384


def gradients(objective: SDS, draws: int, rows: int) -> list[Tensor]:
    """By parameter, the gradients of so many independent batches."""
    parameters = list(objective.generator.parameters())
    found = []
    for _ in range(draws):
        value = objective.loss(objective.prepare(Batch(rows), 0), 0).value
        found.append(torch.autograd.grad(value, parameters))
    return [torch.stack(column) for column in zip(*found, strict=True)]


def test_the_mean_gradient_of_a_gaussian_is_the_closed_form():
    """E = H (A, b - m) with H = E[s w(s) (C + s^2 I)^-1], of teacher N(m, C) and g(z) = A z + b."""
    problem = LinearGaussian(3, 3)
    objective = SDS(problem.teacher, problem.generator, LogUniform(0.3, 3.0), lambda s: 1 + s**2)
    sigma = 0.3 * 10 ** ((torch.arange(2000) + 0.5) / 2000)  # the midpoint rule, exact to 1e-6
    covered = problem.covariance + sigma[:, None, None] ** 2 * torch.eye(3)
    h = ((sigma * (1 + sigma**2))[:, None, None] * torch.linalg.inv(covered)).mean(0)
    exact = (h @ problem.matrix, h @ (problem.shift - problem.mean))
    # Five standard errors: one of twelve numbers misses by chance in 1.4e5 seeds.
    for got, wanted in zip(gradients(objective, 400, 64), exact, strict=True):
        assert bool(((got.mean(0) - wanted).abs() < 5 * standard_error(got)).all())
        assert float(wanted.abs().max()) > 20 * float(standard_error(got).max())


def test_the_gradient_is_equation_3_row_by_row():
    """Literally, with the two noises, on the draws that a twin takes from the same streams."""

    def weight(sigma: Tensor) -> Tensor:
        return 1 + sigma**3

    objective = SDS(mixture_teacher(), student(), LogUniform(0.2, 5.0), weight)
    twin = copy.deepcopy(objective)
    objective.loss(Batch(16), 0).value.backward()
    x = twin.generator(twin.latents(16))
    sigma = (0.2 * 25 ** twin.uniform(16))[:, None]
    noise = twin.noise_like(x)
    x_t = x.detach() + sigma * noise
    predicted = (x_t - twin.teacher(x_t, sigma[:, 0])) / sigma
    (weight(sigma) * (predicted - noise) * x).sum(1).mean().backward()
    for a, b in zip(objective.generator.parameters(), twin.generator.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# Where x = a E tanh(a (x + s e) / (v + s^2)) for two modes at -a, a = 2 of variance v = 0.25: not
# at the mode 2, nor at that of the noised density (1.9932 at level 1).
@pytest.mark.parametrize("level, stop", [(0.5, 1.9993), (1.0, 1.7427), (1.25, 1.0054)])
def test_a_constant_student_stops_at_a_mode_of_the_density_that_is_noised_twice(level, stop):
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    inner = np.tanh(2 * (stop + level * nodes) / (0.25 + level**2))
    assert abs(2 * weights @ inner / math.sqrt(2 * math.pi) - stop) < 1e-4
    teacher = MixtureDenoiser(torch.tensor([[2.0], [-2.0]]), 0.5)
    levels = LogUniform(level, level * (1 + 1e-9))
    found = []
    for x in (stop, stop + 0.2):
        constant = Affine(torch.zeros(1, 1), torch.tensor([x]))
        shift = gradients(SDS(teacher, constant, levels, torch.ones_like), 100, 2000)[1]
        found.append(float(shift.mean() / standard_error(shift)))
    assert abs(found[0]) < 5 < 10 < found[1]


def trained(problem: LinearProblem, steps: int) -> Affine:
    settings = Settings(
        steps=steps,
        batch=ROWS,
        lr=RATE,
        optimizer="sgd",
        beta_1=0.0,
        decay="constant",
        clip=1e9,
        halflife=0.0,
        levels=LevelSettings(sigma_min=1.0, sigma_max=1.0 + 1e-9),
        weight=WeightSettings(kind="constant"),
    )
    stages = Stages(recipe(problem, settings, Context()))
    stage = stages.first()
    trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
    trainer.fit(stage.batches)
    assert stages.after(trainer) is None
    return stages.result.requires_grad_(False)


@pytest.mark.parametrize("steps", [5, 60])
def test_a_linear_student_contracts_to_the_mean_at_the_known_rate(steps):
    """A step at level 1 is A <- (1 - r H) A, b - m <- (1 - r H) (b - m), H = (C + I)^-1, on average:
    it ends at the point m, whatever C is."""
    problem = LinearProblem(2, 2, seed=1)
    law, eye = problem.law, torch.eye(2)
    h = torch.linalg.inv(law.covariance + eye)
    rate = eye - RATE * h
    found, start = trained(problem, steps), problem.networks.student().requires_grad_(False)
    shrunk = torch.linalg.matrix_power(rate, steps)
    a, b = shrunk @ start.matrix, shrunk @ (start.shift - law.mean)
    # A row's gradient has a deviation below 1 in every coordinate: 3 |h A|^2 + |h (b - m)|^2 + |C h|^2
    # is 0.9 at the start, and falls. Five standard errors of the sum over steps that contract.
    slow = float(torch.linalg.eigvalsh(rate).max())
    slack = 5 * RATE / math.sqrt(ROWS * (1 - slow**2))
    assert slack < 0.04 and float((start.matrix - a).abs().max()) > 10 * slack
    assert float((found.matrix - a).abs().max()) < slack
    assert float((found.shift - law.mean - b).abs().max()) < slack
    if steps == 60:  # a thousandth of the teacher's variance
        assert float(found.matrix.square().sum()) < 1e-3 * float(law.covariance.trace())


# -------------------------------------------------------------------------------- two modes


def pushed(x: float, level: float, **options: object) -> Tensor:
    """By batch, the derivative of a constant student's loss between modes at -2 and 2."""
    teacher = MixtureDenoiser(torch.tensor([[2.0], [-2.0]]), 0.5)
    constant = Affine(torch.zeros(1, 1), torch.tensor([x]))
    levels = LogUniform(level, level * (1 + 1e-9))
    objective = SDS(teacher, constant, levels, torch.ones_like, **options)
    return gradients(objective, *((2, 1) if options else (20, 4_000)))[1]


@pytest.mark.parametrize("level", [1.5, 1.75, 1.95])
def test_above_its_threshold_sds_stops_between_the_modes(level):
    """x = a E tanh(a (x + s e) / v) has a solution beside zero while a^2 / v E sech^2(a s e / v)
    is above one, v = 1/4 + s^2: to the level 1.3312."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)

    def slope(s: float) -> float:
        v = 0.25 + s**2
        return 4 / v * weights @ np.cosh(2 * s * nodes / v) ** -2 / math.sqrt(2 * math.pi)

    assert slope(1.3312) == pytest.approx(1, abs=2e-4) and slope(level) < 1
    shift = pushed(0.6, level)
    assert float(shift.mean()) > 5 * float(standard_error(shift))


# By the level: where SDI stops (SDS: 1.9993, 1.7427, 1.0054), and from where on it goes there. The
# probability-flow equation keeps quantiles: x = D(F_s^-1(F_0(x)), s), solved beforehand.
@pytest.mark.parametrize(
    "level, start, stop", [(0.5, 0.6556, 2.0), (1.0, 1.3706, 1.9899), (1.25, 1.7834, 1.8493)]
)
def test_a_constant_student_of_sdi_stops_near_the_mode_itself(level, start, stop):
    def push(x: float) -> float:
        shift = pushed(x, level, steps=400)
        assert float(shift.std()) < 1e-7  # nothing is drawn
        return float(shift[0])

    assert push(start - 0.02) > 0 > push(start + 0.02)
    assert push(stop - 0.02) < 0 < push(stop + 0.02)


def test_sdi_stops_between_the_modes_at_high_levels():
    assert all(float(pushed(x, 1.5, steps=100).min()) > 0 for x in (0.1, 1.0, 1.8))


# -------------------------------------------------------------------------------- the inversion


def test_an_inversion_of_a_gaussian_is_its_flow():
    """x_t - m = (x - m) sqrt((C + s^2) / (C + s_0^2)); Euler's error falls as the step's length."""
    problem = LinearGaussian(1, 1)
    c, m = problem.covariance[0, 0], problem.mean
    x, low, high = torch.tensor([[3.0], [-2.0]]), 0.1, torch.tensor([1.0, 2.5])
    exact = m + (x - m) * ((c + high[:, None] ** 2) / (c + low**2)).sqrt()
    errors = []
    for steps in (50, 100):
        grid = [low * (high / low) ** (i / steps) for i in range(steps + 1)]
        found = inversion(problem.teacher, x, torch.stack(grid))
        errors.append((found - exact).abs().max())
    assert errors[0] < 0.1 and 1.9 < errors[0] / errors[1] < 2.1


def test_an_inversions_fresh_noise_is_that_of_a_step_back():
    teacher, x, sigmas = mixture_teacher(), torch.randn(3, 2), torch.tensor([[0.5], [2.0]])
    sigmas, noise = sigmas.expand(2, 3), torch.randn(3, 2)
    plain = inversion(teacher, x, sigmas)
    found = inversion(teacher, x, sigmas, eta=0.3, noise=[noise])
    torch.testing.assert_close(found, plain + 0.3 * 0.5 * math.sqrt(1 - 1 / 16) * noise)
    with pytest.raises(ValueError, match="needs noise for each step"):
        inversion(teacher, x, sigmas, eta=0.3)
    with pytest.raises(ValueError, match="must be positive and not decrease"):
        inversion(teacher, x, sigmas.flip(0))


def test_sdi_inverts_with_its_share_of_fresh_noise():
    teacher, x, sigma = mixture_teacher(), torch.randn(5, 2), torch.full((5,), 2.0)
    noises = [torch.randn(5, 2) for _ in range(4)]
    found = {}
    for eta in (0.0, 0.3):
        objective = SDS(
            teacher, Table.of(x), LogUniform(0.2, 5.0), torch.ones_like, steps=4, eta=eta
        )
        left = iter(noises)
        objective.noise_like = lambda like, left=left: next(left)
        found[eta] = objective.noised(x, sigma, {})
        low = torch.full((5,), teacher.sigma_min)
        grid = torch.stack([low * (sigma / low) ** (i / 4) for i in range(5)])
        wanted = inversion(teacher, x, grid, eta=eta, noise=noises)
        torch.testing.assert_close(found[eta], wanted)
    assert float((found[0.3] - found[0.0]).abs().max()) > 0.05


# -------------------------------------------------------------------------------- VSD


def test_vsd_of_one_particle_is_sds():
    """The exact fake of one particle is the particle, whatever the noise."""

    def weight(sigma: Tensor) -> Tensor:
        return 1 + sigma

    torch.manual_seed(0)
    particle, levels = Table.of(torch.tensor([[0.7, -0.4]])), LogUniform(0.2, 5.0)
    point = Affine(torch.zeros(2, 2), particle.table[0].detach())
    fake = AffineDenoiser(point, sigma_min=0.1, sigma_max=10.0)
    found = []
    for objective in (
        SDS(mixture_teacher(), copy.deepcopy(particle), levels, weight),
        DiffInstruct(
            mixture_teacher(),
            copy.deepcopy(particle),
            fake,
            levels=levels,
            weight=OfNoises(weight),
        ),
    ):
        loss = objective.phases[-1].loss
        loss(objective.prepare(Batch(32), 0), 0).value.backward()
        found.append(objective.generator.table.grad)
    torch.testing.assert_close(*found)
    assert bool(found[0].all())


def test_vsd_is_diff_instruct_with_the_weight_of_noises():
    settings = Settings(steps=3, batch=8, variant="vsd", ratio=4)
    (stage,) = stages_of(METHODS["sds"], Example(settings))
    objective = stage.objective
    assert type(objective) is DiffInstruct and (stage.steps, objective.ratio) == (12, 4)
    sigma = torch.tensor([0.5, 2.0])
    torch.testing.assert_close(objective.weight(sigma), sigma**3 / (sigma**2 + 1))


@pytest.mark.parametrize("variant, stays", [("sds", 0), ("vsd", 4)])
def test_particles_gather_at_a_point_by_sds_and_keep_the_spread_by_vsd(variant, stays):
    """A teacher of four corners at one level: SDS's particles all go to the middle, between all
    modes; with an exact fake of the particles each corner keeps its share."""
    corners = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]])
    table = Table.of(corners.repeat(8, 1) + 0.3 * torch.randn(32, 2))
    level = LogUniform(2.0, 2.0 * (1 + 1e-9))

    class Own(MixtureDenoiser):
        """The exact denoiser of the particles as they are."""

        def forward(self, x_t, sigma, **cond):
            self.means.copy_(table.table.detach())
            return super().forward(x_t, sigma, **cond)

    if variant == "sds":
        objective = SDS(mixture_teacher(), table, level, torch.ones_like, lattice=True)
    else:
        objective = DiffInstruct(
            mixture_teacher(),
            table,
            Own(table.table.detach().clone(), 0.0),
            levels=level,
            weight=OfNoises(torch.ones_like),
            lattice=True,
        )
    optimizer = torch.optim.SGD([table.table], lr=30.0)
    for _ in range(60):
        loss = objective.phases[-1].loss(objective.prepare(Batch(512), 0), 0)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    x = table.table.detach()
    near = torch.cdist(x, corners).min(1)
    full = [int(((near.indices == i) & (near.values < 1.5)).sum()) >= 5 for i in range(4)]
    assert sum(full) == stays


def test_variables_are_what_is_moved():
    for kind, name in (("particles", "Table"), ("picture", "Picture")):
        settings = Settings(steps=3, batch=8, variables=VariableSettings(kind=kind, particles=5))
        (stage,) = stages_of(METHODS["sds"], Example(settings))
        assert type(stage.objective.generator).__name__ == name


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["mog40-sds-particles", "mog40-vsd-particles"])
def test_particles_are_distilled_sampled_and_measured_as_any_student(
    preset, tmp_path, monkeypatch, capsys
):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 500)
    quick = ["--steps", "4", "--batch", "16", "--width", "8", "--threads", "1"]
    quick += ["--samples", "500", "--reports", "1", "--evaluations", "1"]
    quick += ["--variables.particles", "30", "--device", "cpu"]
    if "vsd" in preset:
        quick += ["--ratio", "1"]
    assert main(["distill", preset, *quick]) == 0
    assert main(["sample", f"runs/{preset}", "--num", "300", "--out", "x.npz"]) == 0
    with np.load("x.npz") as found:
        x = found["x"]
    assert x.shape == (300, 2) and len(np.unique(x, axis=0)) == 30
    assert main(["evaluate", f"runs/{preset}", "--samples", "500"]) == 0
    told = capsys.readouterr().out
    assert "modes covered" in told
