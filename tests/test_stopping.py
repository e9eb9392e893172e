"""Turns, and every way in which a run may end before its end."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from cases import CASES, Repeat, student
from problems import mixture_teacher
from torch import nn

from vardiu.cli.main import main
from vardiu.data import DataFree
from vardiu.data.batches import Batches
from vardiu.errors import CheckpointError, ConfigError, Diverged, Interrupted
from vardiu.methods.regression import Regression
from vardiu.methods.vardiu import VarDiU
from vardiu.storage.checkpoints import Checkpoints
from vardiu.training.device_kind import kind_of, refuse_other_kind
from vardiu.training.objective import Loss, Objective, Phase
from vardiu.training.optimizers import Optimisation
from vardiu.training.trainer import Trainer, set_card_state

NAMES = sorted(CASES)


def trainer_of(name: str, steps: int = 6) -> tuple[Trainer, Batches]:
    torch.manual_seed(0)
    objective = CASES[name]()
    rates = dict.fromkeys(objective.trained, 1e-2)
    optimisation = Optimisation.adam(rates, halflife=20.0)
    return Trainer(objective, optimisation, steps=steps), Repeat(objective)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in module.named_parameters()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# -------------------------------------------------------------------------------- turns


class Counting(Objective):
    """Two players; what is called, with what, is written down."""

    def __init__(self) -> None:
        super().__init__(mixture_teacher(), student())
        self.critic = nn.Linear(2, 1)
        self.told: list[tuple[str, int, int]] = []

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("critic", self.critic_loss, updates=("critic",), repeat=3),
            Phase("student", self.student_loss, updates=("generator",), every=2),
        )

    def prepare(self, batch, step):
        assert not torch.is_grad_enabled()
        drawn = (self.latents(batch.rows),)
        self.told.append(("prepare", step, id(drawn)))
        return drawn

    def critic_loss(self, drawn, step):
        self.told.append(("critic", step, id(drawn)))
        return Loss(self.critic(self.generator(drawn[0])).square().mean())

    def student_loss(self, drawn, step):
        self.told.append(("student", step, id(drawn)))
        return Loss(self.critic(self.generator(drawn[0])).mean())


def test_phases_take_their_turns_on_the_draws_of_their_step():
    objective = Counting()
    optimisation = Optimisation.adam({"critic": 1e-2, "generator": 1e-2})
    trainer = Trainer(objective, optimisation, steps=5)
    batches = DataFree(4)
    for step in range(5):
        before = weights(objective.generator)
        trainer.advance(batches)
        assert equal(before, weights(objective.generator)) == (step % 2 == 1)
    wanted = []
    for step in range(5):
        wanted += [("prepare", step)] + 3 * [("critic", step)]
        wanted += [("student", step)] if step % 2 == 0 else []
    assert [told[:2] for told in objective.told] == wanted
    drawn = {step: {d for _, s, d in objective.told if s == step} for step in range(5)}
    assert all(len(ids) == 1 for ids in drawn.values())
    assert trainer.updates == {"critic": 15, "generator": 3}


# -------------------------------------------------------------------------------- divergence


def spoil(objective: Objective, which: int, at: int) -> str:
    """Makes one phase's loss NaN at one step; returns the phase's name."""
    cls = type(objective)
    name = objective.phases[which].name

    class Spoilt(cls):
        @property
        def phases(self):
            made = list(cls.phases.fget(self))
            good = made[which].loss

            def loss(drawn, step):
                value, info = good(drawn, step)
                return Loss(value * (math.nan if step == at else 1.0), info)

            made[which] = dataclasses.replace(made[which], loss=loss)
            return tuple(made)

    objective.__class__ = Spoilt
    return name


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_nan_moves_nothing_and_the_run_goes_on_from_its_checkpoint(name, tmp_path):
    straight, batches = trainer_of(name, 4)
    straight.fit(batches)

    for which in range(len(straight.objective.phases)):
        store = Checkpoints(tmp_path / str(which))
        trainer, batches = trainer_of(name, 4)
        phase = trainer.objective.phases[which]
        spoil(trainer.objective, which, at=2)
        seen = {}

        def watch(step, trainer=trainer, seen=seen, names=phase.updates):
            seen[step] = {n: weights(trainer.objective.network(n)) for n in names}
            seen[step]["average"] = weights(trainer.average.module)

        message = f"step 2, phase '{phase.name}': its loss is nan"
        with pytest.raises(Diverged, match=message):
            trainer.fit(batches, store=store, save_every=-1.0, progress=watch)
        after = {n: weights(trainer.objective.network(n)) for n in phase.updates}
        for n in phase.updates:
            assert equal(seen[2][n], after[n]), n
            assert not equal(seen[1][n], seen[2][n]) or phase.cycle > 1, n
        earlier = [n for phase in trainer.objective.phases[:which] for n in phase.updates]
        if "generator" not in earlier:  # an earlier phase of the step has moved the student
            assert equal(seen[2]["average"], weights(trainer.average.module))

        assert store.steps()[-1] == 2
        again, batches = trainer_of(name, 4)
        again.load_state_dict(store.newest()[1], batches)
        again.fit(batches)
        assert equal(weights(again.objective), weights(straight.objective))
        assert equal(weights(again.average.module), weights(straight.average.module))


def test_the_same_trainer_goes_on_after_a_step_that_was_broken_off(tmp_path):
    """Whatever a broken step leaves behind, gradients too, a restored state has none of it."""
    straight, batches = trainer_of("vardiu-gaussian")
    straight.fit(batches)

    trainer, batches = trainer_of("vardiu-gaussian")
    for _ in range(3):
        trainer.advance(batches)
    state = copy.deepcopy(trainer.state_dict(batches))
    original = trainer.objective.loss

    def infinite(batch, step):
        loss = original(batch, step)
        weight = next(trainer.objective.generator.parameters()).flatten()[0]
        return loss._replace(value=loss.value + (weight - weight.detach()).sqrt())

    def broken_off():
        raise KeyboardInterrupt

    trainer.objective.loss = infinite
    with pytest.raises(Diverged, match="step 3, phase 'bound': the gradient of generator is"):
        trainer.advance(batches)
    assert all(parameter.grad is None for parameter in trainer.objective.parameters())
    trainer.objective.loss = original
    trainer.optimizers["generator"].step = broken_off
    with pytest.raises(KeyboardInterrupt):
        trainer.advance(batches)
    del trainer.optimizers["generator"].step
    trainer.load_state_dict(state, batches)
    trainer.fit(batches)
    assert equal(weights(trainer.objective), weights(straight.objective))
    assert equal(weights(trainer.average.module), weights(straight.average.module))


# -------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_finish_and_saves_it(number, tmp_path):
    straight, batches = trainer_of("vardiu-gaussian-particles")
    straight.fit(batches)

    before = signal.getsignal(number)
    store = Checkpoints(tmp_path)
    trainer, batches = trainer_of("vardiu-gaussian-particles")
    original = trainer.objective.loss

    def loss(batch, step):  # in the middle of the third step
        if step == 2:
            os.kill(os.getpid(), number)
        return original(batch, step)

    trainer.objective.loss = loss
    with pytest.raises(Interrupted, match="stopped at step 3 of 6"):
        trainer.fit(batches, store=store, save_every=1e9)
    assert trainer.step == 3 and store.steps() == [3]
    assert signal.getsignal(number) == before

    again, batches = trainer_of("vardiu-gaussian-particles")
    again.load_state_dict(store.newest()[1], batches)
    again.fit(batches)
    assert equal(weights(again.objective), weights(straight.objective))
    assert equal(weights(again.average.module), weights(straight.average.module))


def test_a_run_takes_its_own_cards_generator_along_to_a_card_of_another_number(monkeypatch):
    given = []
    monkeypatch.setattr(
        "torch.cuda.set_rng_state", lambda state, card: given.append((state, card))
    )
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    own, others = torch.tensor([7]), [torch.tensor([1]), torch.tensor([2])]
    card = torch.device("cuda", 3)
    set_card_state(own, card)
    assert given == [(own, card)]
    # What older checkpoints have is by number.
    set_card_state(others, torch.device("cuda"))
    assert given[1][0] is others[1]
    with pytest.raises(CheckpointError, match="is on cuda:3 now: give the card that it was begun"):
        set_card_state(others, card)


def test_a_checkpoint_has_the_state_of_the_card_of_its_networks_alone(monkeypatch):
    """A processor's run has none, whatever cards are there."""
    trainer, batches = trainer_of("vardiu-gaussian")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda card: torch.tensor([card.index]))
    assert "cuda" not in trainer.state_dict(batches)["random"]

    class OnCard:
        device = torch.device("cuda", 1)

    monkeypatch.setattr(Objective, "like", OnCard)
    assert trainer.state_dict(batches)["random"]["cuda"].tolist() == [1]


