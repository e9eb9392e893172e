"""The harness of damaged files finds a reader that raises what is not ours."""

from __future__ import annotations

import json

import pytest
from fuzz import OTHERS, damaged, fuzz

from vardiu.errors import ConfigError

GOOD = json.dumps({"a": {"b": [1, 2.5, "word"]}, "c": None}).encode()


def test_the_damaged_files_are_the_same_ones_every_time_and_differ():
    files = list(damaged(GOOD, 100, seed=3))
    assert files == list(damaged(GOOD, 100, seed=3)) and files != list(damaged(GOOD, 100, seed=4))
    assert len(files) == 100 and len(set(files)) > 75 and set(OTHERS) <= set(files)


def test_the_harness_fails_for_a_traceback_and_for_a_message_without_the_name(tmp_path):
    path = tmp_path / "a.json"

    def careless(path):
        return json.loads(path.read_text())["a"]["b"]

    def nameless(path):
        raise ConfigError("it is damaged")

    def careful(path):
        raise ConfigError(f"{path} is damaged")

    for reader in (careless, nameless):
        with pytest.raises(AssertionError, match="of 60"):
            fuzz(path, reader, good=GOOD, n=60)
    assert fuzz(path, careful, good=GOOD, n=60) == 60 and path.read_bytes() == GOOD
