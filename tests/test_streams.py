"""Streams: one generator a role, the same draws for any number of processes."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from vardiu.training.streams import Streams


def test_roles_of_one_seed_are_uncorrelated():
    n = 50_000
    streams = Streams(7)
    a, b = (streams.normal(role, n, ()) for role in ("latent", "noise"))
    # The correlation of n independent pairs has the standard error 1 / sqrt(n).
    assert abs((a * b).mean()) < 5 / math.sqrt(n)
    assert abs((a[1:] * b[:-1]).mean()) < 5 / math.sqrt(n)


def test_seeds_next_to_each_other_are_uncorrelated():
    n = 50_000
    a, b = (Streams(seed).normal("noise", n, ()) for seed in (0, 1))
    assert abs((a * b).mean()) < 5 / math.sqrt(n)


def test_what_one_role_draws_moves_no_other():
    plain, busy = Streams(1), Streams(1)
    wanted = [plain.normal("noise", 4, (2,)) for _ in range(3)]
    got = []
    for _ in range(3):
        busy.normal("particle", 17, (5,))
        busy.uniform("level", 3)
        with busy.torch_seeded("other"):
            torch.randn(9)
        got.append(busy.normal("noise", 4, (2,)))
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_draw_the_rows_of_one(world):
    whole = Streams(2)
    parts = [Streams(2, rank=rank, world=world) for rank in range(world)]
    for _ in range(3):  # and go on doing so
        z, u = whole.normal("latent", 6, (2,)), whole.uniform("level", 6)
        zs = [part.normal("latent", 6 // world, (2,)) for part in parts]
        us = [part.uniform("level", 6 // world) for part in parts]
        assert torch.equal(torch.cat(zs), z) and torch.equal(torch.cat(us), u)


def test_ambient_draws_differ_between_processes_and_visits():
    draws = []
    for rank in range(2):
        streams = Streams(3, rank=rank, world=2)
        for _ in range(2):
            with streams.torch_seeded("particle"):
                draws.append(torch.randn(1000))
    for i in range(4):
        for j in range(i):
            assert abs((draws[i] * draws[j]).mean()) < 5 / math.sqrt(1000)


def test_ambient_puts_torchs_generator_back_after_an_error():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), Streams(0).torch_seeded("particle"):
        torch.randn(3)
        raise RuntimeError("inside")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_restored_state_is_all_of_the_state():
    source, target = Streams(3), Streams(8)
    source.normal("latent", 5, (2,))
    target.normal("noise", 9, (2,))  # a role that the source has not used yet
    target.load_state_dict(source.state_dict())
    for role in ("latent", "noise"):
        assert torch.equal(source.normal(role, 4, ()), target.normal(role, 4, ()))
    with source.torch_seeded("particle"):
        a = torch.randn(3)
    with target.torch_seeded("particle"):
        assert torch.equal(torch.randn(3), a)


def test_a_saved_state_is_not_moved_by_later_draws():
    streams = Streams(0)
    streams.normal("latent", 3, ())
    state = streams.state_dict()
    first = streams.normal("latent", 3, ())
    streams.load_state_dict(state)
    assert torch.equal(streams.normal("latent", 3, ()), first)


def test_a_copy_goes_on_alike_and_alone():
    streams = Streams(4, rank=1, world=2)
    streams.normal("latent", 3, ())
    twin = copy.deepcopy(streams)
    a = streams.normal("latent", 3, ())
    streams.normal("latent", 3, ())
    assert torch.equal(twin.normal("latent", 3, ()), a)
    assert (twin.rank, twin.world) == (1, 2)


def test_a_reset_starts_every_role_anew():
    streams = Streams(4)
    first = streams.normal("latent", 3, ()), streams.uniform("level", 3)
    streams.reset(5)
    assert not torch.equal(streams.normal("latent", 3, ()), first[0])
    streams.reset(4)
    assert torch.equal(streams.uniform("level", 3), first[1])
    assert torch.equal(streams.normal("latent", 3, ()), first[0])