class Slow(Checkpoints):
    """A disk that takes as long as a test says, by a clock that it moves."""

    def __init__(self, folder: Path, took: float) -> None:
        super().__init__(folder, keep=99)
        self.took, self.now = took, 0.0

    def save(self, step: int, state: object) -> Path:
        self.now += self.took
        return super().save(step, state)


@pytest.mark.parametrize(
    ("took", "every", "saved"),
    [
        (0.0, 2.5, [3, 6, 9, 12]),
        (0.1, 2.5, [3, 6, 9, 12]),  # 20 times that is less than what is asked for
        (0.2, 2.5, [3, 8, 12]),
        (9.0, 2.5, [3, 12]),  # and the last step is always saved
        (9.0, 0.0, [*range(1, 13)]),
    ],
)
def test_a_run_does_not_stand_still_for_its_checkpoints(took, every, saved, tmp_path, monkeypatch):
    """A step takes a second; a checkpoint that costs much is made seldom, by whoever asks for some."""
    trainer, batches = trainer_of("vardiu-gaussian", 12)
    store = Slow(tmp_path, took)
    monkeypatch.setattr("vardiu.training.trainer.time.monotonic", lambda: store.now)

    def second(step: int) -> None:
        store.now += 1.0

    trainer.fit(batches, store=store, save_every=every, progress=second)
    assert store.steps() == saved


