"""Latent consistency: scalings and places in closed form, the fixed point, guidance in a row."""

from __future__ import annotations

import math
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from cases import denoiser
from consistent import HIGH, LOW, PerLevel, V, line, prepared, solver_factors, variances
from torch import nn

from vardiu import models
from vardiu.cli.main import main
from vardiu.data.batch import Batch
from vardiu.denoisers import lora
from vardiu.denoisers.adapted import AdaptedDenoiser
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.grids import skipped_levels, spaced_levels
from vardiu.denoisers.guidance import Autoguided, Guided, Steerable
from vardiu.denoisers.schedules import VariancePreserving
from vardiu.errors import ConfigError
from vardiu.functional.consistency import evenly_from_the_top, index_scalings
from vardiu.functional.distances import distance_of
from vardiu.methods.lcm import LCM, METHOD, Settings
from vardiu.problems.toy import ToyProblem, mixture_teacher
from vardiu.students.few_step import FewStep, OneStep
from vardiu.students.steered import guided_by
from vardiu.training.stage import Context


def stable_diffusion(steps=1_000):
    """The coordinates of Stable Diffusion's schedule, or of one with as many times."""
    schedule = diffusers.DDIMScheduler(
        num_train_timesteps=steps,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
    )
    return VariancePreserving.from_alphas_cumprod(schedule.alphas_cumprod)


class Noise(nn.Module):
    """A network that predicts the noise of N(0, v), and knows what it was told."""

    def __init__(self, coordinates, v):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.sigmas, self.v, self.told = torch.tensor(coordinates.arguments["sigmas"]), v, []

    def forward(self, x_s, time):
        self.told.append(time)
        sigma = self.sigmas[time.long()]
        alpha = (1 + sigma.square()).rsqrt()
        return (x_s / alpha[:, None]) * (sigma / (self.v + sigma.square()))[:, None]


def adapted(v=0.7):
    coordinates = stable_diffusion()
    network = Noise(coordinates, v)
    return AdaptedDenoiser(network, coordinates, prediction="epsilon", shape=(1,))


# ---------------------------------------------------------------- closed forms


def test_the_scalings_are_those_of_index_time():
    skip, out = index_scalings(torch.tensor([0.0, 1.0, 19.0, 999.0]))
    assert skip[0].item() == 1.0 and out[0].item() == 0.0
    wanted = [2.493765586e-3, 6.925159801e-6, 2.505007494e-9]
    assert skip[1:].tolist() == pytest.approx(wanted, rel=1e-8)
    # No factor of sigma_data: it tends to one, where EDM's tends to sigma_data.
    assert out[1:].tolist() == pytest.approx([0.9987523389, 0.9999965374, 0.9999999987], rel=1e-9)


def test_students_ask_at_the_times_of_the_stock_scheduler():
    inner = adapted()
    levels = skipped_levels(inner, 1_000, 7.0, inner.sigma_max)
    times = inner.coordinates.time(levels)
    assert torch.equal(times, torch.arange(999, -1, -1.0))
    known = {1: [999], 4: [999, 759, 499, 259]}
    for calls in (1, 2, 3, 4, 8, 50):
        objective = LCM(line(0.7, inner.sigma_min, inner.sigma_max), inner, levels, calls=calls)
        stock = diffusers.LCMScheduler()
        stock.set_timesteps(calls)
        student = objective.student_of(inner)
        assert student.calls == calls
        found = inner.coordinates.time(torch.tensor(student.sigmas)).long().tolist()
        assert found == stock.timesteps.tolist() == known.get(calls, found)
    assert evenly_from_the_top(50, 4) == [0, 12, 25, 37]


def test_a_step_of_the_student_is_that_of_the_stock_scheduler():
    inner = adapted()
    levels = skipped_levels(inner, 1_000, 7.0, inner.sigma_max)
    objective = LCM(line(0.7, inner.sigma_min, inner.sigma_max), inner, levels, calls=4)
    student = objective.student_of(inner).eval()
    assert isinstance(student, FewStep) and student.rule == "renoise" and student.floor == 0
    z = torch.randn(6, 4, 1)
    found = student(z)
    assert [t[0].item() for t in inner.network.told] == [999, 759, 499, 259]
    stock = diffusers.LCMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    stock.set_timesteps(4)
    x_s, noises = z[:, 0], iter(z[:, 1:].unbind(1))
    for time in stock.timesteps:
        output = inner.network(x_s, time.expand(6))
        denoised = stock.step(output, time, x_s).denoised
        if time == stock.timesteps[-1]:
            break
        after = stock.timesteps[stock.step_index]
        square = stock.alphas_cumprod[after].double()
        x_s = square.sqrt() * denoised + (1 - square).sqrt() * next(noises)
    torch.testing.assert_close(found, denoised, rtol=0, atol=3e-4)
    assert found.std() > 0.1


