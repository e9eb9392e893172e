"""Exports: loaded again by what will load them, and the same samples."""

import json
import logging
import re
import subprocess
import sys

import cases
import diffusers
import pipelines
import pytest
import torch
import yaml

from vardiu import export as package
from vardiu.denoisers.consistency import ConsistencyDenoiser
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.errors import ConfigError, ExportError
from vardiu.export import EXPORTS, card, export, in_single_precision, refusal
from vardiu.export.diffusers import times_of, to_diffusers
from vardiu.export.onnx import to_onnx
from vardiu.nn import MLP, Precision, UNet
from vardiu.settings import build
from vardiu.students.few_step import FewStep, OneStep
from vardiu.students.framed import Frame, Framed
from vardiu.students.pushforward import Pushforward
from vardiu.teachers.readers import load


@pytest.fixture(autouse=True)
def plain():
    torch.set_default_dtype(torch.float32)


def denoiser(precision=None):
    network = UNet(1, widths=(8, 16), depth=1, classes=10)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return PreconditionedDenoiser(
        network if precision is None else Precision(network, precision),
        shape=(1, 8, 8),
        sigma_data=0.5,
        sigma_min=0.02,
        sigma_max=20.0,
        conditions=("label",),
    )


def pushforward(residual=False, codes=0):
    network = MLP((2,), (2,), width=16, depth=2, fourier=3, codes=codes)
    return Pushforward(
        network, latent_shape=(2,), shape=(2,), mean=0.5, std=3.0, residual=residual
    )


def of_points():
    """A denoiser whose trace is short, for what is around it."""
    network = cases.denoiser(10)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def framed(classes=10):
    frame = Frame(classes, 3, 2, 1).fit(torch.randn(1500, 2), torch.arange(1500) % 10)
    return Framed(of_points(), frame, 0.2)


KINDS = {
    "pushforward": pushforward,
    "residual": lambda: pushforward(residual=True),
    "codes": lambda: pushforward(codes=7),
    "one": lambda: OneStep(denoiser()),
    "half": lambda: OneStep(denoiser("bfloat16")),
    "few": lambda: FewStep(of_points(), [8.0, 1.0]),
    "few ddim": lambda: FewStep(of_points(), [8.0, 1.0], "ddim"),
    "consistency": lambda: FewStep(
        ConsistencyDenoiser(of_points()),
        [8.0, 1.0],
        floor=ConsistencyDenoiser(of_points()).sigma_min,
    ),
    "framed": framed,
    "framed together": lambda: framed(1),
}


# ---------------------------------------------------------------- ONNX


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_one_graph_of_any_batch(tmp_path, kind):
    difference = to_onnx(in_single_precision(KINDS[kind]()), tmp_path / "out")
    assert difference < 1e-5
    import onnx

    model = onnx.load(str(tmp_path / "out" / "model.onnx"))
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert first.dim_param and not first.dim_value
    assert model.graph.input[0].name == "z" and model.graph.output[0].name == "x"
    about = {p.key: p.value for p in model.metadata_props}
    assert about["latent"].startswith("standard normal")
    if kind in ("few", "few ddim", "consistency"):
        assert json.loads(about["sigmas"]) == [8.0, 1.0] and about["calls"] == "2"
        assert json.loads(about["rule"]) == ("ddim" if kind == "few ddim" else "renoise")


