"""What bigger networks need: scaled losses, recomputed blocks, compilers, layouts, lent weights."""

from __future__ import annotations

import copy
import math
import types

import cases
import pytest
import torch
from cases import CASES, LEVELS, student
from problems import mixture_teacher
from test_contract import same
from torch import nn

from vardiu import models
from vardiu.cli.main import main
from vardiu.data import DataFree, Shuffled
from vardiu.data.batch import Batch
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.errors import ConfigError, Diverged
from vardiu.methods.denoising import Denoising
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.methods.vardiu import VarDiU
from vardiu.nn import MLP, Precision, UNet, offload, precision
from vardiu.nn.backbones import backbones
from vardiu.resources.footprint import activations
from vardiu.storage.checkpoints import load_state, save_state
from vardiu.students.few_step import OneStep
from vardiu.students.pushforward import Pushforward
from vardiu.training.economy import Economy, has_blocks
from vardiu.training.frozen import Frozen
from vardiu.training.loss_scale import LossScale
from vardiu.training.memory import Held, Target
from vardiu.training.objective import Loss, Objective, Phase, only
from vardiu.training.optimizers import Optimisation
from vardiu.training.trainer import Trainer

IMAGE = (3, 8, 8)


def images(**options: object) -> PreconditionedDenoiser:
    network = UNet(3, widths=(8, 16), depth=2, embedding=16, **options)
    with torch.no_grad():  # heads start at zero; a step away they have gradients before them
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return PreconditionedDenoiser(
        network, shape=IMAGE, sigma_data=0.5, sigma_min=0.05, sigma_max=10.0
    )


def of_images(seed: int = 0) -> DiffInstruct:
    torch.manual_seed(seed)
    teacher, fake = images(), images()
    return DiffInstruct(teacher, OneStep.like(teacher), fake, levels=LEVELS, ratio=1)


def trainer_of(objective: Objective, steps: int = 4, **options: object) -> Trainer:
    rates = dict.fromkeys(objective.trained, 1e-2)
    return Trainer(objective, Optimisation.adam(rates, clip=1.0), steps=steps, **options)


def gradients(objective: Objective, batch: Batch) -> dict[str, torch.Tensor]:
    objective.streams.reset(3)
    found = {}
    with torch.no_grad():
        drawn = objective.prepare(batch, 0)
    for phase in objective.phases:
        objective.zero_grad(set_to_none=True)
        with only(objective, phase.updates):
            phase.loss(drawn, 0).value.backward()
        named = objective.named_parameters()
        found |= {f"{phase.name}/{k}": p.grad for k, p in named if p.grad is not None}
    return found


# -------------------------------------------------------------------------------- scaled losses


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("name", ["diff-instruct", "vardiu-gaussian", "vardiu-flow"])
def test_a_scale_that_is_a_power_of_two_changes_no_bit(name, accumulate):
    torch.set_default_dtype(torch.float32)
    found = []
    for scale in (None, 2.0**11):
        torch.manual_seed(0)
        trainer = trainer_of(CASES[name](), scale=scale, accumulate=accumulate)
        trainer.fit(DataFree(12))
        found.append(trainer)
    plain, scaled = found
    assert not plain.scales and set(scaled.scales) == {p.name for p in plain.objective.phases}
    assert same(dict(plain.objective.state_dict()), dict(scaled.objective.state_dict()))
    for key, value in plain.latest.items():
        assert torch.equal(value, scaled.latest[key]), key
    phase = plain.objective.phases[0].name
    assert scaled.latest[f"{phase}/scale"] == 2.0**11 and scaled.latest[f"{phase}/skipped"] == 0


def test_float16_loses_small_gradients_and_a_scale_keeps_them():
    torch.set_default_dtype(torch.float32)
    network = nn.Linear(4, 4)
    half, x = Precision(network, "float16"), torch.randn(64, 4)

    def gradient(module, factor):
        network.zero_grad()
        loss = 1e-6 * module(x).square().mean()
        (factor * loss).backward()
        return network.weight.grad / factor

    wanted = gradient(network, 1.0)
    lost, kept = gradient(half, 1.0), gradient(half, 2.0**16)
    # Half precision ends at 6e-8: what is below it is gone, and what is near it has few digits.
    assert (lost - wanted).norm() > 0.5 * wanted.norm()
    assert (kept - wanted).norm() < 5e-3 * wanted.norm()


