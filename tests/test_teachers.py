"""Teachers from elsewhere, against their origin's own formula and samplers."""

import json
import re
import shutil
from types import SimpleNamespace

import diffusers
import pipelines
import pytest
import torch
from safetensors.torch import load_file, save_file

from vardiu import models
from vardiu.data.digits import digits
from vardiu.denoisers.adapted import AdaptedDenoiser
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.schedules import VariancePreserving
from vardiu.errors import ConfigError, NotADenoiser
from vardiu.samplers.ode import Euler
from vardiu.students.few_step import OneStep
from vardiu.teachers import functions
from vardiu.teachers.functions import AzulaDenoiser, FunctionDenoiser
from vardiu.teachers.origin import Origin
from vardiu.teachers.probe import checked, probe
from vardiu.teachers.readers import load


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


def pixels(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


# ---------------------------------------------------------------- parity


@pytest.mark.parametrize(
    ("prediction", "settings"),
    [
        ("epsilon", {}),
        ("epsilon", {"beta_schedule": "squaredcos_cap_v2"}),
        ("v_prediction", {}),
        ("v_prediction", {"rescale_betas_zero_snr": True}),
        ("sample", {"beta_schedule": "scaled_linear"}),
    ],
)
def test_the_mean_is_that_of_the_scheduler(tmp_path, prediction, settings):
    network, schedule = pipelines.pixels(tmp_path, prediction, **settings)
    teacher = load(str(tmp_path))
    assert teacher.conditions == ("label",) and teacher.origin.classes == 10
    schedule.set_timesteps(1000)
    label = torch.tensor([0, 4, 9])
    for time in (0, 1, 250, 700, 998):
        square = schedule.alphas_cumprod[time]
        x = torch.randn(3, 1, 8, 8)
        with torch.no_grad():
            output = network(x, time, class_labels=label).sample
            expected = schedule.step(output, time, x).pred_original_sample
            sigma = ((1 - square) / square).sqrt().expand(3)
            found = teacher(x / square.sqrt(), sigma, label=label)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


def test_euler_is_the_pipelines_ddim(tmp_path):
    network, schedule = pipelines.pixels(tmp_path, "v_prediction", classes=0)
    pipeline = diffusers.DDIMPipeline(network, schedule)
    pipeline.set_progress_bar_config(disable=True)
    schedule.set_timesteps(8)
    times, teacher = schedule.timesteps.tolist(), load(str(tmp_path))
    table = torch.tensor(teacher.coordinates.arguments["sigmas"], dtype=torch.float64)
    grid = torch.cat([table[times], torch.zeros(1, dtype=torch.float64)])
    expected = pipeline(
        2, generator=torch.manual_seed(3), num_inference_steps=8, output_type="np"
    ).images
    z = torch.randn(2, 1, 8, 8, generator=torch.manual_seed(3))
    found = Euler(teacher, grid)((1 + grid[0] ** 2).sqrt().float() * z)
    found = (found / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert (found - torch.from_numpy(expected)).abs().max() < 1e-4


@pytest.mark.parametrize("told", ["epsilon", "v_prediction"])
def test_edm_levels_are_those_of_the_scheduler(tmp_path, told):
    schedule = diffusers.EDMEulerScheduler(prediction_type=told, sigma_max=40.0)
    network, _ = pipelines.pixels(tmp_path, schedule=schedule, classes=0)
    teacher = load(str(tmp_path))
    schedule.set_timesteps(5)
    for i, sigma in enumerate(schedule.sigmas[:-1].tolist()):
        x = sigma * torch.randn(2, 1, 8, 8)
        schedule._step_index = i
        with torch.no_grad():
            shown = schedule.precondition_inputs(x, sigma)
            output = network(shown, schedule.precondition_noise(sigma)).sample
            expected = schedule.precondition_outputs(x, output, sigma)
            found = teacher(x, torch.full((2,), sigma))
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_consistency_levels_are_those_of_the_scheduler(tmp_path):
    schedule = diffusers.CMStochasticIterativeScheduler()
    network, _ = pipelines.pixels(tmp_path, schedule=schedule, classes=0)
    teacher = load(str(tmp_path))
    x, sigma = torch.randn(2, 1, 8, 8), 3.0
    skip, out = schedule.get_scalings(torch.tensor(sigma))
    with torch.no_grad():
        time = torch.from_numpy(schedule.sigma_to_t(sigma)[None]).float()
        output = network(x / (sigma**2 + 0.25) ** 0.5, time).sample
        found = teacher(x, torch.full((2,), sigma))
    assert torch.allclose(found, out * output + skip * x, rtol=1e-4, atol=1e-4)


def test_a_flow_steps_as_its_scheduler_does(tmp_path):
    schedule = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    network, _ = pipelines.pixels(tmp_path, schedule=schedule, classes=0)
    teacher = load(str(tmp_path))
    schedule.set_timesteps(6)
    x = torch.randn(2, 1, 8, 8)
    for i, time in enumerate(schedule.timesteps[1:-1], start=1):
        t, after = schedule.sigmas[i], schedule.sigmas[i + 1]
        schedule._step_index = i
        with torch.no_grad():
            expected = schedule.step(network(x, time).sample, time, x).prev_sample
            mean = teacher(x / (1 - t), (t / (1 - t)).expand(2))
        # The line from the mean through x, at the next time.
        noise = (x - (1 - t) * mean) / t
        assert torch.allclose((1 - after) * mean + after * noise, expected, rtol=1e-4, atol=1e-4)


def test_a_score_of_exploding_variance_is_tweedies_formula(tmp_path):
    schedule = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
    network, _ = pipelines.pixels(tmp_path, schedule=schedule, classes=0)
    teacher = load(str(tmp_path))
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 7.0])
    with torch.no_grad():
        score = network(x, sigma).sample
        found = teacher(x, sigma)
    expected = x + sigma.square()[:, None, None, None] * score
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_latent_pipeline_of_texts(tmp_path):
    pipeline = pipelines.stable(tmp_path, "v_prediction")
    teacher = load(str(tmp_path))
    origin = teacher.origin
    prompts = ["a cat", "two red birds and more than fits the window"]
    cond = origin.encode(prompts)
    embedded, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    assert torch.allclose(cond["text"], embedded, atol=1e-6)
    latents = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        images = pipeline.vae.decode(latents / 0.7).sample
        square = pipeline.scheduler.alphas_cumprod[600]
        output = pipeline.unet(latents, 600, embedded).sample
        pipeline.scheduler.set_timesteps(1000)
        expected = pipeline.scheduler.step(output, 600, latents).pred_original_sample
        sigma = ((1 - square) / square).sqrt().expand(2)
        found = teacher(latents / square.sqrt(), sigma, **cond)
    assert torch.allclose(origin.decode(latents), images, atol=1e-5)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    # Compression is the mode of the encoder, scaled as the pipeline scales.
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        coded = 0.7 * pipeline.vae.encode(x).latent_dist.mode()
    assert torch.allclose(origin.compress(x), coded, atol=1e-5)


