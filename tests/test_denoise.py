"""Denoisers: the score is the gradient of the log-density."""

from __future__ import annotations

import math

import pytest
import torch
from problems import LinearGaussian
from torch.utils._python_dispatch import TorchDispatchMode

from vardiu.denoisers.exact import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.functional.scores import score
from vardiu.functional.tensors import pairwise_square
from vardiu.nn import MLP, Precision


def mixture(m=30, d=3, diagonal=False, labels=False, **options):
    stds = torch.rand(m, d) if diagonal else torch.rand(m)
    label = torch.arange(m) % 3 if labels else None
    return MixtureDenoiser(torch.randn(m, d), stds, torch.rand(m) + 0.1, labels=label, **options)


def exact_cases():
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    cases = {
        "gaussian": LinearGaussian().teacher,
        "mixture": mixture(),
        "mixture-2d": mixture(d=2),
        "diagonal": mixture(diagonal=True),
        "classes": mixture(labels=True),
        "points": EmpiricalDenoiser(torch.randn(40, 3), sigma_min=0.1),
        "kde": EmpiricalDenoiser(torch.randn(40, 3), bandwidth=0.3, sigma_min=0.1),
    }
    torch.set_default_dtype(before)
    return cases


@pytest.mark.parametrize("name", exact_cases())
def test_tweedie_score_is_the_gradient_of_the_log_density(name):
    denoiser = exact_cases()[name]
    x_t = torch.randn(50, *denoiser.shape, requires_grad=True)
    sigma = torch.rand(50) + 0.2
    cond = {"label": torch.arange(50) % 3} if denoiser.conditions else {}
    (gradient,) = torch.autograd.grad(denoiser.log_prob(x_t, sigma, **cond).sum(), x_t)
    torch.testing.assert_close(score(denoiser, x_t, sigma, **cond), gradient)


