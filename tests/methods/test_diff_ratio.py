"""DiffRatio against closed forms of two Gaussians, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from cases import is_noised
from problems import standard_error

from vardiu.data.batch import Batch
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.errors import ConfigError
from vardiu.methods.diff_instruct import Fakes
from vardiu.methods.diff_ratio import METHOD, DiffRatio
from vardiu.problems.toy import ToyProblem
from vardiu.samplers.pairs import Pairs
from vardiu.settings.fields import PairSettings
from vardiu.students.affine import Affine, AffineRatio
from vardiu.training.stage import Context

RANGE = {"sigma_min": 0.01, "sigma_max": 10.0}
# A student N(.8, .9^2) of a teacher N(-.5, 1.1^2), both at the noise .9.
M, S, MU, SIGMA_P, SIGMA = 0.8, 0.9, -0.5, 1.1, 0.9


def gaussians(head=None, pairs: Pairs | None = None, **options: object) -> DiffRatio:
    generator = Affine(torch.tensor([[S]]), torch.tensor([M]))
    teacher = GaussianDenoiser(torch.tensor([MU]), torch.tensor([[SIGMA_P**2]]), **RANGE)
    x = torch.zeros(1, 1, dtype=torch.float64)
    return DiffRatio(
        teacher,
        generator,
        AffineRatio(generator, teacher) if head is None else head,
        Pairs(x, x, {}) if pairs is None else pairs,
        levels=LogUniform(SIGMA, SIGMA * (1 + 1e-9)),
        **options,
    )


def test_of_the_exact_ratio_the_gradient_is_that_of_the_divergence():
    """KL of N(.8, 1.62) from N(-.5, 2.02): 0.643564 by the mean, -0.110011 by the scale."""
    objective = gaussians(weight=torch.ones_like)
    generator, sample = objective.generator, []
    for _ in range(300):
        loss = objective.student_loss(objective.prepare(Batch(256), 0), 0).value
        shift, matrix = torch.autograd.grad(loss, (generator.shift, generator.matrix))
        sample.append(torch.cat([shift, matrix[0]]))
    got = torch.stack(sample)
    error = standard_error(got)
    assert bool((error < 0.004).all())
    assert bool(((got.mean(0) - torch.tensor([0.643564, -0.110011])).abs() < 5 * error).all())


class Linear(torch.nn.Module):
    """The logit w x + b, with a second head that says two more."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope))

    def forward(self, read, y_t, sigma, **cond):
        return [self.slope * y_t[:, 0], self.slope * y_t[:, 0] + 2]


def test_a_sample_moves_along_the_slope_of_its_logit_times_the_weight_of_its_level():
    objective = gaussians(Linear(0.7))
    loss = objective.student_loss(objective.prepare(Batch(5), 0), 0)
    (gradient,) = torch.autograd.grad(loss.value, objective.generator.shift)
    assert gradient.item() == pytest.approx(-0.7 * SIGMA**2, abs=1e-6)
    assert loss.info["direction"].item() == pytest.approx(0.7 * SIGMA**2, abs=1e-6)


def test_the_slope_is_taken_at_noisy_samples():
    class Seen(Linear):
        def forward(self, read, y_t, sigma, **cond):
            shown.append((y_t.detach(), sigma))
            return super().forward(read, y_t, sigma)

    shown: list[tuple[torch.Tensor, torch.Tensor]] = []
    objective = gaussians(Seen(0.7))
    drawn = objective.prepare(Batch(2_000), 0)
    objective.student_loss(drawn, 0)
    ((x_t, sigma),) = shown
    assert is_noised(x_t, objective.generator(drawn.z).detach(), sigma)


def test_the_discriminator_raises_the_logits_of_the_teachers_samples():
    far = torch.full((3, 1), 100.0, dtype=torch.float64)
    objective = gaussians(Linear(3.0), Pairs(far, far, {}))
    loss = objective.head_loss(objective.prepare(Batch(400), 0), 0)
    assert loss.info["real"] > 290 and loss.info["fake"] < 10
    # Real rows cost nothing: what is left is the mean of softplus of generated rows.
    (slope,) = torch.autograd.grad(loss.value, objective.head.slope)
    assert 0.5 < loss.value < 20 and slope > 0


def test_without_samples_of_the_teacher_there_is_no_ratio():
    with pytest.raises(ConfigError, match="needs samples of it: give --pairs.pairs") as error:
        METHOD.settings(pairs=PairSettings())
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="it lists none"):
        next(METHOD.recipe(ToyProblem(), METHOD.settings(), Context()))
    with pytest.raises(ValueError, match="ratio must be at least 1"):
        gaussians(ratio=0)


def test_samples_are_judged_by_their_own_conditions():
    class Seen(Linear):
        def forward(self, read, y_t, sigma, **cond):
            shown.append(cond["label"])
            return super().forward(read, y_t, sigma)

    shown: list[torch.Tensor] = []
    x = torch.zeros(3, 1, dtype=torch.float64)
    objective = gaussians(Seen(0.7), Pairs(x, x, {"label": torch.full((3,), 4)}))
    batch = Batch(5, cond={"label": torch.full((5,), 2)})
    z = objective.latents(5)
    objective.head_loss(Fakes(z, objective.generator(z), batch, 0), 0)
    assert [seen.tolist() for seen in shown] == [[2] * 5, [4] * 5]


def test_the_student_is_updated_at_each_ratio_th_step_and_the_head_at_all():
    head, student = gaussians(Linear(0.7), ratio=3).phases
    assert (head.updates, head.every) == (("head",), 1)
    assert (student.updates, student.every) == (("generator",), 3)
