"""EM distillation against closed forms: the chain's moments, its limits, and where it ends."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from cases import denoiser, student
from problems import Affine, LinearGaussian, mixture_teacher, standard_error
from torch import Tensor

from vardiu.data.batch import Batch
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.errors import ConfigError, Diverged
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.methods.emd import EMD
from vardiu.samplers.chains import End, gain, run_chain, within
from vardiu.settings.fields import ChainSettings
from vardiu.students.affine import AffineDenoiser
from vardiu.students.table import Table
from vardiu.training.objective import Loss

# Teacher N(1, 4), student z / 2, at alpha = 0.8 and sigma = 0.6: at level 0.75 where alpha is 1.
LEVEL, MEAN, VARIANCE, A = 0.75, 1.0, 4.0, 0.5


def difference(x: Tensor) -> Tensor:
    """The score of the noised teacher less that of the noised student."""
    return (MEAN - x) / (VARIANCE + LEVEL**2) + x / (A**2 + LEVEL**2)


class Replayed:
    """Noise of given tensors, a step a row, and where it was."""

    def __init__(self, **rows: Tensor) -> None:
        self.rows, self.places = rows, dict.fromkeys(rows, 0)

    def __call__(self, role: str, like: Tensor) -> Tensor:
        self.places[role] += 1
        return self.rows[role][self.places[role] - 1].reshape(like.shape)


class Ones:
    """Of all the numbers that a chain draws a row for each, in which that one is one."""

    def __init__(self, rows: int) -> None:
        self.rows, self.drawn = rows, 0

    def __call__(self, role: str = "", like: Tensor | None = None) -> Tensor:
        self.drawn += 1
        column = torch.zeros(self.rows, 1)
        column[self.drawn] = 1.0
        return column


def moments(**row: object) -> dict[str, float]:
    """The exact moments of a chain's end, which is an affine map of all the numbers drawn."""
    ones = Ones(3 + 2 * row["steps"])
    z, eps = ones(), ones()
    end = run_chain(lambda z: A * z, difference, z, eps, torch.full((len(z),), LEVEL), ones, **row)

    def affine(v: Tensor) -> tuple[Tensor, Tensor]:
        return v[0, 0], v[1:, 0] - v[0, 0]

    (r, dr), (zk, dz), (_, de) = affine(end.residual), affine(end.z), affine(end.eps)
    return {
        "b": float(r) / LEVEL,
        "a": float(r * zk + dr @ dz) / LEVEL,
        "noise": float(de @ de),
        "residual": float(dr @ dr),
    }


CHAINS = [
    (1, 0.0, 0.035068, 0.080927, 0.080927, 1.19053, 0.01197),
    (4, 0.04, 0.128535, 0.368011, 0.308823, 1.66733, 0.14008),
    (16, 0.0, 0.346430, 0.799453, 0.799453, 2.62005, 0.78822),
    (16, 0.04, 0.384540, 1.189396, 1.062881, 2.75190, 0.88202),
    (2_000, 0.04, 1.230769, 3.596782, 3.459757, 4.27814, 2.38021),
]


@pytest.mark.parametrize("steps, gamma_z, b, raw, cancelled, noise, residual", CHAINS)
def test_moments_of_a_gaussian_chain(steps, gamma_z, b, raw, cancelled, noise, residual):
    row = {"steps": steps, "gamma_eps": 0.16, "gamma_z": gamma_z}
    none, full = moments(**row, cancel="none"), moments(**row, cancel="all")
    assert none["b"] == pytest.approx(b, abs=5e-7) and full["b"] == pytest.approx(b, abs=5e-7)
    assert none["a"] == pytest.approx(raw, abs=5e-7)
    assert full["a"] == pytest.approx(cancelled, abs=5e-7)
    assert none["noise"] == pytest.approx(noise, abs=5e-6)
    assert full["residual"] == pytest.approx(residual, abs=5e-6)
    # The last step's noise moves nothing: without it the mean is that with all of the noise.
    if steps < 100:
        assert moments(**row, cancel="last")["a"] == pytest.approx(raw, abs=5e-7)


