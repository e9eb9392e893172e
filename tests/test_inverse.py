"""Inverse problems: projections, operators, and each solver's step against its closed form."""

from __future__ import annotations

import math

import pytest
import torch

from vardiu.data.measurements import GaussianNoise, PoissonNoise, check_operator
from vardiu.data.operators import (
    HDR,
    Blur,
    Downsampling,
    FunctionOperator,
    Inpainting,
    NonlinearBlur,
    PhaseRetrieval,
    box_mask,
    dense_matrix,
    gaussian_kernel,
    line_kernel,
    random_mask,
)
from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.levels import linear_beta_grid
from vardiu.errors import ConfigError, Diverged
from vardiu.functional.inverse import (
    Mixture,
    gaussian_posterior,
    gaussian_product,
    mixture_posterior,
    resample_variance,
    row_norm,
)
from vardiu.functional.projection import (
    energy_rank,
    leading_subspace,
    projected,
    random_subspace,
    shared_rank,
)
from vardiu.metrics.fidelity import mean_of, psnr, ssim
from vardiu.metrics.transport import wasserstein2_sliced
from vardiu.samplers.inverse import (
    DAPS,
    DPS,
    PSLD,
    SOLVERS,
    Codec,
    DiffStateGrad,
    GaussianInner,
    ReSample,
    RowNoise,
    Unprojected,
)

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def rows(n, *shape, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def gaussian(shape=SHAPE, seed=0):
    d = math.prod(shape)
    root = rows(d, d, seed=seed) / d**0.5
    return GaussianDenoiser(
        0.1 * rows(1, *shape, seed=1)[0],
        root @ root.T + 0.05 * torch.eye(d),
        sigma_max=1000.0,
    )


# ---------------------------------------------------------------- the projection


def test_the_rank_is_the_least_that_has_the_share_of_the_energy():
    values = torch.tensor([3.0, 2.0, 1.0])
    assert [int(energy_rank(values, tau)) for tau in (0.5, 0.9, 0.95, 1.0)] == [1, 2, 3, 3]
    assert int(energy_rank(torch.zeros(3), 0.9)) == 1
    z = torch.diag(values)[None, None]
    g = torch.arange(9.0).reshape(1, 1, 3, 3)
    kept = projected(g, leading_subspace(z, 0.9))[0, 0]
    expected = torch.zeros(3, 3)
    expected[:2, :2] = g[0, 0, :2, :2]
    torch.testing.assert_close(kept, expected)


def test_channels_share_the_whole_part_of_their_mean_rank():
    values = torch.tensor([[[3.0, 2, 1], [1, 0, 0]], [[1, 1, 1], [1, 1, 1]]])
    assert shared_rank(values, 0.95).tolist() == [2, 3]  # (3 + 1) / 2 and (3 + 3) / 2
    assert shared_rank(values[:, :1], 0.95).tolist() == [3, 3]  # grey is not divided by three
    # The released rule sums over the spectra one after the other: never below (C - 1) q / C.
    many = rows(1, 3, 16, 16).abs().sort(-1, descending=True).values[:, :, 0]
    assert shared_rank(many, 0.99, "concat").item() >= 2 * 16 // 3
    with pytest.raises(ValueError, match="rank_rule must be one of"):
        shared_rank(values, 0.9, "each")
    with pytest.raises(ValueError, match="tau must be above 0"):
        shared_rank(values, float("nan"))


@pytest.mark.parametrize("mode", ["core", "tangent"])
def test_the_projection_is_linear_idempotent_self_adjoint_and_lowers_no_descent(mode):
    z, g, h = rows(3, 2, 6, 9), rows(3, 2, 6, 9, seed=1), rows(3, 2, 6, 9, seed=2)
    space = leading_subspace(z, 0.8)
    p = projected(g, space, mode)
    torch.testing.assert_close(projected(p, space, mode), p)
    torch.testing.assert_close((p * h).sum(), (g * projected(h, space, mode)).sum())
    torch.testing.assert_close((g * p).sum((1, 2, 3)), row_norm(p) ** 2)
    assert bool((row_norm(p) <= row_norm(g)).all())
    torch.testing.assert_close(
        projected(2 * g - h, space, mode), 2 * p - projected(h, space, mode)
    )
    one_by_one = [
        projected(g[i : i + 1], leading_subspace(z[i : i + 1], 0.8), mode) for i in range(3)
    ]
    torch.testing.assert_close(torch.cat(one_by_one), p)
    # The tangent space holds the state itself where the rank is whole.
    low = rows(1, 1, 6, 1) @ rows(1, 1, 1, 9)
    torch.testing.assert_close(projected(low, leading_subspace(low, 0.99), mode), low)


def test_all_of_the_energy_is_the_identity_of_square_states_alone():
    z, g = rows(2, 1, 8, 8), rows(2, 1, 8, 8, seed=1)
    torch.testing.assert_close(projected(g, leading_subspace(z, 1.0)), g)
    z, g = rows(400, 1, 8, 16), rows(400, 1, 8, 16, seed=1)
    kept = projected(g, leading_subspace(z, 1.0)).square().mean() / g.square().mean()
    assert abs(float(kept) - 0.5) < 0.02


def test_the_share_of_a_white_gradient_that_passes():
    """(r/n)^2 of the core and 2 r/n - (r/n)^2 of the tangent space: .3906 and .8594 at 10 of 16."""
    values = torch.cat([torch.ones(10), 1e-9 * torch.ones(6)])
    u, v = (torch.linalg.qr(rows(1, 1, 16, 16, seed=s)).Q for s in (3, 4))
    space = leading_subspace(u @ torch.diag(values) @ v.mT, 0.999)
    assert space.rank.item() == 10
    g = rows(500, 1, 16, 16)
    for mode, share in (("core", 0.3906), ("tangent", 0.8594)):
        wide = space._replace(
            left=space.left.expand(500, -1, -1, -1), right=space.right.expand(500, -1, -1, -1)
        )
        kept = projected(g, wide, mode).square().sum() / g.square().sum()
        assert abs(float(kept) - share) < 0.01


def test_the_rank_of_noise_is_that_of_the_quarter_circle():
    z = rows(8, 1, 64, 64)
    for tau, share in ((0.99, 0.777), (0.95, 0.615), (0.9, 0.516)):
        assert abs(leading_subspace(z, tau).rank.double().mean() / 64 - share) < 0.01


def test_a_channel_of_zeros_lets_nothing_through_and_random_directions_have_the_same_rank():
    z = rows(2, 2, 5, 7)
    z[:, 1] = 0
    space = leading_subspace(z, 0.9)
    kept = projected(rows(2, 2, 5, 7, seed=1), space)
    assert bool((kept[:, 1] == 0).all()) and bool((kept[:, 0] != 0).any())
    other = random_subspace(leading_subspace(rows(2, 2, 5, 7), 0.9), torch.Generator())
    gram = other.left.mT @ other.left
    torch.testing.assert_close(gram, torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1)))
    assert gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, 0].round().tolist() == other.rank.tolist()
    with pytest.raises(ValueError, match="must be of one space"):
        projected(rows(2, 2, 7, 5), space)
    with pytest.raises(ValueError, match=r"must be \(B, C, H, W\)"):
        leading_subspace(rows(3, 2), 0.9)


