"""Averages: the ramp, the copy, the state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vardiu.training.ema import Average


def moved(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn_like(parameter)
    return module


def test_the_ramp_caps_the_half_life_at_a_share_of_what_was_seen():
    """Against the recursion, with the half-life capped from the first update to the tenth."""
    module = nn.Linear(3, 2)
    average = Average(module, halflife=20.0, ramp=0.25)
    wanted, halflives = module.weight.detach().clone(), []
    for i in range(1, 16):
        moved(module)
        average.update(module, 8)
        halflives.append(min(20.0, 0.25 * 8 * i))
        beta = 2 ** (-8 / halflives[-1])
        wanted = beta * wanted + (1 - beta) * module.weight.detach()
        torch.testing.assert_close(average.module.weight.detach(), wanted)
    assert halflives[0] == 2.0 and halflives[9] == 20.0 and halflives[8] < 20.0
    assert average.seen == 120


def test_the_first_weights_are_forgotten():
    """After many times the ramp's share of samples, nothing is left of where the average began."""
    module = nn.Linear(3, 2)
    far = copy.deepcopy(module)
    far.weight.data.add_(1e3)
    averages = [Average(start, halflife=1e9, ramp=0.05) for start in (module, far)]
    for _ in range(30):
        moved(module)
        for average in averages:
            average.update(module, 10)
    near, other = (average.module.weight for average in averages)
    # Of the start 2^(-20 (1 + 1/2 + ... + 1/30)) = 1e-24 is left, less than float64 resolves.
    torch.testing.assert_close(near, other, rtol=0, atol=1e-12)


def test_without_a_half_life_it_is_a_copy():
    module = nn.Linear(3, 2)
    average = Average(module, halflife=0.0)
    moved(module)
    average.update(module, 5)
    assert torch.equal(average.module.weight, module.weight)
    moved(module)
    assert not torch.equal(average.module.weight, module.weight)  # its own storage


def test_statistics_that_are_no_weights_are_copied():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = Average(module, halflife=1e6, ramp=1e9)
    module(torch.randn(32, 3) + 2)
    average.update(module, 32)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(average.module[1], name), getattr(module[1], name))
    assert average.module[1].num_batches_tracked == 1


def test_it_is_neither_trained_nor_in_training_mode():
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).train()
    average = Average(module, halflife=10.0)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert all(parameter.requires_grad for parameter in module.parameters()) and module.training
    x = torch.randn(5, 3)
    assert torch.equal(average.module(x), average.module(x))  # no dropout


def test_a_restored_average_goes_on_alike():
    module = nn.Linear(3, 2)
    first = Average(module, halflife=100.0)
    for _ in range(3):
        first.update(moved(module), 20)
    second = Average(nn.Linear(3, 2), halflife=100.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(3):
        moved(module)
        for average in (first, second):
            average.update(module, 20)
    # The count of samples decides the half-life: it must have been restored too.
    assert torch.equal(first.module.weight, second.module.weight)
    assert second.seen == 120


def test_a_negative_ramp_is_refused():
    with pytest.raises(ValueError, match="ramp positive, got 1.0, 0.0"):
        Average(nn.Linear(2, 2), 1.0, ramp=0.0)
