"""Runs that torchrun itself starts: killed in the middle, they end as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import siege  # noqa: E402

pytestmark = pytest.mark.slow
STEPS = ["--steps", "400", "--save-every", "0.5"]


@pytest.fixture
def kind(tmp_path):
    kind = siege.kinds(tmp_path)["processes"]
    return kind._replace(words=[*kind.words, *STEPS])


def saved(out: Path, process, log: Path) -> Path:
    """Waits until a run that was started has saved; returns its newest checkpoint."""
    before = set(out.glob("checkpoints/*/[0-9]*"))
    while not (new := set(out.glob("checkpoints/*/[0-9]*")) - before):
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    return max(new)


def test_a_killed_worker_comes_back_and_the_result_is_the_undisturbed_one(kind, tmp_path):
    log, out = tmp_path / "log", tmp_path / "killed"
    process = siege.start(kind, out, log)
    for rank in (1, 0):  # one that follows, and the writer
        saved(out, process, log)
        workers = siege.children(process.pid)
        assert len(workers) == 2
        os.kill(workers[rank], signal.SIGKILL)
        while set(siege.children(process.pid)) & set(workers):
            time.sleep(0.02)
    siege.end(process, log)
    words = log.read_text()
    assert words.count("another process of this run has ended") <= 2 and "Traceback" not in words
    assert words.count("report:") == 1
    siege.end(siege.start(kind, tmp_path / "undisturbed", log), log)
    ours, theirs = siege.content(out), siege.content(tmp_path / "undisturbed")
    assert siege.difference(ours, theirs) == "" and any("student/" in name for name in ours)


def test_workers_whose_torchrun_was_killed_save_and_end(kind, tmp_path):
    log, out = tmp_path / "log", tmp_path / "run"
    process = siege.start(kind, out, log)
    first = saved(out, process, log)
    siege.strike(process, "torchrun", random.Random(0))  # waits for the workers' end
    assert max(out.glob("checkpoints/*/[0-9]*")) > first
    assert not (out / "result.json").exists()
    assert "and saved. To go on: the same torchrun ... -m vardiu distill" in log.read_text()