# ---------------------------------------------------------------- operators

LINEAR = {
    "box": Inpainting(box_mask(3, SHAPE), SHAPE),
    "random": Inpainting(random_mask(0.7, SHAPE), SHAPE),
    **{
        f"blur {p}": Blur(gaussian_kernel(1.0, 7), SHAPE, p)
        for p in ("circular", "reflect", "replicate", "constant")
    },
    "motion": Blur(line_kernel(5, 30.0), SHAPE, "reflect"),
    "mean": Downsampling(2, SHAPE),
    "bicubic": Downsampling(2, SHAPE, "bicubic"),
}


@pytest.mark.parametrize("name", LINEAR)
def test_an_adjoint_is_that_of_its_operator(name):
    operator = LINEAR[name]
    x = rows(2, *SHAPE)
    y = rows(2, *operator.A(x).shape[1:], seed=1)
    torch.testing.assert_close((operator.A(x) * y).sum(), (x * operator.A_adjoint(y)).sum())
    matrix = dense_matrix(operator, SHAPE)
    torch.testing.assert_close(x.flatten(1) @ matrix.T, operator.A(x).flatten(1))
    torch.testing.assert_close(y.flatten(1) @ matrix, operator.A_adjoint(y).flatten(1))
    torch.set_default_dtype(torch.float32)
    assert check_operator(operator, SHAPE, name) == tuple(y.shape[1:])


