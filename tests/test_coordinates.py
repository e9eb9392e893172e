"""Networks of other coordinates, against the exact denoiser of a Gaussian in double precision."""

import math

import pytest
import torch
from torch import nn

from vardiu import models
from vardiu.denoisers.adapted import PREDICTIONS, AdaptedDenoiser
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.schedules import Flow, VarianceExploding, VariancePreserving
from vardiu.students.few_step import OneStep

COSINE = torch.cos(torch.linspace(0.02, math.pi / 2 - 0.02, 1000, dtype=torch.float64)).square()
LEVELS = {
    "preserving": lambda: VariancePreserving.from_alphas_cumprod(COSINE),
    "exploding": lambda: VarianceExploding(0.01, 50.0),
    "flow": lambda: Flow(1000.0),
    "flow_back": lambda: Flow(noise_first=True),
}


@pytest.fixture
def exact():
    mean = torch.tensor([0.3, -0.7, 0.1], dtype=torch.float64)
    root = torch.tensor([[0.8, 0, 0], [0.3, 0.4, 0], [-0.2, 0.1, 0.6]], dtype=torch.float64)
    return GaussianDenoiser(mean, root @ root.T)


class Predicting(nn.Module):
    """What an ideal network of these coordinates predicts, found from its own input and time."""

    def __init__(self, exact, levels, prediction):
        super().__init__()
        self.exact, self.levels, self.prediction = exact, levels, prediction

    def level(self, time):
        if isinstance(self.levels, VariancePreserving):
            table = torch.tensor(self.levels.arguments["sigmas"], dtype=torch.float64)
            return table[time.long()]
        if isinstance(self.levels, Flow):
            t = time / self.levels.scale
            t = 1 - t if self.levels.noise_first else t
            return t / (1 - t)
        return time

    def forward(self, x_s, time):
        sigma = self.level(time)
        if isinstance(self.levels, VarianceExploding):
            alpha, s = torch.ones_like(sigma), sigma
        elif isinstance(self.levels, Flow):
            alpha, s = 1 / (1 + sigma), sigma / (1 + sigma)
        else:
            alpha, s = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
        alpha, s = alpha[:, None], s[:, None]
        x = self.exact(x_s / alpha, sigma)
        epsilon = (x_s - alpha * x) / s
        return {
            "epsilon": epsilon,
            "negative_epsilon": -epsilon,
            "sample": x,
            "v": alpha * epsilon - s * x,
            "flow": epsilon - x,
            "flow_to_data": x - epsilon,
            "score": -epsilon / s,
        }[self.prediction]


def adapted(exact, levels, prediction):
    made = LEVELS[levels]()
    network = Predicting(exact, made, prediction)
    return made, network, AdaptedDenoiser(network, made, prediction=prediction, shape=(3,))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("levels", LEVELS)
