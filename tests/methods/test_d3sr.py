"""D3SR and OSEDiff: closed forms, the discriminator, and what they train on."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vardiu.data.batch import Batch
from vardiu.denoisers.adapted import AdaptedDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.denoisers.schedules import VariancePreserving
from vardiu.discriminators.diffusion import discriminator_on
from vardiu.discriminators.encoders import encoder_of
from vardiu.discriminators.heads import PositionHead, position_head
from vardiu.errors import ConfigError
from vardiu.functional.adversarial import softplus_generator
from vardiu.functional.perception import dists, edge_aware_dists, high_frequency_energy, sobel
from vardiu.methods import METHODS
from vardiu.methods.d3sr import D3SR, TINY, Spatial
from vardiu.methods.osediff import OSEDiff
from vardiu.nn import UNet
from vardiu.nn.perceptual import VGG_BLOCKS, VGG_MEAN, VGG_STD, WEIGHTS, perceptual_net
from vardiu.problems.toy import ToyProblem
from vardiu.students.restorer import Restorer
from vardiu.training.optimizers import Optimisation
from vardiu.training.stage import Context
from vardiu.training.trainer import Trainer


def identity(x):
    return [x]


class Noise(nn.Module):
    """Predicts a multiple of its input as noise."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x, time):
        return self.factor * x


def restorer(factor, sigma=0.75):
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    coordinates = VariancePreserving((1 / kept - 1).sqrt().tolist())
    denoiser = AdaptedDenoiser(Noise(factor), coordinates, prediction="epsilon", shape=(1, 4, 4))
    return Restorer.on(denoiser, sigma, 0.5, 4)


def unet(**options):
    network = UNet(3, widths=(8, 16), depth=2, **options)
    return PreconditionedDenoiser(
        network, shape=(3, 8, 8), sigma_data=0.5, sigma_min=0.01, sigma_max=20.0
    )


# ------------------------------------------------------------------- the student, sections A and E


def test_the_student_is_the_step_of_the_paper():
    """Without noise y / sqrt(abar); with that of unit Gaussian data sqrt(abar) y."""
    y = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for sigma in (0.75, 0.567):
        root = 1 / math.sqrt(1 + sigma**2)  # of the schedule's abar
        torch.testing.assert_close(restorer(0.0, sigma)(y), y / root)
        exact = restorer(math.sqrt(1 - root**2), sigma)
        torch.testing.assert_close(exact(y), root * y, rtol=1e-9, atol=1e-12)
    assert 1 / math.sqrt(1 / (1 + 0.757**2)) == pytest.approx(1.254, abs=1e-3)


def test_a_restorer_draws_no_input_and_is_tried_on_some():
    student = restorer(0.1)
    with pytest.raises(ValueError, match="a degraded image, and none is drawn"):
        student.sample(2)
    tried = student.tried_on(2, torch.Generator().manual_seed(0))
    assert tried.shape == (2, 1, 4, 4) and bool(student(tried).isfinite().all())
    with pytest.raises(ValueError, match="sigma must be finite and within"):
        restorer(0.0, 1e9)


def test_without_the_discriminator_it_is_a_regression_to_the_bit():
    problem = ToyProblem(0, "restorer")
    settings = replace(TINY, adversarial_weight=0.0, decay="constant")
    torch.manual_seed(0)
    stage = next(METHODS["d3sr"].recipe(problem, settings, Context()))
    plain, batches = copy.deepcopy(stage.objective.generator), copy.deepcopy(stage.batches)
    assert stage.objective.trained == ("generator",)
    Trainer(stage.objective, stage.optimisation, steps=5).fit(stage.batches)
    optimizer = torch.optim.Adam(plain.parameters(), lr=settings.lr)
    for _ in range(5):
        batch = next(batches)
        loss = (plain(batch.x) - batch.truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), settings.clip)
        optimizer.step()
    trained = dict(stage.objective.generator.named_parameters())
    for key, value in plain.named_parameters():
        assert torch.equal(trained[key], value), key


# ------------------------------------------------------------------- edges and DISTS, B and C


