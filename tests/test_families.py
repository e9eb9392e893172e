"""Families of pipelines: the real classes, made small, with random weights, against their own call.

Each stock pipeline samples with guidance and a negative prompt; our denoiser on the same levels
gives the same latents. A student leaves as the stock pipeline that makes its images, and its
adapter is loaded by the stock loader.
"""

import contextlib
import copy
import fnmatch
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import diffusers
import huggingface_hub
import pipelines
import pytest
import small
import torch

from vardiu.cli.main import main
from vardiu.denoisers.guidance import Guided, steered
from vardiu.denoisers.lora import adapt, adapters, merge
from vardiu.denoisers.lora_files import save_adapter
from vardiu.errors import ConfigError
from vardiu.export.diffusers import call_of, to_diffusers
from vardiu.export.onnx import conditions, to_onnx
from vardiu.export.peft import adapter_steps, to_lora
from vardiu.metrics.features import RandomFeatures
from vardiu.nn.diffusers import DiffusersNetwork
from vardiu.nn.diffusers_calls import packed, unpacked
from vardiu.problems import starts
from vardiu.problems.images import ImageProblem
from vardiu.problems.kept import KeptTeacher
from vardiu.samplers.multistep import DPMSolver, UniPC
from vardiu.samplers.ode import Euler
from vardiu.settings.fields import ImageSettings
from vardiu.students.few_step import FewStep, OneStep
from vardiu.teachers.readers import load, surroundings

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


def solved_pixart(folder):
    schedule = diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)
    parts = small.t5_tokenizer(), small.t5(), small.autoencoder(), small.pixart(), schedule
    return diffusers.PixArtAlphaPipeline(*parts)


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
    "sana as published": (
        lambda folder: small.sana(),
        (),
        {**BINNING, "height": 32, "width": 32},
    ),
    "wan as published": (
        lambda folder: small.wan(),
        (2, 4, 4),
        {"height": 32, "width": 32, "num_frames": 5},
    ),
    "pixart as published": (solved_pixart, (), BINNING),
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


SOLVERS = {"DPMSolverMultistepScheduler": DPMSolver, "UniPCMultistepScheduler": UniPC}


@contextlib.contextmanager
def whole_times(teacher, schedule):
    """Has a network be told times as solvers of flows tell them: cut down to whole ones."""
    hooks = []
    if type(schedule).__name__ in SOLVERS and schedule.config.use_flow_sigmas:
        network = next(m for m in teacher.modules() if isinstance(m, DiffusersNetwork))
        hooks.append(network.register_forward_pre_hook(lambda m, args: (args[0], args[1].floor())))
    yield
    for hook in hooks:
        hook.remove()


def ours(teacher, schedule, z, cond):
    """The scheduler's method in our coordinate, on its levels once it has set its times."""
    solver = SOLVERS.get(type(schedule).__name__, Euler)
    if solver is not Euler and not schedule.config.use_flow_sigmas:
        levels = schedule.sigmas[:-1].double().tolist()
    elif hasattr(schedule, "sigmas"):
        t = schedule.sigmas[:-1].double()
        levels = (t / (1 - t)).tolist()
    else:
        squares = schedule.alphas_cumprod[schedule.timesteps].double()
        levels = ((1 - squares) / squares).sqrt().tolist()
    with torch.no_grad():
        if levels[0] == float("inf"):
            return FewStep(teacher, levels, "ddim")(z, **cond)
        grid = torch.tensor([*levels, 0.0], dtype=torch.float64)
        flows = hasattr(schedule, "sigmas") and bool(schedule.sigmas.max() <= 1)
        scale = 1 + grid[0] if flows else (1 + grid[0] ** 2).sqrt()
        return solver(teacher, grid)(scale.float() * z, **cond)


# Variants of a family whose other row is tried each time.
RARE = ("sd3 without T5", "schnell", "cogvideox 2b", "pixart sigma", "sana", "wan")


def rarely(names, rare):
    """Parameters of which some are slow tests."""
    return [pytest.param(n, marks=pytest.mark.slow) if n in rare else n for n in names]


