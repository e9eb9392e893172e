"""`vardiu sample --guide`, `vardiu evaluate --guide` and `vardiu guide`."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from vardiu.cli.main import main
from vardiu.metrics import Metric
from vardiu.runs.task import problem_of, task_from_preset
from vardiu.storage.run_folder import RunFolder
from vardiu.students import FlowMap


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("guided")


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


def finished(path, student_of):
    """Returns the folder of a run that trained nothing, and shipped a student of MoG-40."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = task_from_preset("distill", "mog40-dmd2")
        row = dataclasses.replace(task.problem, width=16, depth=1, calls=3)
        task = dataclasses.replace(task, problem=row)
        problem, run = problem_of(task), RunFolder(path)
        run.open(task.to_mapping())
        problem.save(student_of(problem), run, {})
    provenance = {"sha256": {}, "seed": 0}
    run.file("provenance.json").write_text(json.dumps(provenance))
    cost = dict.fromkeys(("seconds", "teacher_calls", "teacher_rows", "student_updates"), 1)
    metric = Metric("mmd2", 1.0, None, 100, False).row()
    run.finish({"metrics": [metric], "reference": {"name": "none", "metrics": []}, "cost": cost})
    return path


@pytest.fixture(scope="module")
def run(folder):
    """A student of three calls with fresh noise between them."""
    return finished(folder / "few", lambda problem: problem.networks.student())


@pytest.fixture(scope="module")
def flow_map(folder):
    """A flow map of two calls, which knows any other number."""
    return finished(folder / "map", lambda problem: FlowMap.of(problem.networks.denoiser(), 2))


def samples(path):
    return np.load(path)["x"]


def test_a_guide_changes_samples_and_says_what_it_cost(run, capsys):
    words = ["sample", str(run), "--num", "50"]
    assert main(words) == 0 and main(["cite", str(run)]) == 0
    assert "park2024" not in capsys.readouterr().out
    plain = samples(run / "samples-50-seed0.npz")
    assert not (run / "samples-50-seed0.json").exists()
    assert main([*words, "--guide", "teacher", "--guide-strength", "0"]) == 0
    assert "3 of the student, 0 of the guide; evaluated rows: 150 and 0" in capsys.readouterr().out
    assert np.array_equal(samples(run / "samples-50-seed0-guided0-stepsnone.npz"), plain)
    assert main([*words, "--guide", "teacher", "--guide-steps", "all"]) == 0
    assert (
        "3 of the student, 2 of the guide; evaluated rows: 150 and 100" in capsys.readouterr().out
    )
    guided = samples(run / "samples-50-seed0-guided0.2-steps0-1.npz")
    assert guided.shape == plain.shape and not np.allclose(guided, plain)
    about = json.loads((run / "samples-50-seed0-guided0.2-steps0-1.json").read_text())
    assert about["calls"] == {"student": 3, "guide": 2, "student_rows": 150, "guide_rows": 100}
    assert about["guide"]["strength"] == 0.2 and about["guide"]["steps"] == [0, 1]
    assert about["guide"]["noise"] == "shared" and len(about["guide"]["hash"]) == 12
    assert about["command"][:2] == ["vardiu", "sample"] and about["seed"] == 0
    for options in (["--guide-noise", "fresh"], ["--guide-level", "same", "--guide-steps", "1"]):
        assert main([*words, "--guide", "teacher", *options]) == 0
    fresh = samples(run / "samples-50-seed0-guided0.2-steps0-fresh.npz")
    same = samples(run / "samples-50-seed0-guided0.2-steps1-same.npz")
    assert not np.allclose(fresh, guided) and not np.allclose(same, plain)
    assert main(["cite", str(run)]) == 0
    assert "Inference-Time Diffusion Model Distillation" in capsys.readouterr().out


def test_a_guided_student_is_measured(run, flow_map):
    words = ["--num", "200", "--guide", "teacher", "--guide-strength", "0.5"]
    assert main(["evaluate", str(run), *words]) == 0
    found = json.loads((run / "evaluation-200-seed0-guided0.5-steps0.json").read_text())
    assert found["calls"]["student"] == 3 and found["calls"]["guide"] == 1
    assert found["calls"]["student_rows"] == 3 * found["calls"]["guide_rows"] > 0
    assert main(["evaluate", str(flow_map), *words, "--calls", "4", "--guide-steps", "1"]) == 0
    found = json.loads(
        (flow_map / "evaluation-200-seed0-calls4-guided0.5-steps1.json").read_text()
    )
    assert found["calls"]["student"] == 4 and found["guide"]["steps"] == [1]


