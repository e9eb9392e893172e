"""Instruments against closed forms; they leave no trace; alarms are raised where they should."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import CASES, EXAMPLES, batch_of
from problems import Affine, ExactPosterior, LinearGaussian, standard_error
from torch import nn

from vardiu.cli.main import main
from vardiu.data.batch import Batch
from vardiu.data.digits import digits
from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.errors import RunError
from vardiu.methods.vardiu import Draw, VarDiU
from vardiu.monitoring import references
from vardiu.monitoring.alarms import alarms
from vardiu.monitoring.gradients import gradient_quality
from vardiu.monitoring.measures import (
    gradient_snr,
    mean_offset,
    measure_convergence,
    score_gap,
    variance_ratio,
)
from vardiu.problems.base import KnownSpace
from vardiu.problems.densities import DensityProblem
from vardiu.problems.digits import DigitsProblem
from vardiu.problems.image_scores import ImageScores
from vardiu.reports.curves import curves, stages_joined
from vardiu.resources.footprint import activations
from vardiu.runs.measuring import evaluation_due, reference_curves
from vardiu.runs.task import RunSettings, task_from_preset
from vardiu.settings.fields import DensitySettings, DigitsSettings
from vardiu.storage.run_folder import RunFolder
from vardiu.students.base import Generator
from vardiu.training.cures import CURES
from vardiu.training.objective import Loss, Objective, Phase
from vardiu.training.optimizers import Optimisation
from vardiu.training.trainer import Trainer


class Noisy(Objective):
    """A loss whose gradient is normal, of a known mean and variance."""

    def __init__(self, mean: float, deviation: float) -> None:
        problem = LinearGaussian()
        super().__init__(problem.teacher, problem.generator)
        self.mean, self.deviation = mean, deviation

    @property
    def phases(self):
        return (Phase("noise", self.loss, updates=("generator",)),)

    def loss(self, batch: Batch, step: int) -> Loss:
        total = torch.zeros(())
        for parameter in self.generator.parameters():
            noise = self.noise_like(parameter.detach())
            total = total + (parameter * (self.mean + self.deviation * noise)).sum()
        return Loss(total)


def test_the_ratio_of_signal_to_noise_is_the_closed_form():
    objective = Noisy(mean=0.5, deviation=2.0)
    values = torch.tensor(
        [gradient_snr(objective, Batch(1), step, draws=16) for step in range(400)]
    )
    # The mean of 1 / (the trace's estimate), of 9 parameters and 15 degrees of freedom each.
    freedom = 9 * 15
    exact = (0.5 / 2.0) ** 2 * freedom / (freedom - 2)
    assert abs(values.mean() - exact) < 5 * standard_error(values)
    assert standard_error(values) < 0.1 * exact


def test_the_ratio_of_a_gradient_without_noise_is_infinite():
    assert gradient_snr(Noisy(0.5, 0.0), Batch(1), 0) == math.inf
    for step in range(50):  # the same to rounding
        assert gradient_snr(Noisy(0.37, 1e-9), Batch(1), step) > 1e12


def test_frozen_parameters_have_no_part_in_the_ratio():
    objective = Noisy(0.5, 2.0)
    next(objective.generator.parameters()).requires_grad_(False)
    assert math.isfinite(gradient_snr(objective, Batch(1), 0))


@pytest.mark.parametrize("name", [n for n in CASES if EXAMPLES[n][0].needs.teacher])
def test_the_ratio_leaves_no_trace(name):
    objective = CASES[name]()
    batch = batch_of(objective)
    objective.uniform(2, "latent")  # a stream that is under way
    before = {
        k: v.clone() for k, v in objective.state_dict().items() if isinstance(v, torch.Tensor)
    }
    streams = objective.streams.state_dict()
    world = torch.get_rng_state()
    value = gradient_snr(objective, batch, 3, draws=2)
    assert not math.isnan(value)  # infinite where a step of a table draws nothing
    assert gradient_snr(objective, batch, 3, draws=2) == value
    after = objective.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(torch.get_rng_state(), world)
    found = objective.streams.state_dict()
    assert found["seed"] == streams["seed"]
    assert found["generators"].keys() == streams["generators"].keys()
    for key, state in streams["generators"].items():
        assert torch.equal(found["generators"][key], state)


class Moving(Noisy):
    """An objective whose `prepare` moves a buffer."""

    def __init__(self) -> None:
        super().__init__(mean=0.5, deviation=2.0)
        self.register_buffer("queue", torch.arange(4.0))

    def prepare(self, batch, step):
        self.queue.mul_(0.5).add_(self.noise_like(self.queue, "queue"))
        return batch


@pytest.mark.parametrize(
    "instrument",
    [
        lambda o, b: gradient_snr(o, b, 3, draws=2),
        lambda o, b: gradient_quality(o, b, 3, torch.ones(9), draws=2),
        lambda o, b: activations(o, b, 3),
    ],
    ids=["ratio", "quality", "activations"],
)
def test_instruments_put_back_what_prepare_moves(instrument):
    objective, batch = Moving(), Batch(torch.zeros(1, 3))
    objective.prepare(batch, 0)
    queue, streams = objective.queue.clone(), objective.streams.state_dict()
    instrument(objective, batch)
    assert torch.equal(objective.queue, queue)
    found = objective.streams.state_dict()
    assert found["generators"].keys() == streams["generators"].keys()
    for key, state in streams["generators"].items():
        assert torch.equal(found["generators"][key], state)
    objective.prepare(batch, 1)
    assert not torch.equal(objective.queue, queue)  # it does move


def test_the_gap_of_scores_is_the_closed_form():
    mine, theirs, d = 1.5, 1.0, 2
    teacher = GaussianDenoiser(torch.zeros(d), theirs**2 * torch.eye(d), sigma_max=10.0)
    x, others = mine * torch.randn(2_000, d), mine * torch.randn(20_000, d)
    for sigma, value in score_gap(
        teacher, x, others, torch.randn(2_000, d), [0.5, 2.0], 1.0
    ).items():
        gain = mine**2 / (mine**2 + sigma**2) - theirs**2 / (theirs**2 + sigma**2)
        wanted = gain**2 * (mine**2 + sigma**2) / (sigma**2 / (1 + sigma**2))
        # 4,000 squared normals, and the empirical denoiser's own error of about 1 / 200.
        assert value == pytest.approx(wanted, rel=5 * math.sqrt(2 / 4_000) + 0.05, abs=2e-3)


def test_the_gap_of_scores_is_nothing_for_the_teachers_own_samples():
    teacher = GaussianDenoiser(torch.zeros(2), torch.eye(2), sigma_max=10.0)
    found = score_gap(
        teacher, torch.randn(500, 2), torch.randn(20_000, 2), torch.randn(500, 2), [1.0], 1.0
    )
    assert found[1.0] < 0.005


def test_the_variance_of_the_students_denoiser_drops_out_of_the_gap():
    teacher = GaussianDenoiser(torch.zeros(2), torch.eye(2), sigma_max=10.0)
    values = []
    for _ in range(60):
        x, others, noise = torch.randn(100, 2), torch.randn(200, 2), torch.randn(100, 2)
        values.append(score_gap(teacher, x, others, noise, [1.0], 1.0)[1.0])
    found = torch.tensor(values)
    # The square of one denoiser of 200 samples is 0.02 on average.
    assert abs(found.mean()) < 4 * standard_error(found) + 2e-3
    assert standard_error(found) < 2e-3


def test_the_gap_of_scores_is_by_class():
    means = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
    teacher = MixtureDenoiser(means, 1.0, labels=torch.arange(2), sigma_max=10.0)
    label = torch.arange(9_000) % 2
    x = means[label] + torch.randn(9_000, 2)
    noise = torch.randn(1_000, 2)
    right = score_gap(teacher, x[:1_000], x[1_000:], noise, [1.0], 1.0, {"label": label})
    assert abs(right[1.0]) < 0.01
    wrong = score_gap(teacher, x[:1_000], x[1_000:], noise, [1.0], 1.0, {"label": 1 - label})
    # The class moves the mean by 4, half of which a denoiser at this level lets through.
    assert wrong[1.0] == pytest.approx((4 / 2) ** 2 / 2 / (1 / 2), rel=0.05)


def test_the_gap_of_scores_leaves_out_classes_that_a_half_lacks():
    """A thousand classes, most of which two thousand samples do not have twice."""
    teacher = MixtureDenoiser(torch.randn(1_000, 2), 1.0, labels=torch.arange(1_000))
    label = torch.randint(1_000, (2_100,))
    x = teacher.means[label] + torch.randn(2_100, 2)
    noise = torch.randn(100, 2)
    gap = score_gap(teacher, x[:100], x[100:], noise, [2.0], 1.0, {"label": label})[2.0]
    assert abs(gap) < 2
    alone = {"label": torch.arange(2_100)}
    assert score_gap(teacher, x[:100], x[100:], noise, [2.0], 1.0, alone) == {}


def test_a_class_without_components_has_no_denoiser():
    teacher = MixtureDenoiser(torch.randn(4, 2), 1.0, labels=torch.tensor([0, 0, 1, 3]))
    x, sigma = torch.randn(4, 2), torch.ones(4)
    answer = teacher(x, sigma, label=torch.arange(4))
    assert answer.isnan().any(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("inflate, move", [(1.0, 0.0), (2.0, 0.0), (0.5, 0.3)])
def test_the_posteriors_gap_is_the_closed_form(inflate, move):
    problem, sigma, n = LinearGaussian(), 0.8, 20_000
    posterior = ExactPosterior(problem.generator, inflate=inflate, move=move)
    objective = VarDiU(
        problem.teacher, problem.generator, posterior, levels=lambda u, step: sigma + 0 * u
    )
    z, noise = torch.randn(n, problem.k), torch.randn(n, problem.d)
    with torch.no_grad():
        gap = objective.gap(Draw(z, noise, torch.full((n,), sigma), {}))
        covariance = posterior.moments(torch.zeros(1, problem.d), torch.tensor([sigma]))[1][0]
    shift = torch.full((problem.k,), move)
    wanted = 0.5 * problem.k * (1 / inflate**2 - 1)
    wanted += 0.5 * float(shift @ torch.linalg.solve(covariance, shift)) / inflate**2
    assert abs(gap.mean() - wanted) < 5 * standard_error(gap)


@pytest.mark.parametrize("mean", [torch.tensor(2.0), torch.tensor([2.0, 2.0, 2.0, -1.0])])
def test_the_offset_is_the_distance_of_the_means_in_deviations_of_the_data(mean):
    x = 5.0 * torch.randn(100, 4)
    x = x - x.mean(0) + mean  # of any spread
    assert mean_offset(x, mean, 9.0) == pytest.approx(0, abs=1e-6)
    assert mean_offset(x + 6.0, mean, 9.0) == pytest.approx(2.0)
    # One dimension of four: the root of the mean square.
    far = x + torch.tensor([0.0, 0.0, 0.0, -6.0])
    assert mean_offset(far, mean, 9.0) == pytest.approx(1.0)
    assert math.isnan(mean_offset(far * math.nan, mean, 9.0))


def test_spread_is_one_for_the_data():
    assert variance_ratio(3.0 * torch.randn(20_000, 4), 9.0) == pytest.approx(1.0, rel=0.05)


# ---------------------------------------------------------------- alarms


def row(step: int, value: float = 1.0, **more: object) -> dict:
    given = {"stage": "s", "step": step, "updates": step, "metric/x": value}
    given |= {"metric/x_error": 0.01, "histogram": [0.25] * 4, "spread": 1.0, "gradient_snr": 1.0}
    return {**given, **more}


def names(rows: list[dict], total: int = 100) -> list[str]:
    return [alarm.name for alarm in alarms(rows, total, 2, "x")]


def test_a_healthy_run_raises_nothing():
    assert names([row(i, 10 / i) for i in range(10, 101, 10)]) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"histogram": [0.5, 0.49, 0.01, 0.0], "spread": 0.4},
        {"spread": 0.3},
        {"metric/recall": 0.1},
    ],
)
def test_collapse_is_raised_where_it_begins(bad):
    rows = [row(10, **bad), row(20), row(30, **bad), row(40, **bad)]
    (alarm,) = alarms(rows, 100, 2, "x", cures={**CURES, "collapse": "spread it"})
    assert (alarm.name, alarm.step) == ("collapse", 30)
    assert "of the data's variance" in alarm.message and alarm.cure == "spread it"


def test_a_collapse_is_told_by_the_only_evaluation_too():
    assert names([row(100, spread=0.1)]) == ["collapse"]


def test_shares_are_judged_by_those_of_the_data():
    uneven = {"histogram": [0.7, 0.1, 0.1, 0.1], "expected_shares": [0.7, 0.1, 0.1, 0.1]}
    assert names([row(50, **uneven)]) == []
    lost = {"histogram": [0.97, 0.01, 0.01, 0.01], "expected_shares": [0.7, 0.1, 0.1, 0.1]}
    assert names([row(50, **lost)]) == ["collapse"]


def test_a_run_as_good_as_can_be_has_converged_and_is_not_saturated():
    still = [row(i, 1.0 if i > 30 else 2.0) for i in range(10, 91, 10)]
    assert [alarm.name for alarm in alarms(still, 100, 2, "x", floor=lambda: 0.99)] == []
    assert [alarm.name for alarm in alarms(still, 100, 2, "x", floor=lambda: 0.5)] == [
        "saturation"
    ]
    # Where the error is as large as the value, nothing can be told.
    assert names([{**r, "metric/x_error": 0.6} for r in still]) == []


def test_a_student_is_not_saturated_where_nobody_knows_the_best():
    still = [row(i, 1.0 if i > 30 else 2.0) for i in range(10, 91, 10)]
    for unknown in (None, math.nan):
        assert alarms(still, 100, 2, "x", floor=lambda unknown=unknown: unknown) == []


class Images:
    """True images, and a teacher of others of them: as good as a teacher can be."""

    def __init__(self):
        torch.set_default_dtype(torch.float32)
        x = digits()[0]
        self.images, self.held_out = (x[:900], {}), x[900:]
        self.space = KnownSpace(x.shape[1:], x.mean(), 1.0, 1.0)
        # Asked for whether there is one, and whether its numbers were written with it.
        self.teacher = SimpleNamespace(denoiser=self.draw, written_metrics=lambda *_: [])
        self.chosen, self.settings = None, SimpleNamespace(data="digits")

    def teacher_source(self, *, measured):
        assert measured
        return self.draw

    def draw(self, n, random):
        return self.held_out[torch.randint(len(self.held_out), (n,), generator=random)], {}


def test_a_student_of_images_that_is_as_good_as_its_teacher_is_not_saturated(monkeypatch):
    monkeypatch.setattr(ImageScores, "quick", 300)
    data = Images()
    scores = ImageScores(data)
    measured = {m.name: m for m in scores.measure(data.draw, 300, seed=7)}
    found = measured["frechet"]
    assert found.value > 10 * found.error  # never near zero with so few samples
    still = [row(i, found.value, **{"metric/x_error": found.error}) for i in range(10, 91, 10)]
    assert alarms(still, 100, 2, "x", floor=scores.best_value) == []
    assert [a.name for a in alarms(still, 100, 2, "x")] == ["saturation"]
    worse = [{**r, "metric/x": 2 * found.value} for r in still]
    assert [a.name for a in alarms(worse, 100, 2, "x", floor=scores.best_value)] == ["saturation"]


def test_the_best_is_asked_only_where_it_decides():
    def asked():
        raise AssertionError

    assert alarms([row(i, 10 / i) for i in range(10, 101, 10)], 100, 2, "x", floor=asked) == []


def test_a_start_that_is_lost_is_told():
    falls = [row(i, 1.0 + i / 100, spread=1.0) for i in range(10, 101, 10)]
    alarm = next(alarm for alarm in alarms(falls, 100, 2, "x") if alarm.name == "worsening")
    assert alarm.step == 50  # above 1.21 before, but not before half of the stage
    assert "x is 1.5, and was 1.1 at step 10" in alarm.message
    # Within the errors it may be chance; a student that waits has not been led anywhere.
    assert "worsening" not in names([{**r, "metric/x_error": 0.3} for r in falls])
    assert names([{**r, "updates": 0} for r in falls]) == []
    assert names([row(i, 2.0 - i / 100, spread=1.0) for i in range(10, 101, 10)]) == []


def test_one_noisy_ratio_of_the_gradient_is_not_believed():
    ratios = {70: 0.5, 80: 0.4, 90: -0.1}
    still = [row(i, 1.0, gradient_snr=ratios.get(i, 1.0)) for i in range(10, 91, 10)]
    assert "not noise" in alarms(still, 100, 2, "x")[0].cure


def test_a_student_that_waits_is_not_judged():
    still = [row(i, 1.0, updates=0, spread=0.1) for i in range(10, 101, 10)]
    assert names(still) == []


def test_a_log_without_the_metric_is_read():
    bare = [row(i, **{"metric/x": None}, spread=None) for i in range(10, 101, 10)]
    assert names(bare) == []


def test_saturation_names_noise_where_the_gradient_is_noise():
    still = [row(i, 1.0 if i > 30 else 2.0, gradient_snr=1e-3) for i in range(10, 91, 10)]
    (alarm,) = alarms(still, 100, 2, "x")
    assert alarm.name == "saturation" and "raise --batch" in alarm.cure
    loose = [row(i, 1.0 if i > 30 else 2.0) for i in range(10, 91, 10)]
    assert alarms(loose, 100, 2, "x")[0].cure == CURES["saturation"]
    # The end of a run is where it should stand still.
    assert names([row(96 + i / 10, 1.0) for i in range(9)]) == []


def test_a_posterior_that_lags_is_told_after_some_reports():
    lag = {"posterior_gap_quantile/0.5": 3.0}
    assert names([row(10, **lag), row(20, **lag)]) == []
    assert names([row(10, **lag), row(20, **lag), row(30, **lag)]) == ["posterior"]
    fine = {"posterior_gap_quantile/0.5": 0.1}
    assert names([row(10, **lag), row(20, **fine), row(30, **lag), row(40, **lag)]) == []


def test_a_student_that_has_left_its_anchor_is_told():
    far, near = {"trust_quantile/0.5": 3.0}, {"trust_quantile/0.5": 1.0}
    assert names([row(10, **far), row(20, **far), row(30, **far)]) == ["anchor"]
    assert names([row(10, **far), row(20, **near), row(30, **far)]) == []


def test_a_fake_that_does_not_know_the_student_is_told():
    def errors(own: float, other: float) -> dict[str, float]:
        return {
            "fake_error_anchor_quantile/0.5": own,
            "fake_error_student_quantile/0.5": other,
        }

    assert names([row(10 * i, **errors(0.4, 0.9)) for i in (1, 2, 3)]) == ["fake"]
    assert names([row(10 * i, **errors(0.4, 0.7)) for i in (1, 2, 3)]) == []
    assert names([row(10 * i, **errors(0.0, 0.7)) for i in (1, 2, 3)]) == []
    # Both errors fall. One report in which the ratio is high is a guess, of whichever error.
    falling = [errors(1.0, 1.2), errors(0.9, 1.08), errors(0.5, 1.1)]
    assert names([row(10 * i, **values) for i, values in enumerate(falling, 1)]) == []
    falling = [errors(1.0, 2.2), errors(0.9, 1.9), errors(0.5, 1.1)]
    assert names([row(10 * i, **values) for i, values in enumerate(falling, 1)]) == ["fake"]


def test_what_is_not_finite_is_told():
    assert names([row(10, loss=math.nan)]) == ["divergence"]
    assert names([row(10, nonfinite=["loss"])]) == ["divergence"]
    assert names([row(10, gradient_snr=math.inf)]) == []
    assert names([row(10, gradient_snr=None, nonfinite=["gradient_snr"])]) == []


def test_samples_that_fly_apart_are_told():
    assert names([row(10, spread=9.0), row(20)]) == []
    assert names([row(10, offset=9.0), row(20, offset=1.7)]) == []
    (alarm,) = alarms([row(30, offset=4_500.0)], 100, 2, "x")
    assert alarm.name == "divergence" and "is 4.5e+03 standard deviations" in alarm.message
    (alarm,) = alarms([row(30, spread=9.0)], 100, 2, "x")
    assert alarm.name == "divergence" and "9 times" in alarm.message


class Constant(Generator):
    """All samples in one point."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.ones(2))
        self.latent_shape = self.shape = (2,)

    def forward(self, z, **cond):
        return self.point + 0 * z


