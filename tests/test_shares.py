"""Data whose classes are uneven: what is compared with them has the same shares of classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vardiu.data.batches import DataFree
from vardiu.methods import METHODS
from vardiu.problems.digits import DigitsProblem
from vardiu.problems.vectors import VectorProblem
from vardiu.settings.fields import (
    DigitsSettings,
    MemorySettings,
    PairSettings,
    VectorSettings,
)
from vardiu.storage.code import load_code
from vardiu.students.base import Generator
from vardiu.training.stage import Context

SHARE, N = 0.9, 3_000
MEANS = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])

TEACHER = """
import torch
from vardiu.denoisers.exact import MixtureDenoiser
from vardiu.teachers.origin import Origin

teacher = MixtureDenoiser(
    torch.tensor([[-3.0, 0.0], [3.0, 0.0]]), 0.5, labels=torch.tensor([0, 1]),
    sigma_min=0.02, sigma_max=40.0,
)
teacher.origin = Origin("", "function", classes=2)
"""


class Perfect(Generator):
    """Makes each class as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.latent_shape, self.conditions = (2,), (2,), ("label",)
        self.place = torch.nn.Parameter(torch.zeros(()))  # tells the device

    def forward(self, z: torch.Tensor, /, **cond: torch.Tensor) -> torch.Tensor:
        return MEANS[cond["label"]] + 0.5 * z


@pytest.fixture
def problem(tmp_path, monkeypatch) -> VectorProblem:
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    random = torch.Generator().manual_seed(1)
    # In the order of their classes, as folders of classes are read.
    label = (torch.rand(N, generator=random) > SHARE).long().sort().values
    x = MEANS[label] + 0.5 * torch.randn(N, 2, generator=random)
    np.savez("points.npz", x=x.numpy(), label=label.numpy())
    (tmp_path / "exact.py").write_text(TEACHER)
    place = f"{tmp_path / 'exact.py'}:teacher"
    row = VectorSettings(student="fresh", teacher=place, data="points.npz", reference=2_000)
    return VectorProblem(row, own={"teacher": load_code(place)})


def test_a_student_that_is_perfect_by_class_is_measured_as_perfect(problem):
    student = Perfect()
    fair = problem.scores.measure(problem.student_source(student, measured=True), N)
    found = {metric.name: metric for metric in fair}
    assert abs(found["mmd2"].value) < 4 * found["mmd2"].error
    # All classes in turn, as one looks at samples, are another law.
    even = problem.scores.measure(problem.student_source(student), N)
    found = {metric.name: metric for metric in even}
    assert found["mmd2"].value > 10 * found["mmd2"].error
    teacher = {metric.name: metric for metric in problem.scores.teacher_metrics(500)[0]}
    assert abs(teacher["mmd2"].value) < 4 * teacher["mmd2"].error


def test_any_part_of_what_is_measured_has_the_shares_of_the_data(problem):
    _, cond = problem.student_source(Perfect(), measured=True)(N, torch.Generator())
    label, share = cond["label"].float(), problem.data.labels.float().mean()
    assert label.mean() == pytest.approx(float(share), abs=1 / N)
    error = (share * (1 - share) / 300).sqrt()
    assert all((part.mean() - share).abs() < 4 * error for part in label.split(300))
    # More than there are, and fewer.
    for n in (100, 10_000):
        drawn = problem.data.conditions(n, torch.Generator(), measured=True)["label"].float()
        assert drawn.mean() == pytest.approx(float(share), abs=1.5 / n)
    seen = problem.data.conditions(100, torch.Generator())["label"].float()
    assert seen.mean() == 0.5


def test_digits_are_measured_by_their_own_shares():
    problem = DigitsProblem(DigitsSettings(), untaught=True)
    label = problem.data.conditions(1_797, torch.Generator(), measured=True)["label"]
    assert torch.equal(label.sort().values, problem.data.label.sort().values)
    wanted = torch.bincount(problem.data.label) / 1_797
    assert problem.scores.expected_shares == pytest.approx(wanted.tolist())


def test_the_moments_of_fd_loss_are_those_of_classes_as_they_are_drawn(problem):
    method = METHODS["fd_loss"]
    few = MemorySettings(rows=64)
    row = replace(method.presets["mog40-fd-loss"].settings, batch=32, memory=few, steps=4)
    row = replace(row, pairs=PairSettings(pairs=0))
    stage = next(method.recipe(problem, row, Context(seed=0)))
    drawn = torch.cat([stage.batches.at(i).cond["label"] for i in range(200)]).float()
    share = problem.data.labels.float().mean()
    assert (drawn.mean() - share).abs() < 4 * (share * (1 - share) / len(drawn)).sqrt()


def test_batches_draw_among_given_classes_alike_in_all_processes():
    label = torch.tensor([2, 2, 2, 5])
    whole, *parts = (DataFree(64, classes=9, seed=3, label=label) for _ in range(3))
    for rank, part in enumerate(parts):
        part.rank, part.world = rank, 2
    seen = whole.at(7).cond["label"]
    assert set(seen.tolist()) == {2, 5} and (seen == 2).float().mean() > 0.5
    assert torch.equal(seen, torch.cat([part.at(7).cond["label"] for part in parts]))