@pytest.mark.parametrize("name", exact_cases())
def test_log_density_integrates_to_one(name):
    """By importance sampling from a wide normal, within five standard errors."""
    denoiser = exact_cases()[name]
    n = 200_000
    q = torch.distributions.Normal(0.0, 2.5)
    x = q.sample((n, *denoiser.shape))
    cond = {"label": torch.zeros(n, dtype=torch.long)} if denoiser.conditions else {}
    log_p = denoiser.log_prob(x, torch.full((n,), 0.8), **cond)
    ratio = (log_p - q.log_prob(x).sum(1)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(n) < 0.2


@pytest.mark.parametrize("options", [{}, {"diagonal": True}, {"labels": True}, {"d": 6}])
def test_chunks_change_nothing(options):
    torch.manual_seed(1)
    whole = mixture(**options)
    torch.manual_seed(1)
    parts = mixture(**options, chunk=7)
    x_t, sigma = torch.randn(5, *whole.shape), torch.rand(5) + 0.1
    cond = {"label": torch.arange(5) % 3} if whole.conditions else {}
    torch.testing.assert_close(parts(x_t, sigma, **cond), whole(x_t, sigma, **cond))
    wanted = whole.log_prob(x_t, sigma, **cond)
    torch.testing.assert_close(parts.log_prob(x_t, sigma, **cond), wanted)


def test_chunks_bound_the_memory():
    """A quarter of a million points; a chunk's temporaries are all there is beside them."""
    points = torch.randn(250_000, 2, dtype=torch.float32)
    denoiser = EmpiricalDenoiser(points, sigma_min=0.1, chunk=2**16)
    sizes = []
    handle = pairwise_square

    def spy(x, y):
        sizes.append(len(x) * len(y))
        return handle(x, y)

    import vardiu.denoisers.exact as module

    module.pairwise_square = spy
    try:
        denoised = denoiser(torch.randn(64, 2).float(), torch.full((64,), 0.5).float())
    finally:
        module.pairwise_square = handle
    assert max(sizes) <= 2**16 and sum(sizes) == 64 * 250_000
    assert bool(denoised.isfinite().all())


def test_far_from_all_components_the_nearest_one_is_returned():
    denoiser = EmpiricalDenoiser(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), sigma_min=0.01)
    x_t = torch.tensor([[1e4, 0.0], [-1e4, 3.0]])
    got = denoiser(x_t, torch.full((2,), 0.01))
    torch.testing.assert_close(got, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert bool(denoiser.log_prob(x_t, torch.full((2,), 0.01)).isfinite().all())


def test_a_class_counts_its_own_components_only():
    points, labels = torch.randn(20, 2), torch.arange(20) % 2
    both = EmpiricalDenoiser(points, labels=labels, sigma_min=0.1)
    ones = EmpiricalDenoiser(points[labels == 1], sigma_min=0.1)
    x_t, sigma = torch.randn(6, 2), torch.rand(6) + 0.1
    label = torch.ones(6, dtype=torch.long)
    torch.testing.assert_close(both(x_t, sigma, label=label), ones(x_t, sigma))
    with pytest.raises(ValueError, match="this mixture has classes: give `label`"):
        both(x_t, sigma)
    with pytest.raises(ValueError, match="has no classes"):
        ones(x_t, sigma, label=label)


def test_the_denoiser_is_the_posterior_mean():
    """By brute force: the average of clean samples, weighted by their likelihood."""
    denoiser = mixture(d=2)
    n = 400_000
    component = torch.multinomial(denoiser.log_weights.exp(), n, replacement=True)
    x = denoiser.means[component] + denoiser.stds[component, None] * torch.randn(n, 2)
    x_t, sigma = torch.tensor([[0.3, -0.2]]), torch.tensor([0.7])
    weight = (-(x_t - x).square().sum(1) / (2 * 0.49)).exp()
    mean = (weight[:, None] * x).sum(0) / weight.sum()
    spread = (weight[:, None] * (x - mean)).std(0) * math.sqrt(n) / weight.sum()
    assert bool(((denoiser(x_t, sigma)[0] - mean).abs() < 5 * spread).all())


def test_preconditioning_with_a_silent_network_is_the_linear_denoiser():
    network = MLP((2,), (2,), width=4, depth=1, noisy=True)
    torch.nn.init.zeros_(network.last.weight)
    torch.nn.init.zeros_(network.last.bias)
    denoiser = PreconditionedDenoiser(
        network, shape=(2,), sigma_data=0.5, sigma_min=0.1, sigma_max=5.0, mean=[1.0, -1.0]
    )
    mean = torch.tensor([1.0, -1.0])
    linear = GaussianDenoiser(mean, torch.full((2,), 0.25))
    x_t, sigma = torch.randn(6, 2), torch.rand(6) + 0.1
    torch.testing.assert_close(denoiser(x_t, sigma), linear(x_t, sigma))


def test_networks_return_the_type_of_their_input():
    network = Precision(MLP((2,), (2,), width=16, depth=2, noisy=True).float(), "bfloat16")
    x, c = torch.randn(8, 2).float(), torch.zeros(8).float()
    got, plain = network(x, c), network.network(x, c)
    assert got.dtype == torch.float32
    assert 0 < (got - plain).abs().max() < 0.05 * plain.abs().max()


def test_wrong_inputs_are_named():
    denoiser = mixture(d=3)
    with pytest.raises(ValueError, match=r"x_t must have shape \(B, 3\), got \(4, 2\)"):
        denoiser(torch.zeros(4, 2), torch.ones(4))
    with pytest.raises(ValueError, match=r"sigma must have shape \(4,\)"):
        denoiser(torch.zeros(4, 3), torch.ones(1))
    with pytest.raises(ValueError, match="floating-point type, got torch.int64"):
        denoiser(torch.zeros(4, 3, dtype=torch.long), torch.ones(4))
    with pytest.raises(ValueError, match="weights must be positive"):
        MixtureDenoiser(torch.zeros(2, 2), 1.0, torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="finite"):
        MixtureDenoiser(torch.full((2, 2), math.nan), 1.0)
    with pytest.raises(ValueError, match=r"stds must be a number or have shape \(2,\)"):
        MixtureDenoiser(torch.zeros(2, 2), torch.ones(3))
    with pytest.raises(ValueError, match="positive semi-definite"):
        GaussianDenoiser(torch.zeros(2), -torch.eye(2))
    with pytest.raises(ValueError, match="covariance must have shape"):
        GaussianDenoiser(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match="sigma_min must be below sigma_max"):
        PreconditionedDenoiser(MLP((2,), (2,)), shape=(2,), sigma_data=1, sigma_min=3, sigma_max=1)


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("d", [2, 6])
@pytest.mark.parametrize("stds", ["common", "own", "diagonal"])
def test_memory_is_linear_and_blocks_change_nothing(d, stds):
    n, batch, chunk = 20_000, 96, 2**15
    shape = {"common": (), "own": (n,), "diagonal": (n, d)}[stds]
    std = 0.3 + (torch.rand(shape) if shape else torch.tensor(0.0))
    means, weights = 3 * torch.randn(n, d), 0.1 + torch.rand(n)
    x, sigma = 3 * torch.randn(batch, d), 0.2 + torch.rand(batch)
    whole = MixtureDenoiser(means, std, weights, chunk=2**24)
    small = MixtureDenoiser(means, std, weights, chunk=chunk)
    with Largest() as seen:
        denoised, log_prob = small(x, sigma), small.log_prob(x, sigma)
    # The components themselves, their transposes and blocks: never rows times components.
    assert seen.numel <= max(n * d, 2 * chunk) < batch * n
    torch.testing.assert_close(denoised, whole(x, sigma), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_prob, whole.log_prob(x, sigma), rtol=1e-10, atol=1e-10)
