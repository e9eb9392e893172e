"""Regression on pairs: the pairs are the teacher's, and a perfect student has no loss."""

from __future__ import annotations

import math

import pytest
import torch
from cases import CASES, batch_of, denoiser, student
from problems import mixture_teacher

from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.functional.distances import pseudo_huber
from vardiu.functional.tensors import expand_like
from vardiu.methods.regression import PORTION, Regression, make_pairs
from vardiu.problems.toy import ToyProblem
from vardiu.samplers.pairs import Pairs, teacher_pairs
from vardiu.settings.fields import PairSettings
from vardiu.storage.artefacts import Artefacts
from vardiu.students.few_step import FewStep
from vardiu.training.stage import Context


def test_pairs_of_a_gaussian_teacher_are_the_known_map():
    std = torch.tensor([0.5, 2.0])
    teacher = GaussianDenoiser(torch.ones(2), std.square(), sigma_min=1e-3, sigma_max=50.0)
    z = torch.randn(100, 2)
    got = teacher_pairs(teacher, z, {}, steps=200).x
    # The flow of a Gaussian scales each axis by std / sqrt(std^2 + sigma_max^2).
    scale = std / (std.square() + 50.0**2).sqrt()
    wanted = 1 + (50.0 * z - 1) * scale
    assert (got - wanted).abs().max() < 2e-3 * std.max()


def test_pairs_are_an_artefact_of_portions_with_labels_of_their_own(tmp_path):
    problem, row = ToyProblem(classes=2), PairSettings(pairs=1200, solver_steps=3)
    pairs = make_pairs(problem, row, Context(seed=3, artefacts=Artefacts(tmp_path)))
    assert len(pairs.z) == len(pairs.x) == len(pairs.cond["label"]) == 1200
    (folder,) = tmp_path.iterdir()
    portions = sorted(path.name for path in folder.iterdir() if path.name.isdigit())
    assert len(portions) == math.ceil(1200 / PORTION) == 3
    wanted = teacher_pairs(problem.teacher, pairs.z, pairs.cond, steps=3).x
    torch.testing.assert_close(pairs.x, wanted)
    # Modes of class 0 are on the diagonal, where x y > 0.
    side = (pairs.x.prod(1) < 0).long()
    assert pairs.cond["label"].unique().tolist() == [0, 1]
    assert (side == pairs.cond["label"]).double().mean() > 0.9
    # Independent latents: a mean of 2,400 numbers, within five standard errors of zero.
    assert pairs.z.mean().abs() < 5 / math.sqrt(2400)
    other = make_pairs(problem, row, Context(seed=4, artefacts=Artefacts(tmp_path)))
    assert not torch.equal(other.z, pairs.z) and len(list(tmp_path.iterdir())) == 2


def test_pairs_are_no_part_of_a_checkpoint():
    objective = CASES["regression-classes"]()
    assert not [key for key in objective.state_dict() if key.startswith(("pairs", "z", "x"))]


def test_distance():
    v = torch.randn(4, 3, 2)
    wanted = (v.square().mean((1, 2)) + 0.01).sqrt() - 0.1
    torch.testing.assert_close(pseudo_huber(v, 0.1), wanted)
    assert expand_like(wanted, v).shape == (4, 1, 1)


def test_a_latent_of_another_shape_is_refused():
    small = student()
    with pytest.raises(ValueError, match=r"needs a latent of the pairs' shape"):
        small.latent_shape = (3,)
        Regression(mixture_teacher(), small, Pairs(torch.zeros(4, 2), torch.zeros(4, 2), {}))
    assert denoiser().shape == (2,)
    # Calls with fresh noise: the cure is said.
    pairs = Pairs(torch.zeros(4, 2), torch.zeros(4, 2), {})
    several = FewStep.on_grid(denoiser(), 3, None, "renoise")
    with pytest.raises(ValueError, match=r"\(3, 2\); calls .* 0 and, .*--regression-weight 0"):
        Regression(mixture_teacher(), several, pairs)
    Regression(mixture_teacher(), FewStep.on_grid(denoiser(), 3, None, "ddim"), pairs)


def test_batches_are_rows_of_the_pairs():
    objective = CASES["regression-classes"]()
    pairs = objective.__dict__["pairs"]
    first = objective.prepare(batch_of(objective, 200), 0)
    table = {tuple(z.tolist()): i for i, z in enumerate(pairs.z)}
    rows = torch.tensor([table[tuple(z.tolist())] for z in first.z])
    assert rows.unique().tolist() == list(range(len(pairs.z)))
    assert torch.equal(first.x, pairs.x[rows])
    assert torch.equal(first.cond["label"], pairs.cond["label"][rows])


def test_loss_is_the_mean_distance_of_the_pairs():
    objective = CASES["regression-classes"]()
    drawn = objective.prepare(batch_of(objective), 0)
    loss = objective.loss(drawn, 0)
    difference = objective.generator(drawn.z, **drawn.cond) - drawn.x
    wanted = ((difference.square().sum(1) / 2 + 0.03**2).sqrt() - 0.03).mean()
    torch.testing.assert_close(loss.value, wanted)
    objective.softness = 0.7  # and any other than the default
    wanted = ((difference.square().sum(1) / 2 + 0.49).sqrt() - 0.7).mean()
    torch.testing.assert_close(objective.loss(drawn, 0).value, wanted)
    torch.testing.assert_close(loss.info["squared_error"], difference.square().mean().detach())