def test_a_constant_student_has_collapsed():
    problem = DensityProblem(DensitySettings(name="ring8"))
    objective = Noisy(0.5, 1.0)
    drawn = problem.student_source(Constant())(400, torch.Generator())
    found = measure_convergence(problem, objective, drawn, Batch(2), 20, draws=2)
    assert found["offset"] > 0 and found["spread"] < 1e-12 and max(found["histogram"]) == 1.0
    rows = [row(10), {**row(20), **found}]
    assert names(rows) == ["collapse"]


def test_a_student_without_its_entropy_collapses_and_is_told():
    """Where the entropy's gradient is cut, nothing holds the samples apart."""

    class Cut(VarDiU):
        def negative_entropy(self, z, x, x_0, x_t, sigma, cond, role="particle"):
            parts = (z, x.detach(), x_0.detach(), x_t.detach(), sigma, cond, role)
            return super().negative_entropy(*parts)

    problem = DensityProblem(DensitySettings(name="ring8", width=16, depth=1))
    for cls, wanted in ((VarDiU, []), (Cut, ["collapse"])):
        torch.manual_seed(0)
        levels = LogUniform(0.5, 4.0)
        objective = cls(problem.teacher, problem.networks.student(), levels=levels, shared=True)
        optimisation = Optimisation.adam({"generator": 1e-2})
        trainer = Trainer(objective, optimisation, steps=150)
        student = trainer.fit(problem.data.free(64, 0))
        drawn = problem.student_source(student)(4_000, torch.Generator().manual_seed(0))
        found = measure_convergence(problem, objective, drawn, trainer.batch, 150, draws=0)
        assert [
            a.name for a in alarms([{"step": 150, "updates": 150, **found}], 150, 2, "mmd2")
        ] == wanted


