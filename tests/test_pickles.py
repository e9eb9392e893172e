"""Nothing in a pickle is executed, and what is wrong with one is said."""

from __future__ import annotations

import io
import os
import pickle
import shlex
from pathlib import Path

import numpy as np
import pickled
import pytest
import torch

from vardiu.nn import SongUNet
from vardiu.teachers import edm_pickles
from vardiu.teachers.edm_pickles import ALLOWED, read, summary
from vardiu.teachers.edm_records import Record, Refused


class Call:
    """What is pickled as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def network():
    return SongUNet(
        8, 1, 1, label_dim=3, model_channels=8, channel_mult=[1, 1], num_blocks=1,
        attn_resolutions=[4], embedding_type="fourier",
    )  # fmt: skip


def legacy(thing) -> bytes:
    """The bytes of a file of torch's older format."""
    buffer = io.BytesIO()
    torch.save(thing, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def evils(sentinel: Path) -> dict[str, tuple[object, str]]:
    """Things that run a command when read carelessly, and what the refusal must name."""
    shell = Call(os.system, f"touch {shlex.quote(str(sentinel))}")
    source = f"open({str(sentinel)!r}, 'w')"
    bytes_of = torch.storage._load_from_bytes
    inner = pickled.Persistent("Inner", {"_modules": {"x": shell}})
    return {
        "shell": (shell, "system"),
        "eval": (Call(eval, source), r"builtins\.eval"),
        "exec": (Call(exec, source), r"builtins\.exec"),
        "getattr": (Call(getattr, os, "system"), "getattr|builtins|cannot"),
        "load": (Call(torch.load, "x"), r"torch\.serialization\.load"),
        "bytes": (Call(bytes_of, pickle.dumps(shell, 2)), "restricted reader refuses"),
        "legacy": (Call(bytes_of, legacy(shell)), "restricted reader refuses"),
        "not a storage": (Call(bytes_of, legacy({"a": 1})), "hold a dict"),
        "no bytes": (Call(bytes_of, "text"), "are a str"),
        "nested": (pickled.Persistent("Outer", {"_modules": {"inner": inner}}), "system"),
        "object array": (np.array([shell], dtype=object), "type O"),
        "function": (Call(pickled._reconstruct_persistent_obj, {"type": "module"}), "'class'"),
    }


NAMES = [name for name in evils(Path("x")) if name != "getattr"]


@pytest.mark.parametrize("place", ["ema", "state", "arguments"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_executed(name, place, tmp_path):
    sentinel = tmp_path / "executed"
    evil, match = evils(sentinel)[name]
    contents = {
        "ema": evil,
        "state": pickled.Persistent("EDMPrecond", pickled.state_of({}, {}, {"model": evil})),
        "arguments": pickled.Persistent("EDMPrecond", {"_init_kwargs": {"x": evil}}),
    }[place]
    path = pickled.write(tmp_path / "evil.pkl", {"ema": contents})
    with pytest.raises(Refused, match=match) as caught:
        edm_pickles.network(path)
    assert str(path) in str(caught.value) and not sentinel.exists()


def test_the_command_would_have_run(tmp_path):
    """The control: read carelessly, the same bytes leave the sentinel."""
    sentinel = tmp_path / "executed"
    pickle.loads(pickle.dumps(evils(sentinel)["shell"][0]))
    assert sentinel.exists()


def test_the_source_of_a_class_is_dropped(tmp_path):
    sentinel = tmp_path / "executed"
    source = pickled.SENTINEL_SOURCE.format(path=str(sentinel))
    exec(compile(source, "source", "exec"), {})  # the control
    sentinel.unlink()
    path = pickled.write(
        tmp_path / "a.pkl",
        {"ema": pickled.preconditioned("EDMPrecond", network(), source=source)},
    )
    record = edm_pickles.network(path)
    assert not sentinel.exists() and source.encode() in path.read_bytes()
    assert not any(source in str(value) for value in (record, record.state))


GLOBAL = b"ctorch._utils\n_rebuild_tensor_v2\n"
SEALED = {
    # A class's attribute, an attribute of a builtin, and a name with a path in it.
    "class": GLOBAL + b"N}X\x06\x00\x00\x00tensorNs\x86b.",
    "builtin": b"ccollections\nOrderedDict\n" + b"N}X\x03\x00\x00\x00getNs\x86b.",
    "dotted": b"\x80\x04\x8c\x0bcollections\x8c\x1aOrderedDict.__init__.__doc__\x93.",
    "instance": b"(S'touch x'\nios\nsystem\n.",
    "persistent": b"Pid\n.",
    "extension": b"\x82\x01.",
}


@pytest.mark.parametrize("name", SEALED)
def test_what_a_pickle_may_name_cannot_be_changed(name, tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x04" + SEALED[name] if name != "dotted" else SEALED[name])
    before = {key: dict(vars(value)) for key, value in ALLOWED.items() if isinstance(value, type)}  # fmt: skip
    with pytest.raises(Refused, match=r"a\.pkl"):
        read(path)
    after = {key: dict(vars(value)) for key, value in ALLOWED.items() if isinstance(value, type)}  # fmt: skip
    assert before == after


@pytest.mark.parametrize(
    "view, match",
    [
        ((0, (5,), (1,)), "reaches element 4 of a storage of 4"),
        ((0, (2, 2), (1 << 60, 1)), "reaches element"),
        ((1, (4,), (1,)), "reaches element 4"),
        ((-1, (1,), (1,)), "offset, shape and strides"),
        ((0, (2,), (-1,)), "offset, shape and strides"),
        ((0, (2,), (1, 1)), "does not fit its strides"),
    ],
)
def test_no_tensor_reaches_beyond_its_storage(view, match, tmp_path):
    storage = torch.arange(4.0)._typed_storage()
    tensor = Call(torch._utils._rebuild_tensor_v2, storage, *view, False, {})
    state = pickled.state_of({"weight": tensor}, {}, {})
    path = pickled.write(tmp_path / "a.pkl", {"ema": pickled.Persistent("X", state)})
    with pytest.raises(Refused, match=match):
        edm_pickles.network(path)


@pytest.mark.parametrize("protocol", [3, 4])
def test_tensors_and_arguments_are_what_was_written(protocol, tmp_path):
    torch.set_default_dtype(torch.float32)
    model = network()
    state = model.state_dict()
    path = pickled.write(
        tmp_path / "a.pkl", {"ema": pickled.preconditioned("EDMPrecond", model)}, protocol
    )
    record = edm_pickles.network(path)
    found = record.tensors()
    assert {name.removeprefix("model.") for name in found} == set(state)
    assert all(torch.equal(found[f"model.{name}"], state[name]) for name in state)
    inner = record.modules["model"]
    assert inner.class_name == "SongUNet" and inner.arguments["dropout"] == 0.13
    block = inner.modules["enc"].modules["8x8_block0"]
    assert block.state["skip_scale"] == 0.5**0.5  # a NumPy number, as Python's
    assert (block.state["scale"].values == np.ones(3)).all()


def test_views_of_one_storage_keep_their_strides(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    views = {"a": whole.T, "b": whole[1:, ::2], "c": whole[:0]}
    path = pickled.write(
        tmp_path / "a.pkl", {"ema": pickled.Persistent("X", pickled.state_of(views, {}, {}))}
    )
    found = edm_pickles.network(path).tensors()
    assert all(torch.equal(found[name], views[name]) for name in views)


def test_what_is_no_such_pickle_is_said(tmp_path):
    good = {"ema": pickled.preconditioned("EDMPrecond", network())}
    path = pickled.write(tmp_path / "good.pkl", good)
    data = path.read_bytes()
    bad = tmp_path / "bad.pkl"
    for size in (1, 100, len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:size])
        with pytest.raises(Refused, match=r"bad\.pkl is truncated, damaged or not a pickle"):
            read(bad)
    for text in (b"", b"hello, world", b"\x89PNG\r\n\x1a\n", b"{}", bytes(100)):
        bad.write_bytes(text)
        with pytest.raises(Refused, match="not a pickle"):
            read(bad)
    torch.save({}, bad)
    with pytest.raises(Refused, match="zip archive"):
        read(bad)
    bad.write_bytes(pickle.dumps([1]))
    with pytest.raises(Refused, match="must hold a dictionary of networks, it holds a list"):
        read(bad)


def test_damage_is_refused_or_changes_numbers_only(tmp_path):
    """Bytes changed at random: no other error, and most changes are noticed."""
    random = np.random.default_rng(0)
    path = pickled.write(
        tmp_path / "a.pkl", {"ema": pickled.Persistent("X", pickled.state_of({"w": torch.ones(3)}, {}, {}))}
    )  # fmt: skip
    data, refused = path.read_bytes(), 0
    for _ in range(300):
        changed = bytearray(data)
        for i in random.integers(len(data), size=3):
            changed[i] = random.integers(256)
        path.write_bytes(changed)
        try:
            edm_pickles.network(path).tensors()
        except Refused:
            refused += 1
    assert 100 < refused < 300


def test_without_the_key_what_there_is_is_listed(tmp_path):
    path = pickled.write(
        tmp_path / "a.pkl", {"net": pickled.preconditioned("EDMPrecond", network())}
    )
    match = (
        r"(?s)holds no network 'ema'.*net: EDMPrecond\(img_resolution=8, .*\d+ tensors.*loss_fn"
    )
    with pytest.raises(Refused, match=match):
        edm_pickles.network(path)
    assert edm_pickles.network(path, "net").class_name == "EDMPrecond"
    tensors = sum(1 for _ in network().state_dict())
    count = sum(t.numel() for t in network().state_dict().values())
    assert f"{tensors} tensors, {count:,} numbers" in summary(path)


def test_a_module_that_holds_itself_is_refused(tmp_path):
    record = Record({"type": "class", "class_name": "A", "state": {}})
    record.state["_modules"] = {"a": record}
    with pytest.raises(Refused, match="is a part twice, or of itself"):
        record.tensors()
