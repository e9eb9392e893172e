"""Consistency distillation: a linear student finds the solver's own map, the boundary holds."""

from __future__ import annotations

import math

import pytest
import torch
from cases import denoiser
from consistent import HIGH, LOW, PerLevel, V, line, prepared, products, solver_factors, variances
from problems import mixture_teacher

from vardiu import models
from vardiu.data.batch import Batch
from vardiu.data.batches import Shuffled
from vardiu.denoisers.adapted import AdaptedDenoiser
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.consistency import ConsistencyDenoiser
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import karras_grid
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.denoisers.prompts import Captioned, Captions
from vardiu.denoisers.schedules import Flow, VarianceExploding, VariancePreserving
from vardiu.errors import ConfigError
from vardiu.functional.distances import DISTANCES, distance_of
from vardiu.methods.consistency import ConsistencyDistillation, Settings
from vardiu.metrics.transport import wasserstein2_sliced
from vardiu.nn import MLP
from vardiu.problems.toy import ToyProblem
from vardiu.samplers.ode import Heun
from vardiu.students.few_step import FewStep, OneStep
from vardiu.students.prompted import with_prompts, without_prompts
from vardiu.training.optimizers import Optimisation, OptimizerRow, cosine
from vardiu.training.trainer import Trainer


def linear_case(n, correct, **options):
    grid = karras_grid(n, LOW, HIGH)[:-1]
    grid[0], grid[-1] = HIGH, LOW
    network = ConsistencyDenoiser(PerLevel(grid))
    options = {"target_decay": 0.0, **options}
    return ConsistencyDistillation(line(), network, grid=n, correct=correct, **options)


def set_map(objective, factors):
    """Gives the network (and its target) the factors of a map f, the last of which is one."""
    grid = objective.grid
    moved = (grid - LOW) / grid
    inner = 1 - (1 - factors) / moved.clamp_min(1e-300)
    with torch.no_grad():
        for network in (objective.generator, objective.target.network):
            network.denoiser.factor.copy_(torch.where(moved > 0, inner, 0.5))


def batch(n=2_000):
    return Batch.of(math.sqrt(V) * torch.randn(n, 1))


# ---------------------------------------------------------------- the fixed point


@pytest.mark.parametrize(
    "n, correct, std",
    [
        (10, False, 0.36523),
        (10, True, 0.60982),
        (18, False, 0.42305),
        (18, True, 0.52764),
        (40, False, 0.46487),
        (40, True, 0.50489),
        (80, False, 0.48234),
        (80, True, 0.50116),
    ],
)
def test_a_linear_student_converges_to_the_solvers_map_and_not_to_the_exact_one(n, correct, std):
    """Newton's steps on the library's own loss, which is quadratic; the target follows each."""
    objective = linear_case(n, correct)
    factor = objective.generator.denoiser.factor
    for step in range(n - 1):
        drawn = prepared(objective, batch(40 * n))
        value = objective.loss(drawn, step).value
        (gradient,) = torch.autograd.grad(value, factor, create_graph=True)
        (curvature,) = torch.autograd.grad(gradient.sum(), factor)
        assert (curvature[:-1] > 0).all() and curvature[-1] == 0  # each level was drawn
        with torch.no_grad():
            factor[:-1] -= gradient[:-1] / curvature[:-1]
            objective.remember([drawn], step)
    x = torch.ones(1, 1)
    theta = objective.generator(x, x.new_full((1,), HIGH)).item()
    assert theta * math.sqrt(V + HIGH**2) == pytest.approx(std, abs=6e-6)
    assert theta == pytest.approx(solver_factors(objective.grid, correct).prod().item(), rel=1e-9)
    # What is sampled starts from noise alone, which lacks the variance of the data.
    student = objective.student_of(objective.generator)
    assert student(x).item() == pytest.approx(theta * HIGH)
    assert abs(std - 0.5) > 1e-3


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_solvers_map_has_no_loss_and_the_other_solvers_has(correct, distance):
    objective = linear_case(12, correct, distance=distance_of(distance, 0.03))
    set_map(objective, products(solver_factors(objective.grid, correct)))
    drawn = prepared(objective, batch())
    assert objective.loss(drawn, 0).value.item() == pytest.approx(0, abs=1e-11)
    set_map(objective, products(solver_factors(objective.grid, not correct)))
    drawn = prepared(objective, batch())
    assert objective.loss(drawn, 0).value.item() > 1e-6


# ---------------------------------------------------------------- the loss