def test_transformers_leave_out_their_variance(tmp_path):
    network = pipelines.dit(tmp_path)
    teacher = load(str(tmp_path))
    assert teacher.origin.null == 10 and teacher.conditions == ("label",)
    x, label = torch.randn(3, 4, 8, 8), torch.tensor([0, 5, 9])
    square = diffusers.DDIMScheduler().alphas_cumprod[500]
    with torch.no_grad():
        time = torch.full((3,), 500)
        noise = network(x, timestep=time, class_labels=label).sample[:, :4]
        sigma = ((1 - square) / square).sqrt().expand(3)
        found = teacher(x / square.sqrt(), sigma, label=label)
    expected = (x - (1 - square).sqrt() * noise) / square.sqrt()
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    student = OneStep.like(teacher)  # in training, no label is dropped
    z = torch.randn(64, 4, 8, 8)
    label = torch.arange(64) % 10
    with torch.no_grad():
        assert torch.equal(student(z, label=label), student(z, label=label))


def test_pixart_is_told_which_tokens_count(tmp_path):
    pipeline = pipelines.pixart(tmp_path)
    teacher = load(str(tmp_path))
    cond = teacher.origin.encode(["a bird", "cat"])
    embedded, mask, _, _ = pipeline.encode_prompt(["a bird", "cat"], False, device="cpu")
    assert torch.equal(cond["mask"], mask)
    assert torch.allclose(cond["text"], embedded, atol=1e-6)
    x = torch.randn(2, 4, 8, 8)
    sigma = torch.full((2,), 1.0)
    padded = {**cond, "text": torch.where(mask[..., None] > 0, cond["text"], 7.0)}
    with torch.no_grad():
        assert torch.allclose(teacher(x, sigma, **cond), teacher(x, sigma, **padded), atol=1e-5)


