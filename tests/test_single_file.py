"""A whole pipeline in one file of safetensors is read by the stock `from_single_file`."""

import json
import re

import diffusers
import pipelines
import pytest
import torch
from safetensors.torch import load_file, save_file

from vardiu.errors import ConfigError
from vardiu.teachers.readers import load, surroundings

# From the names of diffusers to those of latent-diffusion, of two blocks with one layer each.
INSIDE = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    **{f"up_blocks.0.resnets.{i}": f"output_blocks.{i}.0" for i in (0, 1)},
    **{f"up_blocks.0.attentions.{i}": f"output_blocks.{i}.1" for i in (0, 1)},
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    **{f"up_blocks.1.resnets.{i}": f"output_blocks.{2 + i}.0" for i in (0, 1)},
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
AUTOENCODER = {
    r"down_blocks\.(\d)\.resnets": r"down.\1.block",
    r"down_blocks\.0\.downsamplers\.0": "down.0.downsample",
    r"up_blocks\.0\.resnets": "up.1.block",
    r"up_blocks\.1\.resnets": "up.0.block",
    r"up_blocks\.0\.upsamplers\.0": "up.1.upsample",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0\.group_norm": "mid.attn_1.norm",
    r"mid_block\.attentions\.0\.to_([qkv])": r"mid.attn_1.\1",
    r"mid_block\.attentions\.0\.to_out\.0": "mid.attn_1.proj_out",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
}


def of_network(name):
    block = next(b for b in BLOCKS if name.startswith(b + "."))
    rest = name[len(block) + 1 :]
    if "resnets" in block:
        first, _, last = rest.partition(".")
        rest = f"{INSIDE[first]}.{last}"
    return f"model.diffusion_model.{BLOCKS[block]}.{rest}"


def of_autoencoder(name, value):
    for pattern, new in AUTOENCODER.items():
        name = re.sub(pattern, new, name)
    if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
        value = value[:, :, None, None]  # they were convolutions
    return f"first_stage_model.{name}", value


def single_file(folder, path):
    """Writes a pipeline of Stable Diffusion as its own code kept it."""
    weights = "diffusion_pytorch_model.safetensors"
    found = {of_network(n): v for n, v in load_file(folder / "unet" / weights).items()}
    found |= dict(of_autoencoder(n, v) for n, v in load_file(folder / "vae" / weights).items())
    for name, value in load_file(folder / "text_encoder/model.safetensors").items():
        bare = name.removeprefix("text_model.")
        found[f"cond_stage_model.transformer.text_model.{bare}"] = value
    save_file({name: value.contiguous() for name, value in found.items()}, path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pipeline, its single file, and a folder of its kind without weights of its own."""
    torch.set_default_dtype(torch.float32)
    root = tmp_path_factory.mktemp("single")
    pipelines.stable(root / "sd", "v_prediction")
    single_file(root / "sd", root / "model.safetensors")
    return root


@pytest.fixture(autouse=True)
def single(monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_single_file_is_the_teacher_that_its_folder_is(made):
    source = f"{made}/model.safetensors@{made}/sd"
    teacher, expected = load(source), load(str(made / "sd"))
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 7.0])
    cond, known = teacher.origin.encode(["a cat", "b"]), expected.origin.encode(["a cat", "b"])
    assert torch.equal(cond["text"], known["text"])
    with torch.no_grad():
        assert torch.equal(teacher(x, sigma, **cond), expected(x, sigma, **known))
        assert torch.equal(teacher.origin.decode(x), expected.origin.decode(x))
    folder = made / "model-diffusers"
    assert teacher.origin.source == str(folder)
    diffusers.StableDiffusionPipeline.from_pretrained(folder)
    # It is written once: neither the settings nor the hub are asked for again.
    about = (folder / "unet/config.json").stat().st_mtime_ns
    assert surroundings(str(made / "model.safetensors"))[1] == (4, 8, 8)
    assert (folder / "unet/config.json").stat().st_mtime_ns == about


def test_what_cannot_be_had_of_a_single_file_is_one_line(made, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((made / "model.safetensors").read_bytes())
    other = tmp_path / "other"
    pipelines.pixels(other, classes=0)
    for source, words in (
        (f"{path}@nowhere", "nowhere has no model_index.json: after model.safetensors@ stands"),
        (f"{path}@{other}", "reads no StableDiffusionPipeline of .*is that of the same kind"),
        (str(path), "without the hub name a folder whose settings it has, --teacher .*@FOLDER"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            load(source)
        assert "\n" not in str(caught.value)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "other"]
    with pytest.raises(ConfigError, match="of which no revision can be stated"):
        load(str(path), revision="main")
    (tmp_path / "model-diffusers").mkdir()
    (tmp_path / "model-diffusers/single_file.json").write_text(json.dumps({"bytes": 1}))
    with pytest.raises(ConfigError, match="is there already and was not made of this model"):
        load(f"{path}@{made}/sd")
