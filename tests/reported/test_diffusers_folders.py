"""Folders of diffusers as they are published: schedules, class names and variants of every kind that
is read, against stock diffusers; and one line for what is not."""

from __future__ import annotations

import json
import re
import shutil

import diffusers
import pipelines
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import autoencoder, dit, pixart, t5, t5_tokenizer, text_unet, unet

from vardiu import models
from vardiu.denoisers.schedules import Flow, Logarithmic
from vardiu.errors import ConfigError
from vardiu.export.diffusers import to_diffusers
from vardiu.students.few_step import OneStep
from vardiu.teachers.readers import load


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """A folder of a small network of pixels, and the network."""
    folder = tmp_path_factory.mktemp("pixels")
    network, _ = pipelines.pixels(folder, classes=0)
    return folder, network


def change(path, **settings):
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def with_scheduler(pixels, tmp_path, schedule):
    """The folder with another scheduler."""
    shutil.copytree(pixels[0], tmp_path / "teacher")
    schedule.save_pretrained(tmp_path / "teacher" / "scheduler")
    return load(str(tmp_path / "teacher"))


def stock_mean(network, schedule, i, x_s):
    """The clean sample that a stock scheduler reads at its i-th step, of the network's own input."""
    schedule._step_index = i
    time = schedule.timesteps[i]
    with torch.no_grad():
        output = network(x_s, time).sample
    sigma = schedule.sigmas[i]
    if hasattr(schedule, "convert_model_output"):
        schedule.config.thresholding = False
        return schedule.convert_model_output(output, sample=x_s)
    schedule.is_scale_input_called = True
    return schedule.step(output, time, x_s * (1 + sigma**2).sqrt()).pred_original_sample


# ---------------------------------------------------------------- schedules


def test_eulers_continuous_times_are_a_quarter_of_the_logarithm(pixels, tmp_path):
    schedule = diffusers.EulerDiscreteScheduler(
        timestep_type="continuous",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.02,
        sigma_max=20.0,
    )
    teacher = with_scheduler(pixels, tmp_path, schedule)
    assert isinstance(teacher.coordinates, Logarithmic) and not teacher.terminal
    assert (teacher.sigma_min, teacher.sigma_max) == (0.02, 20.0)
    schedule.set_timesteps(5)
    assert schedule.sigmas[0] == 20.0
    for i, sigma in enumerate(schedule.sigmas[:-1]):
        assert torch.allclose(teacher.coordinates.time(sigma), schedule.timesteps[i])
        x_s = torch.randn(2, 1, 8, 8)
        expected = stock_mean(pixels[1], schedule, i, x_s)
        with torch.no_grad():
            found = teacher(x_s * (1 + sigma**2).sqrt(), sigma.expand(2))
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    models.save(teacher, tmp_path / "kept")
    again = load(str(tmp_path / "kept"))
    with torch.no_grad():
        assert torch.equal(again(x_s, sigma.expand(2)), teacher(x_s, sigma.expand(2)))


def test_continuous_without_a_velocity_is_told_whole_times_as_by_diffusers(pixels, tmp_path):
    schedule = diffusers.EulerDiscreteScheduler(timestep_type="continuous")
    teacher = with_scheduler(pixels, tmp_path, schedule)
    schedule.set_timesteps(4)
    for time, sigma in zip(schedule.timesteps, schedule.sigmas, strict=False):
        assert abs(teacher.coordinates.time(sigma[None]) - time) < 1e-2


@pytest.mark.parametrize(
    "name", ["EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep"]
)
def test_zero_terminal_signal_is_the_same_in_every_scheduler(pixels, tmp_path, name):
    """diffusers puts 2^-24 in the last place, below the one before it."""
    settings = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    schedule = getattr(diffusers, f"{name}Scheduler")(**settings)
    teacher = with_scheduler(pixels, tmp_path, schedule)
    squares = diffusers.DDIMScheduler(**settings).alphas_cumprod.double()
    assert squares[-1] == 0 and teacher.terminal
    expected = ((1 - squares) / squares).sqrt()[:-1]
    found = torch.tensor(teacher.coordinates.arguments["sigmas"], dtype=torch.float64)
    assert len(found) == 999 and torch.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["flow_prediction", "sample", "epsilon"])