def test_a_chain_of_one_step_is_the_reverse_divergence_and_a_long_one_the_forward():
    q, p = VARIANCE + LEVEL**2, A**2 + LEVEL**2
    reverse = {"b": MEAN / q, "a": (1 / p - 1 / q) * A}
    assert reverse == pytest.approx({"b": 0.219178, "a": 0.505796}, abs=5e-7)
    found = moments(steps=1, gamma_eps=0.16, gamma_z=0.0)
    assert found["b"] == pytest.approx(0.16 * reverse["b"])
    assert found["a"] == pytest.approx(0.16 * reverse["a"])
    forward = {"b": MEAN / p, "a": (q + MEAN**2 - p) / p**2 * A}
    assert forward == pytest.approx({"b": 1.230769, "a": 3.597633}, abs=5e-7)
    # Of steps half as long and twice as many, the error that a step's length makes is a quarter.
    errors = [
        moments(steps=s, gamma_eps=0.16 / k, gamma_z=0.04 / k, cancel="none")["a"] - forward["a"]
        for k, s in ((0.5, 700), (1, 1_400))
    ]
    assert 3.7 < errors[0] / errors[1] < 4.7


# -------------------------------------------------------------------------------- row by row


def draws(steps: int, rows: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Replayed]:
    random = torch.Generator().manual_seed(seed)
    z, eps = (torch.randn(rows, 2, generator=random) for _ in range(2))
    sigma = 0.3 + torch.rand(rows, generator=random)
    noises = {k: torch.randn(steps, rows, 2, generator=random) for k in ("state", "latent")}
    return z, eps, sigma, Replayed(**noises)


def run(steps: int, same: bool = False, **options: object) -> End:
    """A chain of a network between a mixture's score and another network's."""
    torch.manual_seed(1)
    g, fake, teacher = student(), denoiser(), mixture_teacher()
    z, eps, sigma, noise = draws(steps)

    def delta(x_t: Tensor) -> Tensor:
        with torch.no_grad():
            other = teacher if same else fake
            scores = [d(x_t, sigma) / sigma[:, None].square() for d in (teacher, other)]
            return scores[0] - scores[1]

    return run_chain(g, delta, z, eps, sigma, noise, steps=steps, gamma_eps=0.16, **options)


def test_states_and_noises_are_the_same_chain_where_the_latent_stays():
    a, b = (run(5, gamma_z=0.0, form=form) for form in ("noise", "state"))
    assert torch.equal(a.z, b.z)
    torch.testing.assert_close(a.eps, b.eps)
    torch.testing.assert_close(a.residual, b.residual)
    # Where it moves they are two chains of the same law.
    a, b = (run(5, gamma_z=1e-2, form=form) for form in ("noise", "state"))
    assert float((a.z - b.z).abs().max()) > 1e-3 < float((a.eps - b.eps).abs().max())


def test_what_is_cancelled_is_the_noise_of_the_start_and_of_all_steps():
    k, keep = 5, 0.84
    _, eps, _, noise = draws(k)
    found = {c: run(k, gamma_z=1e-2, cancel=c) for c in ("none", "last", "all")}
    assert torch.equal(found["none"].residual, found["none"].eps)
    steps = [math.sqrt(0.32) * keep ** (k - 1 - i) * noise.rows["state"][i] for i in range(k)]
    raw = found["none"].eps
    torch.testing.assert_close(found["last"].residual, raw - steps[-1])
    torch.testing.assert_close(found["all"].residual, raw - keep**k * eps - sum(steps))
    states = [run(k, gamma_z=1e-2, form="state", cancel=c) for c in ("none", "last")]
    torch.testing.assert_close(states[1].residual, states[0].residual - steps[-1])


def test_equal_scores_leave_nothing():
    end = run(7, same=True, gamma_z=1e-2)
    assert not bool(end.residual.any()) and float((end.eps - draws(7)[1]).abs().max()) > 0.1


def test_the_latent_is_moved_by_the_students_own_slope():
    """One step, with the product of the Jacobian written out."""
    torch.manual_seed(1)
    g = student()
    z, eps, sigma, noise = draws(1)
    force = torch.randn(6, 2)
    row = {"steps": 1, "gamma_eps": 0.16, "gamma_z": 1e-2}
    jacobian = torch.stack([torch.autograd.functional.jacobian(g, r[None])[0, :, 0] for r in z])
    new = math.sqrt(0.02) * noise.rows["latent"][0]
    end = run_chain(g, lambda x_t: force, z, eps, sigma, noise, **row)
    pull = torch.einsum("bij,bi->bj", jacobian, force)
    torch.testing.assert_close(end.z, 0.99 * z + 0.01 * pull + new)
    again = Replayed(**noise.rows)
    end = run_chain(g, lambda x_t: force, z, eps, sigma, again, **row, form="state")
    pull = torch.einsum("bij,bi->bj", jacobian, eps / sigma[:, None])
    torch.testing.assert_close(end.z, 0.99 * z + 0.01 * pull + new)


