"""Accumulated gradients: the parts of a batch, one after another, are the batch."""

from __future__ import annotations

import functools

import pytest
import torch
import yaml
from cases import CASES, EXAMPLES, student
from problems import mixture_teacher
from test_contract import make, same

from vardiu.cli.main import main
from vardiu.data.batch import Batch
from vardiu.data.batches import Batches, DataFree, Shuffled
from vardiu.denoisers.levels import LogUniform
from vardiu.errors import Diverged
from vardiu.methods.vardiu import VarDiU
from vardiu.problems.toy import Blurred
from vardiu.runs.task import RunSettings, Task, task_from_preset
from vardiu.storage.checkpoints import load_state, save_state
from vardiu.training.objective import Loss, Objective, Phase
from vardiu.training.optimizers import Optimisation
from vardiu.training.streams import Streams
from vardiu.training.trainer import Trainer

ROWS = 12
# Particles are each part's own, as they are each process's; and rows of a minibatch mixture mix.
PARTICLES = sorted(name for name in CASES if getattr(EXAMPLES[name][1].settings, "particles", 0))
# So are the noises at which a diffusion posterior is asked.
OWN = [*PARTICLES, "vardiu-diffusion"]
MIXED = sorted(name for name in CASES if CASES[name]().row_coupling)
EXACT = sorted(set(CASES) - set(OWN) - set(MIXED))


def batches_of(objective: Objective) -> Batches:
    x = torch.randn(5 * ROWS, 2, generator=torch.Generator().manual_seed(2))
    label = torch.randint(2, (len(x),), generator=torch.Generator().manual_seed(3))
    return Shuffled(x, {"label": label} if objective.generator.conditions else {}, ROWS)


def trainer_of(name: str, accumulate: int, steps: int = 6) -> tuple[Trainer, Batches]:
    objective = make(name)
    batches = batches_of(objective)
    batches = Blurred(batches) if EXAMPLES[name][0].needs.paired else batches
    rates = dict.fromkeys(objective.trained, 1e-2)
    optimisation = Optimisation.adam(rates, halflife=20.0, clip=1.0, warmup=2)
    trainer = Trainer(objective, optimisation, steps=steps, seed=5, accumulate=accumulate)
    return trainer, batches


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    found = {**trainer.objective.state_dict()}
    found |= {f"average/{k}": v for k, v in trainer.average.module.state_dict().items()}
    return {k: v for k, v in found.items() if "extra_state" not in k}


@functools.lru_cache(maxsize=2)
def trained(name: str, steps: int) -> Trainer:
    """A trainer that saw whole batches, which is looked at and not trained on."""
    trainer, batches = trainer_of(name, 1, steps)
    trainer.fit(batches)
    return trainer


# Parts of one row each are many: half as long shows whether they are the batch.
@pytest.mark.parametrize(("parts", "steps"), [(2, 6), (3, 6), (12, 3)])
@pytest.mark.parametrize("name", EXACT)
def test_parts_train_what_the_whole_batch_does(name, parts, steps):
    whole = trained(name, steps)
    divided, batches = trainer_of(name, parts, steps)
    divided.fit(batches)
    a, b = weights(whole), weights(divided)
    for key in a:
        # Sums in another order, in float64, through six steps of Adam.
        torch.testing.assert_close(
            a[key], b[key], rtol=1e-6, atol=1e-9, msg=lambda m, k=key: k + m
        )
    for key, value in whole.latest.items():
        torch.testing.assert_close(value, divided.latest[key], rtol=1e-6, atol=1e-9)
    streams = (t.objective.streams.state_dict() for t in (whole, divided))
    assert same(*streams)  # and go on alike
    assert whole.objective.teacher_cost[1] == divided.objective.teacher_cost[1]
    assert whole.updates == divided.updates and whole.average.seen == divided.average.seen


@pytest.mark.parametrize("name", PARTICLES)
def test_particles_are_each_parts_own(name):
    values = []
    for accumulate in (1, 3):
        trainer, batches = trainer_of(name, accumulate)
        trainer.advance(batches)
        values.append(trainer.latest["bound/loss"])
    # Latents, levels and noise are the same; K particles are others.
    assert values[0] != values[1]
    assert values[0] == pytest.approx(values[1].item(), rel=0.5)


@pytest.mark.parametrize("name", MIXED)
def test_a_loss_that_mixes_rows_is_refused(name):
    with pytest.raises(ValueError, match="accumulate=2 would train another objective: "):
        trainer_of(name, 2)


@pytest.mark.parametrize("name", ["diff-instruct", "regression", "vardiu-gaussian-particles"])
def test_resuming_is_exact_to_the_bit(name, tmp_path):
    straight, batches = trainer_of(name, 3)
    straight.fit(batches)
    wanted = straight.state_dict(batches)
    first, batches = trainer_of(name, 3)
    for _ in range(3):
        first.advance(batches)
    save_state(tmp_path / "3", first.state_dict(batches))
    second, batches = trainer_of(name, 3)
    second.load_state_dict(load_state(tmp_path / "3"), batches)
    second.fit(batches)
    got = second.state_dict(batches)
    for part in ("networks", "optimizers", "average", "random", "batches"):
        assert same(wanted[part], got[part]), part


