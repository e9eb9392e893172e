"""Guidance, on mixtures whose classes are known exactly."""

import math

import pytest
import torch

from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.guidance import Autoguided, Guided
from vardiu.teachers.functions import FunctionDenoiser


@pytest.fixture
def mixture():
    """Classes 0 and 1, and class 2 that stands for both."""
    means = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [2.0, 0.0], [-2.0, 0.0]]).double()
    labels = torch.tensor([0, 1, 2, 2])
    return MixtureDenoiser(means, 0.5, labels=labels, sigma_min=0.1, sigma_max=10.0)


def rows_of_calls(denoiser) -> list[int]:
    """Rows of each call of a denoiser from now on."""
    rows: list[int] = []
    denoiser.register_forward_hook(lambda module, arguments, output: rows.append(len(output)))
    return rows


def test_scale_one_is_the_condition_and_zero_is_none(mixture):
    x_t, sigma = torch.randn(6, 2).double(), torch.full((6,), 1.5).double()
    label = torch.tensor([0, 1, 0, 1, 0, 1])
    null = {"label": torch.tensor([2])}
    at = {w: Guided(mixture, w, null)(x_t, sigma, label=label) for w in (0.0, 1.0, 3.0)}
    given = mixture(x_t, sigma, label=label)
    none = mixture(x_t, sigma, label=torch.full((6,), 2))
    assert torch.allclose(at[1.0], given, rtol=0, atol=1e-12)
    assert torch.allclose(at[0.0], none, rtol=0, atol=1e-12)
    assert torch.allclose(at[3.0], none + 3 * (given - none), rtol=0, atol=1e-12)


def test_guidance_is_the_score_of_a_sharpened_class(mixture):
    # D_w = x + sigma^2 grad [log p(x_t) + w log p(c | x_t)]: by autograd on exact densities.
    x_t = torch.randn(5, 2).double().requires_grad_(True)
    sigma, label = torch.full((5,), 2.0).double(), torch.zeros(5, dtype=torch.long)
    both = torch.full((5,), 2)
    p = mixture.log_prob(x_t, sigma, label=both)
    # log p(x_t | c) less log p(x_t) is log p(c | x_t) up to a constant.
    posterior = mixture.log_prob(x_t, sigma, label=label) - p
    (score,) = torch.autograd.grad((p + 2.5 * posterior).sum(), x_t)
    guided = Guided(mixture, 2.5, {"label": torch.tensor([2])})
    found = guided(x_t.detach(), sigma, label=label)
    assert torch.allclose(found, x_t.detach() + 4.0 * score, rtol=1e-9, atol=1e-9)


def test_guidance_keeps_to_its_interval_and_asks_once(mixture):
    guided = Guided(mixture, 4.0, {"label": torch.tensor([2])}, interval=(1.0, 3.0))
    x_t, label = torch.randn(3, 2).double(), torch.tensor([0, 1, 0])
    sigma = torch.tensor([0.5, 2.0, 5.0]).double()
    rows = rows_of_calls(mixture)
    found = guided(x_t, sigma, label=label)
    assert rows == [6]
    given = mixture(x_t, sigma, label=label)
    changed = (found - given).abs().sum(1) > 1e-9
    assert changed.tolist() == [False, True, False]


def test_guidance_as_a_condition_mixes_row_by_row(mixture):
    null = {"label": torch.tensor([2])}
    guided = Guided(mixture, null=null, interval=(1.0, 3.0))
    assert guided.conditions == ("label", "guidance")
    x_t = torch.randn(6, 2).double()
    sigma = torch.tensor([1.5, 2.0, 1.5, 2.5, 5.0, 2.0]).double()
    label = torch.tensor([0, 1, 0, 1, 0, 1])
    given = mixture(x_t, sigma, label=label)
    none = mixture(x_t, sigma, label=torch.full((6,), 2))
    # One is the condition, zero none, between and beyond on the line; out of the interval one.
    guidance = torch.tensor([1.0, 0.0, 2.5, -1.0, 7.0, 0.25]).double()
    rows = rows_of_calls(mixture)
    found = guided(x_t, sigma, label=label, guidance=guidance)
    assert rows == [12]
    used = torch.tensor([1.0, 0.0, 2.5, -1.0, 1.0, 0.25]).double()[:, None]
    assert torch.allclose(found, none + used * (given - none), rtol=0, atol=1e-12)
    assert torch.allclose(found[0], given[0], rtol=0, atol=1e-12)
    assert torch.equal(found[1], none[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_guidance_of_all_rows_is_the_fixed_scale_bit_for_bit(mixture, dtype):
    null, label = {"label": torch.tensor([2])}, torch.tensor([0, 1, 0])
    x_t, sigma = torch.randn(3, 2, dtype=dtype), torch.tensor([0.5, 1.0, 2.0], dtype=dtype)
    fixed = Guided(mixture, 2.3, null)(x_t, sigma, label=label)
    row = Guided(mixture, null=null)(x_t, sigma, label=label, guidance=torch.full((3,), 2.3))
    assert torch.equal(fixed, row)


def test_autoguidance_leads_away_from_the_worse_one():
    good = GaussianDenoiser(torch.zeros(2), torch.ones(2), sigma_min=0.1, sigma_max=10.0)
    weak = GaussianDenoiser(torch.zeros(2), 4 * torch.ones(2), sigma_min=0.2, sigma_max=5.0)
    guided = Autoguided(good, weak, 2.0)
    x_t, sigma = torch.randn(4, 2), torch.full((4,), 1.0)
    expected = 2 * good(x_t, sigma) - weak(x_t, sigma)
    assert torch.allclose(guided(x_t, sigma), expected, atol=1e-6)
    assert (guided.sigma_min, guided.sigma_max) == (0.2, 5.0)


def test_what_does_not_fit_is_refused(mixture):
    with pytest.raises(ValueError, match=r"null must give \['label'\]"):
        Guided(mixture, 2.0, {})
    with pytest.raises(ValueError, match="finite"):
        Guided(mixture, math.nan, {"label": torch.tensor([2])})
    free = Guided(mixture, null={"label": torch.tensor([2])})
    x_t, sigma, label = torch.zeros(3, 2), torch.ones(3), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"guidance must have shape \(3,\).*got none"):
        free(x_t, sigma, label=label)
    with pytest.raises(ValueError, match=r"guidance must have shape \(3,\).*got \(3, 1\)"):
        free(x_t, sigma, label=label, guidance=torch.ones(3, 1))
    with pytest.raises(ValueError, match="takes a condition 'guidance' itself"):
        Guided(free, null={"label": torch.tensor([2]), "guidance": torch.ones(1)})
    flat = GaussianDenoiser(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="weak denoiser is of"):
        Autoguided(mixture, flat, 2.0)


def test_a_student_starts_from_the_guided_network_alone():
    linear = torch.nn.Linear(2, 2)
    inner = FunctionDenoiser(
        lambda x_t, sigma: linear(x_t), shape=(2,), sigma_min=0.1, sigma_max=9.0
    )
    inner.network = linear
    guided = Autoguided(inner, inner, 2.0)
    started = guided.trainable_copy()
    assert type(started) is FunctionDenoiser
    assert all(p.requires_grad for p in started.parameters())
