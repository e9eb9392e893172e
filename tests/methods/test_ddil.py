"""DDIL: what the laws of states make of a student, in closed form, and what a buffer keeps."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from cases import batch_of, is_noised, last_stage
from torch import Tensor, nn

from vardiu.cli.main import main
from vardiu.data.batch import Batch
from vardiu.data.batches import Shuffled
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.denoisers.reflected import Reflected
from vardiu.errors import ConfigError
from vardiu.functional.scores import truncated_snr
from vardiu.functional.thresholds import thresholded
from vardiu.functional.trajectories import step
from vardiu.methods import METHODS
from vardiu.methods.ddil import FAKE, METHOD, SOME, TINY, Settings, based, recipe
from vardiu.methods.imitated import FINER, noised_call, path_between
from vardiu.methods.progressive import ProgressiveDistillation, noised
from vardiu.problems.toy import ToyProblem
from vardiu.samplers.trajectories import trajectory
from vardiu.settings.fields import StateSettings
from vardiu.training.optimizers import Optimisation
from vardiu.training.stage import Context, Trained
from vardiu.training.states import Mixture, Path, Shares
from vardiu.training.trainer import Trainer

SNR = partial(truncated_snr, sigma_data=1.0)
WIDE = {"sigma_min": 1e-9, "sigma_max": 2e16}
MIXTURES = [(0.0, 0.0), (0.0, 1.0), (0.0, 0.5), (1.0, 0.0), (0.3, 0.3)]


def cosine(n: int) -> Tensor:
    """The levels tan(pi u / 2) of alpha = cos(pi u / 2) at u = 1, 1 - 1/n, ..., 0."""
    return (math.pi * torch.linspace(1, 0, n + 1) / 2).tan()


def alpha(sigma: Tensor) -> Tensor:
    return 1 / (1 + sigma.square()).sqrt()


class Linear(Denoiser):
    """A denoiser of one factor of the variance-preserving state a level."""

    shape = (1,)

    def __init__(self, levels: Tensor, factors: list[float]) -> None:
        super().__init__()
        self.levels, self.sigma_min, self.sigma_max = levels, float(levels[-1]), float(levels[0])
        self.factors = nn.Parameter(torch.tensor(factors) * alpha(levels))

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        at = sigma[:, None] == self.levels
        assert at.any(1).all()  # a state is asked at its own level
        return (at * self.factors).sum(1)[:, None] * x_t


def imitated(
    teacher: Denoiser, steps: int, shares: tuple[float, float], factors: list[float]
) -> ProgressiveDistillation:
    """A linear student of half the steps, at states of a mixture without a buffer."""
    grid, calls = cosine(steps), steps // 2
    stops = torch.arange(calls) * 2
    path = Path(grid[: int(stops[-1]) + 1], stops)
    states = Mixture(noised, Shares(*shares), path, (1,), {}, batch=8, replay=0)
    student = Linear(grid[:-1:2], factors)
    objective = ProgressiveDistillation(teacher, student, grid, weight=SNR, states=states)
    objective.streams.reset(0)
    return objective


def asked(objective: ProgressiveDistillation, place: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """States at a place, and what the student is taught there, variance-preserving."""
    objective.quantiles = lambda rows: x.new_full((rows,), (place + 0.5) / objective.calls)
    with torch.no_grad():
        drawn = objective.prepare(Batch.of(x), 0)
    return drawn.x_t * alpha(drawn.sigma[:1]), drawn.target


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("shares", MIXTURES)
def test_a_student_that_can_be_right_is_the_same_for_every_mixture(shares):
    teacher = GaussianDenoiser(torch.zeros(1), 0.25 * torch.ones(1), **WIDE)
    wanted = [0.0255946497, 0.1410545261, 0.3412660231, 0.7368092434]
    objective = imitated(teacher, 8, shares, [0.1, 0.2, 0.3, 0.4])  # wrong: its path is as well
    for place, factor in enumerate(wanted):
        x, target = asked(objective, place, 0.5 * torch.randn(64, 1))
        torch.testing.assert_close(target / x, torch.full_like(x, factor), rtol=0, atol=1e-9)
    student = imitated(teacher, 8, shares, wanted).student_of(objective.network("generator"))
    student.denoiser.factors.data = torch.tensor(wanted) * alpha(cosine(8)[:-1:2])
    assert abs(student(torch.ones(1, 1))).item() == pytest.approx(0.4113754689, abs=1e-9)


BIMODAL = {
    (0.0, 0.0): 0.84637,
    (0.0, 1.0): 0.93741,
    (0.0, 0.5): 0.88470,
    (1.0, 0.0): 0.94390,
}


@pytest.mark.parametrize("shares", sorted(BIMODAL))
def test_the_second_step_of_a_student_that_cannot_be_right_depends_on_the_mixture(shares):
    teacher = MixtureDenoiser(torch.tensor([[-1.0], [1.0]]), 0.2, **WIDE)
    x = torch.tensor([-1.0, 1.0]).repeat(60_000)[:, None] + 0.2 * torch.randn(120_000, 1)
    first = imitated(teacher, 4, shares, [0.0, 0.0])
    at, target = asked(first, 0, x)
    found = float((at * target).sum() / at.square().sum())
    assert found == pytest.approx(0.21800, abs=3e-3)  # at pure noise there is one law
    second = imitated(teacher, 4, shares, [0.21800, 0.0])
    at, target = asked(second, 1, x)
    found = float((at * target).sum() / at.square().sum())
    assert found == pytest.approx(BIMODAL[shares], abs=4e-3)
    stds = {(0.0, 0.0): 1.00995, (0.0, 1.0): 0.86126, (1.0, 0.0): math.sqrt(0.742)}
    if shares in stds:
        assert float(at.std()) == pytest.approx(stds[shares], abs=6e-3)
    # What is missed at these states by the factor of noised data, and by that of own states.
    missed = {(0.0, 0.0): (0.16535, 0.17380), (0.0, 1.0): (0.17768, 0.17153)}
    for factor, wanted in zip((0.84637, 0.93741), missed.get(shares, ()), strict=False):
        assert float((factor * at - target).square().mean()) == pytest.approx(wanted, abs=2e-3)


def test_states_of_a_teachers_path_are_those_of_noised_data_where_its_steps_are_fine():
    """Second moments in the middle of two modes' path: 0.742 of two steps, 1.017 of 200."""
    teacher = MixtureDenoiser(torch.tensor([[-1.0], [1.0]]), 0.2, **WIDE)
    x = torch.special.ndtri((torch.arange(2_000.0) + 0.5) / 2_000)[:, None]
    for steps, wanted in ((2, 0.742), (200, 1.017)):
        levels = cosine(2 * steps)[: steps + 1]
        *_, at = trajectory(teacher, levels[0] * x, levels)
        moment = float((at * alpha(levels[-1])).square().mean())
        assert moment == pytest.approx(wanted, abs=3e-3)
    assert 0.5 * (1 + 0.04) + 0.5 == pytest.approx(1.020)  # of noised data


