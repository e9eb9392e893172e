"""Runs side by side: what is one series, how it is called, and numbers at every width."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from vardiu.cli.main import main
from vardiu.comparison.contests import Competitor, Contest
from vardiu.comparison.plan import BakeOff, Cell, cells
from vardiu.comparison.results import results
from vardiu.comparison.series import differences, series_names
from vardiu.comparison.tables import table
from vardiu.methods import vardiu
from vardiu.metrics import Metric
from vardiu.reports.tables import show_table
from vardiu.runs.task import Task, task_from_preset
from vardiu.settings.fields import DensitySettings
from vardiu.storage.run_folder import RunFolder


def task(preset: str = "mog40", method: str | None = None, run=None, problem=None, **settings):
    found = task_from_preset("distill", preset, method)
    return dataclasses.replace(
        found,
        settings=dataclasses.replace(found.settings, **settings),
        run=dataclasses.replace(found.run, **(run or {})),
        problem=dataclasses.replace(found.problem, **(problem or {})),
    )


MACHINE = {"seed": 3, "device": "cpu", "threads": 2, "save_every": 5.0, "milestones": 2}


def test_seeds_and_machines_are_one_series_and_every_other_setting_is_another():
    assert len(set(series_names([task(), task(run=MACHINE)]))) == 1
    others = {
        "lr 0.005": task(lr=0.005),
        "batch 64": task(batch=64),
        "accumulate 2": task(run={"accumulate": 2}),
        "width 8": task(problem={"width": 8}),
        "levels.sigma_min 0.3": task(
            levels=dataclasses.replace(task().settings.levels, sigma_min=0.3)
        ),
    }
    for name, other in others.items():
        first, second, third = series_names([task(), other, task(run=MACHINE)])
        assert first == third != second == name


def test_methods_from_one_preset_have_names_of_their_own():
    """Their `preset` is the same: it was their name, their colour and their averaged band."""
    runs = [task(), task(method="diff_instruct"), task(method="diff_instruct", ratio=7)]
    runs += [dataclasses.replace(runs[2], run=dataclasses.replace(runs[2].run, seed=1))]
    assert series_names(runs) == [
        "vardiu",
        "diff_instruct, ratio 5",
        "diff_instruct, ratio 7",
        "diff_instruct, ratio 7",
    ]
    rows = differences(runs)
    assert [row["series"] for row in rows] == series_names(runs)[:3]
    assert rows[2] | {"runs": "2", "seeds": "0, 1", "ratio": "7"} == rows[2]


def test_presets_that_differ_in_much_are_named_by_their_names_and_never_share_one():
    runs = [task("mog40"), task("mog40-gaussian"), task("mog40-flow")]
    assert series_names(runs) == ["mog40", "mog40-gaussian", "mog40-flow"]
    changed = {"lr": 0.1, "batch": 8, "steps": 5, "clip": 1.0}
    names = series_names([task(), task(**changed), task("mog40-gaussian")])
    assert len(set(names)) == 3 and names[2] == "mog40-gaussian"
    assert "lr 0.1" in names[1] and "clip 1" in names[1]


ROWS = [
    {
        "run": "runs/" + "long-name-" * i,
        **{f"metric {k}": f"{k}.1234 ± 0.0{k}" for k in range(1, 8)},
    }
    for i in (3, 9)
]


@pytest.mark.parametrize("width", [30, 80, 400])
@pytest.mark.parametrize("terminal", [True, False])
def test_numbers_are_whole_at_every_width(width, terminal):
    file = io.StringIO()
    show_table(
        Console(file=file, width=width, force_terminal=terminal, color_system=None), "t", ROWS
    )
    told = file.getvalue()
    for row in ROWS:
        for cell in row.values():
            assert cell in told
    assert "…" not in told
    if terminal:
        lines = [line for line in told.splitlines() if "runs/" not in line]
        assert max(map(len, lines)) <= width


def finished(folder: RunFolder, task: Task, value: float, updates: int = 5) -> None:
    folder.open(task.to_mapping())
    metric = Metric("mmd2", value, 0.01, 500, False).row()
    cost = {"seconds": 1.0, "teacher_calls": 7, "teacher_rows": 70, "student_updates": updates}
    folder.finish({"metrics": [metric], "cost": {**cost, "steps": 5}})


def test_compare_says_what_each_number_is_of(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vardiu.cli.compare.comparison", lambda *given: tmp_path / "x.png")
    monkeypatch.setattr("vardiu.cli.compare.write_tables", lambda *given, **more: "page")
    finished(RunFolder("a"), task(), 0.5)
    finished(RunFolder("b"), task(method="diff_instruct", run={"seed": 1}), 0.25)
    assert main(["compare", "a", "b"]) == 0
    told = capsys.readouterr().out
    assert "2 of 2 runs are complete" in told
    for text in ("0.5 ± 0.01", "0.25 ± 0.01", "500", "diff_instruct"):
        assert text in told


def test_an_arm_that_was_never_updated_is_not_ranked_and_runs_are_counted(tmp_path):
    arm = Competitor("Gaussian", "vardiu", vardiu.Settings(steps=60))
    contest = Contest("", {"exact": DensitySettings()}, {"a": arm, "b": arm}, seconds=1, rows=1)
    bake = BakeOff("x", contest, tmp_path, 3, 1, 1, ("own",), ("exact",), ("a", "b"))
    planned: dict[str, dict] = {"prices": {}, "failed": {}, "screening": {}}
    todo: list[Cell] = list(cells(bake, planned))
    updates = {("a", 0): 60, ("a", 1): 0, ("b", 0): 60, ("b", 1): 60, ("b", 2): 60}
    for cell in todo:
        if (cell.arm, cell.seed) in updates:
            folder = RunFolder(cell.folder)
            finished(folder, cell.task, 1.0 + cell.seed, updates[cell.arm, cell.seed])
    first, second = table(results(bake, todo, "own", "exact", planned), ["mmd2"], "mmd2")
    assert first["runs"] == "1 of 3 (1 missing, 1 never updated: not ranked)"
    assert first["mmd2"] == "1 ± 0.01"  # the run that was not updated is not in it
    assert second["runs"] == "3 of 3" and second["mmd2"] == "2 [1, 3]"
    assert first["samples"] == second["samples"] == "500"
    (kept,) = results(bake, todo, "own", "exact", planned)[0].runs
    assert json.loads(json.dumps(kept))["errors"] == {"mmd2": 0.01}


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Three finished runs; a comparison's picture and page are what they are of."""
    monkeypatch.chdir(tmp_path)

    def picture(series, metrics, path):
        path.write_text(" ".join(each.label for each in series))
        return path

    monkeypatch.setattr("vardiu.cli.compare.comparison", picture)
    monkeypatch.setattr("vardiu.cli.compare.quality_charts", lambda *given: [])
    for seed, name in enumerate("abc"):
        finished(RunFolder(name), task(run={"seed": seed}), 0.5)
    return tmp_path


