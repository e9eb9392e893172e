"""Any teacher in, any student out: by the commands that a user types."""

import json
import shutil

import diffusers
import numpy as np
import pipelines
import pytest
import torch
import yaml

from vardiu import models
from vardiu.cli.main import main
from vardiu.data.digits import digits
from vardiu.denoisers.lora import adapters
from vardiu.errors import ConfigError
from vardiu.methods.frames import fitted_frame
from vardiu.posteriors.framed import FramedPosterior
from vardiu.problems.image_scores import ImageScores
from vardiu.problems.images import ImageProblem
from vardiu.settings.fields import FrameSettings, ImageSettings
from vardiu.students.few_step import FewStep, OneStep
from vardiu.students.framed import Framed


@pytest.fixture(autouse=True)
def single(monkeypatch):
    torch.set_default_dtype(torch.float32)
    pipelines.call_less(monkeypatch, 12, data=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of diffusers that denoises digits: trained for some seconds."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher")
    network, schedule = (
        pipelines.unet(widths=(16,), attention=False).train(),
        pipelines.scheduler("v_prediction"),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    x, label = digits()
    for _ in range(150):
        rows, time = torch.randint(len(x), (64,)), torch.randint(1000, (64,))
        noise = torch.randn(64, 1, 8, 8)
        target = schedule.get_velocity(x[rows], noise, time)
        shown = schedule.add_noise(x[rows], noise, time)
        output = network(shown, time, class_labels=label[rows]).sample
        optimizer.zero_grad()
        (output - target).square().mean().backward()
        optimizer.step()
    diffusers.ConsistencyModelPipeline(network.eval(), schedule).save_pretrained(path)
    torch.set_default_dtype(default)
    return path


SHORT = ["--samples", "300", "--reference", "500", "--reports", "2", "--evaluations", "1"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What is measured against is small; what is measured stays what it is."""
    monkeypatch.setattr(ImageScores, "quick", 200)
    monkeypatch.setattr(ImageScores, "samples", 300)


def run(*words):
    assert main([str(word) for word in words]) == 0


def distilled(folder, out, *more):
    pairs = ["--pairs.pairs", "256", "--pairs.steps", "8", "--pairs.solver-steps", "4"]
    short = ["--steps", "4", "--delay", "0", "--batch", "32", *SHORT]
    run("distill", "--teacher", folder, *pairs, *short, "--out", out, *more)


@pytest.mark.drawn
def test_a_pipeline_becomes_a_pipeline(folder, tmp_path, capsys):
    out = tmp_path / "run"
    distilled(folder, out, "--data", "digits")
    result = json.loads((out / "result.json").read_text())
    names = {m["name"]: m for m in result["metrics"]}
    assert names["frechet"]["features"].startswith("256 random filters of 1x8x8")
    assert {m["name"] for m in result["reference"]["metrics"]} == set(names)
    assert result["cost"]["teacher_calls"] > 0
    run("sample", out, "--num", 20)
    capsys.readouterr()
    run("evaluate", out, "--num", 300)
    told = capsys.readouterr().out
    spaces = json.loads((out / "evaluation-300-seed0.json").read_text())["spaces"]
    assert [row["name"] for row in spaces] == ["frechet", "frechet_real", "frechet_ratio"] * 2
    names = [row["features"].partition(",")[0] for row in spaces[::3]]
    assert names == ["256 random filters of 1x8x8", "56 principal components of 1x8x8"]
    # One half of the reference's 500 stands for the data, the other one for real samples.
    assert all(row["n"] == 250 and row["error"] > 0 for row in spaces)
    assert "geometric mean of the ratios" in told and names[1] in told
    run("export", out, "--to", "diffusers")
    loaded = diffusers.DiffusionPipeline.from_pretrained(out / "export-diffusers")
    loaded.set_progress_bar_config(disable=True)
    labels = torch.arange(4)
    given = {"batch_size": 4, "class_labels": labels, "output_type": "np"}
    images = loaded(generator=torch.manual_seed(5), **given).images
    z = torch.randn(4, 1, 8, 8, generator=torch.manual_seed(5))
    with torch.no_grad():
        x = models.load(out / "student")(z, label=labels)
    expected = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert (torch.from_numpy(images) - expected).abs().max() < 1e-5
    card = (out / "export-diffusers" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert len(front["model-index"][0]["results"][0]["metrics"]) == 6
    assert main(["export", str(out), "--to", "diffusers"]) == 2  # it is there already


def test_vardiu_distils_a_pipeline_too(folder, tmp_path):
    frame = ["--posterior", "framed", "--frame.samples", "500", "--frame.solver-steps", "4"]
    frame += ["--frame.clusters", "1", "--frame.components", "8"]
    short = ["--steps", "4", "--delay", "0", "--batch", "16", *SHORT, "--out", tmp_path / "run"]
    more = ["--levels.sigma-min", "0.15", "--levels.sigma-max", "5.0"]
    run("distill", "--method", "vardiu", "--teacher", folder, *frame, *more, *short)
    student = models.load(tmp_path / "run" / "student")
    assert student.latent_shape == (9,)
    assert len(student.frame.weights) == 10
    run("export", tmp_path / "run", "--to", "safetensors")


@pytest.mark.slow
def test_classes_of_few_samples_can_share_a_frame(folder, tmp_path, capsys):
    frame = ["--posterior", "framed", "--frame.samples", "80", "--frame.solver-steps", "2"]
    frame += ["--frame.clusters", "2", "--frame.components", "12"]
    short = ["--steps", "2", "--delay", "0", "--batch", "16", *SHORT, "--out", tmp_path / "run"]
    words = ["distill", "--method", "vardiu", "--teacher", folder, *frame, *short]
    assert main([str(word) for word in words]) == 2
    assert "--frame.no-by-class" in capsys.readouterr().err
    # The same folder: nothing was trained.
    run(*words, "--frame.no-by-class")
    assert models.load(tmp_path / "run" / "student").frame.weights.shape == (1, 2)


@pytest.mark.slow
def test_nothing_is_asked_of_data_where_there_are_none(folder, tmp_path):
    distilled(folder, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["problem"]["data"] is None
    # The teacher's own samples stand for the data, and are told apart from the student's.
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    own = {m["name"]: m["value"] for m in result["reference"]["metrics"]}
    student = {m["name"]: m["value"] for m in result["metrics"]}
    assert own["frechet"] < student["frechet"]


@pytest.mark.slow
def test_an_adapter_leaves_as_an_adapter(folder, tmp_path):
    out = tmp_path / "run"
    distilled(folder, out, "--student", "lora", "--rank", "2")
    assert not adapters(models.load(out / "student"))
    run("export", out, "--to", "lora")
    size = (out / "export-lora" / "adapter_model.safetensors").stat().st_size
    assert size < (out / "student" / "model.safetensors").stat().st_size / 3
    saved = sum(p.stat().st_size for p in (out / "checkpoints").rglob("*.safetensors"))
    full = (out / "student" / "model.safetensors").stat().st_size
    assert saved < 12 * full  # pairs, averages and two adapters' states, and no base in any


def test_students_of_few_steps_and_of_another_architecture(folder, tmp_path):
    settings = ImageSettings(teacher=str(folder), data="digits", calls=3)
    problem = ImageProblem(settings)
    student = problem.networks.student()
    assert isinstance(student, FewStep) and len(student.sigmas) == 3
    assert student.sigmas[0] == pytest.approx(student.denoiser.sigma_max)
    assert student.latent_shape == (3, 1, 8, 8)
    fresh = ImageSettings(teacher=str(folder), data="digits", student="fresh", widths=(8, 16))
    student = ImageProblem(fresh).networks.student()
    assert isinstance(student, OneStep) and student.conditions == ("label",)
    z, label = torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    assert student(z, label=label).shape == (2, 1, 8, 8)


def test_the_rule_of_few_steps_is_an_option(folder, tmp_path, capsys):
    words = ["--teacher", folder, "--data", "digits", "--calls", "3", "--rule", "ddim"]
    run("distill", "images", *words, "--out", tmp_path / "run", "--dry-run")
    assert "rule: ddim" in capsys.readouterr().out
    settings = ImageSettings(teacher=str(folder), data="digits", calls=3, rule="ddim")
    student = ImageProblem(settings).networks.student()
    assert student.rule == "ddim" and student.latent_shape == (1, 8, 8)
    models.save(student, tmp_path / "student")
    loaded = models.load(tmp_path / "student")
    z, label = torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    assert loaded.rule == "ddim"
    # Three calls of one latent: each step leads on from the state before.
    assert torch.equal(loaded(z, label=label), student.eval()(z, label=label))


def test_a_teacher_that_does_not_denoise_stops_everything(folder, tmp_path, capsys):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    path = wrong / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "prediction_type": "epsilon"}))
    for i, data in enumerate((["--data", "digits"], [])):
        out = str(tmp_path / f"run-{i}")
        words = ["distill", "--teacher", str(wrong), *data, "--reference", "300", "--out", out]
        assert main(words) == 2
        words = " ".join(capsys.readouterr().err.split())
        assert "It would denoise if its output is taken for 'v', not 'epsilon'" in words
    run("probe", "--teacher", wrong, "--data", "digits", "--prediction", "v")


def test_guidance_and_texts_ask_for_what_they_need(folder, tmp_path):
    with pytest.raises(ConfigError, match="no class or text that stands for none"):
        ImageProblem(ImageSettings(teacher=str(folder), data="digits", guidance=2.0))
    with pytest.raises(ConfigError, match="takes no text"):
        ImageProblem(ImageSettings(teacher=str(folder), prompts="p.txt"))
    pipelines.stable(tmp_path / "texts")
    with pytest.raises(ConfigError, match="give problem.prompts"):
        ImageProblem(ImageSettings(teacher=str(tmp_path / "texts")))
    with pytest.raises(ConfigError, match="vardiu teach nothing"):
        ImageProblem(ImageSettings(name="nothing"))


def test_a_guided_text_teacher_and_its_bare_student(tmp_path):
    pipelines.stable(tmp_path / "texts", "v_prediction")
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\ntwo birds\n")
    settings = ImageSettings(
        teacher=str(tmp_path / "texts"),
        prompts=str(tmp_path / "prompts.txt"),
        guidance=3.0,
        negative="noise",
    )
    problem = ImageProblem(settings)
    assert problem.space.classes == 3 and problem.space.conditions == ("label",)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 2.0])
    label = torch.tensor([2, 0])
    encode, inner = problem.space.origin.encode, problem.networks.teacher.inner
    with torch.no_grad():
        given = inner(x, sigma, **encode(["two birds", "a cat"]))
        none = inner(x, sigma, **encode(["noise", "noise"]))
        found = problem.teacher(x, sigma, label=label)
    assert torch.allclose(found, none + 3 * (given - none), rtol=1e-3, atol=1e-3)
    # The student starts from the network alone, and is shipped to take texts.
    student = problem.networks.student().eval()
    alone = problem.without_prompts(student)
    assert alone.conditions == ("text",)
    z = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        expected = student(z, label=label)
        assert torch.equal(alone(z, **encode(["two birds", "a cat"])), expected)
        assert torch.equal(problem.with_prompts(alone)(z, label=label), expected)
    images = problem.space.images(expected)
    assert images.shape == (2, 3, 16, 16) and images.abs().max() <= 1


def test_latents_of_data_keep_their_classes(tmp_path):
    """A network of latents and classes is judged, and its student scaled, by both together."""
    pipelines.dit(tmp_path / "latents")
    x, label = torch.rand(60, 3, 16, 16) * 2 - 1, torch.arange(60) % 10
    np.savez(tmp_path / "data.npz", x=x.numpy(), label=label.numpy())
    about = {"teacher": str(tmp_path / "latents"), "data": str(tmp_path / "data.npz")}
    problem = ImageProblem(ImageSettings(**about))
    for n in (40, 600):
        latents, cond = problem.data.reference(n)
        assert latents.shape == (min(n, 60), 4, 8, 8) and len(cond["label"]) == len(latents)
        row = int(
            torch.nonzero((latents == problem.space.origin.compress(x)[7]).flatten(1).all(1))[0]
        )
        assert cond["label"][row] == label[7]


def test_data_of_a_teacher_of_latents_are_latents(tmp_path):
    pipelines.dit(tmp_path / "latents")
    x, label = torch.rand(60, 3, 16, 16) * 2 - 1, torch.arange(60) % 10
    np.savez(tmp_path / "data.npz", x=x.numpy(), label=label.numpy())
    about = {"teacher": str(tmp_path / "latents"), "data": str(tmp_path / "data.npz")}
    problem = ImageProblem(ImageSettings(**about))
    space, batches = problem.space, problem.data.clean(8, 3)
    batch = next(batches)
    assert batch.x.shape == (8, *space.shape) == (8, 4, 8, 8)
    with torch.no_grad():
        every = space.encode(x)
    rows = torch.cdist(batch.x.flatten(1), every.flatten(1)).argmin(1)
    torch.testing.assert_close(batch.x, every[rows])
    assert torch.equal(batch.cond["label"], label[rows])
    again = ImageProblem(ImageSettings(**about)).data.clean(8, 3)
    again.load_state_dict(batches.state_dict())
    following = next(batches)
    assert torch.equal(next(again).x, following.x) and not torch.equal(following.x, batch.x)
    # A teacher of latents can be compared with data in its own space.
    denoiser = problem.networks.denoiser()
    assert denoiser(batch.x, torch.ones(8), **batch.cond).shape == batch.x.shape


def test_a_codec_carries_gradients_and_the_pictures_do_not(tmp_path):
    pipelines.dit(tmp_path / "latents")
    space = ImageProblem(ImageSettings(teacher=str(tmp_path / "latents"))).space
    z = torch.randn(2, 4, 8, 8, requires_grad=True)
    images = space.decode(z)
    assert images.shape == (2, 3, 16, 16)
    (gradient,) = torch.autograd.grad(images.square().sum(), z)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = (space.decode(z + s * step).square().sum() for s in (1, -1))
    # A central difference along the gradient, in float32.
    assert float((ahead - behind) / 2e-2) == pytest.approx(float(gradient.norm()), rel=0.05)
    (back,) = torch.autograd.grad(space.encode(space.decode(z)).sum(), z)
    assert back.abs().max() > 0
    shown = space.images(10 * z)
    assert not shown.requires_grad and shown.abs().max() <= 1


def test_a_framed_student_of_texts_takes_any_other(tmp_path, few_calls):
    pipelines.stable(tmp_path / "texts", "v_prediction")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\ntwo birds\n")
    about = {"teacher": str(tmp_path / "texts"), "prompts": str(tmp_path / "prompts.txt")}
    about["reference"] = 200
    problem = ImageProblem(ImageSettings(**about))
    row = FrameSettings(samples=60, solver_steps=2, clusters=2, components=4)
    frame = fitted_frame(row, problem.data.frame_samples(row, 0), 0)
    assert frame.weights.shape == (1, 2)  # no prompt has a part of its own
    student = Framed(problem.networks.fake(), frame, row.sigma).eval()
    posterior = FramedPosterior(problem.networks.encoder(), frame)
    z, label = torch.randn(3, 5), torch.tensor([2, 0, 1])
    encode = problem.space.origin.encode
    with torch.no_grad():
        x = student(z, label=label)
        log_r = posterior(x, torch.full((3,), 0.5), label=label).log_prob(z)
        alone = problem.without_prompts(student)
        assert alone.conditions == ("text",)
        texts = encode(["two birds", "a cat", "a dog"])
        torch.testing.assert_close(alone(z, **texts), x)
        other = alone(z, **encode(["a fish"] * 3))
        assert torch.equal(problem.with_prompts(alone)(z, label=label), x)
    assert log_r.isfinite().all() and not torch.allclose(other, x)
    for given in ({"calls": 2}, {"student": "fresh"}, {"sigma": 1.0}):
        with pytest.raises(ConfigError, match="framed starts from the teacher"):
            ImageProblem(ImageSettings(**about, **given)).data.frame_samples(row, 0)
