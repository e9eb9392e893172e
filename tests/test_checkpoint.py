"""Checkpoints: exact, verified, and never half written."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vardiu.errors import CheckpointError
from vardiu.storage.checkpoints import Checkpoints, digest_of_file, load_state, save_state

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        same = type(a) is type(b) and len(a) == len(b)
        return same and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and a == b


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(width=64),
    st.text(max_size=5),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)).map(
        lambda a: torch.full(a[1], 1).to(a[0])
    ),
)
STATES = st.recursive(
    LEAVES,
    lambda s: st.one_of(
        st.lists(s, max_size=3),
        st.dictionaries(st.one_of(st.integers(0, 9), st.text(max_size=4)), s, max_size=3),
        st.tuples(s, s),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(state=st.dictionaries(st.sampled_from(["a", "b", "c"]), STATES, max_size=3))
def test_any_state_comes_back_as_it_was(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("state") / "x"
    save_state(folder, state)
    assert equal(load_state(folder), state)


def state_of(value=1.0):
    x = torch.arange(12.0).view(3, 4) * value
    return {"networks": {"w": x.T, "same": x}, "random": [torch.zeros(())], "trainer": {"step": 3}}


def test_every_flipped_byte_is_found_and_an_earlier_one_is_taken(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, state_of(1.0))
    store.save(2, state_of(2.0))
    for path in sorted(store.path(2).iterdir()):
        good = path.read_bytes()
        for at in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            if path.name != "manifest.json":
                with pytest.raises(CheckpointError, match=f"{path.name} was changed"):
                    load_state(store.path(2))
                step, state, skipped = store.newest()
                assert step == 1 and equal(state, state_of(1.0))
                assert path.name in skipped[0]
        path.write_bytes(good[:-3])
        with pytest.raises(CheckpointError, match=path.name):
            load_state(store.path(2))
        path.unlink()
        with pytest.raises(CheckpointError, match=f"{path.name} is missing"):
            load_state(store.path(2))
        path.write_bytes(good)
    assert store.newest()[0] == 2


def test_when_none_verifies_nothing_is_made_up(tmp_path):
    store = Checkpoints(tmp_path)
    assert store.newest() is None
    store.save(1, state_of())
    (store.path(1) / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        store.newest()


KILLED = """
import os, sys
from vardiu.storage.checkpoints import Checkpoints
import torch
calls, at = 0, int(sys.argv[2])
real = os.fsync
def fsync(descriptor):
    global calls
    calls += 1
    if calls == at:
        os._exit(9)
    real(descriptor)
