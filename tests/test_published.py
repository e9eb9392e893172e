"""A folder of diffusers with an LCMScheduler as a student of a few steps, beside the stock loop."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from pipelines import pixels
from small import autoencoder, clip, clip_tokenizer, stable, text_unet

from vardiu.cli.main import main
from vardiu.teachers import few_steps, load


@pytest.fixture(autouse=True)
def single(monkeypatch, tmp_path):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "lcm"
    torch.manual_seed(0)
    # A scaling at which the boundary is seen.
    pixels(path, schedule=diffusers.LCMScheduler(timestep_scaling=0.002))
    return path


@pytest.mark.parametrize("calls", [1, 4, 7])
def test_samples_are_those_of_the_stock_scheduler(folder, calls):
    denoiser = load(str(folder))
    student = few_steps.student_of(denoiser, calls)
    network = denoiser.network.model
    stock = diffusers.LCMScheduler.from_pretrained(folder, subfolder="scheduler")
    z, label = student.latent(3), torch.tensor([1, 5, 9])
    stock.set_timesteps(calls)
    noise = iter(z.unbind(1))
    x = next(noise)
    with torch.no_grad():
        for i, time in enumerate(stock.timesteps):
            output = network(x, time, class_labels=label).sample
            stock._step_index = i
            denoised = stock.step(output, time, x, return_dict=False)[1]
            if i + 1 < calls:
                x = stock.add_noise(denoised, next(noise), stock.timesteps[i + 1].expand(3))
        got = student(z, label=label)
    torch.testing.assert_close(got, denoised, rtol=1e-4, atol=1e-4)


def test_a_published_student_is_sampled_with_a_guide_and_without(folder, capsys):
    teacher = folder.parent / "teacher"
    pixels(teacher)
    words = ["sample", str(folder), "--num", "6", "--device", "cpu"]
    assert main(words) == 0
    plain = np.load("runs/lcm/samples-6-seed0.npz")["x"]
    assert plain.shape == (6, 1, 8, 8) and np.isfinite(plain).all()
    assert main([*words, "--calls", "2", "--guide", str(teacher), "--guide-strength", "1"]) == 0
    assert "2 of the student, 1 of the guide" in capsys.readouterr().out
    name = "runs/lcm/samples-6-seed0-calls2-guided1-steps0.json"
    about = json.loads(Path(name).read_text())
    assert about["guide"]["teacher"] == str(teacher)
    for more, told in (
        (["--guide", "teacher"], "a published student has no teacher of its own"),
        (["--calls", "51"], "in 1 to 50 calls, got 51"),
    ):
        assert main([*words, *more]) == 2
        line = capsys.readouterr().err
        assert told in line and len(line.splitlines()) == 1


def test_a_student_of_texts_is_told_the_scale_of_guidance(folder, capsys):
    path = folder.parent / "texts"
    tokens = clip_tokenizer(folder.parent / "tokens")
    config = {key: value for key, value in text_unet().config.items() if key[0] != "_"}
    network = diffusers.UNet2DConditionModel(**{**config, "time_cond_proj_dim": 256})
    schedule = diffusers.LCMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    stable(autoencoder(), clip(tokens), tokens, network, schedule).save_pretrained(path)
    words = ["sample", str(path), "--num", "2", "--prompt", "a cat", "--device", "cpu"]
    assert main(words) == 0 and main([*words, "--guidance", "3"]) == 0
    named = [f"runs/texts/samples-2-seed0{of}-prompt-a-cat" for of in ("", "-guidance3")]
    found = [np.load(next(Path().glob(f"{name}-*.npz")))["x"] for name in named]
    assert not np.allclose(*found)
    # Another folder of the same kind guides it, and is told the same text.
    teacher = folder.parent / "teacher of texts"
    plain = diffusers.UNet2DConditionModel(**config)
    levels = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    steps = diffusers.DDIMScheduler(**levels)
    stable(autoencoder(), clip(tokens), tokens, plain, steps).save_pretrained(teacher)
    capsys.readouterr()
    guide = ["--calls", "4", "--guide", str(teacher), "--guide-steps", "0,1"]
    assert main([*words, *guide, "--guide-strength", "0.5", "--out", "guided.npz"]) == 0
    assert "4 of the student, 2 of the guide" in capsys.readouterr().out
    assert main([*words, "--calls", "4", "--out", "alone.npz"]) == 0
    guided, alone = (np.load(name)["x"] for name in ("guided.npz", "alone.npz"))
    assert np.isfinite(guided).all() and not np.allclose(guided, alone)
    capsys.readouterr()
    assert main(words[:4]) == 2
    line = capsys.readouterr().err
    assert "takes texts: give --prompt" in line and len(line.splitlines()) == 1


@pytest.mark.parametrize(
    "changed, told", [({"clip_sample": True}, "clip_sample, which is not read")]
)
def test_a_scheduler_that_is_not_read_is_refused(folder, changed, told, capsys):
    path = folder.parent / "clipped"
    pixels(path, schedule=diffusers.LCMScheduler(**changed))
    assert main(["sample", str(path), "--num", "2"]) == 2
    line = capsys.readouterr().err
    assert told in line and len(line.splitlines()) == 1
