"""Options that spare memory: moments and frozen weights in eight bits, and what is predicted of them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from cases import LEVELS
from pipelines import small  # also puts benchmarks/ where imports are looked for
from torch import nn

from vardiu.cli.main import main
from vardiu.denoisers.lora import LoRA, adapt
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.errors import ConfigError
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.nn import MLP
from vardiu.nn.diffusers import DiffusersNetwork
from vardiu.nn.quantised import dequantised, is_quantised, quantise
from vardiu.resources import footprint
from vardiu.resources.paper import on_paper
from vardiu.students.few_step import OneStep
from vardiu.training.economy import Economy
from vardiu.training.optimizers import OptimizerRow

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)


def test_an_optimiser_of_eight_bits_names_the_library_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for kind in ("adam8bit", "adamw8bit"):
        with pytest.raises(ConfigError, match=f"optimizer {kind} needs bitsandbytes, .*or take"):
            OptimizerRow(kind=kind).optimizer(nn.Linear(2, 2))


def test_a_quantised_network_names_the_library_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ConfigError, match="--economy.quantise needs torchao, which does not im"):
        quantise(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ConfigError, match="leave --economy.offload or --economy.quantise out"):
        Economy(offload=True, quantise=True)


def test_moments_of_eight_bits_are_a_quarter_and_go_on_from_a_checkpoint():
    pytest.importorskip("bitsandbytes")

    def trained(network, optimizer, steps):
        for step in steps:
            x = torch.randn(8, 128, generator=torch.Generator().manual_seed(step))
            (network(x) - x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    row, networks = OptimizerRow(kind="adam8bit", lr=1e-2), [nn.Linear(128, 128) for _ in range(2)]
    whole = row.optimizer(networks[0])
    trained(networks[0], whole, range(3))
    networks[1].load_state_dict(networks[0].state_dict())
    again = row.optimizer(networks[1])
    again.load_state_dict(whole.state_dict())
    for network, optimizer in zip(networks, (whole, again), strict=True):
        trained(network, optimizer, range(3, 6))
    assert torch.equal(networks[0].weight, networks[1].weight)
    moments = whole.state[networks[0].weight]
    sizes = [t for t in moments.values() if isinstance(t, torch.Tensor) and t.dtype == torch.uint8]
    assert footprint.size(sizes) == 2 * 128 * 128


def test_adapters_on_a_base_of_eight_bits_train_and_are_shipped_whole():
    pytest.importorskip("torchao")
    base = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64)).requires_grad_(False)
    before = footprint.size(footprint.weights(base))
    student, fake, x = LoRA(base, 4), LoRA(base, 4), torch.randn(16, 64)
    plain = base(x)
    assert quantise(base) == 2 and is_quantised(base[0].weight)
    assert footprint.size(footprint.weights(base)) < 0.35 * before
    assert (student(x) - plain).norm() < 0.02 * plain.norm()
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    for _ in range(5):
        loss = (student(x) - x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(fake(x), base(x)) and not torch.allclose(student(x), base(x))
    merged = student.merged()
    assert type(merged[0].weight) is nn.Parameter and is_quantised(base[0].weight)
    torch.testing.assert_close(merged(x), student(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="a network that is trained is not quantised"):
        quantise(nn.Linear(4, 4))
    assert not is_quantised(dequantised(base)[0].weight)


def test_what_is_predicted_on_paper_is_what_a_network_has():
    """Of a small one of the same class, whose tensors are counted as they are."""
    network = small.text_unet()
    config = dict(network.config)
    found = on_paper(config, rank=4, batch=3, tokens=12, precision="float32")
    adapter = LoRA(DiffusersNetwork("UNet2DConditionModel", config, network), 4)
    assert found.numbers == sum(p.numel() for p in network.parameters())
    assert found.adapter == sum(p.numel() for p in adapter.parameters())
    assert found.base == footprint.size(footprint.weights(network))
    optimizer = torch.optim.Adam(adapter.parameters())
    x, text = torch.randn(3, 4, 8, 8), torch.randn(3, 12, 32)

    def counted():
        count = footprint.Count([*footprint.weights(network), *footprint.weights(adapter)])
        with count.counting({}):
            adapter(x, torch.ones(3), text=text)
        return sum(count.found.values())

    # Of shapes alone attention takes another path, which keeps a little more.
    assert counted() <= found.activations <= 1.1 * counted()
    adapter(x, torch.ones(3), text=text).square().mean().backward()
    optimizer.step()
    moments = footprint.size([s for s in optimizer.state.values()])
    assert found.fake == pytest.approx(8 * found.adapter + moments, rel=0.02)
    assert found.student == found.fake + 4 * found.adapter == found.fake + found.anchor
    saved = on_paper(config, rank=4, batch=3, tokens=12, precision="float32", checkpoint=True)
    adapter.enable_gradient_checkpointing()
    adapter.twin.train()
    assert counted() < saved.activations < found.activations
    eight = on_paper(config, rank=4, optimizer="adam8bit", quantise=True)
    assert eight.base < found.base and eight.fake < 0.65 * found.fake


def test_a_configuration_of_no_such_network_is_refused_in_a_line(tmp_path, capsys):
    path = tmp_path / "config.json"
    for about, more, words in (
        (
            {"_class_name": "DiTTransformer3D"},
            [],
            "'DiTTransformer3D'; did you mean DiTTransformer2D",
        ),
        ({}, ["--size", "8"], "--size must be height and width of a UNet2DConditionModel's"),
        ({}, ["--size", "8", "0"], "--size must be height and width"),
        ({"sample_size": None}, [], "does not say height and width of samples: give --size"),
        ({"block_out_channels": 3}, [], "diffusers makes no network of"),
        ({}, ["--rank", "0"], "--rank must be at least 1, got 0"),
        ({}, ["--optimizer", "lion"], "unknown value of --optimizer: 'lion'"),
    ):
        path.write_text(json.dumps(about))
        assert main(["estimate", "--network", str(path), *more]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error


def test_the_base_of_an_adapter_does_not_wait_on_the_host():
    """It is the teacher, and the student computes with it."""
    base = MLP((2,), (2,), width=8, depth=1, noisy=True)
    options = {"shape": (2,), "sigma_data": 1.0, "sigma_min": 0.01, "sigma_max": 9.0}
    teacher = PreconditionedDenoiser(base, **options)
    student = OneStep(adapt(teacher, 2), 9.0)
    shared = DiffInstruct(teacher, student, adapt(teacher, 2), levels=LEVELS)
    with pytest.raises(ConfigError, match="--economy.offload: the student is an adapter on the"):
        Economy(offload=True).apply(shared)
    own = OneStep(teacher.trainable_copy(), 9.0)
    Economy(offload=True).apply(
        DiffInstruct(teacher, own, teacher.trainable_copy(), levels=LEVELS)
    )


# What makes a small network of a class, the shape of a sample, and those of its conditions.
IMAGE, VIDEO = (4, 8, 8), (4, 2, 4, 4)
OTHERS = [
    (small.xl_unet, IMAGE, {"text": (12, 64), "pooled": (16,), "sizes": (6,)}),
    (lambda: small.unet(10), (1, 8, 8), {"label": ()}),
    (small.dit, IMAGE, {"label": ()}),
    (small.pixart, IMAGE, {"text": (12, 32), "mask": (12,)}),
    (small.sd3_transformer, IMAGE, {"text": (12, 72), "pooled": (32,)}),
    (small.flux_transformer, IMAGE, {"text": (12, 32), "pooled": (32,), "guidance": ()}),
    (small.sana_transformer, IMAGE, {"text": (12, 24), "mask": (12,)}),
    (small.cogvideo_transformer, (4, 3, 4, 4), {"text": (12, 32)}),
    (lambda: small.cogvideo_transformer(rotary=False), (4, 3, 4, 4), {"text": (226, 32)}),
    (small.wan_transformer, VIDEO, {"text": (12, 32)}),
]


@pytest.mark.parametrize(("build", "shape", "conditions"), OTHERS)
def test_each_class_is_predicted_on_paper(build, shape, conditions):
    """What is kept of shapes alone is what autograd keeps of tensors, or a little more."""
    model = build()
    kind, config = type(model).__name__, dict(model.config)
    tokens = conditions.get("text", (12,))[0]
    options = {"rank": 2, "batch": 3, "precision": "float32", "tokens": tokens}
    about = {**config, "_class_name": kind}
    found = on_paper(about, size=shape[1:], **options)
    network = DiffusersNetwork(kind, config, model)
    adapter = LoRA(network, 2)
    assert found.numbers == sum(p.numel() for p in model.parameters())
    assert found.adapter == sum(p.numel() for p in adapter.parameters())
    cond = {name: torch.rand(3, *sides) for name, sides in conditions.items()}
    if "label" in cond:
        cond["label"] = torch.zeros(3, dtype=torch.long)
    count = footprint.Count([*footprint.weights(network), *footprint.weights(adapter)])
    with count.counting({}):
        adapter(torch.randn(3, *shape), torch.ones(3), **cond)
    kept = sum(count.found.values())
    assert kept <= found.activations <= 1.1 * kept


def test_a_prompt_has_as_many_tokens_as_the_stock_pipeline_takes(tmp_path):
    positions = dict(small.cogvideo_transformer(rotary=False).config)
    positions["_class_name"] = "CogVideoXTransformer3DModel"
    assert on_paper(positions).total > 0
    with pytest.raises(ConfigError, match=r"cannot be called with .* prompts of 12 tokens"):
        on_paper(positions, tokens=12)
    joint = {**small.sd3_transformer().config, "_class_name": "SD3Transformer2DModel"}
    assert on_paper(joint) == on_paper(joint, tokens=77 + 256)


@pytest.mark.slow
def test_adapters_on_sdxl_fit_a_card_of_24_gigabytes():
    from paper import SDXL

    card = 24 * 2**30 - 2 * 2**30  # less the driver's and the allocator's own
    plain = on_paper(SDXL, checkpoint=True)
    assert plain.numbers == 2_567_463_684 and plain.adapter == 49_412_736
    assert plain.total < card
    assert on_paper(SDXL).total > card  # without recomputation it does not fit
    eight = on_paper(SDXL, checkpoint=True, optimizer="adam8bit", quantise=True)
    assert eight.total < 0.55 * plain.total
    # The page's numbers are these.
    kept = json.loads((ROOT / "docs/results/paper.json").read_text())["rows"]["SDXL"]
    for name, found in {"plain": on_paper(SDXL), "recomputed": plain, "narrow": eight}.items():
        assert kept[name] == {**found._asdict(), "total": found.total}
