"""What every method must do, over the examples of all methods of the table."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from cases import CASES, EXAMPLES, Repeat, batch_of, stages_of
from structure import changed, fields_of, fingerprint, needed_for, others, with_values
from torch import Tensor, nn

from vardiu.data.batch import Batch, divided_rows
from vardiu.data.batches import DataFree
from vardiu.errors import ConfigError
from vardiu.methods import METHODS
from vardiu.methods.base import Example
from vardiu.monitoring.gradients import student_gradient
from vardiu.posteriors.encoder import Encoder
from vardiu.problems.linear import LinearProblem
from vardiu.settings.fields import NetworkOptimizer
from vardiu.storage.checkpoints import load_state, save_state
from vardiu.students.affine import Affine
from vardiu.training.frozen import Frozen
from vardiu.training.memory import Memory
from vardiu.training.objective import Objective, networks, only
from vardiu.training.optimizers import Optimisation, OptimizerRow, cosine
from vardiu.training.streams import Streams
from vardiu.training.trainer import Trainer, visits

NAMES = sorted(CASES)
CLASSES = 2
CONDITIONAL = sorted(name for name in NAMES if EXAMPLES[name][1].classes)


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


def losses(objective: Objective, batch: Batch, step: int = 0) -> dict[str, Tensor]:
    """The losses of all phases, by their names."""
    with torch.no_grad():
        drawn = objective.prepare(batch, step)
    return {phase.name: phase.loss(drawn, step).value for phase in objective.phases}


def state_of(objective: Objective) -> dict[str, object]:
    """All that an objective keeps: weights, buffers, memories, counters, streams."""
    state = {key: value.clone() for key, value in objective.state_dict().items()}
    return {**state, "streams": objective.streams.state_dict()}


# -------------------------------------------------------------------------------- phases


def is_shift(name: str, key: str) -> bool:
    """Whether a parameter shifts all logits of a hinge: within its margins no loss changes."""
    return EXAMPLES[name][0].name in HINGED and key.endswith("last.bias") and key[:5] == "head."


HINGED = ("adm",)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_what_a_phase_names_and_nothing_else(name):
    objective = make(name)
    drawn = objective.prepare(batch_of(objective, 64), 0)
    for phase in objective.phases:
        objective.zero_grad(set_to_none=True)
        before = {key: p.requires_grad for key, p in objective.named_parameters()}
        with only(objective, phase.updates):
            phase.loss(drawn, 0).value.backward()
        for key, parameter in objective.named_parameters():
            named = key.split(".")[0] in phase.updates and parameter.requires_grad
            reached = parameter.grad is not None and bool((parameter.grad != 0).any())
            if is_shift(name, key):
                reached = parameter.grad is not None
            assert reached == named, f"{phase.name}: {key}"
        assert before == {key: p.requires_grad for key, p in objective.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_levels_weigh(name):
    """With another weight of its levels a phase has another gradient."""
    objective, batch = make(name), batch_of(make(name))
    weights = {k: v for k, v in vars(objective).items() if k.endswith("weight") and callable(v)}
    for key, weight in weights.items():
        found = []
        for other in (weight, lambda sigma, weight=weight: weight(sigma) * (1 + sigma)):
            setattr(objective, key, other)
            objective.streams.reset(0)
            drawn = objective.prepare(batch, 0)
            found.append(
                [gradients_of(objective, i, drawn, 0) for i in range(len(objective.phases))]
            )
        setattr(objective, key, weight)
        gaps = [(a[k] - b[k]).norm() / a[k].norm() for a, b in zip(*found, strict=True) for k in a]
        assert max(gaps) > 0.01, key
    settings = EXAMPLES[name][1].settings
    assert bool(weights) == hasattr(settings, "weight")


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


# Examples that look at a number in a step, where an accelerator is waited for, and why.
WAITS = {
    **dict.fromkeys(
        ("emd", "emd-classes", "emd-regression", "emd-states"),
        "chains that are not stable end a run",
    ),
    **dict.fromkeys(
        ("fd-loss", "fd-loss-classes", "fd-loss-queue"),
        "the eigenvalues of a covariance are asked for whether they were found",
    ),
    "redif-ddpo": "rewards are standardised by the classes of a batch",
    "vardiu-anchored-bank": "the fake is asked for the rows at small levels alone",
    "vardiu-anchored-held": "a refresh is decided by how far the student has gone",
}


def steps_on(device: torch.device, objective: Objective, batch: Batch) -> None:
    """What a step computes on a device, without the trainer's own look at the losses; not the
    first step, in which some look for mistakes."""
    objective, batch = objective.to(device), batch.to(device)
    for step in range(1, 8):
        with torch.no_grad():
            drawn = objective.prepare(batch, step)
        for phase in objective.phases:
            with only(objective, phase.updates):
                phase.loss(drawn, step).value.backward()
        with torch.no_grad():
            objective.remember([drawn], step)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_does_not_wait_for_an_accelerator(name, accelerator):
    # One of its own: what is held is shared by copies, and would have no values afterwards.
    objective = stages_of(*EXAMPLES[name])[-1].objective
    objective.streams.reset(0)
    batch = batch_of(objective, 64)
    assert set(WAITS) <= set(NAMES)
    if name in WAITS:
        with pytest.raises(RuntimeError, match=r"[Mm]eta tensor"):  # it was looked at
            steps_on(accelerator, objective, batch)
    else:
        steps_on(accelerator, objective, batch)


def test_a_start_on_paths_does_not_wait_for_an_accelerator(accelerator):
    start, _ = stages_of(*EXAMPLES["freeflow-paths"])
    start.objective.streams.reset(0)
    steps_on(accelerator, start.objective, batch_of(start.objective, 64))


@pytest.mark.parametrize("name", NAMES)
def test_prepare_carries_no_graph(name):
    objective = make(name)
    with torch.no_grad():
        drawn = objective.prepare(batch_of(objective), 0)
    assert not any(t.requires_grad for t in tensors_of(drawn))


@pytest.mark.parametrize("name", NAMES)
def test_prepare_called_twice_changes_nothing(name):
    objective = make(name)
    batch = batch_of(objective)
    losses(objective, batch)  # every stream is under way
    before, streams = state_of(objective), copy.deepcopy(objective.streams)
    with torch.no_grad():
        first = objective.prepare(batch, 1)
        again = objective.prepare(batch, 1)
        objective.streams = copy.deepcopy(streams)
        third = objective.prepare(batch, 1)
    after = state_of(objective)
    for key in before.keys() - {"streams"}:
        # The teacher's counters are no part of what is prepared.
        counts = key.endswith("._extra_state") and isinstance(
            objective.get_submodule(key.removesuffix("._extra_state")), Frozen
        )
        assert counts or same(before[key], after[key]), key
    assert same(tensors_of(first), tensors_of(third))
    drew = not same(streams.state_dict(), after["streams"])
    assert not drew or not same(tensors_of(first), tensors_of(again))


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_loss(name):
    values = []
    for seed in (0, 0, 1):
        objective = make(name)
        objective.streams.reset(seed)
        twin = copy.deepcopy(objective)
        values += [
            {k: v.item() for k, v in losses(o, batch_of(o)).items()} for o in (objective, twin)
        ]
        assert "streams" not in repr(objective.state_dict().keys())
    assert values[0] == values[1] == values[2] == values[3]
    assert values[4] == values[5]
    assert all(values[4][key] != values[0][key] for key in values[0])


# -------------------------------------------------------------------------------- conditions


def takes_conditions(module: nn.Module) -> bool:
    if isinstance(module, Encoder):
        return any(isinstance(m, nn.Embedding) for m in module.modules())
    return bool(getattr(module, "conditions", ()))


@contextlib.contextmanager
def calls_of(
    objective: Objective,
) -> Iterator[tuple[dict[str, list[tuple[Tensor, Tensor | None]]], dict[str, list[Tensor]]]]:
    """By network, the rows and the labels that it, or what is in it, was called with, and the
    labels that were looked up in its tables of classes."""
    found: dict[str, list[tuple[Tensor, Tensor | None]]] = {}
    looked: dict[str, list[Tensor]] = {}
    handles = []
    for name, network in networks(objective).items():
        taking = [m for m in network.modules() if takes_conditions(m)]
        # The features of a denoiser are asked for without its own call: its table is not.
        tables = [m for m in network.modules() if isinstance(m, nn.Embedding)]
        # A table may have a class of none as well.
        for table in (m for m in tables if m.num_embeddings in (CLASSES, CLASSES + 1)):

            def look(module, arguments, name=name):
                looked[name].append(arguments[0])

            looked.setdefault(name, [])
            handles.append(table.register_forward_pre_hook(look))
        for module in taking:

            def note(module, arguments, named, name=name):
                found[name].append((arguments[0].detach(), named.get("label")))

            found.setdefault(name, [])
            handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        yield found, looked
    finally:
        for handle in handles:
            handle.remove()


def relabelled(objective: Objective, batch: Batch, rows: slice, label: int) -> Batch:
    """A batch with other labels in some rows; pairs that the objective holds get them too."""
    for value in vars(objective).values():
        if hasattr(value, "cond"):
            value.cond["label"] = value.cond["label"].clone()
            value.cond["label"][rows if rows.stop is None else slice(10)] = label
    asked = batch.cond["label"].clone()
    asked[rows] = label
    return batch._replace(cond={"label": asked})


def test_every_method_has_an_example_with_classes():
    assert {EXAMPLES[name][0].name for name in CONDITIONAL} == set(METHODS)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditions_reach_every_network_that_takes_them_and_change_the_losses(name):
    values = []
    for label in (0, 1):
        objective = make(name)
        batch = relabelled(objective, batch_of(objective), slice(None), label)
        with calls_of(objective) as (calls, looked):
            values.append(losses(objective, batch))
        held = EXAMPLES[name][0].needs.pairs  # its teacher was asked before
        assert {"generator", "teacher"} & networks(objective).keys() <= calls.keys()
        for network, seen in calls.items():
            # Of a discriminator's encoder the features alone are asked for.
            reached = seen or looked.get(network) or (held and network == "teacher")
            assert reached, f"{network} was not called"
            for _, asked in seen:
                assert asked is not None and bool((asked == label).all()), network
        for network, seen in looked.items():
            assert seen and all(bool((asked == label).all()) for asked in seen), network
    for phase, value in values[0].items():
        assert value != values[1][phase], phase


@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditions_go_with_their_rows(name):
    """Where some rows' labels change, no other row of any network's input may."""
    both = []
    for label in (0, 1):
        objective = make(name)
        batch = relabelled(objective, batch_of(objective), slice(0, 2), label)
        with calls_of(objective) as (calls, _):
            losses(objective, batch)
        both.append(calls)
    flipped = 0
    for network, first in both[0].items():
        for (x, a), (y, b) in zip(first, both[1][network], strict=True):
            assert len(x) == len(a)
            moved = (x != y).reshape(len(x), -1).any(1)  # of particles x is one number a row
            assert not bool((moved & (a == b)).any()), network
            flipped += int((a != b).sum())
    assert flipped > 0


# -------------------------------------------------------------------------------- mathematics


# Why a method has no ideal: each is tested against closed forms of its own instead.
WITHOUT_IDEAL = {
    "fd_loss": "its fixed points are all laws with the data's moments; test_fd_loss has them",
    "denoising": "it trains a denoiser and no student; test_denoising has its minimum",
    "sds": "its mean gradient is zero at a point and not at the teacher's law; test_sds has both",
    "mean_shift": "it stops at modes and not at the teacher's law; test_mean_shift has where",
    "freeflow": "its network takes levels, as no affine map does; test_freeflow has its map",
    "d3sr": "it restores images, and matches no law; test_d3sr has its closed forms",
    "osediff": "it restores images beside matching; test_d3sr has its direction",
    "adm": "its best discriminator is a sign, without a gradient; test_adm has its closed forms",
    **dict.fromkeys(
        ("consistency", "consistency_training", "lcm"),
        "its network takes levels, as no affine map does; its test has its map",
    ),
    "ddil": "its network takes levels, as no affine map does; test_ddil has its closed forms",
    "rdd": "its network takes levels, as no affine map does; test_rdd has its gradient",
    "redif": "its student takes levels, as no affine map does; test_redif has its exact gradient",
    "progressive": "its network takes levels, as no affine map does; test_progressive has its map",
}


def claiming(claim: str) -> list[str]:
    return sorted(name for name, method in METHODS.items() if claim in method.claims)


def test_every_method_claims_something_or_says_why_not():
    silent = {name for name, method in METHODS.items() if not method.claims}
    assert silent == WITHOUT_IDEAL.keys() & METHODS.keys()


def statistics(objective: Objective, draws: int = 300, rows: int = 16) -> tuple[float, float]:
    """The largest coordinate of the mean gradient in standard errors, and Hotelling's
    statistic."""
    with objective.undisturbed("contract"):
        batch = Batch(rows)
        gradients = torch.stack([student_gradient(objective, batch, i) for i in range(draws)])
    mean, error = gradients.mean(0), gradients.std(0) / math.sqrt(draws)
    if float(gradients.abs().max()) < 1e-12:
        return 0.0, 0.0
    solved = torch.linalg.solve(gradients.T.cov() / draws, mean)
    return float((mean / error).abs().max()), float(mean @ solved)


@pytest.mark.parametrize("name", claiming("fixed_point"))
def test_the_mean_gradient_is_zero_where_the_laws_are_equal(name):
    problem = LinearProblem(2, 2, seed=3)
    matched = problem.networks.matched_student()
    largest, hotelling = statistics(METHODS[name].ideal(problem, matched))
    # Six coordinates: 35 is exceeded with a probability of 4e-6 by the limiting chi-square.
    assert largest < 5 and hotelling < 35
    # And the test sees a student that is off by a tenth.
    moved = Affine(1.1 * matched.matrix.detach(), matched.shift.detach() + 0.1)
    largest, hotelling = statistics(METHODS[name].ideal(problem, moved))
    assert largest > 5 and hotelling > 60


@pytest.mark.parametrize("name", claiming("descent"))
def test_descent_lowers_the_divergence_of_a_gaussian(name):
    problem = LinearProblem(2, 2, seed=3)
    matched = problem.networks.matched_student()
    student = Affine(
        matched.matrix.detach() @ torch.tensor([[1.4, 0.3], [0.0, 0.7]]),
        matched.shift.detach() + torch.tensor([0.5, -0.5]),
    )
    before = problem.kl(student.matrix, student.shift, 0.5).item()
    objective = METHODS[name].ideal(problem, student)
    rates = dict.fromkeys(objective.trained, 0.03)
    trainer = Trainer(objective, Optimisation.adam(rates, decay=cosine), steps=200)
    trainer.fit(DataFree(64))
    after = problem.kl(student.matrix, student.shift, 0.5).item()
    assert before > 0.1 and after < before / 30


# -------------------------------------------------------------------------------- trainings


@pytest.mark.parametrize("name", NAMES)
def test_teacher_is_neither_trained_nor_saved_nor_touched(name):
    objective, needs = make(name), EXAMPLES[name][0].needs
    held = {k: m for k, m in objective.named_children() if isinstance(m, Frozen)}
    assert ("teacher" in held) == (needs.teacher and needs.asked)
    for key, frozen in held.items():
        before = {k: v.clone() for k, v in frozen.module.state_dict().items()}
        rates = dict.fromkeys(objective.trained, 0.1)
        Trainer(objective, Optimisation.adam(rates), steps=2).fit(Repeat(objective))
        assert same(before, dict(frozen.module.state_dict()))
        assert not frozen.module.training
        assert not list(frozen.parameters())
        state = {k: v for k, v in objective.state_dict().items() if k.startswith(f"{key}.")}
        assert [v.numel() for v in state.values()] == [2]  # the counters
        assert frozen.calls > 0 or needs.pairs  # they are made before
        assert copy.deepcopy(frozen).module is frozen.module


@pytest.mark.parametrize("name", NAMES)
def test_a_trainer_step_is_one_along_the_gradient_of_each_phase(name):
    """By plain gradient descent; the average that follows at once is the student after it."""
    objective, batch = make(name), batch_of(make(name))
    other, batches = copy.deepcopy(objective), Repeat(objective)
    batches.at = lambda index: batch
    row = OptimizerRow(kind="sgd", lr=0.01, betas=(0.0, 0.0))
    trainer = Trainer(objective, Optimisation(dict.fromkeys(objective.trained, row)), steps=2)
    trainer.fit(batches)
    other.streams.reset(0)
    assert list(two_steps([other], [batch]))
    wanted, state = other.state_dict(), objective.state_dict()
    for key in wanted:
        torch.testing.assert_close(state[key], wanted[key], rtol=1e-10, atol=1e-12, msg=key)
    average = dict(trainer.average.module.named_parameters())
    for key, parameter in objective.generator.named_parameters():
        assert torch.equal(average[key], parameter), key


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
def test_every_trained_network_is_saved_and_loaded(name, tmp_path):
    first, batches = trainer_of(name)
    with torch.no_grad():
        for key in first.objective.trained:
            for parameter in first.objective.network(key).parameters():
                parameter += 1 + torch.rand_like(parameter)
    save_state(tmp_path / "x", first.state_dict(batches))
    second, batches = trainer_of(name)
    for key in second.objective.trained:
        a, b = (dict(t.objective.network(key).named_parameters()) for t in (first, second))
        assert a and not any(torch.equal(a[k], b[k]) for k in a), key
    second.load_state_dict(load_state(tmp_path / "x"), batches)
    for key in second.objective.trained:
        a, b = (dict(t.objective.network(key).named_parameters()) for t in (first, second))
        assert same(a, b), key
        assert set(first.optimizers) == set(second.optimizers) == set(first.objective.trained)


# Particles are one table: where a user froze it, no student is left to train.
SEVERAL = [n for n in NAMES if len(list(CASES[n]().generator.parameters())) > 1]


@pytest.mark.parametrize("name", SEVERAL)
def test_what_a_user_froze_does_not_move(name):
    objective = make(name)
    frozen = next(p for p in objective.generator.parameters() if p.numel() > 4)
    frozen.requires_grad_(False)
    before = {k: v.clone() for k, v in objective.named_parameters()}
    free = {
        id(p)
        for key in objective.trained
        for p in objective.network(key).parameters()
        if p.requires_grad
    }
    optimisation = Optimisation.adam(dict.fromkeys(objective.trained, 1e-2))
    Trainer(objective, optimisation, steps=4).fit(Repeat(objective))
    assert not frozen.requires_grad
    remembered = {
        id(p) for m in objective.children() if isinstance(m, Memory) for p in m.parameters()
    }
    for key, parameter in objective.named_parameters():
        if id(parameter) not in remembered and not is_shift(name, key):
            moved = not torch.equal(before[key], parameter)
            assert moved == (id(parameter) in free), key


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(SEVERAL)))
def test_a_table_that_a_user_froze_is_not_trained(name):
    objective = make(name)
    objective.generator.requires_grad_(False)
    rates = dict.fromkeys(objective.trained, 0.1)
    with pytest.raises(ValueError, match="generator is to be trained, and all of its parameters"):
        Trainer(objective, Optimisation.adam(rates), steps=1)


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
    batch = batch_of(objective)
    losses(objective, batch)  # every stream of training is under way
    before = state_of(objective)
    with torch.no_grad():
        values = objective.diagnostics(batch, 0)
    assert all(bool(v.isfinite()) for v in values.values())
    after = state_of(objective)
    known = before["streams"]["generators"]
    assert same(known, {k: after["streams"]["generators"][k] for k in known})
    for key in before.keys() - {"streams"}:
        assert "extra_state" in key or same(before[key], after[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_an_instrument_leaves_no_trace(name):
    objective = make(name)
    batch = batch_of(objective)
    losses(objective, batch)
    before = state_of(objective)
    with objective.undisturbed("contract"):
        with torch.no_grad():
            drawn = objective.prepare(batch, 1)
        for phase in objective.phases:
            phase.loss(drawn, 1)
        with torch.no_grad():
            for parameter in objective.generator.parameters():
                parameter.mul_(1.5)  # else a target has nothing to follow
            objective.remember([drawn], 1)
            for parameter in objective.generator.parameters():
                parameter.div_(1.5)
        moved = not same(before, state_of(objective))
    after = state_of(objective)
    assert moved
    own = [k for k in before if k.startswith("generator.") and "." in k]
    for key in before.keys() - set(own):
        assert same(before[key], after[key]), key


# -------------------------------------------------------------------------------- processes


def gradients_of(objective: Objective, phase_index: int, drawn: object, step: int) -> dict:
    """The gradients of a phase, by the parameter's name."""
    phase = objective.phases[phase_index]
    objective.zero_grad(set_to_none=True)
    with only(objective, phase.updates):
        phase.loss(drawn, step).value.backward()
    return {key: p.grad for key, p in objective.named_parameters() if p.grad is not None}


