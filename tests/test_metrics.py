"""Metrics against closed forms."""

from __future__ import annotations

import dataclasses
import importlib
import math
from pathlib import Path

import pytest
import torch

from vardiu.data import DENSITIES, digits, mixture
from vardiu.data.densities import mog40
from vardiu.errors import ConfigError
from vardiu.metrics.classes import class_agreement, class_masses, classes_covered
from vardiu.metrics.density import log_density, mode_masses, modes_covered
from vardiu.metrics.features import PrincipalComponents, RandomFeatures, digits_classifier
from vardiu.metrics.frechet import (
    frechet,
    frechet_of_moments,
    frechet_ratio,
    kernel_distance,
)
from vardiu.metrics.mmd import mmd2_biased, mmd2_unbiased
from vardiu.metrics.neighbours import density_coverage, precision_recall
from vardiu.metrics.sets import mean_ratio, space_metrics
from vardiu.metrics.transport import wasserstein2_exact, wasserstein2_sliced


def gaussian(n, d=2, mean=0.0, std=1.0, seed=0):
    return mean + std * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def expected_kernel(h, variance, square, d):
    """E exp(-|x - y|^2 / 2h^2) for x - y ~ N(m, variance I), with |m|^2 = square."""
    total = h**2 + variance
    return (h**2 / total) ** (d / 2) * math.exp(-square / (2 * total))


def mmd2_of_gaussians(std, shift, d=2, bandwidths=(0.25, 0.5, 1.0, 2.0, 4.0)):
    values = [
        expected_kernel(h, 2, 0, d)
        + expected_kernel(h, 2 * std**2, 0, d)
        - 2 * expected_kernel(h, 1 + std**2, d * shift**2, d)
        for h in bandwidths
    ]
    return sum(values) / len(values)


def test_every_metric_is_of_one_column_as_well():
    """The covariance of one column is a scalar in torch, and has two dimensions here."""
    x, y = gaussian(400, d=1), gaussian(400, d=1, mean=1.0, seed=1)
    assert frechet(x, y).value == pytest.approx(1, abs=0.25)
    assert all(metric.value == metric.value for metric in frechet_ratio(x, x[:200], y))
    for metric in (kernel_distance(x, y), *precision_recall(x, y), *density_coverage(x, y)):
        assert math.isfinite(metric.value)
    with_one = PrincipalComponents(torch.randn(50, 1, 1, 1))
    assert with_one(torch.randn(4, 1, 1, 1)).shape == (4, 1)


@pytest.mark.parametrize("std, shift", [(1.0, 0.5), (1.5, 0.0), (0.7, 1.0)])
def test_mmd_of_gaussians_is_the_closed_form(std, shift):
    x, y = gaussian(3000, mean=shift, std=std), gaussian(3000, seed=1)
    metric = mmd2_unbiased(x, y)
    assert abs(metric.value - mmd2_of_gaussians(std, shift)) < 5 * metric.error
    assert metric.error < 0.2 * metric.value


def test_biased_mmd_is_the_naive_formula():
    x, y = gaussian(700, seed=0), gaussian(900, mean=0.3, seed=1)

    def mean_kernel(a, b):
        square = torch.cdist(a, b).square()
        return sum((-square / (2 * h * h)).exp().mean() for h in (0.25, 0.5, 1, 2, 4)) / 5

    wanted = mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
    assert mmd2_biased(x, y).value == pytest.approx(wanted.item(), abs=1e-7)
    assert mmd2_biased(x, y).value > mmd2_unbiased(x, y).value


def test_unbiased_mmd_is_the_naive_formula_without_the_diagonals():
    """Of few rows, where the diagonals are a tenth of the mean."""
    x, y = gaussian(11, seed=0), gaussian(7, mean=0.3, seed=1)

    def kernel(a, b):
        square = torch.cdist(a, b).square()
        return sum((-square / (2 * h * h)).exp() for h in (0.25, 0.5, 1, 2, 4)) / 5

    def apart(a):
        k, n = kernel(a, a), len(a)
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    wanted = apart(x) + apart(y) - 2 * kernel(x, y).mean()
    assert mmd2_unbiased(x, y).value == pytest.approx(wanted.item(), abs=1e-6)


