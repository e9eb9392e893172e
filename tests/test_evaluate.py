"""A teacher is measured once, by `vardiu evaluate`, and its students are compared with that."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vardiu.cli.by_calls import evaluation_of
from vardiu.cli.export import told_of
from vardiu.cli.main import main
from vardiu.problems.image_scores import ImageScores
from vardiu.problems.images import ImageProblem
from vardiu.problems.sampled_teachers import SampledTeacher
from vardiu.runs.measuring import kept_samples
from vardiu.runs.task import load_task
from vardiu.settings.fields import ImageSettings
from vardiu.storage.run_folder import RunFolder

SMALL = "--batch 8 --samples 220 --evaluations 1 --reports 1 --device cpu --threads 1".split()
DATA = ["--data", "real.npz", "--reference", "200", "--side", "8", "--channels", "1"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("taught")
    x = np.random.default_rng(0).integers(0, 256, (260, 8, 8, 1), dtype="uint8")
    np.savez(folder / "real.npz", x=x)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(ImageScores, "quick", 60)
        words = [*DATA, "--widths", "8", "16", "--depth", "1", "--no-conditional", "--steps", "2"]
        assert main(["teach", "patches", *words, *SMALL, "--out", "t"]) == 0
    return folder


@pytest.fixture
def teacher(taught, tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    shutil.copytree(taught, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(ImageScores, "quick", 60)
    return Path("t")


def known(n: int, data: str = "real.npz"):
    row = ImageSettings(teacher="t", data=data, reference=200)
    return ImageProblem(row).scores.teacher_metrics(n)


def rows(metrics) -> list[dict]:
    return [metric.row() for metric in metrics]


def refused(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_students_reference_is_what_was_measured_of_its_teacher(teacher, monkeypatch, capsys):
    before = sorted(path.name for path in teacher.iterdir())
    fresh, _ = known(240)
    assert main(["evaluate", "t", "--num", "240", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "teacher" in told and "student" not in told and "Fréchet distance" in told
    path = teacher / "evaluation-240-seed0.json"
    assert sorted(path.name for path in teacher.iterdir()) == sorted([*before, path.name])
    found = json.loads(path.read_text())
    assert found["metrics"] == rows(fresh)  # by the same solver, of the same noise
    assert found["command"][:4] == ["vardiu", "evaluate", "t", "--num"] and found["spaces"]

    measured = []
    monkeypatch.setattr(ImageScores, "measure", lambda *given: measured.append(given[2]) or [])
    assert rows(known(240)[0]) == rows(fresh) and not measured
    # What was measured when it was written counts as well, though precision is of fewer samples.
    kept = json.loads((teacher / "teacher" / "model.json").read_text())["about"]["metrics"]
    assert rows(known(220)[0]) == kept and not measured
    assert known(241)[0] == [] and measured == [241]

    # Numbers of other weights, or by another version, are not this teacher's.
    for name, value in (("weights", {"bytes": 1, "sha256": "0"}), ("version", "0.0.1")):
        path.write_text(json.dumps({**found, name: value}))
        measured.clear()
        assert known(240)[0] == [] and measured == [240], name
    # Those of another seed are kept apart.
    path.write_text(json.dumps(found))
    path.rename(teacher / "evaluation-240-seed1.json")
    measured.clear()
    assert known(240) and measured == [240]


def test_what_is_compared_with_other_data_is_kept_beside(teacher, tmp_path, monkeypatch, capsys):
    others = {}
    for i, folder in enumerate(("one", "two")):  # files of one name, in two places
        Path(folder).mkdir()
        x = np.random.default_rng(i + 1).integers(0, 256, (260, 8, 8, 1), dtype="uint8")
        np.savez(Path(folder, "other.npz"), x=x)
        others[folder] = str(Path(folder, "other.npz"))
    assert main(["evaluate", "t", "--num", "240"]) == 0
    own = teacher / "evaluation-240-seed0.json"
    before = own.read_bytes()
    for data in others.values():
        assert main(["evaluate", "t", "--num", "240", "--data", data]) == 0
    assert own.read_bytes() == before
    named = sorted(path.name for path in teacher.glob("evaluation-240-seed0-data-*.json"))
    assert len(named) == 2 and all(
        name.startswith(f"{own.stem}-data-other.npz-") for name in named
    )
    assert main(["evaluate", "t", "--num", "240", "--data", others["one"]]) == 0
    assert len(list(teacher.glob("evaluation-*.json"))) == 3  # the same data, the same file
    assert main(["evaluate", "t", "--calls", "3", "--num", "230", "--data", others["one"]]) == 0
    assert len(list(teacher.glob("evaluation-230-seed0-calls3-data-*.json"))) == 1

    # Students are compared with what was measured against the same images.
    measured = []
    monkeypatch.setattr(ImageScores, "measure", lambda *given: measured.append(given[2]) or [])
    for data in others.values():
        (path,) = teacher.glob(f"evaluation-240-seed0-data-other.npz-{_where(data)}.json")
        found, _ = known(240, data)
        assert rows(found) == json.loads(path.read_text())["metrics"] and not measured
    assert rows(known(240)[0]) == json.loads(before)["metrics"] and not measured


def test_names_of_data_that_no_folder_has_are_told_apart():
    def name(data: str | None) -> str:
        return evaluation_of(RunFolder("r"), 9, 0, "-calls2", data).name

    assert name(None) == "evaluation-9-seed0-calls2.json"
    assert name("photos-held-out") == "evaluation-9-seed0-calls2-data-photos-held-out.json"
    far = [name(data) for data in ("one/set", "two/set", "one:set", "set")]
    assert len(set(far)) == 4 and far[0].startswith("evaluation-9-seed0-calls2-data-set-")


def _where(data: str) -> str:
    return hashlib.sha256(str(Path(data).resolve()).encode()).hexdigest()[:6]


def test_odd_numbers_beside_a_teacher_are_refused_by_name(teacher, capsys):
    path = teacher / "evaluation-240-seed0.json"
    for text, message in (
        (json.dumps({"metrics": [{"name": "frechet", "value": "low"}]}), "is not what vardiu"),
        ("[]", "evaluation-240-seed0.json must hold"),
        ("{", "evaluation-240-seed0.json"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            known(240)


def test_what_a_teacher_is_not_asked_is_refused_before_it_is_measured(
    teacher, monkeypatch, capsys
):
    def never(*arguments):
        raise AssertionError("it measures what it cannot keep")

    monkeypatch.setattr(ImageScores, "measure", never)
    for calls in ("2", "1,2"):
        line = refused(capsys, "evaluate", "t", "--calls", calls)
        assert "--calls 2: n steps of Heun's method are 2n - 1 calls" in line and "1 or 3" in line
    Path("empty").mkdir()
    Path("notes.txt").write_text("no image")
    for data, said in (("empty", "empty"), ("notes.txt", "of no kind that is known; give")):
        assert said in refused(capsys, "evaluate", "t", "--data", data)
    for words in (["--guidance", "2"], ["--teacher", "t"], ["--guide", "teacher"]):
        line = refused(capsys, "evaluate", "t", *words)
        assert "t holds a teacher, which is measured as it is" in line
        assert f"{words[0]} is an option of students, leave it out" in line
    (teacher / "result.json").unlink()
    line = refused(capsys, "evaluate", "t")
    assert "t is not finished: run `vardiu teach --config t/config.yaml --out t`" in line
    assert load_task(teacher / "config.yaml").command == "teach"


def test_quality_against_calls_stands_beside_a_teacher_of_as_many_samples(teacher, monkeypatch):
    monkeypatch.setattr("vardiu.runs.distill.checked", lambda *_: [])  # it was taught two updates
    words = ["--teacher", "t", "--data", "real.npz", "--reference", "200", "--steps", "8"]
    words += ["--grid", "4", *SMALL, "--out", "few"]
    assert main(["distill", "patches-progressive", *words]) == 0
    reference = RunFolder("few").result()["reference"]["metrics"]
    kept = json.loads((teacher / "teacher" / "model.json").read_text())["about"]["metrics"]
    assert reference == kept  # not measured once more
    assert main(["evaluate", "t", "--num", "250"]) == 0
    wanted = json.loads((teacher / "evaluation-250-seed0.json").read_text())["metrics"]
    for n, expected in ((220, kept), (250, wanted)):
        assert main(["evaluate", "few", "--calls", "1,2", "--num", str(n)]) == 0
        found = json.loads(Path(f"few/evaluation-{n}-seed0-calls1-2.json").read_text())
        assert found["reference"] == {"name": "teacher, 69 calls", "metrics": expected}


def test_a_student_is_compared_with_files_of_others_and_with_its_own_where_they_are_now(
    teacher, monkeypatch, capsys
):
    monkeypatch.setattr("vardiu.runs.distill.checked", lambda *_: [])  # it was taught two updates
    words = ["--teacher", "t", "--data", "real.npz", "--reference", "200", "--steps", "8"]
    words += ["--grid", "4", *SMALL, "--out", "few"]
    assert main(["distill", "patches-progressive", *words]) == 0
    x = np.random.default_rng(1).integers(0, 256, (260, 8, 8, 1), dtype="uint8")
    np.savez("other.npz", x=x)
    Path("far").mkdir()
    shutil.move("real.npz", "far/real.npz")

    measure = ["evaluate", "few", "--num", "230"]
    assert main([*measure, "--data", "far/real.npz"]) == 0
    assert main([*measure, "--data", "other.npz"]) == 0
    own, other = (
        json.loads(Path(f"few/evaluation-230-seed0{of}.json").read_text())
        for of in ("", f"-data-other.npz-{_where('other.npz')}")
    )
    assert own["metrics"][0]["value"] != other["metrics"][0]["value"]
    assert main([*measure, "--calls", "2", "--data", "far/real.npz"]) == 0
    assert main([*measure, "--calls", "2", "--data", "other.npz", "--num", "240"]) == 0
    found = json.loads(Path("few/evaluation-230-seed0-calls2.json").read_text())
    assert told_of(RunFolder("few"), 2, None)["metrics"] == found["metrics"]  # of its own data
    # The files that it was begun with are told from what stands in their place now.
    np.savez("real.npz", x=x)
    line = refused(capsys, *measure)
    assert "begun with another data files: real.npz was changed since" in line
    assert refused(capsys, *measure, "--data", "real.npz") == line


def test_a_teachers_quality_against_the_calls_of_its_solver(teacher):
    words = ["evaluate", "t", "--calls", "3,69", "--num", "230", "--seed", "0"]
    assert main(words) == 0
    path = teacher / "evaluation-230-seed0-calls3-69.json"
    found = json.loads(path.read_text())
    rows = {(row["who"], row["calls"]): row["metrics"] for row in found["rows"]}
    assert rows.keys() == {(f"teacher, {by}", n) for by in ("Heun", "DDIM") for n in (3, 69)}
    assert [row["how"] for row in found["rows"] if "how" in row] == [
        "2 steps of Heun's method",
        "35 steps of Heun's method",
    ]
    assert found["command"] == ["vardiu", *words] and found["hashes"]
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    # With 69 calls it is what students are compared with.
    fresh, _ = known(230)
    pairs = zip(rows["teacher, Heun", 69], [metric.row() for metric in fresh], strict=True)
    for ours, theirs in pairs:
        assert ours["value"] == pytest.approx(theirs["value"], rel=1e-6)
    assert rows["teacher, Heun", 3] != rows["teacher, DDIM", 3]


def broken_after(monkeypatch, target, name: str, times: int) -> list[int]:
    """Has a method be a kill after so many calls; returns what counts them."""
    real, made = getattr(target, name), []

    def once(*given, **named):
        if len(made) == times:
            raise KeyboardInterrupt
        made.append(1)
        return real(*given, **named)

    monkeypatch.setattr(target, name, once)
    return made


def test_a_measurement_that_was_killed_goes_on_with_what_it_had(teacher, monkeypatch, capsys):
    monkeypatch.setattr("vardiu.problems.sampled_teachers.ROWS_AT_ONCE", 50)
    words = ["evaluate", "t", "--num", "240", "--device", "cpu"]
    fresh, _ = known(240)
    before = sorted(path.name for path in teacher.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        broken_after(patch, SampledTeacher, "solve_from", 3)
        assert main(words) == 130
        assert "To go on: vardiu evaluate t" in capsys.readouterr().err
    unfinished = teacher / "unfinished-evaluation-240-seed0"
    assert len([*unfinished.glob("samples-*/0*")]) == 3 and not [*teacher.glob("*.json.*")]
    made = broken_after(monkeypatch, SampledTeacher, "solve_from", 100)
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "making samples of the teacher: 3 of 5 portions" in told
    assert "making samples of the teacher: 5 of 5 portions" in told
    # Two portions were left of five; the other two are of the samples that spaces compare.
    assert len(made) == 2 + 2
    found = json.loads((teacher / "evaluation-240-seed0.json").read_text())
    assert found["metrics"] == rows(fresh)
    after = sorted(path.name for path in teacher.iterdir())
    assert after == sorted([*before, "evaluation-240-seed0.json"])


def test_rows_by_calls_that_were_measured_before_a_kill_are_not_measured_again(
    teacher, monkeypatch
):
    monkeypatch.setattr("vardiu.problems.sampled_teachers.ROWS_AT_ONCE", 100)
    words = ["evaluate", "t", "--calls", "1,3", "--num", "230"]
    with pytest.MonkeyPatch.context() as patch:
        broken_after(patch, ImageScores, "measure", 3)
        assert main(words) == 130
    # Another seed shares nothing with it, and leaves it there.
    made = broken_after(monkeypatch, ImageScores, "measure", 100)
    assert main([*words, "--seed", "1"]) == 0 and len(made) == 4
    assert (teacher / "unfinished-evaluation-230-seed0-calls1-3").is_dir()
    assert main(words) == 0 and len(made) == 4 + 1
    assert not [*teacher.glob("unfinished*")]
    first, other = (
        json.loads((teacher / f"evaluation-230-seed{seed}-calls1-3.json").read_text())["rows"]
        for seed in (0, 1)
    )
    assert [row["who"] for row in first] == [row["who"] for row in other] and first != other
    heun = [row["metrics"] for row in first if row["who"] == "teacher, Heun"]
    assert len(heun) == 2 and heun[0] != heun[1]
    assert main(words) == 0 and len(made) == 4 + 1 + 4  # one that is finished is measured anew
    again = json.loads((teacher / "evaluation-230-seed0-calls1-3.json").read_text())["rows"]
    assert again == first


def test_samples_are_kept_by_their_noise_and_their_steps(teacher, tmp_path, monkeypatch):
    """Two measurements in one place never take each other's samples."""
    task = load_task(teacher / "config.yaml")
    problem = ImageProblem(ImageSettings(teacher="t", data="real.npz", reference=200))
    monkeypatch.setattr("vardiu.problems.sampled_teachers.ROWS_AT_ONCE", 100)
    cases = [(seed, steps) for seed in (0, 1) for steps in (1, 2)]

    def drawn(seed: int, steps: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(seed)
        return problem.teacher_source(steps)(230, random)[0]

    plain = [drawn(*case) for case in cases]
    place = tmp_path / "kept"
    for _ in range(2):
        with kept_samples(place, problem, task, lambda event: None):
            for case, wanted in zip(cases, plain, strict=True):
                assert torch.equal(drawn(*case), wanted), case
            assert len([*place.iterdir()]) == len(cases)
        assert not place.exists()
