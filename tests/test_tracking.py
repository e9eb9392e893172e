"""What a run tells other programs: `events.jsonl` against its schema, and trackers."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import re
import socket
import sqlite3
import sys
import types
from importlib import resources
from pathlib import Path

import pytest

from vardiu.cli.main import main
from vardiu.cli.options import parse_request
from vardiu.errors import ConfigError
from vardiu.monitoring.alarms import Alarm
from vardiu.runs import events, tracking
from vardiu.runs.distill import distill
from vardiu.runs.event_log import EventLog, record_of
from vardiu.runs.execute import StageExecution
from vardiu.runs.tracking import TRACKERS, Tracking, trackers_of
from vardiu.storage.run_folder import RunFolder

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads(resources.files("vardiu.runs").joinpath("events.schema.json").read_text())
FIELDS = {row["properties"]["event"]["const"]: row["required"] for row in SCHEMA["oneOf"]}


def check(record: dict) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(SCHEMA).validate(record)


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 200)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.samples", 300)
    monkeypatch.chdir(tmp_path)


SMALL = ["distill", "mog40", "--steps", "8", "--batch", "16", "--reports", "4", "--threads", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of eight steps that TensorBoard heard of, where it is installed."""
    folder = tmp_path_factory.mktemp("tracked") / "run"
    has = importlib.util.find_spec("tensorboard") is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vardiu.problems.densities.DensityScores.quick", 200)
        patch.setattr("vardiu.problems.densities.DensityScores.samples", 300)
        words = ["--out", str(folder), *(["--track", "tensorboard"] if has else [])]
        assert main([*SMALL, "--evaluations", "1", *words]) == 0
    return folder


def test_a_real_run_keeps_events_of_the_schema(finished):
    kept = records(finished)
    for record in kept:
        check(record)
        assert set(record) == set(FIELDS[record["event"]])
    names = [record["event"] for record in kept]
    assert names[0] == "run_started" and names[-1] == "run_finished"
    assert {"stage_started", "reported", "saved", "stage_finished", "shipped"} <= set(names)
    rows = RunFolder(finished).metrics()
    told = [(r["stage"], r["step"]) for r in kept if r["event"] == "reported"]
    assert told == [(row["stage"], row["step"]) for row in rows]
    again = [*SMALL, "--evaluations", "1", "--out", str(finished)]
    assert main(again) == 0
    assert records(finished) == kept  # a finished run does nothing


EVERY = [
    events.DataRead(("3 images",)),
    events.AlarmRaised("a", Alarm("collapse", 4, "few modes", "lower --lr")),
    events.ArtefactProgress("pairs", 1, 2),
    events.StopAsked("step"),
    events.RunInterrupted("stopped"),
    events.RunFailed(ValueError("x" * 1_000)),
    events.TeacherProbed([]),
    events.RunFinished(Path("run"), events.Results([], [], "", {})),
]


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type(event).__name__)
def test_every_record_is_of_the_schema(event):
    name, fields = record_of(event)
    record = {"event": name, "time": 1.5, **fields}
    check(record)
    assert set(record) == set(FIELDS[name])


@pytest.mark.parametrize(
    "record",
    [
        {"event": "saved", "time": 1.0, "stage": "a"},
        {"event": "saved", "time": "now", "stage": "a", "step": 1},
        {"event": "other", "time": 1.0},
    ],
)
def test_the_schema_refuses(record):
    jsonschema = pytest.importorskip("jsonschema")
    with pytest.raises(jsonschema.ValidationError):
        check(record)


def test_the_page_shows_the_schema():
    page = (ROOT / "docs/usage/events.md").read_text()
    for name, fields in FIELDS.items():
        (row,) = [line for line in page.splitlines() if f"`{name}`" in line and "|" in line[:2]]
        assert all(f"`{field}`" in row for field in fields if field not in ("event", "time"))


def test_a_failed_start_leaves_no_events(capsys):
    assert main([*SMALL, "--batch", "0", "--out", "run"]) == 2
    assert not Path("run").exists()


