"""What every method must do, over the table of all methods."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import CASES, batch_of
from torch import Tensor

from vardiu.data.batch import Batch
from vardiu.data.batches import Batches
from vardiu.storage.checkpoints import load_state, save_state
from vardiu.training.frozen import Frozen
from vardiu.training.objective import Objective, only
from vardiu.training.optimizers import Optimisation
from vardiu.training.trainer import Trainer

NAMES = sorted(CASES)


class Repeat(Batches):
    """The batch of a case, scaled by its index, so that the place in the data matters."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.batch = batch_of(objective)

    def at(self, index: int) -> Batch:
        return Batch.of(self.batch.x * (1 + 0.01 * index), self.batch.cond)


def make(name: str, seed: int = 0) -> Objective:
    torch.manual_seed(seed)
    objective = CASES[name]()
    objective.streams.reset(seed)
    # Zero-initialised heads have zero gradients before them; a step away they have not.
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return objective


def trainer_of(name: str, steps: int = 6, **options: object) -> tuple[Trainer, Repeat]:
    objective = make(name)
    rates = dict.fromkeys(objective.trained, 1e-2)
    optimisation = Optimisation.adam(rates, halflife=20.0, clip=1.0, warmup=2)
    return Trainer(objective, optimisation, steps=steps, **options), Repeat(objective)


def tensors_of(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in tensors_of(v)]
    if isinstance(value, tuple | list):
        return [t for v in value for t in tensors_of(v)]
    return []


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_what_a_phase_names_and_nothing_else(name):
    objective = make(name)
    drawn = objective.prepare(batch_of(objective, 64), 0)
    for phase in objective.phases:
        objective.zero_grad(set_to_none=True)
        with only(objective, phase.updates):
            phase.loss(drawn, 0).value.backward()
        for key, parameter in objective.named_parameters():
            named = key.split(".")[0] in phase.updates
            reached = parameter.grad is not None and bool((parameter.grad != 0).any())
            assert reached == named, f"{phase.name}: {key}"
        assert all(p.requires_grad for p in objective.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_finite_scalars(name, n, dtype):
    objective = make(name).to(dtype)
    drawn = objective.prepare(batch_of(objective, n), 3)
    for phase in objective.phases:
        loss = phase.loss(drawn, 3)
        assert loss.value.shape == () and bool(loss.value.isfinite())
        assert loss.value.dtype == dtype
        assert all(not v.requires_grad and v.isfinite() for v in loss.info.values())


@pytest.mark.parametrize("name", NAMES)
def test_prepare_carries_no_graph(name):
    objective = make(name)
    with torch.no_grad():
        drawn = objective.prepare(batch_of(objective), 0)
    assert not any(t.requires_grad for t in tensors_of(drawn))


@pytest.mark.parametrize("name", NAMES)
def test_teacher_is_neither_trained_nor_saved_nor_touched(name):
    objective = make(name)
    held = [m for m in objective.modules() if isinstance(m, Frozen)]
    assert len(held) == (name != "denoising")
    for frozen in held:
        before = {k: v.clone() for k, v in frozen.module.state_dict().items()}
        trainer, batches = (
            Trainer(objective, Optimisation.adam(dict.fromkeys(objective.trained, 0.1)), steps=2),
            Repeat(objective),
        )
        trainer.fit(batches)
        assert same(before, dict(frozen.module.state_dict()))
        assert not frozen.module.training
        assert not list(frozen.parameters())
        state = {k: v for k, v in objective.state_dict().items() if k.startswith("teacher")}
        assert [v.numel() for v in state.values()] == [2]  # the counters
        assert frozen.calls > 0 or name == "regression"  # its pairs are made before
        assert copy.deepcopy(frozen).module is frozen.module


@pytest.mark.parametrize("name", NAMES)
def test_resuming_is_exact_to_the_bit(name, tmp_path):
    straight, batches = trainer_of(name)
    straight.fit(batches)
    wanted = straight.state_dict(batches)

    first, batches = trainer_of(name)
    for _ in range(3):
        first.advance(batches)
    save_state(tmp_path / "3", first.state_dict(batches))

    torch.manual_seed(99)  # nothing may depend on the new process's own generator
    second, batches = trainer_of(name)
    torch.randn(5)
    second.load_state_dict(load_state(tmp_path / "3"), batches)
    second.fit(batches)
    got = second.state_dict(batches)
    for part in ("networks", "optimizers", "average", "random", "batches"):
        assert same(wanted[part], got[part]), part
    assert wanted["trainer"]["updates"] == got["trainer"]["updates"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_user_froze_does_not_move(name):
    objective = make(name)
    frozen = next(p for p in objective.generator.parameters() if p.numel() > 4)
    frozen.requires_grad_(False)
    before = {k: v.clone() for k, v in objective.named_parameters()}
    optimisation = Optimisation.adam(dict.fromkeys(objective.trained, 1e-2))
    Trainer(objective, optimisation, steps=4).fit(Repeat(objective))
    assert not frozen.requires_grad
    for key, parameter in objective.named_parameters():
        moved = not torch.equal(before[key], parameter)
        assert moved == (parameter is not frozen), key


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_loss(name):
    values = []
    for seed in (0, 0, 1):
        objective = make(name)
        objective.streams.reset(seed)
        twin = copy.deepcopy(objective)
        for o in (objective, twin):
            drawn = o.prepare(batch_of(o), 0)
            values.append([phase.loss(drawn, 0).value.item() for phase in o.phases])
        assert "streams" not in repr(objective.state_dict().keys())
    assert values[0] == values[1] == values[2] == values[3]
    assert values[4] == values[5] != values[0]


@pytest.mark.parametrize("name", NAMES)
def test_errors_name_what_is_wrong(name):
    objective = make(name)
    with pytest.raises(ValueError, match=r"no optimizer for \[.*'generator'"):
        rates = {key: 0.1 for key in objective.trained if key != "generator"}
        Trainer(objective, Optimisation.adam(rates), steps=1)
    rates = dict.fromkeys(objective.trained, 0.1)
    with pytest.raises(ValueError, match=r"'nobody'\], which no phase updates"):
        Trainer(objective, Optimisation.adam({**rates, "nobody": 0.1}), steps=1)
    with pytest.raises(ValueError, match="unknown network 'nobody'; the objective owns"):
        objective.network("nobody")


@pytest.mark.parametrize("name", NAMES)
def test_diagnostics_leave_training_as_it_was(name):
    objective = make(name)
    roles = ("latent", "noise", "level", "particle")
    before = {r: objective.streams(r).get_state() for r in roles}
    with torch.no_grad():
        values = objective.diagnostics(batch_of(objective), 0)
    assert all(bool(v.isfinite()) for v in values.values())
    assert same(before, {r: objective.streams(r).get_state() for r in roles})