@pytest.mark.parametrize("name", rarely(ROWS, RARE))
def test_a_stock_pipeline_and_ours_sample_the_same(made, name):
    """With guidance and a negative prompt, to its latents and to its images."""
    pipeline, teacher, call = made(name)
    latents, z, back = latents_of(pipeline, teacher)
    is_flux = isinstance(pipeline, diffusers.FluxPipeline)
    call = {**call, "true_cfg_scale" if is_flux else "guidance_scale": SCALE}
    if is_flux:  # it is told one guidance, and led away by another
        call["guidance_scale"] = 3.5
        teacher = steered(teacher, 3.5) if name == "flux" else teacher
    output = []
    images = pipeline(
        PROMPTS,
        negative_prompt=NEGATIVES,
        latents=latents.clone(),
        num_inference_steps=STEPS,
        output_type="np",
        return_dict=False,
        **({} if "pixart" in name else {"callback_on_step_end": keeping(output)}),
        **call,
    )[0]
    cond, against = teacher.origin.encode(PROMPTS), teacher.origin.against(NEGATIVES[0])
    with whole_times(teacher, pipeline.scheduler):
        found = ours(Guided(teacher, SCALE, against), pipeline.scheduler, z, cond)
    if output:
        expected = back(output[-1])
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max().clamp(min=1)
    with torch.no_grad():
        drawn = (teacher.origin.decode(found) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert (drawn - torch.as_tensor(images)).abs().max() < 1e-4 and drawn.std() > 0.01


@pytest.mark.parametrize("name", rarely(ROWS, RARE))
def test_a_guided_teacher_does_not_wait_for_an_accelerator(made, name, accelerator):
    _, teacher, _ = made(name)
    guided = Guided(teacher, SCALE, teacher.origin.against(NEGATIVES[0]))
    there = copy.deepcopy(guided).to(accelerator)
    cond = {k: v.to(accelerator) for k, v in teacher.origin.encode(PROMPTS).items()}
    x_t = torch.empty(len(PROMPTS), *teacher.shape, device=accelerator)
    assert there(x_t, torch.ones(len(PROMPTS), device=accelerator), **cond).shape == x_t.shape


def keeping(output):
    def keep(pipeline, i, t, given):
        output.append(given["latents"].clone())
        return given

    return keep


def test_an_empty_negative_prompt_of_sdxl_is_zeros(made):
    pipeline, teacher, _ = made("sdxl")
    words, none, pooled, no = pipeline.encode_prompt("a cat", do_classifier_free_guidance=True)
    found = teacher.origin.against("")
    assert torch.equal(found["text"], none) and torch.equal(found["pooled"], no)
    assert found["sizes"].tolist() == [[16, 16, 0, 0, 16, 16]]
    given = teacher.origin.encode(["a cat"])
    assert torch.allclose(given["text"], words, atol=1e-6)
    assert torch.allclose(given["pooled"], pooled, atol=1e-6)


# ---------------------------------------------------------------- what a student leaves as


ONE_ROW_EACH = ["sdxl", "sd3 without T5", "flux", "sana", "cogvideox 1.5", "wan", "pixart sigma"]


def calls_of(pipeline, **given):
    """Images, and how many rows each call of the network had."""
    rows = []
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    hook = network.register_forward_hook(
        lambda m, args, kwargs, out: rows.append(len(out[0])), with_kwargs=True
    )
    pipeline.set_progress_bar_config(disable=True)
    x = pipeline(output_type="np", return_dict=False, **given)[0]
    hook.remove()
    return torch.as_tensor(x), rows


@pytest.mark.parametrize("name", rarely(ONE_ROW_EACH, ("cogvideox 1.5", "pixart sigma")))
def test_a_student_is_a_stock_pipeline_of_one_call(made, name, tmp_path):
    pipeline, teacher, _ = made(name)
    student = OneStep.like(teacher).eval()
    pipelines.stir(student)
    assert to_diffusers(student, tmp_path / "out", teacher.origin) < 1e-5
    absent = {n: None for n in ("text_encoder_3", "tokenizer_3") if name == "sd3 without T5"}
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", **absent)
    assert type(loaded) is type(pipeline)
    told = call_of(student, teacher.origin)
    _, rows = calls_of(loaded, prompt="a cat", **told)
    assert rows == [1], told
    if name == "sdxl":
        assert told == {}


@pytest.mark.parametrize("rule", ["ddim", "renoise"])
@pytest.mark.parametrize("name", rarely(["sdxl", "sd3", "flux", "cogvideox"], ("sdxl", "flux")))
def test_a_student_of_three_calls_is_a_stock_pipeline_of_three(made, name, rule, tmp_path):
    _, teacher, _ = made(name)
    student = FewStep.on_grid(teacher.trainable_copy(), 3, None, rule).eval()
    assert to_diffusers(student, tmp_path / "out", teacher.origin) < 1e-5


def test_a_student_that_starts_from_noise_alone_is_one_of_flows(made, tmp_path):
    _, teacher, _ = made("sd3")
    student = OneStep.like(teacher, float("inf")).eval()
    assert to_diffusers(student, tmp_path / "out", teacher.origin) < 1e-5


def test_wans_pipeline_takes_no_list_of_levels(made, tmp_path):
    _, teacher, _ = made("wan")
    student = FewStep.on_grid(teacher.trainable_copy(), 3, None, "ddim").eval()
    with pytest.raises(ConfigError, match="WanPipeline takes no list of times"):
        to_diffusers(student, tmp_path / "out", teacher.origin)


@pytest.mark.parametrize(
    "name", rarely(["sdxl", "sd3", "flux", "sana", "cogvideox", "wan"], ("sana", "cogvideox"))
)
def test_an_adapter_is_loaded_by_the_stock_pipeline_of_the_teacher(made, name, tmp_path):
    pipeline, teacher, _ = made(name)
    adapted = OneStep(adapt(teacher, 2)).eval()
    pipelines.stir(adapted)
    save_adapter(adapters(adapted)[0], tmp_path / "adapter")
    origin = teacher.origin
    parts = {**origin.parts, "adapter": tmp_path / "adapter"}
    about = SimpleNamespace(**{**vars(origin), "parts": parts})
    student = merge(adapted).eval()
    assert to_lora(student, tmp_path / "out", about) < 1e-4
    steps = adapter_steps(student, origin)
    folder = tmp_path / "teacher"
    pipeline.save_pretrained(folder)
    stock = diffusers.DiffusionPipeline.from_pretrained(folder)
    latents, z, _ = latents_of(pipeline, teacher)
    plain, _ = calls_of(stock, prompt=PROMPTS, latents=latents, **steps.call)
    stock.load_lora_weights(str(tmp_path / "out"))
    kind = type(steps.scheduler)
    stock.scheduler = kind.from_pretrained(tmp_path / "out", subfolder="scheduler")
    found, rows = calls_of(stock, prompt=PROMPTS, latents=latents, **steps.call)
    with torch.no_grad():
        expected = origin.decode(student(z, **origin.encode(PROMPTS))) / 2 + 0.5
    assert rows == [2] and (found - plain).abs().max() > 1e-3
    assert (expected.clamp(0, 1).movedim(1, -1) - found).abs().max() < 1e-4


@pytest.mark.slow
def test_sdxl_is_one_graph(made, tmp_path):
    _, teacher, _ = made("sdxl")
    assert to_onnx(OneStep.like(teacher).eval(), tmp_path / "out", teacher.origin) < 1e-4
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "out" / "model.onnx")
    assert {i.name for i in session.get_inputs()} == {"z", "text", "pooled", "sizes"}