def test_what_operators_do():
    x = rows(2, *SHAPE).clamp(-1, 1)
    torch.testing.assert_close(HDR(2.0).A(x), (2 * x).clamp(-1, 1))
    flat = torch.full((1, *SHAPE), 0.4)
    blur = Blur(gaussian_kernel(1.0, 7), SHAPE, "reflect")
    torch.testing.assert_close(NonlinearBlur(blur).A(flat), flat)
    edge = torch.cat([-torch.ones(1, 1, 8, 4), torch.ones(1, 1, 8, 4)], dim=3)
    light = NonlinearBlur(blur).A(edge)[0, 0, 4, 3]
    assert light > blur.A(edge)[0, 0, 4, 3] + 0.1  # a camera sees half the light as bright
    phase = PhaseRetrieval(2.0)
    y = phase.A(x)
    assert y.shape == (2, 1, 12, 12)
    torch.testing.assert_close(y.square().sum(), ((x + 1) / 2).square().sum())  # Parseval
    torch.testing.assert_close(phase.A(x.flip(2, 3)), y)
    assert float(random_mask(0.7, (1, 10, 10)).sum()) == 30
    assert float(box_mask(4, SHAPE).sum()) == 48
    kernel = line_kernel(5)
    torch.testing.assert_close(kernel[2], torch.full((5,), 0.2, dtype=torch.float32))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Inpainting(torch.ones(8, 8), SHAPE), "hides every pixel, or none"),
        (lambda: Inpainting(torch.rand(8, 8), SHAPE), "ones where a pixel is seen"),
        (lambda: Inpainting(torch.ones(4, 4), SHAPE), "the mask has shape"),
        (lambda: Blur(torch.ones(3, 3), SHAPE), "sum to one"),
        (lambda: Blur(torch.ones(2, 2) / 4, SHAPE), "odd sides"),
        (lambda: Blur(gaussian_kernel(3.0, 19), SHAPE), "too small for a kernel"),
        (lambda: Blur(gaussian_kernel(1.0, 7), SHAPE, "mirror"), "padding must be one of"),
        (lambda: Downsampling(3, SHAPE), "divide the image's sides"),
        (lambda: Downsampling(2, SHAPE, "lanczos"), "filter must be"),
        (lambda: HDR(1.0), "above 1"),
        (lambda: PhaseRetrieval(-1), "oversample"),
        (lambda: box_mask(8, SHAPE), "a box must be within"),
        (lambda: random_mask(1.0, SHAPE), "hidden share"),
        (lambda: gaussian_kernel(0.0, 5), "must be positive"),
        (lambda: line_kernel(1), "at least 2"),
        (lambda: GaussianNoise(float("nan")), "noise must be"),
        (lambda: PoissonNoise(0.0), "gain must be"),
    ],
)
def test_settings_of_operators_that_cannot_be(make, words):
    with pytest.raises(ValueError, match=words):
        make()


class Claimed:
    """An operator whose adjoint is to be believed."""

    def __init__(self, a, adjoint=None):
        self.A = a
        if adjoint is not None:
            self.A_adjoint = adjoint


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (Claimed(lambda x: x**2, lambda y: y), "has an adjoint and is not linear"),
        (Claimed(lambda x: 2 * x, lambda y: y), "is not the adjoint of A"),
        (Claimed(lambda x: x + 1, lambda y: y), "is not linear"),
        (Claimed(lambda x: x[:, :, ::2], lambda y: y), "A_adjoint returns"),
        (Claimed(lambda x: x.detach()), "carries no gradient"),
        (Claimed(lambda x: x[:1]), "must return a tensor with 2 rows"),
        (Claimed(lambda x: 3.0), "got float"),
        (Claimed(lambda x: x / 0 * 0), "no finite"),
        (Claimed(lambda x: x @ torch.ones(3, 3)), "fails on a tensor"),
        (FunctionOperator(lambda x: None), "got NoneType"),
    ],
)
def test_an_operator_that_is_not_what_it_says_is_refused(operator, words):
    torch.set_default_dtype(torch.float32)
    with pytest.raises(ConfigError, match=words) as told:
        check_operator(operator, SHAPE, "mine.py:f")
    assert "\n" not in str(told.value) and str(told.value).startswith("mine.py:f")


