"""Files of a run's folder that are damaged, links, or somebody else's."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from pathlib import Path

import pytest
import yaml
from fuzz import fuzz

from vardiu.cli.main import main
from vardiu.comparison.plan import refuse_odd_plan
from vardiu.errors import CheckpointError, ConfigError, RunError
from vardiu.runs.inputs import kept_provenance
from vardiu.runs.task import RunSettings, Task, load_task, task_from_preset
from vardiu.storage.bounded import read_json
from vardiu.storage.checkpoints import Checkpoints, load_state
from vardiu.storage.run_folder import RunFolder

# ---------------------------------------------------------------- damaged


READERS = {
    "config.yaml": load_task,
    "result.json": lambda path: RunFolder(path.parent).result(),
    "metrics.jsonl": lambda path: RunFolder(path.parent).metrics(),
    "provenance.json": lambda path: kept_provenance(RunFolder(path.parent)),
}


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_of_a_run_are_refused_by_name(small_run, name):
    path = small_run / name
    assert fuzz(path, READERS[name], good=path.read_bytes(), n=60) > 10
    if name == "config.yaml":
        fuzz(path, lambda p: RunFolder(p.parent).config(), good=path.read_bytes(), n=30)
        as_json = json.dumps(
            yaml.safe_load(path.read_text())
        ).encode()  # YAML too, and values change
        assert fuzz(path, load_task, good=as_json, n=80) > 30


def test_damaged_checkpoints_are_refused_by_name(small_run):
    folder = next((small_run / "checkpoints").glob("*/0*"))
    for name in ("state.json", "manifest.json"):
        path = folder / name
        fuzz(path, lambda p: load_state(p.parent), good=path.read_bytes(), n=60, name=folder.name)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../config.yaml"] = {"bytes": 1, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="names a file elsewhere"):
        load_state(folder)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_plan_that_is_no_json_is_refused_with_what_helps(here, refused, text):
    Path("bake").mkdir()
    Path("bake/plan.json").write_text(text)
    line = refused("bake-off", "ring8", "--teachers", "exact", "--out", "bake", "--dry-run")
    assert "bake/plan.json" in line and "delete it, and the arms are timed again" in line


def test_a_damaged_plan_of_a_bake_off_is_refused_by_name(tmp_path):
    row = {"fixed": 1.0, "update": 2, "delayed": 0.0}
    prices = {"exact": {"vardiu": {"rows": row, "seconds": row}}}
    failed = {"exact": {"dmd2": "its loss is nan"}}
    good = {"prices": prices, "failed": failed, "problems": {}, "screening": {}}
    refuse_odd_plan(good, "plan.json")
    for odd in ({**good, "prices": {"exact": [row]}}, {**good, "failed": {"exact": 3}}):
        with pytest.raises(ConfigError, match="plan.json is damaged: delete it"):
            refuse_odd_plan(odd, "plan.json")

    def read(path):
        refuse_odd_plan(read_json(path), str(path))

    assert fuzz(tmp_path / "plan.json", read, good=json.dumps(good).encode(), n=120) > 60


@pytest.mark.parametrize(
    "name", ["config.yaml", "result.json", "provenance.json", "metrics.jsonl"]
)
@pytest.mark.parametrize("text", ["", "null\n", "[1]\n", "5\n", '{"a": \n', "\x00\x01\n"])
def test_commands_name_a_damaged_file(small_run, refused, name, text):
    (small_run / name).write_text(text)
    uses = {
        "config.yaml": ["sample", small_run],
        "result.json": ["compare", small_run],
        "provenance.json": ["export", small_run, "--to", "safetensors"],
        "metrics.jsonl": ["compare", small_run],
    }
    if name == "metrics.jsonl" and text in ("", '{"a": \n'):
        text = "" if not text else text
    if name == "metrics.jsonl" and not text:
        return  # a run that has not yet reported
    assert name in refused(*uses[name])


HALVES = {
    "config.yaml": lambda text: text[: text.index("\nrun:") + 1],
    "result.json": lambda text: text[: len(text) // 2],
    "student/model.json": lambda text: text[: len(text) // 2],
}
CURES = {
    "config.yaml": r"Bring (it|the file) back from a copy$",
    "result.json": r"Move it away and give the command that made the run again: it is written "
    r"anew from the last checkpoint\. Or bring the file back from a copy$",
    "student/model.json": r"take a copy that is whole, or make the model again, as the command "
    r"that made a run does from its checkpoint$",
}


@pytest.mark.parametrize("name", CURES)
@pytest.mark.parametrize("text", ["", "{}", '{"x": 1}', "[]", None])
def test_a_damaged_file_is_refused_with_what_helps(small_run, refused, name, text):
    """Whatever reads it: an empty mapping was taken for a result without numbers."""
    path = small_run / name
    path.write_text(HALVES[name](path.read_text()) if text is None else text)
    commands = [["sample", small_run], ["evaluate", small_run, "--num", "100"]]
    commands += [["export", small_run, "--to", "safetensors"]]
    if name != "student/model.json":
        commands.append(["compare", small_run, "--out", "made"])
    for words in commands:
        line = refused(*words)
        assert str(path) in line and re.search(CURES[name], line.strip()), line
    assert not Path("made").exists()


@pytest.mark.parametrize(
    "field", ["metrics", "cost", "seconds", "teacher_rows", "reference", "verdict"]
)
def test_a_result_of_another_shape_is_damaged(small_run, refused, field):
    path = small_run / "result.json"
    result = json.loads(path.read_text())
    for value in (None, [], "x") if field in result else (None,):
        changed = json.loads(json.dumps(result))
        (changed if field in result else changed["cost"])[field] = value
        path.write_text(json.dumps(changed))
        assert f"{path} is damaged: " in refused("sample", small_run)


def typed(run: Path) -> list[str]:
    """The words that made a run, in the folder that it is in now."""
    words = json.loads((run / "provenance.json").read_text())["command"]
    return [*words[1 : words.index("--out")], "--out", str(run)]


@pytest.mark.parametrize("keep", [0, 0.3, 0.9])
def test_settings_that_were_cut_short_are_not_those_of_another_run(small_run, refused, keep):
    path = small_run / "config.yaml"
    whole = path.read_text()
    path.write_text(whole[: int(keep * len(whole))])
    cut = path.read_bytes()
    line = refused(*typed(small_run))
    assert f"{path} is cut short (" in line and "Bring it back from a copy" in line
    assert path.read_bytes() == cut
    path.write_text(whole.rstrip())  # an editor's own end is no damage
    assert main(typed(small_run)) == 0


def test_a_damaged_line_of_a_log_is_refused_with_what_helps(small_run, refused):
    path = small_run / "metrics.jsonl"
    path.write_text(path.read_text() + "{broken\n")
    line = refused("compare", small_run, "--out", "made")
    assert f"{path}, line 2 is not JSON" in line
    assert line.strip().endswith("Delete that line, or bring the file back from a copy")
    assert not Path("made").exists()


def laughing() -> str:
    """Ten lists, of which each names the one before ten times."""
    lines = ["    - &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"    - &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines)


CONFIGS = {
    "null": "method: null\nproblem: {kind: density}\n",
    "number": "method: 5\nproblem: {kind: density}\n",
    "list for a name": "method: {name: [1]}\nproblem: {kind: density}\n",
    "list for a kind": "problem: {kind: [1]}\n",
    "null for run": "run: null\nmethod: {name: vardiu}\nproblem: {kind: density}\n",
    "number for a setting": "method: {name: vardiu, 1: 2}\nproblem: {kind: density}\n",
    "number for a list": "method: {name: vardiu}\nproblem: {kind: images, widths: 5}\n",
    "short list": "method: {name: vardiu}\nproblem: {kind: images, widths: [5]}\n",
    "words in a list": "method: {name: vardiu}\nproblem: {kind: images, widths: [a, b]}\n",
    "mapping for a preset": "preset: {a: 1}\nmethod: {name: vardiu}\nproblem: {kind: density}\n",
    "command": "command: evil\nmethod: {name: vardiu}\nproblem: {kind: density}\n",
    "brackets": "[" * 20_000,
    "laughing": f"problem: {{kind: density}}\nmethod:\n  name: vardiu\n  steps:\n{laughing()}",
    "not a number": "method: {name: vardiu, lr: .nan}\nproblem: {kind: density}\n",
    "infinite": "method: {name: vardiu}\nproblem: {kind: density, sigma_max: .inf}\n",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_of_another_shape_are_refused_by_name(here, refused, name):
    Path("c.yaml").write_text(CONFIGS[name])
    assert "c.yaml" in refused("distill", "--config", "c.yaml", "--out", "o", "--dry-run")
    assert not Path("o").exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_that_is_none_is_refused(here, refused, value):
    for option in ("--halflife", "--levels.sigma-min")[: 2 if value == "nan" else 1]:
        line = refused("distill", "mog40", f"{option}={value}", "--dry-run")
        assert option.strip("-").replace("-", "_").rpartition(".")[2] in line
    task = task_from_preset("distill", "mog40")
    with pytest.raises(ConfigError, match=r"run.save_every must be a finite number"):
        Task(
            task.command,
            "",
            task.problem,
            task.method,
            task.settings,
            RunSettings(save_every=float(value)),
        )


@pytest.mark.parametrize("name", ["result.json", "provenance.json", "report.html", "student"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_measured(
    small_run, refused, monkeypatch, name
):
    monkeypatch.setattr("vardiu.runs.distill.ship_student", lambda run: pytest.fail("measured"))
    path, words = small_run / name, typed(small_run)
    kinds = ("a folder", "a file")
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
        kinds = ("a file", "a folder")
    else:
        path.unlink(missing_ok=True)  # no page was written of this run
        path.mkdir()
    line = refused(*words)
    assert f"{path} is {kinds[0]}, where a run has {kinds[1]}: move it away" in line
    if name == "result.json":
        assert f"{path} is a folder, and a regular file is needed" in refused("sample", small_run)


# ---------------------------------------------------------------- links


def test_a_lock_is_not_opened_through_a_link(here):
    victim = here / "victim"
    victim.write_text("precious")
    run = RunFolder(here / "run")
    run.path.mkdir()
    run.file(".lock").symlink_to(victim)
    with pytest.raises(RunError, match=r"\.lock is a link"), run.lock():
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "student", "checkpoints/deeper"])
def test_nothing_is_written_through_a_link_in_a_runs_folder(small_run, refused, name):
    outside = small_run.parent / "outside"
    path = small_run / name
    if path.exists():
        shutil.move(path, outside)
    else:
        outside.mkdir()
    path.symlink_to(outside)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in outside.parent.glob("outside*"))
    line = refused("distill", "--config", small_run / "config.yaml", "--out", small_run)
    assert f"{path} is a link" in line and "--out" in line
    assert (
        sorted((p.name, p.stat().st_mtime_ns) for p in outside.parent.glob("outside*")) == before
    )
    with pytest.raises((OSError, RunError)):
        RunFolder(small_run).log({"step": 1}) if name == "metrics.jsonl" else RunFolder(
            small_run
        ).lock().__enter__()


def test_pictures_and_arrays_replace_a_link_and_do_not_follow_it(small_run):
    victim = small_run.parent / "victim"
    victim.write_bytes(b"precious")
    for name in ("samples-4-seed0.npz", "samples-4-seed0.png", ".samples-4-seed0.part.npz"):
        (small_run / name).symlink_to(victim)
    assert main(["sample", str(small_run), "--num", "4"]) == 0
    assert victim.read_bytes() == b"precious"
    assert not (small_run / "samples-4-seed0.npz").is_symlink()
    assert not [
        p
        for p in small_run.iterdir()
        if p.suffix == ".npz" and p.name.startswith(".s") and not p.is_symlink()
    ]


# ---------------------------------------------------------------- what is somebody's own


def test_sample_compare_and_export_write_over_nothing(small_run, refused, here):
    (here / "pics").mkdir()
    precious = [here / "pics/holiday.png", here / "pics/other.npz", here / "made/comparison.png"]
    precious += [here / "made2/comparison.html", here / "shipped/notes.txt"]
    for path in precious:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"precious")
    (here / "dangling").symlink_to(here / "nowhere")
    for words in (
        ["sample", small_run, "--out", "pics/holiday.npz"],
        ["sample", small_run, "--out", "pics/other.npz"],
        ["compare", small_run, "--out", "made"],
        ["compare", small_run, "--out", "made2"],
        ["export", small_run, "--to", "safetensors", "--out", "shipped"],
        ["export", small_run, "--to", "safetensors", "--out", "dangling"],
    ):
        assert "exists, and is not written over" in refused(*words)
    assert all(path.read_bytes() == b"precious" for path in precious)
    assert not list((here / "pics").glob("holiday.npz")) and not (here / "nowhere").exists()
    assert main(["sample", str(small_run), "--num", "4", "--out", "pics/new.npz"]) == 0
    assert main(["compare", str(small_run), "--out", "new"]) == 0
    assert sorted(os.listdir("pics")) == ["holiday.png", "new.npz", "new.png", "other.npz"]


@pytest.mark.parametrize(
    "words, names",
    [
        (["sample", "--num", "3"], ["samples-3-seed0.npz", "samples-3-seed0.png"]),
        (["evaluate", "--num", "100"], ["evaluation-100-seed0.json"]),
    ],
)
def test_what_a_command_did_not_write_is_not_written_over(
    small_run, refused, monkeypatch, words, names
):
    command = [words[0], str(small_run), *words[1:]]
    for name in names:
        for text in ("mine\n", "{}", "[1]"):
            (small_run / name).write_text(text)
            with monkeypatch.context() as patch:
                work = {"sample": "base.Problem.student_source"}
                place = work.get(words[0], "densities.DensityScores.measure")
                patch.setattr(f"vardiu.problems.{place}", lambda *given: pytest.fail("worked"))
                line = refused(*command)
            assert f"{small_run / name} was not written by this command" in line
            assert "move it away" in line and (small_run / name).read_text() == text
        (small_run / name).unlink()
    assert main(command) == 0
    made = {name: (small_run / name).stat().st_mtime_ns for name in names}
    assert main(command) == 0  # its own
    assert all((small_run / name).stat().st_mtime_ns > made[name] for name in names)


@pytest.mark.parametrize("changes", [{"shape": [3]}, {"shape": [0]}, {"latent_shape": [3]}])
def test_a_well_formed_description_of_no_student_is_one_line(small_run, refused, changes):
    path = small_run / "student" / "model.json"
    description = json.loads(path.read_text())
    description["model"] |= changes
    path.write_text(json.dumps(description))
    for words in (["sample", small_run], ["export", small_run, "--to", "safetensors"]):
        assert f"{path} describes a student that makes no sample" in refused(*words)


def test_numbers_of_a_command_that_cannot_be_are_refused_by_the_option(small_run, refused):
    for words in (["--seed", "-1"], ["--seed", str(2**70)], ["--num", "0"], ["--num", 10**15]):
        assert f"{words[0]} must be at" in refused("sample", small_run, *words)
        assert f"{words[0]} must be at" in refused("evaluate", small_run, *words)


def test_a_log_holds_finite_numbers(small_run, refused):
    path = small_run / "metrics.jsonl"
    good = path.read_text()
    for row in ('{"stage": "a", "step": NaN}', '{"stage": "a", "step": 1, "loss": 1e999}'):
        path.write_text(good + row + "\n")
        assert f"{path}, line" in refused("compare", small_run)


def test_a_home_folder_is_meant_by_its_mark_and_a_long_name_is_refused(
    small_run, refused, here, monkeypatch
):
    monkeypatch.setenv("HOME", str(here / "home"))
    assert main(["sample", str(small_run), "--num", "2", "--out=~/some.npz"]) == 0
    assert (here / "home" / "some.npz").is_file() and not (here / "~").exists()
    line = refused("distill", "mog40", "--steps", "4", "--out", "x" * 300)
    assert "cannot be written (File name too long)" in line


def test_names_with_escape_sequences_are_printed_escaped(here, refused):
    line = refused("sample", "run\x1b[31mred\x07")
    assert "\\x1b[31mred\\x07" in line and "\x1b" not in line


# ---------------------------------------------------------------- starts and stops


def test_a_start_that_fails_leaves_no_folder(here, refused, monkeypatch):
    def fails(*arguments):
        raise ConfigError("it cannot be")

    monkeypatch.setattr("vardiu.runs.distill.checked", fails)
    words = ["distill", "mog40", "--samples", "300", "--out", "deep/er/run"]
    assert "it cannot be" in refused(*words)
    assert os.listdir(here) == []
    (here / "deep").mkdir()
    assert "it cannot be" in refused(*words)
    assert os.listdir(here) == ["deep"] and os.listdir("deep") == []


@pytest.mark.parametrize(
    "where", ["vardiu.runs.distill.checked", "vardiu.cli.evaluate.print_metrics"]
)
def test_ctrl_c_at_the_start_and_while_measuring_is_one_line(
    small_run, capsys, monkeypatch, where
):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    measuring = "print_metrics" in where
    words = (
        ["evaluate", "run", "--num", "100"] if measuring else ["distill", "mog40", "--out", "x"]
    )
    capsys.readouterr()
    assert main(words) == 130
    line = capsys.readouterr().err.strip()
    assert "\n" not in line and f"To go on: vardiu {' '.join(words)}" in line
    assert not Path("x").exists()


# ---------------------------------------------------------------- two processes, one store


def test_two_processes_share_a_store(tmp_path, monkeypatch):
    import torch

    from vardiu.storage import checkpoints

    mine, state = Checkpoints(tmp_path), {"a": torch.ones(3)}
    host = platform.node() or "here"
    alive = tmp_path / f".000000001.tmp-1-{host}"  # the first process of the machine lives
    away = tmp_path / ".000000001.tmp-999999999-elsewhere"
    dead = tmp_path / f".000000001.tmp-999999999-{host}"
    for folder in (alive, away, dead):
        folder.mkdir(parents=True)
    mine.save(1, state)
    assert alive.is_dir() and away.is_dir() and not dead.exists()

    # The other process renames its checkpoint of the same step just before this one does.
    real = checkpoints.verify_state

    def overtaken(folder):
        real(folder)
        if folder.name.startswith(".000000002"):
            shutil.copytree(folder, tmp_path / "000000002")

    monkeypatch.setattr(checkpoints, "verify_state", overtaken)
    assert mine.save(2, state) == tmp_path / "000000002"
    monkeypatch.undo()
    assert torch.equal(mine.load(2)["a"], state["a"]) and mine.steps() == [1, 2]
    assert not list(tmp_path.glob(f".000000002.tmp-{os.getpid()}*"))
