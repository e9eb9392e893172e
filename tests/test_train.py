"""The trainer: averages, schedules, several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import CASES, student
from problems import mixture_teacher

from vardiu.data import DataFree
from vardiu.denoisers.levels import LogUniform
from vardiu.errors import Diverged
from vardiu.methods.vardiu import VarDiU
from vardiu.training.optimizers import Optimisation, OptimizerRow, constant, cosine
from vardiu.training.trainer import Trainer

HERE = Path(__file__).parent

WORKER = """
import sys
sys.path.insert(0, sys.argv[4])
import torch
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
rank, world = int(sys.argv[1]), int(sys.argv[2])
if world > 1:
    torch.distributed.init_process_group(
        "gloo", init_method="file://" + sys.argv[3] + ".rendezvous", rank=rank, world_size=world
    )
from cases import CASES
from vardiu.data import DataFree
from vardiu.training.optimizers import Optimisation
from vardiu.training.trainer import Trainer
from vardiu.errors import Diverged
for name in NAMES:
    torch.manual_seed(0)
    objective = CASES[name]()
    optimisation = Optimisation.adam(dict.fromkeys(objective.trained, 1e-2), halflife=50.0)
    trainer = Trainer(objective, optimisation, steps=6, seed=3)
    trainer.fit(DataFree(16, classes=2 if objective.generator.conditions else None))
    state = {"networks": objective.state_dict(), "average": trainer.average.state_dict()}
    torch.save(state, f"{sys.argv[3]}-{name}-{world}-{rank}.pt")
# A loss that is not finite in one process stops all of them, and nothing is updated.
objective = CASES["vardiu-gaussian"]()
real = objective.loss
if rank == world - 1:
    objective.__dict__["loss"] = lambda batch, step: real(batch, step)._replace(
        value=real(batch, step).value * float("nan")
    )
trainer = Trainer(objective, Optimisation.adam(dict.fromkeys(objective.trained, 1e-2)), steps=2)
before = [p.clone() for p in objective.parameters()]
try:
    trainer.fit(DataFree(8))
    raise SystemExit("it went on")
except Diverged:
    assert all(map(torch.equal, before, objective.parameters()))
if world > 1:
    torch.distributed.destroy_process_group()
"""
NAMES = ("vardiu-mixture", "diff-instruct", "diff-instruct-lattice", "vardiu-mixture-classes")
WORKER = f"NAMES = {NAMES!r}\n{WORKER}"


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    """Global batches, streams and averages do not depend on the number of processes."""

    def start(rank: int, world: int) -> subprocess.Popen:
        words = [
            sys.executable,
            "-c",
            WORKER,
            str(rank),
            str(world),
            str(tmp_path / "x"),
            str(HERE),
        ]
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=HERE.parent)

    workers = [start(0, 1), start(0, 2), start(1, 2)]
    for worker in workers:
        _, told = worker.communicate(timeout=300)
        assert worker.returncode == 0, told

    def load(name: str, world: int, rank: int) -> dict:
        path = tmp_path / f"x-{name}-{world}-{rank}.pt"
        state = torch.load(path, weights_only=True)
        flat = {**state["networks"], **state["average"]["module"]}
        flat["seen"] = torch.tensor(state["average"]["seen"])
        return {k: v for k, v in flat.items() if "extra_state" not in k}

    for name in NAMES:
        alone, first, second = load(name, 1, 0), load(name, 2, 0), load(name, 2, 1)
        for key in alone:
            assert torch.equal(first[key], second[key])
            # Sums in another order, in float64, through six steps of Adam.
            torch.testing.assert_close(first[key], alone[key], rtol=1e-7, atol=1e-9)


def test_rates_follow_decay_and_warmup():
    objective = CASES["vardiu-shared"]()
    optimisation = Optimisation.adam({"generator": 1.0}, decay=cosine, warmup=4)
    trainer = Trainer(objective, optimisation, steps=10)
    batches, rates = DataFree(4), []
    for _ in range(10):
        trainer.advance(batches)
        rates.append(trainer.optimizers["generator"].param_groups[0]["lr"])
    wanted = [cosine(i / 10) * min(1.0, (i + 1) / 4) for i in range(10)]
    assert rates == pytest.approx(wanted)
    assert constant(0.7) == 1.0


def test_a_delayed_network_stays_until_its_time():
    objective = CASES["vardiu-gaussian"]()
    rows = {"generator": OptimizerRow(lr=0.1, delay=3), "posterior": OptimizerRow(lr=0.1)}
    optimisation = Optimisation(rows)
    trainer, batches = Trainer(objective, optimisation, steps=5), DataFree(4)
    start = [p.clone() for p in objective.generator.parameters()]
    for step in range(5):
        trainer.advance(batches)
        moved = any(
            not torch.equal(a, b)
            for a, b in zip(start, objective.generator.parameters(), strict=True)
        )
        assert moved == (step >= 3)
    assert trainer.updates == {"generator": 2, "posterior": 5}


def test_gradients_are_clipped_by_network():
    objective = CASES["vardiu-gaussian"]()
    rates = {"generator": 1.0, "posterior": 1.0}
    rows = dict.fromkeys(rates, OptimizerRow(kind="sgd", lr=1.0, betas=(0.0, 0.0), clip=1e-3))
    trainer = Trainer(objective, Optimisation(rows), steps=1)
    before = {k: v.clone() for k, v in objective.named_parameters()}
    trainer.advance(DataFree(8))
    for name in rates:
        moved = torch.cat(
            [
                (v - before[k]).flatten()
                for k, v in objective.named_parameters()
                if k.startswith(name)
            ]
        )
        assert moved.norm().item() == pytest.approx(1e-3, rel=1e-4)


class Exploding(VarDiU):
    """A loss that is finite, with a gradient that is not."""

    def loss(self, batch, step):
        loss = super().loss(batch, step)
        first = next(self.generator.parameters()).flatten()[0]
        return loss._replace(value=loss.value + (first - first.detach()).sqrt())


def test_a_gradient_that_is_not_finite_stops_before_the_update():
    levels = LogUniform(0.2, 5.0)
    objective = Exploding(mixture_teacher(), student(), levels=levels, shared=True)
    trainer = Trainer(objective, Optimisation.adam({"generator": 0.1}), steps=3)
    before = [p.clone() for p in objective.generator.parameters()]
    with pytest.raises(Diverged, match="step 0, phase 'bound': the gradient of generator is"):
        trainer.advance(DataFree(4))
    assert all(
        torch.equal(a, b) for a, b in zip(before, objective.generator.parameters(), strict=True)
    )
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Trainer(objective, Optimisation.adam({"generator": 0.1}), steps=0)