def test_noise_has_the_moments_that_it_states():
    g = torch.Generator().manual_seed(0)
    y = torch.zeros(4, 1, 100, 100)
    assert abs(GaussianNoise(0.05)(y, g).std().item() - 0.05) < 1e-3
    noisy = PoissonNoise(0.02)(y, g)
    assert abs(noisy.mean().item()) < 5e-3
    assert abs(noisy.std().item() - PoissonNoise(0.02).sigma) < 5e-3  # at half the light
    torch.testing.assert_close(PoissonNoise(0.02).weight(y), torch.full((4,), 2.0))


# ---------------------------------------------------------------- closed forms


def test_the_posterior_of_a_gaussian_and_dps_gradient():
    """8.3: autograd's gradient is -J^T A^T r / |r|, and the exact score gives the posterior mean."""
    denoiser, operator, s = gaussian(), LINEAR["mean"], 0.1
    matrix, d = dense_matrix(operator, SHAPE), 64
    cov = denoiser.vectors @ torch.diag(denoiser.values) @ denoiser.vectors.T
    sigma = torch.tensor([0.7, 0.7])
    x_t = rows(2, *SHAPE)
    y = rows(2, 1, 4, 4, seed=1)
    inside = torch.linalg.inv(cov + 0.49 * torch.eye(d))
    jacobian = cov @ inside
    clean = denoiser(x_t, sigma).flatten(1)
    residual = y.flatten(1) - clean @ matrix.T
    exact = -(residual / residual.norm(dim=1, keepdim=True)) @ matrix @ jacobian

    solver = DPS(denoiser, operator, steps=10)
    leaf = x_t.clone().requires_grad_()
    (found,) = torch.autograd.grad(solver.misfit(y, denoiser(leaf, sigma)).sum(), leaf)
    torch.testing.assert_close(found.flatten(1), exact)

    # S_t is the covariance of x_0 given x_t; the exact likelihood score moves its mean.
    s_t = cov - cov @ inside @ cov
    spread = matrix @ s_t @ matrix.T + s**2 * torch.eye(16)
    score = residual @ torch.linalg.inv(spread) @ matrix @ jacobian
    both = clean + 0.49 * score
    mean, _ = gaussian_posterior(clean, s_t.expand(2, d, d), matrix, y.flatten(1), s)
    torch.testing.assert_close(both, mean)


def test_a_step_of_dps_is_that_of_the_variance_preserving_form():
    denoiser, operator = gaussian(), LINEAR["box"]
    solver = DPS(denoiser, operator, steps=6, step=0.8)
    y = operator.A(rows(3, *SHAPE, seed=5))
    states = [m.state for m in solver(y, RowNoise([1, 2, 3]))]
    noise, alphas = RowNoise([1, 2, 3]), 1 / (1 + solver.levels.square())
    x = solver.levels[0] * noise(states[0]) * alphas[0].sqrt()
    for i in range(2):  # in the coordinates of DDPM, with its posterior's variance
        a, b = alphas[i], alphas[i + 1]
        leaf = x.clone().requires_grad_()
        clean = denoiser(leaf / a.sqrt(), solver.levels[i].expand(3))
        norm = (y - operator.A(clean)).flatten(1).norm(dim=1)
        (g,) = torch.autograd.grad(norm.sum(), leaf)
        beta = 1 - a / b
        mean = b.sqrt() * beta / (1 - a) * clean + (a / b).sqrt() * (1 - b) / (1 - a) * leaf
        fresh = (beta * (1 - b) / (1 - a)).sqrt() * noise(x)
        x = (mean + fresh - 0.8 * g).detach()
        torch.testing.assert_close(states[i], x / b.sqrt())
    # The last one is the mean, less the gradient.
    assert len(states) == 6 and solver.levels[-1] == 0


def test_psld_glues_by_the_adjoint_of_operator_and_decoder():
    """8.3: with an orthonormal decoder W and E = W^T the gluing residual is W^T A^T (y - A W z)."""
    w = torch.linalg.qr(rows(64, 16)).Q
    codec = Codec(
        lambda z: (z.flatten(1) @ w.T).reshape(-1, *SHAPE),
        lambda x: (x.flatten(1) @ w).reshape(-1, 1, 4, 4),
    )
    operator = LINEAR["blur reflect"]
    latent = gaussian((1, 4, 4))
    solver = PSLD(latent, operator, steps=5, codec=codec)
    z = rows(2, 1, 4, 4)
    y = rows(2, *SHAPE, seed=1)
    matrix = dense_matrix(operator, SHAPE)
    residual = y.flatten(1) - z.flatten(1) @ w.T @ matrix.T
    glued = residual @ matrix @ w
    torch.testing.assert_close(solver.gluing(y, z).flatten(1), glued)
    expected = residual.norm(dim=1) + 0.1 * glued.norm(dim=1)
    torch.testing.assert_close(solver.error(y, z), expected)
    *_, last = solver(y, RowNoise([0, 1]))
    assert last.clean.shape == (2, 1, 4, 4)
    with pytest.raises(TypeError, match="psld needs a linear operator"):
        PSLD(latent, HDR(), codec=codec)


