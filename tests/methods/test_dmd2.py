"""DMD2 against closed forms, and the two points on which public code deviates from it."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from cases import LEVELS, denoiser, student
from problems import LinearGaussian, mixture_teacher, standard_error

from vardiu.data.batch import Batch
from vardiu.data.batches import DataFree, Shuffled
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.discriminators.diffusion import discriminator_on
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.methods.dmd2 import DMD2, METHOD
from vardiu.problems.linear import LinearProblem
from vardiu.problems.toy import ToyProblem
from vardiu.settings.fields import LevelSettings
from vardiu.students.affine import Affine, AffineDenoiser
from vardiu.students.base import Generator
from vardiu.students.few_step import FewStep
from vardiu.training.objective import only
from vardiu.training.optimizers import Optimisation, OptimizerRow, cosine
from vardiu.training.stage import Context, Stage, Trained
from vardiu.training.trainer import Trainer

RANGE = {"sigma_min": 0.1, "sigma_max": 10.0}


def dmd2(classes: int = 0, calls: int = 1, **options: object) -> DMD2:
    fake = denoiser(classes)
    head = discriminator_on(fake, **({"label": torch.zeros(1).long()} if classes else {}))
    generator = student(classes) if calls == 1 else FewStep(denoiser(classes), [8.0, 1.0][:calls])
    teacher = mixture_teacher(labels=classes > 0)
    given = {"levels": LEVELS, "ratio": 2, "adversarial_weight": 0.5, **options}
    return DMD2(teacher, generator, fake, head, **given)


def level(sigma: float) -> LogUniform:
    return LogUniform(sigma, sigma * (1 + 1e-9))


def data(n: int = 16) -> Batch:
    return Batch.of(torch.randn(n, 2, generator=torch.Generator().manual_seed(3)))


def drawn_at(objective: DMD2, index: int, batch: Batch):
    """What is prepared at the first step that trains the call of this index."""
    for _ in range(50):
        drawn = objective.prepare(batch, 0)
        if drawn.call == index:
            return drawn
    raise AssertionError(f"call {index} was never drawn")


# ---------------------------------------------------------------- the direction


def test_the_gradient_is_that_of_the_divergence():
    """KL(N(1.5, .7^2 + .9^2), N(-.5, 1.2^2 + .9^2)): 0.888889 by the mean, -0.227350 by the scale."""
    generator = Affine(torch.tensor([[0.7]]), torch.tensor([1.5]))
    objective = DMD2(
        GaussianDenoiser(torch.tensor([-0.5]), torch.tensor([[1.44]]), **RANGE),
        generator,
        AffineDenoiser(generator, **RANGE),
        levels=level(0.9),
        weight=torch.ones_like,
        normalised=False,
    )
    sample = []
    for _ in range(400):
        loss = objective.student_loss(objective.prepare(Batch(256), 0), 0).value
        shift, matrix = torch.autograd.grad(loss, (generator.shift, generator.matrix))
        sample.append(torch.cat([shift, matrix[0]]))
    got = torch.stack(sample)
    error = standard_error(got)
    assert bool((error < 0.004).all())
    assert bool(((got.mean(0) - torch.tensor([0.888889, -0.227350])).abs() < 5 * error).all())


class Points(Generator):
    """Samples that are parameters: their gradient is the direction itself."""

    latent_shape = shape = (2, 3)

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(x)

    def forward(self, z, **cond):
        return self.x


def test_the_pseudo_loss_has_the_direction_over_the_number_of_elements_for_gradient():
    def one(x_t, covariance):
        return GaussianDenoiser(torch.full((2, 3), x_t), covariance * torch.ones(2, 3), **RANGE)

    teacher, fake = one(1.0, 2.0), one(-1.0, 0.5)
    objective = DMD2(teacher, Points(torch.randn(8, 2, 3)), fake, levels=LogUniform(0.5, 4.0))
    twin = copy.deepcopy(objective)
    objective.student_loss(objective.prepare(Batch(8), 0), 0).value.backward()
    x, sigma = twin.generator.x.detach(), 0.5 * 8 ** twin.uniform(8)
    twin.latents(8)
    x_t = x + sigma[:, None, None] * twin.noise_like(x)
    real = twin.teacher(x_t, sigma)
    g = (twin.fake(x_t, sigma) - real) / (x - real).abs().mean((1, 2), keepdim=True)
    torch.testing.assert_close(objective.generator.x.grad, g / 48, rtol=1e-12, atol=1e-15)
    assert g.abs().max() > 0.1


def test_where_the_laws_agree_no_sample_is_moved():
    """Not only on average: the direction is zero at every noisy sample."""
    problem = LinearProblem(3, 3, matched=True)
    for shift, moved in ((0.0, False), (0.1, True)):
        generator = problem.networks.student()
        with torch.no_grad():
            generator.shift += shift
        fake = problem.networks.fake(generator)
        objective = DMD2(problem.teacher, generator, fake, levels=LogUniform(0.2, 5.0))
        x = generator(objective.latents(200)).detach().requires_grad_(True)
        objective.matching(x, {}, 0).value.backward()
        largest = x.grad.norm(dim=1) * 200
        assert bool((largest > 1e-3).all()) if moved else bool((largest < 1e-10).all())


def test_of_a_student_that_stands_still_the_fake_leaves_no_direction():
    """What tells a trained fake from a stub: the student has the teacher's law from the start."""
    problem = LinearProblem(2, 2, matched=True)
    generator = problem.networks.student()
    fake = AffineDenoiser(Affine(generator.matrix * 0.3, generator.shift + 1.0), **RANGE)
    fake.matrix = torch.nn.Parameter(fake.matrix)
    fake.shift = torch.nn.Parameter(fake.shift)
    objective = DMD2(problem.teacher, generator, fake, levels=level(0.7), ratio=1)
    rows = {"generator": OptimizerRow(delay=300), "fake": OptimizerRow(lr=2e-2)}
    trainer = Trainer(objective, Optimisation(rows, cosine), steps=301)
    sizes = []
    for steps in (1, 300):
        while trainer.step < steps:
            trainer.advance(DataFree(64))
        with torch.no_grad():
            drawn = objective.prepare(Batch(2_000), 0)
            sizes.append(float(objective.student_loss(drawn, 0).info["direction"]))
    assert trainer.updates["generator"] == 0 and sizes[1] < 0.1 * sizes[0]