def test_a_step_is_prepared_as_written_and_each_network_is_told_its_own_level():
    objective = linear_case(6, True, weight=lambda sigma: 1 / sigma)
    teacher, asked = objective.teacher.module, []
    teacher.register_forward_pre_hook(lambda module, given: asked.append(given))
    drawn = prepared(objective, batch(600))
    places = (drawn.sigma[:, None] == objective.grid).int().argmax(1)
    counts = places.bincount(minlength=6)
    assert counts[-1] == 0 and (counts[:-1] - 120).abs().max() < 5 * math.sqrt(120)
    lower = objective.grid[places + 1]
    (x_t, first), (_, second) = asked
    assert torch.equal(x_t, drawn.x_t)
    assert torch.equal(first, drawn.sigma) and torch.equal(second, lower)
    (told,) = objective.target.network.denoiser.asked
    assert torch.equal(told, lower) and not objective.generator.denoiser.asked
    assert objective.teacher_cost == (2, 1200)
    x_next = solver_factors(objective.grid, True)[places][:, None] * x_t
    torch.testing.assert_close(drawn.value, objective.target(x_next, lower))
    loss = objective.loss(drawn, 0)
    error = (objective.generator(x_t, drawn.sigma) - drawn.value).square()
    torch.testing.assert_close(loss.value, (error[:, 0] / drawn.sigma).mean())
    torch.testing.assert_close(loss.info["squared_error"], error.mean().detach())


