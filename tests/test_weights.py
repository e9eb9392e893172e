"""The weights of levels against their formulas."""

from __future__ import annotations

import pytest
import torch

from vardiu.settings import build
from vardiu.settings.fields import WeightSettings

SIGMA = torch.tensor([0.1, 0.5, 1.0, 3.0, 20.0])


@pytest.mark.parametrize(
    "row, wanted",
    [
        (WeightSettings(), SIGMA**2),
        (WeightSettings(kind="constant"), torch.ones(5)),
        (WeightSettings(kind="power", power=1.5), SIGMA**1.5),
        (WeightSettings(kind="bounded", scale=3.0), SIGMA**2 / (SIGMA**2 + 9.0)),
        (WeightSettings(kind="bounded", scale=0.5), SIGMA**2 / (SIGMA**2 + 0.25)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_weight_is_its_formula(row, wanted):
    torch.testing.assert_close(build.weight(row)(SIGMA), wanted.to(SIGMA))


def test_a_bounded_weight_is_a_half_at_its_scale():
    assert build.weight(WeightSettings(kind="bounded", scale=3.0))(SIGMA)[3] == 0.5
