"""The anchored posterior against closed forms: affine students, a Gaussian teacher."""

from __future__ import annotations

import copy
import json

import pipelines
import pytest
import torch
from cases import denoiser, student
from problems import LinearGaussian, mixture_teacher, standard_error
from torch import Tensor

from vardiu.cli.main import main
from vardiu.data.batch import Batch
from vardiu.data.batches import DataFree
from vardiu.denoisers.levels import LogUniform
from vardiu.denoisers.lora import adapt
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.functional.bounds import gaussian_kl
from vardiu.methods.anchored import AnchoredVarDiU
from vardiu.methods.diff_instruct import DiffInstruct, Fakes
from vardiu.methods.lagging import Anchor, nats, steps_of
from vardiu.nn import MLP
from vardiu.runs.execute import cycle_of
from vardiu.settings.fields import AnchorSettings
from vardiu.students.affine import Affine, AffineDenoiser
from vardiu.students.few_step import FewStep, OneStep
from vardiu.training.economy import Economy
from vardiu.training.optimizers import Optimisation
from vardiu.training.trainer import Trainer

SIGMA = 0.8
LEVEL = LogUniform(SIGMA, SIGMA * (1 + 1e-12))
RANGE = {"sigma_min": 0.1, "sigma_max": 10.0}


def moved(student: Affine, by: float = 0.3) -> Affine:
    random = torch.Generator().manual_seed(7)
    change = by * torch.randn(student.matrix.shape, generator=random)
    return Affine(student.matrix.detach() + change, student.shift.detach() + by)


def anchored(
    problem: LinearGaussian, anchor: Affine, row: AnchorSettings | None = None, **options
) -> AnchoredVarDiU:
    """The objective of an affine student whose anchor is elsewhere; the fake is exact."""
    held = Anchor(anchor, row or AnchorSettings(), 1, 100)
    fake = AffineDenoiser(held.network, follows=True, **RANGE)
    return AnchoredVarDiU(
        problem.teacher,
        problem.generator,
        fake,
        **{"levels": LEVEL, "anchor": held, "weight": torch.ones_like, **options},
    )


