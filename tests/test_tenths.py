"""Intervals that each hold a tenth of the data."""

from __future__ import annotations

import pytest
import torch

from vardiu.monitoring.alarms import CURES, alarms
from vardiu.problems.tenths import Tenths


def test_each_interval_holds_a_tenth():
    found = Tenths(torch.randn(10_000))
    assert found.shares == pytest.approx([0.1] * 10, abs=1e-3)
    narrow = found.of(0.01 * torch.randn(1_000))
    assert sum(narrow) == pytest.approx(1) and sum(share > 0 for share in narrow) <= 3


@pytest.mark.parametrize(
    "values, shares",
    [
        ([0.0] * 488 + [1.0] * 512, [0.488, 0.512]),
        ([0.0, 1.0] * 500, [0.5, 0.5]),
        ([2.0] * 50, [1.0]),
        ([0.0] * 990 + list(range(1, 11)), None),
        ([*range(40), *([40.0] * 60)], None),
        ([*range(15), *([40.0] * 60)], None),
    ],
)
def test_no_interval_of_equal_numbers_is_empty(values, shares):
    """The data themselves would be called collapsed by intervals that none of them is in."""
    found = Tenths(torch.tensor(values, dtype=torch.float32))
    assert min(found.shares) > 0 and sum(found.shares) == pytest.approx(1)
    assert shares is None or found.shares == pytest.approx(shares)
    row = {"step": 100, "updates": 100, "spread": 1.0, "metric/recall": 0.9}
    row |= {"histogram": found.of(torch.tensor(values)), "expected_shares": found.shares}
    assert not [a for a in alarms([row], 100, 2, "frechet", cures=CURES) if a.name == "collapse"]