def test_a_second_signal_is_not_withheld():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("outer"))
    try:
        trainer, batches = trainer_of("vardiu-gaussian")
        original = trainer.objective.loss

        def loss(batch, step):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            return original(batch, step)

        trainer.objective.loss = loss
        with pytest.raises(Interrupted, match="stopped at step 1"):
            trainer.fit(batches)
        assert heard == ["outer"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_stopped_trainer_can_be_asked_to_go_on():
    trainer, batches = trainer_of("vardiu-gaussian")
    with pytest.raises(Interrupted):
        trainer.fit(batches, progress=lambda step: os.kill(os.getpid(), signal.SIGTERM))
    trainer.fit(batches)
    straight, batches = trainer_of("vardiu-gaussian")
    straight.fit(batches)
    assert equal(weights(trainer.objective), weights(straight.objective))


def test_outside_of_the_main_thread_it_trains_alike():
    straight, batches = trainer_of("vardiu-gaussian")
    straight.fit(batches)
    trainer, batches = trainer_of("vardiu-gaussian")
    worker = threading.Thread(target=trainer.fit, args=(batches,))
    worker.start()
    worker.join()
    assert trainer.step == 6
    assert equal(weights(trainer.objective), weights(straight.objective))


def test_another_error_puts_the_signals_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    trainer, batches = trainer_of("vardiu-gaussian")

    def progress(step):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer.fit(batches, progress=progress)
    assert signal.getsignal(signal.SIGTERM) == before


# -------------------------------------------------------------------------------- stages


@pytest.mark.parametrize(
    "cls, at, posterior", [(Regression, 12, "gaussian"), (VarDiU, 17, "shared")]
)
def test_a_recipe_resumes_in_the_stage_where_it_stopped(
    cls, at, posterior, tmp_path, monkeypatch, capsys
):
    """The start on pairs, then the method; stopped in either, the student is the same."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 200)
    words = ["distill", "mog40", "--steps", "20", "--batch", "16", "--samples", "200"]
    words += ["--width", "16", "--threads", "1", "--posterior", posterior]
    words += ["--pairs.pairs", "64", "--pairs.steps", "15", "--pairs.batch", "16"]
    words += ["--pairs.solver-steps", "3", "--save-every", "0"]
    words += ["--reports", "3", "--evaluations", "1"]
    assert main([*words, "--out", "whole"]) == 0
    real = cls.loss

    def broken(self, batch, step):
        if step == at:
            raise KeyboardInterrupt
        return real(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(cls, "loss", broken)
        assert main([*words, "--out", "stopped"]) == 130
    assert not Path("stopped/student").exists()
    capsys.readouterr()
    assert main([*words, "--out", "stopped"]) == 0
    stage = "pairs" if cls is Regression else "vardiu"
    # An instrument asks for the loss of the step to come before the last one is saved.
    told = capsys.readouterr().out
    assert any(f"going on with {stage} from step {n} of" in told for n in (at - 1, at))
    a, b = (Path(run, "student", "model.safetensors").read_bytes() for run in ("whole", "stopped"))
    assert a == b
    costs = [
        json.loads(Path(run, "result.json").read_text())["cost"] for run in ("whole", "stopped")
    ]
    for cost in costs:
        cost.pop("seconds")
    assert costs[0] == costs[1]


@pytest.mark.parametrize("saved", ["said", "older", "older, of the streams alone"])
def test_random_numbers_of_another_kind_of_device_are_refused_before_all_else(saved):
    trainer, batches = trainer_of("freeflow")  # some of its streams are on the host anywhere
    trainer.advance(batches)
    state = copy.deepcopy(trainer.state_dict(batches))
    assert kind_of(state["random"]) == "cpu"
    before = weights(trainer.objective)
    random = {**state["random"], "device": "cuda"}
    if saved != "said":
        del random["device"]
    if saved == "older":
        random["cuda"] = torch.tensor([1])
    if saved == "older, of the streams alone":
        (key, value), *rest = state["random"]["streams"]["generators"].items()
        generators = {key.replace("@cpu", "@cuda"): value, **dict(rest)}
        random["streams"] = {"seed": 0, "generators": generators}
    trainer.advance(batches)
    moved = weights(trainer.objective)
    with pytest.raises(ConfigError, match=r"was begun on cuda and would go on on cpu.*--out"):
        trainer.load_state_dict({**state, "random": random}, batches)
    assert equal(weights(trainer.objective), moved) and not equal(moved, before)
    with pytest.raises(ConfigError, match="was begun on cpu and would go on on cuda"):
        refuse_other_kind(state["random"], "cuda")
    refuse_other_kind(random, "cuda")
    del state["random"]["device"]  # an older one of the host
    trainer.load_state_dict(state, batches)
    assert equal(weights(trainer.objective), before)