def test_one_step_with_the_plain_denoiser_contracts_and_the_exact_map_does_not():
    """v = 0.7 and alpha = 1/2: 0.132 where 0.7 would be right, the sign of a plain teacher."""
    v, alpha = 0.7, 0.5
    sigma = math.sqrt(1 - alpha**2) / alpha

    class Line(Denoiser):
        shape, sigma_min, sigma_max = (1,), 1e-6, 80.0

        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x_t, sigma, **cond):
            return self.factor(sigma)[:, None] * x_t

    levels, start = [80.0, sigma], v + 80.0**2
    *_, plain = variances(FewStep(Line(lambda s: v / (v + s**2)), [80.0, sigma]), start)
    a = alpha**2 * v / (alpha**2 * v + 1 - alpha**2)
    first = v * v / (v + 80.0**2)
    assert plain == pytest.approx((first + sigma**2) * a**2)
    assert v * a == pytest.approx(0.132, abs=5e-4)  # of a first state that has the data's variance
    exact = FewStep(Line(lambda s: (v / (v + s**2)).sqrt()), levels)
    assert list(variances(exact, start)) == pytest.approx([v, v])


# ---------------------------------------------------------------- the fixed point


@pytest.mark.parametrize(
    "grid, skip, correct, std",
    [(28, 3, False, 0.36523), (28, 3, True, 0.60982), (52, 3, False, 0.42305)],
)
def test_skipping_converges_to_the_map_of_the_coarser_grid(grid, skip, correct, std):
    """Every third level of 28 is a grid of ten, whose solver's map the student has at the top."""
    levels = spaced_levels(PerLevel(torch.tensor([HIGH, LOW])), grid, 7.0)
    options = {"skip": skip, "correct": correct, "target_decay": 0.0}
    objective = LCM(line(), PerLevel(levels), levels, **options)
    factor = objective.generator.factor
    for step in range(grid // skip + 1):
        drawn = prepared(objective, Batch.of(math.sqrt(V) * torch.randn(40 * grid, 1)))
        value = objective.loss(drawn, step).value
        (gradient,) = torch.autograd.grad(value, factor, create_graph=True)
        (curvature,) = torch.autograd.grad(gradient.sum(), factor)
        assert (curvature[:-1] > 0).all() and curvature[-1] == 0  # never asked at the data
        with torch.no_grad():
            factor[:-1] -= gradient[:-1] / curvature[:-1]
            objective.remember([drawn], step)
    one, top = torch.ones(1, 1), torch.tensor([HIGH])
    left = torch.tensor([grid - 1])
    theta = objective.answer(objective.generator, one, top, left, {}).item()
    assert theta * math.sqrt(V + HIGH**2) == pytest.approx(std, abs=6e-6)
    coarse = levels[::skip]
    assert theta == pytest.approx(solver_factors(coarse, correct).prod().item(), rel=1e-9)


# ---------------------------------------------------------------- a step, and its guidance


def test_a_step_skips_levels_and_ends_at_the_data():
    levels = spaced_levels(PerLevel(torch.tensor([HIGH, LOW])), 12, 7.0)
    objective = LCM(line(), PerLevel(levels), levels, skip=5, distance=distance_of("l1", 1.0))
    drawn = prepared(objective, Batch.of(math.sqrt(V) * torch.randn(900, 1)))
    places = (drawn.sigma[:, None] == levels).int().argmax(1)
    assert places.unique().tolist() == list(range(11)) and torch.equal(drawn.left, 11 - places)
    after = (places + 5).clamp_max(11)
    assert torch.equal(drawn.lower, levels[after])
    h = 1 + (drawn.lower - drawn.sigma) * drawn.sigma / (V + drawn.sigma.square())
    x_next = h[:, None] * drawn.x_t
    ended = after == 11
    assert torch.equal(
        drawn.value[ended],
        objective.stepped(drawn.x_t[ended], drawn.sigma[ended], drawn.lower[ended], {}),
    )
    torch.testing.assert_close(drawn.value[ended], x_next[ended])  # the data, whatever the network
    skip, out = index_scalings((11 - after).double())
    theta = objective.target.network.factor[after]
    wanted = (skip + out * theta)[:, None] * x_next
    torch.testing.assert_close(drawn.value, wanted)
    skip, out = index_scalings((11 - places).double())
    ours = (skip + out * objective.generator.factor[places])[:, None] * drawn.x_t
    wanted = (ours - drawn.value).abs().mean()
    torch.testing.assert_close(objective.loss(drawn, 0).value, wanted)


def steered_case(**options):
    problem = ToyProblem(2, "one_step")
    network = Steerable.of(problem.networks.student_denoiser(), 1.0, 4.0)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn_like(p)
    levels = spaced_levels(network, 9, 7.0)
    return LCM(
        problem.data.teacher.steered, network, levels, skip=2, guidance=(1.0, 4.0), **options
    )


def test_the_teacher_is_guided_by_a_scale_of_each_row_and_the_student_is_told_it():
    objective, label = steered_case(), torch.arange(400) % 2
    x = ToyProblem(2).data.draw(400, torch.Generator())[0].double()
    drawn = prepared(objective, Batch.of(x, {"label": label}))
    w = drawn.cond["guidance"]
    assert 1.0 <= w.min() < 1.1 and 3.9 < w.max() <= 4.0
    assert (w.mean() - 2.5).abs() < 5 * 3.0 / math.sqrt(12 * 400)
    given, none = mixture_teacher(labels=True), mixture_teacher()
    x_c = given(drawn.x_t, drawn.sigma, label=label)
    x_u = none(drawn.x_t, drawn.sigma)
    # The paper's scale is one less: x_c + w (x_c - x_u).
    guided = x_c + (w - 1)[:, None] * (x_c - x_u)
    ratio = (drawn.lower / drawn.sigma)[:, None]
    x_next = guided + ratio * (drawn.x_t - guided)
    left = (drawn.lower[:, None] < objective.grid).sum(1)
    left = len(objective.grid) - 1 - left
    told = {"label": label, "guidance": w}
    wanted = objective.answer(objective.target, x_next, drawn.lower, left, told)
    torch.testing.assert_close(drawn.value, wanted)
    other = {"label": label, "guidance": w.flip(0)}
    assert not torch.allclose(
        objective.answer(objective.target, x_next, drawn.lower, left, other), wanted
    )


def test_a_student_that_is_not_told_learns_from_the_same_scales():
    objective = steered_case(told=False)
    drawn = prepared(objective, Batch.of(torch.randn(30, 2), {"label": torch.arange(30) % 2}))
    assert set(drawn.cond) == {"label"}


def test_a_student_is_guided_by_any_scale_of_its_range_and_saved_with_it(tmp_path):
    torch.set_default_dtype(torch.float32)
    student = (objective := steered_case(calls=2)).student_of(objective.generator).eval()
    z, label = torch.randn(5, *student.latent_shape), torch.arange(5) % 2
    assert student.conditions == ("label",)
    models.save(student, tmp_path / "a")
    loaded = models.load(tmp_path / "a")
    assert torch.equal(loaded(z, label=label), student(z, label=label))
    at = {w: guided_by(loaded, w) for w in (1.0, 2.5, 4.0)}
    assert torch.equal(at[1.0](z, label=label), student(z, label=label))
    assert not torch.allclose(at[4.0](z, label=label), at[1.0](z, label=label))
    row = torch.full((5,), 2.5)  # a scale of each row, as in training
    torch.testing.assert_close(student(z, label=label, guidance=row), at[2.5](z, label=label))
    again = guided_by(at[4.0], 1.0)
    assert torch.equal(again(z, label=label), student(z, label=label))
    for scale in (0.5, 4.1, math.nan):
        with pytest.raises(ValueError, match=r"within \[1, 4\], which the student was trained"):
            guided_by(loaded, scale)
    with pytest.raises(ValueError, match="this student is told no guidance"):
        guided_by(OneStep(denoiser()), 2.0)


def test_both_guidances_take_a_scale_of_each_row():
    x, sigma, label = torch.randn(6, 2), torch.full((6,), 1.5), torch.arange(6) % 2
    given, none = mixture_teacher(labels=True), mixture_teacher()
    auto = Autoguided(given, none, None)
    scales = torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    found = auto(x, sigma, label=label, guidance=scales)
    for w in (1.0, 2.0, 3.0):
        rows = scales == w
        wanted = Autoguided(given, none, w)(x[rows], sigma[rows], label=label[rows])
        torch.testing.assert_close(found[rows], wanted)
    with pytest.raises(ValueError, match=r"one scale a row, got none"):
        auto(x, sigma, label=label)
    with pytest.raises(ValueError, match="takes a condition 'guidance' itself"):
        Autoguided(auto, none, None)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "options, message",
    [
        ({"skip": 12, "grid": 12}, "skip must be below grid=12: .* got 12"),
        ({"guidance_min": 8.0, "guidance_max": 2.0}, "guidance_min must be at most guidance_max"),
        ({"sampling_steps": 51}, r"sampling_steps must be within \[1, 50\], grid / skip: 51"),
        ({"target_decay": 1.0}, r"target_decay must be within \[0, 1\), got 1"),
        ({"guidance_max": math.inf}, "guidance_max must be a finite number"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Settings(**options)


def refused(problem, message, **options):
    row = Settings(steps=10, batch=8, grid=12, skip=3, **options)
    with pytest.raises(ConfigError, match=message):
        next(METHOD.recipe(problem, row, Context()))


def test_teachers_and_networks_that_do_not_fit_are_refused():
    refused(ToyProblem(), "has no class or text that stands for none", guidance_max=3.0)
    refused(ToyProblem(), "grid_max must be above 0.1 and at most 8", grid_max=9.0)
    problem = ToyProblem(2, "one_step")
    inner = problem.networks.student_denoiser()
    problem.networks.student_denoiser = lambda: lora.adapt(inner, 2)
    refused(problem, "LoRA cannot be told a scale of guidance; give --no-told", guidance_max=3.0)
    row = Settings(steps=10, batch=8, grid=12, skip=3, guidance_max=3.0, told=False)
    assert lora.adapters(next(METHOD.recipe(problem, row, Context())).objective.generator)
    inner = adapted()
    with pytest.raises(ConfigError, match="grid must be at most 1,000, .* give --grid 1000"):
        skipped_levels(inner, 1_001, 7.0, inner.sigma_max)
    levels = spaced_levels(denoiser(), 9, 7.0)
    with pytest.raises(ValueError, match="the teacher takes no condition 'guidance'"):
        LCM(denoiser(), denoiser(), levels, skip=2, guidance=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"skip must be within \[1, 9\)"):
        LCM(denoiser(), denoiser(), levels, skip=9)
    with pytest.raises(ValueError, match="levels must end at the data"):
        LCM(denoiser(), denoiser(), levels[:-1], skip=2)
    assert Guided(denoiser(2), None, {"label": torch.tensor([0])}).conditions[-1] == "guidance"


# ---------------------------------------------------------------- from the command line


TEACHER = """
import torch
import vardiu

MEANS = torch.tensor(2 * [[2.0, 2.0], [-2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]])
LABELS = torch.tensor([0, 1, 0, 1, 2, 2, 2, 2])
RANGE = {"sigma_min": 0.1, "sigma_max": 8.0}
exact = vardiu.MixtureDenoiser(MEANS, 0.3, labels=LABELS, **RANGE)
told = vardiu.FunctionDenoiser(exact.forward, shape=(2,), classes=2, null=2, **RANGE)
plain = vardiu.FunctionDenoiser(exact.forward, shape=(2,), classes=2, **RANGE)
"""


def said(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_a_student_is_sampled_and_measured_at_any_scale_and_calls(tmp_path, monkeypatch, capsys):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(TEACHER)
    x, cond = ToyProblem(2).data.draw(300, torch.Generator().manual_seed(0))
    np.savez("points.npz", x=x, label=cond["label"])
    words = ["vectors", "--method", "lcm", "--data", "points.npz", "--student", "fresh"]
    words += ["--steps", "2", "--batch", "8", "--samples", "100", "--reports", "1", "--width", "8"]
    words += ["--evaluations", "1", "--device", "cpu", "--grid", "6", "--skip", "2", "--reference"]
    words += ["200", "--guidance-max", "4", "--sampling-steps", "2"]
    assert main(["distill", *words, "--teacher", "own.py:told", "--out", "run"]) == 0
    named = ["--teacher", "own.py:told"]
    assert main(["sample", "run", "--num", "20", "--guidance", "3", "--calls", "3"]) == 0
    kept = np.load("run/samples-20-seed0-calls3-guidance3.npz")
    assert kept["guidance"] == 3.0 and kept["x"].shape == (20, 2)
    assert main(["evaluate", "run", "--num", "100", "--guidance", "2.5", *named]) == 0
    assert Path("run/evaluation-100-seed0-guidance2.5.json").is_file()
    capsys.readouterr()
    assert main(["sample", "run", "--guidance", "9"]) == 2
    told = said(capsys)
    assert "--guidance: the guidance must be within [1, 4]" in told and "got 9" in told
    assert main(["distill", *words, "--teacher", "own.py:plain", "--out", "plain"]) == 2
    assert "no class or text that stands for none" in said(capsys)
    assert main(["distill", *words, *named, "--guidance-min", "5", "--out", "reversed"]) == 2
    assert "guidance_min must be at most guidance_max, got 5 and 4" in said(capsys)
    assert not Path("plain/student").exists() and not Path("reversed").exists()
