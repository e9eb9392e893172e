"""`vardiu push`: what goes to the hub and what never does; a teacher of the hub at a revision."""

from __future__ import annotations

import json
from types import SimpleNamespace

import huggingface_hub
import pipelines
import pytest
import torch

from vardiu.cli.main import main
from vardiu.export import hub
from vardiu.problems.kept import KeptTeacher
from vardiu.teachers import diffusers, load


class FakeApi:
    """The hub's client, which keeps what it is given."""

    def __init__(self, error=None):
        self.made, self.commits, self.error = [], [], error

    def create_repo(self, repository, *, private, exist_ok):
        self.made.append((repository, private, exist_ok))

    def create_commit(self, repository, operations, *, commit_message):
        if self.error is not None:
            raise self.error
        self.commits.append((repository, operations))
        return SimpleNamespace(commit_url=f"https://hub/{repository}/commit/1")


@pytest.fixture
def api(monkeypatch):
    fake = FakeApi()
    monkeypatch.setattr("vardiu.cli.push.api_of_hub", lambda: fake)
    return fake


@pytest.fixture
def exported(small_run, capsys):
    assert main(["export", "run", "--to", "safetensors"]) == 0
    capsys.readouterr()
    return small_run


def state(run, **facts):
    """Changes what a run keeps of its teacher."""
    path = run / "student/model.json"
    kept = json.loads(path.read_text())
    kept["about"]["teacher"] |= facts
    path.write_text(json.dumps(kept))


def test_a_dry_run_shows_every_file_and_the_card_and_uploads_nothing(exported, api, capsys):
    state(exported, licence="apache-2.0", source="org/teacher")
    assert main(["push", "run", "user/name", "--dry-run"]) == 0
    told = capsys.readouterr().out
    folder = exported / "export-safetensors"
    for path in folder.rglob("*"):
        assert path.relative_to(folder).as_posix() in told
        if path.name != "README.md":
            assert f"{path.stat().st_size:,} bytes" in told
    assert "license: apache-2.0" in told and "# mog40" in told and "nothing was uploaded" in told
    assert not api.made and not api.commits


def test_what_goes_is_what_was_shown(exported, api, capsys):
    state(exported, licence="mit", source="org/teacher")
    assert main(["push", "run", "user/name", "--private"]) == 0
    assert api.made == [("user/name", True, True)]
    ((repository, operations),) = api.commits
    folder = exported / "export-safetensors"
    names = {path.name for path in folder.iterdir()}
    assert repository == "user/name" and {o.path_in_repo for o in operations} == names
    card = next(o for o in operations if o.path_in_repo == "README.md")
    read = huggingface_hub.ModelCard(card.path_or_fileobj.read().decode())
    assert read.data.license == "mit" and read.data.library_name == "vardiu"
    assert "uploaded: https://hub/user/name/commit/1" in capsys.readouterr().out


def test_a_licence_that_is_not_stated_is_named(exported, api, refused):
    state(exported, licence=None, source="org/teacher")
    line = refused("push", "run", "user/name")
    assert "org/teacher states no licence" in line and "--licence" in line
    state(exported, licence="somebodys-own-1.0")
    line = refused("push", "run", "user/name")
    assert "somebodys-own-1.0, which is not known here" in line
    assert not api.commits
    assert main(["push", "run", "user/name", "--licence", "somebodys-own-1.0"]) == 0
    ((_, operations),) = api.commits
    read = huggingface_hub.ModelCard(operations[0].path_or_fileobj.read().decode())
    assert read.data.license == "other" and read.data.license_name == "somebodys-own-1.0"


@pytest.mark.parametrize(
    "licence", ["cc-by-nd-4.0", "CC-BY-NC-ND-4.0", "research-only", "x-no-derivatives"]
)
def test_a_licence_that_forbids_students_is_kept(licence, exported, api, refused):
    state(exported, licence=licence, source="org/teacher")
    for words in ([], ["--licence", "mit"], ["--dry-run"]):
        line = refused("push", "run", "user/name", *words)
        assert "forbids" in line and licence.lower() in line
    state(exported, licence=None)
    assert "forbids" in refused("push", "run", "user/name", "--licence", licence)
    assert not api.made and not api.commits


def test_the_record_of_the_teacher_is_not_contradicted():
    assert hub.refuse_licence("MIT", None) == "mit" and hub.refuse_licence("mit", "MIT") == "mit"
    with pytest.raises(hub.ConfigError, match="leave --licence out"):
        hub.refuse_licence("cc-by-nc-4.0", "mit")
    assert hub.refuse_licence("other", "mit") == "mit"