# ---------------------------------------------------------------- refusals


def change(path, **settings):
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **settings}))


def test_weights_must_fit_to_the_last_key(tmp_path):
    pipelines.pixels(tmp_path)
    tensors = load_file(pixels(tmp_path))
    name = "conv_in.weight"
    less = {k: v for k, v in tensors.items() if k != name}
    save_file({**less, "conv_inn.weight": tensors[name]}, pixels(tmp_path), {"format": "pt"})
    with pytest.raises(ConfigError, match=r"missing_keys: conv_in.weight; .*conv_inn.weight"):
        load(str(tmp_path))
    short = tensors[name][:, :, :1].contiguous()
    save_file({**less, name: short}, pixels(tmp_path), {"format": "pt"})
    with pytest.raises(ConfigError, match="do not"):
        load(str(tmp_path))


def test_only_safetensors_are_read(tmp_path):
    pipelines.pixels(tmp_path)
    tensors = load_file(pixels(tmp_path))
    pixels(tmp_path).unlink()
    torch.save(tensors, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ConfigError, match="from safetensors"):
        load(str(tmp_path))


def test_code_that_a_folder_brings_is_not_run(tmp_path):
    pipelines.pixels(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('run')")
    change(tmp_path / "model_index.json", unet=["mine", "MyUNet"])
    with pytest.raises(ConfigError, match="MyUNet of 'mine'.*not run"):
        load(str(tmp_path))
    change(tmp_path / "model_index.json", unet=["diffusers", "UNet2DModel"])
    change(tmp_path / "model_index.json", _class_name=["mine", "Pipeline"])
    with pytest.raises(ConfigError, match="its own pipeline"):
        load(str(tmp_path))


def test_networks_and_schedulers_must_be_known(tmp_path):
    pipelines.pixels(tmp_path)
    change(tmp_path / "model_index.json", unet=["diffusers", "UNet1DModel"])
    with pytest.raises(ConfigError, match="UNet1DModel"):
        load(str(tmp_path))
    change(tmp_path / "model_index.json", unet=["diffusers", "UNet2DModel"])
    path = tmp_path / "scheduler" / "scheduler_config.json"
    change(path, _class_name="VQDiffusionScheduler", num_vec_classes=4)
    with pytest.raises(ConfigError, match="VQDiffusionScheduler"):
        load(str(tmp_path))
    path.unlink()
    with pytest.raises(ConfigError, match="no scheduler"):
        load(str(tmp_path))


def test_a_bare_network_needs_its_scheduler_beside_it(tmp_path):
    pipelines.pixels(tmp_path)
    assert isinstance(load(str(tmp_path / "unet")), AdaptedDenoiser)
    shutil.rmtree(tmp_path / "scheduler")
    with pytest.raises(ConfigError, match="no scheduler"):
        load(str(tmp_path / "unet"))


def test_sources_that_nobody_knows(tmp_path):
    with pytest.raises(ConfigError, match="no teacher can be read from .*What can be read"):
        load(str(tmp_path / "nothing" / "here" / "at all"))


def test_a_hub_id_is_fetched_whole_and_without_code(tmp_path, monkeypatch):
    import huggingface_hub

    pipelines.pixels(tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    asked = {}

    def snapshot(source, revision=None, allow_patterns=None):
        asked.update(source=source, revision=revision, patterns=allow_patterns)
        return str(tmp_path / "copy")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    teacher = load("someone/some-model", revision="v1")
    assert asked["source"] == "someone/some-model" and asked["revision"] == "v1"
    assert not any(p.endswith((".py", ".bin", ".pkl")) for p in asked["patterns"])
    assert teacher.origin.licence == "apache-2.0"

    def offline(source, **options):
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConfigError, match="cannot be had from the hub: offline"):
        load("someone/some-model")


# ---------------------------------------------------------------- does it denoise?


class Ideal(torch.nn.Module):
    """What an ideal network of the digits predicts, from their exact denoiser."""

    def __init__(self, coordinates, prediction, exact):
        super().__init__()
        self.coordinates, self.prediction, self.exact = coordinates, prediction, exact

    def forward(self, x_s, time):
        table = torch.tensor(self.coordinates.arguments["sigmas"])
        level = table[time.long().clamp(0, len(table) - 1)]
        sigma = level[:, None, None, None]
        alpha, s = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
        x = self.exact(x_s / alpha, level)
        epsilon = (x_s - alpha * x) / s
        return {"epsilon": epsilon, "v": alpha * epsilon - s * x, "sample": x}[self.prediction]


@pytest.mark.parametrize("true", ["epsilon", "v", "sample"])
@pytest.mark.parametrize("told", ["epsilon", "v", "sample"])
def test_a_swapped_prediction_is_named(true, told):
    levels = VariancePreserving.from_alphas_cumprod(diffusers.DDIMScheduler().alphas_cumprod)
    x = digits()[0][:400]
    network = Ideal(levels, true, MixtureDenoiser(x, 0.1))
    teacher = AdaptedDenoiser(network, levels, prediction=told, shape=(1, 8, 8))
    if true == told:
        assert checked(teacher, x)
        return
    with pytest.raises(NotADenoiser, match=f"taken for '{true}', not '{told}'"):
        checked(teacher, x)
    assert teacher.prediction == told  # the trial is undone


class Inexact(Ideal):
    """With an error in every value of its prediction."""

    share = 0.0

    def forward(self, *arguments):
        output = super().forward(*arguments)
        return output + self.share**0.5 * torch.randn_like(output)


def test_predicted_noise_is_judged_as_noise():
    """Where DDPM's levels end, at 157, a hundredth of a wrong noise is a mean far out of the data:
    trained networks have it, and sample well."""
    betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    levels = VariancePreserving.from_alphas_cumprod(
        diffusers.DDIMScheduler(**betas).alphas_cumprod
    )
    assert levels.sigma_max > 150
    x = digits()[0][:400]
    network = Inexact(levels, "epsilon", MixtureDenoiser(x, 0.1))
    teacher = AdaptedDenoiser(network, levels, prediction="epsilon", shape=(1, 8, 8))
    network.share = 0.005
    last = probe(teacher, x)[-1]
    assert abs(last.error / last.sigma**2 - 0.005) < 5 * last.deviation / last.sigma**2 + 1e-4
    assert last.error > 100 * last.linear
    network.share = 0.02
    found = r"It denoises from sigma=0.01 to ([\d.]+), and not beyond: "
    own = found + r"where the teacher is made, state sigma_min=0.01 and sigma_max=\1\.$"
    with pytest.raises(NotADenoiser, match=own) as told:
        checked(teacher, x)
    assert "Is it a prediction of noise or velocity" in str(told.value)
    # Of a folder the files say what it predicts, and no user makes it.
    teacher.origin = Origin("f/ddpm", "diffusers")
    read = found + (
        r"train it longer, or give --teacher FILE\.py:teacher, .* vardiu\.teachers\.load\('f/ddpm'\)"
        r" and teacher\.sigma_min, teacher\.sigma_max = 0\.01, \1\.$"
    )
    with pytest.raises(NotADenoiser, match=read) as told:
        checked(teacher, x)
    assert "Is it a prediction" not in str(told.value)
    teacher.sigma_min, teacher.sigma_max = 0.01, float(re.search(found, str(told.value))[1])
    checked(teacher, x)  # the cure is one
    for sigma_max in (1.249, 1.251, 1.253, 1.255, 1.257):  # whatever level has a time of its own
        teacher.sigma_max = sigma_max
        assert OneStep(teacher).sigma <= sigma_max


def test_wrong_scaling_and_missing_weights_are_named():
    x = digits()[0][:400]
    exact = MixtureDenoiser((x + 1) / 2, 0.05, sigma_min=0.05, sigma_max=10.0)
    with pytest.raises(NotADenoiser, match=r"scaled to \[0, 1\]"):
        checked(exact, x)
    fresh = FunctionDenoiser(
        lambda x_t, sigma: 0.0 * x_t + 3.0, shape=(1, 8, 8), sigma_min=0.05, sigma_max=10.0
    )
    with pytest.raises(NotADenoiser, match="No other reading.*weights"):
        checked(fresh, x)


def test_latents_that_are_not_scaled_are_named():
    latents = torch.randn(400, 4, 2, 2) / 0.18
    scaled = GaussianDenoiser(torch.zeros(4, 2, 2), torch.ones(4, 2, 2))
    scaled.sigma_min, scaled.sigma_max = 0.01, 20.0
    scaled.origin = SimpleNamespace(about={"codec_scale": 1 / 0.18})
    assert probe(scaled, 0.18 * latents)
    with pytest.raises(NotADenoiser, match=r"latents are not scaled by|unit variance"):
        checked(scaled, latents)


# ---------------------------------------------------------------- functions


def test_functions_return_means_scores_or_noise():
    exact = GaussianDenoiser(torch.zeros(2), 2 * torch.ones(2))
    about = {"shape": (2,), "sigma_min": 0.1, "sigma_max": 10.0}

    def score(x_t, sigma):
        return (exact(x_t, sigma) - x_t) / sigma.square()[:, None]

    def noise(x_t, sigma):
        return (x_t - exact(x_t, sigma)) / sigma[:, None]

    x_t, sigma = torch.randn(5, 2), torch.rand(5) + 0.1
    for function, returns in ((exact, "denoised"), (score, "score"), (noise, "epsilon")):
        teacher = FunctionDenoiser(function, returns=returns, **about)
        assert torch.allclose(teacher(x_t, sigma), exact(x_t, sigma), atol=1e-5)
    with pytest.raises(ValueError, match="returns must be one of"):
        FunctionDenoiser(exact, returns="velocity", **about)


def test_azulas_posteriors_are_asked_at_the_right_time():
    exact = GaussianDenoiser(torch.zeros(2).double(), 2 * torch.ones(2).double())

    class Theirs(torch.nn.Module):
        def schedule(self, t):
            alpha = torch.cos(1.5 * t)
            return alpha, torch.sin(1.5 * t + 1e-3)

        def forward(self, x_t, t, **cond):
            alpha, sigma = self.schedule(t)
            mean = exact(x_t / alpha[:, None], sigma / alpha)
            return SimpleNamespace(mean=mean)

    teacher = AzulaDenoiser(Theirs(), shape=(2,))
    x_t = torch.randn(4, 2).double()
    sigma = torch.tensor([0.01, 0.5, 3.0, 12.0]).double()
    assert torch.allclose(teacher(x_t, sigma), exact(x_t, sigma), rtol=1e-9)
    assert torch.allclose(teacher.level(teacher.time(sigma)), sigma, rtol=1e-9)


def test_flows_in_both_directions():
    exact = GaussianDenoiser(torch.zeros(2).double(), 2 * torch.ones(2).double())

    def velocity(x_s, time):  # the time runs from noise to data, and so does the velocity
        t = (1 - time)[:, None]
        mean = exact(x_s / (1 - t), (t / (1 - t))[:, 0])
        return mean - (x_s - (1 - t) * mean) / t

    class Network(torch.nn.Module):
        def forward(self, x_s, time):
            return velocity(x_s, time)

    teacher = functions.flow(Network(), shape=(2,))
    x_t, sigma = torch.randn(5, 2).double(), torch.logspace(-1, 1, 5).double()
    assert torch.allclose(teacher(x_t, sigma), exact(x_t, sigma), rtol=1e-9)


def test_a_users_own_code_is_a_source(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "from vardiu import GaussianDenoiser\n"
        "def make():\n"
        "    return GaussianDenoiser(torch.zeros(2), torch.ones(2))\n"
        "def needs(x):\n"
        "    return x\n"
        "number = 3\n"
    )
    assert isinstance(load(f"{path}:make"), Denoiser)
    with pytest.raises(ConfigError, match="takes x"):
        load(f"{path}:needs")
    with pytest.raises(ConfigError, match="got int"):
        load(f"{path}:number")
    with pytest.raises(ConfigError, match="has no 'other'"):
        load(f"{path}:other")
    with pytest.raises(ConfigError, match="none.py cannot be read: No such file"):
        load(f"{tmp_path / 'none.py'}:make")


# ---------------------------------------------------------------- on disk


def test_what_was_read_is_kept_and_read_again(tmp_path):
    pipelines.pixels(tmp_path / "a", "v_prediction")
    teacher = load(str(tmp_path / "a"))
    models.save(teacher, tmp_path / "b")
    again = load(str(tmp_path / "b"))
    x, sigma, label = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 9.0]), torch.tensor([1, 2])
    with torch.no_grad():
        assert torch.equal(again(x, sigma, label=label), teacher(x, sigma, label=label))
    models.save(OneStep.like(teacher).double(), tmp_path / "c")
    with pytest.raises(ConfigError, match="holds a OneStep, not a denoiser"):
        load(str(tmp_path / "c"))