def law(matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    return shift, matrix @ matrix.T + SIGMA**2 * torch.eye(len(shift))


def divergence(problem: LinearGaussian, matrix: Tensor, shift: Tensor) -> Tensor:
    return problem.kl(matrix, shift, SIGMA)


def bound(problem: LinearGaussian, matrix: Tensor, shift: Tensor, anchor: Affine) -> Tensor:
    """U_a: the mean of ||g - g_a||^2 / 2 sigma^2, and of log p_a - log q under p."""
    a, b = anchor.matrix.detach(), anchor.shift.detach()
    far = ((matrix - a).square().sum() + (shift - b).square().sum()) / (2 * SIGMA**2)
    mine, its = law(matrix, shift), law(a, b)
    return far + divergence(problem, matrix, shift) - gaussian_kl(*mine, *its)


def slack(matrix: Tensor, shift: Tensor, anchor: Affine) -> Tensor:
    """The mean over x_t of KL(p(z | x_t) || r_a(z | x_t)), by the moments of both."""

    def moments(a: Tensor) -> tuple[Tensor, Tensor]:
        precision = torch.eye(a.shape[1]) + a.T @ a / SIGMA**2
        return precision, torch.linalg.solve(precision, a.T) / SIGMA**2

    a, b = anchor.matrix.detach(), anchor.shift.detach()
    (own, gain), (other, its) = moments(matrix), moments(a)
    # The difference of the means is affine in x_t, whose law is known.
    mean, covariance = law(matrix, shift)
    constant = its @ (mean - b) - gain @ (mean - shift)
    spread = (its - gain) @ covariance @ (its - gain).T
    wide = torch.linalg.inv(own)
    logs = torch.logdet(own) - torch.logdet(other)
    squares = torch.trace(other @ (wide + spread)) + constant @ other @ constant
    return 0.5 * (squares - len(own) + logs)


@pytest.mark.parametrize(("d", "k"), [(3, 2), (3, 4), (2, 2)])
def test_the_bound_is_the_divergence_and_the_slack(d, k):
    problem = LinearGaussian(d, k)
    matrix, shift, anchor = problem.matrix, problem.shift, moved(problem.generator)
    got = bound(problem, matrix, shift, anchor) - divergence(problem, matrix, shift)
    assert float(got) > 0.01
    torch.testing.assert_close(got, slack(matrix, shift, anchor), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        bound(problem, matrix, shift, problem.generator), divergence(problem, matrix, shift)
    )


def closed_gradient(problem: LinearGaussian, value) -> tuple[Tensor, Tensor]:
    a = problem.generator.matrix.detach().clone().requires_grad_(True)
    b = problem.generator.shift.detach().clone().requires_grad_(True)
    return torch.autograd.grad(value(a, b), (a, b))


def estimated(objective: DiffInstruct, problem: LinearGaussian, rows: int = 64) -> list[Tensor]:
    """Draws of the gradient of the student's loss, `(400, *)`, of matrix and shift."""
    found = []
    for _ in range(400):
        with torch.no_grad():
            drawn = objective.prepare(Batch(rows), 0)
        loss = objective.student_loss(drawn, 0).value
        found.append(
            torch.autograd.grad(loss, (problem.generator.matrix, problem.generator.shift))
        )
    return [torch.stack(part) for part in zip(*found, strict=True)]


def off(got: list[Tensor], wanted: tuple[Tensor, Tensor]) -> float:
    """The largest distance of a mean gradient from what is wanted, in standard errors."""
    return max(
        float(((g.mean(0) - w).abs() / standard_error(g)).max())
        for g, w in zip(got, wanted, strict=True)
    )


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_gradient_is_that_of_the_bound_wherever_the_anchor_is(antithetic):
    problem = LinearGaussian(3, 3)
    anchor = moved(problem.generator)
    objective = anchored(problem, anchor, antithetic=antithetic)
    of_bound = closed_gradient(problem, lambda a, b: bound(problem, a, b, anchor))
    of_divergence = closed_gradient(problem, lambda a, b: divergence(problem, a, b))
    got = estimated(objective, problem)
    assert off(got, of_bound) < 5 and off(got, of_divergence) > 10
    # With the same lagging fake, Diff-Instruct's is the gradient of neither.
    plain = DiffInstruct(
        problem.teacher, problem.generator, objective.fake, levels=LEVEL, weight=torch.ones_like
    )
    got = estimated(plain, problem)
    assert off(got, of_bound) > 10 and off(got, of_divergence) > 10


def test_the_gain_multiplies_the_distance_and_nothing_else():
    problem = LinearGaussian(3, 4)
    anchor = moved(problem.generator)
    found = {}
    for gain in (1.0, 0.25):
        objective = anchored(problem, anchor, gain=gain)
        objective.streams.reset(0)
        with torch.no_grad():
            drawn = objective.prepare(Batch(32), 0)
            gap = problem.generator(drawn.z) - anchor(drawn.z)
        loss = objective.student_loss(drawn, 0).value
        found[gain] = torch.autograd.grad(loss, problem.generator.shift)[0]
    torch.testing.assert_close(found[1.0] - found[0.25], 0.75 * gap.mean(0) / SIGMA**2)


def test_noise_of_both_signs_cancels_where_the_denoisers_are_affine():
    """What is left is the gradient of the means, whatever the noise."""
    problem = LinearGaussian(3, 3)
    objective = anchored(problem, moved(problem.generator))
    with torch.no_grad():
        drawn = objective.prepare(Batch(8), 0)
    found = []
    for scale in (1.0, 3.0):
        objective.noise_like = lambda x, role="noise", s=scale: s * torch.ones_like(x)
        loss = objective.student_loss(drawn, 0).value
        found.append(torch.autograd.grad(loss, problem.generator.matrix)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_at_the_anchor_the_gradient_is_that_of_the_divergence():
    problem = LinearGaussian(3, 3)
    objective = anchored(problem, problem.generator)
    wanted = closed_gradient(problem, lambda a, b: divergence(problem, a, b))
    assert off(estimated(objective, problem), wanted) < 5


def test_a_held_anchor_makes_descent_lower_the_divergence_at_every_refresh():
    problem = LinearGaussian(2, 2, seed=3)
    row = AnchorSettings(refresh=40)
    objective = anchored(problem, problem.generator, row, levels=LEVEL)
    trainer = Trainer(objective, Optimisation.adam({"fake": 1e-3, "generator": 0.01}), steps=400)
    batches, found = DataFree(512), []
    for step in range(401):
        if step % 40 == 0:
            anchor = objective.anchor.network
            g = objective.generator
            torch.testing.assert_close(anchor.matrix.detach(), g.matrix.detach())
            found.append(divergence(problem, g.matrix.detach(), g.shift.detach()).item())
        elif step % 40 == 39:
            a, b = objective.generator.matrix.detach(), objective.generator.shift.detach()
            majorant = bound(problem, a, b, objective.anchor.network).item()
            assert divergence(problem, a, b).item() <= majorant
            # The bits that are left to descend are noise in the end.
            assert majorant <= found[-1] + 1e-3
        if step < 400:
            trainer.advance(batches)
    assert found[0] > 0.3
    assert all(b < a + 1e-3 for a, b in zip(found, found[1:], strict=False))
    assert found[-1] < found[0] / 20


def test_with_the_teachers_own_map_it_is_regression_on_pairs():
    """To rounding: the noise cancels row by row, as the fake is the teacher itself."""
    problem = LinearGaussian(3, 3)
    teacher_map = problem.networks.matched_student()
    objective = anchored(problem, teacher_map, levels=LogUniform(0.3, 3.0), weight=torch.square)
    twin = copy.deepcopy(objective)
    with torch.no_grad():
        drawn = objective.prepare(Batch(32), 0)
    loss = objective.student_loss(drawn, 0)
    got = torch.autograd.grad(loss.value, objective.generator.matrix)[0]
    z = twin.latents(32)
    # The weight of a level is w / sigma^2, here one.
    value = 0.5 * (twin.generator(z) - teacher_map(z).detach()).square().sum(1).mean()
    wanted = torch.autograd.grad(value, twin.generator.matrix)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_an_anchor_that_is_the_student_makes_it_diff_instruct_to_the_bit():
    options = {"levels": LogUniform(0.2, 5.0), "ratio": 2, "normalised": True}
    torch.manual_seed(0)
    networks = (mixture_teacher(), student(), denoiser())
    plain = DiffInstruct(*copy.deepcopy(networks), **options)
    generator = copy.deepcopy(networks[1])
    anchor = Anchor(generator, AnchorSettings(rate=1.0), 2, 6)
    other = AnchoredVarDiU(
        networks[0], generator, networks[2], anchor=anchor, antithetic=False, **options
    )
    for objective in (plain, other):
        rates = {"fake": 1e-2, "generator": 1e-2}
        Trainer(objective, Optimisation.adam(rates), steps=6).fit(DataFree(16))
    for a, b in zip(plain.generator.parameters(), other.generator.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_fake_learns_the_anchors_samples_and_not_the_students():
    problem = LinearGaussian(2, 2)
    anchor = moved(problem.generator, 1.0)
    objective = anchored(problem, anchor)
    with torch.no_grad():
        drawn = objective.prepare(Batch(20_000), 0)
        right = objective.fake_loss(drawn, 0).value
        objective.fake = AffineDenoiser(problem.generator, **RANGE)
        wrong = objective.fake_loss(drawn, 0).value
    assert right < 0.9 * wrong
    z = drawn.z
    torch.testing.assert_close(drawn.x, anchor(z).detach())


def test_a_few_step_student_and_its_anchor_make_one_call_from_one_state():
    few = FewStep(denoiser(), [5.0, 1.0, 0.3], rule="renoise")
    held = Anchor(few, AnchorSettings(), 1, 10)
    with torch.no_grad():
        for parameter in few.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    objective = AnchoredVarDiU(mixture_teacher(), few, denoiser(), levels=LEVEL, anchor=held)
    seen = set()
    for _ in range(20):
        with torch.no_grad():
            drawn = objective.prepare(Batch(4), 0)
            seen.add(drawn.call)
            torch.testing.assert_close(drawn.x, held.network.call(drawn.call, drawn.z))
            loss = objective.student_loss(drawn, 0)
        gap = few.call(drawn.call, drawn.z) - drawn.x
        torch.testing.assert_close(
            loss.info["trust"], gap.square().sum(1).mean() / (2 * SIGMA**2), rtol=1e-4, atol=0
        )
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("row", [AnchorSettings(), AnchorSettings(refresh=5, settle=1)])
def test_a_few_step_student_is_trained_towards_the_teachers_samples(row):
    torch.manual_seed(0)
    few = FewStep(denoiser(), [5.0, 1.0], rule="renoise")
    objective = AnchoredVarDiU(
        mixture_teacher(),
        few,
        denoiser(),
        levels=LogUniform(0.2, 5.0),
        anchor=Anchor(few, row, 1, 300),
    )
    z = torch.randn(500, *few.latent_shape, generator=torch.Generator().manual_seed(1))
    corners = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])

    def distance() -> float:
        with torch.no_grad():
            return float(torch.cdist(few(z), corners).amin(1).mean())

    before = distance()
    trainer = Trainer(objective, Optimisation.adam({"fake": 1e-2, "generator": 3e-3}), steps=300)
    trainer.fit(DataFree(64))
    assert distance() < 0.95 * before


def test_adapters_of_student_anchor_and_fake_share_the_teachers_weights():
    teacher = PreconditionedDenoiser(
        MLP((2,), (2,), width=8, depth=2, noisy=True), shape=(2,), sigma_data=1.0, **RANGE
    )
    frozen = copy.deepcopy(teacher.network)
    generator, fake = OneStep(adapt(teacher, 2), 5.0), adapt(teacher, 2)
    held = Anchor(generator, AnchorSettings(rate=0.25), 1, 10)
    objective = AnchoredVarDiU(teacher, generator, fake, levels=LogUniform(0.2, 5.0), anchor=held)
    networks = {
        "student": generator.denoiser.network,
        "anchor": held.network.denoiser.network,
        "fake": objective.fake.network,
    }
    assert all(network.network is teacher.network for network in networks.values())
    up = next(iter(networks["fake"].up))
    before = networks["anchor"].up[up].clone()
    trainer = Trainer(objective, Optimisation.adam({"fake": 1e-2, "generator": 1e-2}), steps=2)
    trainer.advance(DataFree(16))
    # The fake learns first: at the start the student is the teacher's own step, and no bias.
    mine, its, of_fake = (networks[n].up[up].detach() for n in ("student", "anchor", "fake"))
    assert not any(torch.equal(a, b) for a, b in ((mine, its), (its, of_fake), (mine, of_fake)))
    # The average is of the factors, and what is run is the adapter that they make.
    torch.testing.assert_close(its, before + 0.25 * (mine - before))
    x, sigma = torch.randn(4, 2), torch.ones(4)
    with torch.no_grad():
        found = [d(x, sigma) for d in (teacher, generator.denoiser, objective.fake)]
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    for a, b in zip(frozen.parameters(), teacher.network.parameters(), strict=True):
        assert torch.equal(a, b)
    for part in ("anchor", "fake", "generator"):
        size = sum(v.numel() for k, v in objective.state_dict().items() if k.startswith(part))
        assert 0 < size < sum(p.numel() for p in frozen.parameters()), part


# -------------------------------------------------------------------------------- the anchor


def test_the_nats_are_half_the_squared_distance_in_units_of_the_noise():
    x, y = torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 3.0]])
    torch.testing.assert_close(nats(x, y, torch.tensor([1.0, 3.0])), torch.tensor([4.5, 0.5]))