def test_a_latent_is_moved_no_further_by_its_drift_than_by_its_noise():
    """Rows whose drift is longer than the noise of a step are shortened to it, the others stay."""
    random = torch.Generator().manual_seed(0)
    move = torch.randn(6, 2, 3, generator=random) * torch.logspace(-3, 2, 6)[:, None, None]
    found = within(move, 1e-2, 1.5)
    longest = 1.5 * math.sqrt(2 * 1e-2 * 6)
    length = move.flatten(1).norm(dim=1)
    assert 1 <= int((length < longest).sum()) <= 5
    wanted = length.clamp_max(longest)
    torch.testing.assert_close(found.flatten(1).norm(dim=1), wanted)
    for a, b, short in zip(found, move, length < longest, strict=True):
        assert not short or torch.equal(a, b)
        torch.testing.assert_close(a / a.norm(), b / b.norm())
    assert within(move, 1e-2, None) is move and not bool(within(0 * move, 1e-2, 1.0).any())


# -------------------------------------------------------------------------------- the objective


@pytest.mark.parametrize("normalised", [False, True])
def test_one_step_is_diff_instruct(normalised):
    torch.manual_seed(2)
    options = {
        "levels": LogUniform(0.2, 5.0),
        "weight": lambda s: 1 + s,
        "normalised": normalised,
    }
    first = DiffInstruct(mixture_teacher(), student(), denoiser(), **options)
    second = EMD(
        mixture_teacher(),
        copy.deepcopy(first.generator),
        copy.deepcopy(first.fake),
        chain=ChainSettings(steps=1, gamma_eps=0.3, gamma_z=0.0),
        **options,
    )
    for objective in (first, second):
        drawn = objective.prepare(Batch(16), 0)
        objective.student_loss(drawn, 0).value.backward()
    for a, b in zip(first.generator.parameters(), second.generator.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
        assert bool(a.grad.any())


def test_the_mean_gradient_is_that_of_the_chains_moments():
    """Of the student's matrix and shift, with the weight and over what a chain takes."""
    row = ChainSettings(steps=4, gamma_z=0.04, trust=None)
    g = Affine(torch.tensor([[A]]), torch.zeros(1))
    teacher = GaussianDenoiser(torch.tensor([MEAN]), torch.tensor([[VARIANCE]]))
    fake = AffineDenoiser(g, follows=True, sigma_min=0.1, sigma_max=10.0)
    levels = LogUniform(LEVEL, LEVEL * (1 + 1e-9))
    objective = EMD(teacher, g, fake, chain=row, levels=levels, weight=lambda s: 2 + 0 * s)
    found = []
    for _ in range(100):
        value = objective.student_loss(objective.prepare(Batch(2_000), 0), 0).value
        parts = torch.autograd.grad(value, [g.matrix, g.shift])
        found.append(torch.cat([p.flatten() for p in parts]))
    got = torch.stack(found)
    taken = 1 - 0.84**4
    assert gain(4, 0.16) == pytest.approx(taken)
    exact = -2 / taken * torch.tensor([0.308823, 0.128535])
    error = standard_error(got)
    assert bool(((got.mean(0) - exact).abs() < 5 * error).all())
    assert bool((exact.abs() > 20 * error).all())


def test_gradients_are_longer_with_the_chains_noise():
    problem = LinearGaussian(2, 2, seed=1)
    norms = {}
    for cancel in ("none", "last", "all"):
        torch.manual_seed(0)
        g = problem.networks.student()
        fake = AffineDenoiser(g, follows=True, sigma_min=0.1, sigma_max=10.0)
        row = ChainSettings(cancel=cancel)
        objective = EMD(problem.teacher, g, fake, chain=row, levels=LogUniform(0.3, 0.30001))
        loss = objective.student_loss(objective.prepare(Batch(2_000), 0), 0)
        norms[cancel] = float(loss.info["direction"])
    assert norms["none"] > norms["last"] > 1.5 * norms["all"]


# -------------------------------------------------------------------------------- where it ends


def two_modes(a: float, b: float, sigma: float, rows: int, **row: object) -> tuple[Tensor, Tensor]:
    """The mean ascent of g(z) = a z + b toward two Gaussians at -2 and 2 of deviation 0.5, with the
    exact scores, and its standard error."""
    random = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(rows, 1, generator=random) for _ in range(2))
    v = 0.25 + sigma**2

    def delta(x: Tensor) -> Tensor:
        return (2 * torch.tanh(2 * x / v) - x) / v - (b - x) / (a**2 + sigma**2)

    def noise(role: str, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=random)

    level = torch.full((rows,), sigma)
    end = run_chain(lambda z: a * z + b, delta, z, eps, level, noise, **{"gamma_eps": 0.16, **row})
    found = torch.cat([end.residual * end.z, end.residual], dim=1) / sigma
    return found.mean(0), standard_error(found)