def test_networks_in_float16_are_trained_with_a_scale():
    torch.set_default_dtype(torch.float32)
    found = []
    for dtype in ("float16", None):
        torch.manual_seed(0)
        objective = CASES["vardiu-gaussian"]()
        if dtype is not None:
            objective.generator.network = Precision(objective.generator.network, dtype)
        trainer = trainer_of(objective, steps=20)
        assert bool(trainer.scales) == (dtype is not None)
        trainer.fit(DataFree(64))
        found.append(trainer.latest["bound/loss"].item())
    assert found[0] == pytest.approx(found[1], rel=0.02, abs=0.02)


@pytest.mark.parametrize("found", [True, False])
def test_auto_computes_in_bfloat16_where_the_device_has_it(monkeypatch, found):
    torch.set_default_dtype(torch.float32)
    network, x = nn.Linear(8, 8), torch.randn(16, 8)
    seen, asked = [], []
    network.register_forward_hook(lambda *args: seen.append(args[-1].dtype))
    monkeypatch.setattr(precision, "_has_bfloat16", lambda *device: asked.append(device) or found)
    auto = Precision(network, "auto")
    answer = auto(x)
    assert asked == [("cpu", None)] and answer.dtype == torch.float32
    assert seen == [torch.bfloat16 if found else torch.float32]
    if found:
        assert torch.equal(answer, Precision(network, "bfloat16")(x))
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):  # one around it is not taken either
            assert torch.equal(auto(x), answer)


def test_what_a_device_has_is_a_constant_to_the_compiler():
    def other():
        pass

    marked = vars(torch.compiler.assume_constant_result(other))
    assert marked and marked.items() <= vars(precision.has_bfloat16).items()


CAPABILITIES = [
    ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
    ({"avx512_f": True, "avx512_bf16": True}, True),
    ({"amx_bf16": True}, True),
    ({"neon": True, "bf16": True}, True),
    ({"neon": True, "bf16": False}, False),
]


@pytest.mark.parametrize(("capabilities", "wanted"), CAPABILITIES)
def test_a_processor_has_bfloat16_where_it_says_so(monkeypatch, capabilities, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert precision._has_bfloat16.__wrapped__("cpu", None) is wanted
    assert precision._has_bfloat16.__wrapped__("mps", None) is False
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert precision._has_bfloat16.__wrapped__("cpu", None) is False


@pytest.mark.parametrize(("major", "wanted"), [(7, False), (8, True), (9, True)])
def test_a_card_has_bfloat16_from_ampere_on(monkeypatch, major, wanted):
    card = types.SimpleNamespace(major=major)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert precision._has_bfloat16.__wrapped__("cuda", 1) is wanted


def test_a_network_of_auto_is_compiled_without_a_break():
    torch.set_default_dtype(torch.float32)
    network, x = nn.Linear(4, 4), torch.randn(3, 4)
    auto = Precision(network, "auto")
    compiled = torch.compile(auto, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), auto(x))


class Overflowing(VarDiU):
    """Its student's gradient overflows where the scale is above 2^6."""

    LIMIT = 2.0**6

    def loss(self, batch: Batch, step: int) -> Loss:
        loss = super().loss(batch, step)
        value = loss.value + 0 * sum(p.sum() for p in self.generator.parameters())
        if value.requires_grad:
            value.register_hook(lambda g: g * (math.inf if abs(g) > self.LIMIT else 1.0))
        return loss._replace(value=value)


def overflowing(limit: float = 2.0**6) -> Overflowing:
    torch.manual_seed(0)
    posterior = CASES["vardiu-gaussian"]().posterior
    objective = Overflowing(mixture_teacher(), student(), posterior, levels=LEVELS)
    objective.LIMIT = limit
    return objective


def test_an_overflow_is_left_out_and_lowers_the_scale():
    objective = overflowing()
    trainer, batches = trainer_of(objective, steps=8, scale=2.0**9), DataFree(8)
    before = [p.clone() for p in objective.parameters()]
    for step in range(3):
        trainer.advance(batches)
        assert all(map(torch.equal, before, objective.parameters()))
        assert trainer.latest["bound/skipped"] == step + 1
        assert trainer.latest["bound/scale"] == 2.0 ** (8 - step)
        assert all(p.grad is None for p in objective.parameters())
    trainer.advance(batches)
    assert trainer.updates == {"generator": 1, "posterior": 1} and trainer.average.seen == 8
    assert not torch.equal(before[0], next(objective.parameters()))
    assert trainer.latest["bound/skipped"] == 3 and trainer.latest["bound/scale"] == 2.0**6


def test_a_gradient_that_overflows_at_every_scale_has_diverged():
    trainer = trainer_of(overflowing(limit=-1.0), steps=60, scale=2.0**3)
    with pytest.raises(Diverged, match="phase 'bound': the gradient of generator is"):
        trainer.fit(DataFree(8))
    assert trainer.step == 17  # from 2^3 to below 2^-14