def test_nats_bound_the_divergence_from_the_anchors_law():
    problem = LinearGaussian(3, 3)
    anchor = moved(problem.generator)
    z = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        value = nats(problem.generator(z), anchor(z), torch.full((len(z),), SIGMA)).mean()
        mine = law(problem.generator.matrix, problem.generator.shift)
        assert gaussian_kl(*mine, *law(anchor.matrix, anchor.shift)) < value


def turns(
    row: AnchorSettings, ratio: int, steps: int, delay: int = 0
) -> tuple[list[int], list[int]]:
    """The steps at which the student is updated, and after which the anchor is the student."""
    problem = LinearGaussian(2, 2)
    anchor = Anchor(problem.generator, row, ratio, steps)
    fake = AffineDenoiser(problem.generator, **RANGE)
    objective = AnchoredVarDiU(
        problem.teacher, problem.generator, fake, levels=LEVEL, anchor=anchor, ratio=ratio
    )
    optimisation = Optimisation.adam({"fake": 1e-3, "generator": 0.1}, delay=delay)
    trainer = Trainer(objective, optimisation, steps=steps)
    batches, updated, refreshed = DataFree(8), [], []
    for step in range(steps):
        before = trainer.updates["generator"]
        trainer.advance(batches)
        if trainer.updates["generator"] > before:
            updated.append(step)
        if torch.equal(anchor.network.matrix, problem.generator.matrix) and updated:
            refreshed.append(step)
    return updated, refreshed


