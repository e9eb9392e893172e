"""Students of several numbers of calls in one run: kept, sampled, measured side by side."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from vardiu import models
from vardiu.cli.by_calls import MOST, calls_in
from vardiu.cli.export import refuse_other_adapter
from vardiu.cli.main import main
from vardiu.errors import ConfigError
from vardiu.methods import progressive
from vardiu.storage.run_folder import RunFolder

WORDS = ["distill", "mog40-progressive", "--steps", "12", "--grid", "4", "--fold", "1"]
WORDS += ["--batch", "16", "--samples", "300", "--evaluations", "1", "--reports", "1"]
WORDS += ["--width", "8", "--depth", "1", "--device", "cpu", "--threads", "1"]
# Exports are float32: on a CPU with units for bfloat16 the student would compute in that.
WORDS += ["--precision", "float32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("few") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vardiu.problems.densities.DensityScores.quick", 300)
        assert main([*WORDS, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 300)


def told(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_each_stages_student_is_kept_and_sampled(run):
    kept = {path.name: models.load(path) for path in (run / "students").iterdir()}
    assert {name: s.calls for name, s in kept.items()} == {"4": 4, "2": 2, "1": 1}
    for calls in (1, 2, 4):
        assert main(["sample", str(run), "--num", "20", "--calls", str(calls)]) == 0
        x = np.load(run / f"samples-20-seed0-calls{calls}.npz")["x"]
        wanted = kept[str(calls)].sample(20, generator=torch.Generator().manual_seed(0))
        np.testing.assert_allclose(x, wanted.numpy(), rtol=1e-5, atol=1e-5)
    shipped = models.load(run / "student")
    for a, b in zip(shipped.parameters(), kept["1"].parameters(), strict=True):
        assert torch.equal(a, b)


def test_quality_is_measured_against_calls_beside_the_teachers(run, capsys):
    words = ["evaluate", str(run), "--calls", "4,1,2", "--num", "300"]
    assert main(words) == 0
    path = run / "evaluation-300-seed0-calls1-2-4.json"
    found = json.loads(path.read_text())
    rows = {(row["who"], row["calls"]): row for row in found["rows"]}
    assert rows.keys() == {(who, n) for who in ("student", "teacher, DDIM") for n in (1, 2, 4)}
    for (who, calls), row in rows.items():
        assert all(m["n"] == 300 and "error" in m for m in row["metrics"])
        if who == "student":
            assert row["how"].startswith(f"{calls} call")
    assert "by the rule ddim at the levels" in rows["student", 4]["how"]
    assert len({row.get("weights") for row in rows.values()}) == 4  # three students and none
    mmd = {key: row["metrics"][0]["value"] for key, row in rows.items()}
    assert len(set(mmd.values())) == 6  # each is its own samples
    assert mmd["teacher, DDIM", 4] < mmd["teacher, DDIM", 1]
    assert found["command"] == ["vardiu", *words] and found["hashes"]
    assert found["reference"]["name"] == "true samples"
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    # One number alone is measured as before.
    assert main(["evaluate", str(run), "--calls", "2", "--num", "300"]) == 0
    one = json.loads((run / "evaluation-300-seed0-calls2.json").read_text())
    assert one["metrics"][0]["value"] == pytest.approx(mmd["student", 2], rel=1e-6)


def test_a_figure_of_somebody_else_is_not_drawn_over(run, monkeypatch, capsys):
    words = ["evaluate", str(run), "--calls", "1,2", "--num", "300", "--seed", "7"]
    path = run / "evaluation-300-seed7-calls1-2.png"
    path.write_text("mine")
    with monkeypatch.context() as patch:
        measure = "vardiu.problems.densities.DensityScores.measure"
        patch.setattr(measure, lambda *given: pytest.fail("measured"))
        assert main(words) == 2
    assert f"{path} was not written by this command" in told(capsys)
    assert path.read_text() == "mine" and not path.with_suffix(".json").exists()


@pytest.mark.parametrize("words", [["evaluate"], ["evaluate", "--calls", "1,2"], ["sample"]])
def test_a_folder_that_cannot_be_written_is_told_before_measuring(words, run, monkeypatch, capsys):
    def read_only(dir):
        raise OSError(30, "Read-only file system")

    def never(*arguments):
        raise AssertionError("it measures what it cannot keep")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    monkeypatch.setattr("vardiu.problems.base.Problem.student_source", never)
    assert main([words[0], str(run), *words[1:]]) == 2
    assert f"{run} cannot be written (Read-only file system)" in told(capsys)


def test_numbers_of_calls_that_a_run_has_not_are_refused_before_measuring(run, capsys):
    before = sorted(path.name for path in run.iterdir())
    for calls, message in (
        ("1,3", "--calls: this student makes a sample in 1 call and no other number, got 3"),
        ("1,x", "--calls must be whole numbers, such as 1,2,4, got 1,x"),
        ("0,1", "--calls must be at least 1, got 0"),
        ("", "--calls must be whole numbers"),
    ):
        assert main(["evaluate", str(run), "--calls", calls]) == 2
        assert message in told(capsys)
    assert main(["sample", str(run), "--calls", "8"]) == 2
    assert "got 8" in told(capsys)
    assert sorted(path.name for path in run.iterdir()) == before
    with pytest.raises(ConfigError, match=f"at most {MOST} numbers, got 17"):
        calls_in(",".join(map(str, range(1, 18))))
    assert calls_in("2,1,2") == [1, 2] and calls_in(None) == []


def test_a_run_that_is_broken_off_inside_a_stage_ends_as_one_that_is_not(
    run, tmp_path, monkeypatch
):
    real, count = progressive.denoiser_of, [0]

    def breaking(objective):
        count[0] += 1
        if count[0] == 8:  # the second of three stages, three steps to each and reports beside
            raise RuntimeError("broken off")
        return real(objective)

    again = tmp_path / "again"
    monkeypatch.setattr(progressive, "denoiser_of", breaking)
    with pytest.raises(RuntimeError, match="broken off"):
        main([*WORDS, "--out", str(again)])
    assert not (again / "student").exists()
    trained = sorted(path.name for path in (again / "checkpoints").iterdir())
    assert trained[0] == "0-fold"
    monkeypatch.setattr(progressive, "denoiser_of", real)
    seen = []
    fit = progressive.ProgressiveDistillation.loss

    def counted(self, drawn, step):
        seen.append((self.calls, step))
        return fit(self, drawn, step)

    monkeypatch.setattr(progressive.ProgressiveDistillation, "loss", counted)
    assert main([*WORDS, "--out", str(again)]) == 0
    assert 4 not in {calls for calls, _ in seen}  # the first stage is not trained again
    for name in ("student", "students/2", "students/4"):
        a, b = (folder / name / "model.safetensors" for folder in (run, again))
        assert a.read_bytes() == b.read_bytes(), name


def test_a_few_step_student_is_asked_at_levels_of_its_own_grid():
    from cases import denoiser

    from vardiu.students.few_step import FewStep

    student = FewStep(denoiser(), [8.0, 4.0, 2.0, 1.0], "ddim")
    assert student.with_calls(2).sigmas == [8.0, 2.0] and student.with_calls(1).sigmas == [8.0]
    assert student.with_calls(2).with_calls(4).sigmas == student.sigmas
    with pytest.raises(ValueError, match="makes a sample in 1 to 4 calls, got 5"):
        student.with_calls(5)
    with pytest.raises(ValueError, match="makes a sample in 1 call, got 2"):
        FewStep(denoiser(), [8.0]).with_calls(2)


def test_each_number_of_calls_is_exported_with_what_was_measured_of_it(run, tmp_path, capsys):
    runtime = pytest.importorskip("onnxruntime")
    run = shutil.copytree(run, tmp_path / "run")
    for measured in run.glob("evaluation-*"):  # by other tests
        measured.unlink()
    assert main(["evaluate", str(run), "--calls", "1,4", "--num", "310"]) == 0
    rows = json.loads((run / "evaluation-310-seed0-calls1-4.json").read_text())["rows"]
    (mmd,) = [r["metrics"][0]["value"] for r in rows if (r["who"], r["calls"]) == ("student", 4)]
    random = torch.Generator().manual_seed(0)
    for calls in (2, 4):
        assert main(["export", str(run), "--to", "onnx", "--calls", str(calls)]) == 0
        out, kept = run / f"export-onnx-calls{calls}", models.load(run / f"students/{calls}")
        session = runtime.InferenceSession(out / "model.onnx")
        z = torch.randn(5, *kept.latent_shape, generator=random)
        (x,) = session.run(["x"], {"z": z.numpy()})
        np.testing.assert_allclose(x, kept(z).detach().numpy(), rtol=1e-4, atol=1e-4)
        facts = session.get_modelmeta().custom_metadata_map
        assert facts["calls"] == str(calls) and facts["rule"] == '"ddim"'
        card = (out / "README.md").read_text()
        assert f"A sample takes {calls} calls by the rule ddim" in card
        assert not (out / "samples.png").exists()  # the run's picture is of another student
        assert (f"| mmd2 | {mmd:.4g} |" in card) == (calls == 4)
        assert ("Its samples were not measured." in card) == (calls == 2)
    capsys.readouterr()
    for words, message in (
        (["--calls", "3"], "--calls: this student makes a sample in 1 call and no other"),
        (["--calls", "0"], "--calls must be at least 1, got 0"),
        (["--guidance", "2"], "--guidance: this student is told no guidance"),
    ):
        assert main(["export", str(run), "--to", "safetensors", *words]) == 2
        assert message in told(capsys)
    assert not list(run.glob("export-safetensors*"))


def test_an_adapter_is_that_of_the_last_student_alone(tmp_path):
    for name, weights in (("student", b"one"), ("students/1", b"one"), ("students/2", b"two")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    for calls in (None, 1, 4):  # one of its own weights may be asked more often
        refuse_other_adapter(RunFolder(tmp_path), calls)
    with pytest.raises(ConfigError, match="is that of its last student, not of the one of 2"):
        refuse_other_adapter(RunFolder(tmp_path), 2)