def test_a_loss_that_is_not_finite_has_diverged_whatever_its_scale():
    objective = overflowing()
    real = objective.loss
    objective.__dict__["loss"] = lambda b, s: real(b, s)._replace(
        value=real(b, s).value * math.nan
    )
    with pytest.raises(Diverged, match="phase 'bound': its loss is nan"):
        trainer_of(objective, scale=1.0).advance(DataFree(8))


def test_a_scale_grows_after_patience_and_is_a_power_of_two():
    scale = LossScale(8.0, patience=3)
    for _ in range(7):
        scale.passed()
    assert scale.value == 32.0
    scale.lower()
    assert (scale.value, scale.skipped) == (16.0, 1)
    for wrong in (3.0, 0.0, -2.0):
        with pytest.raises(ValueError, match="must be a power of two"):
            LossScale(wrong)


def test_scales_are_resumed(tmp_path):
    first, batches = trainer_of(overflowing(), steps=6, scale=2.0**8), DataFree(8)
    for _ in range(4):
        first.advance(batches)
    save_state(tmp_path / "4", first.state_dict(batches))
    again = trainer_of(overflowing(), steps=6, scale=2.0**8)
    again.load_state_dict(load_state(tmp_path / "4"), other := DataFree(8))
    assert again.scales["bound"].state_dict() == first.scales["bound"].state_dict()
    first.fit(batches)
    again.fit(other)
    assert same(dict(first.objective.state_dict()), dict(again.objective.state_dict()))


# -------------------------------------------------------------------------------- economy

BATCH = Batch(4)


@pytest.mark.parametrize(
    ("economy", "tolerance"),
    [
        (Economy(checkpoint="all"), 0.0),
        (Economy(checkpoint="fake"), 0.0),
        (Economy(channels_last="all"), 1e-9),
        (Economy(compile="fake", backend="eager"), 0.0),
        # To trace the gradient takes half a minute.
        pytest.param(
            Economy(compile="generator", backend="aot_eager"), 1e-9, marks=pytest.mark.slow
        ),
        (Economy(compile="fake", checkpoint="fake", channels_last="all", backend="eager"), 1e-9),
    ],
    ids=["checkpoint", "one", "channels-last", "eager", "aot", "together"],
)
def test_networks_that_save_compute_the_same(economy, tolerance):
    plain, saving = of_images(), of_images()
    economy.apply(saving)
    wanted, got = gradients(plain, BATCH), gradients(saving, BATCH)
    assert list(plain.state_dict()) == list(saving.state_dict())
    assert wanted.keys() == got.keys() and len(wanted) > 50
    for key, value in wanted.items():
        # A bias before a normalisation has no gradient but rounding's own.
        torch.testing.assert_close(got[key], value, rtol=tolerance, atol=tolerance / 10)


def test_recomputed_blocks_keep_fewer_activations():
    plain, saving = of_images(), of_images()
    Economy(checkpoint="generator").apply(saving)
    a, b = activations(plain, BATCH), activations(saving, BATCH)
    assert b["student"]["generator"] < 0.5 * a["student"]["generator"]
    assert b["fake"] == a["fake"]  # was not asked to


def test_a_perceptron_recomputes_too():
    network, x = MLP((3,), (3,), width=16, depth=4), torch.randn(5, 3)
    found = []
    for _ in range(2):
        network.zero_grad()
        network(x).square().sum().backward()
        found.append([p.grad.clone() for p in network.parameters()])
        network.enable_gradient_checkpointing()
    assert same(*found)


@pytest.mark.parametrize("options", [{"compile": "all"}, {"channels_last": "all"}])
def test_what_was_trained_so_is_loaded_without(options, tmp_path):
    torch.set_default_dtype(torch.float32)
    objective = of_images()
    Economy(**options, backend="eager").apply(objective)
    trainer = trainer_of(objective, steps=2)
    trained = trainer.fit(DataFree(4))
    models.save(trained, tmp_path / "student")
    loaded = models.load(tmp_path / "student")
    assert same(dict(loaded.state_dict()), dict(trained.state_dict()))
    z = torch.randn(3, *IMAGE)
    with torch.no_grad():
        torch.testing.assert_close(loaded(z), trained(z), rtol=1e-4, atol=1e-5)
    assert loaded.denoiser.network.stem.weight.is_contiguous()


