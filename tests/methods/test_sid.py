"""SiD against closed forms on Gaussians, exact and not on average."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import denoiser, student
from problems import Affine, LinearGaussian, mixture_teacher
from torch import Tensor

from vardiu.cli.main import main
from vardiu.data.batch import Batch
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.errors import ConfigError
from vardiu.functional.tensors import dot
from vardiu.methods.sid import METHOD, SiD
from vardiu.settings.fields import WeightSettings
from vardiu.settings.grounds import MOG40
from vardiu.students.few_step import FewStep
from vardiu.teachers.probe import check_gradient

SIGMA = 0.9
LEVELS = LogUniform(0.2, 5.0)


def points(n: int) -> Tensor:
    """Points whose moments up to the third are those of n standard normal numbers."""
    ends = math.sqrt(n) * torch.eye(n)
    return torch.cat([ends, -ends])


def linear(alpha: float, *, scale: float = 1.0, shift: float = 0.0) -> SiD:
    """Teacher N(-.5, 1.2^2), student N(1.5, .7^2); the fake's deviation and mean may be wrong."""
    teacher = GaussianDenoiser(torch.tensor([-0.5]), torch.tensor([[1.44]]))
    fake = GaussianDenoiser(torch.tensor([1.5 + shift]), torch.tensor([[(scale * 0.7) ** 2]]))
    start = Affine(torch.tensor([[0.7]]), torch.tensor([1.5]))
    options = {"levels": LEVELS, "weight": torch.ones_like, "normalised": False}
    return SiD(teacher, start, fake, alpha=alpha, **options)