def test_mog40_is_the_published_target_and_its_floor():
    spec = mog40()
    assert spec.means[0].tolist() == pytest.approx([-0.2995, 21.4577], abs=1e-4)
    assert spec.stds[0].item() == pytest.approx(math.log(1 + math.e))
    x = spec.sample(10_000, torch.Generator().manual_seed(1))
    metric = log_density(x, spec.log_prob)
    assert abs(metric.value + 6.86) < 0.01 + 5 * metric.error
    y = spec.sample(10_000, torch.Generator().manual_seed(2))
    assert 1.5e-4 < mmd2_biased(x, y).value < 2.4e-4
    covered = modes_covered(x, spec.means)
    assert covered.value == 40
    masses = mode_masses(x, spec.means)
    assert (masses - 0.025).abs().max() < 5 * math.sqrt(0.025 * 0.975 / 10_000)


def test_log_density_of_a_gaussian_is_minus_its_entropy():
    normal = torch.distributions.Normal(0.0, 1.0)
    metric = log_density(gaussian(20_000), lambda x: normal.log_prob(x).sum(1))
    assert abs(metric.value + 2 * normal.entropy()) < 5 * metric.error
    with pytest.raises(ValueError, match="log_prob is not finite at 5 samples"):
        log_density(gaussian(5), lambda x: x[:, 0] * math.nan)


def test_a_missing_mode_is_missed():
    spec = DENSITIES["ring8"]()
    x = spec.sample(4000, torch.Generator().manual_seed(0))
    kept = x[(x - spec.means[0].to(x)).norm(dim=1) > 1.5]
    assert modes_covered(kept, spec.means).value == 7


@pytest.mark.parametrize("name", sorted(DENSITIES))
def test_densities_sample_what_they_state(name):
    spec = DENSITIES[name]()
    x = spec.sample(20_000, torch.Generator().manual_seed(0))
    error = spec.std / math.sqrt(20_000)
    assert bool(((x.mean(0) - spec.mean).abs() < 5 * error).all())
    assert bool(((x.std(0) / spec.std - 1).abs() < 0.03).all())
    assert spec.weights.sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("dim", [1, 2, 32, 512])
def test_random_mixtures_keep_their_separation(dim):
    spec = mixture(dim, 200, seed=1)
    square = torch.cdist(spec.means, spec.means).square().sum() / (200 * 199)
    assert square.sqrt().item() == pytest.approx(6.0, rel=0.15)
    with pytest.raises(ValueError, match="dim and components must be at least 1"):
        mixture(0, 3)


def test_frechet_of_moments_is_the_closed_form():
    mean, values = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.25])
    zero, eye = torch.zeros(2), torch.eye(2)
    wanted = 5 + (values.sqrt() - 1).square().sum()
    got = frechet_of_moments(mean, values.diag(), zero, eye)
    assert got == pytest.approx(wanted.item())
    assert frechet_of_moments(zero, 0 * eye, zero, 0 * eye) == 0


def test_frechet_of_samples_approaches_that_of_moments():
    real, fake = gaussian(20_000, d=3), gaussian(20_000, d=3, mean=0.5, std=1.2, seed=1)
    wanted = 3 * (0.25 + 0.04)
    metric = frechet(real, fake)
    assert abs(metric.value - wanted) < 5 * metric.error + 0.01
    assert metric.error < 0.1 * wanted


def test_the_error_of_frechet_is_that_of_a_shift():
    """Where only the mean differs a row adds 2 <m - m_r, x - m>: the error is 2 |m - m_r| / sqrt
    n, and less where rows are fewer than features no more than finite."""
    zero, one = torch.zeros(2), torch.ones(2)
    real, fake = with_moments(500, zero, one, 0), with_moments(400, 3 * one, one, 1)
    found = frechet(real, fake)
    assert found.value == pytest.approx(18)
    assert found.error == pytest.approx(2 * math.sqrt(18) / 20, rel=1e-3)
    wide = gaussian(300, d=512)
    assert 0 < frechet(wide, gaussian(50, d=512, seed=1)).error < 100


