"""Batches know their place."""

from __future__ import annotations

import math

import pytest
import torch

from vardiu.data import DataFree, Shuffled, Stream, check
from vardiu.data.batch import Batch
from vardiu.errors import ConfigError


def sources():
    x = torch.arange(10.0)[:, None]
    return [
        Shuffled(x, {"label": torch.arange(10)}, 3, seed=1),
        DataFree(4, classes=5, seed=1),
        Stream(lambda: (Batch.of(x[i : i + 2]) for i in range(0, 10, 2))),
    ]


@pytest.mark.parametrize("which", range(3))
def test_resuming_goes_on_where_it_stopped(which):
    first, second = sources()[which], sources()[which]
    for _ in range(7):
        next(first)
    second.load_state_dict(first.state_dict())
    for _ in range(9):
        a, b = next(first), next(second)
        assert a.rows == b.rows
        assert (a.x is b.x is None) or torch.equal(a.x, b.x)
        assert all(torch.equal(a.cond[k], b.cond[k]) for k in a.cond)


def test_processes_share_one_global_batch():
    x, label = torch.arange(24.0)[:, None], torch.arange(24)
    makers = [
        lambda n: Shuffled(x, {"label": label}, n, seed=1),
        lambda n: DataFree(n, classes=7, seed=1),
    ]
    for make in makers:
        whole, parts = make(6), [make(6), make(6)]
        for rank, part in enumerate(parts):
            part.rank, part.world = rank, 2
        for _ in range(5):  # over the end of an epoch
            expected, got = next(whole), [next(part) for part in parts]
            assert sum(b.rows for b in got) == expected.rows
            if expected.x is not None:
                assert torch.equal(torch.cat([b.x for b in got]), expected.x)
            labels = torch.cat([b.cond["label"] for b in got])
            assert torch.equal(labels, expected.cond["label"])


def test_processes_share_the_batches_of_a_stream():
    def stream(rank: int) -> Stream:
        made = Stream(lambda: (Batch.of(x[i : i + 2]) for i in range(0, 10, 2)))
        made.rank, made.world = rank, 2
        return made

    x = torch.arange(10.0)[:, None]
    first, second = stream(0), stream(1)
    seen = [next(s).x.flatten().tolist() for _ in range(6) for s in (first, second)]
    assert seen == [[float(i % 10)] for i in range(12)]


@pytest.mark.parametrize("kind", ["shuffled", "free", "stream"])
def test_rows_that_cannot_be_divided_among_processes_are_refused(kind):
    x = torch.zeros(10, 1)
    batches = {
        "shuffled": lambda: Shuffled(x, {}, 5),
        "free": lambda: DataFree(5),
        "stream": lambda: Stream(lambda: [Batch.of(x[:5])]),
    }[kind]()
    batches.world = 2
    with pytest.raises(ConfigError, match="5 rows cannot be divided among 2 processes"):
        next(batches)


def test_an_epoch_has_each_sample_once_and_a_new_order():
    x = torch.arange(12.0)[:, None]
    batches = Shuffled(x, {"label": torch.arange(12)}, 4)
    epochs = [torch.cat([next(batches).x for _ in range(3)]).flatten() for _ in range(2)]
    assert all(torch.equal(epoch.sort().values, x.flatten()) for epoch in epochs)
    assert not torch.equal(*epochs)
    batch = next(batches)
    assert torch.equal(batch.x.flatten().long(), batch.cond["label"])


def test_data_free_classes_are_uniform():
    batches = DataFree(1000, classes=4)
    label = torch.cat([next(batches).cond["label"] for _ in range(20)])
    share = label.bincount(minlength=4) / 20_000
    assert bool(((share - 0.25).abs() < 5 * math.sqrt(0.25 * 0.75 / 20_000)).all())
    assert not DataFree(3).at(0).cond


def test_bad_data_are_named():
    x = torch.randn(5, 2)
    x[3, 1] = math.nan
    message = r"data holds 1 value that is not finite, the first at index \(3, 1\)"
    with pytest.raises(ValueError, match=message):
        Shuffled(x, {}, 2)
    with pytest.raises(ValueError, match=r"got torch.uint8; scale images of bytes to \[-1, 1\]"):
        check(torch.zeros(3, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="data is empty"):
        check(torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"batch_size must be within \[1, 5\]"):
        Shuffled(torch.randn(5, 2), {}, 6)
    with pytest.raises(ValueError, match="label must have 5 rows"):
        Shuffled(torch.randn(5, 2), {"label": torch.zeros(4)}, 2)
    with pytest.raises(ValueError, match="the stream is empty"):
        next(Stream(lambda: iter(())))
