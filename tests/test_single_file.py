"""A whole pipeline in one file of safetensors is read by the stock `from_single_file`."""

import json
import re
import shutil

import diffusers
import pipelines
import pytest
import small
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
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
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


# From the names of transformers' CLIP to those of open_clip.
OPEN_CLIP = {
    r"^text_model\.embeddings\.token_embedding": "token_embedding",
    r"^text_model\.embeddings\.position_embedding\.weight": "positional_embedding",
    r"^text_model\.final_layer_norm": "ln_final",
    r"^text_model\.encoder\.layers": "transformer.resblocks",
    r"layer_norm(\d)": r"ln_\1",
    r"self_attn\.out_proj": "attn.out_proj",
    r"mlp\.fc1": "mlp.c_fc",
    r"mlp\.fc2": "mlp.c_proj",
}
# From the names of diffusers to those of Stable Diffusion 3's own code.
BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    **{f"{a}.to_out.0": f"x_block.{a}.proj" for a in ("attn", "attn2")},
    **{f"{a}.norm_{x}": f"x_block.{a}.ln_{x}" for a in ("attn", "attn2") for x in "qk"},
}
FUSED = {
    "attn.add_{}_proj": "context_block.attn.qkv",
    "attn.to_{}": "x_block.attn.qkv",
    "attn2.to_{}": "x_block.attn2.qkv",
}
TRANSFORMER = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}


def of_open_clip(weights):
    """open_clip keeps query, key and value in one, and its projection the other way round."""
    found, fused = {}, {}
    for name, value in weights.items():
        if part := re.search(r"layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)$", name):
            layer, which, kind = part.groups()
            fused.setdefault(f"transformer.resblocks.{layer}.attn.in_proj_{kind}", {})[which] = (
                value
            )
            continue
        for pattern, new in OPEN_CLIP.items():
            name = re.sub(pattern, new, name)
        if name == "text_projection.weight":
            name, value = "text_projection", value.T
        found[name] = value
    found |= {name: torch.cat([rows[x] for x in "qkv"]) for name, rows in fused.items()}
    return found | {"logit_scale": torch.tensor(4.6)}


def of_transformer(weights, layers):
    """Its own code keeps scale and shift of what has no gate in the other order."""
    swapped = ("norm_out.linear", f"transformer_blocks.{layers - 1}.norm1_context.linear")
    found = {}
    for name, value in weights.items():
        module, _, kind = name.rpartition(".")
        if name == "pos_embed.pos_embed":
            found["pos_embed"] = value
            continue
        if module in swapped:
            value = torch.cat(value.chunk(2)[::-1])
        if module in TRANSFORMER:
            found[f"{TRANSFORMER[module]}.{kind}"] = value
            continue
        block = re.match(r"transformer_blocks\.(\d+)\.(.*)", module)
        place, inner = f"joint_blocks.{block[1]}", block[2]
        if inner in BLOCK:
            found[f"{place}.{BLOCK[inner]}.{kind}"] = value
    for query in [n for n in weights if re.search(r"\.(add_q_proj|to_q)\.", n)]:
        _, layer, inner = query.split(".", 2)
        inner, _, kind = inner.rpartition(".")
        row = next(row for row in FUSED if row.format("q") == inner)
        rows = [weights[f"transformer_blocks.{layer}.{row.format(x)}.{kind}"] for x in "qkv"]
        found[f"joint_blocks.{layer}.{FUSED[row]}.{kind}"] = torch.cat(rows)
    return found


def weights_in(folder, part):
    return load_file(next((folder / part).glob("*.safetensors")))


def autoencoder_of(folder):
    return dict(of_autoencoder(n, v) for n, v in weights_in(folder, "vae").items())


