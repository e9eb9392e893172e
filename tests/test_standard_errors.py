"""Every stated standard error against the spread of fresh sets, within a factor of 1.5.

The spread of R sets is known to 1 / sqrt(2 R): to 5 % with 200 of them. What is compared is the
root of the mean squared error that was stated.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import denoiser
from problems import ExactPosterior, LinearGaussian, mixture_teacher
from torch import Tensor

from vardiu import metrics
from vardiu.cli.guide import Sweep, residual
from vardiu.data.batch import Batch
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.methods.anchored import AnchoredVarDiU
from vardiu.methods.lagging import Anchor
from vardiu.methods.policy_gradient import PolicyGradient
from vardiu.methods.vardiu import VarDiU
from vardiu.metrics.classes import class_agreement, classes_covered
from vardiu.metrics.density import log_density, modes_covered
from vardiu.metrics.frechet import frechet, frechet_ratio, kernel_distance
from vardiu.metrics.metric import Metric
from vardiu.metrics.mmd import mmd2
from vardiu.metrics.neighbours import density_coverage, precision_recall
from vardiu.metrics.paired import paired
from vardiu.metrics.restored import restored_metrics
from vardiu.metrics.transport import wasserstein2_exact, wasserstein2_sliced
from vardiu.monitoring.gradients import gradient_quality, reference_gradient, slack
from vardiu.nn.perceptual import perceptual_net
from vardiu.runs.restoring import Restored
from vardiu.samplers.pairs import Pairs
from vardiu.samplers.policy import StepPolicy
from vardiu.settings.fields import AnchorSettings
from vardiu.students.affine import Affine
from vardiu.students.few_step import FewStep
from vardiu.teachers.probe import probe
from vardiu.training.objective import Loss, Objective, Phase

FACTOR = 1.5


def stated_over_spread(values: list[float], errors: list[float]) -> float:
    """The root mean square of the stated errors, over the deviation of the values."""
    stated = torch.tensor(errors, dtype=torch.float64).square().mean().sqrt()
    return float(stated / torch.tensor(values, dtype=torch.float64).std())


def ratios(measure: Callable[[], tuple[Metric, ...]], sets: int = 200) -> dict[str, float]:
    """That ratio of each metric, by its name."""
    rows = [measure() for _ in range(sets)]
    return {
        first.name: stated_over_spread([r[i].value for r in rows], [r[i].error for r in rows])
        for i, first in enumerate(rows[0])
    }


def close(ratio: float) -> bool:
    return 1 / FACTOR < ratio < FACTOR


def draw(n: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return shift + scale * torch.randn(n, 2)


# -------------------------------------------------------------------------------- metrics


def test_frechet_of_fresh_fakes():
    real = draw(200)
    found = ratios(lambda: (frechet(real, draw(100, 0.6)),), 150)
    assert close(found["frechet"])


@pytest.mark.parametrize("n, most", [(48, 2.1), (100, 1.8), (2000, 1.35)])
def test_frechet_of_many_features_has_an_upper_limit(n, most):
    """Sets with replacement would state 3 times the spread at 100 rows of 64 features."""
    real = torch.randn(2000, 64)
    found = ratios(lambda: (frechet(real, 0.1 + 1.1 * torch.randn(n, 64)),), 100)
    assert 0.8 < found["frechet"] < most, found


def test_the_ratio_to_fresh_held_out_samples():
    """Two sets are drawn anew: the fakes, and the real ones that they are compared with."""
    real = draw(200)
    found = ratios(lambda: frechet_ratio(real, draw(100, 1.0), draw(100, 1.5), seed=0), 100)
    assert found.keys() == {"frechet", "frechet_real", "frechet_ratio"}
    assert all(map(close, found.values())), found


def test_kernel_distance_of_fresh_sets():
    found = ratios(lambda: (kernel_distance(draw(200), draw(200, 0.5)),))
    assert close(found["kernel_distance"])


def test_mmd_of_fresh_sets_of_unequal_sizes():
    found = ratios(lambda: mmd2(draw(80), draw(120, 0.7, 0.8)))
    assert found.keys() == {"mmd2", "mmd2_unbiased"}
    assert all(map(close, found.values()))


def test_precision_and_density_of_fresh_fakes():
    real = draw(100)
    found = ratios(lambda: precision_recall(real, draw(100, 0.5))[:1], 150)
    found |= ratios(lambda: density_coverage(real, draw(100, 0.5))[:1], 150)
    assert found.keys() == {"precision", "density"}
    assert all(map(close, found.values()))


def test_recall_and_coverage_of_fresh_fakes_have_an_upper_limit():
    """The jackknife's is 1.2 to 1.9 times the spread; a mean over reals would be 0.6 of it."""
    real = draw(100)
    found = ratios(lambda: precision_recall(real, draw(100, 0.5))[1:], 150)
    found |= ratios(lambda: density_coverage(real, draw(100, 0.5))[1:], 150)
    assert found.keys() == {"recall", "coverage"}
    assert all(0.95 < ratio < 2.1 for ratio in found.values()), found


