"""What an objective keeps and does not train: moved once a step, saved, put back."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from cases import CASES, LEVELS, denoiser, student
from problems import mixture_teacher
from torch import Tensor

from vardiu.data.batch import Batch, divided_rows
from vardiu.data.batches import DataFree
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.storage.checkpoints import load_state, save_state
from vardiu.training.memory import Queue, Target
from vardiu.training.objective import Loss, Objective, Phase
from vardiu.training.optimizers import Optimisation, OptimizerRow
from vardiu.training.trainer import Trainer


class Drawn(NamedTuple):
    x: Tensor


class Remembering(Objective):
    """A student that is pulled to its own target, and a queue of its samples."""

    def __init__(self) -> None:
        super().__init__(mixture_teacher(), student())
        self.target = Target("generator", self.generator, decay=0.75)
        self.queue = Queue(6, (2,), key="x")

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("pull", self.loss, updates=("generator",)),)

    def prepare(self, batch: Batch, step: int) -> Drawn:
        return Drawn(self.target(self.latents(batch.rows)))

    def loss(self, drawn: Drawn, step: int) -> Loss:
        x = self.generator(self.latents(len(drawn.x), "other"))
        return Loss((x - drawn.x - 1).square().mean())


def trainer_of(objective: Objective, steps: int = 5, **row: object) -> Trainer:
    rates = dict.fromkeys(objective.trained, 1e-2)
    return Trainer(objective, Optimisation.adam(rates, **row), steps=steps)


def test_a_target_is_the_average_of_the_weights_after_each_step():
    objective = Remembering()
    trainer, batches = trainer_of(objective), DataFree(4)
    wanted = [p.clone() for p in objective.generator.parameters()]
    for _ in range(3):
        trainer.advance(batches)
        now = objective.generator.parameters()
        # mu (average so far) + (1 - mu) (weights after this step's update)
        wanted = [0.75 * w + 0.25 * p.detach() for w, p in zip(wanted, now, strict=True)]
        for mine, its in zip(objective.target.network.parameters(), wanted, strict=True):
            torch.testing.assert_close(mine, its)
    assert not any(p.requires_grad for p in objective.target.parameters())
    assert not objective.target.training
    with pytest.raises(ValueError, match="unknown network 'target'"):
        objective.network("target")


def test_a_queue_keeps_the_latest_rows_in_a_ring():
    queue = Queue(5, (1,), key="x")
    queue.push(torch.arange(3.0)[:, None])
    assert queue.filled.flatten().tolist() == [0, 1, 2]
    queue.push(torch.arange(3.0, 7.0)[:, None])
    assert sorted(queue.filled.flatten().tolist()) == [2, 3, 4, 5, 6]
    queue.push(torch.arange(7.0, 20.0)[:, None])
    assert sorted(queue.filled.flatten().tolist()) == [15, 16, 17, 18, 19]
    assert queue.written.value == 20


def test_memory_is_saved_and_goes_on_to_the_bit(tmp_path):
    straight, batches = trainer_of(Remembering()), DataFree(4)
    twin_weights = straight.objective.state_dict()
    twin_weights = {k: v.clone() for k, v in twin_weights.items()}
    for _ in range(2):
        straight.advance(batches)
    save_state(tmp_path / "2", straight.state_dict(batches))
    straight.fit(batches)

    again = trainer_of(Remembering())
    other = DataFree(4)
    again.load_state_dict(load_state(tmp_path / "2"), other)
    again.fit(other)
    mine, its = straight.objective.state_dict(), again.objective.state_dict()
    assert any(key.startswith("target.") for key in mine)
    assert all(torch.equal(mine[key], its[key]) for key in mine)


def test_instruments_put_memory_back():
    objective = Remembering()
    trainer, batches = trainer_of(objective), DataFree(4)
    trainer.advance(batches)
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    with objective.undisturbed("instrument"):
        drawn = [objective.prepare(Batch(4), 1)]
        with torch.no_grad():
            for parameter in objective.generator.parameters():
                parameter.add_(0.0)
            objective.remember(drawn, 1)
    after = objective.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_nests_are_divided_by_rows():
    batch = Batch(4, torch.arange(8.0).view(4, 2), {"label": torch.arange(4)})
    first, second = divided_rows(batch, 2)
    assert first.rows == 2 and first.truth is None
    assert torch.equal(second.x, batch.x[2:]) and second.cond["label"].tolist() == [2, 3]
    (a, _), (b, kept) = divided_rows((torch.arange(4), "word"), 2)
    assert a.tolist() == [0, 1] and b.tolist() == [2, 3] and kept == "word"
    assert isinstance(divided_rows(Drawn(torch.zeros(2, 1)), 2)[0], Drawn)
    with pytest.raises(ValueError, match="a batch of 4 rows cannot be visited in 3 equal parts"):
        divided_rows(batch, 3)


class Counting(DiffInstruct):
    """Counts the rows of each update of the fake."""

    def __init__(self) -> None:
        super().__init__(mixture_teacher(), student(), denoiser(), levels=LEVELS, ratio=1)
        self.seen: list[int] = []

    @property
    def phases(self) -> tuple[Phase, ...]:
        fake, generator = super().phases
        again = Phase("fake", self.counted, updates=fake.updates, repeat=2, minibatches=3)
        return again, generator

    def counted(self, drawn, step):
        self.seen.append(len(drawn.x))
        return self.fake_loss(drawn, step)


def test_a_visit_goes_through_its_minibatches_as_often_as_it_is_told():
    objective = Counting()
    trainer = trainer_of(objective)
    trainer.advance(DataFree(12))
    assert objective.seen == [4] * 6
    assert trainer.updates == {"fake": 6, "generator": 1}
    with pytest.raises(ValueError, match="10 rows cannot be visited in 3 equal parts"):
        trainer.advance(DataFree(10))


def test_each_network_has_an_optimizer_row_of_its_own():
    objective = CASES["diff-instruct"]()
    rows = {
        "generator": OptimizerRow(kind="radam", lr=0.1, betas=(0.5, 0.9), delay=1),
        "fake": OptimizerRow(kind="adamw", lr=0.2, weight_decay=0.3, warmup=4, clip=1e-9),
    }
    trainer = Trainer(objective, Optimisation(rows), steps=4)
    before = [p.clone() for p in objective.fake.parameters()]
    trainer.advance(DataFree(8))
    assert isinstance(trainer.optimizers["generator"], torch.optim.RAdam)
    assert trainer.optimizers["generator"].param_groups[0]["betas"] == (0.5, 0.9)
    assert trainer.updates == {"fake": 1, "generator": 0}
    # A quarter of the rate at the first step of four, and decay apart from the gradient.
    for old, new in zip(before, objective.fake.parameters(), strict=True):
        moved = new - old * (1 - 0.05 * 0.3)
        assert moved.abs().max() <= 0.05 * (1 + 1e-9)
    for words in ({"kind": "adamm"}, {"lr": 0.0}, {"delay": -1}, {"lr": float("nan")}):
        with pytest.raises(ValueError, match=r"did you mean adam|must be"):
            OptimizerRow(**words)