def test_a_held_anchor_is_refreshed_and_then_the_fake_settles():
    updated, refreshed = turns(AnchorSettings(refresh=2, settle=3), ratio=2, steps=21)
    assert updated == [3, 5, 10, 12, 17, 19]
    # Until the student moves again it is its own anchor.
    assert refreshed == [6, 7, 8, 9, 13, 14, 15, 16, 20]
    assert steps_of(AnchorSettings(refresh=2, settle=3), 6, 2) == 21


@pytest.mark.parametrize(
    "row, ratio, cycle, period",
    [
        ({}, 3, 3, 3),
        ({"refresh": 1_000}, 2, 2, 2),
        ({"refresh": 5, "settle": 20}, 1, 5, 25),
        ({"refresh": 4, "settle": 8}, 2, 4, 16),
    ],
)
def test_an_update_of_the_student_takes_its_share_of_the_steps(row, ratio, cycle, period):
    """What the progress divides by, and a rehearsal times as one: a held anchor that does not
    settle has the same turns all the time."""
    g = student()
    row = AnchorSettings(**row)
    steps = steps_of(row, 20, ratio)
    objective = AnchoredVarDiU(
        mixture_teacher(),
        g,
        denoiser(),
        levels=LogUniform(0.2, 5.0),
        anchor=Anchor(g, row, ratio, steps),
    )
    trainer = Trainer(objective, Optimisation.adam({"fake": 1e-3, "generator": 1e-3}), steps=steps)
    assert cycle_of(trainer) == cycle and steps // cycle == 20
    assert objective.phases[-1].cycle == period


