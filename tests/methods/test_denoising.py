"""Denoising score matching against its naive formula."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import denoiser

from vardiu.data.batch import Batch
from vardiu.denoisers.levels import LogUniform
from vardiu.methods.denoising import Denoising


def test_loss_is_the_weighted_error_of_clean_samples():
    objective = Denoising(denoiser(), levels=LogUniform(0.2, 5.0), sigma_data=2.0)
    twin = copy.deepcopy(objective)
    x = torch.randn(9, 2)
    loss = objective.loss(Batch.of(x), 0).value
    sigma = 0.2 * 25 ** twin.uniform(9)
    denoised = twin.generator(x + sigma[:, None] * twin.noise_like(x), sigma)
    weight = (sigma**2 + 2.0**2) / (2.0 * sigma) ** 2
    torch.testing.assert_close(loss, (weight * (denoised - x).square().mean(1)).mean())


def test_a_spread_that_is_none_is_refused():
    with pytest.raises(ValueError, match="sigma_data must be positive, got 0"):
        Denoising(denoiser(), levels=LogUniform(0.2, 5.0), sigma_data=0.0)
