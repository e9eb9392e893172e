"""Relational distillation: its gradient, its memory, its terms, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from cases import batch_of, last_stage
from torch import Tensor, nn

from vardiu.cli.main import main
from vardiu.errors import ConfigError, Interrupted
from vardiu.methods.progressive import ProgressiveDistillation
from vardiu.methods.rdd import FEW, TINY, RelationalDistillation, recipe
from vardiu.problems.digits import DigitsProblem
from vardiu.problems.image_scores import ImageScores
from vardiu.problems.toy import ToyProblem
from vardiu.settings.fields import DigitsSettings, RelationSettings
from vardiu.storage.code import OwnCode
from vardiu.training.memory import Queue
from vardiu.training.objective import denoiser_of
from vardiu.training.optimizers import Optimisation
from vardiu.training.stage import Context
from vardiu.training.trainer import Trainer


class Quarters(nn.Module):
    """A classifier of points whose maps have three channels and four positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x).tanh().view(-1, 3, 2, 2)


def objective_of(name: str = "rdd", **changes: object) -> RelationalDistillation:
    """The last stage of an example, with maps of positions in the place of groups of points."""
    given = last_stage(name).objective
    row = replace(given.relations, share=3, **changes)
    torch.manual_seed(0)
    found = RelationalDistillation(
        given.teacher.module,
        given.network("generator"),
        given.grid,
        stride=given.stride,
        weight=given.weight,
        classifier=Quarters(),
        channels=3,
        relations=row,
    )
    found.streams.reset(0)
    return found


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


def plain(objective: RelationalDistillation, drawn) -> dict[str, Tensor]:
    """The terms as the paper has them, a pair of images at a time."""
    row, lesson = objective.relations, drawn.lesson
    x = denoiser_of(objective)(lesson.x_t, lesson.sigma, **lesson.cond)
    phi = objective.classifier.module

    def unit(maps: Tensor) -> Tensor:
        return maps / maps.norm(dim=1, keepdim=True).clamp_min(1e-12)  # a row may be all zero

    student, teacher = phi(x).flatten(2), phi(lesson.target).flatten(2)
    pooled = kl(
        (teacher.mean(2) / row.feature_temperature).softmax(1), student.mean(2).softmax(1)
    ).mean()
    b, _, a = student.shape
    pairs = 0.0
    for begin in range(0, b, row.share):
        part = range(begin, min(begin + row.share, b))
        for i in part:
            for d in part:
                p, q = (
                    (unit(m)[i].T @ unit(m)[d] / row.pair_temperature).softmax(1)
                    for m in (teacher, student)
                )
                pairs = pairs + kl(p, q).sum() / (len(part) * a * b)
    rows = objective.head(student.transpose(1, 2).flatten(0, 1))
    rows, taught = unit(rows), unit(teacher).transpose(1, 2).flatten(0, 1)
    p, q = ((m @ drawn.kept.T / row.memory_temperature).softmax(1) for m in (taught, rows))
    error = (x - lesson.target).square().mean(1)
    value = (objective.weight(lesson.sigma) * error).mean()
    return {"pixel": value, "feature": pooled, "pair": pairs, "memory": kl(p, q).mean()}


WEIGHTS = {"pixel": 0.0, "feature": 0.0, "pair": 0.0, "memory": 0.0}


@pytest.mark.parametrize(
    "weights",
    [
        {"feature": 1.3},
        {"pair": 0.7},
        {"memory": 0.4},
        {"pixel": 0.5, "feature": 1.3, "pair": 0.7, "memory": 0.4},
    ],
)
def test_each_term_and_all_have_the_gradient_of_the_plain_definition(weights):
    given = {f"{key}_weight": value for key, value in (WEIGHTS | weights).items()}
    # None of them the default.
    objective = objective_of(
        **given, feature_temperature=0.8, pair_temperature=0.6, memory_temperature=0.25
    )
    Trainer(objective, optimisation(objective), steps=2).fit(last_stage("rdd").batches)
    drawn = objective.prepare(batch_of(objective, 7), 2)
    if "memory" not in weights:
        objective.head = nn.Identity()  # the plain definition has one all the same
        drawn = drawn._replace(kept=torch.eye(3))
    wanted = sum(w * plain(objective, drawn)[key] for key, w in weights.items())
    found = objective.relational_loss(drawn, 2)
    assert found.info.keys() == {"squared_error", *weights}
    torch.testing.assert_close(found.value, wanted, rtol=1e-12, atol=1e-14)
    networks = [objective.generator, *([objective.head] if "memory" in weights else [])]
    parameters = [p for network in networks for p in network.parameters()]
    gradients = [torch.autograd.grad(value, parameters) for value in (found.value, wanted)]
    for mine, its in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-12)
    assert [phase.updates for phase in objective.phases] == [
        ("generator", "head") if "memory" in weights else ("generator",)
    ]
    assert bool(objective.row_coupling) == (weights != {"feature": 1.3})