def mean_gradient(copies: list[Objective], i: int, drawn: list, step: int) -> dict[str, Tensor]:
    """The mean of the gradients of a phase of all copies, each on its own draws."""
    found = [gradients_of(o, i, d, step) for o, d in zip(copies, drawn, strict=True)]
    return {key: torch.stack([g[key] for g in found]).mean(0) for key in found[0]}


def two_steps(copies: list[Objective], batches: list[Batch]) -> Iterator[dict[str, Tensor]]:
    """The mean gradients of each phase of two steps; all copies are updated with them."""
    for step in range(2):
        with torch.no_grad():
            drawn = [o.prepare(b, step) for o, b in zip(copies, batches, strict=True)]
        for i, phase in enumerate(copies[0].phases):
            if not phase.due(step):
                continue
            for parts in zip(*(visits(phase, [own]) for own in drawn), strict=True):
                yield (mean := mean_gradient(copies, i, [part for (part,) in parts], step))
                with torch.no_grad():
                    for objective in copies:
                        for key, parameter in objective.named_parameters():
                            if key in mean:
                                parameter -= 0.01 * mean[key]
        with torch.no_grad():
            for objective, own in zip(copies, drawn, strict=True):
                objective.remember([own], step)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one(name, monkeypatch):
    seeded = []
    real = Streams.torch_seeded
    monkeypatch.setattr(
        Streams, "torch_seeded", lambda self, *words: seeded.append(1) or real(self, *words)
    )
    alone, batch = make(name), batch_of(make(name), 8)
    pair = [copy.deepcopy(alone) for _ in range(2)]
    for rank, objective in enumerate(pair):
        objective.streams = Streams(0, rank, 2)
    alone.streams = Streams(0)
    whole = list(two_steps([alone], [batch]))
    halves = list(two_steps(pair, divided_rows(batch, 2)))
    gaps = [
        float((a[key] - b[key]).norm() / (1e-12 + a[key].norm()))
        for a, b in zip(whole, halves, strict=True)
        for key in a
    ]
    # What couples rows says so, and torch's own generator is each process's own.
    assert (max(gaps) < 1e-9) == (not alone.row_coupling and not seeded)
    states = [o.state_dict() for o in pair]
    assert all(same(states[0][k], states[1][k]) for k, _ in alone.named_parameters())


