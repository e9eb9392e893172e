"""Every posterior is a normalised density whose gradient reaches the noisy sample."""

from __future__ import annotations

import math

import pytest
import torch
from problems import Affine, ExactPosterior, LinearGaussian
from torch import nn

from vardiu.nn import MLP
from vardiu.posteriors.encoder import Encoder, RawScale, UnitScale
from vardiu.posteriors.families import (
    CholeskyPosterior,
    FlowPosterior,
    GaussianPosterior,
    MixturePosterior,
    PriorPosterior,
)
from vardiu.posteriors.framed import FramedPosterior, PairFrame
from vardiu.students.framed import Frame, components, gathered
from vardiu.students.pushforward import Pushforward

FAMILIES = {
    "gaussian": GaussianPosterior,
    "cholesky": CholeskyPosterior,
    "mixture": lambda e, k: MixturePosterior(e, k, components=3),
    "flow": lambda e, k: FlowPosterior(e, k, transforms=2, hidden=(16,)),
    "prior": lambda e, k: PriorPosterior(k),
}


def encoder(d=3, scale=None):
    network = MLP((d,), (16,), width=16, depth=2, noisy=True, final=False)
    return Encoder(network, 16, scale or UnitScale(1.5))


def loud(module):
    """Weights far from their start, so that nothing cancels by initialisation."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_density_integrates_to_one_over_a_grid(name, k):
    posterior = loud(FAMILIES[name](encoder(), k))
    axis = torch.linspace(-12, 12, 1201 if k == 1 else 241)
    grid = torch.cartesian_prod(*[axis] * k).reshape(-1, k)
    cell = (axis[1] - axis[0]) ** k
    for sigma in (0.5, 2.0, 20.0):
        for _ in range(3):
            x_t = 2 * torch.randn(1, 3)
            r = posterior(x_t.expand(len(grid), 3), torch.full((len(grid),), sigma))
            mass = r.log_prob(grid).exp().sum() * cell
            # The grid's own error, largest where a density is narrower than a few cells.
            assert mass.item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "prior"])
def test_gradients_reach_the_noisy_sample_and_the_latent(name):
    posterior = loud(FAMILIES[name](encoder(), 2))
    x_t, z = torch.randn(4, 3, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    sigma = torch.ones(4)
    posterior(x_t, sigma).log_prob(z).sum().backward()
    for value in (x_t, z):
        rows = value.grad.norm(dim=1)
        assert bool((rows > 1e-6).all())
    eps = 1e-6
    with torch.no_grad():
        step = torch.randn_like(x_t)
        up, down = (posterior(x_t + s * eps * step, sigma).log_prob(z).sum() for s in (1, -1))
    assert ((up - down) / (2 * eps)).item() == pytest.approx(
        (x_t.grad * step).sum().item(), rel=1e-4
    )


@pytest.mark.parametrize("name", ["gaussian", "cholesky", "flow"])
def test_reparametrised_samples_have_the_stated_density(name):
    """E[log r(z)] over samples of r is minus its entropy; compare with a grid's integral."""
    posterior = loud(FAMILIES[name](encoder(), 1))
    x_t, sigma = torch.randn(1, 3), torch.ones(1)
    r = posterior(x_t, sigma)
    assert r.has_rsample
    values = r.log_prob(r.rsample((20_000,)))[:, 0]
    axis = torch.linspace(-15, 15, 6001)[:, None]
    log_r = posterior(x_t.expand(6001, 3), sigma.expand(6001)).log_prob(axis)
    wanted = (log_r.exp() * log_r).sum() * 0.005
    error = values.std() / math.sqrt(20_000)
    assert abs(values.mean() - wanted) < 5 * error + 1e-3


def test_untrained_gaussian_has_the_linear_students_spread():
    posterior = GaussianPosterior(encoder(), 2)
    nn.init.zeros_(posterior.head.weight)
    nn.init.zeros_(posterior.head.bias)
    sigma = torch.tensor([0.1, 1.0, 100.0])
    _, std = posterior.moments(torch.randn(3, 3), sigma)
    wanted = sigma / (sigma.square() + 1.5**2).sqrt()
    torch.testing.assert_close(std, wanted[:, None].expand(3, 2))


