"""Small pickles that would take gigabytes or for ever, though nothing of them is executed."""

from __future__ import annotations

import io
import pickle
import resource
import struct
import time

import numpy as np
import pickled
import pytest
import torch

from vardiu.nn import SongUNet
from vardiu.teachers import edm
from vardiu.teachers.edm_pickles import read, summary
from vardiu.teachers.edm_records import Refused


def b(i: int) -> bytes:
    return bytes([i])


def text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


def doubled(make: bytes, count: int) -> bytes:
    """Values that each name the one before twice, kept under numbers 0, 1, ..."""
    return b"".join(make.replace(b"%", b"h" + b(i)) + b"q" + b(i + 1) for i in range(count))


TUPLES = b"\x80\x02}K\x01\x85q\x000" + doubled(b"%%\x86", 60).replace(b"\x86q", b"\x86q")
LISTS = b"\x80\x02]q\x00" + doubled(b"(%%l", 34)
RECORD = (
    b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n(}("
    + text(b"type") + text(b"class") + text(b"class_name")
)  # fmt: skip
EMA = text(b"EDMPrecond") + text(b"state") + b"}(" + text(b"_init_kwargs") + b"}"
LAST = b"h" + b(34)

BOMBS = {
    # What it is: the bytes, and what the refusal names.
    "memo": (b"\x80\x02}r" + struct.pack("<I", 0x06000000) + b".", "number 100663296"),
    "memo as text": (b"\x80\x02}p2147483647\n.", "number 2147483647"),
    "key": (TUPLES + b"0h" + b(60) + b"Ns.", "values in a tuple of tuples"),
    "keys of a list": (
        b"\x80\x02K\x01\x85q\x000" + doubled(b"%%\x86", 60) + b"0cbuiltins\nset\n(]h" + b(60)
        + b"atR.",
        "values in a tuple of tuples",
    ),
    "deep key": (b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns.", "levels of tuples"),
    "size of lists": (LISTS + b"0ctorch\nSize\n(" + LAST + b"tR.", "a shape is"),
    "device of lists": (LISTS + b"0ctorch\ndevice\n(" + LAST + b"tR.", "a device is"),
    "class of lists": (
        LISTS + b"0}" + text(b"ema") + RECORD + LAST + text(b"state") + b"}utRs.",
        "of the class",
    ),
    "state of lists": (
        LISTS + b"0" + RECORD + text(b"X") + text(b"state") + LAST + b"utR.", "is a list",
    ),
    "message": (
        LISTS + b"0}" + text(b"other") + RECORD + EMA + text(b"x") + LAST + b"suutRs.",
        "holds no network 'ema'",
    ),
    "number": (b"\x80\x02}\x8b" + struct.pack("<I", 10**5) + b"\x01" * 10**5 + b"Ns.", "bits"),
    "long text": (b"\x80\x04\x8d" + struct.pack("<Q", 2**50) + b"x.", "truncated"),
    "bytearray": (b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"x.", "truncated"),
    "frame": (b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"}", "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(name, tmp_path):
    content, match = BOMBS[name]
    path = tmp_path / "bomb.pkl"
    path.write_bytes(content)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(ValueError, match=match) as caught:
        edm.load(path)
    assert time.perf_counter() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes
    assert "bomb.pkl" in str(caught.value) and len(str(caught.value)) < 2_000


def test_the_scan_keeps_what_an_honest_pickle_does(tmp_path):
    """Protocols 0 to 5: a memo by number, as text, and implied; marks, tuples, nested lists."""
    shared = ("a", 1)
    value = {"x": [shared, shared, {"k": (1, 2, 3)}], "y": None, "z": [[], [[]]], "w": 2**70}
    for protocol in range(6):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(value, protocol))
        assert read(path) == value


class Call:
    """What is pickled as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def written(tmp_path, parameters, **others):
    state = pickled.state_of(parameters, {}, {}, **others)
    return pickled.write(tmp_path / "a.pkl", {"net": pickled.Persistent("X", state)})


def test_a_tensor_has_no_more_elements_than_its_storage(tmp_path):
    storage = torch.arange(4.0)._typed_storage()
    shape = (10**6, 10**6)
    tensor = Call(torch._utils._rebuild_tensor_v2, storage, 0, shape, (0, 0), False, {})
    with pytest.raises(Refused, match=r"a\.pkl .*\(0, 0\) has more elements than its storage, 4"):
        read(written(tmp_path, {"weight": tensor}))


def test_views_of_one_storage_do_not_multiply_it(tmp_path):
    storage = torch.zeros(1000, dtype=torch.float32)._typed_storage()
    view = (torch._utils._rebuild_tensor_v2, storage, 0, (1000,), (1,), False, {})
    path = written(tmp_path, {f"w{i}": Call(*view) for i in range(100)})
    with pytest.raises(Refused, match="400,000 bytes, and what they are views of 4,000"):
        summary(path)


def test_the_bytes_of_a_storage_count_once(tmp_path):
    """Kept in the memo, one text of bytes could be made a storage a thousand times."""
    buffer = io.BytesIO()
    whole = torch.zeros(50_000)._typed_storage()
    torch.save(whole, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    storages = [Call(torch.storage._load_from_bytes, data) for _ in range(5)]
    path = written(tmp_path, {}, others=storages)
    assert path.stat().st_size < 2 * len(data)
    with pytest.raises(Refused, match="more bytes than it has itself"):
        read(path)


def test_the_pickles_in_a_storage_are_scanned_too(tmp_path):
    from vardiu.teachers.edm_records import LEGACY

    evil = LEGACY + TUPLES + b"0h" + b(60) + b"Ns."
    path = written(tmp_path, {}, others=[Call(torch.storage._load_from_bytes, evil)])
    with pytest.raises(Refused, match="values in a tuple of tuples"):
        read(path)


@pytest.mark.parametrize(
    "name, value, match",
    [
        ("num_blocks", 10**9, "num_blocks of SongUNet has 1,000,000,000 blocks"),
        ("model_channels", 2**40, "model_channels of SongUNet has"),
        ("channel_mult", [1] * 10**4, "channel_mult of SongUNet has 10,000 numbers"),
        ("channel_mult", [1, 10**30], "channel_mult of SongUNet has 1,0"),
    ],
)
def test_arguments_of_no_network_are_refused_before_it_is_made(name, value, match, tmp_path):
    network = SongUNet(8, 1, 1, model_channels=8, channel_mult=[1, 1], num_blocks=1)
    network.arguments = {**network.arguments, name: value}
    if name == "channel_mult" and len(value) == 2:
        match = "channel_mult|bits"
    content = {"ema": pickled.preconditioned("EDMPrecond", network)}
    with pytest.raises(ValueError, match=match):
        edm.load(pickled.write(tmp_path / "a.pkl", content))


def test_damage_at_random_is_one_line(tmp_path):
    """A fixed seed; a network of the published layout, cut and changed."""
    network = SongUNet(8, 1, 1, model_channels=8, channel_mult=[1], num_blocks=1)
    path = pickled.write(
        tmp_path / "a.pkl", {"ema": pickled.preconditioned("EDMPrecond", network, img_channels=1)}
    )
    data, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for i in range(60):
        changed = bytearray(data if i % 3 else data[: random.integers(1, len(data))])
        for place in random.integers(len(changed), size=10 ** (i % 4)):
            changed[place] = random.integers(256)
        path.write_bytes(changed)
        try:
            edm.load(path)
        except ValueError as error:
            refused += 1
            assert "a.pkl" in str(error) and len(str(error)) < 2_000
    assert refused > 40