def test_events_of_a_cut_line_are_mended(tmp_path):
    folder = RunFolder(tmp_path)
    log = EventLog(folder, clock=lambda: 2.0)
    log(events.StopAsked("step"))
    with folder.file("events.jsonl").open("a") as file:
        file.write('{"event": "sav')
    log(events.RunInterrupted("stopped"))
    assert [r["event"] for r in records(tmp_path)] == ["stop_asked", "run_interrupted"]


# ---------------------------------------------------------------- trackers


class Kept:
    """A tracker that keeps its points on the disk, as one of another maker does."""

    def __init__(self, folder, name, config, identity):
        self.path, self.identity = folder.file("kept.jsonl"), identity or "one"
        self.config = config

    def log(self, values, step):
        with self.path.open("a") as file:
            file.write(json.dumps([step, sorted(values)]) + "\n")

    def close(self):
        pass


def points(folder: Path) -> list[int]:
    return [json.loads(line)[0] for line in (folder / "kept.jsonl").read_text().splitlines()]


class Killed(BaseException):
    """Stands for a process that ends at once: nothing is told of it."""


def test_a_killed_run_that_goes_on_doubles_no_point(monkeypatch):
    monkeypatch.setitem(tracking.TRACKERS, "kept", Kept)
    request = parse_request("distill", [*SMALL[1:], "--evaluations", "1", "--save-every", "1e6"])
    step = StageExecution.tell_step

    def killed(self, number):
        if number == 4 and self.trainer.step == 4:
            self.store.save(4, self.trainer.state_dict(self.batches))
        step(self, number)
        if number == 6:
            raise Killed

    monkeypatch.setattr(StageExecution, "tell_step", killed)
    tracker = Tracking("kept")
    monkeypatch.setattr(Tracking, "close", lambda self: None)
    with pytest.raises(Killed):
        distill(request.task, "run", [tracker])
    assert points(Path("run")) == [2, 4, 6]
    monkeypatch.setattr(StageExecution, "tell_step", step)
    distill(request.task, "run", [Tracking("kept")])
    rows = RunFolder("run").metrics()
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert points(Path("run")) == [2, 4, 6, 8]


def test_rows_that_were_not_sent_are_sent_when_a_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.TRACKERS, "kept", Kept)
    folder = RunFolder(tmp_path)
    folder.file("config.yaml").write_text("command: distill\n")
    for step in (2, 4):
        folder.log({"stage": "a", "step": step, "loss": 1.0, "bad": float("nan"), "note": "x"})
    tracker = Tracking("kept")
    tracker(events.RunStarted("distill", "p", "m", tmp_path))
    tracker(events.StageStarted("a", 4, 4, 1, 2))
    tracker(events.StageFinished("a", 4))
    tracker(events.StageStarted("b", 0, 4, 1, 2, index=2))
    tracker(events.Reported("b", 3, 4, 3, 1.0, 0, {"loss": 2.0}))
    tracker(events.StepTaken("b", 3, 4))
    assert points(tmp_path) == [2, 4, 7]
    names = json.loads((tmp_path / "kept.jsonl").read_text().splitlines()[0])[1]
    assert names == ["loss"]


def test_tensorboard_reads_the_points_of_a_run(finished):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(finished / "tensorboard")).Reload()
    rows = RunFolder(finished).metrics()
    scalars = found.Scalars("seconds")
    assert [point.step for point in scalars] == [row["step"] for row in rows]
    assert [point.value for point in scalars] == pytest.approx([r["seconds"] for r in rows])
    assert "metric/mmd2" in found.Tags()["scalars"]


def recorded(name: str, calls: list) -> types.ModuleType:
    """A module of a tracker that keeps what it was asked."""
    module = types.ModuleType(name)
    run = types.SimpleNamespace(
        id="abc",
        log=lambda values, step: calls.append(("log", step, values)),
        finish=lambda: calls.append(("finish",)),
    )
    module.init = lambda **words: calls.append(("init", words)) or run
    module.log, module.finish = run.log, run.finish
    return module


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_is_offline_and_found_again(name, tmp_path, monkeypatch):
    calls: list = []
    monkeypatch.setitem(sys.modules, name, recorded(name, calls))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = RunFolder(tmp_path)
    first = TRACKERS[name](folder, "run", {"a": 1}, "")
    first.log({"loss": 1.0}, 3)
    first.close()
    TRACKERS[name](folder, "run", {"a": 1}, first.identity)
    (_, words), log, finish, (_, again) = calls
    assert log == ("log", 3, {"loss": 1.0}) and finish == ("finish",)
    assert words["project"] == "vardiu" and words["resume"] == again["resume"] == "allow"
    if name == "wandb":
        assert words["mode"] == "offline" and words["id"] is None and again["id"] == "abc"
        monkeypatch.setenv("WANDB_MODE", "online")
        TRACKERS[name](folder, "run", {}, "")
        assert calls[-1][1]["mode"] == "online"
    else:
        assert words["name"] == again["name"] == first.identity != ""