def test_without_its_adversary_it_is_diff_instruct_over_the_dimensions():
    plain = DiffInstruct(
        mixture_teacher(), student(), denoiser(), levels=LogUniform(0.2, 5.0), normalised=True
    )
    other = DMD2(*copy.deepcopy([plain.teacher.module, plain.generator, plain.fake]),
                 levels=LogUniform(0.2, 5.0))  # fmt: skip
    for objective in (plain, other):
        with torch.no_grad():
            drawn = objective.prepare(Batch(16), 0)
        objective.student_loss(drawn, 0).value.backward()
        objective.fake_loss(drawn, 0).value.backward()
    for network in ("generator", "fake"):
        parts = zip(plain.network(network).parameters(), other.network(network).parameters(),
                    strict=True)  # fmt: skip
        for a, b in parts:
            torch.testing.assert_close(a.grad, b.grad * (2 if network == "generator" else 1))


# ---------------------------------------------------------------- a few calls


def test_a_trained_call_is_shown_the_students_own_roll_out_and_never_data():
    """Public code noises real data instead: garbage for data would change the states here."""
    objective = dmd2(calls=2)
    twin, other, garbage = (copy.deepcopy(objective) for _ in range(3))
    drawn = drawn_at(objective, 1, data())
    wrong = drawn_at(garbage, 1, Batch.of(torch.full((16, 2), math.nan)))
    assert torch.equal(drawn.z, wrong.z) and torch.equal(drawn.x, wrong.x)

    with torch.no_grad():
        next(other.generator.parameters()).add_(0.1)
    assert not torch.allclose(drawn_at(other, 1, data()).z, drawn.z)

    z = twin.latents(16)
    while not float(twin.streams.uniform("call", 1)) >= 0.5:
        z = twin.latents(16)
    inner = twin.generator.denoiser
    first = inner(8 * z[:, 0], torch.full((16,), 8.0))
    torch.testing.assert_close(drawn.z, first + z[:, 1])  # fresh noise, at the level 1
    torch.testing.assert_close(drawn.x, inner(drawn.z, torch.ones(16)))


