"""Every test runs in float64, on one thread, from the same seed, and its runs write blank pictures."""

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


@pytest.fixture(scope="session", autouse=True)
def blank_pictures():
    """Runs write blank pictures: to draw axes takes longer than a tiny training.

    The samples are drawn and looked at all the same. Tests that are marked `drawn` have whole
    pictures: one at least of every kind of problem.
    """
    import pictures

    with pytest.MonkeyPatch.context() as patch:
        pictures.are(patch, pictures.blank)
        yield


@pytest.fixture(autouse=True)
def pictures_where_they_are_asked_for(request, monkeypatch):
    if "drawn" in request.keywords:
        import pictures

        pictures.are(monkeypatch, pictures.drawn)


@pytest.fixture
def few_calls(monkeypatch):
    """Teachers are sampled in a few calls."""
    import pipelines

    pipelines.call_less(monkeypatch)