def exact(objective: SiD, sigma: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The expected loss at a level, that of its divergence, and its gradient by matrix and shift:
    the loss is a quadratic function of latent and noise."""
    generator = objective.generator
    d, k = generator.matrix.shape
    z, noise = points(k + d).split([k, d], dim=1)
    loss = objective.matched(generator(z), torch.full((len(z),), sigma), noise, {})
    gradients = torch.autograd.grad(loss.value, (generator.matrix, generator.shift))
    return loss.value.detach(), loss.info["divergence"], *gradients


def fisher(problem: LinearGaussian, a: Tensor, b: Tensor, held: tuple | None = None) -> Tensor:
    """E |grad log q - grad log p|^2 of samples N(b, a a'), noised; p is `held`, or their own law."""
    noise = SIGMA**2 * torch.eye(len(b))
    s, t = a @ a.T + noise, torch.linalg.inv(problem.covariance + noise)
    matrix, mean = (a, b) if held is None else held
    own = torch.linalg.inv(matrix @ matrix.T + noise)
    rest = own @ (b - mean) - t @ (b - problem.mean)
    return ((own - t) @ s @ (own - t)).trace() + rest @ rest


# ---------------------------------------------------------------- the loss and its gradient


def test_the_decimals_of_one_dimension():
    """F = (1/S - 1/T)^2 S + (2/T)^2 with S = .49 + .81, T = 1.44 + .81; half its gradient is
    (.7 (1/T^2 - 1/S^2), 2/T^2); of alpha = 1 it is the part in which the score moves."""
    half, divergence, matrix, shift = exact(linear(0.5), SIGMA)
    assert divergence.item() == pytest.approx(0.9272554606, abs=1e-9)
    assert half.item() == pytest.approx(0.4636277303, abs=1e-9)  # half of it, on average
    assert matrix.item() == pytest.approx(-0.2759295785, abs=1e-9)
    assert shift.item() == pytest.approx(0.3950617284, abs=1e-9)
    whole, _, matrix, shift = exact(linear(1.0), SIGMA)
    assert whole.item() == pytest.approx(0, abs=1e-12)
    assert matrix.item() == pytest.approx(-0.3497698882, abs=1e-9)
    assert shift.item() == pytest.approx(0.6837606838, abs=1e-9)
    more, _, matrix, shift = exact(linear(1.2), SIGMA)
    assert more.item() == pytest.approx(-0.2 * 0.9272554606, abs=1e-9)
    assert matrix.item() == pytest.approx(-0.3793060121, abs=1e-9)
    assert shift.item() == pytest.approx(0.7992402659, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.2])
def test_the_gradient_is_half_that_of_the_divergence_and_a_share_of_the_held_one(alpha):
    problem = LinearGaussian(3, 2, seed=4)
    start = problem.generator
    a, b = start.matrix, start.shift
    fake = problem.networks.fake(start)
    options = {"levels": LEVELS, "weight": torch.ones_like, "normalised": False}
    objective = SiD(problem.teacher, start, fake, alpha=alpha, **options)
    value, divergence, *got = exact(objective, SIGMA)
    whole, law = fisher(problem, a, b), (a.detach(), b.detach())
    wanted = torch.autograd.grad(0.5 * whole + (0.5 - alpha) * fisher(problem, a, b, law), (a, b))
    torch.testing.assert_close(divergence, whole.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(value, (1 - alpha) * whole.detach(), rtol=1e-10, atol=1e-12)
    for mine, its in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-12)
        assert its.norm() > 0.1


def test_a_wrong_fake_biases_the_projected_form_less_than_the_square():
    """Of a fake with an error e the square is off by 2 <gap, e> + e^2, the projected by <gap, e>."""
    _, true, *_ = exact(linear(0.0), SIGMA)
    square = linear(0.0, shift=0.3)
    projected = exact(square, SIGMA)[1]
    biased = projected - exact(linear(1.0, shift=0.3), SIGMA)[0]  # alpha = 1 subtracts the square
    assert true.item() == pytest.approx(0.9272554606, abs=1e-9)
    assert projected.item() == pytest.approx(1.1323836657, abs=1e-9)
    assert biased.item() == pytest.approx(1.3907663087, abs=1e-9)


def test_at_the_teachers_law_no_sample_is_moved():
    problem = LinearGaussian(3, 3)
    for factor, moved in ((1.0, False), (1.1, True)):
        start = problem.networks.matched_student()
        with torch.no_grad():
            start.matrix.mul_(factor)
        fake = problem.networks.fake(start)
        objective = SiD(problem.teacher, start, fake, levels=LEVELS)
        x = start(objective.latents(50)).detach().requires_grad_(True)
        objective.matching(x, {}, 0).value.backward()
        sizes = 50 * x.grad.norm(dim=1)
        assert bool((sizes > 1e-3).all()) if moved else bool((sizes < 1e-10).all())


def test_what_is_detached_instead_gives_another_gradient():
    """Networks that are not differentiated leave that of the KL divergence: -(D - D_fake)/s^4."""
    objective = linear(1.0)
    matrix, shift = exact(objective, SIGMA)[2:]

    class Cut(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x_t, sigma, **cond):
            return self.inner(x_t, sigma, **cond).detach()

    objective.teacher, objective.fake = Cut(objective.teacher), Cut(objective.fake)
    cut, moved = exact(objective, SIGMA)[2:]
    # KL's gradient is (.7 (1/T - 1/S), 2/T); a score has one level less of sigma^2.
    assert cut.item() == pytest.approx(0.7 * (1 / 2.25 - 1 / 1.3) / SIGMA**2, abs=1e-9)
    assert moved.item() == pytest.approx(2 / 2.25 / SIGMA**2, abs=1e-9)
    assert (cut - matrix).abs() > 0.05 and (moved - shift).abs() > 0.05


class Silent(Denoiser):
    """A Gaussian's denoiser of numbers that carry no gradient."""

    shape, sigma_min, sigma_max = (2,), 0.1, 8.0

    def forward(self, x_t, sigma, **cond):
        return torch.from_numpy(x_t.detach().numpy() / (1 + sigma.numpy()[:, None] ** 2))


class Broken(torch.autograd.Function):
    """The identity, whose gradient is no number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


def test_a_teacher_without_a_gradient_is_refused_in_one_line_before_training(
    tmp_path, monkeypatch, capsys
):
    x = torch.zeros(3, 2)
    with pytest.raises(ConfigError, match="sid needs the gradient of the teacher") as error:
        check_gradient(Silent(), x, {}, "sid")
    assert "take torch.no_grad" in str(error.value) and "\n" not in str(error.value)
    check_gradient(mixture_teacher(), x, {}, "sid")
    check_gradient(mixture_teacher(labels=True), x, {"label": torch.tensor([0, 1, 0])}, "sid")
    monkeypatch.setattr(Silent, "forward", lambda self, x_t, sigma: Broken.apply(x_t))
    with pytest.raises(ConfigError, match="is not finite"):
        check_gradient(Silent(), x, {}, "sid")
    places = []
    there = mixture_teacher(labels=True).to("meta")  # as on an accelerator: asked where it is
    monkeypatch.setattr(type(there), "forward", lambda self, x_t, sigma, label: places.extend(
        t.device.type for t in (x_t, sigma, label)) or torch.zeros(2, 2))  # fmt: skip
    with pytest.raises(ConfigError, match="carries none"):
        check_gradient(there, x, {"label": torch.tensor([0, 1, 0])}, "sid")
    assert places == ["meta"] * 3
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "import torch, vardiu\n\n\ndef make():\n    def f(x_t, sigma):\n"
        "        with torch.no_grad():\n            return x_t / (1 + sigma[:, None] ** 2)\n"
        "    return vardiu.FunctionDenoiser(f, shape=(2,), sigma_min=0.1, sigma_max=9.0)\n"
    )
    np.save("points.npy", np.random.default_rng(0).normal(size=(64, 2)))
    words = ["--teacher", "mine.py:make", "--data", "points.npy", "--student", "fresh"]
    words += ["--reference", "400", "--method", "sid", "--steps", "9", "--batch", "8"]
    assert main(["distill", "vectors", *words, "--threads", "1", "--out", "run"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "sid needs the gradient of the teacher mine.py:make" in said, said
    assert not Path("run/checkpoints").exists()


def test_rows_are_weighted_and_divided():
    """On the draws that a twin takes: w / s^4 over the mean correction, which is held."""
    objective = SiD(mixture_teacher(), student(), denoiser(), alpha=1.2, levels=LEVELS,
                    weight=lambda s: s**3)  # fmt: skip
    twin = copy.deepcopy(objective)
    objective.student_loss(objective.prepare(Batch(16), 0), 0).value.backward()
    x = twin.generator(twin.latents(16))
    sigma = 0.2 * 25 ** twin.uniform(16)
    x_t = x + sigma[:, None] * twin.noise_like(x)
    real, fake = twin.teacher(x_t, sigma), twin.fake(x_t, sigma)
    rows = -0.2 * dot(real - fake, real - fake) + dot(real - fake, fake - x)
    divisor = (real - x).abs().mean(1).clamp_min(0.02).detach()
    (rows / (sigma * divisor)).mean().backward()
    for a, b in zip(objective.generator.parameters(), twin.generator.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_default_weight_cancels_the_scores_and_ratio_is_one():
    settings = METHOD.settings()
    assert settings.weight == WeightSettings(kind="power", power=4.0)
    assert settings.ratio == 1 and settings.alpha == 1.0 and settings.normalised
    assert METHOD.needs.gradient and not METHOD.needs.data
    assert METHOD.presets["mog40-sid"].problem == MOG40
    with pytest.raises(ValueError, match="alpha must be finite, got nan"):
        SiD(mixture_teacher(), student(), denoiser(), levels=LEVELS, alpha=math.nan)


def test_of_a_few_step_student_the_fake_learns_the_call_that_is_trained():
    generator = FewStep(denoiser(), [8.0, 1.0])
    objective = SiD(mixture_teacher(), generator, denoiser(), levels=LEVELS)
    seen = {drawn.call for drawn in (objective.prepare(Batch(4), i) for i in range(20))}
    assert seen == {0, 1}
    drawn = objective.prepare(Batch(4), 0)
    torch.testing.assert_close(drawn.x, generator.call(drawn.call, drawn.z))