def test_mlflow_writes_into_the_runs_folder(tmp_path, monkeypatch):
    calls: list = []

    class Client:
        def __init__(self, tracking_uri):
            calls.append(("uri", tracking_uri))

        def __getattr__(self, name):
            def call(*words, **named):
                calls.append((name, *words, named))
                info = types.SimpleNamespace(run_id="r1")
                answers = {"create_run": types.SimpleNamespace(info=info)}
                return answers.get(name)

            return call

    module = types.ModuleType("mlflow")
    module.MlflowClient = Client
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = RunFolder(tmp_path)
    tracker = TRACKERS["mlflow"](folder, "run", {"run": {"seed": 1}}, "")
    assert tracker.identity == "r1"
    assert calls[0] == ("uri", f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}")
    assert ("log_param", "r1", "run.seed", "1", {}) in calls
    tracker.log({"loss": 1.0}, 3)
    assert calls[-1] == ("log_metric", "r1", "loss", 1.0, {"step": 3})
    before = len(calls)
    TRACKERS["mlflow"](folder, "run", {}, "r1")
    assert len(calls) == before + 1  # nothing is made anew


def points_of(name: str, run: Path, local: Path) -> list[tuple[int, float]]:
    """What a tracker kept of the seconds of a run's rows."""
    if name == "mlflow":
        client = importlib.import_module("mlflow").MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
        identity = json.loads((run / "tracking.json").read_text())["mlflow"]["id"]
        kept = client.get_metric_history(identity, "seconds")
        return [(point.step, point.value) for point in kept]
    if name == "trackio":
        (base,) = local.rglob("vardiu.db")
        with contextlib.closing(sqlite3.connect(base)) as open_base:
            kept = open_base.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
        return [(step, json.loads(values)["seconds"]) for step, values in kept]
    # W&B's file has no public reader: a value in it is a text, after its name and its length.
    (log,) = (run / "wandb").glob("offline-run-*/*.wandb")
    found = re.findall(rb"\x07seconds\x82\x01.([0-9.e-]+)", log.read_bytes(), re.DOTALL)
    steps = [row["step"] for row in RunFolder(run).metrics()]
    # A row is there twice: in the history, and in the summary that follows it.
    return list(zip(steps, map(float, dict.fromkeys(found)), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_real_tracker_keeps_each_row_without_a_network(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "local"))  # read when it is imported
    pytest.importorskip(name)
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)

    def never(*words: object, **named: object) -> None:
        raise AssertionError(f"asks another host: {words}")

    real = socket.getaddrinfo
    local = {"127.0.0.1", "localhost", "0.0.0.0", "::1", None}
    monkeypatch.setattr(
        "socket.getaddrinfo",
        lambda host, *rest, **named: (real if host in local else never)(host, *rest, **named),
    )
    run = tmp_path / "run"
    words = [*SMALL, "--evaluations", "1", "--out", str(run), "--track", name]
    assert main(words) == 0
    rows = [(row["step"], row["seconds"]) for row in RunFolder(run).metrics()]
    kept = points_of(name, run, tmp_path)
    assert [step for step, _ in kept] == [step for step, _ in rows] and len(rows) > 1
    assert [v for _, v in kept] == pytest.approx([v for _, v in rows])


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_an_absent_package_is_one_line_that_names_the_extra(name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    assert main([*SMALL, "--out", "run", "--track", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name} is needed here" in line and f"vardiu[{name}]" in line
    assert not Path("run").exists()
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(rf"^{name} = \[", project, re.MULTILINE)


def test_an_unknown_tracker_is_offered_others():
    with pytest.raises(ConfigError, match="did you mean tensorboard"):
        trackers_of(["tensorbord"])