@pytest.mark.parametrize(
    ("steps", "ends"), [(8, (0.411375, 0.534841)), (64, (0.488094, 0.619517))]
)
def test_the_fixed_point_of_consistency_is_the_path_of_its_grid(steps, ends):
    """Factors of the variance-preserving state at the largest level and in the middle; of the
    exact equation 0.5 and 0.632456."""
    teacher = GaussianDenoiser(torch.zeros(1), 0.25 * torch.ones(1), **WIDE)
    levels = cosine(steps)
    levels[-1] = 0
    for start, wanted in zip((0, steps // 2), ends, strict=True):
        *_, x = trajectory(teacher, (1 / alpha(levels[start])).expand(1, 1), levels[start:])
        assert float(x) == pytest.approx(wanted, abs=1e-6)
    exact = math.sqrt(0.25 / (0.25 * 0.5 + 0.5))
    assert exact == pytest.approx(0.632456, abs=1e-6)


def test_three_sources_are_one_law_where_the_student_is_the_teacher_of_fine_steps():
    teacher = GaussianDenoiser(torch.zeros(1), 0.25 * torch.ones(1), **WIDE)
    levels = cosine(128)[:-1:2]
    factors = (
        0.25 * alpha(levels) / (0.25 * alpha(levels) ** 2 + 1 - alpha(levels) ** 2)
    ).tolist()
    found = {}
    for shares in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0)):
        objective = imitated(teacher, 128, shares, factors)
        at, _ = asked(objective, 32, 0.5 * torch.randn(10_000, 1))
        found[shares] = float(at.std())
    assert found[0.0, 0.0] == pytest.approx(0.79057, abs=0.02)
    assert found[0.0, 1.0] == pytest.approx(0.78786, abs=0.02)
    assert found[1.0, 0.0] == pytest.approx(0.789, abs=0.02)