def test_resample_draws_from_the_product_of_two_gaussians():
    """8.3, in the variance-preserving form of the paper."""
    sigma, target = torch.tensor([2.0]), torch.tensor([1.5])
    a, b = 1 / (1 + sigma.square()), 1 / (1 + target.square())
    s2 = 40 * (1 - b) / (1 - a) * (1 - a / b)
    torch.testing.assert_close(resample_variance(sigma, target), s2 / b)
    z, state = rows(1, 3), rows(1, 3, seed=1)
    mean, variance = gaussian_product(z, target.square(), state, s2 / b)
    theirs = (s2 * b.sqrt() * z + (1 - b) * (b.sqrt() * state)) / (s2 + 1 - b)
    torch.testing.assert_close(b.sqrt() * mean, theirs)
    torch.testing.assert_close(b * variance, s2 * (1 - b) / (s2 + 1 - b))


def test_resample_fits_until_the_noise_and_projects_its_fits_only():
    denoiser, operator = gaussian(), LINEAR["mean"]
    y = operator.A(rows(2, *SHAPE, seed=5))
    solver = ReSample(denoiser, operator, steps=30, noise=0.3)
    start = torch.zeros(2, *SHAPE)
    fitted = solver.fit(y, start, solver.pixels, solver.image_error, lambda g, k: g)
    missed = solver.image_error(y, fitted)
    assert bool((missed < 0.09).all()) and bool((missed > 0.05).all())
    gradients = DiffStateGrad(0.9, 5)
    solver = ReSample(denoiser, operator, steps=30, noise=0.3, gradients=gradients)
    moments = list(solver(y, RowNoise([0, 1])))
    # Of 30 steps two fits, left 20 and 10, and the one at the end.
    loops = sum(
        not torch.equal(a.rank, b.rank) or a.share.ne(b.share).any()
        for a, b in zip(gradients.passed, gradients.passed[1:], strict=False)
    )
    assert len(moments) == 30 and gradients.passed and loops >= 2


def test_the_inner_target_of_daps():
    """8.3: H = I / r^2 + A^T A / beta^2; unadjusted Langevin has variance 1 / (h (1 - eta h / 2))."""
    operator, r, beta = LINEAR["mean"], 0.4, 0.2
    matrix = dense_matrix(operator, SHAPE)
    clean, y = rows(1, *SHAPE), rows(1, 1, 4, 4, seed=1)
    precision = torch.eye(64) / r**2 + matrix.T @ matrix / beta**2
    pull = clean.flatten() / r**2 + matrix.T @ y.flatten() / beta**2
    inner = GaussianInner(matrix, beta)
    many = inner(
        clean.expand(4000, -1, -1, -1), y.expand(4000, -1, -1, -1), r, RowNoise(range(4000))
    ).flatten(1)
    torch.testing.assert_close(
        many.mean(0), torch.linalg.solve(precision, pull), atol=0.03, rtol=0
    )
    torch.testing.assert_close(many.T.cov(), torch.linalg.inv(precision), atol=0.02, rtol=0)

    # The gradient of the same target, and the gain that sets the step size.
    solver = DAPS(gaussian(), operator, steps=2, noise=beta)
    u = rows(1, *SHAPE, seed=2)
    force = solver.likelihood(y, u).flatten() + (clean - u).flatten() / r**2
    torch.testing.assert_close(force, pull - precision @ u.flatten())
    gain = torch.linalg.eigvalsh(matrix.T @ matrix)[-1].item()
    assert abs(solver.curvature(u) - gain) < 1e-6
    assert abs(DAPS(gaussian(), Claimed(lambda x: 0 * x), steps=2).curvature(u)) == 0

    class Identity:
        def A(self, x):
            return x

    chain = DAPS(gaussian(), Identity(), steps=1, step=1.0, noise=beta)
    chain.levels, chain.langevin_steps = torch.tensor([r]), 30
    wide = torch.zeros(400, *SHAPE)
    h = 1 / r**2 + 1 / beta**2
    spread = chain.langevin(wide, wide, wide, 0, RowNoise(range(400))).var().item()
    assert abs(spread * h * (1 - 0.5) - 1) < 0.02  # eta h = 1


