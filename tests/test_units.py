"""Vectors in any unit: what a step of training does to the weights does not depend on it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from vardiu.methods import METHODS
from vardiu.methods.consistency import Settings as Consistency
from vardiu.methods.vardiu import Settings as VarDiU
from vardiu.problems.vectors import VectorProblem, refuse_beyond, within
from vardiu.settings.fields import AnchorSettings, LevelSettings, PairSettings, VectorSettings
from vardiu.settings.grounds import rescaled
from vardiu.storage.code import load_code
from vardiu.training.stage import Context, Trained

TEACHER = """
import torch
from vardiu.denoisers.exact import MixtureDenoiser

means = torch.randn(6, 2, generator=torch.Generator().manual_seed(3))
teacher = MixtureDenoiser({unit} * means, {unit} * 0.15, sigma_min={unit} * 0.01, sigma_max={unit} * 40.0)
"""

# The method of each, and what is changed of its settings.
KINDS = {
    "diff_instruct": ("diff_instruct", {}),
    "diff_instruct, as it is": ("diff_instruct", {"normalised": False}),
    "diff_instruct, beside pairs": ("diff_instruct", {"regression_weight": 0.5}),
    "sid": ("sid", {}),
    "sid, as it is": ("sid", {"normalised": False}),
    "emd": ("emd", {"normalised": True}),
    "emd, as it is": ("emd", {"normalised": False}),
    "vardiu": ("vardiu", {"posterior": "anchored", "anchor": AnchorSettings()}),
    "regression": ("regression", {}),
}


@pytest.fixture(autouse=True)
def single(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


def problem_in(unit: float, tmp_path) -> VectorProblem:
    place = tmp_path / f"teacher{unit:g}.py"
    place.write_text(TEACHER.format(unit=unit))
    named = f"{place}:teacher"
    row = VectorSettings(student="fresh", teacher=named, width=16, depth=1, reference=1_000)
    return VectorProblem(row, own={"teacher": load_code(named)})


def gradients(unit: float, kind: str, tmp_path) -> list[tuple[float, torch.Tensor]]:
    """The values and gradients of the phases of each stage, at the first step."""
    name, changes = KINDS[kind]
    method = METHODS[name]
    known = METHODS["diff_instruct"].presets["vectors"].settings
    row = known if name == "diff_instruct" else method.settings()
    if hasattr(row, "levels"):
        row = replace(row, levels=known.levels)
    row = replace(row, steps=4, batch=64, pairs=PairSettings(pairs=100, steps=2, batch=64))
    row = replace(row, **changes)
    problem = problem_in(unit, tmp_path)
    torch.manual_seed(0)
    recipe = method.recipe(problem, problem.fitted(row, ()), Context(seed=0))
    stage, found = next(recipe), []
    try:
        while True:
            objective = stage.objective
            objective.seed = 5
            batch = stage.batches.at(0)
            for phase in objective.phases:
                drawn = objective.prepare(batch, 0)
                objective.zero_grad()
                loss = phase.loss(drawn, 0)
                loss.value.backward()
                grads = [p.grad.flatten() for p in objective.parameters() if p.grad is not None]
                found.append((loss.value.item(), torch.cat(grads)))
            objective.zero_grad()
            stage = recipe.send(Trained(objective.generator, objective))
    except StopIteration:
        return found


@pytest.mark.parametrize("unit", [1e-5, 1e4])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_the_same_in_any_unit(kind, unit, tmp_path):
    wanted, found = (gradients(u, kind, tmp_path) for u in (1.0, unit))
    assert len(found) == len(wanted) >= 1
    for (value, gradient), (other, other_gradient) in zip(wanted, found, strict=True):
        assert other == pytest.approx(value, rel=2e-2, abs=1e-4)
        size = gradient.norm()
        assert size > 0 and (gradient - other_gradient).norm() < 2e-2 * size


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_level_that_a_bank_begins_at_is_one_of_the_data(unit):
    levels = LevelSettings(sigma_min=0.02, sigma_max=2.0)
    anchor = AnchorSettings(bank=4, bank_above=0.5)
    row = VarDiU(posterior="anchored", levels=levels, anchor=anchor)
    found = within(rescaled(row, unit, unit), 1e-9, 1e9)
    assert found.anchor.bank_above == pytest.approx(0.5 * unit)
    # None stays none, and asks no bank.
    bare = within(rescaled(replace(row, anchor=AnchorSettings()), unit, unit), 1e-9, 1e9)
    assert bare.anchor.bank_above == 0
    refuse_beyond(row, ["anchor.bank_above"], unit, 0.01 * unit, 40 * unit)
    refuse_beyond(replace(row, anchor=AnchorSettings(bank=2)), ["anchor.bank_above"], unit, 1, 2)


def test_the_softness_of_a_distance_is_a_length():
    row = rescaled(Consistency(softness=0.03), 10.0, 100.0)
    assert row.softness == pytest.approx(3.0) and math.isclose(row.rho, 7.0)