# ---------------------------------------------------------------- refusals


@pytest.fixture
def xl(made, tmp_path):
    """A copy of SDXL's folder that a test may spoil."""
    shutil.copytree(made("sdxl")[1].origin.source, tmp_path / "xl")
    return tmp_path / "xl"


def change(path, **settings):
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"text_encoder": [None, None], "tokenizer": [None, None]},
            "is the refiner of SDXL.*base",
        ),
        ({"requires_aesthetics_score": True}, "is the refiner of SDXL.*base"),
        ({"text_encoder_2": [None, None]}, "has no text_encoder_2, which a StableDiffusionXLPip"),
        ({"tokenizer_2": [None, None]}, "has no tokenizer_2.*whole pipeline"),
        ({"text_encoder_2": ["transformers", "T5EncoderModel"]}, "text_encoder_2 is a T5Encoder"),
        ({"unet": ["diffusers", "UNetSpatioTemporalConditionModel"]}, "no network of a class"),
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "a second network"),
        ({"vae": ["diffusers", "VQModel"]}, "vae is a VQModel"),
    ],
)
def test_a_pipeline_that_is_not_whole_is_one_line(xl, settings, words):
    change(xl / "model_index.json", **settings)
    with pytest.raises(ConfigError, match=words) as caught:
        load(str(xl))
    assert str(xl) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("flux", (7, 8), r"multiples of its patches, \[2, 2\], got \[7, 8\]"),
        ("flux", (8,), "problem.size must be height and width"),
        ("wan", (8, 8), "problem.size must be frames, height and width"),
        ("wan", (2, 4, 0), "problem.size must be frames, height and width"),
        ("flux", (8000, 8000), "are read"),
    ],
)
def test_a_size_that_cannot_be_is_one_line(made, name, size, words):
    source = made(name)[1].origin.source
    with pytest.raises(ConfigError, match=words) as caught:
        load(source, size=size)
    assert source in str(caught.value) and "\n" not in str(caught.value)


