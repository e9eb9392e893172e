"""Every test runs in float64, on one thread, from the same seed, and its runs write blank pictures."""

from __future__ import annotations

import contextlib

import pytest
import torch

from vardiu.training.streams import Streams


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


@pytest.fixture
def accelerator(monkeypatch):
    """A device whose tensors have no values: to look at one is an error, where it would be to
    wait. It has no generators, and no autocast."""
    made, around = Streams.__call__, torch.autocast

    def generator(streams: Streams, role: str, device: torch.device | str = "cpu") -> object:
        return None if torch.device(device).type == "meta" else made(streams, role, device)

    def autocast(kind: str, *given: object, **named: object) -> contextlib.AbstractContextManager:
        none = kind == "meta"
        return contextlib.nullcontext() if none else around(kind, *given, **named)

    monkeypatch.setattr(Streams, "__call__", generator)
    monkeypatch.setattr(torch, "autocast", autocast)
    return torch.device("meta")
