"""Features by declared taps: given beside the output of a plain call, and without a change of it."""

from __future__ import annotations

import copy
from typing import NamedTuple

import diffusers
import pipelines
import pytest
import torch

from vardiu.denoisers.adapted import AdaptedDenoiser
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.guidance import Autoguided, Guided
from vardiu.denoisers.lora import adapt, merge
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.denoisers.prompts import Captioned, Captions
from vardiu.denoisers.schedules import VariancePreserving
from vardiu.nn import MLP, DhariwalUNet, EDM2UNet, Precision, SongUNet, UNet, offload
from vardiu.nn.diffusers import DiffusersNetwork, Told
from vardiu.nn.diffusers_calls import CLASSES
from vardiu.training.frozen import Frozen

small = pipelines.small


class Case(NamedTuple):
    make: object
    shape: tuple
    taps: tuple
    bottleneck: str
    conditions: tuple = ()


def edm(cls, *channels, **options):
    return cls(
        8, *channels, label_dim=4, model_channels=16, channel_mult=[1, 2], num_blocks=1,
        attn_resolutions=[4], **options,
    )  # fmt: skip


EDM_TAPS = (
    "enc.8x8_conv", "enc.8x8_block0", "enc.4x4_down", "enc.4x4_block0", "dec.4x4_in0",
    "dec.4x4_in1", "dec.4x4_block0", "dec.4x4_block1", "dec.8x8_up", "dec.8x8_block0",
    "dec.8x8_block1",
)  # fmt: skip
UNET_TAPS = "down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"
SONG = {"encoder_type": "residual", "decoder_type": "skip", "embedding_type": "fourier"}


def stock(name, model):
    return DiffusersNetwork(name, dict(model.config), model)


CASES = {
    "mlp": Case(
        lambda: MLP((2,), (2,), width=8, depth=3, noisy=True, classes=4),
        (2,), ("hidden.0", "hidden.1", "hidden.2"), "hidden.1", ("label",),
    ),
    "unet": Case(
        lambda: UNet(1, widths=(8, 16), depth=4, classes=4, embedding=16), (1, 8, 8),
        ("down.0", "middle.0", "middle.1", "middle.2", "middle.3", "up.0"), "middle.1",
        ("label",),
    ),
    "unet trunk": Case(
        lambda: UNet(1, widths=(8, 16), depth=1, embedding=16, final=False), (1, 8, 8),
        ("down.0", "middle.0"), "middle.0",
    ),
    "song": Case(
        lambda: edm(SongUNet, 1, 1), (1, 8, 8), EDM_TAPS, "dec.4x4_in1", ("label",)
    ),
    "song, all branches": Case(
        lambda: edm(SongUNet, 1, 1, **SONG), (1, 8, 8), EDM_TAPS, "dec.4x4_in1", ("label",)
    ),
    "dhariwal": Case(
        lambda: edm(DhariwalUNet, 1, 1), (1, 8, 8), EDM_TAPS, "dec.4x4_in1", ("label",)
    ),
    "edm2": Case(
        lambda: edm(EDM2UNet, 1), (1, 8, 8), EDM_TAPS, "dec.4x4_in1", ("label",)
    ),
    "told": Case(
        lambda: Told(edm(EDM2UNet, 1), 3.0, -1.0), (1, 8, 8), EDM_TAPS, "dec.4x4_in1", ("label",)
    ),
    "unet of diffusers": Case(
        lambda: stock("UNet2DModel", small.unet(4)), (1, 8, 8), UNET_TAPS, "mid_block", ("label",)
    ),
    "unet of texts": Case(
        lambda: stock("UNet2DConditionModel", small.text_unet()), (4, 8, 8), UNET_TAPS,
        "mid_block", ("text",),
    ),
    "dit": Case(
        lambda: stock("DiTTransformer2DModel", small.dit()), (4, 8, 8),
        ("transformer_blocks.0", "transformer_blocks.1"), "transformer_blocks.1", ("label",),
    ),
    "pixart": Case(
        lambda: stock("PixArtTransformer2DModel", small.pixart()), (4, 8, 8),
        ("transformer_blocks.0", "transformer_blocks.1"), "transformer_blocks.1",
        ("text", "mask"),
    ),
    "sd3": Case(
        lambda: stock("SD3Transformer2DModel", small.sd3_transformer(texts=32)), (4, 8, 8),
        ("transformer_blocks.0", "transformer_blocks.1"), "transformer_blocks.1",
        ("text", "pooled"),
    ),
    "flux": Case(
        lambda: stock("FluxTransformer2DModel", small.flux_transformer(told=False)), (4, 8, 8),
        ("transformer_blocks.0", "single_transformer_blocks.0", "single_transformer_blocks.1"),
        "transformer_blocks.0", ("text", "pooled"),
    ),
    "sana": Case(
        lambda: stock("SanaTransformer2DModel", small.sana_transformer(32)), (4, 8, 8),
        ("transformer_blocks.0",), "transformer_blocks.0", ("text", "mask"),
    ),
    "cogvideo": Case(
        lambda: stock("CogVideoXTransformer3DModel", small.cogvideo_transformer()), (4, 3, 4, 4),
        ("transformer_blocks.0", "transformer_blocks.1"), "transformer_blocks.1", ("text",),
    ),
    "wan": Case(
        lambda: stock("WanTransformer3DModel", small.wan_transformer()), (4, 3, 4, 4),
        ("blocks.0", "blocks.1"), "blocks.1", ("text",),
    ),
}  # fmt: skip


