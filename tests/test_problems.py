"""The four parts of small problems, against closed forms."""

import math
from dataclasses import replace

import pytest
import torch

from vardiu.data.batches import Shuffled
from vardiu.data.latents import Encoded
from vardiu.errors import ConfigError
from vardiu.methods.frames import fitted_frame
from vardiu.problems.base import Problem
from vardiu.problems.densities import DensityProblem
from vardiu.problems.linear import LinearProblem
from vardiu.problems.toy import STUDENTS, ToyProblem
from vardiu.settings.fields import DensitySettings, DigitsSettings, FrameSettings
from vardiu.students.few_step import FewStep

SMALL = DensitySettings(name="ring8", width=8, depth=1)


def images(n=12, batch=5):
    x = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Shuffled(x, {"label": torch.arange(n)}, batch, seed=3)


def half(x):
    return 2 * x[..., :2]


def test_encoded_batches_are_the_batches_encoded():
    plain, encoded = images(), Encoded(images(), half)
    for _ in range(5):  # over the end of an epoch
        batch, latent = next(plain), next(encoded)
        assert torch.equal(latent.x, half(batch.x))
        assert torch.equal(latent.cond["label"], batch.cond["label"])


def test_encoded_batches_go_on_where_they_stopped():
    first, again = Encoded(images(), half), Encoded(images(), half)
    next(first), next(first), next(first)
    assert first.state_dict() == {"count": 3}  # the words of the batches within
    again.load_state_dict(first.state_dict())
    assert torch.equal(next(again).x, next(first).x)
    assert again.state_dict() == {"count": 4}


def test_encoded_batches_are_shared_by_processes():
    parts = []
    for rank in range(2):
        encoded = Encoded(images(batch=10), half)
        encoded.rank, encoded.world = rank, 2
        parts.append(next(encoded).cond["label"])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3 * 1_000_003))
    assert torch.equal(torch.cat(parts), order[:10])


def test_encoding_keeps_no_graph():
    weight = torch.ones((), requires_grad=True)
    assert not next(Encoded(images(), lambda x: weight * x)).x.requires_grad


PROBLEMS = {
    "density": lambda: DensityProblem(SMALL),
    "toy": ToyProblem,
    "toy-classes": lambda: ToyProblem(2),
    "linear": LinearProblem,
    # A restorer's input is an image, and no source draws it.
    **{
        f"toy-{name}": lambda name=name: ToyProblem(student=name)
        for name in sorted(set(STUDENTS) - {"restorer"})
    },
}


@pytest.mark.drawn
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_parts_of_a_problem_fit_each_other(name, tmp_path):
    problem: Problem = PROBLEMS[name]()
    space, scores = problem.space, problem.scores
    student = problem.networks.student()
    assert student.shape == space.shape and student.conditions == space.conditions
    sigma = torch.full((6,), 0.5)
    free, clean = next(problem.data.free(6, 0)), next(problem.data.clean(6, 0))
    assert set(free.cond) == set(clean.cond) == set(space.conditions)
    assert clean.x.shape == (6, *space.shape)
    for denoiser in (problem.teacher, problem.networks.fake(), problem.networks.denoiser()):
        assert denoiser(clean.x, sigma, **clean.cond).shape == clean.x.shape
        assert denoiser.conditions == space.conditions
    encoder = problem.networks.encoder()
    assert encoder(clean.x, sigma, **clean.cond).shape == (6, encoder.features)
    assert torch.equal(space.decode(space.encode(clean.x)), clean.x)
    source = problem.student_source(student)
    x, cond = source(40, torch.Generator().manual_seed(0))
    assert x.shape == (40, *space.shape) and set(cond) == set(space.conditions)
    assert len(scores.histogram(x)) == len(scores.expected_shares)
    assert sum(scores.expected_shares) == pytest.approx(1)
    measured = {metric.name for metric in scores.measure(source, 60)}
    assert set(scores.headline) <= measured and problem.scores.headline == scores.headline
    assert {metric.name for metric in scores.teacher_metrics(60)[0]} == measured
    assert scores.plot_samples(x, tmp_path / "a.png").is_file()
    assert scores.plot_beside_data(source, tmp_path / "b.png", "student").is_file()


@pytest.mark.parametrize("make", [ToyProblem, lambda: ToyProblem(2), LinearProblem])
def test_a_space_states_the_moments_of_its_data(make):
    problem = make()
    n = 20_000
    x, _ = problem.data.reference(n)
    error = 5 * x.std(0) / math.sqrt(n)
    assert bool(((x.mean(0) - problem.space.mean).abs() < error).all())
    square = (x - problem.space.mean).square().mean(1)
    assert abs(square.mean() - problem.space.variance) < 5 * square.std() / math.sqrt(n)


def test_a_toy_with_classes_draws_each_class_from_its_own_corners():
    problem = ToyProblem(2)
    x, cond = problem.data.reference(400)
    nearest = torch.cdist(x, problem.scores.spec.means).argmin(1)
    assert torch.equal(nearest % 2, cond["label"])
    drawn, given = problem.teacher_source(8)(100, torch.Generator().manual_seed(0))
    nearest = torch.cdist(drawn.double(), problem.scores.spec.means).argmin(1)
    assert torch.equal(nearest % 2, given["label"])


def test_wrong_toys_are_refused():
    with pytest.raises(ConfigError, match="did you mean pushforward"):
        ToyProblem(student="pushforwards")
    with pytest.raises(ConfigError, match="classes must be 0 or 2, got 3"):
        ToyProblem(3)