def test_a_size_is_of_pipelines_alone(tmp_path):
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(ConfigError, match="of which no size can be stated: leave --size out"):
        load(f"{tmp_path / 'mine.py'}:teacher", size=(8, 8))


# ---------------------------------------------------------------- the hub


# What stands beside the weights of published pipelines, and is read by nobody.
UNREAD = (
    *("whole.safetensors", "safety_checker/model.safetensors", "image_encoder/model.safetensors"),
    *("vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.safetensors"),
    *("text_encoder/pytorch_model.bin", "text_encoder/model.onnx", "text_encoder/run.py"),
    *("text_encoder/model.fp16.safetensors", "transformer_2/diffusion_pytorch_model.safetensors"),
)


@pytest.fixture
def hub(made, tmp_path, monkeypatch):
    """Publishes a family's pipeline; of it are had, anew each time, the files that are asked for."""
    remote = tmp_path / "remote"
    caches = (tmp_path / f"cache{n}" for n in itertools.count())

    def publish(name, limit):
        pipeline, teacher, _ = made(name)
        shutil.copytree(teacher.origin.source, remote)
        if limit:
            shutil.rmtree(remote)
            pipeline.save_pretrained(remote, max_shard_size=limit)
        for file in UNREAD:
            (remote / file).parent.mkdir(exist_ok=True)
            (remote / file).write_text("not to be had")
        return pipeline

    def fetch():
        cache = next(caches)

        def snapshot(source, revision=None, allow_patterns=None):
            assert (source, revision) == ("org/name", "v1.0")
            for path in filter(Path.is_file, remote.rglob("*")):
                name = str(path.relative_to(remote))
                if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                    (cache / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, cache / name)
            return str(cache)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return cache

    return SimpleNamespace(publish=publish, fetch=fetch, remote=remote)


def fetched_weights(cache):
    files = {str(path.relative_to(cache)) for path in filter(Path.is_file, cache.rglob("*"))}
    assert not files & set(UNREAD)
    known = {"json", "txt", "model", "safetensors"}
    assert {name.rpartition(".")[2] for name in files} <= known, files
    return {name for name in files if name.endswith(".safetensors")}


