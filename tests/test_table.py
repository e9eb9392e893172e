"""Particles: each moves along its own direction; drawn, sampled, saved and refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vardiu import models
from vardiu.data.batch import Batch
from vardiu.denoisers.levels import LogUniform
from vardiu.errors import ConfigError
from vardiu.export import export
from vardiu.methods.diff_instruct import DiffInstruct, Settings, recipe
from vardiu.methods.vardiu import VarDiU
from vardiu.problems.base import KnownSpace
from vardiu.problems.linear import LinearProblem
from vardiu.runs.stages import Stages
from vardiu.settings.fields import LevelSettings, VariableSettings
from vardiu.students.affine import Affine
from vardiu.students.picture import Picture
from vardiu.students.table import Table
from vardiu.training.stage import Context
from vardiu.training.streams import LatticeDraws, StreamDraws, Streams
from vardiu.training.trainer import Trainer

LEVEL = LevelSettings(sigma_min=1.0, sigma_max=1.0 + 1e-9)
K, STEPS, ROWS, RATE = 4, 20, 4_000, 0.5
SETTINGS = Settings(
    steps=STEPS,
    batch=ROWS,
    lr=RATE,
    optimizer="sgd",
    beta_1=0.0,
    decay="constant",
    clip=1e9,
    halflife=0.0,
    ratio=1,
    lattice=True,
    levels=LEVEL,
)


def trained(problem: LinearProblem, start: Tensor, fake) -> tuple[Table, DiffInstruct]:
    problem.networks.student = lambda: Table.of(start)
    problem.networks.fake = lambda: fake
    stages = Stages(recipe(problem, SETTINGS, Context()))
    stage = stages.first()
    trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
    trainer.fit(stage.batches)
    assert stages.after(trainer) is None
    return stages.result, trainer.objective


def test_each_particle_moves_along_its_own_direction():
    # Teacher N(m, C), exact fake N(b, M M^T), level 1: D(x_t) = m + A (x_t - m), A = C (C + I)^-1.
    # A step is x <- x - (rate / K) [(A_f - A) x + A_m m - A_b b + ...], exact on average.
    problem = LinearProblem(dim=2, latent=2, seed=1)
    law, start = problem.law, 3 * torch.randn(K, 2, generator=torch.Generator().manual_seed(0))
    fake = problem.networks.fake()
    student, objective = trained(problem, start, fake)
    eye = torch.eye(2)
    gain = law.covariance @ torch.linalg.inv(law.covariance + eye)
    own = law.matrix @ law.matrix.T
    own_gain = own @ torch.linalg.inv(own + eye)
    constant = (eye - own_gain) @ law.shift - (eye - gain) @ law.mean
    x = start.clone()
    for _ in range(STEPS):
        x = x - RATE / K * (x @ (own_gain - gain).T + constant)
    moved = (x - start).norm(dim=1)
    assert moved.min() > 0.3  # each of them, and not by the same vector
    assert (x - start).std(0).min() > 0.1
    # A particle is drawn ROWS / K times a step, each with noise of its own; STEPS steps add up.
    error = RATE / K * torch.linalg.matrix_norm(own_gain - gain, 2) * math.sqrt(STEPS * K / ROWS)
    assert (student.table - x).abs().max() < 5 * error < 0.1 * moved.min()
    assert objective.teacher_cost == (STEPS, STEPS * ROWS)


def test_a_fake_that_is_the_teacher_moves_none():
    problem = LinearProblem(dim=2, latent=2, seed=1, matched=True)
    start = torch.randn(K, 2)
    student, _ = trained(problem, start, problem.networks.fake())
    assert torch.allclose(student.table, start, rtol=0, atol=1e-10)


def test_particles_are_equally_likely_and_reach_both_ends():
    table = Table.of(torch.arange(5.0)[:, None])
    n = 20_000
    x = table.sample(n, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(x[:, 0].long(), minlength=5)
    # The standard deviation of a count.
    assert (counts - n / 5).abs().max() < 5 * math.sqrt(n * 0.2 * 0.8)
    assert len(counts) == 5


@pytest.mark.parametrize("world", [1, 2])
def test_a_lattice_draws_each_particle_as_often(world):
    table, like = Table(4, (2,)), torch.zeros(())
    rows = [
        table.latent_from(LatticeDraws(Streams(3, rank, world), "latent", 16 // world, like))
        for rank in range(world)
    ]
    assert torch.bincount(torch.cat(rows)).tolist() == [4, 4, 4, 4]
    independent = table.latent_from(StreamDraws(Streams(3), "latent", 16, like))
    assert torch.bincount(independent).tolist() != [4, 4, 4, 4]


def test_classes_have_particles_of_their_own(tmp_path):
    table = Table(3, (2,), classes=2, std=5.0)
    label = torch.tensor([0, 1, 0, 1])
    x = table(torch.tensor([0, 0, 2, 2]), label=label)
    assert torch.equal(x, table.table[torch.tensor([0, 3, 2, 5])])
    assert table.conditions == ("label",)
    models.save(table, tmp_path)
    loaded = models.load(tmp_path)
    assert type(loaded) is Table and torch.equal(loaded.table, table.table)
    draw = {"generator": torch.Generator().manual_seed(1), "label": label}
    first = table.sample(4, **draw)
    draw["generator"] = torch.Generator().manual_seed(1)
    assert torch.equal(loaded.sample(4, **draw), first)


def test_it_takes_conditions_in_training():
    problem = LinearProblem(dim=2, latent=2)
    levels = LogUniform(1.0, 2.0)
    objective = DiffInstruct(
        problem.teacher, Table(3, (2,), classes=2), problem.networks.fake(), levels=levels
    )
    batch = Batch(8, cond={"label": torch.arange(8) % 2})
    drawn = objective.prepare(batch, 0)
    objective.student_loss(drawn, 0).value.backward()
    assert drawn.z.dtype == torch.long and objective.generator.table.grad.abs().max() > 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="particles must be at least 1, got 0"):
        Table(0, (2,))
    problem = LinearProblem(dim=2, latent=2)
    with pytest.raises(ValueError, match="needs a student of normal latents, got a Table"):
        VarDiU(problem.teacher, Table(3, (2,)), levels=LogUniform(1.0, 2.0), shared=True)


@pytest.mark.parametrize("classes", [0, 2])
def test_particles_start_about_a_mean(classes):
    mean = torch.tensor([30.0, -20.0])
    table = Table(4_000, (2,), classes=classes, mean=mean, std=0.5)
    n = len(table.table)
    assert n == 4_000 * max(1, classes)
    # Of the mean of n normal numbers, and of their standard deviation.
    assert (table.table.mean(0) - mean).abs().max() < 5 * 0.5 / math.sqrt(n)
    assert (table.table.std(0) - 0.5).abs().max() < 5 * 0.5 / math.sqrt(2 * n)


def test_a_picture_is_moved_as_a_whole_and_has_each_place_its_own(tmp_path):
    picture = Picture((3, 2, 4), classes=2, mean=0.25, std=2.0, width=16, depth=2, fourier=1)
    z = picture.latent(4)
    label = torch.tensor([0, 1, 1, 0])
    x = picture(z, label=label)
    assert torch.equal(z, torch.zeros(4, dtype=torch.long)) and x.shape == (4, 3, 2, 4)
    assert torch.equal(x[0], x[3]) and torch.equal(x[1], x[2]) and not torch.equal(x[0], x[1])
    # Of the network itself: channel c of class k at a row and a column, from -1 to 1.
    place = torch.tensor([[1.0, -1 / 3]])
    assert torch.allclose(x[1, 2, 1, 1], 0.25 + 2 * picture.network(place)[0, 3 * 1 + 2])
    models.save(picture, tmp_path)
    loaded = models.load(tmp_path)
    assert type(loaded) is Picture and torch.equal(loaded(z, label=label), x)
    assert Picture((5,)).places.shape == (5, 1) and Picture((5,))(z).shape == (4, 5)


@pytest.mark.parametrize("shape", [(2,), (1, 3, 2)])
def test_a_problem_has_particles_and_a_picture_about_its_data(shape):
    mean, row = torch.full(shape, 7.0), VariableSettings(kind="particles", particles=3, std=1e-3)
    networks = LinearProblem(dim=2, latent=2).networks
    networks.space = KnownSpace(shape, mean, 0.5, 0.25, classes=2)
    table = networks.variables(row)
    assert table.shape == shape and table.classes == 2 and len(table.table) == 6
    assert (table.table - 7).abs().max() < 5 * 0.5e-3  # 5 of its 18 numbers' own deviations
    picture = networks.variables(VariableSettings(kind="picture", std=0.1, width=8, depth=2))
    assert isinstance(picture, Picture) and picture.shape == shape and picture.std == 0.05
    assert picture.arguments["width"] == 8 and torch.equal(picture.mean, mean)
    assert isinstance(networks.variables(VariableSettings()), Affine)
    with pytest.raises(ConfigError, match=r"variables\.particles must be at least 1, got 0"):
        VariableSettings(kind="particles", particles=0)


def test_particles_are_exported_for_this_library_alone(tmp_path):
    table = Table(3, (2,), classes=2).float()
    found = export(table, "safetensors", tmp_path / "here")
    assert found.difference == 0 and "normal" not in (found.folder / "README.md").read_text()
    with pytest.raises(ConfigError, match="a table has no latent .* export it --to safetensors"):
        export(table, "onnx", tmp_path / "there")
    assert not (tmp_path / "there").exists()
