"""The sweep over dimensions: its students are what they say, and its prediction holds."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
dimensions = pytest.importorskip("dimensions", reason="benchmarks are not part of the wheel")


@pytest.mark.parametrize("name", dimensions.STUDENTS)
def test_the_marginal_is_that_of_the_students_samples(name):
    d, n, sigma = 3, 40_000, 0.7
    student = dimensions.STUDENTS[name](d)
    z = torch.randn(n, student.latent_shape[0])
    x_t = student(z).detach() + sigma * torch.randn(n, d)
    exact = student.marginal()
    level = torch.full((n,), sigma)
    # Stein's identity, E[x s(x)^T] = -I, holds for the marginal's own score only.
    score = (exact(x_t, level) - x_t) / sigma**2
    product = x_t[:, :, None] * score[:, None, :]
    error = product.std(0) / math.sqrt(n)
    assert bool(((product.mean(0) + torch.eye(d)).abs() < 5 * error).all())
    assert bool((score.mean(0).abs() < 5 * score.std(0) / math.sqrt(n)).all())


def test_the_information_is_that_of_parallel_channels():
    student = dimensions.Linear(5)
    matrix = student.matrix.detach()
    eye = torch.eye(5)
    wanted = 0.5 * torch.logdet(eye + matrix @ matrix.T / 0.3**2)
    assert student.information(0.3) == pytest.approx(float(wanted), rel=1e-6)


def test_the_minibatch_bound_saturates_at_the_logarithm_of_the_batch():
    row = dimensions.slack_cell("linear", 8, "shared", seconds=0.0)
    value, error = row["slack"]["0.1"]
    wanted = row["information"]["0.1"] - math.log(dimensions.BATCH)
    assert wanted > 10
    # Where each row recognises its own latent alone, the bound is the logarithm of the batch.
    assert abs(value - wanted) < 5 * error + 0.1
    tight, error = row["slack"]["3"]
    assert -5 * error < tight < 0.05


def test_a_longer_fit_leaves_less_slack():
    short, long = (
        dimensions.slack_cell("linear", 2, "cholesky", seconds)["slack"]["1"][0]
        for seconds in (0.05, 2.0)
    )
    assert long < short
    assert abs(long) < 0.2