def test_every_prediction_is_the_same_mean(exact, levels, prediction):
    made, network, denoiser = adapted(exact, levels, prediction)
    if levels == "preserving":
        sigma = torch.tensor(made.arguments["sigmas"], dtype=torch.float64)[::111]
    else:
        sigma = torch.logspace(-1.5, 1.5, 10, dtype=torch.float64)
    x_t = torch.randn(len(sigma), 3, dtype=torch.float64) * (1 + sigma[:, None])
    assert torch.allclose(denoiser(x_t, sigma), exact(x_t, sigma), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("levels", LEVELS)
def test_one_call_shows_the_network_its_own_noise(exact, levels, prediction):
    made, network, denoiser = adapted(exact, levels, prediction)
    z, sigma = torch.randn(4, 3, dtype=torch.float64), denoiser.sigma_max
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = denoiser.generate(z, sigma)
    scale = sigma if levels == "exploding" else 1.0
    assert torch.allclose(seen[0], scale * z)
    x_t = {"exploding": sigma * z, "preserving": math.sqrt(1 + sigma**2) * z}.get(
        levels, (1 + sigma) * z
    )
    # Scales are those of single precision, and a small one may divide.
    expected = exact(x_t, torch.full((4,), sigma, dtype=torch.float64))
    assert torch.allclose(x, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("levels", LEVELS)
def test_a_student_starts_where_its_networks_errors_are_not_multiplied(exact, levels, prediction):
    """An error of 0.01 in what is predicted, in the unit of noise or data, stays below 0.03."""
    made, network, denoiser = adapted(exact, levels, prediction)
    student = OneStep(denoiser)
    time, _, s = made.time_and_scales(student.sigma)
    if levels == "preserving":
        assert time == round(time)  # or no pipeline could take the student
    z = torch.randn(4, 3, dtype=torch.float64)
    x = student(z)
    error = 0.01 / s if prediction == "score" else 0.01
    network.register_forward_hook(lambda module, inputs, output: output + error)
    off = (student(z) - x).abs().max().item()
    assert off < 0.03
    assert denoiser.noise_gain(student.sigma) in (0.0, student.sigma)
    if denoiser.noise_gain(1.0):
        assert off == pytest.approx(0.01 * denoiser.noise_gain(student.sigma), rel=1e-3)
    else:
        assert student.sigma == denoiser.sigma_max


def test_noise_alone_is_a_level_where_the_network_knows_it():
    squares = torch.cat([COSINE[:-1], torch.zeros(1, dtype=torch.float64)])
    levels = VariancePreserving.from_alphas_cumprod(squares)
    assert levels.terminal and len(levels.arguments["sigmas"]) == 999
    assert levels.time_and_scales(math.inf) == (999.0, 0.0, 1.0)
    assert levels.time(torch.tensor([math.inf])).item() == 999

    class Velocity(nn.Module):
        def forward(self, x, time):
            return 2 * x + time[:, None]

    denoiser = AdaptedDenoiser(Velocity(), levels, prediction="v", shape=(3,))
    z = torch.randn(2, 3)
    assert denoiser.terminal
    assert torch.equal(denoiser.generate(z, math.inf), -(2 * z + 999))
    noise = AdaptedDenoiser(Velocity(), levels, prediction="epsilon", shape=(3,))
    assert not noise.terminal  # noise alone says nothing of the sample to a network of noise


def test_times_between_are_interpolated_and_whole_ones_are_whole():
    levels = VariancePreserving.from_alphas_cumprod(COSINE)
    table = torch.tensor(levels.arguments["sigmas"])
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(levels.time(table.to(dtype)), torch.arange(1000).to(dtype))
    middle = (table[400] * table[401]).sqrt()
    assert levels.time(middle[None]).item() == pytest.approx(400.5, abs=1e-2)
    assert [levels.place(s) for s in levels.arguments["sigmas"]] == list(range(1000))
    grid = torch.logspace(math.log10(levels.sigma_min), math.log10(levels.sigma_max), 5000)
    assert bool((levels.time(grid).diff() >= 0).all())


@pytest.mark.parametrize("sigmas", [[0.3, 0.2, 0.1], [0.0, 1.0, 2.0], [1.0], [1.0, 1.0, 2.0]])
def test_schedules_that_do_not_increase_are_refused(sigmas):
    with pytest.raises(ValueError, match=r"increase|two levels"):
        VariancePreserving(sigmas)


def test_unknown_predictions_and_ranges_are_refused():
    with pytest.raises(ValueError, match="unknown prediction 'noise'; one of: .*epsilon"):
        AdaptedDenoiser(nn.Identity(), Flow(), prediction="noise", shape=(3,))
    with pytest.raises(ValueError, match="t_min and t_max"):
        Flow(t_max=1.0)


@pytest.mark.parametrize("levels", LEVELS)
def test_coordinates_are_kept_to_the_bit(levels):
    made = LEVELS[levels]()
    again = models.build(models.describe(made))
    sigma = torch.logspace(-1, 1, 7, dtype=torch.float64)
    assert torch.equal(again.time(sigma), made.time(sigma))
    assert again.time_and_scales(made.sigma_max) == made.time_and_scales(made.sigma_max)
