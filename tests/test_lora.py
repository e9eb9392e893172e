"""Adapters: several networks on one frozen base."""

import copy
import json

import pipelines
import pytest
import torch
from safetensors.torch import load_file

from vardiu.data.batch import Batch
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.denoisers.lora import LoRA, adapt, adapters, merge
from vardiu.denoisers.lora_files import save_adapter
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.denoisers.prompts import Captioned, Captions
from vardiu.errors import ConfigError
from vardiu.functional.tensors import expand_like
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.nn import MLP, UNet
from vardiu.nn.backbones import backbones
from vardiu.students.few_step import FewStep, OneStep
from vardiu.students.prompted import with_prompts, without_prompts
from vardiu.students.pushforward import Pushforward
from vardiu.teachers.readers import load
from vardiu.training.economy import Economy, recompute
from vardiu.training.optimizers import Optimisation
from vardiu.training.trainer import Trainer


def denoiser():
    network = UNet(1, widths=(8, 16), depth=2, classes=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return PreconditionedDenoiser(
        network,
        shape=(1, 8, 8),
        sigma_data=0.5,
        sigma_min=0.02,
        sigma_max=20.0,
        conditions=("label",),
    ).eval()


@pytest.fixture
def draws():
    return torch.randn(4, 1, 8, 8), torch.rand(4) + 0.1, torch.tensor([0, 1, 2, 0])


def stir(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module


def test_it_starts_as_its_base_and_merges_into_it(draws):
    x, sigma, label = draws
    base = denoiser()
    adapted = adapt(base, rank=3, alpha=6.0)
    assert torch.equal(adapted(x, sigma, label=label), base(x, sigma, label=label))
    stir(adapted)
    changed, merged = adapted(x, sigma, label=label), merge(adapted)
    assert (changed - base(x, sigma, label=label)).abs().max() > 1e-3
    assert torch.allclose(merged(x, sigma, label=label), changed, rtol=1e-10, atol=1e-12)
    assert not adapters(merged) and merged.network is not base.network


def test_a_layer_is_changed_by_its_product(draws):
    layer = torch.nn.Linear(5, 4)
    adapter = stir(LoRA(torch.nn.Sequential(layer), rank=2, alpha=3.0))
    x = torch.randn(6, 5)
    down, up = adapter.down["0"], adapter.up["0"]
    assert torch.allclose(adapter(x), layer(x) + 1.5 * x @ (up @ down).T)
    assert torch.allclose(adapter.change("0"), 1.5 * up @ down)


def test_only_the_adapter_is_trained_copied_and_saved(draws):
    x, sigma, label = draws
    base = denoiser()
    adapted = stir(adapt(base, rank=2))
    size = sum(p.numel() for p in base.network.parameters())
    assert sum(p.numel() for p in adapted.parameters()) < size / 4
    assert not any(p.requires_grad for p in base.network.parameters())
    twin = copy.deepcopy(adapted)
    assert torch.equal(twin(x, sigma, label=label), adapted(x, sigma, label=label))
    assert adapters(twin)[0].network is base.network
    stir(twin)
    assert not torch.equal(twin(x, sigma, label=label), adapted(x, sigma, label=label))
    twin.load_state_dict(adapted.state_dict())
    assert torch.equal(twin(x, sigma, label=label), adapted(x, sigma, label=label))


def test_student_and_fake_share_the_teachers_weights(draws):
    x, _, label = draws
    teacher = denoiser()
    kept = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = OneStep(adapt(teacher, 4), 5.0)
    fake = adapt(teacher, 4)
    objective = DiffInstruct(teacher, student, fake, levels=LogUniform(0.1, 5.0), ratio=1)
    trainer = Trainer(objective, Optimisation.adam({"generator": 1e-2, "fake": 1e-2}), steps=3)

    class Same:
        rank, world = 0, 1

        def __next__(self):
            return Batch.of(x, {"label": label})

        def state_dict(self):
            return {}

    before = student(x, label=label)
    average = trainer.fit(Same())
    assert (student(x, label=label) - before).abs().max() > 1e-3
    assert adapters(average)[0].network is teacher.network
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, kept[name]), name
    norms = [p.abs().max() for p in adapters(fake)[0].up.parameters()]
    assert max(norms) > 0


def test_what_is_recomputed_has_the_adapter_of_its_forward_pass(draws):
    x, sigma, label = draws
    base = denoiser()
    one, other = stir(adapt(base, 2)), stir(adapt(base, 2))

    def gradients():
        for module in (one, other):
            module.zero_grad()
        y = one(x, sigma, label=label) + 2 * other(x, sigma, label=label).sin()
        y.square().sum().backward()
        return [p.grad.clone() for m in (one, other) for p in m.parameters()]

    plain = gradients()
    adapters(one)[0].enable_gradient_checkpointing()
    for a, b in zip(plain, gradients(), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def shared():
    """A teacher, and a student and a fake that are adapters of it."""
    torch.manual_seed(1)
    teacher = denoiser()
    return {
        "teacher": teacher,
        "generator": stir(adapt(teacher, 2)),
        "fake": stir(adapt(teacher, 2)),
    }


@pytest.mark.parametrize(
    "economy",
    [
        Economy(compile="all", backend="eager"),
        Economy(compile="generator,fake", backend="aot_eager"),
        Economy(compile="all", checkpoint="generator,fake", backend="eager"),
    ],
    ids=["eager", "adapters", "checkpoint"],
)
def test_a_compiled_base_has_the_adapter_of_each_call(economy, draws):
    """Teacher, student and fake in turn, more than once: compilers keep what they have seen."""
    x, sigma, label = draws
    torch.compiler.reset()
    plain, compiled = shared(), shared()
    for name, module in compiled.items():
        options = {
            "checkpoint": recompute,
            "compile": lambda m: m.compile(backend=economy.backend),
        }
        for option, function in options.items():
            chosen = getattr(economy, option)
            if name in chosen.split(",") or chosen == "all":
                for network in backbones(module):
                    function(network)
    seen = {}
    for _ in range(3):
        for name in ("teacher", "generator", "fake"):
            pair = [modules[name] for modules in (plain, compiled)]
            found = []
            for module in pair:
                module.zero_grad()
                with torch.set_grad_enabled(name != "teacher"):
                    y = module(x, sigma, label=label)
                if name != "teacher":
                    y.square().sum().backward()
                found.append(
                    [y.detach(), *(p.grad for p in module.parameters() if p.requires_grad)]
                )
            for wanted, got in zip(*found, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)
            assert len(found[1]) == 1 or min(g.abs().max() for g in found[1][1:]) > 0
            seen[name] = found[1][0]
            for parameter in (p for m in pair for p in m.parameters() if p.requires_grad):
                parameter.data.mul_(1.1)  # an update
    assert not torch.allclose(seen["teacher"], seen["generator"])
    assert not torch.allclose(seen["fake"], seen["generator"])


@pytest.mark.parametrize("names", ["all", "teacher"])
def test_losses_on_a_compiled_base_are_those_on_a_plain_one(names):
    """The base that is compiled is called by the teacher first: no adapter may be forgotten."""
    torch.compiler.reset()
    batch, found = Batch(4, cond={"label": torch.tensor([0, 1, 2, 0])}), []
    for economy in (Economy(), Economy(compile=names, backend="eager")):
        modules = shared()
        student = OneStep(modules["generator"], 5.0)
        teacher, fake = modules["teacher"], modules["fake"]
        objective = DiffInstruct(teacher, student, fake, levels=LogUniform(0.1, 5.0), ratio=1)
        economy.apply(objective)
        values = []
        for n in range(3):
            drawn = objective.prepare(batch, n)
            for phase in objective.phases:
                loss = phase.loss(drawn, n).value
                weights = [p for u in phase.updates for p in objective.network(u).parameters()]
                weights = [p for p in weights if p.requires_grad]
                values.append(loss.detach())
                values += torch.autograd.grad(loss, weights)
        found.append(values)
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)
        assert got.abs().max() > 0


def test_the_base_is_not_changed_by_its_adapters(draws):
    x, sigma, label = draws
    base = denoiser()
    before, kinds = list(base.state_dict()), [type(m) for m in base.modules()]
    adapted = stir(adapt(base, 2))
    wanted = base(x, sigma, label=label)
    adapted(x, sigma, label=label)
    assert list(base.state_dict()) == before and [type(m) for m in base.modules()] == kinds
    assert torch.equal(base(x, sigma, label=label), wanted)
    # Weights, types and buffers are the base's, wherever it goes.
    base.float()
    with torch.no_grad():
        base.network.stem.weight.add_(1.0)
    x, sigma = x.float(), sigma.float()
    merged = merge(adapted.float())
    torch.testing.assert_close(
        adapted(x, sigma, label=label), merged(x, sigma, label=label), rtol=1e-3, atol=1e-4
    )


def test_dropout_of_the_base_follows_its_mode():
    class Dropping(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x):
            return torch.nn.functional.dropout(self.layer(x), 0.5, self.training)

    base = torch.nn.Sequential(Dropping())
    adapter, x = LoRA(base, 2), torch.randn(3, 4)
    base.eval()
    assert torch.equal(adapter.train()(x), base(x))


def test_targets_choose_layers_and_what_does_not_fit_is_refused():
    base = denoiser()
    names = adapters(adapt(base, 2, targets="attention"))[0].names
    assert names and all("attention" in name for name in names)
    with pytest.raises(ValueError, match="no linear or convolutional layer named 'nothing'"):
        adapt(base, 2, targets="nothing")
    with pytest.raises(ValueError, match="rank must be at least 1"):
        adapt(base, 0)
    with pytest.raises(TypeError, match="no network that could be adapted"):
        adapt(GaussianDenoiser(torch.zeros(2), torch.ones(2)), 2)


def test_peft_reads_what_is_kept(tmp_path):
    peft = pytest.importorskip("peft")
    torch.set_default_dtype(torch.float32)
    pipelines.pixels(tmp_path / "teacher")
    teacher = load(str(tmp_path / "teacher"))
    adapted = stir(adapt(teacher, 3, alpha=2.0))
    save_adapter(adapters(adapted)[0], tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 3 and config["lora_alpha"] == 2.0
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(tensors) == 2 * len(config["target_modules"])
    base = copy.deepcopy(teacher.network.model)
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    x, time, label = torch.randn(2, 1, 8, 8), torch.tensor([10, 900]), torch.tensor([1, 7])
    with torch.no_grad():
        theirs = loaded(x, time, class_labels=label).sample
        ours = adapted.network(x, time, label=label)
    assert torch.allclose(theirs, ours, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- captions


class Texts(PreconditionedDenoiser):
    """The sum of a text's rows is added to a linear denoiser."""

    def forward(self, x_t, sigma, **cond):
        shift = cond["text"].sum((1, 2))
        return x_t / (1 + expand_like(sigma, x_t).square()) + expand_like(shift, x_t)


@pytest.fixture
def told():
    about = {"shape": (2,), "sigma_data": 1.0, "sigma_min": 0.1, "sigma_max": 5.0}
    inner = Texts(MLP((2,), (2,), width=4, depth=1, noisy=True), conditions=("text",), **about)
    return inner, Captions({"text": torch.randn(3, 4, 5)})


def test_a_prompt_is_looked_up_by_its_index(told):
    inner, captions = told
    outer = Captioned(inner, captions)
    x, sigma, label = torch.randn(5, 2), torch.full((5,), 0.7), torch.tensor([2, 0, 1, 1, 2])
    expected = inner(x, sigma, text=captions.rows["text"][label])
    assert torch.equal(outer(x, sigma, label=label), expected)
    assert outer.conditions == ("label",) and len(captions) == 3
    started = outer.trainable_copy()
    assert started.captions is captions and "captions" not in str(started.state_dict().keys())


@pytest.mark.parametrize(
    "make", [lambda d: OneStep(d, 2.0), lambda d: FewStep(d, [4.0, 1.0])], ids=["one", "few"]
)
def test_a_student_is_shipped_bare_and_dressed_again(told, make):
    inner, captions = told
    student = make(Captioned(inner, captions))
    alone = without_prompts(student)
    assert alone.conditions == ("text",)
    z, label = torch.randn(3, *student.latent_shape), torch.tensor([0, 2, 1])
    expected = student(z, label=label)
    assert torch.equal(alone(z, text=captions.rows["text"][label]), expected)
    assert torch.equal(with_prompts(alone, captions)(z, label=label), expected)


def test_captions_must_fit(told):
    inner, captions = told
    with pytest.raises(ValueError, match=r"takes \['text'\], the captions give"):
        Captioned(inner, Captions({"words": torch.randn(3, 2)}))
    with pytest.raises(ValueError, match="one row a prompt"):
        Captions({"text": torch.randn(3, 2), "mask": torch.randn(2, 2)})
    student = Pushforward(MLP((2,), (2,), width=4, depth=1), latent_shape=(2,), shape=(2,))
    assert without_prompts(student) is student and with_prompts(student, captions) is student


def test_adapters_need_a_network_of_diffusers_to_leave(tmp_path):
    from vardiu.export.peft import to_lora

    with pytest.raises(ConfigError, match="--student lora"):
        to_lora(OneStep(denoiser(), 5.0), tmp_path / "out")
