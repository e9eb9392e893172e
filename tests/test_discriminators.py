"""Heads, diffusion discriminators and adversarial losses, against closed forms."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from vardiu import models
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.discriminators.diffusion import DiffusionDiscriminator, discriminator_on
from vardiu.discriminators.heads import ConvHead, MLPHead, TokenHead, head_for
from vardiu.functional import adversarial as adv
from vardiu.nn import MLP, UNet

# -- Two Gaussians ----------------------------------------------------------------------------
# x_t = a x + b eps, with x of N(mf, s^2) where it is generated and of N(mr, s^2) where real.

A, B, MR, MF, S = 0.8, 0.6, 1.0, -0.5, 0.9
V = A**2 * S**2 + B**2
SLOPE = A * (MR - MF) / V
GRID = torch.linspace(-12.0, 12.0, 48001, dtype=torch.float64)


def density(mean):
    return torch.exp(-((GRID - A * mean) ** 2) / (2 * V)) / math.sqrt(2 * math.pi * V)


def integral(values):
    return torch.trapezoid(values, GRID)


def optimum(x=GRID):
    """log p - log q."""
    return SLOPE * (x - A * (MR + MF) / 2)


def discriminators(loss, c):
    """The mean of a loss of a real and a generated row, by quadrature: it is a sum of two terms."""
    zero = torch.zeros_like(c)
    both = loss(zero, zero)
    return float(
        integral(density(MR) * (loss(c, zero) - both / 2))
        + integral(density(MF) * (loss(zero, c) - both / 2))
    )


def generators(loss, c):
    """The gradient of a generator's mean loss in the generated mean, by quadrature."""
    shift = torch.zeros((), requires_grad=True)
    mean = integral(density(MF) * loss(c(GRID + A * shift)))
    return float(torch.autograd.grad(mean, shift)[0])


def test_the_optimal_logit_is_linear():
    assert pytest.approx(1.366120, abs=1e-6) == SLOPE
    ratio = density(MR).log() - density(MF).log()
    assert torch.allclose(optimum(), ratio, rtol=0, atol=1e-9)


def test_the_gradient_of_the_optimal_logit_is_that_of_a_divergence():
    mf = torch.tensor(MF, requires_grad=True)
    (of_kl,) = torch.autograd.grad(A**2 * (MR - mf) ** 2 / (2 * V), mf)
    found = generators(adv.hinge_generator, optimum)
    assert found == pytest.approx(-1.092896, abs=1e-6)
    assert found == pytest.approx(float(of_kl), abs=1e-9)
    weighted = generators(adv.softplus_generator, optimum)
    assert weighted == pytest.approx(-0.7117, abs=2e-4)  # that number is of samples
    share = float(integral(density(MF) * torch.sigmoid(-optimum())))
    assert weighted == pytest.approx(share * found, abs=1e-8)


def worse(loss, best, c):
    """Whether other logits have a greater mean loss."""
    others = c + 0.1, c - 0.1, 1.1 * c, 0.9 * c, c + 0.1 * GRID.sin()
    return all(discriminators(loss, other) > best + 1e-5 for other in others)


def test_cross_entropy_at_its_optimum_is_the_jensen_shannon_divergence():
    best = discriminators(adv.softplus_discriminator, optimum())
    p, q = density(MR), density(MF)
    middle = (p + q) / 2
    js = float(integral(p * (p / middle).log() + q * (q / middle).log())) / 2
    assert best == pytest.approx(1.0443, abs=1e-4)
    assert best == pytest.approx(2 * math.log(2) - 2 * js, abs=1e-7)
    assert worse(adv.softplus_discriminator, best, optimum())