@pytest.mark.parametrize(
    "name",
    ["DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "SASolver"],
)
def test_flow_levels_of_solvers(pixels, tmp_path, name, prediction):
    settings = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": prediction}
    schedule = getattr(diffusers, f"{name}Scheduler")(**settings)
    teacher = with_scheduler(pixels, tmp_path, schedule)
    assert isinstance(teacher.coordinates, Flow)
    schedule.set_timesteps(6)
    for i in (1, 3, 5):
        # They cut the network's times to whole ones: so is the level here.
        time = schedule.timesteps[i].double()
        t = time / 1000
        schedule.sigmas[i] = t
        x_s = torch.randn(2, 1, 8, 8)
        expected = stock_mean(pixels[1], schedule, i, x_s)
        if name == "DEISMultistep":  # it gives the noise back
            expected = (x_s - t * expected) / (1 - t)
        with torch.no_grad():
            found = teacher((x_s / (1 - t)).float(), (t / (1 - t)).float().expand(2))
        assert torch.allclose(found, expected.float(), rtol=2e-3, atol=2e-3), (i, time)


def test_flow_levels_that_run_from_noise_to_data(pixels, tmp_path):
    schedule = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    teacher = with_scheduler(pixels, tmp_path, schedule)
    schedule.set_timesteps(5)
    for i in range(1, 4):
        data, after = schedule.sigmas[i], schedule.sigmas[i + 1]
        x, time = torch.randn(2, 1, 8, 8), schedule.timesteps[i]
        schedule._step_index = i
        with torch.no_grad():
            expected = schedule.step(pixels[1](x, time).sample, time, x).prev_sample
            mean = teacher(x / data, ((1 - data) / data).expand(2))
        noise = (x - data * mean) / (1 - data)
        assert torch.allclose(after * mean + (1 - after) * noise, expected, rtol=1e-4, atol=1e-4)


def test_our_own_flow_export_is_read_back(pixels, tmp_path):
    teacher = with_scheduler(pixels, tmp_path, diffusers.FlowMatchEulerDiscreteScheduler())
    student = OneStep.like(teacher)
    to_diffusers(student.eval(), tmp_path / "out", teacher.origin)
    again = OneStep.like(load(str(tmp_path / "out")))
    z = torch.randn(3, 1, 8, 8)
    assert again.sigma == pytest.approx(student.sigma)
    with torch.no_grad():
        assert torch.allclose(again(z), student(z), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"_class_name": "DiffusionPipeline"}, "the times of the scheduler DiffusionPipeline"),
        (
            {"_class_name": "utils"},
            "the times of the scheduler utils are not known; One of|one of",
        ),
        ({"_class_name": "DDIMSchedule"}, "did you mean DDIMScheduler"),
        ({"_class_name": ["DDIMScheduler"]}, "it names none"),
        ({"num_train_timesteps": 10**9}, "1,000,000,000 times of a schedule, and at most 100,000"),
        ({"num_train_timesteps": 2.5}, "num_train_timesteps must be a whole number, got 2.5"),
        ({"trained_betas": [0.1] * 100_001}, "at most 100,000 are read"),
        ({"trained_betas": []}, "trained_betas has 0 numbers and num_train_timesteps is 1,000"),
        ({"trained_betas": [0.01] * 50}, "state as many of one as of the other"),
        ({"prediction_type": ["epsilon"]}, "expected one of: epsilon, v_prediction"),
        ({"beta_schedule": "bent"}, "diffusers makes no DDIMScheduler of these settings: bent"),
        ({"beta_start": None}, "makes no DDIMScheduler of these settings"),
        ({"beta_end": -3.0}, "must increase from above zero|levels"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"},
            "has no line to follow: set use_flow_sigmas",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}
            | {"prediction_type": "v_prediction"},
            "has no velocity of flows",
        ),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": None}, "sigma_data must be a number"),
    ],
)
def test_a_scheduler_that_is_not_understood_is_one_line(pixels, tmp_path, settings, words):
    shutil.copytree(pixels[0], tmp_path / "teacher")
    path = tmp_path / "teacher" / "scheduler" / "scheduler_config.json"
    change(path, **settings)
    with pytest.raises(ConfigError, match=words) as caught:
        load(str(tmp_path / "teacher"))
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 2000


# ---------------------------------------------------------------- classes and files