# The spread of two modes at -2 and 2, each of deviation 0.5, is 2.062: the forward optimum. The
# reverse one is 1.881; chains lie between, and with a fast latent the cancelled noise has a bias.
@pytest.mark.parametrize(
    "steps, gamma_z, cancel, a, near",
    [
        (1, 0.0, "all", 1.881, 0.02),
        (8, 0.0, "all", 1.918, 0.02),
        (16, 1.6e-5, "all", 1.939, 0.03),
        (16, 1e-2, "all", 2.041, 0.03),
        (64, 1e-2, "all", 2.106, 0.03),
        (64, 1e-2, "none", 2.050, 0.1),
    ],
)
def test_the_spread_where_a_gaussian_student_of_two_modes_stops(steps, gamma_z, cancel, a, near):
    row = {"steps": steps, "gamma_z": gamma_z, "cancel": cancel}
    rows = 200_000 if steps < 10 else 80_000
    for sign in (1, -1):
        mean, error = two_modes(a - sign * near, 0.0, 1.0, rows, **row)
        assert sign * float(mean[0]) > 3 * float(error[0])


def test_one_step_stays_at_one_of_two_modes():
    mean, error = two_modes(0.504, 1.998, 0.3, 100_000, steps=1, gamma_z=0.0)
    assert bool((mean.abs() < 5 * error + 2e-4).all())
    away, error = two_modes(0.6, 1.9, 0.3, 20_000, steps=1, gamma_z=0.0)
    assert float(away[0]) < -20 * float(error[0]) and float(away[1]) > 20 * float(error[1])


# -------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "row, words",
    [
        ({"steps": 0}, r"chain\.steps must be at least 1, got 0"),
        ({"gamma_eps": 1.5}, r"chain\.gamma_eps must be above 0 and below 1, .* stable, got 1\.5"),
        ({"gamma_eps": 0.0}, r"chain\.gamma_eps must be above 0"),
        ({"gamma_z": 1.0}, r"chain\.gamma_z must be at least 0 and below 1, .* stable, got 1"),
        ({"gamma_z": -1e-3}, r"chain\.gamma_z must be at least 0"),
        ({"gamma_z": math.nan}, r"chain\.gamma_z must be a finite number, got nan"),
    ],
)
def test_a_chain_that_cannot_be_run_is_refused(row, words):
    with pytest.raises(ConfigError, match=words) as error:
        ChainSettings(**row)
    assert "\n" not in str(error.value)


def test_a_chain_that_runs_away_stops_the_training():
    def loss(gamma_z: float, trust: float | None = None) -> Loss:
        problem = LinearGaussian(2, 2, seed=1)
        g = Affine(10 * torch.eye(2), torch.zeros(2))
        fake = AffineDenoiser(g, sigma_min=0.1, sigma_max=10.0)
        row = ChainSettings(steps=32, gamma_z=gamma_z, trust=trust)
        objective = EMD(problem.teacher, g, fake, chain=row, levels=LogUniform(0.3, 0.30001))
        return objective.student_loss(objective.prepare(Batch(64), 0), 0)

    assert 0.5 < float(loss(1e-4).info["latent"]) < 2
    with pytest.raises(Diverged, match=r"chains are not stable\. Lower --chain\.gamma-z"):
        loss(0.5)
    assert 0.5 < float(loss(0.5, trust=0.1).info["latent"]) < 2


def test_particles_have_no_latent_to_move():
    problem = LinearGaussian(2, 2)
    with pytest.raises(ValueError, match="needs a student of normal latents, got a Table"):
        EMD(
            problem.teacher,
            Table(3, (2,)),
            problem.networks.fake(),
            chain=ChainSettings(),
            levels=LogUniform(1.0, 2.0),
        )