@pytest.mark.parametrize("n, m", [(100, 100), (80, 150)])
def test_sliced_wasserstein_of_fresh_sets(n, m):
    """Eight directions: about as much of the error is theirs as of the samples."""
    found = ratios(lambda: (wasserstein2_sliced(draw(n), draw(m, 0.8, 1.2), projections=8),))
    assert close(found["sliced_wasserstein2"])


def test_sliced_wasserstein_of_fresh_directions():
    """In twelve dimensions of which one differs the directions are most of it."""
    x, y = torch.randn(4000, 12), torch.randn(4000, 12)
    y[:, 0] += 3
    found = ratios(lambda: (wasserstein2_sliced(x, y, projections=4),), 100)
    assert close(found["sliced_wasserstein2"])


def test_log_density_of_fresh_samples():
    found = ratios(lambda: (log_density(draw(50), lambda x: -x.square().sum(1) / 2),))
    assert close(found["log_density"])


@pytest.mark.parametrize(
    ("weights", "threshold"),
    [([0.05] * 6 + [0.35] * 2, 0.05), ([0.05] * 20, 0.035)],
    ids=["at the threshold", "one deviation above it"],
)
def test_counts_of_modes_and_of_classes_of_fresh_samples(weights, threshold):
    k, weights = len(weights), torch.tensor(weights)
    means = torch.stack([torch.arange(float(k)), torch.zeros(k)], dim=1)

    def measure() -> tuple[Metric, ...]:
        chosen = torch.multinomial(weights, 200, replacement=True)
        modes = modes_covered(means[chosen], means, threshold)
        return modes, classes_covered(chosen, k, threshold)

    found = ratios(measure, 300)
    assert found.keys() == {"modes", "classes"} and all(map(close, found.values()))


@pytest.mark.parametrize(
    ("weights", "n"),
    [
        ([1 / 40] * 40, 100),
        ([1 / 40] * 40, 200),
        ([1 / 40] * 40, 400),
        ([0.03] * 30 + [0.01] * 10, 1000),
        ([0.03] * 30 + [0.01] * 10, 10_000),
    ],
)
def test_counts_of_many_modes_of_fresh_samples(weights, n):
    """The counts alone would state 2.6 times the spread of 400 samples of 40 even modes."""
    chosen = torch.tensor(weights)

    def measure() -> tuple[Metric, ...]:
        return (classes_covered(torch.multinomial(chosen, n, replacement=True), len(weights)),)

    assert close(ratios(measure)["classes"])


@pytest.mark.parametrize("weights", [[1 / 40] * 40, [0.05] * 20 + [0.0] * 20])
def test_counts_of_modes_that_hardly_vary_have_an_upper_limit(weights):
    """Of 40 even modes one is below a hundredth in a set of 68; the counts alone state 0.55."""
    chosen = torch.tensor(weights)
    found = [
        classes_covered(torch.multinomial(chosen, 1000, replacement=True), 40) for _ in range(100)
    ]
    stated = sum(metric.error**2 for metric in found) ** 0.5 / 10
    exact = 0.120 if weights[-1] else 0.0
    assert exact < stated < 0.25 if exact else stated < 0.01