def test_resuming_with_channels_last_is_exact_to_the_bit(tmp_path):
    """Moments come back laid out as their weights: fused updates go by address."""

    def make():
        torch.manual_seed(0)
        objective = Denoising(images(), levels=LEVELS, sigma_data=0.5)
        Economy(channels_last="generator").apply(objective)
        x = torch.randn(16, *IMAGE, generator=torch.Generator().manual_seed(1))
        return trainer_of(objective, steps=4), Shuffled(x, {}, 8)

    straight, batches = make()
    straight.fit(batches)
    first, batches = make()
    for _ in range(2):
        first.advance(batches)
    save_state(tmp_path / "2", first.state_dict(batches))
    second, batches = make()
    second.load_state_dict(load_state(tmp_path / "2"), batches)
    second.fit(batches)
    assert same(dict(straight.objective.state_dict()), dict(second.objective.state_dict()))
    weight = second.objective.generator.network.stem.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    moment = second.optimizers["generator"].state[weight]["exp_avg"]
    assert moment.stride() == weight.stride() != moment.contiguous().stride()


def test_backbones_are_inside_of_their_wrappers():
    network = MLP((2,), (2,), width=4, depth=1)
    wrapped = Pushforward(Precision(network, "bfloat16"), latent_shape=(2,), shape=(2,))
    assert backbones(wrapped) == [network]
    objective = CASES["vardiu-flow"]()
    assert backbones(objective.posterior) == [objective.posterior.gaussian.encoder.backbone]
    assert backbones(objective.teacher.module) == []  # exact: nothing to compile


def test_lagging_copies_are_compiled_where_they_are_asked():
    """By whichever of the copy's functions: the network inside of it, not what stands around."""
    for kept in (Target("generator", student(0), 0.5), Held(student(0))):
        assert backbones(kept) == [kept.network.network]
    objective = CASES["vardiu-anchored"]()
    Economy(compile="all", backend="eager").apply(objective)
    (network,), asked = backbones(objective.anchor), []
    compiled = network._compiled_call_impl

    def counted(*arguments, **named):
        asked.append(len(arguments[0]))
        return compiled(*arguments, **named)

    network._compiled_call_impl = counted
    objective.streams.reset(0)
    with torch.no_grad():
        objective.prepare(BATCH, 0)
    assert asked == [BATCH.rows]


def test_what_cannot_be_done_is_named():
    objective = of_images()
    with pytest.warns(UserWarning, match="no network 'fakes' here; did you mean fake"):
        Economy(compile="fakes", backend="eager").apply(objective)
    objective.generator.denoiser.network = nn.Conv2d(3, 3, 3)
    with pytest.raises(ConfigError, match="a Conv2d has no blocks to run again"):
        Economy(checkpoint="generator").apply(objective)
    with pytest.raises(ConfigError, match="unknown backend 'indctor'; did you mean inductor"):
        Economy(backend="indctor")
    with pytest.raises(ConfigError, match="offloaded cannot be compiled"):
        Economy(compile="all", offload=True)
    with pytest.raises(
        ConfigError, match=r"offloaded cannot run its blocks again.*leave out --ec"
    ):
        Economy(checkpoint="fake, teacher", offload=True)
    Economy(checkpoint="all", offload=True)  # of the trained ones
    with pytest.raises(ValueError, match="a MixtureDenoiser has no weights"):
        Economy(offload=True).apply(CASES["diff-instruct"]())


@pytest.mark.parametrize("name", ["freeflow", "freeflow-paths"])
@pytest.mark.parametrize("option", ["compile", "checkpoint"])
def test_what_is_differentiated_forward_is_neither_compiled_nor_run_again(name, option):
    """In its own stage, and in that before it, whose network it goes on with."""
    every, one = ({option: names, "backend": "eager"} for names in ("all", "fake, generator"))
    for stage in cases.driven(*cases.EXAMPLES[name]):
        objective = stage.objective
        for refuse in (Economy(**one).refuse, Economy(**one).apply):
            with pytest.raises(ConfigError, match=f"economy.{option} generator: .*difference"):
                refuse(objective)
        Economy(**every).apply(objective)
        (network,) = backbones(objective.generator)
        assert network._compiled_call_impl is None and not network.recompute
    (fake,) = backbones(objective.fake)
    assert fake.recompute if option == "checkpoint" else fake._compiled_call_impl is not None
    objective.streams.reset(0)
    assert gradients(objective, Batch(8))


@pytest.mark.parametrize("option", ["compile", "checkpoint"])
def test_a_difference_of_levels_saves_as_well(option):
    found = []
    for economy in (Economy(), Economy(**{option: "generator", "backend": "eager"})):
        objective = CASES["freeflow-difference"]()
        objective.streams.reset(0)
        economy.refuse(objective)
        economy.apply(objective)
        found.append(gradients(objective, Batch(8)))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value)
    words = ["distill", "mog40-freeflow", "--dry-run", f"--economy.{option}", "generator"]
    assert main(words) == 2
    assert main([*words, "--derivative", "difference"]) == 0
    assert main([*words, "--correction", "1", "--lead", "0"]) == 0