@pytest.mark.parametrize("index", [0, 1])
def test_only_the_drawn_call_has_a_gradient(index):
    objective = dmd2(calls=2)
    drawn = drawn_at(objective, index, data())
    assert not drawn.z.requires_grad
    student, seen = objective.generator, []
    inner = student.denoiser.network
    handle = inner.register_forward_hook(lambda *call: seen.append(call[2].requires_grad))
    loss = objective.student_loss(drawn, 0).value
    handle.remove()
    assert seen == [True] and loss.requires_grad
    if index == 0:
        torch.testing.assert_close(drawn.x, next(student.states(drawn.z[:, None])).denoised)


def test_the_index_is_one_a_batch_and_that_of_all_processes():
    objective = dmd2(calls=2)
    ranks = [copy.deepcopy(objective) for _ in range(2)]
    for rank, each in enumerate(ranks):
        each.streams.rank, each.streams.world = rank, 2
    drawn = [[each.prepare(data(4), step) for step in range(30)] for each in ranks]
    indices = [[row.call for row in rows] for rows in drawn]
    assert indices[0] == indices[1] and set(indices[0]) == {0, 1}
    assert not torch.equal(drawn[0][0].z, drawn[1][0].z)


# ---------------------------------------------------------------- the adversary


def test_the_head_is_shown_noisy_samples_of_the_levels_that_it_is_told():
    objective, seen = dmd2(fake_levels=LogUniform(0.5, 5.0)), []
    objective.head.forward = lambda read, y_t, sigma, **cond: (
        seen.append((y_t, sigma)) or [y_t[:, 0]]
    )
    y = torch.full((4_000, 2), 7.0)
    objective.logits(y, {}, 0, "classifier real")
    ((y_t, sigma),) = seen
    noise = (y_t - y) / sigma[:, None]
    assert (
        abs(float(noise.std()) - 1) < 5 / 16_000**0.5 and abs(float(noise.mean())) < 5 / 8_000**0.5
    )
    assert 0.5 < float(sigma.min()) < 0.6 and 4 < float(sigma.max()) < 5


def test_the_head_reads_the_fakes_features_and_not_the_teachers():
    """Public code hangs it on the frozen teacher."""
    base = dmd2()
    objective = DMD2(denoiser(), base.generator, base.fake, base.head, levels=LogUniform(0.2, 5.0),
                     adversarial_weight=0.5)  # fmt: skip

    def logits(changed=None):
        twin = copy.deepcopy(objective)
        if changed is not None:
            network = twin.fake if changed == "fake" else copy.deepcopy(twin.teacher.module)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter += 0.1
            if changed == "teacher":
                twin.teacher.__dict__["_held"] = (network,)
        return twin.logits(data().clean(), {}, 0, "classifier real").detach()

    assert torch.equal(logits(), logits("teacher"))
    assert not torch.allclose(logits(), logits("fake"))


