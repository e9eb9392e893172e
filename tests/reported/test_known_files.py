"""Files of other tools are named for what they are, with what converts them, and never unpickled."""

from __future__ import annotations

import io
import pickle
import shutil

import pipelines
import pytest
import torch
from safetensors.torch import save_file

from vardiu.errors import ConfigError
from vardiu.teachers.readers import load

ONE = torch.zeros(1)
GUIDED = ["input_blocks.0.0.weight", "time_embed.0.weight", "out.2.bias"]
STABLE = ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.a"]
LAYOUTS = {
    "guided-diffusion or consistency_models": GUIDED,
    "start with 'module.'": ["module." + name for name in GUIDED],
    "start with '_orig_mod.'": ["_orig_mod." + name for name in GUIDED],
    "a checkpoint of k-diffusion": ["model_ema", "inner_model.mapping.weight"],
    r"StableDiffusionPipeline.from_single_file\(": [*STABLE, "cond_stage_model.transformer.x"],
    r"StableDiffusionXLPipeline.from_single_file\(": [
        *STABLE,
        "conditioner.embedders.0.transformer.x",
        "conditioner.embedders.1.model.x",
    ],
    "SDXL's refiner": [*STABLE, "conditioner.embedders.0.model.x"],
    r"StableDiffusion3Pipeline.from_single_file\(": [
        "model.diffusion_model.joint_blocks.0.x",
        "text_encoders.clip_l.x",
    ],
    r"SD3Transformer2DModel.from_single_file\(": ["model.diffusion_model.joint_blocks.0.x"],
    r"WanTransformer3DModel.from_single_file\(": [
        *("blocks.0.cross_attn.k.weight", "patch_embedding.weight", "text_embedding.0.weight"),
    ],
    "a checkpoint of latent-diffusion": STABLE,
    r"FluxTransformer2DModel.from_single_file\(": ["double_blocks.0.img_attn.qkv.weight"],
    "an adapter": ["unet.down_blocks.0.attn.to_q.lora_A.weight"],
    "weights of a network of diffusers": ["conv_in.weight", "down_blocks.0.resnets.0.a"],
    "score_sde": ["all_modules.0.W"],
    "no layout that is known": ["layer1.weight", "layer2.weight"],
}


# Whole pipelines, which are read as files of safetensors.
WHOLE = [words for words in LAYOUTS if words.startswith("StableDiffusion")]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt", "old.pt"])
@pytest.mark.parametrize("words", LAYOUTS)
def test_weights_are_told_by_their_names(tmp_path, words, suffix, monkeypatch):
    path = tmp_path / f"weights{suffix}"
    tensors = {name: ONE for name in LAYOUTS[words]}
    if suffix == ".safetensors":
        save_file({name: value.clone() for name, value in tensors.items()}, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=suffix != "old.pt")
    if suffix == ".safetensors" and words in WHOLE:  # it is read, see tests/test_single_file.py
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        words = "stock diffusers reads no " + words.partition(".")[0]
    with pytest.raises(ConfigError, match=words) as caught:
        load(str(path))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    assert "--teacher" in message or "give the folder" in message


@pytest.mark.parametrize("suffix", ["onnx", "gguf", "msgpack", "h5"])
def test_a_suffix_is_enough(tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(ConfigError, match="is a graph of ONNX|GGUF|of flax|of Keras"):
        load(str(path))


def test_nothing_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"input_blocks.0.0.weight": Evil()}))
    with pytest.raises(ConfigError, match="no layout that is known"):
        load(str(path))
    torch.save({"all_modules.0.W": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ConfigError, match="score_sde"):
        load(str(tmp_path / "evil.ckpt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt", ".bin"])
def test_damaged_files_are_one_line(tmp_path, suffix):
    good = io.BytesIO()
    torch.save({"all_modules.0.W": ONE}, good)
    for data in (b"", b"PK\x03\x04 not a zip", b"\xff" * 100, good.getvalue()[:200]):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(data)
        with pytest.raises(ConfigError) as caught:
            load(str(path))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkpoint_of_a_training_needs_its_scheduler(tmp_path):
    pipelines.pixels(tmp_path / "pipeline", classes=0)
    folder = tmp_path / "checkpoint-500"
    shutil.copytree(tmp_path / "pipeline" / "unet", folder / "unet")
    (folder / "optimizer.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"checkpoint of a training.* cp -r PIPELINE/scheduler"):
        load(str(folder))
    shutil.copytree(tmp_path / "pipeline" / "scheduler", folder / "scheduler")
    assert load(str(folder / "unet")).shape == (1, 8, 8)


def test_a_folder_of_an_adapter_is_named(tmp_path):
    save_file({"unet.a.lora_A.weight": ONE}, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(ConfigError, match="is an adapter .*load_lora_weights"):
        load(str(tmp_path))
