r"""DMD2: distribution matching with a fast fake, an adversarial loss and simulated states.

.. math:: \nabla_\theta \mathcal{L} = \mathbb{E} \left[ \frac{(D_\phi(x_t, \sigma) - D(x_t,
    \sigma))^\top}{\| D(x_t, \sigma) - x \|_1} \, \nabla_\theta x \right]
    + \lambda_G \nabla_\theta \, \mathbb{E} \, \log \left( 1 + e^{-c(x_{t'}, \sigma')} \right)

The logit :math:`c` is a head's on the bottleneck of the *fake*; both learn it from data. Of a
few-step student one call is trained, at a state of the student's own roll-out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.levels import LogUniform
from ..discriminators.diffusion import DiffusionDiscriminator, discriminator_on
from ..errors import ConfigError
from ..functional.adversarial import softplus_discriminator, softplus_generator
from ..functional.tensors import expand_like
from ..settings import build
from ..settings.fields import DigitsSettings, NetworkOptimizer
from ..settings.grounds import COARSE_TO_FINE, MOG40
from ..students.base import Generator
from ..training.objective import Loss, Phase
from ..training.stage import Context, Recipe
from . import diff_instruct, regression
from .base import Arm, Example, Method, Needs, Preset
from .diff_instruct import DMD, DiffInstruct, Fakes, options_of, shown

if TYPE_CHECKING:
    from ..problems.base import Problem
    from ..problems.linear import LinearProblem
    from ..students.affine import Affine

__all__ = ["DMD2", "METHOD", "Settings", "recipe"]


class DMD2(DiffInstruct):
    r"""DMD2.

    .. math:: \mathcal{L}_\mathrm{fake} = \mathbb{E} \, \lambda(\sigma) \| D_\phi(x_t, \sigma) - x
        \|^2 + \lambda_C \, \mathbb{E} \left[ \log (1 + e^{c(x_{t'}, \sigma')}) + \log (1 +
        e^{-c(y_{t''}, \sigma'')}) \right]

    with data :math:`y` (Section 4). A step updates the fake and the head, each `ratio`-th step the
    student before them. Every term has levels and noises of its own.

    Needs:
        Data for the adversarial terms only; no gradient of the teacher.

    Deviations:
        - A row's divisor is at least `FLOOR`: in few dimensions it can be near zero.
        - Fake and head have an optimiser each, and the student's conditions are the data's.

    References:
        | Improved Distribution Matching Distillation for Fast Image Synthesis (Yin et al., 2024)
        | https://arxiv.org/abs/2405.14867

    Arguments:
        teacher: The denoiser to distil, guided or not.
        generator: The student. Of a few-step one, one call a step is trained, the same for all
            rows; those before it are made without a gradient.
        fake: The denoiser :math:`D_\phi` of the student's samples, never guided.
        head: The head on the fake's features; none without the adversarial terms.
        adversarial_weight: The weight :math:`\lambda_G`.
        classifier_weight: The weight :math:`\lambda_C`.
        options: See `DiffInstruct`. Directions are normalised by default, and as in the released
            code the mean over dimensions is taken, not the sum.

    Raises:
        ValueError: There is a head without its weight, or the reverse.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        head: DiffusionDiscriminator | None = None,
        *,
        adversarial_weight: float = 0.0,
        classifier_weight: float = 1e-2,
        **options: Any,  # noqa: ANN401 (those of Diff-Instruct)
    ) -> None:
        super().__init__(teacher, generator, fake, **{"normalised": True, **options})
        if (head is not None) != (adversarial_weight > 0):
            raise ValueError("a head and a positive adversarial_weight go together")
        self.head = head
        self.adversarial_weight, self.classifier_weight = adversarial_weight, classifier_weight

    @property
    def phases(self) -> tuple[Phase, ...]:
        critics = ("fake",) if self.head is None else ("fake", "head")
        return (
            Phase("student", self.student_loss, updates=("generator",), every=self.ratio),
            Phase("fake", self.fake_loss, updates=critics),
        )

    def prepare(self, batch: Batch, step: int) -> Fakes:
        state, index = shown(self, batch)
        return Fakes(state, self.generator.call(index, state, **batch.cond), batch, index)

    def logits(self, y: Tensor, cond: Mapping[str, Tensor], step: int, role: str) -> Tensor:
        r"""Returns the logits of samples at levels of their own, `(heads, B)`."""
        assert self.head is not None
        sigma = self.fake_levels(self.quantiles(len(y), f"{role} level", f"{role} order"), step)
        y_t = y + expand_like(sigma, y) * self.noise_like(y, f"{role} noise")
        return torch.stack(self.head(self.fake, y_t, sigma, **cond))

    def fake_loss(self, drawn: Fakes, step: int) -> Loss:
        loss, cond = super().fake_loss(drawn, step), drawn.batch.cond
        if self.head is None:
            return loss
        fake = self.logits(drawn.x, cond, step, "classifier fake")
        data = drawn.real or drawn.batch
        real = self.logits(data.clean().to(drawn.x), data.cond, step, "classifier real")
        error = softplus_discriminator(real, fake).mean()
        info = {**loss.info, "classifier": error.detach()}
        return Loss(loss.value + self.classifier_weight * error, info)

    def student_loss(self, drawn: Fakes, step: int) -> Loss:
        cond = drawn.batch.cond
        x = self.generator.call(drawn.call, drawn.z, **cond)
        value, info = self.matching(x, cond, step)
        value = value / x[0].numel()
        if self.head is not None:
            error = softplus_generator(self.logits(x, cond, step, "adversarial")).mean()
            value = value + self.adversarial_weight * error
            info = {**info, "adversarial": error.detach()}
        return self.regressed(Loss(value, info), len(x))