def test_hinge_at_its_optimum_is_the_total_variation():
    c = optimum().sign()
    best = discriminators(adv.hinge_discriminator, c)
    half = A * (MR - MF) / 2 / math.sqrt(V)
    total_variation = math.erf(half / math.sqrt(2))  # 2 Phi(half) - 1
    # The sign jumps within a cell of the grid, where the densities are below a half.
    assert best == pytest.approx(2 - 2 * total_variation, abs=1e-3)
    # Where |c| <= 1 the loss is linear in c: scaling the sign down is worse, and so is more of it.
    for other in (0.9 * c, 1.1 * c, c + 0.1, -c):
        assert discriminators(adv.hinge_discriminator, other) > best + 1e-3


def test_least_squares_at_its_optimum():
    p, q = density(MR), density(MF)
    c = p / (p + q)
    best = discriminators(adv.least_squares_discriminator, c)
    assert best == pytest.approx(float(integral(p * q / (p + q))) / 2, abs=1e-9)
    assert worse(adv.least_squares_discriminator, best, c)
    x = torch.tensor([-0.3, 0.4, 1.7], requires_grad=True)
    (gradient,) = torch.autograd.grad(adv.least_squares_generator(x).sum(), x)
    assert torch.allclose(gradient, x - 1)


def test_losses_are_by_row_and_by_name():
    real, fake = torch.randn(5), torch.randn(5)
    for name in ("hinge", "least_squares", "softplus"):
        game = adv.ADVERSARIAL[name]
        assert game.discriminator(real, fake).shape == game.generator(fake).shape == (5,)
        # A discriminator falls as what is real rises to one; a generator as its own does.
        up = game.discriminator(torch.tensor([0.5]), fake[:1])
        assert up < game.discriminator(torch.tensor([0.4]), fake[:1])
        assert game.generator(torch.tensor([0.5])) < game.generator(torch.tensor([0.4]))


def test_the_penalty_of_a_linear_logit_is_its_squared_slope():
    rows, weight, scale = 200_000, torch.tensor([0.7, -1.2]), 0.05
    x, noise = torch.randn(rows, 2), torch.randn(rows, 2)
    found = adv.gradient_penalty(x @ weight, (x + scale * noise) @ weight, scale)
    error = found.std() / rows**0.5
    assert abs(found.mean() - weight.square().sum()) < 5 * error


def test_a_trained_linear_head_has_the_optimal_slope():
    """Newton's method on the cross entropy of samples, from the library's head and loss.

    The slope's standard error is that of an M-estimator, from the gradients of rows.
    """
    rows = 40_000
    real = A * (MR + S * torch.randn(rows, 1)) + B * torch.randn(rows, 1)
    fake = A * (MF + S * torch.randn(rows, 1)) + B * torch.randn(rows, 1)
    head = MLPHead(1, depth=0)

    def losses(theta):
        weights = {"last.weight": theta[None, :1], "last.bias": theta[1:]}
        logits = [torch.func.functional_call(head, weights, (x,)) for x in (real, fake)]
        return adv.softplus_discriminator(*logits)

    theta = torch.zeros(2, requires_grad=True)
    for _ in range(8):
        (gradient,) = torch.autograd.grad(losses(theta).mean(), theta)
        hessian = torch.autograd.functional.hessian(lambda t: losses(t).mean(), theta)
        theta = (theta - torch.linalg.solve(hessian, gradient)).detach().requires_grad_(True)
    theta = theta.detach()
    ends = [torch.cat([x, torch.ones_like(x)], dim=1) for x in (real, fake)]
    shares = torch.sigmoid(-(ends[0] @ theta)), torch.sigmoid(ends[1] @ theta)
    by_row = shares[1][:, None] * ends[1] - shares[0][:, None] * ends[0]
    assert by_row.mean(dim=0).abs().max() < 1e-10  # it has converged, and these are gradients
    inverse = hessian.inverse()
    error = (inverse @ (by_row.T @ by_row / rows) @ inverse / rows).diagonal().sqrt()
    assert error[0] < 0.03
    assert abs(theta[0] - SLOPE) < 5 * error[0]
    assert abs(theta[1] + SLOPE * A * (MR + MF) / 2) < 5 * error[1]