def with_moments(n: int, mean: torch.Tensor, std: torch.Tensor, seed: int) -> torch.Tensor:
    """Samples whose own mean and covariance are exactly these."""
    x = gaussian(n, d=len(mean), seed=seed)
    x = x - x.mean(0)
    return mean + std * (x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T)


def test_the_ratio_to_real_samples_is_the_closed_form():
    zero, one = torch.zeros(2), torch.ones(2)
    real = with_moments(300, zero, one, 0)
    held_out = with_moments(200, torch.tensor([0.1, 0.0]), one, 1)
    fake = with_moments(200, torch.tensor([0.5, 0.0]), torch.tensor([0.6, 1.0]), 2)
    found, floor, ratio = frechet_ratio(real, held_out, fake, features="coordinates")
    assert found.value == pytest.approx(0.25 + 0.4**2)  # N(0.5, 0.6^2) against N(0, 1)
    assert floor.value == pytest.approx(0.1**2)
    assert ratio.value == pytest.approx(41.0)
    assert [m.name for m in (found, floor, ratio)] == ["frechet", "frechet_real", "frechet_ratio"]
    assert ratio.error == pytest.approx(41 * math.hypot(found.error / 0.41, floor.error / 0.01))
    both = space_metrics([Coordinates(), Coordinates()], real, held_out, fake)
    assert len(both) == 6 and mean_ratio(both) == pytest.approx(41.0)
    fourfold = dataclasses.replace(ratio, value=ratio.value / 16)
    assert mean_ratio([ratio, fourfold]) == pytest.approx(41 / 4)  # geometric
    below = dataclasses.replace(ratio, value=-1e-3)
    assert math.isnan(mean_ratio([ratio, below])) and math.isnan(mean_ratio([]))
    small = [ratio.value for ratio in frechet_ratio(1e-5 * real, 1e-5 * held_out, 1e-5 * fake)]
    assert small == pytest.approx([1e-10 * 0.41, 1e-10 * 0.01, 41.0])
    with pytest.raises(ValueError, match="held_out has the moments of real"):
        frechet_ratio(real, real, real)


class Coordinates:
    name = "coordinates"

    def __call__(self, x):
        return x


def test_real_samples_have_a_ratio_of_one_and_memorised_ones_less():
    half = gaussian(2000, d=8)
    other, fresh = gaussian(2000, d=8, seed=1), gaussian(500, d=8, seed=2)
    _, _, true = frechet_ratio(half, other, fresh)
    assert abs(true.value - 1) < 4 * true.error
    memorised = with_moments(2000, half.mean(0), torch.ones(8), 3)
    memorised = (memorised - half.mean(0)) @ torch.linalg.cholesky(half.T.cov()).T + half.mean(0)
    assert frechet_ratio(half, other, memorised)[2].value < 0.01


def test_principal_components_are_those_of_the_pixels():
    """Four independent pixels: the components are pixels, each of unit variance."""
    std = torch.tensor([4.0, 3.0, 2.0, 1.0]).view(1, 1, 2, 2)
    x = std * gaussian(4000, d=4).view(-1, 1, 2, 2)
    space = PrincipalComponents(x, count=3)
    found = space(x)
    assert space.name.startswith("3 principal components of 1x2x2")
    torch.testing.assert_close(found.T.cov(), torch.eye(3).double(), rtol=0, atol=1e-4)
    # The least of the four is left out, the largest is the last column.
    shared = torch.corrcoef(torch.cat([found.T, x.flatten(1).T.double()]))[:3, 3:].abs()
    assert shared.argmax(1).tolist() == [2, 1, 0] and shared.amax(1).min() > 0.99
    flat = PrincipalComponents(torch.cat([x, torch.zeros_like(x)], dim=3))
    assert flat(torch.cat([x, x], dim=3)).shape == (4000, 4)  # constant pixels are no component
    large = PrincipalComponents(gaussian(50, d=3 * 40 * 20).view(50, 3, 40, 20), count=8)
    assert large(torch.zeros(2, 3, 40, 20)).shape == (2, 8)
    with pytest.raises(ValueError, match="images must have shape"):
        space(torch.zeros(2, 1, 3, 3))