# ---------------------------------------------------------------- solvers as a whole


def solved(name, gradients=None, steps=12, y=None, seeds=(3, 4), operator=None, **more):
    operator = LINEAR["box"] if operator is None else operator
    y = operator.A(rows(2, *SHAPE, seed=5)) if y is None else y
    solver = SOLVERS[name](gaussian(), operator, steps=steps, gradients=gradients, **more)
    if name == "daps":
        solver.langevin_steps = 6
    if name == "resample":
        solver.EVERY = 2
        solver.pixels = solver.latents = solver.pixels._replace(most=6)
    *_, last = solver(y, RowNoise(seeds))
    return last.clean


@pytest.mark.parametrize("name", SOLVERS)
def test_no_projection_is_bit_for_bit_the_solver_itself(name):
    base = solved(name)
    assert torch.equal(base, solved(name, DiffStateGrad(0.9, 0)))
    torch.testing.assert_close(base, solved(name, DiffStateGrad(1.0)))
    changed = {
        kind: solved(name, DiffStateGrad(0.7, **more))
        for kind, more in (
            ("core", {}),
            ("tangent", {"mode": "tangent"}),
            ("random", {"control": 0}),
            ("x0hat", {"state": "x0hat"}),
        )
    }
    for kind, x in changed.items():
        assert not torch.allclose(base, x), kind
    assert not torch.allclose(changed["core"], changed["random"])
    assert not torch.allclose(changed["core"], changed["tangent"])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_row_depends_on_its_seed_and_not_on_its_neighbours(name):
    y = LINEAR["box"].A(rows(2, *SHAPE, seed=5))
    both = solved(name, DiffStateGrad(0.9), y=y)
    alone = solved(name, DiffStateGrad(0.9), y=y[1:], seeds=(4,))
    torch.testing.assert_close(both[1:], alone)