def test_reports_after_a_resume_tell_of_phases_whose_turn_is_over():
    def made() -> tuple[Trainer, DataFree]:
        torch.manual_seed(0)
        g = student()
        objective = AnchoredVarDiU(
            mixture_teacher(),
            g,
            denoiser(),
            levels=LogUniform(0.2, 5.0),
            anchor=Anchor(g, AnchorSettings(), 5, 20),
        )
        rates = {"fake": 1e-3, "generator": 1e-3}
        return Trainer(objective, Optimisation.adam(rates), steps=20), DataFree(16)

    whole, batches = made()
    for _ in range(7):
        whole.advance(batches)
    state = copy.deepcopy(whole.state_dict(batches))
    again, others = made()
    again.load_state_dict(state, others)
    for trainer, source in ((whole, batches), (again, others)):
        trainer.advance(source)
    assert again.summary(False).values == whole.summary(False).values
    assert any(key.startswith("student/") for key in again.summary(False).values)


def test_a_held_anchor_may_be_trained_with_a_delay():
    # No turn is due at step 0: turns come by what happens on the way.
    updated, _ = turns(AnchorSettings(refresh=2, settle=3), ratio=2, steps=21, delay=6)
    assert updated == [10, 12, 17, 19]


def test_a_held_anchor_is_refreshed_when_the_student_has_left_it():
    updated, refreshed = turns(AnchorSettings(refresh=50, trust=1e-9), ratio=1, steps=4)
    assert updated == refreshed == [0, 1, 2, 3]
    updated, refreshed = turns(AnchorSettings(refresh=50, trust=1e9), ratio=1, steps=4)
    assert updated == [0, 1, 2, 3] and not refreshed
    # After each such refresh the fake settles, at the cost of the student's updates.
    row = AnchorSettings(refresh=50, settle=2, trust=1e-9)
    updated, refreshed = turns(row, ratio=1, steps=9)
    assert updated == [2, 5, 8] and refreshed == [*range(2, 9)]


def test_trust_is_measured_at_the_level_in_the_middle():
    problem = LinearGaussian(2, 2)
    far, z = moved(problem.generator), torch.randn(64, 2)
    x = far(z).detach()
    middle = nats(problem.generator(z), x, torch.ones(64)).mean().item()
    for share, left in ((0.99, True), (1.01, False)):
        row = AnchorSettings(refresh=50, trust=share * middle)
        objective = anchored(problem, far, row, levels=LogUniform(0.1, 10.0))
        drawn = [Fakes(z, x, Batch(64))]
        with torch.no_grad():
            assert objective.anchor.left(objective, drawn, 0) == left


