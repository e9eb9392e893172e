"""A dozen kills of real runs, at instants of a seed: see `benchmarks/siege.py` and `make siege`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vardiu.storage.run_folder import RunFolder

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import siege  # noqa: E402


def run(folder: Path, **changes: object) -> Path:
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "weights.safetensors").write_bytes(b"weights")
    row = {"step": 3, "loss": 0.5, "seconds": 1.0} | changes
    (folder / "metrics.jsonl").write_text(siege.json.dumps(row) + "\n")
    return folder


def test_what_is_compared_is_all_but_times(tmp_path):
    first = siege.content(run(tmp_path / "a"))
    assert siege.difference(first, siege.content(run(tmp_path / "b", seconds=2.0))) == ""
    other = siege.content(run(tmp_path / "c", loss=0.6))
    assert siege.difference(first, other) == "metrics.jsonl"
    changed = run(tmp_path / "d") / "student" / "weights.safetensors"
    changed.write_bytes(b"weightz")
    assert siege.difference(first, siege.content(tmp_path / "d")) == "student/weights.safetensors"
    changed.unlink()
    assert "files: " in siege.difference(first, siege.content(tmp_path / "d"))


@pytest.mark.slow
def test_a_dozen_kills_leave_no_trace(tmp_path):
    # A process of its own: pytest's has other settings, which its forks would find.
    words = ["--kills", "12", "--out", str(tmp_path / "siege")]
    made = subprocess.run(
        [sys.executable, siege.__file__, *words], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    found = siege.verified(siege.rows_of(tmp_path / "siege"))
    assert len(found) == 12 and {row["kind"] for row in found} == set(siege.kinds(Path()))


def test_a_siege_counts_kills_of_runs_that_were_compared(tmp_path):
    log = RunFolder(tmp_path).log
    kill = {"kind": "teach", "run": 1, "after": 1.5, "at": "training", "killed": "all"}
    rows = [{"kind": "teach", "undisturbed": 9.0}, kill, kill, {**kill, "run": 2}]
    for row in [*rows, {"kind": "teach", "run": 1, "differs": ""}]:
        log(row, siege.LOG)
    with (tmp_path / "kills.jsonl").open("a") as file:
        file.write('{"kind": "teach", "ru')  # the siege itself was killed
    assert siege.verified(siege.rows_of(tmp_path)) == [kill, kill]
    found = siege.collected([tmp_path])["teach"]
    assert (found["runs"], found["differing"], len(found["kills"])) == (1, 0, 2)
    log({"kind": "teach", "run": 2, "differs": "student"}, siege.LOG)
    assert siege.collected([tmp_path])["teach"]["differing"] == 1
