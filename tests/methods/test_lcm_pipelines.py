"""Latent consistency on small pipelines of Stable Diffusion's classes, run by stock diffusers."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import diffusers
import numpy as np
import pipelines
import pytest
import torch
from PIL import Image

from vardiu import models
from vardiu.denoisers import lora
from vardiu.denoisers.grids import skipped_levels
from vardiu.denoisers.guidance import Guided, Steerable
from vardiu.denoisers.lora_files import save_adapter
from vardiu.export import export
from vardiu.export.diffusers import times_of
from vardiu.methods.lcm import LCM, METHOD, Settings
from vardiu.nn.diffusers_calls import scale_embedding
from vardiu.problems.images import ImageProblem
from vardiu.settings.fields import ImageSettings
from vardiu.students.steered import guided_by
from vardiu.teachers.readers import load
from vardiu.training.stage import Context
from vardiu.training.trainer import Trainer


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("stable")
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    pipelines.stable(place)
    return place


def student_of(network, teacher, calls=4):
    levels = skipped_levels(network, 1_000, 7.0, network.sigma_max)
    return LCM(teacher, network, levels, calls=calls).student_of(network).eval()


def stirred(module):
    """The module, with every weight that trains somewhere else."""
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    return module


def latents(student, n=2):
    random = torch.Generator().manual_seed(0)
    return torch.stack([torch.randn(n, *student.shape, generator=random) for _ in range(4)], 1)


def images_of(pipeline, z, **given):
    """Images of the stock pipeline, whose scheduler draws the noise that the latents hold."""
    random = torch.Generator().manual_seed(0)
    torch.randn(z[:, 0].shape, generator=random)  # the first latent is given
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        ["", "a picture"], latents=z[:, 0], generator=random, output_type="np", **given
    ).images
    return torch.from_numpy(made).permute(0, 3, 1, 2)


@torch.no_grad()
def expected(student, z, origin):
    x = student(z, **origin.encode(["", "a picture"]))
    return (origin.decode(x) / 2 + 0.5).clamp(0, 1)


def test_the_embedding_of_a_scale_is_that_of_stock_pipelines(folder):
    teacher = load(str(folder))
    told = Steerable.of(teacher.trainable_copy(), 1.0, 8.0).denoiser.network.model
    assert told.config.time_cond_proj_dim == 256
    assert not told.time_embedding.cond_proj.weight.any()
    stock = diffusers.StableDiffusionPipeline.get_guidance_scale_embedding
    w = torch.tensor([1.0, 2.5, 8.0])
    wanted = stock(None, w - 1, embedding_dim=256)
    torch.testing.assert_close(scale_embedding(told, w), wanted)
    with pytest.raises(ValueError, match="is told no scale of guidance"):
        scale_embedding(teacher.network.model, w)


def test_a_told_student_is_the_stock_pipeline_at_any_scale(folder, tmp_path):
    teacher = load(str(folder))
    network = stirred(Steerable.of(teacher.trainable_copy(), 1.0, 8.0))
    student = student_of(network, teacher)
    models.save(student, tmp_path / "kept")
    student = models.load(tmp_path / "kept")
    done = export(student, "diffusers", tmp_path / "out", origin=teacher.origin)
    assert done.difference < 1e-5 and times_of(student) == [999, 759, 499, 259]
    stock = diffusers.DiffusionPipeline.from_pretrained(done.folder)
    assert type(stock.scheduler) is diffusers.LCMScheduler
    assert "guidance_scale=1" in (done.folder / "README.md").read_text()
    z, found = latents(student), {}
    for scale in (1.0, 5.0):
        found[scale] = images_of(stock, z, num_inference_steps=4, guidance_scale=scale)
        wanted = expected(guided_by(student, scale), z, teacher.origin)
        assert (found[scale] - wanted).abs().max() < 1e-4
    assert (found[1.0] - found[5.0]).abs().max() > 1e-3


def test_an_adapter_is_loaded_by_the_stock_pipeline(folder, tmp_path):
    """LCM-LoRA: the teacher's own pipeline, the adapter, and the scheduler that lies beside."""
    pytest.importorskip("peft")
    teacher = load(str(folder))
    adapted = stirred(lora.adapt(teacher, 4))
    save_adapter(lora.adapters(adapted)[0], tmp_path / "adapter")
    student = lora.merge(student_of(adapted, teacher))
    parts = {**teacher.origin.parts, "adapter": tmp_path / "adapter"}
    parts["network"] = load(str(folder)).network.model
    origin = dataclasses.replace(teacher.origin, parts=parts)
    done = export(student, "lora", tmp_path / "out", origin=origin)
    assert "load_lora_weights" in (text := (done.folder / "README.md").read_text())
    assert "timesteps=[999, 759, 499, 259]" in text
    stock = diffusers.DiffusionPipeline.from_pretrained(folder)
    plain = images_of(stock, z := latents(student), num_inference_steps=4, guidance_scale=1.0)
    stock.load_lora_weights(str(done.folder))
    stock.scheduler = diffusers.LCMScheduler.from_pretrained(done.folder, subfolder="scheduler")
    found = images_of(stock, z, num_inference_steps=4, guidance_scale=1.0)
    assert (found - expected(student, z, teacher.origin)).abs().max() < 1e-4
    assert (found - plain).abs().max() > 1e-3
    done = export(student, "diffusers", tmp_path / "whole", origin=teacher.origin)
    stock = diffusers.DiffusionPipeline.from_pretrained(done.folder)
    found = images_of(stock, z, num_inference_steps=4)  # guidance of its own is switched off
    assert (found - expected(student, z, teacher.origin)).abs().max() < 1e-4


def test_the_recipe_distils_a_guided_pipeline_into_an_adapter(folder, tmp_path):
    rows = []
    for i, text in enumerate(("a cat", "a dog")):
        image = np.full((16, 16, 3), 40 + 60 * i, dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": text}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\n")
    about = {"teacher": str(folder), "data": str(tmp_path), "prompts": str(prompts)}
    problem = ImageProblem(ImageSettings(**about, student="lora", rank=2, reference=200))
    row = Settings(
        steps=1, batch=2, told=False, guidance_min=3.0, guidance_max=9.0, target_decay=0.0
    )
    stage = next(METHOD.recipe(problem, row, Context()))
    objective = stage.objective
    guided = objective.teacher.module.denoiser
    assert isinstance(guided, Guided) and guided.scale is None
    assert objective.guidance == (3.0, 9.0) and len(objective.grid) == 1_000
    before = [p.clone() for p in objective.generator.parameters() if p.requires_grad]
    trainer = Trainer(objective, stage.optimisation, steps=1)
    trainer.fit(stage.batches)
    after = [p for p in objective.generator.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    student = problem.without_prompts(objective.student_of(objective.generator))
    assert student.conditions == ("text",) and not lora.adapters(student)
    assert math.isclose(student.sigmas[0], problem.known_teacher.sigma_max, rel_tol=1e-6)
    assert Path(tmp_path / "metadata.jsonl").is_file()