def test_a_threshold_takes_the_noise_that_it_implies():
    x_t, sigma, target = torch.tensor([[1.7 / 0.6]]), torch.tensor([0.8 / 0.6]), 0.6 / 0.8

    class Constant(Denoiser):
        shape, sigma_min, sigma_max = (1,), 0.1, 10.0

        def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
            return torch.full_like(x_t, 1.5)

    for bound, wanted in ((1.0, 1.625), (2.0, 0.8 * 1.5 + 0.6 * 1.0)):
        denoised = Reflected(Constant(), bound)(x_t, sigma)
        x_next = step(x_t, sigma, torch.tensor([target]), denoised)
        assert 0.8 * x_next.item() == pytest.approx(wanted, abs=1e-12)
    x = 3 * torch.randn(4, 9)
    assert torch.equal(thresholded(x, 100.0), x) and torch.equal(thresholded(x, math.inf, 0.5), x)
    wide = x.abs().quantile(0.8, dim=1, keepdim=True).clamp_min(1.0)
    torch.testing.assert_close(thresholded(x, 1.0, 0.8), x.clamp(-wide, wide) / wide)
    with pytest.raises(ValueError, match="a bound must be positive"):
        Reflected(Constant(), 0.0)


# ---------------------------------------------------------------- the base, and the buffers


def trained(stages, settings) -> dict[str, Tensor]:
    """The weights that a recipe ends with."""
    torch.manual_seed(0)
    stage = next(stages)
    while True:
        trainer = Trainer(stage.objective, stage.optimisation, steps=min(5, stage.steps))
        trainer.fit(stage.batches)
        try:
            stage = stages.send(Trained(trainer.average.module, stage.objective))
        except StopIteration:
            return dict(stage.objective.network("generator").named_parameters())


NONE = StateSettings(teacher=0.0, student=0.0)
OWN = StateSettings(teacher=0.0, student=1.0, start=0.0, ramp=0.0, replay=0)


@pytest.mark.parametrize(
    ("settings", "student"),
    [
        (replace(TINY, states=NONE), "pushforward"),
        (replace(TINY, base="consistency", states=NONE), "pushforward"),
        (replace(FAKE, states=OWN), "few_step"),
    ],
)
def test_without_states_of_others_it_is_the_base_method_to_the_bit(settings, student):
    found = trained(recipe(ToyProblem(student=student), settings, Context()), settings)
    base = METHODS[settings.base]
    row = based(settings, ToyProblem().settings)
    wanted = trained(base.recipe(ToyProblem(student=student), row, Context()), row)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in found)


class Labelled(Denoiser):
    """The label is the answer."""

    shape, sigma_min, sigma_max, conditions = (2,), 0.1, 8.0, ("label",)

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return self.one * cond["label"].to(x_t)[:, None].expand_as(x_t)


def labelled(shares: Shares, **options: int) -> ProgressiveDistillation:
    grid = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.0])
    path = Path(grid[:5], torch.tensor([0, 2, 4]))
    states = Mixture(noised, shares, path, (2,), {"label": torch.arange(50)}, batch=6, **options)
    objective = ProgressiveDistillation(Labelled(), Labelled(), grid, weight=SNR, states=states)
    objective.streams.reset(1)
    return objective