@pytest.mark.parametrize(
    "name",
    [*rarely(ROWS, (*RARE, "cogvideox 1.5", "sana as published")), "sdxl in shards of 200KB"],
)
def test_of_a_typed_hub_id_what_is_read_is_fetched(made, hub, name):
    name, _, limit = name.partition(" in shards of ")
    pipeline, teacher = hub.publish(name, limit), made(name)[1]
    models = {n: m for n, m in pipeline.components.items() if isinstance(m, torch.nn.Module)}
    needed = {
        f"{part}/{path.name}"
        for part in models
        for path in (hub.remote / part).glob("*.safetensors")
        if f"{part}/{path.name}" not in UNREAD
    }
    assert len(needed) > len(models) if limit else len(needed) == len(models)
    size = {"size": ROWS[name][1]} if ROWS[name][1] else {}
    cache = hub.fetch()
    found = load("org/name@v1.0", **size)
    x, sigma = torch.randn(2, *teacher.shape), torch.tensor([0.5, 7.0])
    cond, known = found.origin.encode(PROMPTS), teacher.origin.encode(PROMPTS)
    assert cond.keys() == known.keys()
    assert all(torch.equal(cond[key], known[key]) for key in known)
    with torch.no_grad():
        assert torch.equal(found(x, sigma, **cond), teacher(x, sigma, **known))
        assert torch.equal(found.origin.decode(x), teacher.origin.decode(x))
    assert fetched_weights(cache) == needed
    # What stands around the network is had without it.
    cache = hub.fetch()
    origin, _ = surroundings("org/name@v1.0")
    own = {file for file in needed if file.startswith(("unet/", "transformer/"))}
    assert fetched_weights(cache) == needed - own and own
    assert torch.equal(origin.encode(PROMPTS)["text"], known["text"])


# ---------------------------------------------------------------- the commands


# As few of everything as the command takes.
QUICK = """--student lora --rank 2 --batch 4 --steps 2 --delay 0 --evaluations 1 --reports 1
    --reference 200 --samples 100 --pairs.pairs 4 --pairs.batch 4 --pairs.solver-steps 2
    --pairs.steps 2 --threads 1 --device cpu""".split()


# The others take longer: their texts have hundreds of tokens, or their samples frames.
WHOLE = ["sana as published", "sd3", "flux", "cogvideox", "wan as published"]


@pytest.mark.parametrize("name", rarely(WHOLE, WHOLE[1:]))
def test_the_commands_of_a_user_go_through(made, name, tmp_path, monkeypatch, capsys):
    """Distill by an adapter, sample, export, and the stock pipeline of what was exported."""
    pipeline, teacher, call = made(name)
    monkeypatch.setattr("vardiu.problems.image_data.STEPS", 2)
    scores = "vardiu.problems.image_scores.ImageScores"
    monkeypatch.setattr(f"{scores}.quick", 100)
    monkeypatch.setattr(f"{scores}.teacher_metrics", lambda scores, n: ([], ""))  # 69 calls
    monkeypatch.setattr(RandomFeatures.__init__, "__defaults__", (2,))  # few filters
    monkeypatch.setattr("vardiu.runs.distill.checked", lambda *arguments: [])  # it is random
    monkeypatch.setattr("vardiu.runs.listeners.ReportPage.write", lambda page, shipped: None)
    source, run = teacher.origin.source, tmp_path / "run"
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    size = ["--size", *map(str, ROWS[name][1])] if ROWS[name][1] else []
    words = ["--teacher", source, "--prompts", str(tmp_path / "prompts.txt"), *size, *QUICK]
    guided = [] if name == "flux" else ["--guidance", "3.0", "--negative", "blurry"]
    assert main(["distill", *words, *guided, "--out", str(run)]) == 0, capsys.readouterr()
    sampled = ["--num", "2", "--prompt", "a cat", "--out", str(tmp_path / "x.npz")]
    assert main(["sample", str(run), *sampled, "--device", "cpu"]) == 0, capsys.readouterr()
    assert main(["export", str(run), "--to", "lora"]) == 0, capsys.readouterr()
    stock = diffusers.DiffusionPipeline.from_pretrained(source)
    stock.load_lora_weights(str(run / "export-lora"))
    about = json.loads((run / "export-lora/scheduler/scheduler_config.json").read_text())
    kind = getattr(diffusers, about["_class_name"])
    stock.scheduler = kind.from_pretrained(run / "export-lora", subfolder="scheduler")
    told = {**call, "num_inference_steps": 1}
    told |= {} if name == "flux" else {"guidance_scale": 1.0}
    images, rows = calls_of(stock, prompt="a cat", **told)
    assert rows == [1] and bool(images.isfinite().all())


