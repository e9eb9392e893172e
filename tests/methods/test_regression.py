"""Regression on pairs: the pairs are the teacher's, and a perfect student has no loss."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, batch_of, denoiser, student
from problems import mixture_teacher

from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.functional.tensors import expand_like
from vardiu.methods.regression import Regression, pseudo_huber
from vardiu.samplers.pairs import teacher_pairs


def test_pairs_of_a_gaussian_teacher_are_the_known_map():
    std = torch.tensor([0.5, 2.0])
    teacher = GaussianDenoiser(torch.ones(2), std.square(), sigma_min=1e-3, sigma_max=50.0)
    z = torch.randn(100, 2)
    got = teacher_pairs(teacher, z, {}, steps=200).x
    # The flow of a Gaussian scales each axis by std / sqrt(std^2 + sigma_max^2).
    scale = std / (std.square() + 50.0**2).sqrt()
    wanted = 1 + (50.0 * z - 1) * scale
    assert (got - wanted).abs().max() < 2e-3 * std.max()


def test_pairs_are_solved_a_portion_a_step_and_kept():
    objective = CASES["regression"]()
    batch = batch_of(objective)
    filled = []
    for step in range(4):
        objective.begin(batch, step)
        filled.append(int(objective.solved))
    assert filled == [8, 16, 20, 20]
    wanted = teacher_pairs(objective.teacher, objective.z, {"label": objective.label}, steps=3).x
    torch.testing.assert_close(objective.x, wanted)
    assert "x" in objective.state_dict()


def test_distance():
    v = torch.randn(4, 3, 2)
    wanted = (v.square().mean((1, 2)) + 0.01).sqrt()
    torch.testing.assert_close(pseudo_huber(v, 0.1), wanted)
    assert expand_like(wanted, v).shape == (4, 1, 1)


def test_a_latent_of_another_shape_is_refused():
    small = student()
    with pytest.raises(ValueError, match=r"needs a latent of the teacher's shape"):
        small.latent_shape = (3,)
        Regression(mixture_teacher(), small, pairs=4)
    assert denoiser().shape == (2,)


def test_batches_are_solved_pairs_with_their_own_labels():
    """Early batches come from the solved portion only, and z, x and label of a row belong."""
    torch.manual_seed(0)
    objective = CASES["regression"]()
    batch = batch_of(objective, 64)
    first = objective.prepare(batch, 0)
    table = {tuple(z.tolist()): i for i, z in enumerate(objective.z[:8])}
    rows = torch.tensor([table[tuple(z.tolist())] for z in first.cond["z"]])
    # Of 64 uniform draws all of eight rows are among them, but in one case of 600.
    assert rows.unique().tolist() == list(range(8))
    assert torch.equal(first.x, objective.x[rows])
    assert torch.equal(first.cond["label"], objective.label[rows])
    for step in range(1, 4):
        objective.begin(batch, step)
        last = objective.prepare(batch, step)
    assert {tuple(z.tolist()) for z in last.cond["z"]} - set(table)  # of later portions too
    # Of the mixture's modes, those of class 0 are on the diagonal: x y > 0, and < 0 for class 1.
    many = Regression(mixture_teacher(labels=True), objective.generator, pairs=200, portion=200)
    many.begin(batch, 0)
    side = (many.x.prod(1) < 0).long()
    assert many.label.unique().tolist() == [0, 1]
    assert (side == many.label).double().mean() > 0.9


def test_loss_is_the_mean_distance_of_the_pairs():
    objective = CASES["regression"]()
    drawn = objective.prepare(batch_of(objective), 0)
    loss = objective.loss(drawn, 0)
    cond = {"label": drawn.cond["label"]}
    difference = objective.generator(drawn.cond["z"], **cond) - drawn.x
    wanted = (difference.square().sum(1) / 2 + 0.03**2).sqrt().mean()
    torch.testing.assert_close(loss.value, wanted)
    torch.testing.assert_close(loss.info["squared_error"], difference.square().mean().detach())