def test_the_gradient_is_that_of_the_first_network_alone():
    network = ConsistencyDenoiser(denoiser())
    teacher = denoiser()  # with weights: a gradient could flow through the solver
    objective = ConsistencyDistillation(teacher, network, grid=5, target_decay=0.0)
    drawn = prepared(objective, Batch.of(torch.randn(40, 2)))
    assert not drawn.value.requires_grad and not drawn.x_t.requires_grad
    objective.loss(drawn, 0).value.backward()
    ours = [p.grad.clone() for p in network.parameters()]
    held = [*objective.target.parameters(), *teacher.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in held)
    difference = network(drawn.x_t, drawn.sigma) - drawn.value.clone()
    wanted = torch.autograd.grad(difference.square().mean(), list(network.parameters()))
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_preparing_changes_nothing_and_draws_from_the_streams():
    objective = linear_case(6, False)
    before = {
        k: v.clone() for k, v in objective.state_dict().items() if k != "teacher._extra_state"
    }
    given = batch(20)
    objective.streams.reset(3)
    first = prepared(objective, given)
    objective.streams.reset(3)
    second = prepared(objective, given)
    assert torch.equal(first.x_t, second.x_t) and torch.equal(first.value, second.value)
    assert all(torch.equal(v, objective.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("decay", [0.0, 0.75])
def test_the_target_follows_after_each_update(decay):
    objective = linear_case(6, False, target_decay=decay)
    online, target = objective.generator.denoiser.factor, objective.target.network.denoiser.factor
    optimisation = Optimisation({"generator": OptimizerRow(kind="sgd", lr=1e-3, betas=(0.0, 0.0))})
    trainer = Trainer(objective, optimisation, steps=3)
    batches = Shuffled(batch(64).x, {}, 64, seed=0)
    for _ in range(3):
        before, start = target.clone(), online.detach().clone()
        trainer.advance(batches)
        assert not torch.equal(online, start)
        torch.testing.assert_close(target, decay * before + (1 - decay) * online.detach())


# ---------------------------------------------------------------- the boundary


def network():
    return MLP((2,), (2,), width=8, depth=2, noisy=True)


ABLE = {
    "preconditioned": lambda: PreconditionedDenoiser(
        network(), shape=(2,), sigma_data=0.5, sigma_min=0.3, sigma_max=80.0, mean=0.7
    ),
    "epsilon": lambda: AdaptedDenoiser(
        network(),
        VariancePreserving((torch.logspace(-1, 1, 50)).tolist()),
        prediction="epsilon",
        shape=(2,),
    ),
    "flow": lambda: AdaptedDenoiser(
        network(), Flow(terminal=True, t_min=0.2), prediction="flow", shape=(2,)
    ),
    "score": lambda: AdaptedDenoiser(
        network(), VarianceExploding(0.1, 9.0), prediction="score", shape=(2,)
    ),
}


@pytest.mark.parametrize("name", ABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_smallest_level_it_is_the_identity_at_any_weights(name, dtype):
    inner = ABLE[name]().to(dtype)
    for low in (inner.sigma_min, 2 * inner.sigma_min):
        f = ConsistencyDenoiser(inner, low)
        x = 5 * torch.randn(50, 2, dtype=dtype)
        assert not f.terminal and f.sigma_min == low and f.latent_sigma == inner.sigma_max
        level = x.new_full((50,), low)
        assert (f(x, level) - x).abs().max() <= 1e-12
        # The denoiser itself is not: with its own scalings the fixed point would drift.
        assert (inner(x, level) - x).abs().max() > 1e-3
        assert (f(x, 1.5 * level) - x).abs().max() > 1e-3


def test_it_is_edms_preconditioning_with_one_level_of_each_numerator_moved():
    inner = ABLE["preconditioned"]()
    inner.mean.zero_()
    f, x, sigma = ConsistencyDenoiser(inner), torch.randn(9, 2), torch.logspace(-0.5, 1.9, 9)
    s, d, low = sigma[:, None], 0.5, inner.sigma_min
    output = inner.network(x / (s**2 + d**2).sqrt(), sigma.log() / 4)
    skip = 1 - s * (s - low) / (s**2 + d**2)
    out = d * (s - low) / (s**2 + d**2).sqrt()
    torch.testing.assert_close(f(x, sigma), skip * x + out * output, rtol=1e-12, atol=1e-12)
    # It is also a step of Euler's method to the smallest level.
    euler = x + (low - s) * (x - inner(x, sigma)) / s
    torch.testing.assert_close(f(x, sigma), euler, rtol=1e-12, atol=1e-12)


def test_features_conditions_and_starts_pass_through():
    f, x = ConsistencyDenoiser(denoiser(2)), torch.randn(6, 2)
    sigma, label = torch.full((6,), 1.0), torch.arange(6) % 2
    assert f.conditions == ("label",) and f.taps == f.denoiser.taps and f.bottleneck in f.taps
    value, kept = f.features(x, sigma, (f.bottleneck,), label=label)
    assert torch.equal(value, f(x, sigma, label=label)) and kept[f.bottleneck].shape[0] == 6
    twin = f.trainable_copy()
    assert isinstance(twin, ConsistencyDenoiser) and twin.training
    assert torch.equal(twin(x, sigma, label=label), value)
    assert twin.denoiser is not f.denoiser


def test_a_latent_is_shown_to_the_network_as_its_own_input():
    inner = ABLE["epsilon"]()
    f, z = ConsistencyDenoiser(inner), torch.randn(4, 2)
    x_t = z * math.sqrt(1 + inner.sigma_max**2)  # a variance-preserving network's unit noise
    wanted = f(x_t, torch.full((4,), inner.sigma_max))
    torch.testing.assert_close(OneStep(f)(z), wanted, rtol=1e-5, atol=1e-5)


def test_levels_out_of_range_are_refused():
    for low, high in ((0.01, None), (None, 99.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match=r"within \[0.1, 8\], the denoiser's range"):
            ConsistencyDenoiser(denoiser(), low, high)
    with pytest.raises(ValueError, match="must be positive"):
        ConsistencyDenoiser(GaussianDenoiser(torch.zeros(1), torch.ones(1)))
    with pytest.raises(ValueError, match="calls must be at least 1 and below grid=3, got 3"):
        ConsistencyDistillation(denoiser(), ConsistencyDenoiser(denoiser()), grid=3, calls=3)
    with pytest.raises(ConfigError, match=r"sampling_steps must be within \[1, grid=40\), got 40"):
        Settings(sampling_steps=40)
    with pytest.raises(ConfigError, match=r"target_decay must be within \[0, 1\), got 1"):
        Settings(target_decay=1.0)


# ---------------------------------------------------------------- sampling


class Line(Denoiser):
    """A denoiser that is a factor of each level."""

    shape, sigma_min, sigma_max = (1,), 0.3, 80.0

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x_t, sigma, **cond):
        return self.factor(sigma)[:, None] * x_t


@pytest.mark.parametrize("calls", [2, 5])
def test_the_exact_map_keeps_its_variance_over_calls_and_a_denoiser_contracts(calls):
    low = Line.sigma_min

    def inner(s):  # the denoiser whose reparametrisation is the exact map
        exact = ((V + low**2) / (V + s.square())).sqrt()
        return 1 - (1 - exact) * s / (s - low)

    f = ConsistencyDenoiser(Line(inner))
    objective = ConsistencyDistillation(line(V, low), f, grid=11, calls=calls)
    student = objective.student_of(f)
    wanted = [round(i * 10 / calls) for i in range(calls)]
    assert student.sigmas == objective.grid[wanted].tolist() and student.floor == low
    found = list(variances(student, V + HIGH**2))
    assert found == pytest.approx([V + low**2] * calls, rel=1e-12)
    # Noise of the whole level counts that of the smallest one twice.
    other = list(variances(FewStep(f, student.sigmas), V + HIGH**2))
    assert other[0] == pytest.approx(V + low**2) and other[-1] > (V + low**2) * 1.001
    plain = FewStep(Line(lambda s: V / (V + s.square())), student.sigmas)
    *_, last = variances(plain, V + HIGH**2)
    assert last < 0.75 * V


def test_a_student_of_one_call_asks_at_the_largest_level():
    f = ConsistencyDenoiser(denoiser(), sigma_max=4.0)
    objective = ConsistencyDistillation(denoiser(), f, grid=5)
    student = objective.student_of(f)
    assert student.calls == 1 and student.sigmas == [4.0]
    z = torch.randn(3, 1, 2)
    assert torch.equal(student(z), OneStep(f)(z[:, 0]))
    more = student.train().with_calls(4)
    assert more.calls == 4 and more.sigmas == objective.grid[:-1].tolist() and more.training
    assert more.floor == 0.1 and more.with_calls(1).sigmas == [4.0]
    for calls in (0, 5):
        with pytest.raises(ValueError, match=f"a sample in 1 to 4 calls, got {calls}"):
            student.with_calls(calls)
    with pytest.raises(ValueError, match="in 1 call and no other number, got 2"):
        OneStep(f).with_calls(2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([4.0, 1.0], "renoise", 1.1), r"floor must be within \[0, 1\]"),
        (([4.0, 1.0], "renoise", -0.1), r"got -0.1 for 'renoise'"),
        (([4.0, 1.0], "ddim", 0.1), r"got 0.1 for 'ddim'"),
    ],
)
def test_a_floor_that_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FewStep(denoiser(), *arguments)


def test_students_are_saved_and_read_back(tmp_path):
    torch.set_default_dtype(torch.float32)
    objective = ConsistencyDistillation(
        mixture_teacher(labels=True), ConsistencyDenoiser(denoiser(2)), grid=5, calls=3
    )
    student = objective.student_of(objective.generator).eval()
    models.save(student, tmp_path / "a")
    loaded = models.load(tmp_path / "a")
    z, label = torch.randn(5, *student.latent_shape), torch.arange(5) % 2
    assert torch.equal(loaded(z, label=label), student(z, label=label))
    assert loaded.floor == 0.1 and loaded.sigmas == student.sigmas
    assert loaded.with_calls(2).sigmas == student.with_calls(2).sigmas != student.sigmas


def test_prompts_are_stripped_inside_and_given_back_outside():
    captions = Captions({"label": torch.tensor([1, 0, 1])})
    student = OneStep(ConsistencyDenoiser(Captioned(denoiser(2), captions)))
    z, label = torch.randn(3, 2), torch.tensor([0, 1, 2])
    alone = without_prompts(student)
    assert type(alone.denoiser.denoiser) is PreconditionedDenoiser
    wanted = student(z, label=label)
    assert torch.equal(alone(z, label=torch.tensor([1, 0, 1])), wanted)
    assert torch.equal(with_prompts(alone, captions)(z, label=label), wanted)


# ---------------------------------------------------------------- a short training


def test_a_mixture_is_learned_in_seconds():
    torch.set_default_dtype(torch.float32)
    problem, random = ToyProblem(), torch.Generator().manual_seed(0)
    inner = PreconditionedDenoiser(
        MLP((2,), (2,), width=64, depth=3, noisy=True),
        shape=(2,),
        sigma_data=2.0,
        sigma_min=0.1,
        sigma_max=8.0,
    )
    objective = ConsistencyDistillation(
        problem.teacher, ConsistencyDenoiser(inner), grid=8, target_decay=0.9, calls=2
    )
    z = torch.randn(1000, 2, generator=random)
    x = Heun(problem.teacher, karras_grid(64, 0.1, 8.0)[:-1])(8 * z)

    def errors(f):
        """E ||f - f*||^2 and its standard error, from noise alone."""
        with torch.no_grad():
            found = (OneStep(f)(z) - x).square().sum(1)
        return found.mean().item(), found.std().item() / math.sqrt(len(z))

    start, _ = errors(objective.generator)
    row = OptimizerRow(lr=1e-2, clip=1.0)
    trainer = Trainer(objective, Optimisation({"generator": row}, cosine, 20_000.0), steps=700)
    network = trainer.fit(problem.data.clean(128, 0))
    end, error = errors(network)
    assert end + 5 * error < 0.15 * start
    truth, _ = problem.data.draw(4000, random)
    found = {}
    for student in (OneStep(network), objective.student_of(network)):
        samples = student.sample(4000, generator=torch.Generator().manual_seed(1))
        draw = torch.Generator().manual_seed(2)
        found[student.calls] = wasserstein2_sliced(samples, truth, generator=draw)
    noise = math.hypot(*(metric.error for metric in found.values()))
    assert found[2].value < found[1].value + 4 * noise
    assert found[1].value < 0.3