@pytest.mark.parametrize("name", ["adm", "diff-ratio", "rdd", "d3sr-adapters", "dmd2-adversarial"])
def test_all_leaves_out_what_has_no_blocks_and_who_names_it_is_told(name):
    wanted, objective = CASES[name](), CASES[name]()
    Economy(checkpoint="all").apply(objective)
    kinds = [n for key in objective.trained for n in backbones(objective.network(key))]
    able = [n for n in kinds if has_blocks(n)]
    assert able and any(m.recompute for n in able for m in n.modules() if hasattr(m, "recompute"))
    batch = cases.batch_of(objective, 8)
    for one in (wanted, objective):
        one.streams.reset(0)
    assert same(*(list(gradients(one, batch).values()) for one in (wanted, objective)))
    names = [
        key
        for key in objective.trained
        if not all(map(has_blocks, backbones(objective.network(key))))
    ]
    for key in names:
        for refuse in (Economy(checkpoint=key).refuse, Economy(checkpoint=key).apply):
            with pytest.raises(
                ConfigError, match="has no blocks to run again; networks that have"
            ):
                refuse(objective)
    assert names


def test_all_of_networks_without_blocks_is_told_of():
    objective = of_images()
    objective.fake = objective.generator.denoiser = nn.Conv2d(3, 3, 3)
    with pytest.warns(UserWarning, match="checkpoint all: no network here can run blocks again"):
        Economy(checkpoint="all").apply(objective)


# -------------------------------------------------------------------------------- offload


def test_an_offloaded_teacher_says_the_same_and_stays_on_the_host(monkeypatch):
    teacher = images()
    frozen = Frozen(copy.deepcopy(teacher))
    frozen.offload()
    x_t, sigma = torch.randn(2, *IMAGE, requires_grad=True), torch.ones(2)
    wanted = teacher(x_t, sigma)
    assert torch.equal(frozen(x_t, sigma), wanted)  # on the host itself: nothing is moved
    # Another device, as far as a host can tell: weights are lent as copies, and given back.
    lent = []

    def lend(tensor, device):
        lent.append(tensor.clone())
        return lent[-1]

    monkeypatch.setattr(offload, "copied_to", lend)
    monkeypatch.setattr(offload, "is_elsewhere", lambda state, device: True)
    held = {k: v.data_ptr() for k, v in frozen.module.state_dict().items()}
    got = frozen(x_t, sigma)
    assert torch.equal(got, wanted) and len(lent) == len(held)
    assert {k: v.data_ptr() for k, v in frozen.module.state_dict().items()} == held
    # A gradient through the teacher goes through what was lent.
    (a,) = torch.autograd.grad(got.square().sum(), x_t)
    (b,) = torch.autograd.grad(teacher(x_t, sigma).square().sum(), x_t)
    assert torch.equal(a, b)
    assert (frozen.calls, frozen.samples) == (2, 4)


def test_weights_follow_their_inputs_to_a_device_and_do_not_move_with_the_module():
    frozen = Frozen(images())
    frozen.offload()
    moves = []
    frozen._apply(offload.returning_to_host(lambda tensor: moves.append(tensor) or tensor.float()))
    assert len(moves) == len(frozen.module.state_dict())
    assert {p.dtype for p in frozen.module.parameters()} == {torch.float32}
    x_t = torch.zeros(2, *IMAGE, device="meta", dtype=torch.float32)
    out = frozen(x_t, torch.ones(2, device="meta", dtype=torch.float32))
    assert out.device.type == "meta" and out.shape == x_t.shape
    assert {p.device.type for p in frozen.module.parameters()} == {"cpu"}
    assert copy.deepcopy(frozen).offloaded


def test_training_with_an_offloaded_teacher_is_the_same():
    found = []
    for offloaded in (False, True):
        objective = of_images()
        Economy(offload=offloaded).apply(objective)
        trainer_of(objective, steps=2).fit(DataFree(4))
        found.append(dict(objective.state_dict()))
    assert same(*found)


def test_phases_of_a_scaled_objective_have_their_own_scales():
    objective = CASES["diff-instruct"]()
    trainer = trainer_of(objective, scale=4.0)
    a, b = (trainer.scales[phase.name] for phase in objective.phases)
    assert isinstance(objective.phases[0], Phase) and a is not b