def network(name):
    """Every parameter has a value, those that start at zero too."""
    torch.set_default_dtype(torch.float32)
    module = CASES[name].make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return module.eval()


def inputs(name, rows=3):
    case = CASES[name]
    given = {
        "label": torch.arange(rows) % 4,
        "text": torch.randn(rows, 6, 32),
        "pooled": torch.randn(rows, 32),
        "mask": torch.ones(rows, 6),
    }
    x, level = torch.randn(rows, *case.shape), torch.linspace(0.5, 1.5, rows)
    return x, level, {key: given[key] for key in case.conditions}


@pytest.mark.parametrize("precision", [None, "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_the_output_is_that_of_a_plain_call_bit_for_bit(name, precision):
    case, module = CASES[name], network(name)
    module = Precision(module, precision) if precision else module
    assert module.taps == case.taps and module.bottleneck == case.bottleneck
    x, level, cond = inputs(name)
    state = torch.get_rng_state()
    with torch.no_grad():
        plain = module(x, level, **cond)
        output, kept = module.features(x, level, case.taps[::-1], **cond)
        nothing, none = module.features(x, level, **cond)
        _, one = module.features(x, level, (case.bottleneck,), **cond)
    assert torch.equal(output, plain) and torch.equal(nothing, plain) and not none
    assert torch.equal(torch.get_rng_state(), state)
    assert list(kept) == list(case.taps[::-1]) and list(one) == [case.bottleneck]
    assert torch.equal(one[case.bottleneck], kept[case.bottleneck])
    assert all(len(value) == len(x) and value.dtype == x.dtype for value in kept.values())
    # Each is an activation of its own, and one that the inputs change.
    means = {name: value.double().square().mean() for name, value in kept.items()}
    assert len({float(value) for value in means.values()}) == len(means)
    assert all(value.std(dim=0).max() > 0 for value in kept.values())


@pytest.mark.parametrize("name", CASES)
def test_copies_have_taps_of_their_own(name):
    module = network(name)
    x, level, cond = inputs(name)
    at = CASES[name].taps
    twin = copy.deepcopy(module)
    with torch.no_grad():
        before = module.features(x, level, at, **cond)
        for parameter in twin.parameters():
            parameter.mul_(1.5)
        after, changed = module.features(x, level, at, **cond), twin.features(x, level, at, **cond)
    assert torch.equal(before[0], after[0])
    for tap in at:
        assert torch.equal(before[1][tap], after[1][tap])
        assert not torch.equal(before[1][tap], changed[1][tap])


@pytest.mark.parametrize("name", CASES)
def test_unknown_taps_are_refused_with_the_nearest(name):
    module, case = network(name), CASES[name]
    x, level, cond = inputs(name)
    with pytest.raises(ValueError, match=rf"has no tap '{case.taps[0]}x'; did you mean"):
        module.features(x, level, (case.taps[0] + "x",), **cond)
    with pytest.raises(ValueError, match="got the string"):
        module.features(x, level, case.taps[0], **cond)


# ---------------------------------------------------------------- what is tapped


def test_the_taps_of_a_perceptron_are_its_hidden_layers():
    module = MLP((2,), (3,), width=8, depth=3)
    x = torch.randn(5, 2)
    output, kept = module.features(x, at=module.taps)
    h = x
    for layer, name in zip([module.first, *module.hidden], module.taps, strict=True):
        h = torch.nn.functional.silu(layer(h))
        assert torch.equal(kept[name], h)
    assert torch.equal(output, module.last(h))


@pytest.mark.parametrize("name", ["dhariwal", "song", "edm2", "unet of diffusers"])
def test_the_taps_of_a_unet_are_what_its_blocks_return(name):
    """Against hooks on the modules of these names (a residual encoder adds an image after)."""
    module, seen = network(name), {}
    inner = getattr(module, "model", module)
    for tap in module.taps:
        inner.get_submodule(tap).register_forward_hook(
            lambda m, i, o, tap=tap: seen.update({tap: o[0] if isinstance(o, tuple) else o})
        )
    x, level, cond = inputs(name)
    _, kept = module.features(x, level, module.taps, **cond)
    assert list(seen) == list(module.taps)  # the order of a call
    assert all(torch.equal(seen[tap], kept[tap]) for tap in module.taps)


def test_hooks_are_there_for_the_call_only():
    module = network("unet of diffusers")
    x, level, cond = inputs("unet of diffusers")
    module.features(x, level, module.taps, **cond)
    with pytest.raises(RuntimeError):
        module.features(x[:, :, :3, :3].repeat(1, 7, 1, 1), level, module.taps, **cond)
    assert not any(m._forward_hooks for m in module.modules())


def test_every_class_of_diffusers_has_taps():
    assert {CASES[name].make().name for name in list(CASES)[-9:]} == set(CLASSES)
    assert all(hasattr(diffusers, name) for name in CLASSES)


# ---------------------------------------------------------------- denoisers


def mlp(label=True, width=8):
    return PreconditionedDenoiser(
        MLP((2,), (2,), width=width, depth=2, noisy=True, classes=4 if label else 0),
        shape=(2,), sigma_data=1.3, mean=0.4, sigma_min=0.01, sigma_max=20.0,
        conditions=("label",) if label else (),
    )  # fmt: skip


def adapted():
    return AdaptedDenoiser(
        MLP((2,), (2,), width=8, depth=2, noisy=True, classes=4),
        VariancePreserving(torch.linspace(1e-4, 0.02, 100)), prediction="v", shape=(2,),
        conditions=("label",),
    )  # fmt: skip


def stirred(denoiser):
    """An adapter starts at zero; here it changes something."""
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return denoiser


DENOISERS = {
    "preconditioned": mlp,
    "adapted": adapted,
    "captioned": lambda: Captioned(mlp(), Captions({"label": torch.tensor([3, 1, 2, 0])})),
    "lora": lambda: stirred(adapt(mlp(), rank=2)),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_a_denoiser_denoises_and_gives_features(name):
    denoiser = DENOISERS[name]()
    x, sigma, label = torch.randn(5, 2), torch.linspace(0.1, 2.0, 5), torch.arange(5) % 4
    assert denoiser.taps == ("hidden.0", "hidden.1") and denoiser.bottleneck == "hidden.1"
    denoised, kept = denoiser.features(x, sigma, at=("hidden.1",), label=label)
    assert torch.equal(denoised, denoiser(x, sigma, label=label))
    assert list(kept) == ["hidden.1"] and kept["hidden.1"].shape == (5, 8)
    assert torch.equal(denoised, copy.deepcopy(denoiser).features(x, sigma, label=label)[0])
    with pytest.raises(ValueError, match="has no tap 'hiden.1'; did you mean hidden.1"):
        denoiser.features(x, sigma, at=("hiden.1",), label=label)
    with pytest.raises(ValueError, match="x_t must have shape"):
        denoiser.features(x[:, :1], sigma, at=("hidden.1",), label=label)


def test_features_of_an_adapter_are_those_of_the_merged_weights():
    denoiser = DENOISERS["lora"]()
    x, sigma, label = torch.randn(5, 2), torch.ones(5), torch.arange(5) % 4
    _, kept = denoiser.features(x, sigma, at=denoiser.taps, label=label)
    _, merged = merge(denoiser).features(x, sigma, at=denoiser.taps, label=label)
    base = denoiser.network.network
    scaled = (x - 0.4) / (1 + 1.3**2) ** 0.5
    _, plain = base.features(scaled, sigma.log() / 4, denoiser.taps, label=label)
    for tap in denoiser.taps:
        assert torch.allclose(kept[tap], merged[tap], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(kept[tap], plain[tap], atol=1e-3)


@pytest.mark.parametrize("name", ["preconditioned", "adapted", "captioned", "lora"])
def test_gradients_are_those_of_differences(name):
    denoiser = DENOISERS[name]()
    x, sigma = torch.randn(3, 2, requires_grad=True), torch.tensor([0.3, 1.0, 3.0])
    label = torch.tensor([0, 3, 1])

    def features(x):
        denoised, kept = denoiser.features(x, sigma, at=denoiser.taps, label=label)
        return denoised, *kept.values()

    assert torch.autograd.gradcheck(features, (x,))
    _, kept = denoiser.features(x, sigma, at=("hidden.1",), label=label)
    weights = [p for p in denoiser.parameters() if p.requires_grad]
    weight, direction = weights[0], torch.randn_like(weights[0])
    (gradient,) = torch.autograd.grad(kept["hidden.1"].square().sum(), weight)
    values = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            weight += step * direction
            values.append(features(x)[2].square().sum())
    slope = (values[0] - values[1]) / 2e-5
    assert torch.allclose((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_blocks_that_are_run_again_give_the_same_gradients():
    torch.set_default_dtype(torch.float64)
    plain = UNet(1, widths=(8, 16), depth=2, embedding=16)
    again = copy.deepcopy(plain)
    again.enable_gradient_checkpointing()
    x, level = torch.randn(2, 1, 8, 8), torch.ones(2)
    gradients = []
    for module in (plain, again):
        _, kept = module.features(x, level, module.taps)
        sum(value.square().sum() for value in kept.values()).backward()
        gradients.append([p.grad for p in module.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_features_compile(name):
    module = network(name)
    x, level, cond = inputs(name)
    at = CASES[name].taps[1:]
    compiled = torch.compile(module.features, backend="eager", fullgraph=True)
    output, kept = compiled(x, level, at, **cond)
    wanted, features = module.features(x, level, at, **cond)
    assert torch.equal(output, wanted) and list(kept) == list(at)
    assert all(torch.equal(kept[tap], features[tap]) for tap in at)


def test_a_frozen_denoiser_counts_and_lends_its_weights(monkeypatch):
    frozen = Frozen(mlp(label=False))
    x, sigma = torch.randn(5, 2, requires_grad=True), torch.ones(5)
    denoised, kept = frozen.features(x, sigma, at=("hidden.0",))
    assert (frozen.calls, frozen.samples) == (1, 5)
    frozen.offload()
    lent = []
    monkeypatch.setattr(
        offload, "copied_to", lambda tensor, device: lent.append(tensor.clone()) or lent[-1]
    )
    monkeypatch.setattr(offload, "is_elsewhere", lambda state, device: True)
    again, features = frozen.features(x, sigma, at=("hidden.0",))
    assert len(lent) == len(frozen.module.state_dict()) and frozen.calls == 2
    assert torch.equal(again, denoised) and torch.equal(features["hidden.0"], kept["hidden.0"])
    (a,) = torch.autograd.grad(features["hidden.0"].sum(), x)
    (b,) = torch.autograd.grad(kept["hidden.0"].sum(), x)
    assert torch.equal(a, b) and a.abs().sum() > 0


def test_what_has_no_features_says_so():
    x, sigma, at = torch.zeros(1, 2), torch.ones(1), ("hidden.0",)
    with pytest.raises(TypeError, match="GaussianDenoiser has no features; a denoiser with a"):
        GaussianDenoiser(torch.zeros(2), torch.ones(2)).features(x, sigma, at=at)
    untapped = PreconditionedDenoiser(
        torch.nn.Linear(2, 2), shape=(2,), sigma_data=1.0, sigma_min=0.1, sigma_max=1.0
    )
    with pytest.raises(TypeError, match="Linear lists no taps"):
        untapped.features(x, sigma, at=at)
    assert (untapped.taps, untapped.bottleneck) == ((), "")
    for guided in (
        Guided(mlp(), 2.0, {"label": torch.tensor([0])}),
        Autoguided(mlp(label=False), mlp(label=False), 2.0),
    ):
        with pytest.raises(ValueError, match="ask the unguided denoiser"):
            guided.features(x, sigma, at=at)