# -- Heads ------------------------------------------------------------------------------------

EXAMPLES = {
    "vector": ((8,), MLPHead),
    "tokens": ((5, 12), TokenHead),
    "one pixel": ((16, 1, 1), ConvHead),
    "4 x 4": ((16, 4, 4), ConvHead),
    "8 x 8": ((24, 8, 8), ConvHead),
    "8 x 8, 31 channels": ((31, 8, 8), ConvHead),
    "3 channels": ((3, 8, 8), ConvHead),
    "odd sides": ((10, 7, 5), ConvHead),
    "a line": ((10, 1, 16), ConvHead),
    "16 x 16": ((37, 16, 16), ConvHead),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_head_is_chosen_by_the_rank_of_its_feature(name, tmp_path):
    shape, cls = EXAMPLES[name]
    feature = torch.randn(6, *shape, requires_grad=True)
    head = head_for(feature)
    logit = head(feature)
    assert type(head) is cls and logit.shape == (6,) and logit.std() > 1e-6
    # Every row has its own logit, and every part of the feature is in it.
    assert torch.allclose(head(feature[2:3]), logit[2:3], rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(logit[1], feature)
    assert bool((gradient[1] != 0).all()) and not gradient[[0, 2, 3, 4, 5]].any()
    models.save(head, tmp_path)
    assert torch.equal(models.load(tmp_path)(feature), logit)
    with pytest.raises(ValueError, match="does not take a feature of shape"):
        head(feature[..., :-1])


@pytest.mark.parametrize("name", EXAMPLES)
def test_logits_are_of_float32_whatever_the_precision_around(name):
    torch.set_default_dtype(torch.float32)
    feature = torch.randn(4, *EXAMPLES[name][0])
    head = head_for(feature)
    short = feature.bfloat16()
    wanted = head(short.float())
    assert head(short).dtype == torch.float32 and torch.equal(head(short), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(short), wanted)


def test_the_head_of_large_maps_is_that_of_dmd2():
    head = ConvHead(128, (8, 8))
    kinds = [type(layer) for layer in head.layers]
    one = [nn.Conv2d, nn.GroupNorm, nn.SiLU]
    assert kinds == [*one, *one, nn.Conv2d]
    first, second, last = (layer for layer in head.layers if isinstance(layer, nn.Conv2d))
    assert (first.kernel_size, first.stride) == ((4, 4), (2, 2))
    assert second.kernel_size == (4, 4) and last.kernel_size == (1, 1)
    assert head.layers[1].num_groups == head.layers[4].num_groups == 32


def test_what_a_head_cannot_be():
    with pytest.raises(ValueError, match="a feature must have shape"):
        head_for(torch.zeros(3))
    with pytest.raises(ValueError, match="width at least 8, got 4, "):
        ConvHead(4, (8, 8), width=4)
    with pytest.raises(ValueError, match="depth at least 0"):
        MLPHead(3, depth=-1)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        TokenHead(0)


# -- Diffusion discriminators -----------------------------------------------------------------


def images():
    network = UNet(1, widths=(8, 16), depth=3, classes=4, embedding=16)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return PreconditionedDenoiser(
        network, shape=(1, 8, 8), sigma_data=0.5, sigma_min=0.01, sigma_max=80.0,
        conditions=("label",),
    )  # fmt: skip


def noisy(rows=5):
    label = torch.arange(rows) % 4
    return torch.randn(rows, 1, 8, 8), torch.linspace(0.1, 3.0, rows), label


def test_logits_are_those_of_heads_on_features():
    denoiser = images()
    at = ("down.0", "middle.1")
    critic = discriminator_on(denoiser, at, label=torch.tensor([0]))
    y_t, sigma, label = noisy()
    logits = critic(denoiser, y_t, sigma, label=label)
    _, features = denoiser.features(y_t, sigma, at=at, label=label)
    assert len(logits) == 2
    for head, name, logit in zip(critic.heads, at, logits, strict=True):
        assert torch.equal(logit, head(features[name])) and logit.shape == (5,)
    assert all(type(head) is ConvHead for head in critic.heads)
    assert discriminator_on(denoiser, label=torch.tensor([0])).at == (denoiser.bottleneck,)


def test_the_denoiser_is_of_the_call_and_not_of_the_discriminator():
    teacher = images()
    critic = discriminator_on(teacher, label=torch.tensor([0]))
    owned = {name.split(".")[0] for name, _ in critic.named_parameters()}
    assert owned == {"heads"}
    fake, twin = copy.deepcopy(teacher), copy.deepcopy(critic)
    y_t, sigma, label = noisy()
    (before,) = critic(fake, y_t, sigma, label=label)
    with torch.no_grad():
        for parameter in fake.parameters():
            parameter.mul_(1.5)
    (after,) = critic(fake, y_t, sigma, label=label)
    assert not torch.allclose(before, after)
    assert torch.equal(twin(teacher, y_t, sigma, label=label)[0], before)
    twin.load_state_dict(critic.state_dict())


def test_gradients_go_to_samples_heads_and_the_denoiser():
    denoiser = images()
    critic = discriminator_on(denoiser, label=torch.tensor([0]))
    y_t, sigma, label = noisy()
    y_t.requires_grad_(True)
    denoiser.requires_grad_(False)  # frozen weights, and a gradient through them
    adv.softplus_generator(critic(denoiser, y_t, sigma, label=label)[0]).mean().backward()
    assert y_t.grad.abs().sum() > 0 and all(p.grad is None for p in denoiser.parameters())
    assert all(p.grad is not None for p in critic.parameters())
    denoiser.requires_grad_(True)
    critic(denoiser, y_t, sigma, label=label)[0].sum().backward()
    reached = {name for name, p in denoiser.named_parameters() if p.grad is not None}
    assert any("trunk.0" in name for name in reached)
    assert not any("trunk.2" in name for name in reached)  # beyond the bottleneck


def test_a_diffusion_discriminator_finds_the_optimal_logit_of_its_level():
    """On features of a network that passes its input on, a linear head is the closed form."""

    class Passing(MLP):
        def run_layers(self, tap, x, c_noise=None, label=None):
            tap("hidden.0", x)
            return x

    denoiser = PreconditionedDenoiser(
        Passing((1,), (1,), width=1, depth=1, noisy=True), shape=(1,), sigma_data=1.0,
        sigma_min=0.01, sigma_max=10.0,
    )  # fmt: skip
    head, level = MLPHead(1, depth=0), B / A
    total = math.sqrt(level**2 + 1)  # the network is shown x_t / total, and x_t = y / a
    with torch.no_grad():
        head.last.weight.fill_(SLOPE * A * total)
        head.last.bias.fill_(-SLOPE * A * (MR + MF) / 2)
    critic = DiffusionDiscriminator([head], at=("hidden.0",))
    y = torch.linspace(-3, 3, 7)[:, None]
    (logit,) = critic(denoiser, y / A, torch.full((7,), level))
    assert torch.allclose(logit, optimum(y[:, 0]), rtol=1e-12, atol=1e-12)


def test_what_a_discriminator_cannot_be():
    heads = [MLPHead(2), MLPHead(2)]
    for at in ((), ("a",), ("a", "a"), "ab"):
        with pytest.raises(ValueError, match="a tap for each of 2 heads"):
            DiffusionDiscriminator(heads, at)
    with pytest.raises(TypeError, match="has no features"):
        discriminator_on(GaussianDenoiser(torch.zeros(2), torch.ones(2)))
    with pytest.raises(ValueError, match="has no tap 'midle.1'; did you mean middle.1"):
        discriminator_on(images(), ("midle.1",), label=torch.tensor([0]))
