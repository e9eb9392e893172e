"""The levels of a lattice: one in each share, in random order, and anywhere within it."""

from __future__ import annotations

import math

import torch
from problems import LinearGaussian
from torch import Tensor

from vardiu.data.batch import Batch
from vardiu.training.objective import Loss, Objective, Phase
from vardiu.training.streams import LatticeDraws, Streams

N, DRAWS = 32, 400


class Drawing(Objective):
    """An objective that is asked for its draws only."""

    lattice = True

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("none", self.loss, updates=("generator",)),)

    def loss(self, batch: Batch, step: int) -> Loss:
        raise NotImplementedError


def objective() -> Drawing:
    problem = LinearGaussian(2, 2)
    return Drawing(problem.teacher, problem.generator)


def quantiles() -> Tensor:
    drawing = objective()
    return torch.stack([drawing.quantiles(N) for _ in range(DRAWS)])


def test_latents_of_images_are_no_lattice():
    """A lattice of so many dimensions would hold its first ones nearly still."""
    drawing = objective()
    spread = torch.stack(
        [
            LatticeDraws(drawing.streams, "latent", N, drawing.like).normal((3, 16, 16)).var(0)
            for _ in range(20)
        ]
    )
    assert (spread.mean(0) - 1).abs().max() < 0.15


def test_each_share_of_the_levels_has_one():
    shares = (quantiles() * N).floor().long()
    assert torch.equal(shares.sort(1).values, torch.arange(N).expand(DRAWS, N))


def test_the_order_of_levels_is_random():
    """A row's level is uniform on its own: neither sorted nor the same row each time."""
    u = quantiles()
    error = math.sqrt(1 / 12 / DRAWS)
    assert (u.mean(0) - 0.5).abs().max() < 5 * error
    centred = torch.arange(N) - (N - 1) / 2
    slopes = (u - 0.5) @ centred / centred.square().sum()
    assert slopes.mean().abs() < 5 * slopes.std() / math.sqrt(DRAWS)
    # And from one batch to the next it is another.
    assert (u[1:] - u[:-1]).abs().mean() > 0.2


def test_a_level_is_uniform_within_its_share():
    within = (quantiles() * N) % 1
    # The mean of 12,800 uniform numbers, and their variance.
    assert (within.mean() - 0.5).abs() < 5 * math.sqrt(1 / 12 / within.numel())
    assert (within.var() - 1 / 12).abs() < 5 * math.sqrt(1 / 180 / within.numel())


def test_processes_share_one_lattice():
    whole = objective()
    whole.streams = Streams(3)
    wanted_u, wanted_z = whole.quantiles(8), whole.latents(8)
    parts_u, parts_z = [], []
    for rank in range(2):
        part = objective()
        part.streams = Streams(3, rank, 2)
        parts_u.append(part.quantiles(4))
        parts_z.append(part.latents(4))
    assert torch.equal(torch.cat(parts_u), wanted_u)
    assert torch.equal(torch.cat(parts_z), wanted_z)