store = Checkpoints(sys.argv[1])
os.fsync = fsync
store.save(2, {"networks": {"w": torch.full((50,), 2.0)}, "trainer": {"step": 2}})
print(calls)
"""


def test_killed_at_any_flush_the_newest_is_whole(tmp_path):
    survived = 0
    for at in range(1, 20):
        folder = tmp_path / str(at)
        store = Checkpoints(folder)
        store.save(1, {"networks": {"w": torch.ones(50)}, "trainer": {"step": 1}})
        done = subprocess.run([sys.executable, "-c", KILLED, folder, str(at)], capture_output=True)
        step, state, _ = store.newest()
        assert state["trainer"]["step"] == step
        assert bool((state["networks"]["w"] == step).all())
        if done.returncode == 0:
            survived = at
            break
        assert done.returncode == 9
        store.save(3, state_of())  # the dead writer's leavings are swept away
        assert not list(folder.glob(".*"))
    assert survived > 4


def test_a_full_disk_is_reported_and_earlier_checkpoints_stay(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    store.save(1, state_of())

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vardiu.storage.checkpoints._flush", full)
    with pytest.raises(CheckpointError, match="No space left on device.*Earlier ones are kept"):
        store.save(2, state_of())
    monkeypatch.undo()
    assert store.newest()[0] == 1
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_is_never_overwritten(tmp_path):
    save_state(tmp_path / "x", state_of(1.0))
    with pytest.raises(FileExistsError, match="never overwritten"):
        save_state(tmp_path / "x", state_of(2.0))
    assert equal(load_state(tmp_path / "x"), state_of(1.0))


def test_the_newest_few_are_kept(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for step in (5, 100, 20_000):
        store.save(step, state_of())
    assert store.steps() == [100, 20_000]


def test_what_cannot_be_kept_is_named(tmp_path):
    with pytest.raises(TypeError, match="a/b: a set cannot be kept"):
        save_state(tmp_path / "x", {"a": {"b": {1}}})
    assert os.listdir(tmp_path) in ([], [f".x.tmp-{os.getpid()}-{platform.node()}"])


@pytest.mark.parametrize("keys", [("1", 1), (1, "1")])
def test_keys_that_print_alike_keep_their_own_tensors(tmp_path, keys):
    a, b = keys
    nested = {"b/c": torch.tensor(3), "b": {"c": torch.tensor(4)}}
    state = {"a": {a: torch.tensor(1), b: torch.tensor(2), **nested}}
    save_state(tmp_path / "x", state)
    assert equal(load_state(tmp_path / "x"), state)


def test_a_number_of_numpy_that_is_not_finite_comes_back(tmp_path):
    save_state(tmp_path / "x", {"a": np.float64("nan"), "b": np.float64("-inf")})
    state = load_state(tmp_path / "x")
    assert math.isnan(state["a"]) and state["b"] == -math.inf


def test_a_key_that_leaves_the_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"fit for a file's name, got '\.\./x'"):
        save_state(tmp_path / "x", {"../x": torch.ones(1)})
    assert not os.listdir(tmp_path)


FULL = """
import resource, signal, sys, torch
from vardiu.errors import CheckpointError
from vardiu.storage.checkpoints import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    Checkpoints(sys.argv[1]).save(2, {"networks": {"w": torch.ones(100_000)}})
except CheckpointError as error:
    print(error)
"""


def test_a_write_that_the_system_refuses_is_reported_and_leaves_nothing(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, state_of())
    command = [sys.executable, "-c", FULL, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout and "Earlier ones are kept" in done.stdout
    assert os.listdir(tmp_path) == [store.path(1).name]


def test_a_write_cut_short_in_silence_is_found(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    store.save(1, state_of())
    real = os.fsync

    def lossy(descriptor):
        file = os.readlink(f"/proc/self/fd/{descriptor}")
        if file.endswith(".safetensors"):
            os.truncate(file, os.stat(file).st_size // 2)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", lossy)
    with pytest.raises(CheckpointError, match="could not be written"):
        store.save(2, state_of())
    monkeypatch.undo()
    assert store.steps() == [1]


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_later_steps_never_push_out_the_one_just_saved(tmp_path, keep):
    store = Checkpoints(tmp_path, keep)
    for step in (100, 200, 300):
        save_state(store.path(step), state_of(step))
    for step in (200, 300):
        (store.path(step) / "state.json").write_text("{}")
    assert store.newest()[0] == 100
    store.save(150, state_of(150.0))
    step, state, skipped = store.newest()
    assert step == 150 and len(skipped) == 2 and equal(state, state_of(150.0))


def test_a_checkpoint_that_cannot_be_read_is_skipped(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    store.save(1, state_of())
    store.save(2, state_of())
    real = digest_of_file

    def broken(path):
        if path.parent == store.path(2):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr("vardiu.storage.checkpoints.digest_of_file", broken)
    step, _, skipped = store.newest()
    assert step == 1 and "cannot be read" in skipped[0]


def test_a_dead_writers_leavings_are_swept_before_space_is_needed(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1
    ).stdout
    left = tmp_path / f".000000001.tmp-{int(dead)}-{platform.node() or 'here'}"
    left.mkdir()

    def full(*args):
        assert not left.exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vardiu.storage.checkpoints._write", full, raising=False)
    monkeypatch.setattr("vardiu.storage.checkpoints._flush", full)
    with pytest.raises(CheckpointError, match="No space left"):
        store.save(2, state_of())