def test_the_directions_are_those_of_the_state_and_change_with_it():
    gradients = DiffStateGrad(0.9)
    g = rows(2, *SHAPE, seed=9)
    one = gradients.around(rows(2, *SHAPE), g)(g, 0)
    other = gradients.around(rows(2, *SHAPE, seed=1), g)(g, 0)
    assert not torch.allclose(one, other)
    assert torch.equal(gradients.around(rows(2, *SHAPE), g)(g, 0), one)
    every = DiffStateGrad(0.9, 3)
    through = every.around(rows(2, *SHAPE), g)
    assert [torch.equal(through(g, k), g) for k in range(4)] == [False, True, True, False]
    gradients, place = DiffStateGrad(0.99), torch.arange(8.0)
    gap = (torch.cartesian_prod(place, place)[:, None] - torch.cartesian_prod(place, place)).norm(
        dim=2
    )
    smooth = GaussianDenoiser(
        torch.zeros(SHAPE), (-gap.square() / 32).exp() + 1e-4 * torch.eye(64), sigma_max=1000.0
    )
    solver = DPS(smooth, LINEAR["box"], steps=40, step=0.1, gradients=gradients)
    list(solver(torch.zeros(2, *SHAPE), RowNoise([3, 4])))
    ranks = torch.stack([one.rank for one in gradients.passed]).double().mean(1)
    assert ranks[0] > ranks[-1] + 1  # noise has a high rank, an image a low one
    for bad in ({"tau": 0.0}, {"period": -1}, {"mode": "x"}, {"state": "x"}, {"rank_rule": "x"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            DiffStateGrad(**bad)


def test_nothing_but_the_gradient_of_the_measurement_is_projected():
    """8.7: with an operator that measures nothing, DAPS is unaffected by tau."""
    nothing = Claimed(lambda x: 0 * x)
    y = torch.zeros(2, *SHAPE)
    base = solved("daps", y=y, operator=nothing)
    assert torch.equal(base, solved("daps", DiffStateGrad(0.5), y=y, operator=nothing))


def test_a_state_that_is_not_finite_is_told_of():
    with pytest.raises(Diverged, match="daps is not finite after step"):
        for _ in range(3):
            solved("daps", steps=60, step=1e200)


class OneNoise(RowNoise):
    def __call__(self, like):
        return torch.randn(like.shape, generator=self.sources[0], dtype=like.dtype)


class ExactInner:
    """The law of the clean point given a level's state and the measurement, of a few means."""

    def __init__(self, prior, matrix, noise):
        self.prior, self.matrix, self.noise = prior, matrix, noise
        self.random = torch.Generator().manual_seed(0)

    def __call__(self, x, y, r, noise):
        both = torch.cat([torch.eye(2) / r, self.matrix / self.noise])
        seen = torch.cat([x / r, y / self.noise], dim=1)
        laws = [mixture_posterior(self.prior, both, row, 1.0) for row in seen]
        return torch.cat([law.sample(1, self.random) for law in laws])


def test_daps_of_the_exact_law_of_a_level_is_the_posterior_and_nearer_to_it_than_dps():
    """8.6: the posterior of a mixture is exact; DPS does not come near."""
    random, n = torch.Generator().manual_seed(1), 500
    means = torch.tensor([[0.9, -1.2], [1.1, 0.2], [1.5, 1.2], [-2.0, 0.0]])
    prior = Mixture(torch.full((4,), 1 / 4), means, (0.09 * torch.eye(2)).expand(4, 2, 2))
    matrix, value, noise = torch.tensor([[1.0, 0.0]]), torch.tensor([1.0]), 0.2
    exact = mixture_posterior(prior, matrix, value, noise)
    axis = torch.linspace(-5, 5, 401)  # by quadrature on a grid
    points = torch.cartesian_prod(axis, axis)
    denoiser = MixtureDenoiser(means, 0.3, sigma_max=1000.0)
    log_p = denoiser.log_prob(points, torch.zeros(len(points)))
    weight = (log_p - 0.5 * ((points[:, 0] - 1) / noise) ** 2).softmax(0)
    torch.testing.assert_close(weight @ points, exact.weights @ exact.means, atol=1e-3, rtol=0)
    truth = exact.sample(4 * n, random)
    y = value.expand(n, 1)

    class First:
        def A(self, x):
            return x[:, :1]

    class State(DAPS):
        def estimate(self, x, sigma, cond):
            return x

    def distance(kind, inner=None, **more):
        solver = kind(denoiser, First(), noise=noise, **more)
        solver.inner = inner
        *_, last = solver(y, OneNoise([0]))
        return wasserstein2_sliced(last.clean, truth).value

    law = distance(State, ExactInner(prior, matrix, noise), steps=3)
    inner = distance(DAPS, GaussianInner(matrix, noise), steps=60)
    pulled = distance(DPS, steps=60, step=1.0)
    assert law < 0.1 and inner < pulled


def test_the_levels_of_ddpm():
    grid = linear_beta_grid(1000, 0.0, 1000.0)
    assert len(grid) == 1001 and grid[-1] == 0
    assert abs(grid[0].item() - 157.41) < 0.1 and abs(grid[-2].item() - 0.01) < 1e-4
    inside = linear_beta_grid(50, 0.02, 20.0)
    assert len(inside) == 51 and inside[0] <= 20 and inside[-2] >= 0.02
    with pytest.raises(ValueError, match="steps must be within 1 and"):
        linear_beta_grid(1001, 0.0, 1000.0)


# ---------------------------------------------------------------- fidelity


def test_psnr_and_ssim_are_those_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    a = rows(2, 3, 16, 20).clamp(-1, 1)
    b = (a + 0.2 * rows(2, 3, 16, 20, seed=1)).clamp(-1, 1)
    for i in range(2):
        x, y = a[i].numpy(), b[i].numpy()
        theirs = metrics.peak_signal_noise_ratio(x, y, data_range=2)
        assert abs(psnr(a, b)[i].item() - theirs) < 1e-9
        theirs = metrics.structural_similarity(
            x, y, channel_axis=0, data_range=2, gaussian_weights=True, use_sample_covariance=False
        )
        assert abs(ssim(a, b)[i].item() - theirs) < 1e-9
    torch.testing.assert_close(ssim(a, a), torch.ones(2))
    assert mean_of("psnr", torch.tensor([1.0, 3.0]), True).error == pytest.approx(1.0)
    assert mean_of("psnr", torch.tensor([1.0]), True).error is None


def test_unprojected_is_the_identity():
    g = rows(2, *SHAPE)
    assert Unprojected().around(g, g)(g, 0) is g