def test_the_classifier_trains_head_and_fake_and_the_student_trains_neither():
    objective = dmd2(classifier_weight=0.0)
    louder = copy.deepcopy(objective)
    louder.classifier_weight = 1.0
    quiet = copy.deepcopy(objective)
    quiet.adversarial_weight = 0.0
    gradients = []
    for each in (objective, louder):
        drawn = each.prepare(data(), 0)
        with only(each, ("fake", "head")):
            each.fake_loss(drawn, 0).value.backward()
        gradients.append([p.grad.clone() for p in each.fake.network.first.parameters()])
        assert all(p.grad is None for p in each.generator.parameters())
    assert all(not torch.allclose(a, b) for a, b in zip(*gradients, strict=True))
    assert all(bool((p.grad != 0).any()) for p in louder.head.parameters())
    assert all(bool((p.grad == 0).all()) for p in objective.head.parameters())

    steps = []
    for each in (copy.deepcopy(objective), quiet):
        each.zero_grad(set_to_none=True)
        drawn = each.prepare(data(), 0)
        with only(each, ("generator",)):
            each.student_loss(drawn, 0).value.backward()
        assert all(p.grad is None for m in (each.fake, each.head) for p in m.parameters())
        steps.append([p.grad for p in each.generator.parameters()])
    assert all(not torch.allclose(a, b) for a, b in zip(*steps, strict=True))


def test_a_head_that_knows_nothing_has_the_losses_of_a_coin():
    objective = dmd2()
    with torch.no_grad():
        for parameter in objective.head.parameters():
            parameter.zero_()
    drawn = objective.prepare(data(), 0)
    classifier = objective.fake_loss(drawn, 0).info["classifier"]
    assert float(classifier) == pytest.approx(2 * math.log(2))
    adversarial = objective.student_loss(drawn, 0).info["adversarial"]
    assert float(adversarial) == pytest.approx(math.log(2))


def test_every_term_has_draws_of_its_own():
    objective = dmd2()
    drawn = objective.prepare(data(), 0)
    objective.student_loss(drawn, 0)
    objective.fake_loss(drawn, 0)
    terms = ("", "fake ", "adversarial ", "classifier fake ", "classifier real ")
    wanted = {f"{term}{kind}" for term in terms for kind in ("level", "noise")}
    roles = {name.partition("@")[0] for name in objective.streams.state_dict()["generators"]}
    assert roles == wanted | {"latent"}


def test_a_head_and_its_weight_and_its_data_go_together():
    base = dmd2()
    parts = (base.teacher.module, base.generator, base.fake)
    with pytest.raises(ValueError, match="head and a positive adversarial_weight go together"):
        DMD2(*parts, base.head, levels=base.levels)
    with pytest.raises(ValueError, match="head and a positive adversarial_weight go together"):
        DMD2(*parts, levels=base.levels, adversarial_weight=0.1)
    with pytest.raises(ValueError, match="needs data, and its batches have none"):
        base.fake_loss(base.prepare(Batch(4), 0), 0)


# ---------------------------------------------------------------- the recipe


def test_data_are_asked_for_by_the_adversary_only():
    for name, kind, trained in (
        ("dmd2", DataFree, ["generator", "fake"]),
        ("dmd2-adversarial", Shuffled, ["generator", "fake", "head"]),
    ):
        stage = next(METHOD.recipe(ToyProblem(), METHOD.examples[name].settings, Context()))
        assert isinstance(stage.batches, kind) and list(stage.optimisation.rows) == trained
        assert set(stage.objective.trained) == set(trained) and stage.steps == 20


@pytest.mark.parametrize("name", METHOD.examples)
def test_examples_train(name):
    example = METHOD.examples[name]
    problem = ToyProblem(example.classes, example.student)
    recipe = METHOD.recipe(problem, example.settings, Context())
    names, found = [], next(recipe)
    while isinstance(found, Stage):
        names.append(found.name)
        trainer = Trainer(found.objective, found.optimisation, steps=found.steps)
        network = copy.deepcopy(trainer.fit(found.batches)).requires_grad_(True)
        trained = Trained(network, found.objective)
        try:
            found = recipe.send(trained)
        except StopIteration as stop:
            found = stop.value
    assert names == (["pairs", "dmd2"] if "regression" in name else ["dmd2"])
    cond = problem.data.conditions(3, torch.Generator())
    assert bool(found.sample(3, **cond).isfinite().all())


# ---------------------------------------------------------------- a training