# -------------------------------------------------------------------------------- settings


# Fields that do nothing, by method, with the reason; each is tested to do nothing.
WITHOUT_EFFECT: dict[str, dict[str, str]] = {
    "regression": dict.fromkeys(
        (
            "pairs.steps",
            "batch",
            "lr",
            "optimizer",
            "beta_1",
            "beta_2",
            "weight_decay",
            "decay",
            "delay",
            "warmup",
            "clip",
        ),
        "it is trained by its group `pairs`; the number of steps and the half-life are the run's",
    ),
}


# What a field of a method needs beside itself, where its group does not say it.
BESIDE = {
    "regression_weight": {"pairs.pairs": 20},
    "softness": {"distance": "pseudo_huber"},
}


@pytest.mark.parametrize(
    "method", [row for row in METHODS.values() if hasattr(row.settings(), "regression_weight")]
)
def test_a_regression_beside_a_method_without_pairs_is_refused_in_one_line(method):
    asked = {"regression_weight": 0.5, "pairs.pairs": 0}
    read = [  # of VarDiU's posteriors one has a regression beside it
        example
        for example in method.examples.values()
        if getattr(example.settings, "posterior", "anchored") == "anchored"
    ]
    assert read
    for example in read:
        settings = needed_for(example.settings, "regression_weight")
        settings = with_values(settings, asked)
        with pytest.raises(ConfigError, match=r"-weight 0.5 needs pairs .* give --pairs.pairs"):
            stages_of(method, replace(example, settings=settings, student="one_step"))


