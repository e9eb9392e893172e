"""The commands, as a user types them."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from processes import Command

from vardiu.cli.main import COMMANDS, main
from vardiu.errors import ConfigError, nearest
from vardiu.methods import METHODS
from vardiu.methods.vardiu import VarDiU
from vardiu.nn import has_bfloat16
from vardiu.runs.presets import PRESETS, TEACHERS
from vardiu.runs.task import RunSettings, load_task, task_from_preset
from vardiu.settings.fields import (
    DensitySettings,
    DigitsSettings,
    ImageSettings,
    LevelSettings,
)
from vardiu.settings.parse import from_mapping
from vardiu.storage.checkpoints import Checkpoints, load_state
from vardiu.storage.run_folder import RunFolder

ROOT = Path(__file__).parent.parent
QUICK = ["--steps", "40", "--batch", "32", "--samples", "500", "--width", "16", "--threads", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 100)


def distill(*words: str) -> int:
    return main(["distill", "mog40", *QUICK, *words])


def test_help_does_not_import_torch():
    code = (
        "import sys, vardiu.cli.main as c; c.main(['--help']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_every_command_keeps_freed_memory_for_its_next_batch(monkeypatch, capsys):
    kept = []
    monkeypatch.setattr("vardiu.runs.allocator.keep_freed_memory", lambda: kept.append(1))
    assert main(["list"]) == 0
    assert main(["evaluate", "nothing-here"]) == 2
    assert len(kept) == 2


@pytest.mark.drawn
def test_a_run_from_the_first_command_to_the_last(capsys):
    assert distill() == 0
    told = capsys.readouterr().out
    run = Path("runs/mog40")
    for name in ("samples.png", "report.html"):
        assert (run / name).stat().st_size > 5_000 and str(run / name) in told
    result = json.loads((run / "result.json").read_text())
    assert result["cost"]["student_updates"] == 40 and result["cost"]["teacher_calls"] >= 40
    names = {metric["name"] for metric in result["metrics"]}
    assert {"mmd2", "log_density", "modes"} <= names
    assert all(metric["error"] is not None for metric in result["metrics"])
    about = json.loads((run / "provenance.json").read_text())
    assert about["seed"] == 0 and about["sha256"]["teacher"] and about["command"][0] == "vardiu"
    assert about["machine"]["computed_in"] == ("bfloat16" if has_bfloat16("cpu") else "float32")
    rows = RunFolder(run).metrics()
    assert rows[-1]["step"] == 40 and any(
        k.startswith("bound/bound/") or k.startswith("bound/") for k in rows[-1]
    )

    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    assert distill() == 0
    assert "is finished; nothing to do" in capsys.readouterr().out
    after = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    assert after.items() <= before.items()

    assert main(["sample", str(run), "--num", "30", "--seed", "3"]) == 0
    x = np.load(run / "samples-30-seed3.npz")["x"]
    assert x.shape == (30, 2) and np.isfinite(x).all()
    assert main(["evaluate", str(run), "--num", "400"]) == 0
    measured = json.loads((run / "evaluation-400-seed0.json").read_text())
    assert {m["n"] for m in measured["metrics"]} == {400}
    assert main(["cite", str(run)]) == 0
    cited = capsys.readouterr().out
    assert "wang2025vardiu" in cited and "yin2018sivi" in cited and "durkan2019nsf" not in cited


def test_a_flow_map_is_sampled_and_measured_with_any_number_of_calls(capsys):
    words = ["--steps", "4", "--batch", "16", "--samples", "200", "--evaluations", "1"]
    words += ["--width", "16", "--depth", "1", "--calls", "2", "--device", "cpu"]
    assert main(["distill", "mog40-freeflow", *words]) == 0
    run = "runs/mog40-freeflow"
    found = {}
    for calls in ("", "1", "2", "3"):
        told = ["--calls", calls] if calls else []
        assert main(["sample", run, "--num", "50", *told]) == 0
        of = f"-calls{calls}" if calls else ""
        found[calls] = np.load(f"{run}/samples-50-seed0{of}.npz")["x"]
        assert main(["evaluate", run, "--num", "200", *told]) == 0
        measured = json.loads(Path(f"{run}/evaluation-200-seed0{of}.json").read_text())
        assert {m["n"] for m in measured["metrics"]} == {200}
    assert np.array_equal(found[""], found["2"])  # the number that it was trained with
    assert not np.allclose(found["1"], found["2"]) and not np.allclose(found["3"], found["2"])
    assert distill() == 0
    capsys.readouterr()
    for command in ("sample", "evaluate"):
        assert main([command, "runs/mog40", "--calls", "2"]) == 2
        assert "makes a sample in 1 call and no other number, got 2" in told_in_one_line(capsys)
        assert main([command, run, "--guidance", "2"]) == 2
        assert "--guidance: this student is told no guidance" in told_in_one_line(capsys)
        assert main([command, run, "--calls", "0"]) == 2
        assert "--calls must be at least 1, got 0" in told_in_one_line(capsys)


def told_in_one_line(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_the_saved_settings_give_the_same_student():
    assert distill() == 0
    assert main(["distill", "--config", "runs/mog40/config.yaml", "--out", "again"]) == 0
    a, b = (
        Path(run, "student", "model.safetensors").read_bytes() for run in ("runs/mog40", "again")
    )
    assert a == b


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """SIGKILL at some instant, the same command again: the student of a run that was not killed."""
    words = ["distill", "mog40", *QUICK, "--steps", "120", "--save-every", "0"]
    words += ["--reports", "6", "--evaluations", "2"]
    step = VarDiU.loss

    def slowly(self, drawn, at):  # a signal comes while it trains
        time.sleep(0.01)
        return step(self, drawn, at)

    def start(out: str) -> Command:
        return Command([*words, "--out", out], tmp_path / f"{out}.log")

    monkeypatch.setattr(VarDiU, "loss", slowly)
    killed, store = start("killed"), Checkpoints("killed/checkpoints/0-vardiu")
    deadline = time.monotonic() + 120
    while not store.steps() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    assert 0 < store.steps()[-1] < 120
    stopped = start("killed")
    while stopped.poll() is None and store.steps()[-1] < 70 and time.monotonic() < deadline:
        time.sleep(0.01)
    stopped.kill(signal.SIGTERM)
    status, told = stopped.wait()
    assert status == 130 and "To go on: vardiu distill mog40" in told
    monkeypatch.setattr(VarDiU, "loss", step)
    status, told = start("killed").wait()
    assert status == 0 and "going on with vardiu from step" in told, told
    assert main([*words, "--out", "whole"]) == 0
    a, b = (Path(r, "student", "model.safetensors").read_bytes() for r in ("whole", "killed"))
    assert a == b
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in RunFolder(r).metrics()]
        for r in ("whole", "killed")
    ]
    assert rows[0] == rows[1]


def test_a_changed_checkpoint_is_skipped_and_said(capsys, monkeypatch):
    real = VarDiU.loss

    def broken(self, batch, step):
        if step == 25:
            raise KeyboardInterrupt
        return real(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(VarDiU, "loss", broken)
        assert distill("--save-every", "0") == 130
    store = Checkpoints("runs/mog40/checkpoints/0-vardiu")
    assert store.steps() == [24, 25]
    path = store.path(25) / "networks.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert distill("--save-every", "0") == 0
    told = "".join(capsys.readouterr().out.split())
    assert "networks.safetensorswaschanged" in told and "goingonwithvardiufromstep24" in told


def test_a_loss_that_turns_nan_stops_and_keeps_the_last_good_checkpoint(capsys, monkeypatch):
    real = VarDiU.loss

    def broken(self, batch, step):
        loss = real(self, batch, step)
        return loss._replace(value=loss.value * float("nan")) if step == 25 else loss

    monkeypatch.setattr(VarDiU, "loss", broken)
    assert distill("--save-every", "0") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "step 25, phase 'bound': its loss is nan" in told
        and "last checkpoint is kept, of step 25. " in told
    )
    store = Checkpoints("runs/mog40/checkpoints/0-vardiu")
    state = load_state(store.path(store.steps()[-1]))
    assert state["trainer"]["step"] == 25
    assert all(bool(t.isfinite().all()) for t in state["networks"].values())
    # Gone on with it is kept as well; without one nothing else is said.
    assert distill("--save-every", "0") == 1
    assert "last checkpoint is kept, of step 25. " in " ".join(capsys.readouterr().err.split())
    assert distill("--save-every", "1000", "--out", "other") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "no checkpoint of this stage was written yet" in told and "is kept" not in told


def test_dry_run_writes_nothing_and_prints_the_settings(capsys):
    assert distill("--dry-run", "--lr", "0.5", "--levels.sigma-min", "0.3") == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["method"]["lr"] == 0.5 and values["method"]["levels"]["sigma_min"] == 0.3
    assert not Path("runs").exists()


def test_another_method_on_the_same_problem():
    words = ["--method", "diff_instruct", "--ratio", "2", "--steps", "10"]
    assert main(["distill", "mog40", *QUICK, *words]) == 0
    result = RunFolder("runs/mog40-diff_instruct").result()
    assert result["cost"]["student_updates"] == 10 and result["cost"]["steps"] == 20
    assert main(["distill", "mog40-gaussian", *QUICK]) == 0
    runs = ["runs/mog40-diff_instruct", "runs/mog40-gaussian"]
    assert main(["compare", *runs, "--out", "both"]) == 0
    page = Path("both/comparison.html").read_text()
    assert all(run in page for run in runs)
    assert main(["compare", *runs, "--metric", "fid"]) == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["distil"], "unknown command 'distil'; did you mean distill"),
        (["distill", "mgo40"], "unknown preset 'mgo40'; did you mean mog40"),
        (
            ["distill", "mog40", "--method", "vardui"],
            "unknown method 'vardui'; did you mean vardiu or redif?",
        ),
        (
            ["distill", "rnig8"],
            "unknown preset 'rnig8'; did you mean ring8? vardiu list shows all",
        ),
        (["teach", "zzz"], "unknown preset 'zzz'; vardiu list shows all"),
        (["distill", "gone.parquet"], "there is no file gone.parquet: a preset stands here"),
        (["teach", "data/gone.tar"], "there is no file data/gone.tar: a preset stands here"),
        (["distill", "a" * 5_000], f"unknown preset '{'a' * 60}...'; vardiu list shows all"),
        (["distill", "mog40", "--device", "tpu", "--dry-run"], "there is no such device; take"),
        (
            ["distill", "mog40", "--seed", "99999999999999999999"],
            "run.seed must be at most 4,294,967,295, got 99999999999999999999",
        ),
        (["distill", "mog40", "--seed", "1" + "0" * 400], "at most 4,294,967,295, got 1000000"),
        (["distill", "."], ". is a folder: a preset stands here (vardiu list shows all), or a"),
        (["distill", "/dev/null"], "/dev/null is no table of points: a preset stands here"),
        (["teach", "."], "images are given with vardiu teach patches --data"),
        (["distill"], "which preset? one of: checkerboard"),
        (
            ["distill", "mog40", "--levels.sigma-min", "30"],
            "levels.sigma_min must be positive and",
        ),
        (["distill", "mog40", "--name", "ring9"], "unknown density 'ring9'; did you mean ring8?"),
        (["distill", "mog40", "--steps", "0"], "steps must be at least 1, got 0"),
        (["distill", "mog40", "--device", "gpu"], "--device gpu: there is no GPU here"),
        (["distill", "--config", "none.yaml"], "none.yaml cannot be read: No such file"),
        (["distill", "digits", "--teacher-run", "none"], "there is no teacher in none: train one"),
        (["sample", "nowhere"], "nowhere holds no run"),
        (["cite"], "the following arguments are required: run"),
    ],
)
def test_wrong_input_ends_in_one_clear_line_and_nothing_is_written(words, message, capsys):
    try:
        assert main(words) == 2
    except SystemExit as stop:  # the parser's own errors
        assert stop.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert message in told and "Traceback" not in told
    left = [p for p in Path(".").rglob("*") if p.is_file() and p.name != ".lock"]
    assert not left


def test_a_folder_of_another_run_is_refused(capsys):
    assert distill() == 0
    assert distill("--lr", "0.5") == 2
    told = capsys.readouterr().err
    assert "method.lr: there" in told and "--out" in told


@pytest.mark.parametrize(
    ("preset", "gone", "successor"),
    [
        ("mog40", {"posterior_lr": 1e-3}, "posterior_optimizer.lr"),
        ("mog40-diff-instruct", {"fake_lr": 1e-3, "anchor": 0.0}, "regression_weight"),
    ],
)
@pytest.mark.parametrize("command", ["sample", "evaluate", "export", "cite", "distill"])
def test_a_run_of_an_older_version_is_refused_in_one_line(
    capsys, tmp_path, command, preset, gone, successor
):
    config = task_from_preset("distill", preset).to_mapping()
    replaced = {f"{name}_optimizer" for name in ("posterior", "fake")} | {"regression_weight"}
    method = {k: v for k, v in config["method"].items() if k not in replaced}
    old = tmp_path / "old" / "config.yaml"
    old.parent.mkdir()
    old.write_text(yaml.safe_dump(json.loads(json.dumps({**config, "method": method | gone}))))
    words = {"export": [str(old.parent), "--to", "safetensors"], "distill": ["--config", str(old)]}
    assert main([command, *words.get(command, [str(old.parent)])]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "of an older version of vardiu" in line and f"is now method.{successor}" in line
    assert str(old) in line and "Start a new run in another folder" in line


def test_an_unfinished_run_is_not_sampled(capsys):
    run = RunFolder("runs/x")
    run.open(task_from_preset("distill", "mog40").to_mapping())
    assert main(["sample", "runs/x"]) == 2
    assert "runs/x is not finished: run `vardiu distill" in capsys.readouterr().err.replace(
        "\n", " "
    )


def test_settings_are_read_strictly():
    with pytest.raises(
        ConfigError, match="unknown setting 'levels.sigma_mim'; did you mean sigma_m"
    ):
        from_mapping(LevelSettings, {"sigma_mim": 1.0}, "levels.")
    with pytest.raises(ConfigError, match="levels.kind must be one of log_uniform"):
        from_mapping(LevelSettings, {"kind": "uniform"}, "levels.")
    with pytest.raises(ConfigError, match="levels.sigma_min must be of type float, got a"):
        from_mapping(LevelSettings, {"sigma_min": "a"}, "levels.")
    assert nearest("zzz", ["a"]) == "one of: a"


def test_every_preset_can_be_resolved_and_read_back(tmp_path):
    for command, table in (("distill", PRESETS), ("teach", TEACHERS)):
        for name in table:
            task = task_from_preset(command, name)
            path = tmp_path / "config.yaml"
            path.write_text(yaml.safe_dump(json.loads(json.dumps(task.to_mapping()))))
            assert load_task(path) == task


def test_options_have_names_of_their_own():
    """A method's, a problem's and a run's settings are options of one command."""
    for method in METHODS.values():
        for problem in (DensitySettings, DigitsSettings, ImageSettings):
            groups = (method.settings, problem, RunSettings)
            names = [field.name for group in groups for field in dataclasses.fields(group)]
            twice = {name for name in names if names.count(name) > 1}
            assert not twice, f"{method.name} on {problem.__name__}: {twice}"