@dataclass(frozen=True, kw_only=True)
class Settings(diff_instruct.Settings):
    r"""DMD2."""

    normalised: bool = True
    """Divide each row's direction by the teacher's mean absolute correction, as DMD does."""
    adversarial_weight: float = 3e-3
    """The weight of the student's adversarial loss; at 0 there is no head and no data."""
    classifier_weight: float = 1e-2
    """The weight of the classifier's loss in the training of the fake."""
    head_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the head is updated."""


def recipe(
    problem: Problem, config: Settings, context: Context, make: Callable[..., DMD2] = DMD2
) -> Recipe:
    r"""Trains fake and head at each step and the student at each `ratio`-th, after a start. A
    method with other states, which are of data, gives its own `make`."""
    steps, head = config.steps * config.ratio, None
    student, fake = problem.networks.student(), problem.networks.fake()
    if config.adversarial_weight:
        if not fake.taps:
            raise ConfigError(
                "the classifier of dmd2 reads features of the teacher's network, and it lists "
                "none: give the network `taps`, `bottleneck` and `features`, see "
                "docs/usage/features.md, or leave the classifier out, --adversarial-weight 0"
            )
        head = discriminator_on(fake, (), **problem.data.conditions(1, torch.Generator()))
    student, pairs = yield from regression.train_on_pairs(
        problem, student, config.pairs, config, context
    )
    objective = make(
        problem.known_teacher,
        student,
        fake,
        head,
        adversarial_weight=config.adversarial_weight,
        classifier_weight=config.classifier_weight,
        **options_of(problem, config, steps, pairs),
    )
    free = head is None and make is DMD2
    batches = problem.data.free if free else problem.data.clean
    rows = batches(config.batch, context.seed)
    return (yield build.last_stage("dmd2", objective, rows, config, steps=steps)).network


def ideal(problem: LinearProblem, student: Affine) -> DMD2:
    r"""Returns the matching of distributions alone, with the fake that is exact."""
    fake = problem.networks.fake(student, follows=True)
    return DMD2(problem.known_teacher, student, fake, levels=LogUniform(0.3, 3.0), ratio=1)


YIN = """@inproceedings{yin2024dmd2,
  title     = {Improved Distribution Matching Distillation for Fast Image Synthesis},
  author    = {Yin, Tianwei and Gharbi, Micha{\\"e}l and Park, Taesung and Zhang, Richard and
               Shechtman, Eli and Durand, Fr{\\'e}do and Freeman, William T.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024}
}"""

MIXTURE = Settings(steps=4_000, batch=256, levels=COARSE_TO_FINE, ratio=5)
IMAGES = Settings(**{**vars(diff_instruct.DIGITS), "regression_weight": 0.0})
FOUR_CALLS = replace(IMAGES, steps=800, lr=3e-4, pairs=Settings().pairs)

PRESETS = {
    "mog40-dmd2": Preset("DMD2 with five fake updates a student update, and data", MOG40, MIXTURE),
    "digits-dmd2": Preset("8x8 real images by class; DMD2", DigitsSettings(), IMAGES),
    "digits-dmd2-4": Preset("the same with four calls", DigitsSettings(calls=4), FOUR_CALLS),
}

ARMS = {
    "mog40": {"dmd2": Arm("DMD2, 5 fake, data", MIXTURE)},
    "digits": {"dmd2": Arm("DMD2", IMAGES)},
}

TINY = Settings(
    steps=10,
    batch=8,
    ratio=2,
    adversarial_weight=0.0,
    levels=replace(COARSE_TO_FINE, sigma_max=5.0, start_min=1.0),
)
ADVERSARIAL = replace(TINY, adversarial_weight=3e-3)
PAIRS = replace(regression.TINY.pairs, pairs=20)

METHOD = Method(
    name="dmd2",
    title="DMD2",
    year=2024,
    address="https://arxiv.org/abs/2405.14867",
    networks=("student", "fake", "head"),
    needs=Needs(data=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"dmd2": YIN, "dmd": DMD, **regression.METHOD.bibtex},
    cites_by=lambda config: ("dmd2", "dmd", *(["luhman"] if config.pairs.pairs else [])),
    presets=PRESETS,
    cures=diff_instruct.CURES,
    arms=ARMS,
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
    examples={
        "dmd2": Example(TINY),
        "dmd2-adversarial": Example(ADVERSARIAL),
        "dmd2-classes": Example(ADVERSARIAL, classes=2),
        "dmd2-few-step": Example(ADVERSARIAL, student="few_step"),
        "dmd2-regression": Example(replace(TINY, pairs=PAIRS, regression_weight=0.5)),
    },
)