def test_a_matched_student_has_the_law_of_the_teacher():
    problem = LinearProblem(3, 4, matched=True)
    student = problem.networks.student()
    torch.testing.assert_close(student.matrix @ student.matrix.T, problem.law.covariance)
    assert problem.kl(student.matrix, student.shift, 0.3).abs() < 1e-10
    x_t, sigma = torch.randn(5, 3), torch.tensor([0.1, 0.5, 1.0, 3.0, 10.0])
    fake = problem.networks.fake(student)
    torch.testing.assert_close(fake(x_t, sigma), problem.teacher(x_t, sigma))
    with pytest.raises(ValueError, match="give latent=3"):
        LinearProblem(3, 2).networks.matched_student()


def test_an_exact_fake_follows_its_student_or_stays():
    problem = LinearProblem()
    student = problem.networks.student()
    follows = problem.networks.fake(student, follows=True)
    stays = problem.networks.fake(student)
    x_t, sigma = torch.randn(4, 3), torch.full((4,), 0.7)
    before = stays(x_t, sigma)
    assert torch.equal(follows(x_t, sigma), before)
    with torch.no_grad():
        student.shift += 1.0
    assert torch.equal(stays(x_t, sigma), before)
    torch.testing.assert_close(follows(x_t + 1, sigma), before + 1)
    # It can be trained, and that trains nothing.
    assert [name for name, _ in follows.named_parameters()] == ["unused"]
    follows(x_t, sigma).sum().backward()
    assert follows.unused.grad == 0 and student.shift.grad is None


def test_the_exact_posterior_is_bayes_rule():
    problem = LinearProblem()
    student = problem.networks.student()
    a, b = student.matrix.detach(), student.shift.detach()
    z, x_t, sigma = torch.randn(6, 2), torch.randn(6, 3), torch.linspace(0.2, 3.0, 6)
    normal = torch.distributions.MultivariateNormal
    noise = torch.eye(3) * sigma.square()[:, None, None]
    wanted = (
        normal(torch.zeros(2), torch.eye(2)).log_prob(z)
        + normal(z @ a.T + b, noise).log_prob(x_t)
        - normal(b, a @ a.T + noise).log_prob(x_t)
    )
    found = problem.networks.posterior(student)(x_t, sigma).log_prob(z)
    torch.testing.assert_close(found, wanted)


def test_samples_of_a_frame_are_a_function_of_its_settings():
    problem = ToyProblem(2)
    row = FrameSettings(samples=200, solver_steps=3, clusters=2, components=1)
    samples = problem.data.frame_samples(row, 4)
    assert samples["x"].shape == (200, 2) and set(samples["label"].tolist()) == {0, 1}
    again = ToyProblem(2).data.frame_samples(row, 4)
    assert torch.equal(samples["x"], again["x"])
    frame = fitted_frame(row, samples, 4)
    assert frame.weights.shape == (2, 2)
    # Nothing but the samples is needed to fit it again.
    kept = {name: value.clone() for name, value in samples.items()}
    problem.teacher = None
    twin = fitted_frame(row, kept, 4)
    assert torch.equal(frame.means, twin.means) and torch.equal(frame.bases, twin.bases)
    shared = FrameSettings(samples=200, solver_steps=3, clusters=2, components=1, by_class=False)
    assert set(ToyProblem(2).data.frame_samples(shared, 4)) == {"x"}


def test_what_needs_a_teacher_says_so():
    problem = DensityProblem(SMALL, untaught=True)
    with pytest.raises(ConfigError, match="this needs a teacher"):
        problem.teacher_source()(4, torch.Generator())


def test_students_of_a_density_with_several_calls_are_denoisers_as_the_fake():
    problem = DensityProblem(replace(SMALL, calls=3))
    student = problem.networks.student()
    assert isinstance(student, FewStep) and student.latent_shape == (3, 2)
    assert student.sample(5).shape == (5, 2) and student.sigmas[0] == 40.0
    for kind in (DensitySettings, DigitsSettings):
        with pytest.raises(ConfigError, match=r"problem\.calls must be at least 1, got 0"):
            kind(calls=0)


def test_codes_cut_the_last_coordinate_into_equal_shares_between_which_a_student_jumps():
    problem = DensityProblem(replace(SMALL, codes=4, latent=3))
    student = problem.networks.student()
    assert student.jumps and student.latent_shape == (3,)
    coding = student.network.coding
    counts = (torch.randn(4_000)[:, None] >= coding.edges).sum(1).bincount(minlength=4)
    assert (counts - 1_000).abs().max() < 5 * (4_000 * 0.25 * 0.75) ** 0.5
    # On either side of an edge two embeddings, within an interval one.
    z = torch.zeros(4, 3)
    z[:, 2] = torch.tensor([-1e-6, 0.0, 1e-6, 0.6])
    x = student(z)
    assert (x[0] - x[1]).norm() > 1e-2 and (x[1] - x[2]).norm() < 1e-3
    assert not DensityProblem(SMALL).networks.student().jumps
    with pytest.raises(ConfigError, match=r"problem\.codes must be 0 for a student of 2 calls"):
        replace(SMALL, codes=4, calls=2)


def test_a_students_denoiser_starts_from_a_teacher_with_weights_or_sees_octaves():
    problem = DensityProblem(replace(SMALL, fourier=3))
    octaves = problem.networks.student_denoiser().network.octaves
    assert octaves == [1.0, 2.0, 4.0] and problem.networks.denoiser().network.octaves == []
    problem.teacher = problem.networks.denoiser()
    started = problem.networks.student_denoiser()
    assert started is not problem.teacher
    for mine, its in zip(started.parameters(), problem.teacher.parameters(), strict=True):
        assert torch.equal(mine, its) and mine.requires_grad
    toy = ToyProblem(classes=2)
    assert toy.networks.student_denoiser().conditions == ("label",)
