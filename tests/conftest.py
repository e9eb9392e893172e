"""Every test runs in float64, on one thread, from the same seed, and its runs write blank pictures."""

from __future__ import annotations

import contextlib
import sys

import pytest
import torch
from torch.overrides import TorchFunctionMode

from vardiu.functional.tensors import sent
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


# What asks a card for a number of its own, without a look at the result.
ASKING = {"linalg_eigh", "linalg_eigvalsh", "linalg_svd", "linalg_svdvals", "linalg_cholesky"}
ASKING |= {"linalg_solve", "linalg_inv", "linalg_lstsq"}
COPYING = {"to", "copy_", "type_as"}
MAKING = {"tensor", "as_tensor", "asarray", "new_tensor"}


class Waits(TorchFunctionMode):
    """To copy something to the device `meta` is an error where it would wait for a card: if the
    library itself does so, and does not send it from page-locked memory."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result, name = func(*args, **kwargs), getattr(func, "__name__", "")
        if name in ASKING and args[0].device.type == "meta":
            raise RuntimeError(f"{name} of a Meta tensor looks at a number of its own")
        if name in COPYING | MAKING and result.device.type == "meta":
            given = args[1] if name in ("copy_", "new_tensor") else args[0]
            was_there = isinstance(given, torch.Tensor) and given.device.type == "meta"
            caller = sys._getframe(1)
            ours = caller.f_globals["__name__"].startswith("vardiu")
            if ours and not was_there and caller.f_code is not sent.__code__:
                raise RuntimeError(f"{name} makes a Meta tensor of memory that may be swapped out")
        return result


@pytest.fixture
def accelerator(monkeypatch):
    """A device whose tensors have no values: to look at one is an error, where it would be to
    wait, and so is to copy something there that is not sent. It has no generators, and no
    autocast."""
    made, around = Streams.__call__, torch.autocast

    def generator(streams: Streams, role: str, device: torch.device | str = "cpu") -> object:
        return None if torch.device(device).type == "meta" else made(streams, role, device)

    def autocast(kind: str, *given: object, **named: object) -> contextlib.AbstractContextManager:
        none = kind == "meta"
        return contextlib.nullcontext() if none else around(kind, *given, **named)

    monkeypatch.setattr(Streams, "__call__", generator)
    monkeypatch.setattr(torch, "autocast", autocast)
    with Waits():
        yield torch.device("meta")
