"""`vardiu cache`: what is encoded once, and the trainings that then load no encoder."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pipelines
import pytest
import torch
from processes import Command

from vardiu import models
from vardiu.cli.main import main
from vardiu.data import kept_rows
from vardiu.data.kept_rows import KeptRows, make_rows
from vardiu.denoisers.levels import LogUniform
from vardiu.denoisers.prompts import LookedUp
from vardiu.errors import CheckpointError, ConfigError
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.problems import image_teachers
from vardiu.problems.images import ImageProblem
from vardiu.settings.fields import ImageSettings
from vardiu.storage.artefacts import Artefacts
from vardiu.teachers import diffusers as reader
from vardiu.teachers import diffusers_codecs, diffusers_models, diffusers_texts
from vardiu.teachers.readers import load

QUICK = ["--method", "regression", "--batch", "8", "--evaluations", "1", "--reports", "1"]
QUICK += ["--reference", "400", "--pairs.pairs", "16", "--pairs.batch", "8", "--samples", "200"]
QUICK += ["--pairs.solver-steps", "2", "--pairs.steps", "2", "--steps", "2", "--threads", "1"]


PROMPTS = [f"a picture of {word}" for word in ("cats", "dogs", "fish", "houses", "trees")]


def cache_command(root, kept):
    words = ["cache", "--teacher", root / "sd", "--cache", kept, "--device", "cpu"]
    words += ["--prompts", root / "prompts.txt", "--data", root / "data", "--batch", "5"]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A pipeline of texts and latents, captioned images, prompts, and a cache of both."""
    root = tmp_path_factory.mktemp("cache")
    pipelines.stable(root / "sd", "v_prediction")
    (root / "prompts.txt").write_text("\n\n".join(PROMPTS) + "\n")
    x = np.random.default_rng(0).uniform(-1, 1, (12, 3, 16, 16)).astype(np.float32)
    from PIL import Image

    (root / "data").mkdir()
    rows = ["file_name,text"]
    for i, image in enumerate(x):
        pixels = ((image.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
        Image.fromarray(pixels).save(root / "data" / f"{i:02d}.png")
        rows.append(f"{i:02d}.png,{PROMPTS[i % 5]}")
    (root / "data" / "metadata.csv").write_text("\n".join(rows) + "\n")
    assert main(cache_command(root, root / "kept")) == 0
    return root


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)  # as commands compute; conftest puts it back


def settings(place, **more):
    given = {"teacher": place / "sd", "prompts": place / "prompts.txt", "cache": place / "kept"}
    given = {name: str(value) for name, value in given.items()}
    return ImageSettings(**{**given, "reference": 200, **more})


@pytest.fixture
def built(monkeypatch):
    """The names of the components that are read from now on."""
    names, real = [], diffusers_models.strictly

    def strictly(name, folder, part, library="diffusers"):
        names.append(part)
        return real(name, folder, part, library)

    for module in (reader, diffusers_texts, diffusers_codecs):
        monkeypatch.setattr(module, "strictly", strictly)
    return names


def test_embeddings_and_latents_are_those_of_the_encoders(place):
    origin = load(str(place / "sd")).origin
    problem = ImageProblem(settings(place, data=str(place / "data")))
    captions = problem.networks.teacher.captions
    assert isinstance(captions, LookedUp) and len(captions) == 5
    with torch.no_grad():
        expected = origin.encode(PROMPTS)["text"]
    index = torch.tensor([3, 0, 3])
    torch.testing.assert_close(captions(index)["text"], expected[index])
    bare = ImageProblem(settings(place, data=str(place / "data"), cache=None))
    mine, its = problem.data.clean(4, 7), bare.data.clean(4, 7)
    for _ in range(5):  # over the end of an epoch: the same images in the same order
        kept, now = next(mine), next(its)
        assert torch.equal(kept.cond["label"], now.cond["label"])
        torch.testing.assert_close(kept.x, now.x)


def test_a_training_with_a_cache_reads_the_network_alone(place, built):
    problem = ImageProblem(settings(place, data=str(place / "data"), guidance=2.0))
    batches = problem.data.clean(4, 0)
    student, fake = problem.networks.student(), problem.networks.fake()
    objective = DiffInstruct(problem.teacher, student, fake, levels=LogUniform(0.5, 5.0))
    batch = next(batches)
    with torch.no_grad():
        drawn = objective.prepare(batch, 0)
    for phase in objective.phases:
        phase.loss(drawn, 0).value.backward()
    assert built == ["unet"]
    assert not {"vae", "text_encoder", "tokenizer"} & set(problem.space.origin.parts.in_memory)


@pytest.mark.usefixtures("few_calls")
def test_a_whole_run_with_a_cache_reads_no_encoder_of_texts(place, built, tmp_path, monkeypatch):
    monkeypatch.setattr("vardiu.problems.image_scores.ImageScores.quick", 100)
    monkeypatch.setattr("vardiu.runs.distill.checked", lambda *arguments: [])
    monkeypatch.setattr("vardiu.runs.listeners.ReportPage.write", lambda page, shipped: None)
    words = f"""distill --teacher {place}/sd --prompts {place}/prompts.txt --cache {place}/kept
        --out {tmp_path}/run""".split()
    words += QUICK
    assert main(words) == 0
    assert "text_encoder" not in built and built.count("unet") == 1
    about = models.about_of(tmp_path / "run/student")
    assert about["teacher"]["text_shape"] == [12, 32]
    # What is finished is sampled where no cache is, by the encoder.
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    assert main(["sample", str(tmp_path / "moved"), "--num", "2", "--device", "cpu"]) == 0
    assert "text_encoder" in built


def test_the_command_reads_no_network(place, built, tmp_path):
    root = shutil.copytree(place, tmp_path / "encoders")
    (root / "sd/unet/diffusion_pytorch_model.safetensors").unlink()
    assert main(cache_command(root, tmp_path / "kept")) == 0
    assert "unet" not in built and {"text_encoder", "vae"} <= set(built)
    assert files_of(tmp_path / "kept") == files_of(place / "kept")


def files_of(folder):
    """The bytes of every file, by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def slowed():
    """Has a process wait after each shard: it can be met between any two."""
    save = kept_rows.save_state

    def slow(folder, state):
        save(folder, state)
        time.sleep(0.02)

    kept_rows.save_state = slow


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_killed_command_goes_on_to_the_same_bytes(place, tmp_path, small_shards, share):
    """SIGKILL after a share of the shards that the whole command writes."""
    whole, kept = tmp_path / "whole", tmp_path / "kept"
    assert main(cache_command(place, whole)) == 0

    def shards(root):
        return len(list(root.glob("*/[0-9]*")))

    command = Command(cache_command(place, kept), tmp_path / "log", slowed)
    while command.poll() is None and shards(kept) < share * shards(whole):
        time.sleep(0.001)
    command.kill()
    assert command.poll() == -signal.SIGKILL
    assert shards(kept) < shards(whole)
    assert main(cache_command(place, kept)) == 0
    assert files_of(kept) == files_of(whole)


def test_encoders_are_let_go_of_after_a_table_was_made(place, built):
    problem = ImageProblem(settings(place, cache=None))
    assert "text_encoder" in built
    assert "text_encoder" not in problem.space.origin.parts.in_memory


def test_too_many_prompts_for_memory_are_encoded_as_they_are_drawn(place, monkeypatch):
    table = ImageProblem(settings(place, cache=None)).networks.teacher.captions
    monkeypatch.setattr(image_teachers, "TABLE", 1_000)
    problem = ImageProblem(settings(place, cache=None))
    captions = problem.networks.teacher.captions
    assert isinstance(captions, LookedUp) and not isinstance(table, LookedUp)
    index = torch.tensor([4, 1])
    torch.testing.assert_close(captions(index)["text"], table(index)["text"])
    (first, second, third) = problem.data.account()
    assert first.startswith("5 prompts of") and "4 empty lines of the prompts" in second
    assert "each prompt is encoded when it is drawn" in third


def test_a_cache_of_another_encoder_or_of_none_is_refused_in_a_line(place, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(place / "sd", other)
    weights = other / "text_encoder/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(
        ConfigError, match="another text encoder .its text_encoder is CLIPTextModel "
    ):
        ImageProblem(settings(place, teacher=str(other)))
    tokens = tmp_path / "tokens"
    shutil.copytree(place / "sd", tokens)
    config = tokens / "tokenizer/tokenizer_config.json"
    config.write_text(config.read_text().replace("12", "11"))
    with pytest.raises(ConfigError, match="another text encoder .its tokenizer is"):
        ImageProblem(settings(place, teacher=str(tokens)))
    (tmp_path / "p.txt").write_text("a new one\n")
    with pytest.raises(ConfigError, match="has no embeddings of .*p.txt: make them with vardiu"):
        ImageProblem(settings(place, prompts=str(tmp_path / "p.txt")))
    with pytest.raises(ConfigError, match="no embedding of the negative prompt 'ugly'"):
        ImageProblem(settings(place, guidance=2.0, negative="ugly"))
    with pytest.raises(ConfigError, match="nowhere is no folder: make it with `vardiu cache`"):
        ImageProblem(settings(place, cache="nowhere"))
    codec = tmp_path / "codec"
    shutil.copytree(place / "sd", codec)
    config = codec / "vae/config.json"
    config.write_text(config.read_text().replace("0.7", "0.8"))
    row = settings(place, teacher=str(codec), data=str(place / "data"))
    with pytest.raises(ConfigError, match="latents of .* of another autoencoder .its vae is"):
        ImageProblem(row).data.clean(4, 0)
    for words, told in {
        "--teacher sd --cache c": "give --prompts FILE, --data SOURCE, or both",
        "--teacher sd --cache c --prompts p --batch 0": "--batch must be at least 1, got 0",
        "--teacher sd --cache c --prompts p --dtype int8": "unknown value of --dtype: 'int8'",
        "--teacher sd --cache c --prompts p": "p cannot be read",
    }.items():
        assert main(["cache", *words.split()]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error


# ---------------------------------------------------------------- rows


def squares(begin, end):
    i = torch.arange(begin, end)
    return {"text": (i[:, None] + torch.arange(6) / 8).float(), "n": i}


OF = {"kind": "texts", "encoder": {}, "content": "x", "dtype": "float32"}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(kept_rows, "SHARD", 100)  # bytes: three rows of 32


def test_rows_are_gone_on_with_after_a_kill_at_any_shard(tmp_path, small_shards):
    made = []

    def killed(begin, end):
        if begin == 6:
            raise KeyboardInterrupt
        return make(begin, end)

    def make(begin, end):
        made.append((begin, end))
        return squares(begin, end)

    with pytest.raises(KeyboardInterrupt):
        make_rows(tmp_path, OF, 10, killed, Artefacts())
    assert made == [(0, 1), (0, 3), (3, 6)]  # the first tells how large a row is
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    with pytest.raises(ConfigError, match="has 2 of its 4 shards: run `vardiu cache` again"):
        KeptRows(folder)
    made.clear()
    told = []
    progress = Artefacts(progress=lambda *row: told.append(row))
    rows = make_rows(tmp_path, OF, 10, make, progress)
    assert made == [(6, 9), (9, 10)]
    assert told == [("texts", 2, 4), ("texts", 3, 4), ("texts", 4, 4)]
    found = rows(torch.tensor([9, 0, 4, 4]))
    assert found["n"].tolist() == [9, 0, 4, 4] and found["text"].shape == (4, 6)
    assert torch.equal(found["text"], squares(0, 10)["text"][[9, 0, 4, 4]])
    assert rows.column("n").tolist() == list(range(10))
    with pytest.raises(IndexError, match="has 10 rows, and no row 10"):
        rows(torch.tensor([10]))
    assert make_rows(tmp_path, OF, 10, None, Artefacts()).count == 10  # nothing is made again


def test_a_damaged_shard_is_refused_by_name_and_made_again(tmp_path, small_shards):
    rows = make_rows(tmp_path, OF, 10, squares, Artefacts())
    shard = rows.folder / "000002/rows.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 4
    shard.write_bytes(data)
    with pytest.raises(ConfigError, match="000002/rows.safetensors was changed since it was"):
        KeptRows(rows.folder)
    again = make_rows(tmp_path, OF, 10, squares, Artefacts())
    assert torch.equal(again.column("text"), squares(0, 10)["text"])
    (rows.folder / "description.json").write_text('{"of": {}}')
    with pytest.raises(ConfigError, match="description.json is damaged"):
        KeptRows(rows.folder)


def test_another_description_is_another_folder(tmp_path, small_shards):
    first = make_rows(tmp_path, OF, 4, squares, Artefacts())
    for name, value in {"content": "y", "dtype": "float16", "encoder": {"a": 1}}.items():
        assert make_rows(tmp_path, {**OF, name: value}, 4, squares, Artefacts()).folder != (
            first.folder
        )
    assert len([path for path in Path(tmp_path).iterdir() if path.is_dir()]) == 4


def test_a_full_disk_is_told(tmp_path, small_shards, monkeypatch):
    def full(folder, state):
        raise CheckpointError(f"the checkpoint {folder} could not be written (no space)")

    monkeypatch.setattr(kept_rows, "save_state", full)
    with pytest.raises(CheckpointError, match="could not be written"):
        make_rows(tmp_path, OF, 4, squares, Artefacts())
