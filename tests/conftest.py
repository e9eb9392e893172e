"""Every test runs in float64, on one thread, from the same seed."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def deterministic():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
