"""Every test runs in float64, on one thread, from the same seed, and draws one panel of curves."""

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


@pytest.fixture(autouse=True)
def one_panel(request, monkeypatch):
    """A run's curves have their first panel: the others take longer than a tiny training."""
    if "every_panel" in request.keywords:
        return
    from vardiu.reports import curves

    groups = curves._groups
    first = lambda rows: dict(list(groups(rows).items())[:PANELS])  # noqa: E731
    monkeypatch.setattr(curves, "_groups", first)


PANELS = 1


@pytest.fixture
def few_calls(monkeypatch):
    """Teachers are sampled in a few calls."""
    import pipelines

    pipelines.call_less(monkeypatch)