def test_a_comparison_is_never_written_over_by_another(drawn, capsys):
    def at(*words: str) -> str:
        assert main(["compare", *words]) == 0
        return capsys.readouterr().out.split("report:")[1].strip()

    assert at("a", "b") == "runs/compare/comparison.html"
    first = Path("runs/compare/comparison.html").read_bytes()
    assert at("a", "c") == "runs/compare-2/comparison.html"
    assert at("./b", str(drawn / "a")) == "runs/compare/comparison.html"  # the same one
    assert at("b", "c") == "runs/compare-3/comparison.html"
    assert at("a", "c") == "runs/compare-2/comparison.html"
    assert at("a", "b") == "runs/compare/comparison.html"
    assert Path("runs/compare/comparison.html").read_bytes() == first
    # What has no description, or a damaged one, may be anybody's.
    Path("runs/compare/comparison.json").unlink()
    Path("runs/compare-2/comparison.json").write_text("{")
    assert at("a", "b") == "runs/compare-4/comparison.html"
    assert Path("runs/compare/comparison.html").read_bytes() == first
    assert Path("runs/compare-2/comparison.json").read_text() == "{"


def test_a_run_that_is_named_twice_is_refused(drawn, capsys):
    for words, line in (
        (["a", "b", "a"], "a is named twice: name each run once"),
        (["a", "./b/../a"], "b/../a is named twice, also as a: name each run once"),
    ):
        assert main(["compare", *words]) == 2
        assert capsys.readouterr().err.strip() == f"vardiu compare: {line}"
    assert not Path("runs").exists()


def test_a_comparison_is_not_written_into_the_folder_of_a_run(drawn, capsys):
    for name in "ac":  # one of those that are compared, and another
        before = sorted(Path(name).iterdir())
        assert main(["compare", "a", "b", "--out", name]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == (
            f"vardiu compare: --out {name} is the folder of a run (it holds config.yaml), and a "
            "comparison has one of its own: give another folder, or leave --out out"
        )
        assert sorted(Path(name).iterdir()) == before
    assert main(["compare", "a", "b", "--out", "new"]) == 0


@pytest.mark.parametrize("place", ["file", "file/deeper", "closed/deeper"])
def test_a_place_for_a_comparison_that_cannot_be_written_is_named(drawn, capsys, place):
    Path("file").write_text("mine")
    Path("closed").mkdir(mode=0o555)
    if place.startswith("closed") and os.access("closed", os.W_OK):
        pytest.skip("this user writes everywhere")
    assert main(["compare", "a", "b", "--out", place]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vardiu compare: {place} cannot be written (")
    assert line.endswith("): give a folder that can with --out")
    assert Path("file").read_text() == "mine"