def test_dit_and_pixart_are_read_under_the_name_they_were_published_with(tmp_path):
    folder, x, sigma = tmp_path / "dit", torch.randn(2, 4, 8, 8), torch.ones(2)
    diffusers.DiTPipeline(dit(), autoencoder(), diffusers.DDIMScheduler()).save_pretrained(folder)
    new = load(str(folder))
    label = torch.tensor([1, 2])
    change(folder / "transformer" / "config.json", _class_name="Transformer2DModel")
    change(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    for source in (folder, folder / "transformer"):
        old = load(str(source))
        with torch.no_grad():
            assert torch.equal(new(x, sigma, label=label), old(x, sigma, label=label))
        assert old.origin.about["network"] == "DiTTransformer2DModel" and old.origin.null == 10
    folder = tmp_path / "pixart"
    parts = t5_tokenizer(), t5(), autoencoder(), pixart(), diffusers.DDIMScheduler()
    diffusers.PixArtAlphaPipeline(*parts).save_pretrained(folder)
    change(folder / "transformer" / "config.json", _class_name="Transformer2DModel")
    change(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    assert load(str(folder)).conditions == ("text", "mask")
    change(folder / "transformer" / "config.json", norm_type="layer_norm")
    with pytest.raises(ConfigError, match="Transformer2DModel with norm_type layer_norm"):
        load(str(folder))


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_a_folder_of_one_variant_is_read(tmp_path, variant, sharded):
    network, schedule = pipelines.pixels(tmp_path / "whole")
    pipeline = diffusers.DDPMPipeline(network, schedule)
    shards = {"max_shard_size": "100KB"} if sharded else {}
    pipeline.save_pretrained(tmp_path / "half", variant=variant, **shards)
    names = [p.name for p in (tmp_path / "half" / "unet").glob("*.safetensors")]
    assert (len(names) > 1) == sharded and all(variant in name for name in names)
    x, sigma, label = torch.randn(2, 1, 8, 8), torch.ones(2), torch.tensor([0, 1])
    with torch.no_grad():
        found = load(str(tmp_path / "half"))(x, sigma, label=label)
        assert torch.equal(found, load(str(tmp_path / "whole"))(x, sigma, label=label))


def test_a_pipeline_of_texts_in_half_precision_computes_in_single(tmp_path):
    pipeline = pipelines.stable(tmp_path / "whole")
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    origin = load(str(tmp_path / "half")).origin
    assert origin.encode(["a cat"])["text"].dtype == torch.float32
    assert origin.decode(torch.randn(1, 4, 8, 8)).dtype == torch.float32
    for name in ("network", "vae", "text_encoder"):
        assert {p.dtype for p in origin.parts[name].parameters()} == {torch.float32}


def test_only_other_variants_are_named(pixels, tmp_path):
    shutil.copytree(pixels[0], tmp_path / "teacher")
    unet = tmp_path / "teacher" / "unet"
    plain = unet / "diffusion_pytorch_model.safetensors"
    plain.rename(unet / "diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(ConfigError, match=r"fp16 and bf16; it holds .*non_ema.safetensors"):
        load(str(tmp_path / "teacher"))


def test_a_pickle_of_weights_has_the_command_that_converts_it(pixels, tmp_path):
    shutil.copytree(pixels[0], tmp_path / "teacher")
    unet = tmp_path / "teacher" / "unet"
    tensors = load_file(unet / "diffusion_pytorch_model.safetensors")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(tensors, unet / "diffusion_pytorch_model.bin")
    with pytest.raises(ConfigError, match="write them anew: python -c") as caught:
        load(str(tmp_path / "teacher"))
    exec(str(caught.value).split('python -c "')[1].rstrip('"'))
    assert load(str(tmp_path / "teacher")).shape == (1, 8, 8)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_names_of_wrapped_networks_have_the_command_that_mends_them(pixels, tmp_path, prefix):
    shutil.copytree(pixels[0], tmp_path / "teacher")
    path = tmp_path / "teacher" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {prefix + name: value for name, value in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ConfigError, match=f"start with '{prefix}'.*torch.compile") as caught:
        load(str(tmp_path / "teacher"))
    exec(str(caught.value).split('python -c "')[1].rstrip('"'))
    assert load(str(tmp_path / "teacher")).shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sample_size": None}, "sample_size must be the side of a sample, .* got None"),
        ({"sample_size": [8]}, r"sample_size must be .* got \[8\]"),
        ({"sample_size": "8"}, "sample_size must be"),
        ({"sample_size": [8, 8.5]}, "sample_size must be"),
        ({"class_embed_type": "timestep"}, "class_embed_type is timestep"),
        ({"class_embed_type": "identity"}, "class_embed_type is identity"),
        ({"in_channels": 9}, "takes 9 channels and gives 1.*inpainting"),
        ({"in_channels": None}, "in_channels must be a number"),
        ({"layers_per_block": 10**9}, "layers_per_block in .*at most 512 are read"),
        ({"block_out_channels": [2**19] * 2}, "numbers, and the weights beside it have"),
        ({"block_out_channels": [2**40]}, "at most 1,048,576 are read"),
        ({"block_out_channels": "wide"}, "diffusers makes no UNet2DModel of"),
        ({"norm_num_groups": 0}, "diffusers makes no UNet2DModel of"),
    ],
)
def test_a_network_that_is_not_understood_is_one_line(pixels, tmp_path, settings, words):
    shutil.copytree(pixels[0], tmp_path / "teacher")
    path = tmp_path / "teacher" / "unet" / "config.json"
    change(path, **settings)
    with pytest.raises(ConfigError, match=words) as caught:
        load(str(tmp_path / "teacher"))
    message = str(caught.value)
    assert str(path.parent) in message and "\n" not in message and len(message) < 2000


def test_other_conditions_and_inpainting_are_named(tmp_path):
    pipelines.stable(tmp_path)
    path = tmp_path / "unet" / "config.json"
    whole = path.read_text()
    change(path, addition_embed_type="text_image")
    with pytest.raises(ConfigError, match="addition_embed_type is text_image: .*SDXL"):
        load(str(tmp_path))
    path.write_text(whole)
    change(path, in_channels=9)
    with pytest.raises(ConfigError, match="takes 9 channels and gives 4.*inpainting"):
        load(str(tmp_path))
    assert text_unet().config.in_channels == 4


# ---------------------------------------------------------------- the hub


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_of_a_hub_id_only_what_is_read_is_fetched(tmp_path, monkeypatch, variant):
    import fnmatch

    import huggingface_hub

    remote, cache = tmp_path / "remote", tmp_path / "cache"
    pipeline = pipelines.stable(remote)
    shutil.rmtree(remote)
    pipeline.save_pretrained(remote, variant=variant)
    change(remote / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"])
    unread = [
        "whole.safetensors",
        "unet/run.py",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    ]
    unread += ["text_encoder_2/model.safetensors", "vae/diffusion_pytorch_model.bin", "a.pkl"]
    unread += ["unet/diffusion_pytorch_model.bf16.safetensors", "safety_checker/model.safetensors"]
    for name in unread:
        (remote / name).parent.mkdir(exist_ok=True)
        (remote / name).write_text("secret")

    def snapshot(source, revision=None, allow_patterns=None):
        assert (source, revision) == ("org/name", "v1")
        for path in remote.rglob("*"):
            name = str(path.relative_to(remote))
            if path.is_file() and any(fnmatch.fnmatch(name, p) for p in allow_patterns):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, cache / name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    teacher = load("org/name", revision="v1")
    assert teacher.conditions == ("text",)
    fetched = {str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file()}
    assert not fetched & set(unread)
    weights = {name for name in fetched if name.endswith("safetensors")}
    assert {name.split("/")[0] for name in weights} == {"unet", "vae", "text_encoder"}
    assert len(weights) == 3


def test_of_a_hub_id_that_cannot_be_read_no_weights_are_fetched(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []
    (tmp_path / "model_index.json").write_text('{"unet": ["mine", "MyUNet"]}')

    def snapshot(source, revision=None, allow_patterns=None):
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(ConfigError, match="MyUNet of 'mine'"):
        load("org/name")
    assert asked and not any("safetensors" in pattern for pattern in asked)


def test_a_network_without_a_scheduler_is_refused_with_a_cure_that_works(tmp_path):
    folder = tmp_path / "unet"
    unet().save_pretrained(folder)
    with pytest.raises(ConfigError, match="has no scheduler/scheduler_config.json") as caught:
        load(str(folder))
    told = str(caught.value)
    assert "\n" not in told and "Copy that of the pipeline" in told
    exec(re.search(r'python -c "(.*)"$', told)[1], {})
    assert load(str(folder)).sigma_max > 100
