"""The benchmark of a card, on a processor: its order, its minutes, its file, and what fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from vardiu.denoisers.levels import LogUniform
from vardiu.nn import backbones
from vardiu.nn.precision import Precision

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu  # noqa: E402
import tables  # noqa: E402

SAMPLED = {"latency_ms": 1.0, "images_per_second": 2.0, "fraction_of_peak": 0.1, "batch": 8}
TRAINED = {"weights": 7, "steps_per_second": 3.0, "reserved_mib": 5.0, "rows": 4}


@pytest.fixture(autouse=True)
def unchanged():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def of(job: gpu.Job, seconds: float = 1.0) -> dict:
    more = {"warm_seconds": seconds, "allocated_mib": 4.0}
    return SAMPLED if job.method == "sampling" else {**TRAINED, **more}


def run(out: Path, *words: str) -> int:
    return gpu.main(["--device", "cpu", "--tiny", "--out", str(out), *words])


def test_the_benchmark_of_a_card_runs_on_a_processor(tmp_path, monkeypatch, capsys):
    one = [gpu.Job("mog40", "float32", "vardiu, anchored", "eager")]
    one += [one[0]._replace(method="sampling")]
    monkeypatch.setattr(gpu, "jobs", lambda modes: one)
    assert run(tmp_path / "card.json") == 0
    found = json.loads((tmp_path / "card.json").read_text())
    assert [gpu.key_of(row) for row in found["rows"]] == one and found["left_out"] == []
    assert found["minutes"] == 10.0 and found["batch_rows"]["adm"] == 4
    assert found["rows"][0]["steps_per_second"] > 0 and "memory_mib" in found
    assert "| mog40 | float32 | vardiu, anchored | eager |" in capsys.readouterr().out
    assert "| mog40 | 140,034 | 32 | float32 |" in tables.card_steps(found)
    assert "| mog40 | float32 |" in tables.card_calls(found)


def test_eager_rows_come_first_and_compiled_ones_of_the_large_network_last():
    order = gpu.jobs(list(gpu.MODES))
    assert len(order) == len(set(order)) == 3 * 3 * (2 * 3 + 1)
    late = [
        (job.mode != "eager") + (job.mode != "eager" and job.network == "adm") for job in order
    ]
    assert late == sorted(late) and set(late) == {0, 1, 2}
    assert {job.precision for job in order[:27]} == set(gpu.PRECISIONS)


@pytest.mark.parametrize(("precision", "narrow"), [("float32", 0), ("bfloat16", 2)])
def test_perceptrons_compute_in_the_type_of_their_row(precision, narrow):
    players = gpu.density(precision, True)
    found = [m for p in (players.student, players.fake) for m in p.modules()]
    assert sum(isinstance(m, Precision) for m in found) == narrow


def test_the_anchor_is_compiled_too():
    objective = gpu.anchored(gpu.density("float32", True), LogUniform(0.1, 6.0))
    gpu.compile_all(objective, "default")
    for network in (objective.generator, objective.fake, objective.anchor):
        (inner,) = backbones(network)
        assert inner._compiled_call_impl is not None


def test_a_compiled_row_starts_only_where_the_longest_compilation_fits(tmp_path, monkeypatch):
    clock, asked = [0.0], []

    def measured(job, tiny, device):
        asked.append(job)
        took = 0.0 if job.mode == "eager" else 150.0 if job.network == "adm" else 20.0
        clock[0] += took
        return of(job, took)

    monkeypatch.setattr(gpu, "measured", measured)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    chosen = gpu.argparse.Namespace(
        out=tmp_path / "a.json", tiny=False, modes=["eager", "compiled"], minutes=6.0
    )
    content = {"rows": [], "left_out": []}
    gpu.measure(chosen, content, torch.device("cpu"))
    # Twelve of the small networks take 240 s; 120 s are left, and the large one may take 160.
    assert sum(job.mode == "compiled" for job in asked) == 12 and clock[0] <= 360
    assert len(content["left_out"]) == 6
    assert all(job["network"] == "adm" for job in content["left_out"])
    seen = [{**gpu.Job("adm", "tf32", "diff_instruct", "graphs")._asdict(), "warm_seconds": 90.0}]
    assert gpu.longest_compile(seen, "adm") == 90.0  # its own, once there is one
    assert gpu.longest_compile([], "adm") == 160.0 and gpu.longest_compile([], "mog40") == 0.0


def test_a_row_that_does_not_fit_the_memory_is_told_and_the_others_are_measured(
    tmp_path, monkeypatch, capsys
):
    def trained(players, method, mode, device, seconds):
        if players.rows == gpu.TINY_ROWS["adm"] and method == "diff_instruct":
            raise torch.OutOfMemoryError("too much")
        return {**TRAINED, "warm_seconds": 1.0, "allocated_mib": 4.0}

    monkeypatch.setattr(gpu, "train", trained)
    monkeypatch.setattr(gpu, "sample", lambda *_: SAMPLED)
    out = tmp_path / "card.json"
    assert run(out, "--modes", "eager") == 0
    rows = json.loads(out.read_text())["rows"]
    failed = [row for row in rows if "failed" in row]
    assert len(rows) == 27 and len(failed) == 6  # of the digits and the large network
    assert failed[0]["failed"] == "out of memory" and "free_mib" in failed[0]
    assert "adm, float32, diff_instruct, eager, out of memory" in capsys.readouterr().out
    assert tables.card_steps({"rows": rows}).count("diff_instruct") == 3
    # Another start tries them again, and nothing else.
    asked = []
    monkeypatch.setattr(gpu, "measured", lambda job, *_: asked.append(job) or of(job))
    assert run(out, "--modes", "eager") == 0
    assert asked == [gpu.key_of(row) for row in failed]
    assert "21 rows of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"device": "NVIDIA H100"}, "device NVIDIA H100, here a processor"),
        ({"tiny": False}, "tiny False, here True"),
        ({"versions": {"torch": "1.0"}}, "torch 1.0, here"),
        ({"rows": None}, "holds no rows of this script"),
    ],
)
def test_a_file_of_another_card_stays_as_it_is(changes, told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "measured", lambda job, *_: of(job))
    out = tmp_path / "card.json"
    assert run(out) == 0
    out.write_text(json.dumps(json.loads(out.read_text()) | changes))
    before = out.read_text()
    capsys.readouterr()
    assert run(out) == 2 and out.read_text() == before
    said = capsys.readouterr().out
    assert told in said and "give another file with --out" in said and said.count("\n") == 1
