"""Weights in several files: whole they are the weights, and else one line names what is wrong."""

import json
import shutil

import pipelines
import pytest
import small
import torch

from vardiu.cli.main import main
from vardiu.errors import ConfigError
from vardiu.teachers.readers import load, surroundings

# Of diffusers, and of transformers.
BOTH = ("unet", "text_encoder_2")
SHARDED = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """SDXL's classes, each part in one file, and each in several."""
    torch.set_default_dtype(torch.float32)
    root = tmp_path_factory.mktemp("shards")
    pipeline = small.sdxl(root)
    pipelines.stir(pipeline.unet)
    pipeline.save_pretrained(root / "whole")
    shutil.copytree(root / "whole", root / "many")
    for part in SHARDED:
        next((root / "many" / part).glob("*.safetensors")).unlink()
        size = "700KB" if part == "unet" else "40KB"
        getattr(pipeline, part).save_pretrained(root / "many" / part, max_shard_size=size)
    return root


@pytest.fixture
def many(made, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(made / "many", tmp_path / "many")
    return tmp_path / "many"


def shards(folder, part):
    return sorted((folder / part).glob("*-of-*.safetensors"))


def index_of(folder, part):
    return next((folder / part).glob("*.safetensors.index.json"))


def refusal(folder):
    """The line that a teacher ends in, by the time that its prompts and pictures are made."""
    with pytest.raises(ConfigError) as caught:
        origin = load(str(folder)).origin
        origin.encode(["a cat"])
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    return message


def test_shards_are_the_weights_that_they_were_cut_of(made):
    many, whole = load(str(made / "many")), load(str(made / "whole"))
    for part in SHARDED:
        assert len(shards(made / "many", part)) > 1 and not shards(made / "whole", part)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 7.0])
    cond, known = (t.origin.encode(["a cat", "b"]) for t in (many, whole))
    assert set(cond) == set(known) == {"text", "pooled", "sizes"}
    assert all(torch.equal(cond[name], known[name]) for name in cond)
    with torch.no_grad():
        assert torch.equal(many(x, sigma, **cond), whole(x, sigma, **known))
        assert torch.equal(many.origin.decode(x), whole.origin.decode(x))


@pytest.mark.parametrize("part", SHARDED)
def test_a_shard_that_is_missing_is_named(many, part):
    path = shards(many, part)[1]
    path.unlink()
    words = refusal(many)
    assert words.startswith(f"{path} is missing, and {index_of(many, part).name} has weights in")
    assert "fetch or copy it again" in words


@pytest.mark.parametrize("part", BOTH)
@pytest.mark.parametrize("left", [0.9, 0.01, 0.0])
def test_a_shard_that_was_cut_short_is_named(many, part, left):
    """In its numbers, in its header, and before it."""
    path = shards(many, part)[0]
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data))])
    words = refusal(many)
    assert words.startswith(f"{path} is damaged: it ") and "fetch or copy it again" in words
    if left == 0.9:
        assert f"has {int(left * len(data)):,} bytes, and by its header {len(data):,};" in words


def test_a_whole_file_that_was_cut_short_is_named(made, tmp_path):
    shutil.copytree(made / "whole", tmp_path / "whole")
    path = tmp_path / "whole/text_encoder_2/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(tmp_path / "whole").startswith(f"{path} is damaged: it has ")


@pytest.mark.parametrize("part", BOTH)
@pytest.mark.parametrize(
    "place", ["../stolen.safetensors", "{tmp}/stolen.safetensors", "..", "", "pickle.bin"]
)
def test_a_shard_elsewhere_is_not_read(many, part, place, tmp_path):
    first, index = shards(many, part)[0], index_of(many, part)
    for elsewhere in (
        many / "stolen.safetensors",
        many / part / "pickle.bin",
        tmp_path / "stolen.safetensors",
    ):
        shutil.copy(first, elsewhere)
    place = place.format(tmp=tmp_path)
    about = json.loads(index.read_text())
    held = {n: place if file == first.name else file for n, file in about["weight_map"].items()}
    index.write_text(json.dumps({**about, "weight_map": held}))
    assert refusal(many).startswith(f"{index} names {place}: read are files of .safetensors that ")


@pytest.mark.parametrize("held", [None, {}, [], {"conv_in.weight": 3}, {"conv_in.weight": ["a"]}])
def test_an_index_that_is_none_is_named(many, held):
    index = index_of(many, "unet")
    index.write_text(json.dumps({"weight_map": held}))
    assert refusal(many).startswith(f"{index} must have a weight_map with the file of each weight")


def test_nothing_is_trained_before(many, tmp_path, capsys):
    """Of an encoder, which is read when the prompts are encoded."""
    path = shards(many, "text_encoder_2")[1]
    path.unlink()
    (tmp_path / "prompts.txt").write_text("a cat\n")
    words = ["--teacher", str(many), "--prompts", str(tmp_path / "prompts.txt"), "--steps", "3"]
    assert main(["distill", *words, "--device", "cpu", "--out", str(tmp_path / "run")]) != 0
    found = "".join(capsys.readouterr().err.split())
    assert f"{path}ismissing,andmodel.safetensors.index.jsonhasweightsinit;fetchor" in found
    assert not list(tmp_path.glob("run/**/*"))


def test_what_stands_around_a_network_needs_none_of_its_shards(many):
    for path in shards(many, "unet"):
        path.unlink()
    assert surroundings(str(many))[1] == (4, 8, 8)