def test_a_network_that_cannot_be_traced_is_named(tmp_path):
    class Choosing(torch.nn.Module):
        def forward(self, z):
            return z if z.sum() > 0 else -z

    student = Pushforward(Choosing(), latent_shape=(2,), shape=(2,))
    with pytest.raises(ConfigError, match="torch cannot trace .*--to safetensors"):
        export(student, "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_one_size_of_batches_is_refused(tmp_path, monkeypatch):
    # As the exporter of an older torch does of some networks, whatever it is asked for.
    real = torch.onnx.export

    def fixed(*arguments, **options):
        return real(*arguments, **{**options, "dynamic_shapes": None})

    monkeypatch.setattr(torch.onnx, "export", fixed)
    with pytest.raises(ConfigError, match="whose z is of batches of 3 alone: .* newer torch"):
        export(KINDS["codes"](), "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_exporter_says_nothing_of_torchvision_and_tells_the_rest(tmp_path, monkeypatch):
    """Torch's loggers do not propagate: what is heard is what a user would read."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    heard, real = [], torch.onnx.export
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())

    def telling(*arguments, **options):
        log.warning("torchvision is not installed. Skipping %s", "torchvision::nms")
        log.warning("another warning")
        return real(*arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", telling)
    log.addHandler(handler)
    try:
        to_onnx(in_single_precision(KINDS["codes"]()), tmp_path / "out")
    finally:
        log.removeHandler(handler)
    assert heard == ["another warning"] and not log.filters


@pytest.mark.slow  # and in a story of the README, in the quick suite
def test_a_pipelines_student_is_one_graph(tmp_path):
    schedule = pipelines.scheduler("v_prediction")
    network = pipelines.unet(attention=False)
    diffusers.ConsistencyModelPipeline(network, schedule).save_pretrained(tmp_path / "teacher")
    student = OneStep.like(load(str(tmp_path / "teacher")))
    assert to_onnx(in_single_precision(student), tmp_path / "out") < 1e-4


ALONE = """
import builtins, sys
real = builtins.__import__
def guarded(name, *rest, **more):
    if name.split(".")[0] in ("torch", "vardiu", "diffusers", "onnx"):
        raise ImportError(name)
    return real(name, *rest, **more)
builtins.__import__ = guarded
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
data = numpy.load(sys.argv[2])
(x,) = session.run(["x"], {"z": data["z"], "label": data["label"]})
print(numpy.abs(x - data["x"]).max())
"""


def test_onnxruntime_needs_nothing_else(tmp_path):
    import numpy as np

    student = in_single_precision(OneStep(of_points()))
    done = export(student, "onnx", tmp_path / "out")
    z, label = torch.randn(5, 2), torch.arange(5)
    x = student(z, label=label)
    arrays = {"z": z.numpy(), "label": label.numpy(), "x": x.numpy()}
    np.savez(tmp_path / "expected.npz", **arrays)
    command = [sys.executable, "-c", ALONE, str(done.folder / "model.onnx")]
    ran = subprocess.run(
        [*command, str(tmp_path / "expected.npz")], capture_output=True, text=True, check=True
    )
    assert float(ran.stdout) < 1e-4


# ---------------------------------------------------------------- diffusers


def exported(source, out, **options):
    teacher = load(str(source))
    student = OneStep.like(teacher, **options)
    return to_diffusers(in_single_precision(student), out, teacher.origin), student


@pytest.mark.parametrize(
    ("prediction", "settings", "options"),
    [
        ("epsilon", {}, {}),
        ("v_prediction", {"beta_schedule": "squaredcos_cap_v2"}, {}),
        ("sample", {}, {}),
        ("v_prediction", {"rescale_betas_zero_snr": True}, {"sigma": float("inf")}),
    ],
)
def test_pixels_are_the_pipelines(tmp_path, prediction, settings, options):
    pipelines.pixels(tmp_path / "teacher", prediction, **settings)
    difference, _ = exported(tmp_path / "teacher", tmp_path / "out", **options)
    assert difference < 1e-5
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    loaded.set_progress_bar_config(disable=True)
    calls = []
    loaded.unet.register_forward_hook(lambda module, inputs, output: calls.append(1))
    loaded(class_labels=3)  # nothing said of steps
    assert len(calls) == 1


@pytest.mark.parametrize(
    "schedule",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(),
        diffusers.CMStochasticIterativeScheduler(),
    ],
    ids=["flow", "consistency"],
)
def test_flows_and_edm_are_the_pipelines(tmp_path, schedule):
    pipelines.pixels(tmp_path / "teacher", schedule=schedule)
    difference, _ = exported(tmp_path / "teacher", tmp_path / "out")
    assert difference < 1e-5


def test_a_student_may_be_asked_at_an_earlier_time(tmp_path):
    pipelines.pixels(tmp_path / "teacher")
    teacher = load(str(tmp_path / "teacher"))
    sigma = teacher.coordinates.arguments["sigmas"][640]
    difference, _ = exported(tmp_path / "teacher", tmp_path / "out", sigma=sigma)
    assert difference < 1e-5
    with pytest.raises(ConfigError, match="at time .* pipelines know whole times"):
        exported(tmp_path / "teacher", tmp_path / "again", sigma=1.2345)


@pytest.mark.parametrize(("prediction", "time"), [("epsilon", 625), ("v_prediction", 999)])
def test_stable_diffusion_takes_one_step_and_no_guidance_by_default(tmp_path, prediction, time):
    pipelines.stable(tmp_path / "teacher", prediction)
    difference, _ = exported(tmp_path / "teacher", tmp_path / "out")
    assert difference < 1e-5
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    loaded.set_progress_bar_config(disable=True)
    calls = []
    loaded.unet.register_forward_hook(
        lambda module, inputs, output: calls.append((len(inputs[0]), inputs[1].item()))
    )
    for steps in ({}, {"num_inference_steps": 4}, {"num_inference_steps": 1}):
        calls.clear()
        loaded("a red cat", output_type="np", **steps)
        assert calls == [(1, time)]


@pytest.mark.parametrize("make", [pipelines.dit, pipelines.pixart])
def test_transformers_are_the_pipelines(tmp_path, make):
    make(tmp_path / "teacher")
    difference, _ = exported(tmp_path / "teacher", tmp_path / "out")
    assert difference < 1e-5


FEW = {
    "epsilon": lambda path: pipelines.pixels(path),
    "v": lambda path: pipelines.pixels(path, "v_prediction", rescale_betas_zero_snr=True),
    "sample": lambda path: pipelines.pixels(path, "sample"),
    "edm": lambda path: pipelines.pixels(
        path, schedule=diffusers.CMStochasticIterativeScheduler()
    ),
    "texts": pipelines.stable,
    "pixart": pipelines.pixart,
}


@pytest.mark.parametrize(
    ("kind", "rule", "scheduler"),
    [
        ("epsilon", "renoise", "LCMScheduler"),
        pytest.param("epsilon", "ddim", "DPMSolverMultistepScheduler", marks=pytest.mark.slow),
        pytest.param("v", "renoise", "LCMScheduler", marks=pytest.mark.slow),
        ("sample", "ddim", "DPMSolverMultistepScheduler"),
        ("edm", "renoise", "CMStochasticIterativeScheduler"),
        ("texts", "renoise", "LCMScheduler"),
        pytest.param("texts", "ddim", "DPMSolverMultistepScheduler", marks=pytest.mark.slow),
        pytest.param("pixart", "renoise", "LCMScheduler", marks=pytest.mark.slow),
    ],
)
def test_a_few_steps_are_those_of_a_stock_scheduler(tmp_path, kind, rule, scheduler):
    """Images of the pipeline that is loaded again, by the call that the card shows."""
    FEW[kind](tmp_path / "teacher")
    teacher = load(str(tmp_path / "teacher"))
    sigma = float("inf") if kind == "v" else None
    student = FewStep.on_grid(teacher.trainable_copy(), 3, sigma, rule=rule)
    done = export(student, "diffusers", tmp_path / "out", origin=teacher.origin)
    assert done.difference < 1e-5
    index = json.loads((done.folder / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", scheduler]
    text = (done.folder / "README.md").read_text()
    assert f"3 calls by the rule {rule} at the levels" in text and "few-step-generation" in text
    (call,) = [line for line in text.splitlines() if line.startswith("image = pipeline(")]
    assert f"timesteps={times_of(student)}" in call and len(times_of(student)) == 3
    calls = []
    loaded = diffusers.DiffusionPipeline.from_pretrained(done.folder)
    loaded.set_progress_bar_config(disable=True)
    network = getattr(loaded, "unet", None) or loaded.transformer
    network.register_forward_hook(lambda *rest: calls.append(1))
    scope = {"pipeline": loaded}
    # A network of tiny images is not in PixArt's table of sizes.
    exec(call.replace("guidance_scale=1.0", "use_resolution_binning=False"), scope)
    assert len(calls) == 3


def test_a_grid_of_whole_times_is_of_them(tmp_path):
    pipelines.pixels(tmp_path / "teacher")
    teacher = load(str(tmp_path / "teacher"))
    table = teacher.coordinates.arguments["sigmas"]
    assert set(FewStep.on_grid(teacher, 5).sigmas) <= set(table)
    assert set(build.grid(teacher, 8, None, 7.0)[:-1].tolist()) <= set(table)
    with pytest.raises(ConfigError, match="grid must be at most 1,000, the times of"):
        build.grid(teacher, 1500, None, 7.0)
    inner = ConsistencyDenoiser(teacher)
    assert inner.whole(1.0) == teacher.whole(1.0) != 1.0


def test_below_noise_alone_a_grid_spans_the_spread_of_the_data(tmp_path):
    pipelines.pixels(tmp_path / "teacher", "v_prediction", beta_schedule="squaredcos_cap_v2")
    teacher = load(str(tmp_path / "teacher"))
    assert teacher.sigma_max > 20_000
    rounded = [round(sigma, 2) for sigma in FewStep.on_grid(teacher, 4).sigmas]
    assert rounded == [20291.3, 18.85, 3.15, 0.28]  # and not 642, 321 and 10
    assert FewStep.on_grid(teacher, 2, 50.0).sigmas[0] == 50.0
    eight = FewStep.on_grid(teacher, 8).sigmas  # which fell on two times, twice each
    assert len(eight) == 8 and eight[1] < 80
    # Of data in thousands, that of thousands tells of them.
    assert FewStep.on_grid(teacher, 4, unit=1000.0).sigmas[1] > 600
    with pytest.raises(ConfigError, match=r"--calls 400 needs 400 levels.* give --calls ") as told:
        FewStep.on_grid(teacher, 400)
    most = int(re.search(r"give --calls (\d+)", str(told.value))[1])
    assert len(FewStep.on_grid(teacher, most).sigmas) == most


@pytest.mark.parametrize(
    ("make", "student", "why"),
    [
        (
            lambda path: pipelines.pixels(
                path, schedule=diffusers.FlowMatchEulerDiscreteScheduler()
            ),
            lambda teacher: FewStep.on_grid(teacher, 2),
            "ConsistencyModelPipeline takes no list of times, and the student makes 2 calls",
        ),
        (FEW["edm"], lambda teacher: FewStep.on_grid(teacher, 2, rule="ddim"), "'ddim' of a Prec"),
        (pipelines.dit, lambda teacher: FewStep.on_grid(teacher, 2), "takes no list of times"),
        (FEW["epsilon"], lambda teacher: FewStep(teacher, [2.345, 1.0]), "asks .* at time"),
        (
            FEW["v"],
            lambda teacher: FewStep.on_grid(teacher, 2, float("inf"), rule="ddim"),
            "first-order solver starts at a finite level",
        ),
        (
            FEW["epsilon"],
            lambda teacher: FewStep(teacher, [teacher.whole(2.0), teacher.sigma_min]),
            "LCMScheduler asks for nothing at time 0",
        ),
        (
            FEW["epsilon"],
            lambda teacher: FewStep(teacher, [teacher.whole(2.0), 1.0], floor=0.5),
            "add noise to clean samples",
        ),
    ],
)
def test_steps_that_stock_diffusers_has_no_scheduler_of_are_refused(tmp_path, make, student, why):
    make(tmp_path / "teacher")
    teacher = load(str(tmp_path / "teacher"))
    with pytest.raises(ConfigError, match=f"{why}.*--to onnx|{why}.*(--sigma|pipelines)"):
        export(student(teacher), "diffusers", tmp_path / "out", origin=teacher.origin)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "make",
    [
        pipelines.dit,
        *(
            pytest.param(make, marks=pytest.mark.slow)
            for make in (pipelines.pixart, pipelines.stable)
        ),
    ],
)
def test_networks_of_latents_are_graphs_of_any_batch(tmp_path, make):
    make(tmp_path / "teacher")
    teacher = load(str(tmp_path / "teacher"))
    assert to_onnx(OneStep(teacher), tmp_path / "out", teacher.origin) < 1e-4
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_what_stock_diffusers_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--to onnx or --to safetensors"):
        export(OneStep(denoiser()), "diffusers", tmp_path / "out")
    assert "not of diffusers" in refusal(OneStep(denoiser()), "diffusers")
    pipelines.pixels(tmp_path / "edm", schedule=diffusers.EDMEulerScheduler())
    teacher = load(str(tmp_path / "edm"))
    assert "tells the network" in refusal(OneStep.like(teacher), "diffusers", teacher.origin)
    with pytest.raises(ConfigError, match=r"tells the network 250 log\(sigma\)"):
        exported(tmp_path / "edm", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


# ---------------------------------------------------------------- the promise


def test_a_difference_leaves_nothing(tmp_path, monkeypatch):
    from vardiu.export import plain

    real = plain.models.save

    def careless(student, folder, *rest):
        with torch.no_grad():
            next(student.parameters()).add_(1e-3)  # what is written is not what was trained
        real(student, folder, *rest)
        with torch.no_grad():
            next(student.parameters()).sub_(2e-3)

    monkeypatch.setattr(plain.models, "save", careless)
    with pytest.raises(ExportError, match="differs from the student by .*nothing was kept"):
        export(pushforward(), "safetensors", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_never_written_over(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="exists, and is not written over"):
        export(pushforward(), "safetensors", tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"
    with pytest.raises(ConfigError, match="unknown form 'onx'; did you mean onnx"):
        export(pushforward(), "onx", tmp_path / "other")


def test_it_computes_in_single_precision():
    student = OneStep(denoiser("bfloat16"))
    alone = in_single_precision(student)
    assert not any(isinstance(m, Precision) for m in alone.modules())
    assert any(isinstance(m, Precision) for m in student.modules())
    z, label = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    difference = (alone(z, label=label) - student(z, label=label)).abs().max()
    assert 0 < difference < 0.1


def test_the_card_states_what_is_known(tmp_path):
    metric = {
        "name": "frechet",
        "value": 3.25,
        "error": 0.125,
        "n": 5000,
        "features": "some features",
    }
    cost = {"seconds": 12.0, "student_updates": 800, "teacher_rows": 64000}
    about = card.About(
        "digits",
        "Diff-Instruct (2023)",
        {"metrics": [metric], "cost": cost},
        {"command": ["vardiu", "distill", "digits"], "versions": {"torch": "2"}, "sha256": {}},
        "@article{x}",
    )
    done = export(pushforward(), "safetensors", tmp_path / "out", about=about)
    text = (done.folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "other" and front["license_name"] == "not-stated"
    (row,) = front["model-index"][0]["results"][0]["metrics"]
    assert row == {"type": "frechet", "value": 3.25, "name": "frechet"}
    for words in (
        "| frechet | 3.25 | 0.12 | 5000 | some features |",
        "Training took 12 s, 800 updates, 64,000 rows of the teacher.",
        "vardiu distill digits",
        "licence of the teacher: not stated",
        "@article{x}",
        "models.load",
    ):
        assert words in text, words


def test_a_card_leaves_out_what_a_run_does_not_say(tmp_path):
    about = card.About("old", "Some method", {"cost": {"seconds": 3.4}}, {}, "@article{x}")
    done = export(pushforward(), "safetensors", tmp_path / "out", about=about)
    text = (done.folder / "README.md").read_text()
    assert "Training took 3 s." in text and "rows of the teacher" not in text


def test_the_card_keeps_the_teachers_licence(tmp_path):
    pipelines.pixels(tmp_path / "teacher")
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: openrail\n---\n")
    teacher = load(str(tmp_path / "teacher"))
    student = OneStep.like(teacher)
    fits = {name: refusal(student, name, teacher.origin) for name in EXPORTS}
    assert {name for name, why in fits.items() if not why} == set(EXPORTS) - {"lora"}
    assert "has no adapter" in fits["lora"]
    done = export(student, "diffusers", tmp_path / "out", origin=teacher.origin)
    text = (done.folder / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["license"] == "openrail"
    assert "pipeline(class_labels=0).images[0]" in text
    index = json.loads((done.folder / "model_index.json").read_text())
    assert index["_class_name"] == "ConsistencyModelPipeline"


def test_every_form_has_a_usage_that_a_card_can_print():
    for name, row in EXPORTS.items():
        text = card._usage(row.usage, pushforward(), None)
        assert "FOLDER" in text and "{" not in text.replace("{'", "").replace('{"', ""), name
    assert package.EXPORTS is EXPORTS
