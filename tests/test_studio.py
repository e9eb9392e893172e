"""`vardiu studio`: who may ask, what runs look like from their files, and what is refused."""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import shutil
import socket
import struct
import zlib
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from vardiu.cli.main import main
from vardiu.cli.studio import is_loopback
from vardiu.errors import ConfigError, RunError
from vardiu.metrics.paired import paired
from vardiu.runs.snapshots import snapshots_of
from vardiu.storage.log_lines import LogLines
from vardiu.storage.run_folder import RunFolder
from vardiu.studio import library
from vardiu.studio.app import (
    Studio,
    adapter_of,
    application,
    as_json,
    bound,
    resuming,
)
from vardiu.studio.commands import words_of
from vardiu.studio.jobs import Jobs
from vardiu.studio.library import ROWS, Library, SeenRun
from vardiu.studio.series import pairs, series_of
from vardiu.studio.students import Students, finite
from vardiu.studio.tables import tables_of

TOKEN, HOST = "secret-token", "127.0.0.1:8321"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of the plane."""
    folder = tmp_path_factory.mktemp("studio") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vardiu.problems.densities.DensityScores.quick", 200)
        patch.setattr("vardiu.problems.densities.DensityScores.samples", 300)
        words = ["--steps", "8", "--batch", "16", "--reports", "4", "--evaluations", "2"]
        assert main(["distill", "mog40", *words, "--threads", "1", "--out", str(folder)]) == 0
    return folder


def no_student(folder):
    raise ConfigError("the teacher was not named: give --teacher")


def made(roots, scratch, load=no_student, teacher="") -> Studio:
    scratch.mkdir(exist_ok=True)
    return Studio(Library(roots), Students(load), Jobs(scratch), scratch, teacher, {})


def client_of(studio: Studio) -> TestClient:
    app = application(studio, TOKEN, [HOST, "localhost:8321"], "studio")
    client = TestClient(app, base_url=f"http://{HOST}", follow_redirects=False)
    client.headers["X-Studio-Token"] = TOKEN
    client.cookies.set("studio", TOKEN)
    return client


def fake_run(folder: Path, seed=0, method="vardiu", value=0.5, rows=4, finished=True) -> Path:
    """A run as another machine may have left it: events, log and result, and no student."""
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    run.file("config.yaml").write_text("command: distill\n")
    about = {"event": "run_started", "time": 1.0, "format": 1, "version": "0", "preset": "mog40"}
    about |= {"command": "distill", "method": method, "metric": "mmd2", "lower_is_better": True}
    run.log({**about, "problem": "mog40", "seed": seed}, "events.jsonl")
    stage = {"event": "stage_started", "stage": "a", "index": 1, "of": 1, "step": 0}
    run.log({**stage, "time": 1.0, "steps": 10, "cycle": 1, "device": "cpu"}, "events.jsonl")
    for i in range(1, rows + 1):
        row = {"stage": "a", "step": i, "updates": i, "seconds": float(i), "calls": i}
        run.log({**row, "loss": 1.0 / i, "metric/mmd2": value / i}) if rows < 50 else None
    told = {"event": "reported", "time": 2.0, "stage": "a", "step": 4, "steps": 10}
    run.log({**told, "updates": 4, "seconds": 8.0, "calls": 4}, "events.jsonl")
    if finished:
        metric = {"name": "mmd2", "value": value, "error": 0.01, "n": 100}
        run.finish(
            {
                "verdict": {"name": "STUCK", "sentence": "no <b>better</b>"},
                "metrics": [{**metric, "higher_is_better": False}],
                "reference": {"name": "true samples", "metrics": []},
                "cost": {
                    "seconds": 4.0,
                    "teacher_calls": 4,
                    "teacher_rows": 40,
                    "student_updates": 4,
                },
            }
        )
    return folder


# ---------------------------------------------------------------- who may ask


@pytest.fixture
def guarded(tmp_path) -> TestClient:
    studio = made([tmp_path], tmp_path / "scratch")
    app = application(studio, TOKEN, [HOST], "studio")
    return TestClient(app, base_url=f"http://{HOST}", follow_redirects=False)


def test_the_token_of_the_address_becomes_a_cookie(guarded):
    for path in ("/", "/api/runs", "/?token=wrong", "/?token=", "/app.js"):
        answer = guarded.get(path)
        assert answer.status_code == 403 and len(answer.text.splitlines()) == 1
        assert TOKEN not in answer.text
    answer = guarded.get(f"/?token={TOKEN}")
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    page = guarded.get("/")
    assert page.status_code == 200 and f'content="{TOKEN}"' in page.text
    assert guarded.get("/api/runs").json()["total"] == 0


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1", "null", ""])
def test_a_page_of_another_site_is_refused_even_with_the_token(guarded, origin):
    guarded.get(f"/?token={TOKEN}")
    headers = {"X-Studio-Token": TOKEN, "Origin": origin}
    for answer in (
        guarded.post("/api/command", json={}, headers=headers),
        guarded.get("/api/runs", headers=headers),
    ):
        assert answer.status_code == 403 and "another site" in answer.text
    headers["Origin"] = f"http://{HOST}"
    assert guarded.get("/api/runs", headers=headers).status_code == 200


def test_what_does_something_needs_the_token_beside_the_cookie(guarded):
    guarded.get(f"/?token={TOKEN}")
    body = {"action": "distill", "chosen": {"kind": "density", "preset": "mog40"}}
    assert guarded.post("/api/command", json=body).status_code == 403
    assert guarded.post(f"/api/command?token={TOKEN}", json=body).status_code == 403
    headers = {"X-Studio-Token": TOKEN}
    answer = guarded.post("/api/command", json=body, headers=headers)
    assert answer.json() == {"command": "vardiu distill mog40"}


def test_another_name_of_this_machine_is_refused(guarded):
    guarded.get(f"/?token={TOKEN}")
    for host in ("evil.example", "evil.example:8321", "127.0.0.1", "127.0.0.1:80", ""):
        answer = guarded.get(f"/?token={TOKEN}", headers={"Host": host})
        assert answer.status_code == 421, host


def test_nothing_is_loaded_from_elsewhere(guarded):
    guarded.get(f"/?token={TOKEN}")
    found = guarded.get("/")
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "http" not in policy
    for path in (Path(__file__).parent.parent / "vardiu/studio/static").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text, path
        assert guarded.get(f"/{path.name}").status_code == 200
    assert guarded.get("/../app.py").status_code == 404
    assert guarded.get("/picture/../../app.py").status_code == 404


def test_another_host_is_refused_unless_told(capsys):
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    for host in ("0.0.0.0", "192.168.1.2", "example.org", "::"):
        assert not is_loopback(host)
        assert main(["studio", "--host", host]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert host in line and "--allow-other-host" in line


def test_a_port_that_is_taken_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen on .* give another --port"):
            bound("127.0.0.1", taken.getsockname()[1])


# ---------------------------------------------------------------- runs from their files


def test_runs_of_another_machine_are_listed(tmp_path):
    fake_run(tmp_path / "runs" / "a" / "seed0")
    fake_run(tmp_path / "runs" / "b", finished=False)
    client = client_of(made([tmp_path / "runs"], tmp_path / "scratch"))
    found = {run["name"]: run for run in client.get("/api/runs").json()["runs"]}
    assert set(found) == {"a/seed0", "b"}
    done, half = found["a/seed0"], found["b"]
    assert done["state"] == "finished" and done["verdict"]["name"] == "STUCK"
    assert half["state"] == "stopped" and half["spark"] == pytest.approx(
        [0.5, 0.25, 0.5 / 3, 0.125]
    )
    assert half["left"] == pytest.approx(12.0) and half["steps"] == 10
    run = client.get("/api/run", params={"id": done["id"]}).json()
    assert "MMD" in run["charts"] and run["verdict"]["sentence"] == "no <b>better</b>"
    with RunFolder(tmp_path / "runs" / "b").lock():
        found = client.get("/api/runs", params={"q": "B"}).json()["runs"]
        assert [row["state"] for row in found] == ["running"]


def test_a_folder_that_goes_or_is_half_written_is_one_line(tmp_path):
    gone = fake_run(tmp_path / "runs" / "gone")
    cut = fake_run(tmp_path / "runs" / "cut", finished=False)
    client = client_of(made([tmp_path / "runs"], tmp_path / "scratch"))
    ids = {run["name"]: run["id"] for run in client.get("/api/runs").json()["runs"]}
    shutil.rmtree(gone)
    answer = client.get("/api/run", params={"id": ids["gone"]})
    assert answer.status_code == 400 and "removed" in answer.json()["error"]
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "a", "st')
    assert client.get("/api/run", params={"id": ids["cut"]}).status_code == 200
    (cut / "events.jsonl").write_text("{broken\n")
    (row,) = client.get("/api/runs").json()["runs"]
    assert row["state"] == "unreadable" and "line 1 is not JSON" in row["why"]
    for name in ("run", "beside", "noise", "map", "ship", "compare", "trial", "job"):
        answer = client.get(f"/api/{name}", params={"id": ids["cut"], "ids": ids["cut"]})
        assert answer.status_code == 400 and "\n" not in answer.json()["error"], name
    shutil.rmtree(tmp_path / "runs")
    assert client.get("/api/runs").json()["total"] == 0


def opened(monkeypatch) -> list[str]:
    """The names of the files that are opened from now on."""
    names, real = [], io.open

    def noted(file, *rest, **more):
        names.append(Path(file).name if isinstance(file, str | Path) else "")
        return real(file, *rest, **more)

    monkeypatch.setattr(io, "open", noted)  # which Path opens with
    return names


def test_of_many_runs_those_on_the_page_are_read_and_not_again(tmp_path, monkeypatch):
    """A list of a thousand is asked for every few seconds: what has not changed is not read."""
    first = fake_run(tmp_path / "runs" / "run-000")
    for i in range(1, 200):
        shutil.copytree(first, tmp_path / "runs" / f"run-{i:03}")
    client = client_of(made([tmp_path / "runs"], tmp_path / "scratch"))
    client.get("/api/start")
    names = opened(monkeypatch)
    found = client.get("/api/runs").json()
    assert found["total"] == 200 and len(found["runs"]) == found["page"]
    # Of those that are on the page alone, and none of them over and over.
    times = Counter(names)
    assert 0 < times["metrics.jsonl"] <= 5 * found["page"] < 5 * 200, times
    names.clear()
    assert client.get("/api/runs").json() == found
    assert not {"metrics.jsonl", "events.jsonl", "result.json", "config.yaml"} & set(names)


def test_of_a_long_log_few_rows_are_parsed(tmp_path, monkeypatch):
    """A list, a run and a comparison parse about as many rows as they draw, however long it is."""
    folder = fake_run(tmp_path / "runs" / "long", rows=100, finished=False)
    more = ", ".join(f'"bound/{i}": 12.960346221923828' for i in range(20))
    told = '"stage": "a", "step": {0}, "updates": {0}, "seconds": {0}, "calls": {0}'
    plain, event = f"{{{{{told}, {more}}}}}\n", f'{{{{"event": "reported", {told}}}}}\n'
    measured = f'{{{{{told}, {more}, "metric/mmd2": 0.5, "metric/modes": 4}}}}\n'
    count = range(1, 20_001)
    with (folder / "metrics.jsonl").open("w") as file:
        file.writelines((plain if i % 4 else measured).format(i) for i in count)
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(event.format(i) for i in count)
    parsed, real = [], library.row_of
    monkeypatch.setattr(library, "row_of", lambda *given: parsed.append(given[1]) or real(*given))
    client = client_of(made([tmp_path / "runs"], tmp_path / "scratch"))
    client.get("/api/start")
    (seen_run,) = client.get("/api/runs").json()["runs"]
    listed = len(parsed)
    answer = client.get("/api/run", params={"id": seen_run["id"]})
    shown = len(parsed) - listed
    assert client.get("/api/compare", params={"ids": seen_run["id"]}).status_code == 200
    print(f"rows parsed: {listed}, {shown}, {len(parsed) - listed - shown} {library.ROWS}")
    assert seen_run["step"] == 20_000 and len(seen_run["spark"]) >= 40
    assert answer.status_code == 200 and len(answer.content) < 1e6
    assert 0 < shown < 2 * library.ROWS and len(parsed) < 5 * library.ROWS


def test_a_log_is_read_as_it_grows_and_thinned_before_it_is_parsed(tmp_path):
    path = tmp_path / "log"
    log = LogLines(path, b"metric")
    assert log.read() == 0 and len(log) == 0 and log.thinned(10) == []
    path.write_text("".join(f"{i}{' metric' * (i % 100 == 7)}\n" for i in range(1_000)) + "cut")
    log.read()
    assert len(log) == 1_000 and log.line(0) == b"0" and log.line(107) == b"107 metric"
    chosen = log.thinned(40)
    assert len(chosen) <= 40 and {7, 107, 907, 0, 999} <= set(chosen)
    with path.open("a") as file:
        file.write(" line\n")
    assert log.read() == 1_000 and log.line(1_000) == b"cut line"
    path.unlink()
    path.write_text("new\n")
    assert log.read() == 0 and len(log) == 1 and log.line(0) == b"new"
    assert len(log.thinned(ROWS)) == 1


def test_a_log_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("vardiu.storage.log_lines.PART", 64)
    path = tmp_path / "log"
    lines = ["x" * (i * 37 % 200) + "metric" * (i % 3 == 0) for i in range(50)]
    path.write_text("\n".join(lines) + "\ncut metric")
    log = LogLines(path, b"metric")
    log.read()
    assert (
        [line.decode() for line in log.lines(0)]
        == lines
        == [log.line(i).decode() for i in range(50)]
    )
    assert log.marked.tolist() == list(range(0, 50, 3)) and log.lines(50) == []
    with path.open("a") as file:
        file.write("y" * 500)
    assert log.read() == 50 == len(log)
    with path.open("a") as file:
        file.write("\nmetric\n")
    assert log.read() == 50 and [len(line) for line in log.lines(50)] == [510, 6]
    assert log.marked.tolist()[-2:] == [50, 51]


# ---------------------------------------------------------------- several runs


def test_paired_seeds_are_better_worse_or_undecided():
    told = paired({0: 1.0, 1: 2.0, 2: 3.0, 9: 0.0}, {0: 2.0, 1: 3.1, 2: 3.9, 8: 1.0})
    assert told.seeds == 3 and told.mean == pytest.approx(-1.0)
    assert told.half == pytest.approx(4.302652 * 0.1 / 3**0.5, rel=1e-5)
    assert told.verdict == "better"
    assert paired({0: 1.0}, {0: 2.0}).verdict == "undecided" and paired({}, {}).seeds == 0


def test_runs_are_compared_as_series_of_seeds(tmp_path):
    for seed in range(3):
        fake_run(tmp_path / "good" / f"seed{seed}", seed, "vardiu", 0.1 + 0.01 * seed)
        fake_run(tmp_path / "bad" / f"seed{seed}", seed, "dmd2", 0.5 + 0.02 * seed)
    client = client_of(made([tmp_path], tmp_path / "scratch"))
    runs = sorted(client.get("/api/runs").json()["runs"], key=lambda run: run["name"])
    ids = ",".join(run["id"] for run in runs)
    found = client.get("/api/compare", params={"ids": ids, "cost": "calls"}).json()
    (pair,) = found["pairs"]
    told = (pair["one"], pair["other"], pair["seeds"], pair["verdict"])
    assert told == ("dmd2", "vardiu", 3, "worse")
    assert pair["mean"] == pytest.approx(0.41)
    assert "vardiu (3 seeds)" in found["html"] and "--c:var(--m-dmd2)" in found["html"]
    assert found["runs"][0] == {"id": runs[0]["id"], "name": runs[0]["name"]}
    answer = client.get("/api/compare", params={"ids": ids, "cost": "money"})
    assert "seconds, calls, updates" in answer.json()["error"]


def seen(folder: Path, seed: int, method: str, settings: str):
    """A run with its summary, of these lines of settings."""
    fake_run(folder, seed, method)
    text = f"command: distill\npreset: mog40\nmethod:\n  name: {method}\n{settings}"
    (folder / "config.yaml").write_text(f"{text}run:\n  seed: {seed}\n  threads: {seed}\n")
    run = SeenRun(folder, "/".join(folder.parts[-2:]))
    return run, run.summary()


def test_runs_are_one_series_where_their_settings_are_the_same_but_for_the_seed(tmp_path):
    runs = []
    for seed in (0, 1):
        for i, settings in enumerate(("  lr: 0.1\n  batch: 8\n", "  lr: 0.2\n  batch: 8\n")):
            runs.append(seen(tmp_path / f"any{seed}" / f"name{i}", seed, "vardiu", settings))
        runs.append(seen(tmp_path / "x" / f"{seed}", seed, "dmd2", "  lr: 0.1\n"))
    found = {label: len(members) for label, _, members in series_of(runs)}
    assert found == {"vardiu, lr 0.1": 2, "vardiu, lr 0.2": 2, "dmd2": 2}
    many = "".join(f"  name{i}: 1\n" for i in range(5))
    runs.append(seen(tmp_path / "y" / "0", 0, "dmd2", f"  lr: 0.1\n{many}"))
    (label,) = (s.label for s in series_of(runs) if s.label.startswith("dmd2, name0 1"))
    assert label == "dmd2, name0 1, name1 1, name2 1, and 2 more"


def test_runs_of_the_same_settings_and_seed_are_series_of_their_folders(tmp_path):
    runs = [
        seen(tmp_path / when / f"run-s{seed}", seed, "vardiu", "  lr: 0.1\n")
        for when in ("before", "after")
        for seed in (0, 1)
    ]
    found = [(label, len(members)) for label, _, members in series_of(runs)]
    assert found == [("vardiu, before/run", 2), ("vardiu, after/run", 2)]
    again = [*runs, seen(tmp_path / "before" / "copy", 1, "vardiu", "  lr: 0.1\n")]
    assert sorted(label for label, _, _ in series_of(again)) == [
        "vardiu, after/run",
        "vardiu, before/copy",
        "vardiu, before/run",
    ]
    alike = [seen(tmp_path / x / "seed0", 0, "vardiu", "  lr: 0.1\n") for x in ("a", "a/b")]
    assert [label for label, _, _ in series_of(alike)] == ["vardiu, a", "vardiu, b"]


def test_runs_that_cannot_be_compared_are_one_line(tmp_path):
    fake_run(tmp_path / "one", 0, "vardiu")
    other = fake_run(tmp_path / "other", 0, "vardiu") / "events.jsonl"
    other.write_text(other.read_text().replace('"problem": "mog40"', '"problem": "ring8"'))
    teacher = fake_run(tmp_path / "teacher", 0, "denoising") / "events.jsonl"
    teacher.write_text(teacher.read_text().replace('"distill"', '"teach"'))
    client = client_of(made([tmp_path], tmp_path / "scratch"))
    ids = {run["name"]: run["id"] for run in client.get("/api/runs").json()["runs"]}

    def asked(*names):
        chosen = ",".join(ids[name] for name in names)
        return client.get("/api/compare", params={"ids": chosen}).json()

    assert "mog40 by mmd2, ring8 by mmd2" in asked("one", "other")["error"]
    assert asked("one", "teacher")["error"] == "teacher is no student: students are compared"
    assert asked()["runs"] == [] and asked()["most"] == 60


def test_many_series_are_compared_with_the_best_one():
    table = [(f"s{i}", {0: float(i), 1: i + 0.1}) for i in (3, 1, 2)]
    assert len(pairs(table, 1.0)) == 3
    table = [
        (f"s{i}", {0: float(i), 1: i + 0.1} if i else {}) for i in (9, 3, 1, 2, 4, 5, 6, 7, 0)
    ]
    found = pairs(table, 1.0)
    assert len(found) == 8 and {row["one"] for row in found} == {"s1"}
    assert {row["one"] for row in pairs(table, -1.0)} == {"s9"}
    assert {row["other"]: row["verdict"] for row in found}["s3"] == "better"


def test_runs_are_found_by_method_preset_and_name(tmp_path):
    fake_run(tmp_path / "runs" / "first", 0, "vardiu")
    fake_run(tmp_path / "runs" / "second", 0, "dmd2")
    (tmp_path / "runs" / "second" / "result.json").unlink()
    client = client_of(made([tmp_path / "runs"], tmp_path / "scratch"))

    def found(words):
        rows = client.get("/api/runs", params={"q": words}).json()["runs"]
        return sorted(row["name"] for row in rows)

    assert found("MOG40") == ["first", "second"] and found("dmd2 mog40") == ["second"]
    assert found("first") == ["first"] == found("vardiu") and found("dmd2 first") == []


# ---------------------------------------------------------------- what is not a number, or odd


def test_values_that_are_not_finite_leave_a_gap(tmp_path):
    folder = fake_run(tmp_path / "runs" / "nan", finished=False)
    row = {"stage": "a", "step": 5, "updates": 5, "seconds": 5.0, "calls": 5}
    RunFolder(folder).log({**row, "loss": math.nan, "metric/mmd2": math.inf})
    client = client_of(made([tmp_path / "runs"], tmp_path / "scratch"))
    (seen_run,) = client.get("/api/runs").json()["runs"]
    assert seen_run["state"] == "stopped" and len(seen_run["spark"]) == 4
    found = client.get("/api/run", params={"id": seen_run["id"]}).json()
    assert "nan" not in found["charts"].lower()
    assert client.get("/api/compare", params={"ids": seen_run["id"]}).status_code == 200
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "a", "step": 6, "metric/mmd2": NaN}\n')
    (seen_run,) = client.get("/api/runs").json()["runs"]
    assert seen_run["state"] == "unreadable" and "line 6" in seen_run["why"]


def test_an_answer_is_json_that_a_browser_reads():
    found = {"a": [1.0, math.nan, (math.inf, "x")], "b": None}
    assert json.loads(as_json(found)) == {"a": [1.0, None, [None, "x"]], "b": None}
    assert as_json({"a": 1.5}) == '{"a": 1.5}'


def test_samples_that_are_not_finite_are_one_line():
    with pytest.raises(RunError, match="not finite: it has diverged"):
        finite(torch.tensor([[0.0, math.nan]]))
    assert finite(torch.zeros(2)).sum() == 0


def test_alarms_are_told_however_long_the_log_is(tmp_path):
    folder = RunFolder(fake_run(tmp_path / "runs" / "a", finished=False))
    alarm = {"event": "alarm_raised", "time": 3.0, "stage": "a", "name": "collapse"}
    for step in range(30):
        told = {**alarm, "step": step, "message": "few modes", "cure": "wait"}
        folder.log(told, "events.jsonl")
    client = client_of(made([tmp_path / "runs"], tmp_path / "scratch"))
    (run,) = client.get("/api/runs").json()["runs"]
    assert run["alarms"] == 30
    told = client.get("/api/run", params={"id": run["id"]}).json()["warnings"]
    assert [row["step"] for row in told] == list(range(10, 30)) and told[0]["cure"] == "wait"


def test_names_of_runs_are_shown_and_lead_nowhere(tmp_path):
    name = "<img src=x onerror=alert(1)>"
    fake_run(tmp_path / "runs" / name)
    fake_run(tmp_path / "elsewhere")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    client = client_of(made([tmp_path / "runs"], tmp_path / "scratch"))
    (run,) = client.get("/api/runs").json()["runs"]
    assert run["name"] == name and run["id"].isalnum()
    for key in ("../elsewhere", str(tmp_path / "elsewhere"), "..%2felsewhere", "", "x" * 10_000):
        for view in ("run", "samples", "ship", "exports"):
            answer = client.get(f"/api/{view}", params={"id": key})
            assert answer.status_code == 400 and "no such run" in answer.json()["error"]
    for path in ("/picture/..%2f..%2felsewhere/samples.png", "/..%2fapp.py", "/%2e%2e/app.py"):
        assert client.get(path).status_code == 404
    html = client.get("/api/compare", params={"ids": run["id"]}).json()["html"]
    assert "<img" not in html


# ---------------------------------------------------------------- a student


def loader(folder):
    from argparse import Namespace

    from vardiu.cli.folders import shipped_student

    words = {"method": None, "source": None, "accept_changed_code": False, "network": None}
    return shipped_student(folder, Namespace(**words, teacher=None, device="cpu"))


@pytest.fixture(scope="module")
def looked_at(trained, tmp_path_factory):
    client = client_of(made([trained], tmp_path_factory.mktemp("s") / "x", loader))
    (run,) = client.get("/api/runs").json()["runs"]
    return client, run["id"]


def test_samples_over_time_are_of_the_same_latents(looked_at, trained):
    client, key = looked_at
    found = client.get("/api/samples", params={"id": key}).json()
    assert [row["step"] for row in found["moments"]] == [4, 8] and found["index"] == 1
    first = client.get("/api/samples", params={"id": key, "index": 0}).json()
    assert "step 4" in first["html"] and "<svg" in first["html"]
    assert "error" in client.get("/api/samples", params={"id": key, "index": 5}).json()
    (trained / "snapshots" / "0-x-000000009.safetensors").write_bytes(b"broken")
    assert "holds no samples" in client.get("/api/samples", params={"id": key}).json()["error"]
    (trained / "snapshots" / "0-x-000000009.safetensors").unlink()


def test_the_order_of_samples_is_that_of_stages_and_steps_whatever_the_clock_said(tmp_path):
    names = ["0-start-000000002", "0-start-000000010", "1-halving-000000001", "10-last-000000001"]
    (tmp_path / "snapshots").mkdir()
    for age, name in enumerate(reversed(names)):
        path = tmp_path / "snapshots" / f"{name}.safetensors"
        path.touch()
        os.utime(path, (age, age))
    found = [(row.stage, row.step) for row in snapshots_of(RunFolder(tmp_path))]
    assert found == [("start", 2), ("start", 10), ("halving", 1), ("last", 1)]


def test_a_student_is_shown_beside_its_teacher_with_noise_and_as_a_map(looked_at):
    client, key = looked_at
    both = client.get("/api/beside", params={"id": key}).json()
    assert both["html"].count("<figure") == 2
    noisy = client.get("/api/noise", params={"id": key, "share": 0.5}).json()
    assert noisy["html"].count("<figure") == 3 and noisy["missing"] == ""
    ends = [
        client.get("/api/noise", params={"id": key, "share": s}).json()["sigma"] for s in (0, 1)
    ]
    assert ends[1] == pytest.approx(500 * ends[0])
    lattice = client.get("/api/map", params={"id": key}).json()
    at = client.get("/api/map", params={"id": key, "z1": 0, "z2": 0}).json()["x"][0]
    middle = lattice["lines"] ** 2 // 2
    assert lattice["x"][middle] == pytest.approx(at, abs=1e-4) and len(lattice["samples"]) == 400


def test_what_ships_is_measured(looked_at):
    client, key = looked_at
    found = client.get("/api/ship", params={"id": key}).json()
    assert [row["rows"] for row in found["latency"]] == [1, 16]
    assert all(row["milliseconds"] > 0 for row in found["latency"])
    forms = {name: row["refusal"] for name, row in found["forms"].items()}
    assert forms["safetensors"] == "" and "not of diffusers" in forms["diffusers"]
    assert "has no adapter" in forms["lora"] and found["adapter"] is None
    answer = client.post("/api/export", json={"id": key, "form": "lora"})
    assert answer.status_code == 400 and "lora: the run has no adapter" in answer.json()["error"]


def test_what_the_start_named_is_given_to_commands(trained, tmp_path):
    started = []

    class Told(Jobs):
        def start(self, words, discarded=None):
            started.append((list(words), discarded))
            return super().start(["estimate", "--help"], discarded)

    scratch = tmp_path / "scratch"
    studio = made([trained], scratch, loader)._replace(
        jobs=Told(scratch), options=["--method=a.py:M", "--network=b.py:N"]
    )
    client = client_of(studio)
    (run,) = client.get("/api/runs").json()["runs"]
    for trial in (False, True):
        body = {"id": run["id"], "form": "onnx", "trial": trial}
        assert client.post("/api/export", json=body).status_code == 200
    (kept, nothing), (tried, discarded) = started
    assert nothing is None and tried[-1] == f"--out={discarded}"
    (discarded / "weights").mkdir(parents=True)
    job = studio.jobs.job(2)
    job.process.wait(60)
    assert job.state()["status"] == 0 and not discarded.exists()
    assert kept[2:] == ["--to", "onnx", "--method=a.py:M", "--network=b.py:N"]
    assert tried[:-1] == kept and tried[-1].startswith(f"--out={scratch}/trial-")
    folder = fake_run(tmp_path / "own", finished=False)
    (folder / "config.yaml").write_text("code:\n  method: {}\n  teacher: {}\n")
    studio = studio._replace(teacher="t.py:T")
    assert resuming(RunFolder(folder), studio) == ["--method=a.py:M", "--teacher=t.py:T"]
    assert resuming(RunFolder(trained), studio) == []


def test_an_adapter_is_named_with_its_size(tmp_path):
    folder = RunFolder(tmp_path)
    assert adapter_of(folder) is None
    (tmp_path / "adapter").mkdir()
    config = {"r": 4, "lora_alpha": 8.0, "target_modules": ["to_q", "to_k", "to_v"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"0" * 1536)
    wanted = {"name": "adapter", "rank": 4, "alpha": 8.0, "layers": 3, "bytes": "1.5 kB"}
    assert adapter_of(folder) == wanted


def test_a_panel_says_what_is_missing(trained, tmp_path):
    client = client_of(made([trained], tmp_path / "scratch"))
    (run,) = client.get("/api/runs").json()["runs"]
    for name in ("beside", "noise", "map", "ship"):
        answer = client.get(f"/api/{name}", params={"id": run["id"]})
        assert answer.json()["error"] == "the teacher was not named: give --teacher"
    answer = client.post("/api/restore", json={"picture": "a", "operator": "inpaint"})
    assert "vardiu studio --teacher" in answer.json()["error"]


def test_a_blind_choice_tells_who_was_which_afterwards(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "runs" / "two")
    shutil.copytree(trained, tmp_path / "runs" / "one")
    client = client_of(made([tmp_path / "runs"], tmp_path / "scratch"))
    ids = [run["id"] for run in client.get("/api/runs").json()["runs"]]
    trial = client.get("/api/trial", params={"one": ids[0], "other": ids[1]}).json()
    assert trial["html"].count("<figure") == 2 and "mog40" not in trial["html"]
    assert trial["html"].count("--c:var(--soft)") == 2 and "<path d='M" in trial["html"]
    another = client.get("/api/trial", params={"one": ids[0], "other": ids[1]}).json()
    assert another["html"] != trial["html"]  # samples of other latents
    assert not any(word in trial["html"] for word in ("one", "two", "vardiu", "step"))
    told = client.post("/api/verdict", json={"trial": trial["trial"], "chosen": "A"}).json()
    assert sorted(told.values()) == ["one", "two"]
    again = client.post("/api/verdict", json={"trial": trial["trial"], "chosen": "A"})
    assert "over" in again.json()["error"]


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize(
    ("chosen", "action", "words"),
    [
        (
            {"kind": "density", "preset": "ring8", "out": "runs/x"},
            "distill",
            "distill ring8 --out=runs/x",
        ),
        ({"kind": "pipeline", "teacher": "a b"}, "probe", "probe '--teacher=a b'"),
        (
            {"kind": "function", "teacher": "f.py:N", "data": "d"},
            "estimate",
            "estimate --teacher=f.py:N --data=d",
        ),
        (
            {"kind": "images", "data": "d", "teacher": "runs/t"},
            "distill",
            "distill --teacher=runs/t --data=d",
        ),
        (
            {"kind": "images", "data": "d", "more": "--side 16"},
            "distill",
            "teach patches --name=own --data=d --side 16",
        ),
    ],
)
def test_the_exact_command_is_shown(chosen, action, words):
    assert shlex.join(words_of(chosen, action)) == words


@pytest.mark.parametrize(
    ("chosen", "action", "says"),
    [
        ({"kind": "density"}, "distill", "give the preset"),
        ({"kind": "other"}, "distill", "start from one of"),
        ({"kind": "images"}, "distill", "folder of your images"),
        ({"kind": "density", "preset": "--config"}, "distill", "hyphen"),
        ({"kind": "density", "preset": "a", "more": "'"}, "distill", "cannot be read"),
        ({"kind": "density", "preset": 3}, "distill", "texts"),
        ({"kind": "density", "preset": "a"}, "push", "distill, probe and estimate"),
    ],
)
def test_a_choice_that_is_no_command_is_one_line(chosen, action, says):
    with pytest.raises(ConfigError, match=says):
        words_of(chosen, action)


def test_only_commands_of_the_table_are_started(tmp_path):
    with pytest.raises(ConfigError, match="not studio"):
        Jobs(tmp_path).start(["studio"])
    with pytest.raises(ConfigError, match="no command number 3"):
        Jobs(tmp_path).job(3)


def test_a_command_is_stopped_with_its_processes(tmp_path):
    studio = made([tmp_path], tmp_path / "scratch")
    client = client_of(studio)
    assert client.get("/api/jobs").json() == []
    studio.jobs.start(["estimate", "--help"])
    job = studio.jobs.job(1)
    answer = client.post("/api/cancel", json={"job": 1}).json()
    assert answer["status"] in (None, -15) and job.process.wait(60) == -15
    (told,) = client.get("/api/jobs").json()
    assert told == {"job": 1, "command": "vardiu estimate --help --json", "status": -15}
    again = client.post("/api/cancel", json={"job": 1})
    assert again.status_code == 400 and again.json()["error"] == "command number 1 is over"
    assert "no command number 2" in client.post("/api/cancel", json={"job": 2}).json()["error"]


def test_numbers_of_commands_are_tables():
    level = {"sigma": 0.5, "error": 0.25, "deviation": 0.01, "linear": 0.2, "allowed": 0.3}
    rows = [
        {**level, "status": "weak", "better": False},
        {**level, "status": "ok", "better": True},
    ]
    printed = json.dumps({"levels": rows, "verdict": "it is weak."})
    (table,) = tables_of(["probe", "mog40", "--json"], printed)
    assert table["head"][0] == "sigma" and table["note"] == "it is weak."
    assert table["rows"][0] == ["0.5", "0.25 ± 0.01", "0.2", "0.3", "weak"]
    assert [row[-1] for row in table["rows"]] == ["weak", "ok"]
    part = {"parameters": 1_000, "weights": 4_000, "gradients": 0, "optimiser": 0, "average": 0}
    stage = {"name": "vardiu", "steps": 10, "step": 0.5, "seconds": 5.0, "outside": 0}
    found = {
        "stages": [{**stage, "networks": {"student": {**part, "activations": 0}}}],
        "memory": {"peak": 2**20, "library": 2**10},
        "disk": {"checkpoint": 2**10, "artefacts": 0, "total": 2**11},
        "seconds": {"training": 5.0, "total": 9.0},
        "device": "cpu",
    }
    whole, first = tables_of(["estimate", "mog40"], json.dumps(found))
    assert whole["rows"][0][:2] == ["peak memory", "1.0 MB"] and whole["head"] == []
    assert first["rows"][0][:3] == ["student", "1,000", "3.9 kB"]
    assert first["note"] == "10 steps of 500.0 ms: 5.0 s"
    assert tables_of(["distill", "mog40"], "text") == [] == tables_of(["probe"], "")


def pretending(side: int) -> bytes:
    """A PNG of a few bytes that says that it has so many pixels at a side."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_a_picture_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    client = client_of(made([tmp_path], tmp_path / "scratch", teacher="t"))
    for data in (b"", b"no picture", b"\x89PNG\r\n\x1a\nbroken"):
        answer = client.post("/api/drop", content=data)
        assert answer.status_code == 400 and "cannot be read" in answer.json()["error"]
    for side in (8_500, 20_000):
        answer = client.post("/api/drop", content=pretending(side))
        assert answer.status_code == 400 and "pixels" in answer.json()["error"]
    monkeypatch.setattr("vardiu.studio.app.DROPPED", 3_000_000)
    answer = client.post("/api/drop", content=bytes(3_000_001))
    assert answer.status_code == 413 and "3,000,000 bytes" in answer.json()["error"]
    answer = client.post("/api/command", content=b" " * (2**20 + 1))
    assert answer.status_code == 413
    file = io.BytesIO()
    Image.new("RGB", (5, 4)).save(file, "PNG")
    found = client.post("/api/drop", content=file.getvalue()).json()
    assert (found["width"], found["height"]) == (5, 4)
    assert client.get(f"/picture/{found['picture']}.png").content[:4] == b"\x89PNG"
    for body in ({}, [], "x", {"action": 3}, {"picture": "../x", "operator": "y"}):
        for name in ("command", "restore", "stop", "resume", "export", "verdict"):
            answer = client.post(f"/api/{name}", json=body)
            assert answer.status_code == 400 and "\n" not in answer.json()["error"]
    assert client.post("/api/command", content=b"{").status_code == 400
    assert client.post("/api/none", json={}).status_code == 404