def test_kept_states_have_the_level_and_the_conditions_that_they_were_made_at():
    objective = labelled(Shares(0.3, 0.3), replay=3, refill=2)
    x = torch.randn(6, 2)
    batches = Shuffled(x, {"label": 100 + torch.arange(6)}, 6)
    trainer = Trainer(objective, Optimisation.adam({"generator": 1e-12}), steps=20)
    for count in range(1, 16):
        trainer.advance(batches)
        for ring in objective.states.rings.values():
            assert ring.count == min(6 * (1 + count // 2), 18)
            assert int(ring.born.filled.min()) >= count - 2 * 3  # the oldest is so old at most
            kept, cond = ring.take(torch.tensor([5, 0, 3]))
            torch.testing.assert_close(
                (kept[:, 1] - kept[:, 0] / 4) / (1 - 1 / 4),
                cond["label"][:, None].expand(-1, 2).to(kept),
            )
            label = ring.cond["label"].filled
            assert bool((label < 50).all())
            first, second, third = ring.states.filled.unbind(1)
            for a, b in ((first, second), (second, third)):
                torch.testing.assert_close(
                    (b - a / 4) / (1 - 1 / 4), label[:, None].expand(-1, 2).to(a)
                )
    with torch.no_grad():
        drawn = objective.prepare(Batch.of(x, {"label": 100 + torch.arange(6)}), 16)
    assert not drawn.x_t.requires_grad
    torch.testing.assert_close(drawn.target, drawn.cond["label"][:, None].expand(-1, 2).to(x))
    assert objective.row_coupling and not labelled(Shares(0.3, 0.3), replay=0).row_coupling


def test_sources_are_as_frequent_as_their_shares_and_those_follow_the_schedule():
    objective, n = labelled(Shares(0.2, 0.5, start=10, ramp=10), replay=0), 4_000
    batch = Batch.of(torch.zeros(n, 2), {"label": torch.zeros(n, dtype=torch.long)})
    counted = {}

    def paths(of, source, rows, cond):
        return torch.full((rows, 3, 2), {"teacher": 7.0, "student": 9.0}[source])

    objective.states.paths = paths
    for at in (0, 10, 15, 20, 99):
        place = torch.zeros(n, dtype=torch.long)
        x_t = objective.states(objective, batch, place, at).x_t[:, 0]
        counted[at] = [float((x_t == value).double().mean()) for value in (7.0, 9.0)]
    for at, grown in ((0, 0.0), (10, 0.0), (15, 0.5), (20, 1.0), (99, 1.0)):
        for share, found in zip((0.2, 0.5), counted[at], strict=True):
            expected = grown * share
            assert abs(found - expected) <= 3 * math.sqrt(expected * (1 - expected) / n)


def test_shares_grow_within_each_stage_and_paths_come_no_faster_than_their_calls():
    row = replace(SOME, start=0.2, ramp=0.5, refill=1)
    # 99 is not divided by the shares: the last stage's length is what the others leave.
    settings = replace(TINY, steps=99, grid=8, states=row)
    stages, sent, found = recipe(ToyProblem(), settings, Context()), None, []
    with contextlib.suppress(StopIteration):
        while True:
            stage = stages.send(sent)
            sent = SimpleNamespace(network=stage.objective.network("generator"))
            if isinstance(states := stage.objective.states, Mixture):
                found.append((stage.steps, stage.objective.calls, states))
    assert [(steps, calls) for steps, calls, _ in found] == [(25, 4), (49, 2)]
    for steps, calls, states in found:
        assert (states.shares.start, states.shares.ramp) == (
            round(0.2 * steps),
            round(0.5 * steps),
        )
        assert states.refill == calls


def test_a_path_is_run_without_dropout_and_leaves_the_mode_as_it_was():
    objective = labelled(Shares(0.0, 1.0), replay=0)
    network, modes = objective.network("generator"), []
    network.register_forward_hook(lambda module, given, out: modes.append(module.training))
    objective.train()
    with torch.no_grad():
        objective.states.paths(objective, "student", 4, {"label": torch.arange(4)})
    assert modes == [False] * 3 and network.training


def test_estimates_of_the_target_and_of_the_fake_are_thresholded_and_no_others():
    objective = last_stage("ddil-consistency").objective
    batch = batch_of(objective)
    objective.threshold = lambda value: 0 * value + 7.0
    with torch.no_grad():
        drawn = objective.prepare(batch, 0)
        own = objective.answer(
            objective.network("generator"), drawn.x_t, drawn.sigma, drawn.left, drawn.cond
        )
    assert bool((drawn.value == 7.0).all()) and not bool((own == 7.0).any())
    objective, given = last_stage("ddil-dmd2").objective, torch.randn(6, 2)
    objective.weight, objective.normalised = torch.ones_like, False
    directions = []
    for shift in (0.0, 3.0):
        objective.threshold = lambda mean, shift=shift: mean + shift
        x = given.clone().requires_grad_(True)
        loss = objective.directed(x, given, torch.full((6,), 2.0), {}, torch.zeros(6, 2)).value
        directions.append(torch.autograd.grad(loss, x)[0])
    torch.testing.assert_close(directions[1] - directions[0], torch.full((6, 2), 3.0 / 4 / 6))


def test_states_of_a_student_of_dmd2_are_at_the_levels_of_its_calls():
    objective = last_stage("ddil-dmd2").objective
    sigmas, x = objective.generator.sigmas, torch.randn(2_000, 2)
    place = torch.arange(2_000) % len(sigmas)
    states = noised_call(objective, Batch.of(x), place, 0)
    assert is_noised(states.x_t, x, torch.tensor(sigmas)[place])
    path = path_between([8.0, 2.0, 0.5])
    torch.testing.assert_close(path.sigmas[path.stops], torch.tensor([8.0, 2.0, 0.5]))
    assert len(path.sigmas) == 2 * FINER + 1 and path.stops.tolist() == [0, FINER, 2 * FINER]


def test_the_covariate_shift_is_seen_and_leaves_no_trace():
    objective = last_stage("ddil").objective
    objective.streams.reset(0)
    batch = batch_of(objective, 64)
    with torch.no_grad():
        found = objective.diagnostics(batch, 0)
        again = objective.diagnostics(batch, 0)
    assert found == again and not objective.states.watched and objective.teacher.calls == 0
    assert found["shift/ratio"] == found["shift/student"] / found["shift/forward"]
    # By hand: noised data at the last level.
    with objective.streams.set_aside("covariate shift"), torch.no_grad():
        objective.states.watched = "forward"
        drawn = objective.prepare(batch, 0)
        objective.states.watched = ""
        error = objective.network("generator")(drawn.x_t, drawn.sigma) - drawn.target
    assert set(drawn.sigma.tolist()) == {float(objective.grid[-3])}
    torch.testing.assert_close(found["shift/forward"], error.square().mean().sqrt())


# ---------------------------------------------------------------- bad input


def test_bad_input_is_one_line_before_training():
    with pytest.raises(ConfigError, match=r"sampling_steps must be at least 2.*, got 1"):
        Settings(sampling_steps=1)
    with pytest.raises(ConfigError, match=r"must together be at most 1, got 0\.7 and 0\.4"):
        StateSettings(teacher=0.7, student=0.4)
    with pytest.raises(ConfigError, match=r"sampling_steps must be one of .*got 3"):
        next(recipe(ToyProblem(), replace(TINY, sampling_steps=3), Context()))
    with pytest.raises(ConfigError, match="needs a student of two calls or more"):
        next(recipe(ToyProblem(student="one_step"), FAKE, Context()))
    path = Path(torch.tensor([1.0]), torch.tensor([0]))
    with pytest.raises(ValueError, match="together at most 1, got -0.1 and 0.5"):
        Mixture(noised, Shares(-0.1, 0.5), path, (2,), {}, batch=2)


def test_the_command_line_says_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (["--sampling-steps", "3"], "sampling_steps must be one of"),
        (["--states.student", "0.95"], "states.teacher and states.student must together"),
        (["--base", "dmd2"], "give --calls 4"),
    ):
        assert main(["distill", "mog40-ddil", "--out", "run", "--device", "cpu", *words]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run/checkpoints").exists()


def test_what_a_run_cites_is_of_its_base():
    for base, key in (("progressive", "progressive"), ("consistency", "consistency")):
        cited = METHOD.citations(Settings(base=base))
        assert {"ddil", key} <= cited.keys() and "dmd2" not in cited