@functools.cache
def table_of(method: str, example: Example) -> dict[str, str]:
    """The fingerprint of all stages of an example; of one that is refused, nothing."""
    try:
        return fingerprint(stages_of(METHODS[method], example))
    except ValueError:
        return {}


# By a method and a group of its settings, the example in which a field of it had an effect.
SEEN: dict[tuple[str, str], Example] = {}


def bases_of(method: str, path: str) -> Iterator[Example]:
    """The examples in which a field is looked at, as they are and from a student of one step.

    First those in which its group had an effect, or is another than by default.
    """
    group = path.split(".")[0]
    usual, last = getattr(METHODS[method].settings(), group), SEEN.get((method, group))
    examples = METHODS[method].examples.values()
    ordered = sorted(
        (example for example in examples if path in fields_of(example.settings)),
        key=lambda example: (example is not last, getattr(example.settings, group) == usual),
    )
    for student in (None, "one_step"):
        for example in ordered:  # a group may be none in some
            settings = needed_for(example.settings, path)
            settings = with_values(settings, BESIDE.get(path, {}))
            SEEN[method, group] = example  # the last one that is asked for is the one with effect
            yield replace(example, settings=settings, student=student or example.student)


def effect_of(method: str, path: str) -> list[str]:
    """The places of an example's stages that a change of a field moves.

    A field whose every other value is refused has been looked at: the plane's frames have one
    component.
    """
    refused: list[str] = []
    for base in bases_of(method, path):
        before = table_of(method, base)
        accepted = False
        for settings in others(base.settings, path) if before else ():
            after = table_of(method, replace(base, settings=settings))
            accepted = accepted or bool(after)
            if after and changed(before, after):
                return changed(before, after)
        refused += [] if accepted or not before else [f"{path} is refused"]
    return refused


