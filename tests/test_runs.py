"""Run folders: one writer, nothing lost, clear refusals."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from vardiu.cli import stock
from vardiu.errors import RunError
from vardiu.metrics import Metric
from vardiu.reports.curves import curves
from vardiu.reports.html import write_report
from vardiu.runs.errors import guarded
from vardiu.storage.files import partial_of, whole_file, write_text_atomic
from vardiu.storage.provenance import provenance
from vardiu.storage.run_folder import RunFolder

CONFIG = {"method": {"name": "vardiu", "lr": 1e-3}, "run": {"seed": 0}}


def test_the_same_settings_resume_and_others_are_refused(tmp_path):
    run = RunFolder(tmp_path / "a")
    assert run.open(CONFIG) == "new"
    assert run.open(CONFIG) == "resumed"
    run.log({"step": 1})
    other = {"method": {"name": "vardiu", "lr": 2e-3}, "run": {"seed": 0}}
    before = run.file("config.yaml").read_bytes()
    with pytest.raises(RunError, match=r"method.lr: there 0.001, now 0.002") as error:
        run.open(other)
    assert "--out" in str(error.value) and "seed" not in str(error.value)
    assert run.file("config.yaml").read_bytes() == before
    cost = dict.fromkeys(("seconds", "teacher_calls", "teacher_rows", "student_updates"), 1)
    run.finish({"metrics": [Metric("mmd2", 1.0, None, 100, False).row()], "cost": cost})
    assert run.open(CONFIG) == "finished"


def test_a_run_that_never_began_makes_way_for_another(tmp_path):
    """Its settings could not be: they are mended, and the same folder is given again."""
    run = RunFolder(tmp_path / "a")
    other = {"method": {"name": "vardiu", "lr": 2e-3}, "run": {"seed": 0}}
    with run.lock():
        run.open(CONFIG)
    run.file("provenance.json").write_text("{}")
    with run.lock():
        assert run.open(other) == "new"
    assert run.config() == other and not run.file("provenance.json").exists()
    # What someone wrote by hand is not ours to replace.
    run.file("config.yaml").write_text("# mine\n" + run.file("config.yaml").read_text())
    with pytest.raises(RunError, match="lr: there 0.002, now 0.001"):
        run.open(CONFIG)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        RunFolder(tmp_path).open(CONFIG)
    with pytest.raises(RunError, match="is not empty"), RunFolder(tmp_path).lock():
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="holds no run"):
        RunFolder(tmp_path / "nowhere").config()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    for act in (lambda r: r.open(CONFIG), lambda r: r.lock().__enter__()):
        with pytest.raises(RunError, match="cannot be written"):
            act(RunFolder(blocker / "run"))


def test_a_second_writer_is_refused_and_a_dead_one_forgotten(tmp_path):
    code = "import sys; from vardiu.storage.run_folder import RunFolder\nwith RunFolder(sys.argv[1]).lock(): pass"
    run = RunFolder(tmp_path)
    with run.lock():
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True
        )
        assert done.returncode != 0 and "another process (pid" in done.stderr
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0
    killed = code.replace("pass", "import os; os._exit(1)")
    subprocess.run([sys.executable, "-c", killed, tmp_path])
    with run.lock():
        pass


def test_the_log_names_what_is_not_finite_and_survives_a_torn_line(tmp_path):
    run = RunFolder(tmp_path)
    run.log({"stage": "a", "step": 1, "loss": 0.5})
    run.log({"stage": "a", "step": 2, "loss": math.nan})
    with run.file("metrics.jsonl").open("a") as file:
        file.write('{"stage": "a", "st')
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[1]["loss"] is None and rows[1]["nonfinite"] == ["loss"]
    run.truncate_metrics("a", 1)
    run.log({"stage": "b", "step": 1})
    assert [(row["stage"], row["step"]) for row in run.metrics()] == [("a", 1), ("b", 1)]
    text = run.file("metrics.jsonl").read_text()
    run.file("metrics.jsonl").write_text("{broken\n" + text)
    with pytest.raises(RunError, match="line 1 is not JSON"):
        run.metrics()


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_text_atomic(tmp_path / "x", "old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_told_with_the_file_and_the_cure(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")  # as `write` does, without a name

    run = RunFolder(tmp_path / "r")
    run.open({"seed": 1})
    monkeypatch.setattr("os.fsync", full)
    for name, work in {
        "metrics.jsonl": lambda _: run.log({"stage": "a", "step": 1}),
        "result.json": lambda _: run.finish({}),
    }.items():
        said = io.StringIO()
        assert guarded(work, "distill", [], Console(file=said, width=400)) == 1
        (line,) = said.getvalue().splitlines()
        assert f"{run.file(name)} cannot be written (No space left on device)" in line
        assert "Free some space" in line


def test_a_device_without_memory_is_told_in_a_line_with_the_cure():
    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has ...")

    def told(name):
        said = io.StringIO()
        assert guarded(full, name, [], Console(file=said, width=400)) == 1
        (line,) = said.getvalue().splitlines()
        assert (
            f"vardiu {name}: the device has too little memory (CUDA out of memory. Tried" in line
        )
        return line

    known = json.loads(Path(stock.__file__).with_name("inventory.json").read_text())["words"]
    for name in ("distill", "teach"):
        options = re.findall(r"--[a-z.]+", told(name))
        assert len(options) == 5 and set(options) <= set(known[name]["options"]) | {"--out"}
    assert "--device cpu" in told("evaluate") and "--accumulate" not in told("evaluate")


def test_report_is_one_file_without_requests_and_escaped(tmp_path):

    run = RunFolder(tmp_path / "r")
    run.open({"method": {"name": "<script>alert(1)</script>"}})
    about = provenance(["vardiu", "distill"], 0, data="abc")
    write_text_atomic(run.file("provenance.json"), json.dumps(about))
    rows = [
        {"updates": i, "seconds": i, "calls": i, "step": i, "a/loss": 1 / i} for i in (1, 2, 3)
    ]
    picture = curves(rows, run.file("curves.png"))
    metric = {
        "name": "mmd2",
        "value": 1e-3,
        "error": 1e-4,
        "n": 100,
        "higher_is_better": False,
        "note": "V",
        "reference": "ab12",
        "features": "",
    }
    path = write_report(
        run,
        title="A & B",
        metrics=[metric],
        reference=[metric | {"value": 2e-4}],
        reference_name="true samples",
        cost={"seconds": 3.0, "teacher_calls": 7, "teacher_rows": 1234},
        pictures=[("Training", picture)],
    )
    text = path.read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text and "A &amp; B" in text
    assert "http" not in text and text.count("data:image/png;base64,") == 1
    for part in ("0.001 ± 0.0001", "0.0002", "ab12", about["versions"]["torch"]):
        assert part in text
    folded = text[text.index("<summary>Cost</summary>") :].partition("</details>")[0]
    for part in ("<th>teacher calls</th>", "<th>teacher rows</th>", ">3<", ">7<", ">1234<"):
        assert part in folded


def test_pictures_show_what_they_are_given(tmp_path):
    """Read back: the panel of images has the brightness of its images, in its place."""
    import matplotlib.image
    import numpy as np

    from vardiu.reports.comparisons import Series, comparison
    from vardiu.reports.samples import image_grid

    black, white = -np.ones((4, 1, 8, 8)), np.ones((4, 1, 8, 8))
    path = image_grid([("black", black), ("white", white)], tmp_path / "a.png", columns=4)
    picture = matplotlib.image.imread(path)[..., 0]
    half = len(picture) // 2
    assert (picture[:half] < 0.05).mean() > 0.3 > 0.05 > (picture[half:] < 0.05).mean()
    rows = [{"seconds": i, "calls": i, "metric/x": 1 / i} for i in range(1, 9)]
    runs = [Series("a", "m", rows), Series("a", "m", rows[:5]), Series("b", "m", rows)]
    runs.append(Series("none", "m", []))
    assert comparison(runs, ["metric/x"], tmp_path / "b.png").stat().st_size > 10_000


def test_a_row_after_a_torn_line_does_not_join_it(tmp_path):
    run = RunFolder(tmp_path)
    run.log({"step": 1})
    with run.file("metrics.jsonl").open("a") as file:
        file.write('{"step": 2')
    run.log({"step": 3})
    assert [row["step"] for row in run.metrics()] == [1, 3]


def test_a_folder_whose_making_was_killed_can_be_made_again(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.yaml.k3j2").touch()
    assert RunFolder(tmp_path).open(CONFIG) == "new"


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path):
    """Files that are being written are named after their process: those of the dead are removed."""
    run = RunFolder(tmp_path / "r")
    run.open(CONFIG)
    (run.path / "student").mkdir()
    names = []
    with whole_file(run.file("curves.png")) as partial:
        names.append(partial.name)
    descriptor, partial = partial_of(run.file("student") / ("long" * 60 + ".npz"), ".npz")
    os.close(descriptor)
    names.append(Path(partial).name)
    os.unlink(partial)
    assert names[0].startswith(".curves.tmp-") and names[0].endswith(".png")
    for pid in ("999999999", "1"):  # no process, and one that lives
        for name, folder in zip(names, (run.path, run.file("student")), strict=True):
            (folder / name.replace(f"tmp-{os.getpid()}-", f"tmp-{pid}-")).touch()
    with run.lock():
        left = [path.name for path in run.path.rglob(".*.tmp-*")]
    assert len(left) == 2 and all("tmp-1-" in name for name in left)


def test_text_is_utf8_in_any_locale(tmp_path):
    code = "import sys; from vardiu.storage.files import write_text_atomic; write_text_atomic(sys.argv[1], '\\xb1')"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, tmp_path / "x"]
    subprocess.run(command, env=os.environ | plain, check=True)
    assert (tmp_path / "x").read_bytes() == b"\xc2\xb1"