@pytest.mark.parametrize("classes", [True, False])
def test_shares_of_digits_are_those_of_the_classifier(classes):
    problem = DigitsProblem(DigitsSettings(conditional=classes), untaught=True)
    shares = problem.scores.histogram(problem.data.x.to(torch.get_default_dtype()))
    truth = (problem.data.label.bincount(minlength=10) / len(problem.data.label)).tolist()
    assert shares == pytest.approx(
        truth, abs=0.01
    ) and problem.scores.expected_shares == pytest.approx(truth, abs=0.005)


# ---------------------------------------------------------------- in a run


WORDS = ["distill", "ring8", "--width", "16", "--depth", "1"]
WORDS += ["--steps", "40", "--batch", "16", "--samples", "300", "--reports", "4"]


@pytest.fixture
def quick(monkeypatch):
    """What is measured on the way is of few samples."""
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 300)


@pytest.mark.drawn
def test_a_run_is_the_same_however_often_it_is_looked_at(tmp_path, quick):
    for n in (1, 4):
        words = ["--evaluations", str(n), "--out", str(tmp_path / str(n))]
        assert main([*WORDS, "--posterior", "gaussian", *words]) == 0
    students = [(tmp_path / n / "student/model.safetensors").read_bytes() for n in ("1", "4")]
    assert students[0] == students[1]
    log = RunFolder(tmp_path / "4").metrics()
    calls = [r["calls"] for r in log]
    assert calls == [r["step"] for r in log]
    looked = [r for r in log if "histogram" in r]
    assert len(looked) == 4 and len(looked[0]["histogram"]) == 8
    assert any(key.startswith("score_gap/") for key in looked[0])
    # Gradients and diagnostics are dear: in so short a run only the last report has them.
    for name in ("gradient_snr", "posterior_gap_quantile/0.5", "bound_error/0.2"):
        assert [name in r for r in log] == [False] * 3 + [True]
    page = (tmp_path / "4" / "report.html").read_text()
    assert "posterior_gap_quantile" in page
    assert (tmp_path / "4" / "convergence.png").stat().st_size > 5_000


