"""Regression on pairs: the pairs are the teacher's, and a perfect student has no loss."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, batch_of, denoiser, student
from problems import mixture_teacher

from vardiu.denoise import GaussianDenoiser
from vardiu.functional import expand_like
from vardiu.methods.regression import Regression, pseudo_huber
from vardiu.pairs import teacher_pairs


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
        objective.prepare(batch, step)
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