def test_it_takes_a_linear_student_to_its_teacher():
    problem = LinearGaussian(2, 2)
    generator = Affine(torch.tensor([[1.0, 0.2], [0.0, 0.5]]), problem.mean + 1.0)
    assert problem.kl(generator.matrix, generator.shift, 0.7) > 0.5
    fake = AffineDenoiser(generator, follows=True, **RANGE)
    objective = DMD2(problem.teacher, generator, fake, levels=level(0.7), ratio=1)
    optimisation = Optimisation.adam(
        {"generator": 2e-2, "fake": 1e-3}, decay=cosine, halflife=2000.0
    )
    trained = Trainer(objective, optimisation, steps=600, seed=5).fit(DataFree(128))
    assert problem.kl(trained.matrix, trained.shift, 0.7) < 0.01


@pytest.mark.parametrize(
    "kind, lr, weight, least", [("residual", 1e-2, 1e-2, 0.55), ("few_step", 2e-2, 0.0, 0.4)]
)
def test_it_finds_the_modes_of_a_mixture_with_their_weights(kind, lr, weight, least):
    """The standard error of a share of 4,000 samples is 0.007, that of the part near a mode 0.008.

    Students start with 0.15 and 0.03 of their samples near a mode; of the data 0.99 are.
    """
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    problem = ToyProblem(student=kind)
    problem.networks.settings = replace(problem.settings, width=32)
    settings = METHOD.settings(
        steps=400,
        batch=128,
        ratio=1,
        lr=lr,
        beta_1=0.5,
        beta_2=0.99,
        halflife=4000.0,
        levels=LevelSettings(sigma_min=0.2, sigma_max=5.0),
        adversarial_weight=weight,
    )
    stage = next(METHOD.recipe(problem, settings, Context()))
    trainer = Trainer(stage.objective, stage.optimisation, steps=stage.steps)
    x = trainer.fit(stage.batches).sample(4000, generator=torch.Generator().manual_seed(1))
    shares = torch.tensor(problem.scores.histogram(x))
    assert bool(((shares - 0.25).abs() < 0.1).all()), shares
    near = torch.cdist(x, problem.scores.spec.means).amin(1) < 3 * 0.3
    assert near.double().mean() > least


def test_the_adversarial_loss_raises_the_logits_of_samples():
    """What its weight adds to the student's gradient is that of E log(1 + exp(-c)), exactly."""
    objective = dmd2()
    with torch.no_grad():
        for parameter in objective.head.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    parameters = list(objective.generator.parameters())

    def gradient(weight: float | None) -> torch.Tensor:
        objective.streams.reset(0)
        with torch.no_grad():
            drawn = objective.prepare(Batch(16), 0)
        if weight is None:
            x = objective.generator.call(drawn.call, drawn.z)
            logits = objective.logits(x, {}, 0, "adversarial")
            value = (1 + (-logits).exp()).log().mean()
        else:
            objective.adversarial_weight = weight
            value = objective.student_loss(drawn, 0).value
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])

    wanted = gradient(None)
    assert wanted.norm() > 1e-4
    torch.testing.assert_close(gradient(3.0) - gradient(1.0), 2 * wanted, rtol=1e-8, atol=1e-12)


def test_the_classifier_lowers_the_logits_of_samples_and_raises_those_of_data():
    objective = dmd2(classifier_weight=0.3)
    with torch.no_grad():
        for parameter in objective.head.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        drawn = objective.prepare(data(), 0)
        twin = copy.deepcopy(objective)
        loss = objective.fake_loss(drawn, 0)
        fake = twin.logits(drawn.x, {}, 0, "classifier fake")
        real = twin.logits(drawn.batch.x, {}, 0, "classifier real")
        wanted = ((1 + fake.exp()).log() + (1 + (-real).exp()).log()).mean()
        swapped = ((1 + real.exp()).log() + (1 + (-fake).exp()).log()).mean()
    assert (wanted - swapped).abs() > 1e-3
    torch.testing.assert_close(loss.info["classifier"], wanted)
    torch.testing.assert_close(loss.value, loss.info["error"] + 0.3 * wanted)