def test_two_spaces_tell_held_out_photographs_from_noise():
    """What real photographs that were never seen cost, and what noise costs beside them."""
    from vardiu.data.photos import photos

    real, held_out = photos(8), photos(8, held_out=True)
    real, held_out = real[:: len(real) // 600], held_out[:: len(held_out) // 300]
    noise = torch.randn(len(held_out), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    spaces = RandomFeatures((3, 8, 8), real, width=8), PrincipalComponents(real)
    ratios = space_metrics(spaces, real, held_out, noise.to(real).clamp(-1, 1))[2::3]
    assert [m.name for m in ratios] == ["frechet_ratio"] * 2
    assert all(m.value > 3 for m in ratios), ratios


def test_kernel_distance_is_zero_on_average_for_equal_ones():
    metric = kernel_distance(gaussian(4000, d=4), gaussian(4000, d=4, seed=1))
    assert abs(metric.value) < 5 * metric.error
    far = kernel_distance(gaussian(4000, d=4), gaussian(4000, d=4, mean=1.0, seed=1))
    # E(<x, y> / d + 1)^3 for x, y ~ N(m, I): 1 + 3 m^2 + 3 E s^2 + E s^3 with s = <x, y> / d.
    s = (gaussian(200_000, d=4, mean=1.0, seed=2) * gaussian(200_000, d=4, mean=1.0, seed=3)).mean(
        1
    )
    z = (gaussian(200_000, d=4, seed=4) * gaussian(200_000, d=4, seed=5)).mean(1)
    c = (gaussian(200_000, d=4, mean=1.0, seed=6) * gaussian(200_000, d=4, seed=7)).mean(1)
    wanted = ((s + 1) ** 3).mean() + ((z + 1) ** 3).mean() - 2 * ((c + 1) ** 3).mean()
    assert abs(far.value - wanted.item()) < 5 * far.error


def test_precision_and_recall_tell_collapse_from_noise():
    real = gaussian(1500, d=2)
    collapsed, wide = gaussian(1500, std=0.1, seed=1), gaussian(1500, std=6.0, seed=1)
    precision, recall = precision_recall(real, collapsed)
    assert precision.value > 0.95 and recall.value < 0.1
    precision, recall = precision_recall(real, wide)
    assert precision.value < 0.3 and recall.value > 0.9
    density, coverage = density_coverage(real, gaussian(1500, seed=2))
    assert abs(density.value - 1) < 0.15 and coverage.value > 0.9
    _, coverage = density_coverage(real, collapsed)
    assert coverage.value < 0.15
    with pytest.raises(ValueError, match=r"k must be within \[1, 1499\]"):
        precision_recall(real, collapsed, k=1500)


def test_transport_of_gaussians():
    x, y = gaussian(1500, std=2.0), gaussian(1500, mean=1.0, seed=1)
    wanted = math.sqrt(2 * (1 + 1))
    exact = wasserstein2_exact(x, y)
    assert exact.value == pytest.approx(wanted, rel=0.1)  # the spread of 1,500 samples
    sliced = wasserstein2_sliced(x, y, generator=torch.Generator().manual_seed(0))
    # Along u the shift is <u, 1>, of mean square one, and the widths differ by one.
    assert sliced.value == pytest.approx(math.sqrt(1 + 1), rel=0.1)
    assert wasserstein2_sliced(x, x).value == 0
    uneven = wasserstein2_sliced(x, y[:1000], generator=torch.Generator().manual_seed(0))
    assert uneven.value == pytest.approx(sliced.value, rel=0.1)


@pytest.mark.parametrize("n, m", [(100, 37), (30, 60), (7, 8), (50, 50)])
def test_transport_of_unequal_sets_is_exact_in_one_dimension(n, m):
    x, y = gaussian(n, d=1), gaussian(m, d=1, mean=0.5, seed=1)
    sliced = wasserstein2_sliced(x, y, projections=3)
    assert sliced.value == pytest.approx(wasserstein2_exact(x, y).value, rel=1e-9)


def test_transport_of_unequal_sets_sees_what_has_little_mass():
    """Three of ten thousand at a distance of a thousand; a repeated sample is the sample."""
    x = torch.zeros(10_000, 1)
    x[:3] = 1000
    for m in (10_000, 9_999):
        found = wasserstein2_sliced(x, torch.zeros(m, 1)).value
        assert found == pytest.approx(1000 * math.sqrt(3e-4), rel=1e-6)
    once = torch.tensor([[0.0], [1.0]])
    assert wasserstein2_sliced(once, once.repeat(2, 1)).value == pytest.approx(0, abs=1e-9)


def test_the_error_of_sliced_transport_is_that_of_a_shift():
    """By c each map is s + <u, c>: a row x adds -2 <u, c> <u, x> and a constant, one of y the
    opposite; the rows are skewed, and those of y are in another order."""
    x, c = torch.randn(400, 3).exp(), torch.tensor([0.5, -1.0, 2.0])
    y = (x + c)[torch.randperm(400)]
    found = wasserstein2_sliced(x, y, generator=torch.Generator().manual_seed(0))
    u = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    u = u / u.norm(dim=0)
    squares = (c @ u).square()
    variance = squares.var() / 256 + 2 * (2 * x @ u @ (c @ u) / 256).var() / 400
    assert found.value == pytest.approx(squares.mean().sqrt().item(), rel=1e-9)
    assert found.error == pytest.approx(variance.sqrt().item() / (2 * found.value), rel=1e-9)


def test_classes():
    predicted, asked = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2])
    assert class_masses(predicted, 4).tolist() == [0.5, 0.25, 0.25, 0.0]
    assert class_agreement(predicted, asked).value == 0.75
    assert classes_covered(predicted, 4).value == 3
    with pytest.raises(ValueError, match="must have the same shape"):
        class_agreement(predicted, asked[:2])