def test_list_names_what_there_is(capsys):
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    for name in [*METHODS, *PRESETS, "checkerboard"]:
        assert name in told


@pytest.mark.parametrize("preset", ["mog40", "mog40-kde", "mixture"])
def test_probe_measures_a_teacher(preset, capsys):
    assert main(["probe", preset]) == 0
    assert "it denoises" in capsys.readouterr().out


def test_a_learned_teacher_is_taught_then_distilled(capsys):
    assert main(["teach", "ring9"]) == 2
    assert "unknown preset 'ring9'" in capsys.readouterr().err
    words = ["--steps", "300", "--width", "32", "--depth", "2", "--batch", "256", "--threads", "1"]
    assert main(["teach", "mog40", *words, "--samples", "300"]) == 0
    measured = RunFolder("runs/teach-mog40").result()["metrics"]
    assert measured and {metric["n"] for metric in measured} == {300}
    told = capsys.readouterr().out
    assert "a linear denoiser's" in told
    for option, level in (("--levels.sigma-max", "4000"), ("--levels.sigma-min", "1e-9")):
        assert main(["distill", "mog40-learned", *QUICK, option, level]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        name = option.removeprefix("--").replace("-", "_")
        assert f"{name} must be within" in line and "the levels of the teacher, got" in line
        assert not RunFolder("runs/mog40-learned").exists
    assert main(["distill", "mog40-learned", *QUICK]) == 0
    student = RunFolder("runs/mog40-learned")
    assert student.result()["cost"]["teacher_calls"] == 40
    assert any(k.startswith("negative_entropy/") for k in student.metrics()[-1])