def test_edges_of_ramps_steps_and_noise():
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    ramp = (0.3 * columns + 0.4 * rows).double()[None, None]
    wanted = torch.full((6, 7), 8 * 0.5, dtype=torch.float64)
    torch.testing.assert_close(sobel(ramp)[0, 0, 1:-1, 1:-1], wanted, rtol=1e-6, atol=0)
    step = (columns >= 4).double()[None, None]
    found = sobel(step)[0, 0]
    torch.testing.assert_close(found[:, 3:5], torch.full((8, 2), 4.0), rtol=1e-6, atol=0)
    assert float(found[:, [0, 1, 2, 5, 6, 7, 8]].max()) == pytest.approx(1e-3, rel=1e-9)
    torch.testing.assert_close(sobel(step + 3), sobel(step))
    torch.testing.assert_close(sobel(2 * ramp), 2 * sobel(ramp), rtol=1e-6, atol=0)
    noise = torch.randn(1, 1, 400, 400, generator=torch.Generator().manual_seed(0))
    assert float(sobel(0.7 * noise).mean()) == pytest.approx(0.7 * 4.3416, rel=0.01)
    assert math.sqrt(12 * math.pi / 2) == pytest.approx(4.3416, abs=1e-4)
    flat = torch.zeros(1, 1, 4, 4, requires_grad=True)
    sobel(flat).sum().backward()
    assert bool(flat.grad.isfinite().all())


def test_dists_of_multiples_and_offsets():
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    one = torch.full((2,), 0.076923, dtype=torch.float64)
    torch.testing.assert_close(dists(x, 1.5 * x, identity), one, rtol=0, atol=2e-5)
    mean, c = x.mean((1, 2, 3)), 0.3
    offset = 0.5 * c**2 / (mean.square() + (mean + c).square())
    torch.testing.assert_close(dists(x, x + c, identity), offset, rtol=1e-4, atol=0)
    assert float(dists(x, x, identity).abs().max()) < 1e-12
    both = edge_aware_dists(x, x + c, identity) - dists(x, x + c, identity)
    assert float(both.abs().max()) < 1e-12
    edges = edge_aware_dists(x, 1.5 * x, identity) - dists(x, 1.5 * x, identity)
    torch.testing.assert_close(edges, one, rtol=0, atol=2e-5)
    weights = torch.tensor([3.0]), torch.tensor([1.0])
    torch.testing.assert_close(dists(x, x + c, identity, weights), 1.5 * offset, rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="weights must have 2 numbers, two a channel, got 3"):
        dists(x, x, identity, (torch.ones(3),))


def test_high_frequencies_are_those_above_a_frequency():
    places = torch.arange(20.0).double()
    slow, fast = (torch.cos(2 * math.pi * f * places).expand(1, 1, 20, 20) for f in (0.1, 0.25))
    assert float(high_frequency_energy(slow)) < 1e-12
    assert float(high_frequency_energy(fast)) == pytest.approx(0.5, rel=1e-6)
    assert float(high_frequency_energy(3 * fast + slow)) == pytest.approx(4.5, rel=1e-6)


def test_the_network_on_board_has_gradients_and_a_name(monkeypatch):
    net = perceptual_net()
    x = torch.rand(2, 3, 16, 16).float().requires_grad_(True)
    unlike = edge_aware_dists(x, torch.rand(2, 3, 16, 16).float(), net).mean()
    unlike.backward()
    assert float(x.grad.abs().max()) > 0 and not any(p.requires_grad for p in net.parameters())
    assert "small network on board, fc295271dc25" in net.name and WEIGHTS.stat().st_size < 1e6
    monkeypatch.setattr("vardiu.nn.perceptual.SHA256", "0" * 64)
    perceptual_net.cache_clear()
    with pytest.raises(ConfigError, match="was changed: its SHA-256 begins with fc295271dc25"):
        perceptual_net()
    perceptual_net.cache_clear()


def test_vgg_is_read_from_a_file_of_safetensors(tmp_path):
    """Of other widths than the published ones: those of the file."""
    tensors, inputs = {}, 3
    for block, width in zip(VGG_BLOCKS, (4, 4, 6, 6, 8), strict=True):
        for layer in block:
            weight = torch.randn(width, inputs, 3, 3).float() / inputs
            tensors |= {
                f"features.{layer}.weight": weight,
                f"features.{layer}.bias": weight[:, 0, 0, 0].clone(),
            }
            inputs = width
    channels = 3 + 4 + 4 + 6 + 6 + 8
    tensors |= {"alpha": torch.rand(channels).float(), "beta": torch.rand(channels).float()}
    save_file(tensors, tmp_path / "vgg.safetensors")
    net = perceptual_net(str(tmp_path / "vgg.safetensors"))
    x = torch.rand(2, 3, 32, 32).float()
    maps = net(x)
    assert [m.shape[1] for m in maps] == [3, 4, 4, 6, 6, 8] and net.name.startswith("VGG-16, ")
    assert [m.shape[2] for m in maps] == [32, 32, 16, 8, 4, 2]
    first = (x - torch.tensor(VGG_MEAN)[:, None, None]) / torch.tensor(VGG_STD)[:, None, None]
    for layer in VGG_BLOCKS[0]:
        weights = tensors[f"features.{layer}.weight"], tensors[f"features.{layer}.bias"]
        first = nn.functional.conv2d(first.float(), *weights, padding=1).relu()
    torch.testing.assert_close(maps[1], first)
    assert float(dists(x, x, net, net.weights).abs().max()) < 1e-5
    del tensors["features.28.bias"]
    save_file(tensors, tmp_path / "cut.safetensors")
    with pytest.raises(ConfigError, match="holds no features.28.weight and .bias"):
        perceptual_net(str(tmp_path / "cut.safetensors"))
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no.safetensors is no file of safetensors"):
        perceptual_net(str(tmp_path / "no.safetensors"))