def test_weights_of_a_teacher_never_go(exported, api, refused, tmp_path):
    """A part of its pipeline in the export, or a file that is its own under another name."""
    teacher, folder = tmp_path / "teacher", exported / "export-safetensors"
    teacher.mkdir()
    state(exported, licence="mit", source=str(teacher))
    (teacher / "diffusion.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    line = refused("push", "run", "user/name", "--dry-run")
    assert "is the teacher's own diffusion.safetensors" in line
    (teacher / "diffusion.safetensors").unlink()
    (folder / "vae").mkdir()
    (folder / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"x")
    line = refused("push", "run", "user/name")
    assert "vae/diffusion_pytorch_model.safetensors holds weights of the teacher" in line
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    (folder / "state.pt").write_bytes(b"x")
    assert "state.pt is of no kind that an export has" in refused("push", "run", "user/name")
    (folder / "state.pt").unlink()
    (folder / "more.json").symlink_to(teacher)
    (teacher / "a.json").write_text("{}")
    (folder / "more.json").unlink()
    (folder / "more.json").symlink_to(teacher / "a.json")
    assert "is a link" in refused("push", "run", "user/name")
    assert not api.made


def test_what_is_missing_or_wrong_is_one_line(small_run, api, refused, capsys):
    state(small_run, licence="mit")
    assert "vardiu export" in refused("push", "run", "user/name")
    assert main(["export", "run", "--to", "safetensors"]) == 0
    assert "no name on a hub" in refused("push", "run", "user")
    assert "no name on a hub" in refused("push", "run", "../name")
    assert "no export of this form" in refused("push", "run", "user/name", "--form", "onnx")
    (small_run / "export-onnx").mkdir()
    assert "name one with --form" in refused("push", "run", "user/name")
    card = small_run / "export-safetensors/README.md"
    card.write_text("no metadata")
    line = refused("push", "run", "user/name", "--form", "safetensors")
    assert "no metadata in front" in line
    card.unlink()
    line = refused("push", "run", "user/name", "--form", "safetensors")
    assert "has no README.md" in line


def test_a_hub_that_refuses_ends_in_one_line(exported, api, capsys):
    state(exported, licence="mit")
    api.error = OSError("403\nForbidden")
    assert main(["push", "run", "user/name"]) == 1
    line = capsys.readouterr().err
    assert "the hub did not take user/name: 403 Forbidden" in line and "hf auth login" in line
    # A sentence of the hub's own, and its client's error of a host that is not reached.
    client = huggingface_hub.errors.HfHubHTTPError.__bases__[0]
    for error in (ValueError("it is offline."), client("it is offline")):
        api.error = error
        assert main(["push", "run", "user/name"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "user/name: it is offline. Is it reached from here" in line


# ---------------------------------------------------------------- a teacher at a revision


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def fetched(here, monkeypatch):
    """A pipeline in the hub's cache, and the questions that the hub was asked."""
    torch.manual_seed(0)
    folder = here / "cache/snapshots" / COMMIT
    pipelines.pixels(folder, "v_prediction")  # that of random weights denoises
    asked = []

    def snapshot_download(source, *, revision, allow_patterns):
        asked.append((source, revision))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("revision", ["v1.0", COMMIT, "refs/pr/3", None])
def test_a_teacher_of_the_hub_is_read_at_its_revision(revision, fetched):
    source = "user/name" if revision is None else f"user/name@{revision}"
    assert diffusers.matches(source)
    origin = load(source).origin
    assert set(fetched) == {("user/name", revision)}
    assert origin.source == source and origin.about["revision"] == COMMIT
    assert KeptTeacher.of(load(source), 10).revision == COMMIT


@pytest.mark.slow
def test_the_revision_is_kept_in_the_provenance_and_on_the_card(fetched, here):
    small = (
        "--steps 2 --batch 4 --pairs.pairs 16 --pairs.steps 1 --pairs.solver-steps 2 --delay 0 "
    )
    small += "--evaluations 1 --reports 1 --threads 1 --reference 200 --samples 100"
    words = ["distill", "--teacher", "user/name@v1.0", "--out", "run", *small.split()]
    assert main(words) == 0
    kept = json.loads((here / "run/provenance.json").read_text())
    assert kept["teacher"] == {"source": "user/name@v1.0", "revision": COMMIT}
    about = json.loads((here / "run/student/model.json").read_text())["about"]["teacher"]
    assert about["revision"] == COMMIT
    assert main(["export", "run", "--to", "safetensors"]) == 0
    card = (here / "run/export-safetensors/README.md").read_text()
    assert f"`user/name@v1.0`, revision `{COMMIT}`" in card


def test_what_is_no_revision_is_no_teacher():
    for source in ("user/name@", "user/name@-x", "user@v1", "user/name@a b"):
        assert not diffusers.matches(source)