def test_a_moving_average_follows_updates_by_a_rate_that_falls():
    problem = LinearGaussian(2, 2)
    anchor = Anchor(problem.generator, AnchorSettings(rate=0.8, rate_end=0.05), 1, 4)
    assert anchor.rate(0) == 0.8 and anchor.rate(4) == pytest.approx(0.05)
    assert anchor.rate(2) == pytest.approx(0.2)
    updated, refreshed = turns(AnchorSettings(rate=0.5), ratio=3, steps=7)
    assert updated == [0, 3, 6] and not refreshed
    # Between two updates the average stays where it is: half of the way after each.
    anchor = Anchor(problem.generator, AnchorSettings(rate=0.5), 3, 6)
    objective = anchored(problem, problem.generator, ratio=3)
    start, found = problem.matrix.clone(), []
    with torch.no_grad():
        problem.generator.matrix += 1
        for step in range(6):
            anchor.follow(objective, [], step)
            found.append(float((anchor.network.matrix - start).mean()))
    assert found == pytest.approx([0.5, 0.5, 0.5, 0.75, 0.75, 0.75])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"rate": 0.0}, "anchor.rate must be positive, got 0"),
        ({"rate": float("nan")}, "anchor.rate must be a finite number"),
        ({"rate_end": 1.5}, "anchor.rate_end must be at most 1, got 1.5"),
        ({"refresh": -1}, "at least 0"),
        ({"rate": 0.3, "refresh": 2}, "anchor.rate must be 0.1 with a refresh, got 0.3: an anc"),
        ({"rate_end": 0.3, "refresh": 2}, "anchor.rate_end must be none with a refresh, got 0.3"),
        ({"settle": 3}, "give a refresh"),
        ({"trust": 3.0}, "give a refresh"),
        ({"refresh": 3, "trust": float("nan")}, "anchor.trust must be a finite number"),
    ],
)
def test_wrong_anchors_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        Anchor(student(), AnchorSettings(**row), 1, 10)


def test_instruments_tell_the_distance_and_both_errors_of_the_fake():
    problem = LinearGaussian(2, 2)
    objective = anchored(problem, moved(problem.generator, 1.0), sigma_data=1.0)
    with torch.no_grad():
        values = objective.diagnostics(Batch(4_000), 0)
    near = float(values[f"trust/{SIGMA:.3g}"])
    exact = bound(problem, problem.matrix, problem.shift, moved(problem.generator, 1.0))
    assert near > float(exact) - float(divergence(problem, problem.matrix, problem.shift))
    # The fake is exact for the anchor's samples, and not for those that it has not seen.
    for u in (0.1, 0.5, 0.9):
        assert (
            values[f"fake_error_student_quantile/{u}"] > values[f"fake_error_anchor_quantile/{u}"]
        )


# ------------------------------------------------------------------------- with everything else


@pytest.mark.parametrize(
    ("row", "updates"),
    [
        (AnchorSettings(rate=0.25), 6),
        (AnchorSettings(refresh=2), 6),
        (AnchorSettings(refresh=4, settle=1, trust=1e-4), 3),
    ],
)
def test_compiled_networks_are_trained_alike(row, updates):
    weights = []
    for economy in (Economy(), Economy(compile="all", backend="eager")):
        torch.manual_seed(0)
        generator = OneStep(denoiser(), 1.0)
        held = Anchor(generator, row, 1, 6)
        objective = AnchoredVarDiU(
            mixture_teacher(), generator, denoiser(), levels=LogUniform(0.2, 5.0), anchor=held
        )
        economy.apply(objective)
        optimisation = Optimisation.adam({"fake": 1e-2, "generator": 1e-2})
        trainer, batches = Trainer(objective, optimisation, steps=6), DataFree(16)
        for _ in range(6):
            trainer.advance(batches)
        assert trainer.updates["generator"] == updates
        weights.append(objective.state_dict())
    for name, value in weights[0].items():
        if "extra_state" not in name:
            torch.testing.assert_close(value, weights[1][name], rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("few_calls")
@pytest.mark.slow
def test_a_pipeline_of_texts_is_distilled_by_adapters_with_guidance(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    # Of random weights: it does not denoise, and need not here.
    monkeypatch.setattr("vardiu.runs.distill.checked", lambda *_: None)
    pipelines.stable(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    words = f"""--posterior anchored --teacher {tmp_path}/teacher --prompts {tmp_path}/prompts.txt
        --student lora --rank 2 --guidance 2 --steps 4 --batch 4 --delay 0 --accumulate 2
        --pairs.pairs 8 --pairs.steps 2 --pairs.solver-steps 2 --regression-weight 1
        --samples 100 --reference 200 --reports 1 --evaluations 1 --precision float32
        --out {tmp_path}/run --threads 1"""
    assert main(["distill", "images-vardiu", *words.split()]) in (None, 0)
    rows = [json.loads(row) for row in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    values = {name for row in rows for name in row}
    assert {"student/trust", "student/regression"} <= values
    assert any(name.startswith("fake_error_student_quantile") for name in values)
    assert (tmp_path / "run/result.json").is_file()