# ------------------------------------------------------------------- the discriminator, D and E


def test_the_best_discriminator_moves_a_sample_as_matching_of_distributions_does():
    """Latents N(1, .81) against N(-.5, .81) at a = .8, b = .6."""
    a, b, mr, mf, s = 0.8, 0.6, 1.0, -0.5, 0.9
    v = a**2 * s**2 + b**2
    slope = a * (mr - mf) / v
    x = torch.linspace(a * mf - 9 * v**0.5, a * mf + 9 * v**0.5, 4001, dtype=torch.float64)
    x.requires_grad_(True)
    logit = slope * (x - a * (mr + mf) / 2)
    (gradient,) = torch.autograd.grad(-logit.sum(), x, retain_graph=True)
    matched = a * ((a * mr - x) / v - (a * mf - x) / v)  # a times the difference of scores
    torch.testing.assert_close(-a * gradient, matched.detach())
    assert float(a * gradient[0]) == pytest.approx(-1.0929, abs=1e-4)
    (soft,) = torch.autograd.grad(softplus_generator(logit).sum(), x)
    density = (-0.5 * (x.detach() - a * mf).square() / v).exp()
    mean = a * (soft * density).sum() / density.sum()
    assert float(mean) == pytest.approx(-0.7117, abs=2e-4)


def test_the_way_up_is_not_there():
    denoiser = unet()
    for rank in (0, 2):
        critic = encoder_of(denoiser, rank=rank)
        names = [name for name, _ in critic.named_parameters()]
        assert names and not any("up" in n and "adapter" not in n and "exit" in n for n in names)
        held = "".join(critic.state_dict())
        assert not any(part in held for part in ("exit.", "head.", "trunk.1", "norm.weight/up."))
        head = discriminator_on(critic, (), position_head)
        (logits,) = head(critic, torch.zeros(5, 3, 8, 8), torch.ones(5))
        assert logits.shape == (5, 4, 4)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.1, 2.0])
    full = denoiser.features(x, sigma, (denoiser.bottleneck,))[1][denoiser.bottleneck]
    part = encoder_of(denoiser).features(x, sigma, (denoiser.bottleneck,))[1]
    assert torch.equal(full, part[denoiser.bottleneck])
    assert denoiser.network.exit is not None and denoiser.network.head is not None


def test_a_head_a_place_sees_its_place_alone():
    head = PositionHead(6, width=8)
    map_ = torch.randn(2, 6, 3, 5, requires_grad=True)
    head(map_)[0, 1, 2].backward()
    seen = map_.grad.abs().sum(1) > 0
    assert seen.sum() == 1 and bool(seen[0, 1, 2])
    assert head(torch.randn(4, 6)).shape == (4, 1, 1)
    with pytest.raises(ValueError, match="a logit a place takes features of shape"):
        position_head(torch.zeros(2, 3, 4))


class Plain:
    """A problem's space and network for `Spatial`."""

    class space:  # noqa: N801
        encode = staticmethod(lambda x: x)
        decode = staticmethod(lambda x: x)