def optimisation(objective: RelationalDistillation) -> Optimisation:
    return Optimisation.adam(dict.fromkeys(objective.trained, 1e-2))


def test_equal_maps_have_no_loss_without_sharpening_and_with_an_identity_for_a_head():
    objective = objective_of(pixel_weight=0.0, feature_temperature=1.0)
    objective.head = nn.Identity()
    drawn = objective.prepare(batch_of(objective, 6), 0)
    lesson = drawn.lesson
    with torch.no_grad():
        same = denoiser_of(objective)(lesson.x_t, lesson.sigma)
        maps, pooled = objective.seen(same)
    taught = torch.nn.functional.normalize(maps, dim=1).transpose(1, 2)
    drawn = drawn._replace(maps=taught, pooled=pooled)
    assert objective.relational_loss(drawn, 0).value.abs() < 1e-14
    moved = objective.memory.spread(8, drawn.coming.flip(1))
    assert objective.relational_loss(drawn._replace(kept=moved), 0).value.abs() < 1e-14
    objective.head = nn.Linear(3, 3)
    values = [
        objective.relational_loss(drawn._replace(kept=k), 0).value for k in (drawn.kept, moved)
    ]
    assert (values[0] - values[1]).abs() > 1e-4  # it is compared with what the memory holds


def test_the_memory_holds_positions_of_the_teacher_in_their_order():
    objective = objective_of(enqueue=5, queue=12, contrast=6)
    batches, kept = last_stage("rdd").batches, []
    trainer = Trainer(objective, optimisation(objective), steps=4)
    real = objective.prepare
    objective.prepare = lambda batch, step: kept.append(real(batch, step)) or kept[-1]
    for steps in range(1, 5):
        trainer.advance(batches)
        filled = objective.memory.filled
        assert len(filled) == min(5 * steps, 12)
    coming = torch.cat([drawn.coming for drawn in kept])
    assert torch.equal(objective.memory.rows.roll(-20 % 12, 0), coming[-12:])
    for drawn in kept:
        teacher = objective.classifier.module(drawn.lesson.target).flatten(2)
        every = (teacher / teacher.norm(dim=1, keepdim=True)).transpose(1, 2).flatten(0, 1)
        distance = torch.cdist(drawn.coming, every).amin(1)
        assert distance.max() < 1e-7 and len(drawn.coming.unique(dim=0)) == 5
    torch.testing.assert_close(coming.norm(dim=1), torch.ones(20))


def test_rows_are_spread_over_a_queue_as_it_will_be():
    queue, other = (Queue(7, (1,), "x") for _ in range(2))
    for step in range(6):
        coming = torch.arange(3.0)[:, None] + 10 * step
        found = queue.spread(4, coming)
        before = queue.rows.clone()
        other.push(coming)
        places = torch.tensor([0, 2, 4, 6])
        assert torch.equal(found, other.rows[places[places < other.written.value]])
        assert torch.equal(queue.rows, before)
        queue.push(coming)
    assert torch.equal(queue.spread(100, coming[:0]), queue.rows)


def test_the_last_stages_alone_learn_relations_each_with_a_head_and_a_memory_of_its_own():
    settings = replace(TINY, grid=8, relations=replace(FEW, calls=2))
    stages, sent = recipe(ToyProblem(), settings, Context()), None
    found = []
    while True:
        try:
            stage = stages.send(sent)
        except StopIteration:
            break
        found.append(stage)
        sent = SimpleNamespace(network=stage.objective.network("generator"))
    kinds = [type(stage.objective) for stage in found]
    assert kinds == [ProgressiveDistillation] * 2 + [RelationalDistillation] * 2
    assert [stage.name for stage in found] == ["fold", "4-steps", "2-steps", "1-steps"]
    last = [stage.objective for stage in found[-2:]]
    assert last[0].memory is not last[1].memory and last[0].head is not last[1].head


