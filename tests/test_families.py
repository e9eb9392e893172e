"""Families of pipelines: the real classes, made small, with random weights, against their own call.

Each stock pipeline samples with guidance and a negative prompt; our denoiser on the same levels
gives the same latents. A student leaves as the stock pipeline that makes its images, and its
adapter is loaded by the stock loader.
"""

import diffusers
import pipelines
import pytest
import small
import torch

from vardiu.denoisers.guidance import Guided, steered
from vardiu.nn.diffusers_calls import packed, unpacked
from vardiu.samplers.ode import Euler
from vardiu.students.few_step import FewStep
from vardiu.teachers.families import FAMILIES
from vardiu.teachers.readers import load

PROMPTS, NEGATIVES, SCALE, STEPS = ["a cat", "two red birds"], ["blurry", "blurry"], 4.0, 4


def euler():
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def large_pixart(folder):
    """PixArt as of 1,024 pixels: it is told resolution and aspect ratio."""
    network = small.pixart(width=12, additional=True, side=128)
    parts = small.t5_tokenizer(), small.t5(), small.autoencoder(), network, small.scheduler()
    return diffusers.PixArtAlphaPipeline(*parts)


def sigma_pixart(folder):
    parts = small.t5_tokenizer(), small.t5(), small.autoencoder(), small.pixart()
    return diffusers.PixArtSigmaPipeline(*parts, small.scheduler())


# What makes a pipeline, its size where the configuration has none, and what its call is told.
BINNING = {"use_resolution_binning": False}


ROWS = {
    "sdxl": (small.sdxl, (), {}),
    "sd3": (small.sd3, (), {}),
    "sd3 without T5": (lambda folder: small.sd3(folder, t5s=False), (), {}),
    "flux": (small.flux, (8, 8), {"height": 16, "width": 16}),
    "schnell": (
        lambda folder: small.flux(folder, told=False),
        (8, 8),
        {"height": 16, "width": 16},
    ),
    "sana": (lambda folder: small.sana(euler()), (), {**BINNING, "height": 32, "width": 32}),
    "cogvideox": (lambda folder: small.cogvideo(), (), {}),
    "cogvideox 2b": (lambda folder: small.cogvideo(rotary=False), (), {}),
    "cogvideox 1.5": (lambda folder: small.cogvideo(patch=2), (), {}),
    "wan": (lambda f: small.wan(euler()), (2, 4, 4), {"height": 32, "width": 32, "num_frames": 5}),
    "pixart": (large_pixart, (8, 8), {**BINNING, "height": 16, "width": 16}),
    "pixart sigma": (sigma_pixart, (), BINNING),
}


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pipelines and our teachers of their folders, each made once."""
    kept = {}

    def make(name):
        if name not in kept:
            folder = tmp_path_factory.mktemp("family")
            torch.manual_seed(0)
            build, size, call = ROWS[name]
            pipeline = build(folder)
            pipelines.stir(getattr(pipeline, "unet", None) or pipeline.transformer)
            pipeline.save_pretrained(folder)
            pipeline.set_progress_bar_config(disable=True)
            kept[name] = pipeline, load(str(folder), **({"size": size} if size else {})), call
        return kept[name]

    return make


def latents_of(pipeline, teacher):
    """Noise as the pipeline holds it, and as ours is."""
    z = torch.randn(2, *teacher.shape, generator=torch.Generator().manual_seed(1))
    if isinstance(pipeline, diffusers.FluxPipeline):
        return packed(z), z, lambda x: unpacked(x, 4, 4)
    if isinstance(pipeline, diffusers.CogVideoXPipeline):
        return z.transpose(1, 2), z, lambda x: x.transpose(1, 2)
    return z, z, lambda x: x


def ours(teacher, schedule, z):
    """Euler's method in our coordinate, on the levels of a scheduler that has set its times."""
    if hasattr(schedule, "sigmas"):
        t = schedule.sigmas[:-1].double()
        levels = (t / (1 - t)).tolist()
    else:
        squares = schedule.alphas_cumprod[schedule.timesteps].double()
        levels = ((1 - squares) / squares).sqrt().tolist()
    with torch.no_grad():
        if levels[0] == float("inf"):
            return FewStep(teacher, levels, "ddim")(z, **ours.cond)
        grid = torch.tensor([*levels, 0.0], dtype=torch.float64)
        return Euler(teacher, grid)((1 + grid[0] ** 2).sqrt().float() * z, **ours.cond)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ROWS)
def test_a_stock_pipeline_and_ours_sample_the_same(made, name, guided):
    pipeline, teacher, call = made(name)
    latents, z, back = latents_of(pipeline, teacher)
    call = {**call, "guidance_scale": 1.0}
    ours.cond = teacher.origin.encode(PROMPTS)
    if isinstance(pipeline, diffusers.FluxPipeline):
        call = {**call, "guidance_scale": 3.5}
        teacher = steered(teacher, 3.5) if name == "flux" else teacher
    if guided:
        word = (
            "true_cfg_scale" if isinstance(pipeline, diffusers.FluxPipeline) else "guidance_scale"
        )
        call = {**call, word: SCALE, "negative_prompt": NEGATIVES}
        teacher = Guided(teacher, SCALE, teacher.origin.against(NEGATIVES[0]))
    output = pipeline(
        PROMPTS,
        latents=latents.clone(),
        num_inference_steps=STEPS,
        output_type="latent",
        return_dict=False,
        **call,
    )[0]
    found = ours(teacher, pipeline.scheduler, z)
    assert (found - back(output)).abs().max() < 1e-4 * output.abs().max().clamp(min=1)


def test_every_family_is_tried_here_or_with_the_older_ones():
    tried = {type(ROWS[name][0](None)).__name__ for name in ("sana", "cogvideox", "wan")}
    assert tried <= set(FAMILIES)


@pytest.mark.parametrize("name", ROWS)
def test_decoded_latents_are_those_of_the_pipeline(made, name):
    pipeline, teacher, call = made(name)
    latents, z, _ = latents_of(pipeline, teacher)
    call = {**call, "guidance_scale": 1.0, "num_inference_steps": 1, "output_type": "np"}
    images = pipeline(PROMPTS, latents=latents.clone(), return_dict=False, **call)[0]
    call["output_type"] = "latent"
    again = pipeline(PROMPTS, latents=latents.clone(), return_dict=False, **call)[0]
    with torch.no_grad():
        found = teacher.origin.decode(latents_of(pipeline, teacher)[2](again))
    found = (found / 2 + 0.5).clamp(0, 1)
    if found.dim() == 5:
        found = found.permute(0, 2, 3, 4, 1)
    else:
        found = found.permute(0, 2, 3, 1)
    assert (found - torch.as_tensor(images)).abs().max() < 1e-5