def trained_critic(sigma_max):
    """The discriminator's accuracy on far and near noise, after some steps."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(32, 3, 8, 8, generator=generator)
    student = Restorer(unet(), 0.4, 0.5)
    critic = encoder_of(unet())
    head = discriminator_on(critic, (), position_head)
    levels = LogUniform(0.01, sigma_max)
    objective = D3SR(
        student, Spatial(Plain, 0.0), critic, head, levels=levels, adversarial_weight=0.02
    )
    rates = {"generator": 1e-6, "critic": 3e-3, "head": 3e-3}
    trainer = Trainer(objective, Optimisation.adam(rates), steps=15)
    batch = Batch(32, 0.2 * clean, truth=clean)

    class Same:
        rank, world, count = 0, 1, 0

        def __next__(self):
            return batch

        def state_dict(self):
            return {}

    trainer.fit(Same())
    return objective, batch


def test_the_discriminator_tells_apart_below_little_noise_only():
    torch.set_default_dtype(torch.float32)
    objective, batch = trained_critic(0.35)
    drawn, found = objective.prepare(batch, 0), {}
    for name, low, high in (("near", 0.01, 0.1), ("far", 15.0, 19.0)):
        objective.levels = LogUniform(low, high)
        with torch.no_grad():
            found[name] = float(objective.critic_loss(drawn, 0).info["accuracy"])
    objective.levels = LogUniform(0.01, 0.1)
    with torch.no_grad():
        made = objective.generator(drawn.degraded)
        real, fake = objective.logits([drawn.clean, made], {}, 0, "tried")
    assert float(real[0].mean()) > 0 > float(fake[0].mean())
    assert found["near"] > 0.8 and abs(found["far"] - 0.5) < 0.2
    # And the student is moved by it: the gradient with it is another than without.
    objective.levels = LogUniform(0.01, 0.1)
    weights = list(objective.generator.parameters())
    with_it = torch.autograd.grad(
        objective.student_loss(drawn, 0).value, weights, allow_unused=True
    )
    objective.adversarial_weight = 0.0
    without = torch.autograd.grad(
        objective.student_loss(drawn, 0).value, weights, allow_unused=True
    )
    gaps = [
        float((a - b).abs().max()) for a, b in zip(with_it, without, strict=True) if a is not None
    ]
    assert max(gaps) > 0


def test_the_discriminator_reads_noisy_samples():
    read = []

    class Reader(nn.Module):
        def forward(self, critic, z_t, sigma, **cond):
            read.append((z_t, sigma))
            return [z_t.new_zeros(len(z_t), 1)]

    torch.manual_seed(0)
    objective = D3SR(
        Restorer(unet(), 0.4, 0.5),
        Spatial(Plain, 0.0),
        unet(),
        Reader(),
        levels=LogUniform(0.5, 4.0),
        adversarial_weight=0.02,
    )
    clean = torch.randn(64, 3, 8, 8)
    objective.logits([clean, -clean], {}, 0, "tried")
    noises = []
    for z, (z_t, sigma) in zip((clean, -clean), read, strict=True):
        noises.append((z_t - z) / sigma.view(-1, 1, 1, 1))
        spread = noises[-1].flatten(1).std(dim=1)
        assert float(spread.min()) > 0.75 and float(spread.max()) < 1.25
    assert torch.equal(read[0][1], read[1][1])  # the same levels, and other noise
    assert abs(float((noises[0] * noises[1]).mean())) < 0.05


def test_parts_of_a_discriminator_go_together():
    student = Restorer(unet(), 0.4, 0.5)
    with pytest.raises(ValueError, match="go together"):
        D3SR(student, Spatial(Plain, 0.0), adversarial_weight=0.5)
    objective = D3SR(student, Spatial(Plain, 0.0))
    with pytest.raises(ValueError, match="this needs pairs"):
        objective.prepare(Batch.of(torch.zeros(2, 3, 8, 8)), 0)


# ------------------------------------------------------------------- OSEDiff


def test_the_direction_of_osediff_is_that_of_its_squared_distance():
    problem = ToyProblem(0, "restorer")
    torch.manual_seed(0)
    settings = METHODS["osediff"].examples["osediff"].settings
    stage = next(
        METHODS["osediff"].recipe(problem, replace(settings, score_weight=0.7), Context())
    )
    objective = stage.objective
    assert isinstance(objective, OSEDiff)
    batch = next(stage.batches)
    drawn = objective.prepare(batch, 0)
    z = drawn.fakes.x.clone().requires_grad_(True)
    objective.generator.forward = lambda *a, **k: z
    objective.streams.reset(3)
    value = objective.restoring_loss(drawn, 0).value - (z - drawn.shown.images).square().mean()
    (found,) = torch.autograd.grad(value, z)
    objective.streams.reset(3)
    sigma = objective.levels(objective.quantiles(len(z)), 0)
    x_t = z.detach() + sigma[:, None] * objective.noise_like(z)
    with torch.no_grad():
        fake, real = objective.fake(x_t, sigma), objective.teacher(x_t, sigma)
        size = (z - real).abs().mean(1).clamp_min(objective.FLOOR)
        v = (fake - real) / size[:, None]
    wanted = 0.7 * 2 * v / z.numel()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-9)