def test_restored_images_of_fresh_photographs():
    """Twelve images a set, which are not of one contrast, with noise that is not of one size."""
    net = perceptual_net()

    class Space:
        name = "means"

        def __call__(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    def measure() -> tuple[Metric, ...]:
        truth = torch.rand(12, 1, 1, 1) * (2 * torch.rand(12, 3, 16, 16) - 1)
        noise = 0.3 * torch.rand(12, 1, 1, 1) * torch.randn(truth.shape)
        return tuple(restored_metrics(truth + noise, truth, net, Space())[:4])

    found = ratios(measure, 60)
    assert found.keys() == {"psnr", "high_frequencies", "edges", "dists"}
    assert all(map(close, found.values())), found


def test_draws_of_one_measurement_are_no_independent_images():
    """Ten images, each restored five times; one that counts all of fifty is too sure."""

    def measure() -> tuple[Metric, ...]:
        image = torch.randn(10)
        rows = [{"of": str(i), "psnr": float(image[i] + 0.5 * torch.randn(()))} for i in
                range(10) for _ in range(5)]  # fmt: skip
        return (Restored(None, rows, torch.zeros(0)).metrics(0.1)[0],)

    found = ratios(measure)
    assert found.keys() == {"psnr"} and close(found["psnr"])


def test_paired_intervals_cover_the_difference_as_often_as_stated():
    """Of five seeds whose values have most of their spread in common; and of three."""
    for seeds, sets in ((5, 1_000), (3, 1_000)):
        common = 3 * torch.randn(sets, seeds)
        mine = common + 0.4 + 0.5 * torch.randn(sets, seeds)
        theirs = common + 0.5 * torch.randn(sets, seeds)
        found = [
            paired(dict(enumerate(a)), dict(enumerate(b)))
            for a, b in zip(mine.tolist(), theirs.tolist(), strict=True)
        ]
        covered = sum(abs(row.mean - 0.4) <= row.half for row in found) / sets
        assert abs(covered - 0.95) < 4 * (0.95 * 0.05 / sets) ** 0.5, covered


def test_agreement_of_fresh_samples():
    asked = torch.ones(50, dtype=torch.long)
    found = ratios(lambda: (class_agreement((torch.rand(50) < 0.3).long(), asked),))
    assert close(found["agreement"])


def test_the_probe_of_fresh_data():
    teacher = GaussianDenoiser(torch.zeros(2), torch.ones(2), sigma_min=0.1, sigma_max=10.0)
    rows = [probe(teacher, draw(64), levels=3, seed=seed)[1] for seed in range(150)]
    assert close(stated_over_spread([r.error for r in rows], [r.deviation for r in rows]))


def test_every_metric_is_tested_here():
    """What states an error is compared with fresh draws; exact transport states none."""
    text = Path(__file__).read_text()
    pure = {"class_masses", "mode_masses", "frechet_of_moments", "mean_ratio", "fingerprint"}
    made_of_others = {"feature_metrics", "space_metrics", "mmd2_biased", "mmd2_unbiased"}
    beside = {"restored_metrics", "paired", "metrics", "residual"}  # of other modules
    for name in (set(metrics.__all__) | beside) - pure - made_of_others - {"Metric"}:
        assert f"{name}(" in text or name == "wasserstein2_exact", name
    assert wasserstein2_exact(draw(5), draw(5)).error is None


# -------------------------------------------------------------------------------- instruments


SIGMA = 0.8


def fixed(u: Tensor, step: int = 0) -> Tensor:
    return torch.full_like(u, SIGMA)


class Noisy(Objective):
    """A loss whose gradient is normal, of mean a half and deviation two."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("noise", self.loss, updates=("generator",)),)

    def loss(self, batch: Batch, step: int) -> Loss:
        total = torch.zeros(())
        for parameter in self.generator.parameters():
            noise = self.noise_like(parameter.detach())
            total = total + (parameter * (0.5 + 2 * noise)).sum()
        return Loss(total)


def marginal(problem: LinearGaussian) -> GaussianDenoiser:
    return GaussianDenoiser(problem.shift, problem.matrix @ problem.matrix.T)


def test_the_bias_of_a_gradient():
    """Where there is a bias; where there is none its error is an upper limit, about twice."""
    problem = LinearGaussian()
    objective = Noisy(problem.teacher, problem.generator)
    reference = torch.full((9,), 1.5)
    # Each step's instrument has draws of its own.
    found = [
        gradient_quality(objective, Batch(1), step, reference, draws=16) for step in range(150)
    ]
    assert close(stated_over_spread([q.bias for q in found], [q.bias_error for q in found]))
    # Without bias: the root of a squared error that is clipped at zero.
    found = [
        gradient_quality(objective, Batch(1), step, reference - 1, draws=16) for step in range(50)
    ]
    ratio = stated_over_spread([q.bias for q in found], [q.bias_error for q in found])
    assert 1 < ratio < 3.5
    # Of references that are drawn anew, whose blocks vary twice as much as the estimates' mean.
    found = []
    for step in range(150):
        blocks = 4.5 + 4 * torch.randn(16, 9)
        spread = (blocks - blocks.mean(0)) / (16 * 15) ** 0.5
        quality = gradient_quality(objective, Batch(1), step, blocks.mean(0), spread, draws=16)
        norm = quality.norm  # of the bias itself, not in units of a length that varies as well
        found.append((quality.bias * norm, quality.bias_error * norm))
    assert close(stated_over_spread(*map(list, zip(*found, strict=True))))


def test_the_error_of_a_reference_gradient():
    problem = LinearGaussian()
    random = torch.Generator().manual_seed(0)
    found = [
        reference_gradient(
            problem.generator,
            marginal(problem),
            problem.teacher,
            levels=fixed,
            weight=torch.ones_like,
            random=random,
            rows=128,
            blocks=8,
        )
        for _ in range(100)
    ]
    values = torch.stack([gradient for gradient, _ in found])
    spreads = torch.stack([spread for _, spread in found])
    stated = spreads.square().sum((1, 2)).mean()
    assert close(float((stated / values.var(0).sum()).sqrt()))
    along = torch.randn(values.shape[1])  # and in any direction
    assert close(float((spreads @ along).square().sum(1).mean().sqrt() / (values @ along).std()))


def bound_of(problem: LinearGaussian, levels: Callable = fixed) -> VarDiU:
    posterior = ExactPosterior(problem.generator, inflate=1.5)
    return VarDiU(
        problem.teacher, problem.generator, posterior, levels=levels, weight=torch.ones_like
    )


def test_the_slack_of_fresh_batches():
    problem = LinearGaussian()
    objective, exact = bound_of(problem), marginal(problem)

    def log_marginal(repeat: int, sigma: float) -> tuple[Tensor, Tensor]:
        z = torch.randn(16, problem.k)
        x, level = problem.generator(z), torch.full((16,), sigma)
        x_t = x + sigma * torch.randn(16, problem.d)
        return x_t, objective.negative_entropy(z, x, x, x_t, level, {})

    rows = [slack(log_marginal, exact, [SIGMA], repeats=8)[0] for _ in range(150)]
    assert close(stated_over_spread([r[1] for r in rows], [r[2] for r in rows]))


@pytest.mark.parametrize("lattice", [False, True])
def test_the_trust_of_fresh_batches(lattice):
    """How far a student is from its anchor, at eight levels: of independent latents, also where
    the batch's are a lattice."""
    problem = LinearGaussian()
    far = Affine(problem.matrix + 0.3, problem.shift - 0.2)
    objective = AnchoredVarDiU(
        problem.teacher,
        problem.generator,
        marginal(problem),
        levels=LogUniform(0.3, 3.0),
        anchor=Anchor(far, AnchorSettings(rate=0.1), 1, 10),
        lattice=lattice,
    )
    with torch.no_grad():
        rows = [objective.diagnostics(Batch(24), step) for step in range(150)]
    keys = [key for key in rows[0] if key.startswith("trust/")]
    assert len(keys) == 8
    for key in keys:
        errors = [float(row[key.replace("trust/", "trust_error/")]) for row in rows]
        assert close(stated_over_spread([float(row[key]) for row in rows], errors)), key


def test_the_residual_of_a_guide_of_fresh_samples():
    teacher = GaussianDenoiser(torch.zeros(2), torch.eye(2), sigma_min=0.1, sigma_max=10.0)
    space = SimpleNamespace(space=SimpleNamespace(sigma_data=1.0))

    def measure() -> tuple[Metric, ...]:
        seed = int(torch.randint(2**31, ()))
        sweep = Sweep(marginal(LinearGaussian()), teacher, "", None, space, 40, seed)
        return (residual(sweep, draw(40, 0.5, 1.5), {}),)

    assert close(ratios(measure, 150)["residual"])


def test_the_held_out_reward_of_fresh_noises():
    """Of a student of two calls, by how near its samples are to the noise itself."""
    student = FewStep(denoiser(), [8.0, 1.0], "ddim")
    policy = StepPolicy([8.0, 1.0], 0.5, 0.5)

    def pairs(n: int) -> Pairs:
        z = torch.randn(n, 2)
        return Pairs(z, z.clone(), {})

    def reward(x: Tensor, y: Tensor, cond: object) -> Tensor:
        return (-(x - y).square().sum(1) / 50).exp()

    objective = PolicyGradient(
        mixture_teacher(), student, policy, reward, pairs(16), pairs(2), guard_weight=0.0
    )
    rows = []
    for _ in range(100):
        objective.held_out = pairs(20)
        with torch.no_grad():
            rows.append(objective.diagnostics(Batch(16), 1))
    for name in ("held_out", "held_out_start"):
        found = [[float(row[key]) for row in rows] for key in (name, f"{name}_error")]
        assert close(stated_over_spread(*found)), name


def test_the_bound_of_fresh_batches():
    problem = LinearGaussian()
    objective = bound_of(problem, LogUniform(0.3, 3.0))
    with torch.no_grad():
        rows = [objective.diagnostics(Batch(16), 0) for _ in range(120)]
    keys = [key for key in rows[0] if key.startswith("bound/")]
    assert len(keys) == 8
    for key in keys:
        errors = [float(row[key.replace("/", "_error/")]) for row in rows]
        assert close(stated_over_spread([float(row[key]) for row in rows], errors)), key