# ---------------------------------------------------------------- as a problem


def problem_of(source, folder, **settings):
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    row = ImageSettings(teacher=source, prompts=str(folder / "prompts.txt"), **settings)
    return ImageProblem(row)


def test_a_video_is_drawn_as_its_frames_side_by_side(made, tmp_path):
    _, teacher, _ = made("wan")
    problem = problem_of(teacher.origin.source, tmp_path, size=(2, 4, 4))
    assert problem.space.shape == (4, 2, 4, 4) and problem.space.image_shape == (3, 32, 5 * 32)
    z = torch.randn(2, 4, 2, 4, 4)
    with torch.no_grad():
        frames = teacher.origin.decode(z).clamp(-1, 1)
    drawn = problem.space.images(z)
    assert frames.shape == (2, 3, 5, 32, 32)
    assert torch.allclose(drawn[..., 32:64], frames[:, :, 1], atol=1e-5)
    student = problem.networks.student()
    assert student(z, label=torch.tensor([0, 1])).shape == z.shape
    for settings, words in (
        ({"data": "photos"}, "makes videos, and images are no data for it"),
        ({"student": "fresh"}, "a fresh network is one of images"),
    ):
        with pytest.raises(ConfigError, match=words):
            problem_of(teacher.origin.source, tmp_path, size=(2, 4, 4), **settings)


def test_a_network_that_is_told_its_guidance_is_told_the_one_asked_for(made, tmp_path):
    _, teacher, _ = made("flux")
    source = teacher.origin.source
    problem = problem_of(source, tmp_path, size=(8, 8), guidance=3.5)
    z, label = torch.randn(2, 4, 8, 8), torch.tensor([0, 1])
    with torch.no_grad():
        found = problem.networks.student()(z, label=label)
        cond = teacher.origin.encode(PROMPTS)
        expected = OneStep(steered(teacher, 3.5))(z, **cond)
        other = OneStep(teacher)(z, **cond)
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(found, other)
    for settings, words in (
        ({"negative": "blurry"}, "is told its guidance, and leads away from no prompt"),
        ({"guidance": 1000.0}, r"is told a guidance within \[0, 100\], got 1000"),
    ):
        with pytest.raises(ConfigError, match=words):
            problem_of(source, tmp_path, size=(8, 8), **settings)


def test_a_student_of_a_large_network_is_an_adapter(made, tmp_path, monkeypatch):
    source = made("sdxl")[1].origin.source
    assert not adapters(problem_of(source, tmp_path).networks.student())
    monkeypatch.setattr(starts, "LARGE", 1000)
    assert adapters(problem_of(source, tmp_path).networks.student())
    assert not adapters(problem_of(source, tmp_path, student="teacher").networks.student())


def test_what_a_run_keeps_of_a_teacher_is_enough_for_a_graph(made):
    _, teacher, _ = made("sdxl")
    kept = KeptTeacher.of(teacher, 2, (3, 16, 16), one=teacher.origin.encode([""]))
    assert (kept.pipeline, kept.pooled_width) == ("StableDiffusionXLPipeline", 16)
    origin = kept.origin(lambda: pytest.fail("read"))
    student = OneStep.like(teacher)
    given, own = conditions(student, 2, origin), teacher.origin.encode(PROMPTS)
    assert {n: v.shape for n, v in given.items()} == {n: v.shape for n, v in own.items()}
    assert torch.equal(given["sizes"], own["sizes"])