@pytest.mark.slow
def test_the_classifier_on_board_is_what_its_program_trains(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    program = importlib.import_module("digits_classifier")
    x, _ = digits()
    for seed in program.SEEDS:
        ours, theirs = digits_classifier(seed), program.trained(seed).float()
        # Draws of noise differ in their last digits between processors.
        assert (ours.features(x) - theirs.features(x)).norm() < 0.02 * ours.features(x).norm()
        assert abs(ours.accuracy - theirs.accuracy) < 0.005


def test_the_classifier_knows_the_digits_and_is_the_same_everywhere(monkeypatch):
    torch.set_default_dtype(torch.float32)
    x, label = digits()
    classifier = digits_classifier()
    assert classifier.accuracy > 0.97
    assert x.min() >= -1 and x.max() <= 1 and len(x) == 1797
    assert classifier.features(x).var(0).mean().item() == pytest.approx(1.0, rel=1e-3)
    assert (classifier.predict(x) == label).double().mean() > 0.98
    # Distances that were measured on another machine are of the same features.
    assert classifier.name == "digits classifier c35dc23f2657 (accuracy 0.989)"
    assert digits_classifier(1).name != classifier.name
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        before = torch.get_rng_state()
        again = digits_classifier.__wrapped__()
        assert torch.equal(torch.get_rng_state(), before)
        assert again.name == classifier.name and again.scale.dtype == torch.float32
    monkeypatch.setattr("vardiu.metrics.features.SHA256", "0" * 64)
    with pytest.raises(ConfigError, match="digits_classifier.safetensors .* was changed"):
        digits_classifier.__wrapped__()
    half = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    a, b = (classifier.features(x[rows]) for rows in half.chunk(2))
    precision, recall = precision_recall(a, b)
    assert precision.value > 0.85 and recall.value > 0.85
    with pytest.raises(ValueError, match=r"images must have shape \(N, 1, 8, 8\)"):
        classifier.predict(x[:, 0])


@pytest.mark.parametrize("function", [mmd2_biased, frechet, precision_recall, wasserstein2_sliced])
def test_bad_samples_are_named(function):
    good = gaussian(50)
    bad = good.clone()
    bad[3, 1] = math.nan
    with pytest.raises(ValueError, match="holds 1 value that is not finite"):
        function(bad, good)
    with pytest.raises(ValueError, match=r"must have shape \(N, d\)"):
        function(good[:, 0], good)
    with pytest.raises(ValueError, match="must have the same dimension"):
        function(good, gaussian(50, d=3))


def test_a_filter_that_few_images_move_does_not_rule_a_distance():
    """Of a hundred smooth images: a deviation of one that moves, or of none, is no scale."""
    from vardiu.data.photos import photos

    order = torch.randperm(len(photos(16)), generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.avg_pool2d(photos(16)[order[:300]], 7, stride=1, padding=3)
    real, other, more = x.chunk(3)
    features = RandomFeatures((3, 16, 16), real)
    raw = features(real) * features.std + features.mean
    seldom = (raw > raw.amin(0)).sum(0) < 10
    assert seldom.sum() > 20 and raw.std(0)[seldom].min() < 1e-3
    assert torch.allclose(features.std[~seldom], raw.std(0)[~seldom], rtol=1e-4)
    assert features.std[seldom].min() > 0.05
    values = [frechet(features(real), features(y)).value for y in (other, more)]
    assert max(values) < 1.5 * min(values) and max(values) < 512


def test_random_features_tell_what_an_eye_tells():
    """Blur, noise and lost contrast are each worse than another sample of the same patches."""
    from vardiu.data.photos import photos

    torch.set_default_dtype(torch.float32)
    x = photos(16)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    real, other = x[order[:2000]], x[order[2000:4000]]
    features = RandomFeatures((3, 16, 16), real)
    assert features.name.startswith("512 random filters of 3x16x16")
    again = RandomFeatures((3, 16, 16), real)
    assert torch.equal(features(other), again(other))
    scaled = features(real)
    assert torch.allclose(scaled.mean(0), torch.zeros(512).to(scaled), atol=1e-4)
    assert torch.allclose(scaled.std(0), torch.ones(512).to(scaled), atol=1e-4)
    kernel = torch.tensor([0.25, 0.5, 0.25])
    kernel = (kernel[:, None] * kernel).expand(3, 1, 3, 3).to(other)
    padded = torch.nn.functional.pad(other, (1, 1, 1, 1), mode="replicate")
    noise = torch.randn(other.shape, generator=torch.Generator().manual_seed(1)).to(other)
    worse = {
        "blur": torch.nn.functional.conv2d(padded, kernel, groups=3),
        "noise": other + 0.05 * noise,
        "contrast": 0.9 * other,
    }
    floor = frechet(scaled, features(other)).value
    for name, images in worse.items():
        assert frechet(scaled, features(images)).value > 3 * floor, name
    with pytest.raises(ValueError, match="images must have shape"):
        features(torch.zeros(2, 1, 8, 8))


def test_digits_are_measured_in_two_spaces():
    from vardiu.problems.digits import DigitsProblem
    from vardiu.settings.fields import DigitsSettings

    torch.set_default_dtype(torch.float32)
    scores = DigitsProblem(DigitsSettings(), untaught=True).scores
    x, _ = digits()

    def real(n, random):
        return x[torch.randperm(len(x), generator=random)[:n]], {}

    def noisy(n, random):
        images, _ = real(n, random)
        return images + 0.5 * torch.randn(images.shape, generator=random), {}

    good, bad = (scores.measure_spaces(source, 400, seed=3) for source in (real, noisy))
    assert [m.name for m in good[:3]] == ["frechet", "frechet_real", "frechet_ratio"]
    assert good[0].features.startswith("digits classifier") and good[0].n == 400
    assert good[3].features.startswith("256 random filters")
    for clear, noised in zip(good[2::3], bad[2::3], strict=True):
        assert clear.name == "frechet_ratio" and noised.value > 2 * clear.value, (clear, noised)
