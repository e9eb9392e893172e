"""FD-loss against closed forms, and against the ways in which it can be wrong unnoticed."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from cases import student
from problems import Affine, mixture_teacher
from rich.console import Console
from torch import Tensor

from vardiu.cli.main import main
from vardiu.data.batch import Batch
from vardiu.data.batches import DataFree
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.errors import ConfigError
from vardiu.functional.frechet import Moments, frechet_square, symmetric_root, transport
from vardiu.methods import METHODS
from vardiu.methods.fd_loss import (
    METHOD,
    PORTION,
    TINY,
    Average,
    FDLoss,
    Features,
    Recent,
    features_of,
    filled_memory,
)
from vardiu.metrics import Metric, mean_ratio
from vardiu.metrics.features import RandomCosines
from vardiu.metrics.sets import TRAINED, marked_trained
from vardiu.monitoring.verdicts import UNJUDGED, judge
from vardiu.problems.base import Judged
from vardiu.problems.digits import DigitsProblem
from vardiu.problems.linear import LinearProblem
from vardiu.problems.toy import ToyProblem
from vardiu.runs.console import print_spaces
from vardiu.settings.fields import MemorySettings
from vardiu.training.optimizers import Optimisation, OptimizerRow
from vardiu.training.stage import Context
from vardiu.training.trainer import Trainer

A = torch.tensor([[1.0, 0.0], [0.3, 0.8]], dtype=torch.float64)
B = torch.tensor([1.0, -0.5], dtype=torch.float64)
C = torch.tensor([[2.0, -0.4], [-0.4, 1.0]], dtype=torch.float64)
REAL = Moments(torch.zeros_like(B), C)


class Coordinates:
    """Samples are their own features."""

    name = "coordinates"

    def of(self, x: Tensor) -> Tensor:
        return x

    __call__ = of


IDENTITY = Features(Coordinates(), lambda x: x)


def points(n: int) -> Tensor:
    """Points whose moments up to the third are those of n standard normal numbers."""
    ends = math.sqrt(n) * torch.eye(n)
    return torch.cat([ends, -ends])


class Exact(Average):
    """The memory of all samples of an affine student, at all times."""

    def __init__(self, of: Affine) -> None:
        super().__init__(of.shape[0], 0.5)
        self.__dict__["followed"] = of

    def blended(self, h: Tensor) -> Moments:
        a, b = self.followed.matrix.detach(), self.followed.shift.detach()
        return Moments(b.clone(), a @ a.T)

    def follow(self, objective, drawn, step) -> None:
        pass


def affine(matrix: Tensor, shift: Tensor, real: Moments = REAL, memory=None) -> FDLoss:
    d = len(shift)
    teacher = GaussianDenoiser(real.mean, real.covariance + torch.eye(d))
    start = Affine(matrix, shift)
    return FDLoss(teacher, start, IDENTITY, real, memory or Exact(start))


class Shown(NamedTuple):
    z: Tensor
    h: Tensor
    batch: Batch


def gradients(objective: FDLoss, z: Tensor) -> tuple[float, Tensor, Tensor]:
    """The distance, and its gradients by matrix and shift: the loss has that of log(FD + c)."""
    start = objective.generator
    with torch.no_grad():
        shown = Shown(z, start(z), Batch(len(z)))
    loss = objective.loss(shown, 0)
    distance = float(loss.info["trained_distance"])
    found = torch.autograd.grad(loss.value, (start.matrix, start.shift))
    assert loss.value.item() == pytest.approx(distance / (distance + 0.01), abs=1e-12)
    return distance, *(g * (distance + 0.01) for g in found)


# ---------------------------------------------------------------- the closed form


def test_the_decimals_of_two_dimensions():
    distance, matrix, shift = gradients(affine(A, B), points(2))
    assert distance == pytest.approx(1.6624332804, abs=1e-9)
    torch.testing.assert_close(shift, torch.tensor([2.0, -1.0]), rtol=0, atol=1e-9)
    wanted = torch.tensor([[-0.74707769, 0.67347175], [0.69264478, -0.39785308]])
    torch.testing.assert_close(matrix, wanted, rtol=0, atol=1e-8)
    moved, _ = transport(symmetric_root(REAL.covariance), A @ A.T)
    torch.testing.assert_close(moved @ A @ A.T @ moved, REAL.covariance)
    distance, *found = gradients(affine(moved @ A, torch.zeros(2)), points(2))
    assert abs(distance) < 1e-12 and all(float(g.abs().max()) < 1e-7 for g in found)


def test_the_decimals_of_one_dimension_are_of_the_square_and_not_of_its_root():
    real = Moments(torch.zeros(1), torch.eye(1))
    distance, matrix, shift = gradients(
        affine(torch.tensor([[0.6]]), torch.tensor([0.5]), real), points(1)
    )
    assert distance == pytest.approx(0.41, abs=1e-10)
    assert matrix.item() == pytest.approx(-0.8, abs=1e-10)
    assert shift.item() == pytest.approx(1.0, abs=1e-10)


def test_features_are_of_what_samples_stand_for():
    x = torch.randn(4, 3, dtype=torch.float32, requires_grad=True)
    h = Features(Coordinates(), lambda y: 2 * y + 1)(x, {})
    assert h.dtype == torch.float64
    torch.testing.assert_close(h, (2 * x + 1).double())
    (slope,) = torch.autograd.grad(h.sum(), x)
    torch.testing.assert_close(slope, torch.full_like(x, 2.0))


# ---------------------------------------------------------------- the memory


def memories() -> list[Average | Recent]:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 3, generator=random) @ torch.randn(3, 3, generator=random) + 1
    found = [Average(3, 0.9), Recent(40, 3)]
    for memory in found:
        memory.fill(rows)
    return found


@pytest.mark.parametrize("index", [0, 1])
def test_the_gradient_of_a_row_is_that_of_finite_differences(index):
    """(2 (1 - beta)/B) [(m - m_r) + (I - T)(h - m)] of an average; of a queue 2/N and 2/(N - 1)."""
    memory = memories()[index]
    random = torch.Generator().manual_seed(1)
    h, other = torch.randn(5, 3, generator=random), torch.randn(3, 3, generator=random)
    real = Moments(torch.randn(3, generator=random), other @ other.T + 0.2 * torch.eye(3))
    objective = FDLoss(GaussianDenoiser(torch.zeros(3), torch.eye(3)),
                       Affine(torch.eye(3), torch.zeros(3)), IDENTITY, real, memory)  # fmt: skip
    moments = memory.blended(h)
    distance, direction = objective.pull(h, moments)
    torch.testing.assert_close(distance, frechet_square(moments, real))
    free = h.clone().requires_grad_(True)
    (wanted,) = torch.autograd.grad(frechet_square(memory.blended(free), real), free)
    if index == 0:
        got = direction * (1 - 0.9) / 5
    else:
        gap = 2 * (moments.mean - real.mean)
        got = gap / 40 + (direction - gap) / 39
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-10)
    for i, j in ((0, 0), (4, 2)):  # and literally
        step = 1e-5 * torch.eye(3)[j]
        ends = []
        for sign in (1, -1):
            moved = h.clone()
            moved[i] += sign * step
            ends.append(frechet_square(memory.blended(moved), real))
        assert float((ends[0] - ends[1]) / 2e-5) == pytest.approx(float(wanted[i, j]), abs=1e-7)


def test_a_memory_moves_to_what_was_blended():
    average, recent = memories()
    h = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    for memory in (average, recent):
        wanted = memory.blended(h)
        memory.follow(None, [Shown(h, h, Batch(4))], 0)
        if memory is average:
            got = Moments(memory.mean, memory.second - memory.mean.outer(memory.mean))
        else:
            got = Moments.of(memory.rows)
            assert torch.equal(memory.rows[:4], h)  # the oldest
        torch.testing.assert_close(got.mean, wanted.mean)
        torch.testing.assert_close(got.covariance, wanted.covariance)
    again = recent.blended(h)
    assert not torch.allclose(again.mean, wanted.mean)  # the next four are replaced


def shrunk(decay: float, updates: int) -> float:
    """The scale of a student s z of N(0, I_64), after stochastic descent with batches of 64."""
    torch.manual_seed(0)
    memory = Average(64, decay)
    rows = torch.randn(4096, 64)
    memory.fill(rows)
    start = Affine(torch.eye(64), torch.zeros(64))
    start.shift.requires_grad_(False)
    scale = torch.ones(())
    real = Moments(torch.zeros(64), torch.eye(64))
    objective = FDLoss(GaussianDenoiser(torch.zeros(64), torch.eye(64)), start, IDENTITY, real,
                       memory)  # fmt: skip
    kept = []
    for step in range(updates):
        h = scale * torch.randn(64, 64)
        _, direction = objective.pull(h, memory.blended(h))
        slope = (direction * h / scale).sum(1).mean() / 64
        scale = scale - 0.02 * slope
        memory.follow(objective, [Shown(h, h, Batch(64))], step)
        kept.append(float(scale))
    return sum(kept[updates // 2 :]) / (updates - updates // 2)


def test_without_a_memory_diversity_is_lost():
    """64 samples in 64 dimensions shrink the student to .830; a memory of beta .98 to .994."""
    assert shrunk(0.0, 500) == pytest.approx(0.830, abs=0.01)
    assert shrunk(0.98, 500) == pytest.approx(0.9935, abs=0.004)


def settled(d: int, rows: int, decay: float) -> float:
    """Where an average of this rate holds that scale, to the first order of one less the rate."""
    return 1 - (1 - decay) / rows * (5 * (d + 1) / 16 + 3 / 4)


def test_how_much_an_average_of_many_batches_still_shrinks():
    assert settled(64, 64, 0.98) == pytest.approx(0.9935, abs=1e-4)  # that of the training above
    assert settled(8, 16, 0.98) == pytest.approx(0.99555, abs=5e-6)
    for decay, wanted in ((0.9, 0.94), (0.99, 0.9937), (0.999, 0.99937)):
        assert settled(2_048, 1_024, decay) == pytest.approx(wanted, abs=4e-3 * (1 - decay) / 0.1)
    # Samples of four dimensions, eight a step: the mean slope is zero at the scale that was
    # simulated (0.9727), which is near that of the first order (0.9711).
    assert settled(4, 8, 0.9) == pytest.approx(0.9711, abs=5e-5)
    random, scale, memory = torch.Generator().manual_seed(0), 0.9727, Average(4, 0.9)
    memory.fill(scale * torch.randn(4_000, 4, generator=random))
    start = Affine(torch.eye(4), torch.zeros(4))
    objective = FDLoss(GaussianDenoiser(torch.zeros(4), torch.eye(4)), start, IDENTITY,
                       Moments(torch.zeros(4), torch.eye(4)), memory)  # fmt: skip
    slopes = []
    for step in range(2_500):
        z = torch.randn(8, 4, generator=random)
        _, direction = objective.pull(scale * z, memory.blended(scale * z))
        slopes.append(float((direction * z).sum(1).mean()) / 4)
        memory.follow(objective, [Shown(z, scale * z, Batch(8))], step)
    found = torch.tensor(slopes[100:]).view(-1, 100).mean(1)  # neighbours share their memory
    error = float(found.std()) / len(found) ** 0.5
    # The slope by the scale is two: what is off is half of this.
    assert abs(float(found.mean())) / 2 < 5 * error / 2 < 0.01


# The scale s of a student s z of N(0, I_d) where the mean gradient by batches of N alone is zero:
# E[tr S^(1/2) / d] / (1 + 1 / N).
SHRUNK = {(1, 8): 0.8578, (16, 16): 0.778, (64, 128): 0.923, (64, 512): 0.981, (64, 2048): 0.9957}


@pytest.mark.parametrize(("d", "n"), SHRUNK)
def test_the_scale_to_which_a_batch_of_its_own_shrinks(d, n):
    random, wanted = torch.Generator().manual_seed(0), SHRUNK[d, n]
    start = Affine(torch.eye(d), torch.zeros(d))
    real = Moments(torch.zeros(d), torch.eye(d))
    objective = FDLoss(GaussianDenoiser(torch.zeros(d), torch.eye(d)), start, IDENTITY, real,
                       Average(d, 0.0))  # fmt: skip
    slopes = []
    for _ in range(1_500 if d == 1 else 40):
        z = torch.randn(n, d, generator=random)
        moments = Moments.of(wanted * z)
        _, direction = objective.pull(wanted * z, moments)
        # `pull` is of sums over N: the share of the covariance is one of N - 1.
        gap = 2 * (moments.mean - real.mean)
        slopes.append(((gap / n + (direction - gap) / (n - 1)) * z).sum() / d)
    mean, error = torch.stack(slopes).mean(), torch.stack(slopes).std() / len(slopes) ** 0.5
    # The slope by s is 2 (1 + 1 / N): off by no more than the last digit and five errors.
    assert abs(float(mean)) < 2.2 * 5e-4 + 5 * float(error)


def test_the_scale_in_many_dimensions_is_the_mean_root_of_marchenko_and_pastur():
    """In 2,048 dimensions, where no batch can be drawn here; and that of 64 as above."""

    def scale(d: int, n: int) -> float:
        g, count = d / n, 100_000
        low, high = (1 - math.sqrt(g)) ** 2, (1 + math.sqrt(g)) ** 2
        angle = (torch.arange(count) + 0.5) / count * math.pi
        x = (low + high) / 2 + (high - low) / 2 * angle.cos()
        density = ((high - x) * (x - low)).clamp_min(0).sqrt() / (2 * math.pi * g * x)
        share = (high - low) / 2 * angle.sin() * math.pi / count
        return float((density * x.sqrt() * share).sum() / (1 + 1 / n))

    for n, wanted, slack in (
        (1_024, 0.6596, 1e-3),
        (5_000, 0.9458, 3e-4),
        (10_000, 0.9737, 2e-4),
        (50_000, 0.99485, 2e-5),
        (500_000, 0.99949, 1e-5),
    ):
        assert scale(2_048, n) == pytest.approx(wanted, abs=slack)
    assert scale(64, 512) == pytest.approx(SHRUNK[64, 512], abs=2e-3)


def moved_mean(memory: Average | Recent, rate: float, steps: int) -> list[float]:
    """The mean of a student of one point, from an offset of one, by descent of this rate."""
    memory.fill(torch.ones(len(memory.rows) if isinstance(memory, Recent) else 1, 1))
    x, found = 1.0, []
    for step in range(steps):
        h = torch.tensor([[x]])
        x -= rate * float(memory.blended(h).mean)
        memory.follow(None, [Shown(h, h, Batch(1))], step)
        found.append(x)
    return found


def test_the_lag_of_a_memory():
    """An average is critically damped at (1 - sqrt beta)^2 / (1 - beta), and overshoots at faster
    rates; a queue of K steps is unstable from a rate of pi^2 / 2 K."""
    critical = (1 - math.sqrt(0.999)) ** 2 / (1 - 0.999)
    assert critical == pytest.approx(2.50e-4, abs=5e-7)
    # By beta = 0.99 in a tenth of the steps: the shape is of the rate over the critical one.
    rate = (1 - math.sqrt(0.99)) ** 2 / (1 - 0.99)
    assert min(moved_mean(Average(1, 0.99), rate, 1_500)) > 0
    assert min(moved_mean(Average(1, 0.99), 4 * rate, 800)) == pytest.approx(-0.298, abs=1e-3)
    assert min(moved_mean(Average(1, 0.99), 40 * rate, 150)) == pytest.approx(-2.40, abs=5e-3)
    assert min(moved_mean(Recent(49, 1), 1 / 49, 400)) == pytest.approx(-0.060, abs=5e-4)
    slow = moved_mean(Recent(49, 1), 4 / 49, 1_200)
    assert min(slow) == pytest.approx(-1.00, abs=5e-3) and max(map(abs, slow[-150:])) < 0.05
    below, above = (moved_mean(Recent(49, 1), k / 49, 1_000)[-150:] for k in (4.85, 5.1))
    assert max(map(abs, below)) < 1.2 < 1.6 < max(map(abs, above))


def expected_distance(values: Tensor, *sizes: int) -> float:
    """Of independent sets of so many rows, to the first order of one over each."""
    pairs = values[:, None] * values / (values[:, None] + values)
    spread = values.sum() + 0.5 * (pairs * (1 + torch.eye(len(values)))).sum()
    return float(sum(spread / n for n in sizes))


def test_the_distance_of_sets_of_one_law_and_of_memorised_moments():
    values = torch.tensor([4.0, 2.0, 1.0, 1.0, 0.5, 0.25, 0.1, 0.05])
    assert expected_distance(values, 500, 500) == pytest.approx(0.0860, abs=5e-5)
    assert expected_distance(values, 2_000, 2_000) == pytest.approx(0.0215, abs=5e-5)
    assert expected_distance(torch.ones(2_048), 50_000, 50_000) == pytest.approx(42.0, abs=0.06)
    random = torch.Generator().manual_seed(0)

    def moments(n: int) -> Moments:
        return Moments.of(torch.randn(n, 8, generator=random) * values.sqrt())

    found = torch.tensor([frechet_square(moments(500), moments(500)) for _ in range(300)])
    assert float(found.mean()) == pytest.approx(0.0860, abs=5 * float(found.std()) / 300**0.5)
    # A student with the moments of one half of the data is near that half, and not the other.
    rows = []
    for _ in range(25):
        a, b, good = moments(2_000), moments(2_000), moments(20_000)
        root = torch.linalg.cholesky(a.covariance)
        own = Moments.of(a.mean + torch.randn(20_000, 8, generator=random) @ root.T)
        rows.append([float(frechet_square(own, a)), float(frechet_square(own, b)),
                     float(frechet_square(good, a))])  # fmt: skip
    own, other, perfect = torch.tensor(rows).mean(0).tolist()
    assert own == pytest.approx(expected_distance(values, 20_000), rel=0.15)
    assert other == pytest.approx(0.0225, rel=0.15) and perfect == pytest.approx(0.0118, rel=0.15)
    assert expected_distance(values, 20_000) == pytest.approx(0.0011, abs=5e-5)
    assert expected_distance(values, 2_000, 20_000) == pytest.approx(0.0118, abs=5e-5)


def test_descent_reaches_the_moments():
    objective = affine(A, B, memory=Average(2, 0.9))
    objective.memory.fill(points(2) @ A.T + B)
    row = OptimizerRow(kind="adam", lr=0.02)
    trainer = Trainer(objective, Optimisation({"generator": row}, lambda t: 1 - t), steps=500)
    trainer.fit(DataFree(512))
    start = objective.generator
    found = Moments(start.shift.detach(), (start.matrix @ start.matrix.T).detach())
    assert float(frechet_square(found, REAL)) < 0.01
    assert objective.teacher.calls == 0


# ---------------------------------------------------------------- what it does not see


def test_a_class_that_is_not_among_the_features_may_be_forgotten():
    """Samples of swapped classes have the moments of the right ones; with the class they have not."""
    problem = ToyProblem(classes=2)
    ground = problem.scores.training_ground()
    distances = {}
    for weight in (0.0, 1.0):
        settings = METHOD.settings(label_weight=weight)
        features, real = features_of(problem, settings)
        for name, label in (("right", ground.label), ("swapped", 1 - ground.label)):
            h = features.joined(ground.space(ground.real), {"label": label})
            distances[weight, name] = float(frechet_square(Moments.of(h), real))
    assert distances[0.0, "right"] == distances[0.0, "swapped"] == pytest.approx(0, abs=1e-6)
    assert distances[1.0, "right"] == pytest.approx(0, abs=1e-6)
    assert distances[1.0, "swapped"] > 0.3


def test_coordinates_alone_do_not_see_modes_and_cosines_do():
    """Four corners against the single Gaussian of their moments."""
    problem = ToyProblem()
    x, _ = problem.data.draw(20_000, torch.Generator().manual_seed(0))
    moments = Moments.of(x)
    root = symmetric_root(moments.covariance)
    random = torch.Generator().manual_seed(1)
    y = moments.mean + torch.randn(20_000, 2, generator=random) @ root
    cosines = RandomCosines(x, (1.0, 0.25), count=16)
    raw = float(frechet_square(Moments.of(x), Moments.of(y)))
    seen = float(frechet_square(Moments.of(cosines(x)), Moments.of(cosines(y))))
    assert raw < 1e-3 and seen > 100 * raw and seen > 0.5


# ---------------------------------------------------------------- what judges


def test_what_was_trained_on_is_marked_comes_last_and_judges_nobody():
    rows = [
        Metric("frechet_ratio", 0.2, 0.1, 100, False, features="mine"),
        Metric("frechet_ratio", 4.0, 0.1, 100, False, features="other"),
    ]
    found = marked_trained(rows, "mine")
    assert [metric.features for metric in found] == ["other", "mine (TRAINED ON)"]
    assert mean_ratio(found) == pytest.approx(4.0) and mean_ratio(rows) < 1
    assert math.isnan(mean_ratio(found[1:])) and marked_trained(rows, "") == rows
    line = {"metric/frechet": 1.0, "metric/frechet_error": 0.1, "step": 9, "stage": "fd_loss"}
    mine = Metric("frechet", 0.1, 0.01, 100, False, features="mine").row()
    for features, name in (("mine", "GOOD"), ("mine" + TRAINED, UNJUDGED)):
        verdict = judge(
            [line], [{**mine, "features": features}], [mine], "teacher", Judged("frechet")
        )
        assert verdict.name == name, verdict


def test_a_student_is_marked_wherever_its_numbers_are_shown(tmp_path, monkeypatch, capsys):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 200)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.TRAINED", 2_000)
    words = ["--steps", "4", "--batch", "16", "--samples", "500", "--width", "8", "--threads", "1"]
    words += ["--memory.rows", "500", "--reports", "1", "--evaluations", "1", "--out", "run"]
    assert main(["distill", "mog40-fd-loss", *words]) == 0, capsys.readouterr().err
    mark = "TRAINED ON the Fréchet distance in 192 random cosines"
    assert mark in " ".join(capsys.readouterr().out.split())
    result = json.loads(Path("run/result.json").read_text())
    assert result["trained_on"].startswith("the Fréchet distance in 192 random cosines, ")
    assert mark in Path("run/report.html").read_text()
    assert main(["evaluate", "run", "--num", "200"]) == 0
    assert mark in " ".join(capsys.readouterr().out.split())
    found = json.loads(Path("run/evaluation-200-seed0.json").read_text())
    assert found["trained_on"] == result["trained_on"]
    assert main(["export", "run", "--to", "safetensors"]) == 0
    assert f"**{mark}" in Path("run/export-safetensors/README.md").read_text()
    for arms in METHOD.arms.values():  # a bake-off's tables have the title
        assert all("trained on FD" in arm.title for arm in arms.values())


@pytest.mark.parametrize("count", [1, 2])
def test_spaces_that_were_trained_in_are_shown_last_and_do_not_count(count):
    rows = [
        Metric(name, value, 0.1, 100, None, features=features)
        for features, value in (("mine", 0.5), ("other", 4.0))[:count]
        for name in ("frechet", "frechet_real", "frechet_ratio")
    ]
    console = Console(file=io.StringIO(), width=120)
    print_spaces(console, marked_trained(rows, "mine"))
    told = console.file.getvalue()
    assert "mine (TRAINED ON)" in told
    if count == 2:
        assert told.index("other") < told.index("mine") and "ratios: 4;" in told
    else:
        assert "ratios:" not in told


def test_the_features_of_digits_are_not_those_that_judge():
    assert [name for name, m in METHODS.items() if m.trained_on] == ["fd_loss"]
    data = DigitsProblem(METHOD.presets["digits-fd-loss"].problem, untaught=True)
    ground, source = data.scores.training_ground(), lambda n, random: (data.data.x[:n], {})
    judging = {m.features for m in data.scores.measure(source, 500)}
    assert ground.space.name not in judging and "classifier" in judging.pop() + judging.pop()
    spaces = [m.features for m in data.scores.measure_spaces(source, 500)]
    assert ground.space.name in spaces and len(set(spaces)) == 2
    assert len(ground.real) == len(ground.label) == 899  # a half; the other half judges beside it
    problem = LinearProblem(2, 2)
    with pytest.raises(ConfigError, match="no features to train in: the problem 'linear'"):
        features_of(problem, TINY)


# ---------------------------------------------------------------- the parts


def test_a_memory_is_filled_with_the_first_student():
    problem = ToyProblem(classes=2)
    features, _ = features_of(problem, TINY)
    own = problem.networks.student()
    settings = METHOD.settings(batch=8, memory=MemorySettings(rows=PORTION + 3))
    memory = filled_memory(problem, own, features, settings, Context(seed=5))
    random = torch.Generator().manual_seed(36)
    cond = problem.data.conditions(PORTION + 3, random)
    h = features(own.sample(PORTION + 3, generator=random, **cond), cond)
    torch.testing.assert_close(memory.mean, h.mean(0))
    torch.testing.assert_close(memory.second, h.T @ h / len(h))
    with pytest.raises(
        ConfigError, match=r"memory\.rows must be at least a batch \(8\) of a queue, got 4"
    ):
        METHOD.settings(batch=8, memory=MemorySettings(kind="queue", rows=4))


def test_cosines_are_those_of_the_formula_and_have_a_gradient():
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)) * 3 + 1
    space = RandomCosines(x, (0.5,), count=4)
    h = space(x).numpy()
    flat, std = x.numpy() - x.numpy().mean(0), float(space.std)
    angles = flat @ space.matrix.numpy().T + space.phase.numpy()
    np.testing.assert_allclose(h[:, 2:], 2**0.5 * np.cos(angles), atol=1e-12)
    np.testing.assert_allclose(h[:, :2], flat / std, atol=1e-12)
    assert (flat**2).mean() == pytest.approx(std**2)
    assert torch.autograd.gradcheck(space.of, x[:3].clone().requires_grad_(True))
    with pytest.raises(ValueError, match="points must have shape"):
        space(torch.zeros(3, 5))


def test_accumulated_gradients_are_refused():
    objective = FDLoss(mixture_teacher(), student(), IDENTITY, REAL, Average(2, 0.9))
    rows = {"generator": OptimizerRow()}
    with pytest.raises(ValueError, match="moments of the whole batch"):
        Trainer(objective, Optimisation(rows), steps=2, accumulate=2)


def test_a_weight_of_the_class_below_zero_is_refused():
    with pytest.raises(ConfigError, match="label_weight must be at least 0, got -1"):
        METHOD.settings(label_weight=-1.0)
    METHOD.settings(label_weight=0.0)
