"""Pure functions against their naive formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from vardiu.functional.bounds import (
    diagonal_normal_log_prob,
    entropy_constant,
    gaussian_kl,
    importance_log_marginal,
    same_condition,
    shared_log_marginal,
    shared_mean,
    standard_normal_log_prob,
)
from vardiu.functional.scores import denoising, edm_weight, mean_correction, surrogate
from vardiu.functional.tensors import (
    lattice_normal,
    log_sum_exp,
    pairwise_square,
    scale_gradient,
    stratified_normal,
)


def test_log_sum_exp_is_torchs_even_where_all_underflow():
    x = torch.tensor([[0.0, -1e5, -3.0], [-1e6, -1e6, -2e6], [5.0, 5.0, -math.inf]])
    value, share = log_sum_exp(x)
    torch.testing.assert_close(value, x.logsumexp(1))
    torch.testing.assert_close(share, x.softmax(1))
    value, share = log_sum_exp(torch.full((2, 3), -math.inf))
    assert bool((value == -math.inf).all()) and bool((share == 0).all())


@pytest.mark.parametrize("d", [1, 2, 3, 7])
def test_pairwise_square(d):
    x, y = torch.randn(5, d), torch.randn(4, d)
    naive = (x[:, None] - y[None]).square().sum(-1)
    torch.testing.assert_close(pairwise_square(x, y), naive)


def test_gaussian_kl_is_torchs():
    def covariance():
        root = torch.randn(3, 3)
        return root @ root.T + 0.1 * torch.eye(3)

    m_p, c_p, m_q, c_q = torch.randn(3), covariance(), torch.randn(3), covariance()
    wanted = kl_divergence(MultivariateNormal(m_p, c_p), MultivariateNormal(m_q, c_q))
    torch.testing.assert_close(gaussian_kl(m_p, c_p, m_q, c_q), wanted)
    assert abs(gaussian_kl(m_p, c_p, m_p, c_p)) < 1e-12


def test_surrogate_has_the_direction_for_gradient():
    x, v = torch.randn(4, 3, 2, requires_grad=True), torch.randn(4, 3, 2, requires_grad=True)
    surrogate(x, v).sum().backward()
    torch.testing.assert_close(x.grad, v.detach())
    assert v.grad is None


def test_mean_correction_is_of_a_row_and_has_a_floor():
    x = torch.zeros(3, 2, 2)
    denoised = torch.tensor([4.0, -8.0, 0.0])[:, None, None].expand(3, 2, 2).clone()
    denoised[0, 0, 0] = 0.0
    assert mean_correction(denoised, x, 0.5).tolist() == [3.0, 8.0, 0.5]


def test_scale_gradient_is_the_identity_forward():
    x, factor = torch.randn(4, 3, requires_grad=True), torch.tensor([0.0, 1.0, -2.0, 3.0])
    y = scale_gradient(x, factor)
    torch.testing.assert_close(y, x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, factor[:, None].expand(4, 3))


def test_log_probs_are_torchs():
    x, sigma = torch.randn(5, 3), torch.rand(5) + 0.1
    wanted = Normal(0.0, sigma[:, None]).log_prob(x).sum(1)
    torch.testing.assert_close(diagonal_normal_log_prob(x, sigma), wanted)
    torch.testing.assert_close(standard_normal_log_prob(x), Normal(0.0, 1.0).log_prob(x).sum(1))


def test_entropy_constant_is_minus_two_entropies():
    sigma = torch.tensor([0.3, 2.0])
    kernel = 3 * Normal(0.0, sigma).entropy()
    prior = 2 * Normal(torch.tensor(0.0), torch.tensor(1.0)).entropy()
    torch.testing.assert_close(entropy_constant(sigma, 3, 2), -kernel - prior)


def test_edm_weight_makes_an_untrained_denoiser_cost_one():
    """With zero output of the network D = c_skip x_t, and its weighted error is one on average."""
    sigma_data, n = 0.7, 400_000
    for level in (0.1, 1.0, 10.0):
        sigma = torch.full((n,), level)
        x, noise = sigma_data * torch.randn(n, 1), torch.randn(n, 1)
        skip = sigma_data**2 / (level**2 + sigma_data**2)
        errors = denoising(skip * (x + level * noise), x, edm_weight(sigma, sigma_data))
        assert abs(errors.mean() - 1) < 5 * errors.std() / math.sqrt(n)


def test_importance_log_marginal():
    x = torch.randn(6, 4)
    wanted = x.exp().mean(1).log()
    torch.testing.assert_close(importance_log_marginal(x), wanted)


def test_same_condition():
    label = torch.tensor([0, 1, 0])
    assert same_condition({}, 3) is None
    wanted = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=torch.bool)
    assert torch.equal(same_condition({"label": label}, 3), wanted)
    both = {"label": label, "other": torch.tensor([[1, 2], [1, 2], [0, 2]])}
    assert torch.equal(same_condition(both, 2), torch.eye(3, dtype=torch.bool)[:, :2])


@pytest.mark.parametrize("own", [0.0, 0.5])
def test_a_sample_that_is_alone_in_its_condition_stays(own):
    x = torch.randn(3, 2, dtype=torch.float64)
    x_t, sigma = x + 0.1, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    same = same_condition({"label": torch.tensor([0, 1, 0])}, 3)
    found = shared_log_marginal(x_t, x, sigma, same, own)
    kernel = -(x_t - x).square().sum(1) / (2 * sigma**2) - 2 * (
        sigma.log() + 0.5 * math.log(2 * math.pi)
    )
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[1], kernel[1])
    torch.testing.assert_close(shared_mean(x_t, x, sigma, same, own)[1], x[1])
    one = shared_log_marginal(x_t[:1], x[:1], sigma[:1], None, own)
    torch.testing.assert_close(one, kernel[:1])


@pytest.mark.parametrize("k", [4, 64, 768])
def test_latents_of_many_dimensions_are_spread_in_each(k):
    """Each point is standard normal, none of the dimensions is spread worse than by chance, and
    two dimensions are independent."""
    n, draws = 64, 400
    random = torch.Generator().manual_seed(0)
    z = torch.stack(
        [
            stratified_normal(torch.rand(n, k, generator=random), torch.rand(k, generator=random))
            for _ in range(draws)
        ]
    )
    pooled = z[:, 17]
    assert bool((pooled.mean(0).abs() < 5 / math.sqrt(draws)).all())
    assert bool(((pooled.var(0) - 1).abs() < 5.5 * math.sqrt(2 / draws)).all())
    assert (z.mean(1).var(0) < 0.1 / n).all()  # of independent ones, 1 / n
    assert ((z.square().mean(1) - 1).abs() < 0.4).all()
    pairs = (z[:, :, 0] * z[:, :, 1]).mean(1) * math.sqrt(n)
    assert pairs.mean().abs() < 5 / math.sqrt(draws)
    assert (pairs.var() - 1).abs() < 5 * math.sqrt(2 / draws)
    shares = torch.special.ndtr(z[0].double()).mul(n).floor().long().sort(0).values
    assert torch.equal(shares, torch.arange(n)[:, None].expand(n, k))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_lattice_points_are_normal_and_evenly_spread(k):
    """Over shifts each point is standard normal; within one lattice averages are far more exact."""
    n, shifts = 256, 400
    shift = torch.rand(shifts, k, generator=torch.Generator().manual_seed(0))
    z = torch.stack([lattice_normal(s, n) for s in shift])  # (shifts, n, k)
    pooled = z[:, 17]
    assert bool((pooled.mean(0).abs() < 5 / math.sqrt(shifts)).all())
    assert bool(((pooled.var(0) - 1).abs() < 5 * math.sqrt(2 / shifts)).all())
    # The mean of n independent ones has the variance 1 / n.
    assert (z.mean(1).var(0) < (0.25 if k < 3 else 0.5) / n).all()