def test_a_resumed_run_has_the_log_of_one_that_was_not_stopped(tmp_path, monkeypatch, quick):
    words = [*WORDS, "--posterior", "gaussian", "--save-every", "0", "--evaluations", "4"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0

    def break_off(folder, entry, *file):
        log(folder, entry, *file)
        if entry.get("step") == 20 and not file:  # in the log, and not yet in a checkpoint
            raise OSError("broken off")

    with monkeypatch.context() as patch:
        log = RunFolder.log
        patch.setattr(RunFolder, "log", break_off)
        assert main([*words, "--out", str(tmp_path / "stopped")]) != 0
    assert RunFolder(tmp_path / "stopped").metrics()[-1]["step"] == 20
    assert main([*words, "--out", str(tmp_path / "stopped")]) == 0
    logs = [RunFolder(tmp_path / name).metrics() for name in ("whole", "stopped")]
    for entry in (*logs[0], *logs[1]):
        entry.pop("seconds")
    assert logs[0] == logs[1]
    assert sum("spread" in entry for entry in logs[0]) == 4


def test_references_are_range_and_median_by_progress(tmp_path):
    def log(scale: float, end: int) -> list[dict]:
        steps = range(end // 4, end + 1, end // 4)
        return [{"updates": s, "metric/x": scale * s / end, "other": 1.0} for s in steps]

    found = references.summary([log(1.0, 40), log(2.0, 80), log(4.0, 400)])
    assert set(found) == {"metric/x"}
    curve = found["metric/x"]
    assert curve["progress"][0] == 0.25 and curve["progress"][-1] == 1.0
    assert (curve["low"][-1], curve["median"][-1], curve["high"][-1]) == (1.0, 2.0, 4.0)
    assert curve["median"][0] == pytest.approx(0.5)
    assert references.preset_curves("no-such-preset") is None


def test_references_are_found_where_the_last_report_measured_nothing():
    rows = [{"updates": i, "metric/x": 1.0 / i, "bound/0.2": 2.0} for i in range(1, 5)]
    rows = [{**r, "bound/loss": 1.0, "metric/x_error": 0.1} for r in rows]
    found = references.summary([[*rows, {"updates": 5}]])
    assert set(found) == {"metric/x", "bound/0.2"}
    assert found["metric/x"]["median"][-1] == 0.25


def script():
    path = Path(__file__).parent.parent / "benchmarks" / "references.py"
    spec = importlib.util.spec_from_file_location("references_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_files_are_made_from_finished_runs_of_the_preset(tmp_path, quick):
    words = [{"40": "200", "ring8": "mog40"}.get(w, w) for w in WORDS] + ["--evaluations", "2"]
    for seed in ("0", "1"):
        assert main([*words, "--seed", seed, "--out", str(tmp_path / seed)]) == 0
    runs = [RunFolder(tmp_path / seed) for seed in ("0", "1")]
    make = script().document
    with pytest.raises(RunError, match="other settings"):
        make(runs, "mog40")
    with pytest.raises(RunError, match="not distill mog40-flow"):
        make(runs, "mog40-flow", changed=True)
    with pytest.raises(RunError, match="not distinct"):
        make(runs[:1] * 2, "mog40", changed=True)
    with pytest.raises(RunError, match="not finished"):
        make([RunFolder(tmp_path / "none")], "mog40")
    found = json.loads(json.dumps(make(runs, "mog40", changed=True)))
    assert {"metric/mmd2", "spread", "gradient_snr"} <= set(found["curves"])
    assert any(name.startswith("bound/0") for name in found["curves"])
    assert [run["seed"] for run in found["provenance"]["runs"]] == [0, 1]
    assert found["provenance"]["runs"][0]["machine"]["threads"] >= 1


def test_references_go_with_the_presets_problem_and_method_alone(monkeypatch):
    monkeypatch.setattr(references, "preset_curves", lambda preset: {"is": preset})
    task = task_from_preset("distill", "digits")
    moved = replace(task, problem=replace(task.problem, teacher_run="elsewhere"))
    assert reference_curves(task) == reference_curves(moved) == {"is": "digits"}
    other = task_from_preset("distill", "mog40")
    assert reference_curves(other) == {"is": "mog40"}
    assert reference_curves(replace(other, problem=replace(other.problem, name="ring8"))) is None
    assert reference_curves(task_from_preset("distill", "mog40", "diff_instruct")) is None
    assert reference_curves(replace(other, preset="")) is None


@pytest.mark.parametrize("steps, reports, times", [(40, 8, 8), (460, 40, 10), (7, 40, 10)])
def test_evaluations_are_evenly_spaced_up_to_the_end_of_a_stage(steps, reports, times):
    run = RunSettings(reports=reports, evaluations=times)
    every = max(1, steps // reports)
    told = [s for s in range(1, steps + 1) if s % every == 0 or s == steps]
    due = [s for s in told if evaluation_due(s, steps, run)]
    assert len(due) == min(times, steps) and due[-1] == steps
    assert all(s >= (i + 1) * steps / times for i, s in enumerate(due)) or steps < times


def test_stages_follow_each_other_in_the_curves():
    rows = [{"stage": "a", "updates": i, "seconds": 2.0 * i} for i in (1, 2)]
    rows += [{"stage": "b", "updates": i, "seconds": 1.0 * i} for i in (1, 2)]
    found = stages_joined(rows)
    assert [r["updates"] for r in found] == [1, 2, 3, 4]
    assert [r["seconds"] for r in found] == [2.0, 4.0, 5.0, 6.0]


def test_the_reference_is_drawn_below_the_run(tmp_path):
    rows = [{"updates": i, "seconds": i, "metric/x": 1.0 / i} for i in range(1, 5)]
    band = {"progress": [0.5, 1.0], "low": [0.1, 0.1], "median": [0.2, 0.2], "high": [0.3, 0.3]}
    path = curves(rows, tmp_path / "a.png", ("x",), {"metric/x": band})
    assert path.read_bytes() != curves(rows, tmp_path / "b.png", ("x",)).read_bytes()


def test_the_affine_student_is_what_the_closed_forms_say():
    student = Affine(torch.eye(2), torch.zeros(2))
    z = torch.randn(4, 2)
    assert torch.equal(student(z), z)