def test_another_teacher_guides_by_its_folder_or_its_function(run, folder, capsys):
    code = folder / "own.py"
    code.write_text(
        "import torch\n"
        "from vardiu.denoisers.exact import GaussianDenoiser\n"
        "def narrow():\n"
        "    return GaussianDenoiser(torch.zeros(2), torch.full((2,), 4.0))\n"
        "def wide():\n"
        "    return GaussianDenoiser(torch.zeros(3), torch.ones(3))\n"
        "def low():\n"
        "    return GaussianDenoiser(torch.zeros(2), torch.ones(2), sigma_max=1.0)\n"
    )
    words = ["sample", str(run), "--num", "2000", "--guide-strength", "1", "--guide"]
    assert (
        main([*words, f"{code}:narrow", "--guide-steps", "all", "--out", str(folder / "a.npz")])
        == 0
    )
    about = json.loads((folder / "a.json").read_text())
    assert about["guide"]["teacher"] == f"{code}:narrow"
    capsys.readouterr()
    before = sorted(folder.iterdir())
    for name, told in (("wide", "of samples of shape (3,)"), ("low", "the range of its teacher")):
        assert main([*words, f"{code}:{name}", "--out", str(folder / "b.npz")]) == 2
        told_line = capsys.readouterr().err
        assert told in told_line and len(told_line.splitlines()) == 1
    assert main([*words, str(folder / "nowhere"), "--out", str(folder / "b.npz")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main([*words, f"{code}:narrow", "--out", str(folder / "a.npz")]) == 2
    assert "exists, and is not written over" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "words, told",
    [
        (["--guide-strength", "0.1"], "--guide-strength is of a guide, and there is none"),
        (["--guide", "teacher", "--guide-strength", "-0.1"], "within [0, 1], got -0.1"),
        (["--guide", "teacher", "--guide-strength", "nan"], "within [0, 1], got nan"),
        (["--guide", "teacher", "--guide-steps", "2"], "step 2 cannot be guided"),
        (["--guide", "teacher", "--guide-steps", "0,x"], "--guide-steps must be whole numbers"),
        (["--guide", "teacher", "--guide-steps", "0,0"], "names a step twice"),
        (["--guide", "teacher", "--guide-noise", "none"], "invalid choice"),
    ],
)
def test_a_guide_that_cannot_be_is_refused_in_one_line(run, words, told, capsys):
    before = sorted(run.iterdir())
    for command in ("sample", "evaluate"):
        assert main([command, str(run), *words]) == 2
        line = capsys.readouterr().err
        assert told in line and len(line.splitlines()) == 1
    assert sorted(run.iterdir()) == before


def test_a_student_of_one_call_is_not_guided(flow_map, capsys):
    for command in ("sample", "evaluate", "guide"):
        assert main([command, str(flow_map), "--calls", "1", "--guide", "teacher"]) == 2
        line = capsys.readouterr().err
        assert "a student of one call has no step between two levels to guide" in line
        assert len(line.splitlines()) == 1


def test_a_sweep_is_drawn_goes_on_where_it_stopped_and_writes_over_nothing(flow_map, capsys):
    words = ["guide", str(flow_map), "--num", "200", "--strengths", "0.3,0.1"]
    words += ["--noises", "shared,fresh"]
    assert main(words) == 0
    told = capsys.readouterr().out
    out = flow_map / "guide-200-seed0"
    assert (out / "guide.png").stat().st_size > 5_000 and "no guide, 3 calls" in told
    points = json.loads((out / "guide.json").read_text())["points"]
    plain, guided = points[:3], points[3:]
    assert [p["calls"] for p in plain] == [2, 3, 4] and {p["calls"] for p in guided} == {3}
    assert {(p["student_calls"], p["guide_calls"]) for p in guided} == {(2, 1)}
    kinds = [("shared", 0.1), ("shared", 0.3), ("fresh", 0.1), ("fresh", 0.3)]
    assert [(p["noise"], p["strength"]) for p in guided] == kinds
    for point in points:
        assert {"mmd2", "residual"} <= {metric["name"] for metric in point["metrics"]}
        assert all(metric["error"] is not None for metric in point["metrics"])
    by = {(p["calls"], p["noise"], p["strength"]): p["metrics"] for p in points}
    assert by[3, "", None] != by[3, "shared", 0.1] != by[3, "fresh", 0.1]

    # A point was being written when the machine stopped.
    lines = (out / "points.jsonl").read_text().splitlines()
    (out / "points.jsonl").write_text("\n".join([*lines[:4], lines[4][:40]]))
    (out / "guide.png").unlink()
    assert main(words) == 0
    again = json.loads((out / "guide.json").read_text())["points"]
    assert [p["metrics"] for p in again] == [p["metrics"] for p in points]
    assert [p["seconds"] for p in again][:4] == [p["seconds"] for p in points][:4]
    capsys.readouterr()
    before = (out / "guide.json").read_bytes()
    assert main([*words[:3], "300", *words[4:], "--out", str(out)]) == 2
    line = capsys.readouterr().err
    assert "holds another sweep: num is another one" in line and len(line.splitlines()) == 1
    assert (out / "guide.json").read_bytes() == before
    for given, told in (
        (["--strengths", "0,0.1"], "--strengths must be above 0 and at most 1"),
        (["--strengths", "a"], "--strengths must be numbers"),
        (["--strengths", "0.1,0.1"], "names a strength twice"),
        (["--noises", "shard"], "shared"),
        (["--num", "3"], "--num must"),
        (["--guide-steps", "1"], "step 1 cannot be guided"),
    ):
        assert main([*words[:2], *given]) == 2
        line = capsys.readouterr().err
        assert told in line and len(line.splitlines()) == 1