def test_cholesky_holds_the_exact_posterior_of_an_affine_student():
    """Fitted on draws of the linear-Gaussian problem it reaches the exact log-likelihood."""
    problem = LinearGaussian(3, 2)
    sigma, n = 0.8, 4096
    posterior = CholeskyPosterior(Encoder(_Linear(3), 3, RawScale()), 2)
    z = torch.randn(n, 2)
    x_t = (z @ problem.matrix.T + problem.shift + sigma * torch.randn(n, 3)).detach()
    level = torch.full((n,), sigma)
    optimizer = torch.optim.LBFGS(
        posterior.parameters(), max_iter=300, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = -posterior(x_t, level).log_prob(z).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    from problems import ExactPosterior

    exact = ExactPosterior(problem.generator)(x_t, level).log_prob(z).mean()
    fitted = posterior(x_t, level).log_prob(z).mean()
    # Maximum likelihood on 4,096 draws gains its number of parameters over 2n: 14 / 8,192.
    assert exact - 1e-4 < fitted < exact + 0.01


class _Linear(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    def forward(self, x, c_noise):
        return self.linear(x)


def frame_of(clusters=3, k=2, d=4, classes=2):
    g = torch.Generator().manual_seed(0)
    n = 600
    label = torch.arange(n) % classes
    centre = torch.randn(classes, clusters, d, generator=g) * 3
    member = torch.randint(clusters, (n,), generator=g)
    root = torch.randn(d, d, generator=g) * 0.5
    x = centre[label, member] + torch.randn(n, d, generator=g) @ root
    return Frame(classes, clusters, d, k).fit(x, label)


def test_frame_posterior_is_bayes_rule():
    """Against p(z) p(x_t | z) / p(x_t), with the evidence integrated on a grid of z."""
    frame = frame_of(clusters=2, k=1)
    sigma, label = torch.tensor([0.7]), torch.tensor([1])
    network = MLP((4,), (8,), width=8, depth=1, noisy=True, classes=2, final=False)
    posterior = FramedPosterior(Encoder(network, 8, UnitScale(2.0)), frame)
    u = torch.linspace(-6, 6, 601)
    grid = torch.cartesian_prod(u, u)
    n = len(grid)
    labels = label.expand(n)
    x_t = frame.decode(torch.tensor([[0.3, -0.4]]), label) + 0.5
    cluster = frame.cluster(grid[:, 1], labels)
    variance = sigma**2 + frame.residuals[labels * 2 + cluster]
    square = (x_t - frame.decode(grid, labels)).square().sum(1)
    joint = -0.5 * square / variance - 2 * variance.log() - 0.5 * grid.square().sum(1)
    cell = (u[1] - u[0]) ** 2
    wanted = joint - (joint.logsumexp(0) + cell.log())
    got = posterior(x_t.expand(n, 4), sigma.expand(n), label=labels).log_prob(grid)
    inside = wanted > wanted.max() - 12
    assert (got - wanted)[inside].abs().max() < 0.02  # one cell beside the edge of an interval


class Linear(torch.nn.Module):
    """A student that is linear in each cluster, and no part of it the frame's own map."""

    def __init__(self, frame):
        super().__init__()
        g = torch.Generator().manual_seed(2)
        n, (d, k) = frame.weights.numel(), frame.bases.shape[1:]
        self.frame, self.at = frame, 3 * torch.randn(n, d, generator=g)
        self.matrix = torch.randn(n, d, k, generator=g)

    def forward(self, z, label):
        n = label * self.frame.clusters + self.frame.cluster(z[:, -1], label)
        return self.at[n] + torch.einsum("bdk,bk->bd", self.matrix[n], z[:, :-1])


@pytest.mark.parametrize("k", [1, 2])
def test_a_model_of_pairs_is_exact_for_a_student_that_is_linear_in_each_cluster(k):
    frame = frame_of(clusters=2, k=k, d=4)
    student = Linear(frame)
    z, label = torch.randn(400, k + 1), torch.arange(400) % 2
    model = PairFrame.of_pairs(frame, z, student(z, label), label)
    assert model.residuals.max() < 1e-20
    network = MLP((4,), (8,), width=8, depth=1, noisy=True, classes=2, final=False)
    posterior = FramedPosterior(Encoder(network, 8, UnitScale(2.0)), model)
    sigma = torch.full((400,), 0.9)
    x_t = student(z, label) + 0.9 * torch.randn(400, 4)
    got = posterior(x_t, sigma, label=label).log_prob(z)
    # By hand: the law of (cluster, z, x_t) is Gaussian given the cluster.
    logs, inner = [], []
    for c in range(2):
        n = label * 2 + c
        spread = student.matrix[n] @ student.matrix[n].mT + 0.81 * torch.eye(4)
        law = torch.distributions.MultivariateNormal(student.at[n], spread)
        logs.append(frame.weights[label, c].log() + law.log_prob(x_t))
        precision = torch.eye(k) + student.matrix[n].mT @ student.matrix[n] / 0.81
        pulled = torch.einsum("bdk,bd->bk", student.matrix[n], x_t - student.at[n]) / 0.81
        mean = torch.linalg.solve(precision, pulled)
        of_z = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
        inner.append(of_z.log_prob(z[:, :-1]))
    cluster = frame.cluster(z[:, -1], label)[:, None]
    share = torch.stack(logs, 1).log_softmax(1) - frame.weights[label].log()
    wanted = (share + torch.stack(inner, 1)).gather(1, cluster).squeeze(1)
    wanted = wanted + torch.distributions.Normal(0.0, 1.0).log_prob(z[:, -1])
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    # That of the frame has slack here.
    plain = FramedPosterior(Encoder(network, 8, UnitScale(2.0)), frame)
    assert (got - plain(x_t, sigma, label=label).log_prob(z)).mean() > 1
    # Its samples have the density that it states: the mean of a ratio of two densities is one.
    with torch.no_grad():
        r = posterior(x_t.repeat(50, 1), sigma.repeat(50), label=label.repeat(50))
        wide = posterior(x_t.repeat(50, 1), 1.1 * sigma.repeat(50), label=label.repeat(50))
        drawn = wide.sample()
        ratio = (r.log_prob(drawn) - wide.log_prob(drawn)).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / len(ratio) ** 0.5


def test_a_cluster_with_too_few_pairs_is_named():
    frame = frame_of(clusters=2, k=2)
    z, label = torch.randn(12, 3), torch.arange(12) % 2
    with pytest.raises(ValueError, match="cluster 0 of the frame has . pairs for 3 coefficients"):
        PairFrame.of_pairs(frame, z, torch.randn(12, 4), label)


def test_clusters_of_a_frame_have_their_densities():
    """Of clusters whose residual variances differ by a factor of a hundred."""
    frame = frame_of(clusters=3, k=1)
    frame.residuals[:3] = torch.tensor([0.05, 0.5, 5.0])
    n, label, sigma = 8, torch.zeros(8, dtype=torch.long), torch.linspace(0.2, 2.0, 8)
    x_t = frame.means[0] + 2 * torch.randn(n, 4)
    got = frame.log_clusters(x_t, sigma, label).log_softmax(1)
    wanted = torch.empty(n, 3)
    for c in range(3):
        basis, eye = frame.bases[c] * frame.variances[c].sqrt(), torch.eye(4)
        spread = [basis @ basis.T + (s**2 + frame.residuals[c]) * eye for s in sigma]
        law = torch.distributions.MultivariateNormal(frame.means[c], torch.stack(spread))
        wanted[:, c] = frame.weights[0, c].log() + law.log_prob(x_t)
    torch.testing.assert_close(got, wanted.log_softmax(1))


def test_framed_posterior_integrates_to_one_when_its_networks_speak():
    frame = frame_of(clusters=3, k=1)
    network = MLP((4,), (8,), width=8, depth=1, noisy=True, classes=2, final=False)
    posterior = loud(FramedPosterior(Encoder(network, 8, UnitScale(2.0)), frame))
    u = torch.linspace(-9, 9, 601)
    grid = torch.cartesian_prod(u, u)
    label = torch.zeros(len(grid), dtype=torch.long)
    x_t = (frame.decode(torch.tensor([[0.5, 0.2]]), label[:1]) + 0.3).expand(len(grid), 4)
    r = posterior(x_t, torch.ones(len(grid)), label=label)
    assert (r.log_prob(grid).exp().sum() * (u[1] - u[0]) ** 2).item() == pytest.approx(1, abs=0.02)


def test_frame_chooses_clusters_with_their_weights():
    frame = frame_of()
    n = 100_000
    label = torch.zeros(n, dtype=torch.long)
    share = frame.cluster(torch.randn(n), label).bincount(minlength=3) / n
    error = (frame.weights[0] * (1 - frame.weights[0]) / n).sqrt()
    assert bool(((share - frame.weights[0]).abs() < 5 * error).all())
    with pytest.raises(ValueError, match="class 0 .* has 30 samples for 40 clusters"):
        Frame(1, 40, 4, 3).fit(torch.randn(30, 4))
    with pytest.raises(ValueError, match="class 1 .* has 3 samples .* of 3 components"):
        Frame(2, 1, 4, 3).fit(torch.randn(33, 4), torch.arange(33).clamp_min(29) - 29 > 0)
    with pytest.raises(ValueError, match=r"k must be within \[1, 3\]"):
        Frame(1, 2, 4, 4)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="components must be at least 1, got 0"):
        MixturePosterior(encoder(), 2, components=0)
    with pytest.raises(ValueError, match="sigma_data and unit must be positive"):
        UnitScale(0.0)


def test_frame_is_the_maximum_of_its_likelihood():
    """Tipping and Bishop's: the leading eigenvalues of the data, and the mean of the others."""
    x = torch.randn(500, 4) @ torch.diag(torch.tensor([3.0, 2.0, 0.7, 0.4])) + 5
    frame = Frame(1, 1, 4, 2).fit(x, torch.zeros(500, dtype=torch.long))
    values, vectors = torch.linalg.eigh(x.T.cov())
    basis = frame.bases[0]
    covariance = basis @ torch.diag(frame.variances[0]) @ basis.T
    covariance = covariance + frame.residuals[0] * torch.eye(4)
    kept = values.clone()
    kept[:2] = values[:2].mean()
    torch.testing.assert_close(covariance, vectors @ torch.diag(kept) @ vectors.T)
    torch.testing.assert_close(frame.means[0], x.mean(0))


def test_framed_samples_have_the_stated_density():
    """Shares of quadrants of (z, u), against the density's integral over them."""
    frame = frame_of(clusters=3, k=1)
    network = MLP((4,), (8,), width=8, depth=1, noisy=True, classes=2, final=False)
    posterior = loud(FramedPosterior(Encoder(network, 8, UnitScale(2.0)), frame))
    # Quadrants end between points of the grid; it is fine in u, where the density jumps.
    z_axis, u_axis = torch.arange(-8, 8, 0.1) + 0.05, torch.arange(-6, 6, 0.02) + 0.01
    grid = torch.cartesian_prod(z_axis, u_axis)
    label = torch.ones(len(grid), dtype=torch.long)
    middle = frame.means[3:].mean(0, keepdim=True)  # between the clusters: all have a share
    level = 6.0

    def given(n):
        return posterior(middle.expand(n, 4), torch.full((n,), level), label=label[:n])

    mass = given(len(grid)).log_prob(grid).exp() * 0.1 * 0.02
    n = 40_000
    z = given(n).sample()
    for edges in ((0.0, 0.0), (0.5, -0.7)):
        for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            inside, cells = (
                (signs[0] * (v[:, 0] - edges[0]) > 0) & (signs[1] * (v[:, 1] - edges[1]) > 0)
                for v in (z, grid)
            )
            wanted = mass[cells].sum()
            error = (wanted * (1 - wanted) / n).sqrt()
            # And a cell of the grid at each of the two jumps, of a density of at most 0.4.
            assert abs(inside.double().mean() - wanted) < 5 * error + 2 * 0.02 * 0.4


def test_the_encoder_sees_unit_scale_at_every_level():
    """Of data of mean 4 and spread 1.5, noisy samples come with mean zero and variance one."""
    n, mean = 40_000, torch.tensor([4.0, -4.0])
    for level in (0.1, 1.5, 30.0):
        sigma = torch.full((n,), level)
        x_t = mean + 1.5 * torch.randn(n, 2) + level * torch.randn(n, 2)
        seen, feature = UnitScale(1.5, mean).inputs(x_t, sigma)
        assert bool((seen.mean(0).abs() < 5 / n**0.5).all())
        assert bool(((seen.var(0) - 1).abs() < 5 * (2 / n) ** 0.5).all())
        torch.testing.assert_close(feature, sigma.log() / 4)


def test_a_residual_posterior_starts_exact():
    """Of the student m + s z, whose posterior has a closed form in any dimension."""
    d, std = 5, 1.7
    mean = torch.randn(d)
    network = MLP((d,), (8,), width=8, depth=1, noisy=True, final=False)
    posterior = GaussianPosterior(Encoder(network, 8, UnitScale(std, mean)), d, residual=True)
    exact = ExactPosterior(Affine(std * torch.eye(d), mean))
    x_t, sigma = 3 * torch.randn(7, d), torch.rand(7) + 0.2
    got, wanted = posterior(x_t, sigma), exact(x_t, sigma)
    torch.testing.assert_close(got.mean, wanted.mean)
    variance = wanted.covariance_matrix.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(got.variance, variance)


def test_a_residual_posterior_needs_a_scale_that_knows_the_linear_student():
    network = MLP((2,), (8,), width=8, depth=1, noisy=True, final=False)
    with pytest.raises(ValueError, match="needs an encoder with UnitScale"):
        GaussianPosterior(Encoder(network, 8, RawScale()), 2, residual=True)


def test_a_residual_student_starts_as_the_data_and_needs_their_shape():
    network = MLP((2,), (2,), width=8, depth=1)
    nn.init.zeros_(network.last.weight)
    nn.init.zeros_(network.last.bias)
    made = {"shape": (2,), "mean": torch.tensor([1.0, -1.0]), "std": 3.0, "residual": True}
    student, z = Pushforward(network, latent_shape=(2,), **made), torch.randn(4, 2)
    torch.testing.assert_close(student(z), torch.tensor([1.0, -1.0]) + 3 * z)
    with pytest.raises(ValueError, match="needs a latent of the samples' shape"):
        Pushforward(network, latent_shape=(3,), **made)


def test_components_are_those_of_the_covariance_however_few_the_rows():
    rows = torch.randn(12, 30) @ torch.diag(torch.linspace(3, 0.1, 30))
    values, vectors = torch.linalg.eigh(rows.T.cov())
    found, bases = components(rows, 4)  # by the rows' inner products: fewer rows than dimensions
    torch.testing.assert_close(found, values.flip(0)[:4])
    torch.testing.assert_close((bases * vectors.flip(1)[:, :4]).sum(0).abs(), torch.ones(4))
    many = torch.randn(90, 30)
    torch.testing.assert_close(components(many, 30)[0].sum(), many.var(0).sum())


def test_clusters_too_small_for_their_components_join_others():
    """Two blobs and two far points, in six clusters: what is left is the mixture of two."""
    torch.manual_seed(0)
    blobs = torch.cat([torch.randn(60, 5), 20 + torch.randn(40, 5)])
    x = torch.cat([blobs, torch.tensor([[60.0] * 5, [-60.0] * 5])])
    frame = Frame(1, 6, 5, 3).fit(x)
    torch.testing.assert_close(frame.weights.sum(), torch.ones(()))
    label = torch.zeros(len(x), dtype=torch.long)
    sigma = torch.full((len(x),), 0.5)
    assert bool(frame.log_clusters(x, sigma, label).isfinite().all())
    # All six are shown to hold enough rows, each row in one of them.
    groups = gathered(x, torch.tensor([0] * 60 + [1] * 40 + [2, 3]), 4)
    assert sorted(len(group) for group in groups) == [41, 61]
    assert groups[0].max() < 20 and groups[1].min() > 0  # each went to the nearer one


def test_a_cluster_that_stands_more_than_once_is_the_same_mixture():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(60, 5), torch.tensor([[60.0] * 5, [-60.0] * 5])])
    thrice, once = Frame(1, 3, 5, 3).fit(x), Frame(1, 1, 5, 3).fit(x)
    torch.testing.assert_close(thrice.weights, torch.full((1, 3), 1 / 3))
    label, sigma = torch.zeros(len(x), dtype=torch.long), torch.full((len(x),), 0.5)
    density = [f.log_clusters(x, sigma, label).logsumexp(1) for f in (thrice, once)]
    torch.testing.assert_close(*density)


def test_a_frame_of_one_class_is_for_all():
    torch.manual_seed(0)
    x, label = torch.randn(40, 30), torch.arange(5)
    frame = Frame(1, 2, 30, 3).fit(x, torch.arange(40) % 5)
    z = torch.randn(5, 4)
    assert torch.equal(frame.labels(z, label), torch.zeros(5, dtype=torch.long))
    # What the frame holds of the data's variance is all of it.
    total = frame.variances.sum(1) + frame.residuals * 30
    member = torch.stack([(x - m).square().sum(1) for m in frame.means], 1).argmin(1)
    own = torch.stack([x[member == c].var(0).sum() for c in range(2)])
    torch.testing.assert_close(total, own, rtol=1e-6, atol=1e-6)