class Repeated(VarDiU):
    """Three updates on the same draws, which themselves draw."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("bound", self.loss, updates=("generator", "posterior"), repeat=3),)


def test_repeated_updates_go_over_all_parts():
    found = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        plain = CASES["vardiu-gaussian"]()
        objective = Repeated(
            mixture_teacher(), student(), plain.posterior, levels=LogUniform(0.2, 5.0)
        )
        rates = dict.fromkeys(objective.trained, 1e-2)
        trainer = Trainer(objective, Optimisation.adam(rates), steps=3, accumulate=accumulate)
        torch.manual_seed(1)
        trainer.fit(DataFree(ROWS))
        assert trainer.updates == {"generator": 9, "posterior": 9}
        found.append(weights(trainer))
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-6, atol=1e-9)


class Watched(VarDiU):
    """Remembers the numbers of rows that its losses saw, and breaks at the last of them."""

    seen: list[int]

    def loss(self, batch: Batch, step: int) -> Loss:
        self.seen.append(batch.rows)
        loss = super().loss(batch, step)
        broken = len(self.seen) == 4
        return loss._replace(value=loss.value * float("nan")) if broken else loss


def test_one_part_that_is_not_finite_stops_all_before_the_update():
    plain = CASES["vardiu-gaussian"]()
    objective = Watched(mixture_teacher(), student(), plain.posterior, levels=LogUniform(0.2, 5.0))
    objective.seen = []
    optimisation = Optimisation.adam(dict.fromkeys(objective.trained, 1e-2))
    trainer = Trainer(objective, optimisation, steps=3, accumulate=4)
    before = [p.clone() for p in objective.parameters()]
    with pytest.raises(Diverged, match="step 0, phase 'bound': its loss is nan"):
        trainer.advance(DataFree(ROWS))
    assert objective.seen == [3, 3, 3, 3]  # no part saw more rows than its own
    assert all(map(torch.equal, before, objective.parameters()))
    assert all(p.grad is None for p in objective.parameters())
    assert (objective.streams.rank, objective.streams.world) == (0, 1)


@pytest.mark.parametrize("world", [1, 2])
def test_parts_of_processes_draw_the_rows_of_one(world):
    whole = Streams(2)
    split = [Streams(2, rank=rank, world=world) for rank in range(world)]
    for _ in range(3):  # and go on doing so
        wanted = whole.normal("latent", 12, (2,)), whole.uniform("level", 12)

        def draw(n, streams):
            return streams.normal("latent", n, (2,)), streams.uniform("level", n)

        got = [
            pair
            for streams in split
            for pair in streams.over_parts(lambda n, s=streams: draw(n, s), [12 // world // 3] * 3)
        ]
        assert torch.equal(torch.cat([z for z, _ in got]), wanted[0])
        assert torch.equal(torch.cat([u for _, u in got]), wanted[1])
    assert [(s.rank, s.world) for s in split] == [(i, world) for i in range(world)]


def test_ambient_draws_differ_between_parts():
    streams = Streams(3)

    def draw(part):
        with streams.torch_seeded("particle"):
            return torch.randn(1000)

    a, b = streams.over_parts(draw, [0, 1])
    assert abs((a * b).mean()) < 5 / 1000**0.5


def test_an_error_leaves_the_place_among_processes_as_it_was():
    streams = Streams(3, rank=1, world=2)

    def fail(part):
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        streams.over_parts(fail, [0, 1])
    assert (streams.rank, streams.world) == (1, 2)


def test_batches_that_cannot_be_divided_are_named():
    trainer, batches = trainer_of("vardiu-gaussian", 5)
    with pytest.raises(ValueError, match="a batch of 12 rows cannot be visited in 5 equal parts"):
        trainer.advance(batches)
    with pytest.raises(ValueError, match="accumulate must be at least 1"):
        trainer_of("vardiu-gaussian", 0)
    task = task_from_preset("distill", "digits")
    with pytest.raises(
        ValueError, match=r"method.batch must be a multiple of run.accumulate \(7\)"
    ):
        Task(**{**vars(task), "run": RunSettings(accumulate=7)})


def test_the_command_takes_parts_and_economies(capsys):
    words = ["--accumulate", "4", "--economy.checkpoint", "all", "--economy.offload"]
    assert main(["distill", "mog40-gaussian", *words, "--dry-run"]) == 0
    run = yaml.safe_load(capsys.readouterr().out)["run"]
    assert run["accumulate"] == 4 and run["economy"]["checkpoint"] == "all"
    assert run["economy"]["offload"] is True
    assert main(["distill", "mog40-gaussian", "--accumulate", "7", "--dry-run"]) == 2
    assert "must be a multiple of run.accumulate (7), got 256" in capsys.readouterr().err