def under(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


def stable_weights(folder):
    """Stable Diffusion as its own code kept it."""
    found = {of_network(n): v for n, v in weights_in(folder, "unet").items()}
    for name, value in weights_in(folder, "text_encoder").items():
        bare = name.removeprefix("text_model.")
        found[f"cond_stage_model.transformer.text_model.{bare}"] = value
    return found | autoencoder_of(folder)


def xl_weights(folder):
    """SDXL as its own code kept it."""
    found = {of_network(n): v for n, v in weights_in(folder, "unet").items()}
    for name, value in weights_in(folder, "text_encoder").items():
        bare = name.removeprefix("text_model.")
        found[f"conditioner.embedders.0.transformer.text_model.{bare}"] = value
    second = of_open_clip(weights_in(folder, "text_encoder_2"))
    return found | under("conditioner.embedders.1.model.", second) | autoencoder_of(folder)


def third_weights(folder, t5=True):
    """Stable Diffusion 3 as its own code kept it."""
    network = weights_in(folder, "transformer")
    found = under("model.diffusion_model.", of_transformer(network, LAYERS))
    first = weights_in(folder, "text_encoder")
    # It is one, and not kept.
    assert torch.equal(first.pop("text_projection.weight"), torch.eye(16))
    found |= under("text_encoders.clip_l.transformer.", first)
    second = weights_in(folder, "text_encoder_2")
    found |= under("text_encoders.clip_g.transformer.", second)
    if t5:
        third = weights_in(folder, "text_encoder_3")
        found |= under("text_encoders.t5xxl.transformer.", third)
    return found | autoencoder_of(folder)


def written(weights, path):
    save_file({name: value.clone().contiguous() for name, value in weights.items()}, path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pipeline, its single file, and a folder of its kind without weights of its own."""
    torch.set_default_dtype(torch.float32)
    root = tmp_path_factory.mktemp("single")
    pipelines.stable(root / "sd", "v_prediction")
    written(stable_weights(root / "sd"), root / "model.safetensors")
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


# How many layers the small transformer of Stable Diffusion 3 has.
LAYERS = 2


def xl(folder):
    """SDXL, whose second encoder is wider than the first: by that they are told apart."""
    pipeline = small.sdxl(folder, texts=32 + 48)
    pipeline.register_modules(text_encoder_2=small.projected(pipeline.tokenizer, 48))
    return pipeline


def third(folder, t5s=True):
    """Stable Diffusion 3, whose first encoder projects by one."""
    pipeline = small.sd3(folder, t5s=t5s, layers=LAYERS)
    pipeline.register_modules(
        text_encoder=small.projected(pipeline.tokenizer, 16, 16),
        text_encoder_2=small.projected(pipeline.tokenizer, 32, 16),
    )
    torch.nn.init.eye_(pipeline.text_encoder.text_projection.weight)
    return pipeline


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    """SDXL and Stable Diffusion 3: their folders, and what a single file of each holds."""
    torch.set_default_dtype(torch.float32)
    found = {}
    for name, build, weights in (("sdxl", xl, xl_weights), ("sd3", third, third_weights)):
        folder = tmp_path_factory.mktemp(name)
        pipeline = build(folder)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module) and part is not pipeline.text_encoder:
                pipelines.stir(part)
        pipeline.save_pretrained(folder)
        found[name] = folder, weights(folder)
    return found


def same(teacher, expected):
    """Whether two teachers are one: their conditions, their means and their pictures."""
    x, sigma = torch.randn(2, *expected.shape), torch.tensor([0.5, 7.0])
    cond, known = (t.origin.encode(["a cat", "b"]) for t in (teacher, expected))
    assert cond.keys() == known.keys() >= {"text", "pooled"}
    assert all(torch.equal(cond[name], known[name]) for name in known)
    with torch.no_grad():
        assert torch.equal(teacher(x, sigma, **cond), expected(x, sigma, **known))
        assert torch.equal(teacher.origin.decode(x), expected.origin.decode(x))


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_a_single_file_of_two_and_three_encoders_is_what_its_folder_is(today, name, tmp_path):
    """With settings of a folder that has no weights: all are the file's."""
    folder, weights = today[name]
    # Some programs write a projection that the first encoder has no use for.
    useless = {"conditioner.embedders.0.transformer.text_projection.weight": torch.eye(32)}
    path = written(weights | (useless if name == "sdxl" else {}), tmp_path / "model.safetensors")
    settings = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(folder, tmp_path / "settings", ignore=settings)
    same(load(f"{path}@{tmp_path / 'settings'}"), load(str(folder)))


def test_a_single_file_without_t5_is_the_teacher_without_it(today, tmp_path):
    """Also where the folder of the settings has one."""
    folder, weights = today["sd3"]
    bare = {name: value for name, value in weights.items() if ".t5xxl." not in name}
    path = written(bare, tmp_path / "model.safetensors")
    beside = shutil.ignore_patterns("text_encoder_3", "tokenizer_3")
    shutil.copytree(folder, tmp_path / "without", ignore=beside)
    change(tmp_path / "without/model_index.json", text_encoder_3=NONE, tokenizer_3=NONE)
    expected = load(str(tmp_path / "without"))
    assert not expected.origin.encode(["a"])["text"][:, -256:].any()
    for settings in (folder, tmp_path / "without"):
        shutil.rmtree(tmp_path / "model-diffusers", ignore_errors=True)
        same(load(f"{path}@{settings}"), expected)


NONE = [None, None]


def change(path, **settings):
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def refusal(today, name, path, tmp_path, part="vae", **settings):
    """The line about a file with the settings of a part changed."""
    shutil.copytree(today[name][0], tmp_path / "settings")
    change(tmp_path / "settings" / part / "config.json", **settings)
    with pytest.raises(ConfigError) as caught:
        load(f"{path}@{tmp_path / 'settings'}")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    assert f"its settings were taken of {tmp_path / 'settings'}: is that of the" in message
    assert not (tmp_path / "model-diffusers").exists()
    return message


@pytest.mark.parametrize(
    ("name", "part", "settings"),
    [
        ("sdxl", "unet", {"transformer_layers_per_block": [1, 1]}),
        ("sdxl", "vae", {"mid_block_add_attention": False}),
        ("sdxl", "text_encoder", {"num_hidden_layers": 1}),
        ("sdxl", "text_encoder_2", {"num_hidden_layers": 1}),
        ("sd3", "transformer", {"qk_norm": None}),
        ("sd3", "text_encoder", {"num_hidden_layers": 1}),
        ("sd3", "text_encoder_2", {"num_hidden_layers": 1}),
        ("sd3", "text_encoder_3", {"num_layers": 1}),
    ],
)
def test_no_weights_of_a_single_file_are_left_out(today, name, part, settings, tmp_path):
    """Stock diffusers leaves out those that the settings have no place for: another network."""
    path = written(today[name][1], tmp_path / "model.safetensors")
    words = refusal(today, name, path, tmp_path, part, **settings)
    found = re.search(
        rf"it has ([\d,]+) numbers of the {part}, and by the settings there are", words
    )
    rows = weights_in(today[name][0], part).items()
    held = sum(value.numel() for key, value in rows if key != "text_projection.weight")
    assert found is not None and int(found[1].replace(",", "")) == held, words


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("sdxl", "model.diffusion_model.label_emb.0.2.bias"),
        ("sdxl", "first_stage_model.decoder.mid.block_1.norm1.weight"),
        ("sdxl", "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias"),
        ("sdxl", "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"),
        ("sd3", "model.diffusion_model.joint_blocks.1.x_block.mlp.fc2.bias"),
        ("sd3", "text_encoders.clip_g.transformer.text_projection.weight"),
        (
            "sd3",
            "text_encoders.t5xxl.transformer.encoder.block.1.layer.1.DenseReluDense.wo.weight",
        ),
    ],
)
def test_no_weights_that_a_single_file_lacks_are_made_up(today, name, lost, tmp_path):
    weights = today[name][1]
    rest = {key: value for key, value in weights.items() if key != lost}
    assert len(rest) == len(weights) - 1
    path = written(rest, tmp_path / "model.safetensors")
    words = refusal(today, name, path, tmp_path)
    named = lost.rpartition("diffusion_model.")[2] in words
    assert named or re.search(r"it lacks weights .*that the settings have a place for", words)
    assert "meta tensor" not in words


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
