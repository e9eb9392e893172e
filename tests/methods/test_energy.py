"""Energy-distance matching against the energy distance of Gaussians in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from cases import student
from problems import Affine, mixture_teacher, standard_error
from torch import Tensor

from vardiu.data.batch import Batch
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.errors import ConfigError
from vardiu.functional.energy import energy_distance
from vardiu.methods.energy import Energy, Exact, Settings

SIGMA, SOFT = 0.9, 1e-3
MEAN, VARIANCE = -0.5, 1.44


def norm(mean: Tensor, variance: Tensor) -> Tensor:
    """E |W| of W ~ N(mean, variance), a folded normal."""
    folded = (2 * variance / math.pi).sqrt() * (-(mean**2) / (2 * variance)).exp()
    return folded + mean * torch.erf(mean / (2 * variance).sqrt())


def distance(a: Tensor, b: Tensor, held: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The distance of a z + b and the flow's end of `held`'s samples, noised at the level."""
    first, shift = (a, b) if held is None else held
    gain = VARIANCE / (VARIANCE + SIGMA**2)
    p, q = a**2, gain * (first**2 + SIGMA**2)
    gap, zero = b - MEAN - gain**0.5 * (shift - MEAN), torch.zeros(())
    return 2 * norm(gap, p + q) - norm(zero, 2 * p) - norm(zero, 2 * q)


def linear(a: float, b: float) -> Exact:
    teacher = GaussianDenoiser(torch.tensor([MEAN]), torch.tensor([[VARIANCE]]), sigma_min=0.1)
    start = Affine(torch.tensor([[a]]), torch.tensor([b]))
    return Exact(teacher, start, levels=LogUniform(SIGMA, SIGMA * (1 + 1e-9)))


def sampled(objective: Energy, draws: int = 40, rows: int = 400) -> Tensor:
    """Of each batch the loss, and its gradients by the student's scale and shift, `(draws, 3)`."""
    start, found = objective.generator, []
    for _ in range(draws):
        with torch.no_grad():
            drawn = objective.prepare(Batch(rows), 0)
        value = objective.loss(drawn, 0).value
        matrix, shift = torch.autograd.grad(value, (start.matrix, start.shift))
        found.append(torch.cat([value.detach()[None], matrix[0], shift]))
    return torch.stack(found)


def test_loss_and_gradient_are_those_of_the_distance_with_the_answers_held():
    a, b = (torch.tensor(v).requires_grad_(True) for v in (0.7, 1.5))
    value = distance(a, b, (a.detach(), b.detach()))
    wanted = torch.stack([value, *torch.autograd.grad(value, (a, b))]).detach()
    torch.testing.assert_close(
        wanted, torch.tensor([0.125606573, -0.213905274, 0.544157198]), rtol=0, atol=1e-8
    )
    got = sampled(linear(0.7, 1.5))
    error = standard_error(got)
    assert bool(((got.mean(0) - wanted).abs() < 5 * error).all())
    # What it would be if the answers moved along.
    moving = torch.stack(torch.autograd.grad(distance(a, b), (a, b)))
    assert bool(((moving - wanted[1:]).abs() > 8 * error[1:]).any())


def test_at_the_teachers_law_there_is_no_distance_and_no_gradient():
    matched = torch.tensor(math.sqrt(VARIANCE)), torch.tensor(MEAN)
    assert abs(float(distance(*matched))) < 1e-9
    got = sampled(linear(math.sqrt(VARIANCE), MEAN))
    assert bool((got.mean(0).abs() < 5 * standard_error(got)).all())
    assert bool((standard_error(got) < 0.02).all())


def test_no_row_meets_itself_nor_one_of_another_condition():
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 2, generator=random) for _ in range(2))
    same = torch.arange(6)[:, None] % 2 == torch.arange(6) % 2

    def rho(p: Tensor, q: Tensor, i: int, j: int) -> Tensor:
        square = (p[i] - q[j]).square().sum()
        return (square + SOFT**2) ** 0.6

    for may in (None, same):
        pairs = [(i, j) for i in range(6) for j in range(6)
                 if i != j and (may is None or bool(may[i, j]))]  # fmt: skip
        wanted = sum(2 * rho(x, y, *p) - rho(x, x, *p) - rho(y, y, *p) for p in pairs) / len(pairs)
        got = energy_distance(x, y, may, exponent=1.2)
        torch.testing.assert_close(got, wanted)
    alone = energy_distance(x[:1], y[:1])
    assert float(alone) == 0
    assert torch.autograd.gradcheck(lambda p: energy_distance(p, y), x.requires_grad_(True))


def test_the_teachers_answers_are_its_flow():
    """Of a teacher N(0, 1) from level 4: y = x_t / sqrt(17), with an error of the second order."""
    teacher = GaussianDenoiser(torch.zeros(1), torch.eye(1), sigma_min=0.1)
    found = {}
    for steps in (6, 12):
        objective = Energy(teacher, Affine(torch.eye(1), torch.zeros(1)),
                           levels=LogUniform(0.5, 8.0), teacher_steps=steps)  # fmt: skip
        y = objective.answer(torch.full((3, 1), 2.0), torch.full((3,), 4.0), {})
        found[steps] = abs(float(y[0]) - 2 / math.sqrt(17))
        assert objective.teacher.calls == 2 * steps - 1
    assert found[6] < 0.03 and found[12] < found[6] / 3


def test_a_step_has_one_level_and_draws_are_of_the_student():
    objective = Energy(mixture_teacher(), student(), levels=LogUniform(0.2, 5.0))
    with torch.no_grad():
        drawn = [objective.prepare(Batch(6), step) for step in range(3)]
    assert all(bool((d.sigma == d.sigma[0]).all()) for d in drawn)
    assert len({float(d.sigma[0]) for d in drawn}) == 3
    weighted = Energy(mixture_teacher(), objective.generator, levels=objective.levels,
                      weight=lambda s: 3 * s, exponent=0.8)  # fmt: skip
    loss, x = weighted.loss(drawn[0], 0), objective.generator(drawn[0].z)
    plain = energy_distance(x, drawn[0].y, exponent=0.8)
    torch.testing.assert_close(loss.value, 3 * drawn[0].sigma[0] * plain)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"exponent": 2.0}, "exponent must be above 0 and below 2, got 2"),
        ({"exponent": math.nan}, "exponent must be a finite number"),
        ({"teacher_steps": 0}, "teacher_steps must be at least 1"),
        ({"batch": 1}, "batch must be at least 2 to compare rows, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Settings(**changes)
    if "batch" not in changes:
        options = {"levels": LogUniform(0.2, 5.0), **changes}
        with pytest.raises(ValueError, match="must be"):
            Energy(mixture_teacher(), student(), **options)


def test_only_rows_of_one_condition_are_compared():
    objective = Energy(mixture_teacher(labels=True), student(2), levels=LogUniform(0.2, 5.0))
    label = torch.arange(8) % 2
    with torch.no_grad():
        drawn = objective.prepare(Batch(8, cond={"label": label}), 0)
        x = objective.generator(drawn.z, label=label)
        got = objective.loss(drawn, 0).value
    parts = [energy_distance(x[label == i], drawn.y[label == i]) for i in (0, 1)]
    torch.testing.assert_close(got, sum(parts) / 2)
    assert (got - energy_distance(x, drawn.y)).abs() > 1e-3