FIELDS = sorted(
    {
        (method.name, path)
        for method in METHODS.values()
        for example in method.examples.values()
        for path in fields_of(example.settings)
    }
)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_recipe_hands_every_setting_to_its_stages(method):
    idle = [path for m, path in FIELDS if m == method and not effect_of(m, path)]
    assert set(idle) == WITHOUT_EFFECT.get(method, {}).keys()


ROWS = {
    "kind": ("adamw", "radam", "sgd"),
    "lr": (0.011, 0.012, 0.013),
    "beta_1": (0.31, 0.32, 0.33),
    "beta_2": (0.91, 0.92, 0.93),
    "weight_decay": (0.21, 0.22, 0.23),
    "warmup": (21, 22, 23),
    "delay": (31, 32, 33),
    "clip": (4.1, 4.2, 4.3),
}


@pytest.mark.parametrize("name", [n for n in NAMES if EXAMPLES[n][0].name != "regression"])
def test_each_network_is_updated_by_its_own_row(name):
    """With values of its own for every network: rates that are swapped are seen."""
    method, example = EXAMPLES[name]
    groups = [
        field.name
        for field in dataclasses.fields(example.settings)
        if isinstance(getattr(example.settings, field.name), NetworkOptimizer)
    ]
    values = {key: row[0] for key, row in ROWS.items() if key != "kind"}
    own = {
        group: NetworkOptimizer(**{key: row[i + 1] for key, row in ROWS.items()})
        for i, group in enumerate(groups)
    }
    settings = replace(example.settings, optimizer=ROWS["kind"][0], **values, **own)
    stage = stages_of(method, replace(example, settings=settings))[-1]
    rows = stage.optimisation.rows
    assert rows.keys() == set(stage.objective.trained)
    assert rows.keys() - {"generator"} <= {group.removesuffix("_optimizer") for group in groups}
    for network, row in rows.items():
        i = 0 if network == "generator" else 1 + groups.index(f"{network}_optimizer")
        found = {**dataclasses.asdict(row), "beta_1": row.betas[0], "beta_2": row.betas[1]}
        assert {key: found[key] for key in ROWS} == {key: r[i] for key, r in ROWS.items()}