# ---------------------------------------------------------------- what is refused


def code(value: object) -> OwnCode:
    return OwnCode("mine.py:make", "0" * 64, value, "0" * 64)


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach() + 1


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True))


def image_scores(value: object | None) -> ImageScores:
    space = SimpleNamespace(shape=(3, 8, 8), decode=lambda x: x)
    scores = ImageScores(SimpleNamespace(space=space))
    scores.classifier = None if value is None else code(value)
    return scores


def test_any_module_is_tapped_where_the_user_says():
    maps = image_scores(convolution).feature_maps("0")
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    found = maps(x.float())
    assert found.shape == (2, 5, 6, 6) and (found < 0).any() and found.requires_grad


@pytest.mark.parametrize(
    ("value", "tap", "message"),
    [
        (None, "0", "--classifier FILE.py:NAME, and the part of it that makes them"),
        (convolution, "", "with --relations.tap PART"),
        (convolution, "layer4", "--relations.tap of mine.py:make: Sequential has no tap 'layer4'"),
        (lambda: 3, "0", "mine.py:make makes a int, and a classifier is a torch.nn.Module"),
        (lambda: nn.Sequential(nn.Conv2d(1, 5, 3)), "0", "calling the classifier with images"),
        (lambda: nn.Sequential(Detached(), nn.ReLU()), "0", "the maps at '0' have no gradient"),
    ],
)
def test_a_classifier_that_cannot_be_tapped_is_named(value, tap, message):
    with pytest.raises(ConfigError, match=message):
        image_scores(value).feature_maps(tap)


def test_a_wrong_tap_of_the_digits_is_told_before_a_classifier_is_trained():
    problem = DigitsProblem(DigitsSettings(), untaught=True)
    with pytest.raises(ConfigError, match=r"--relations.tap: DigitsClassifier has no tap 'pool'"):
        problem.scores.feature_maps("pool")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--relations.tap", "pool"], "points have no maps to tap, got pool"),
        (["--relations.enqueue", "90"], "relations.enqueue must be at most relations.queue (64)"),
        (["--batch", "9"], "batch must be a multiple of relations.group (2), got 9"),
        (["--sampling-steps", "2"], "relations.calls must be at least sampling_steps (2)"),
    ],
)
def test_bad_settings_are_one_line_before_training(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, *words]) == 2
    told = capsys.readouterr().err
    assert message in " ".join(told.split()) and not (tmp_path / "run/checkpoints").exists()


COMMAND = [
    *("distill", "mog40-rdd", "--out", "run", "--steps", "4", "--batch", "8", "--grid", "2"),
    *("--width", "8", "--depth", "1", "--relations.group", "2", "--relations.queue", "64"),
    *("--relations.enqueue", "6", "--relations.calls", "1", "--samples", "100"),
    *("--device", "cpu", "--evaluations", "1"),
]


def test_a_resumed_run_with_another_queue_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def stopped(*words: object, **named: object) -> None:
        raise Interrupted("stopped at step 0 of 4")

    monkeypatch.setattr(Trainer, "fit", stopped)
    main(COMMAND)
    (tmp_path / "run/checkpoints").mkdir()  # from the first one on settings are held to
    capsys.readouterr()
    assert main([*COMMAND, "--relations.queue", "65"]) == 2
    assert "relations.queue" in capsys.readouterr().err


def test_no_term_is_no_method():
    with pytest.raises(ConfigError, match="without them it is --method progressive"):
        RelationSettings(feature_weight=0.0, pair_weight=0.0, memory_weight=0.0)


def test_a_wrong_tap_is_told_before_a_teacher_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)

    def trained(*arguments: object) -> None:
        raise ConfigError("a teacher is trained")

    monkeypatch.setattr("vardiu.runs.teach.teach", trained)
    words = ["--device", "cpu", "--out", "run"]
    for method, more, message in (
        (
            "rdd",
            ["--relations.tap", "pool"],
            "--relations.tap: DigitsClassifier has no tap 'pool'",
        ),
        ("progressive", [], "a teacher is trained"),
    ):
        assert main(["distill", f"digits-{method}", *words, *more]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
