r"""Diff-Instruct: distillation with a learned score of the student.

.. math:: \nabla_\theta \, \mathbb{E} \big[ w(\sigma) \, \mathrm{KL}(p_\sigma \,\|\, q_\sigma)
    \big] = \mathbb{E} \left[ w(\sigma) \left( \nabla \log p_\sigma(x_t) - \nabla \log
    q_\sigma(x_t) \right)^\top \nabla_\theta g(z) \right]

The student's score is unknown; a second denoiser, the *fake*, is fitted to the student's samples
while the student moves. It lags behind, and the gradient is biased by as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.levels import Levels, LogUniform
from ..functional.distances import pseudo_huber
from ..functional.scores import Weight, denoising, edm_weight, mean_correction, surrogate
from ..functional.tensors import expand_like
from ..samplers.pairs import Pairs
from ..settings import build
from ..settings.fields import (
    DigitsSettings,
    ImageSettings,
    LevelSettings,
    NetworkOptimizer,
    PairSettings,
    Training,
    VectorSettings,
    WeightSettings,
)
from ..settings.grounds import AT_ONCE, BOUNDED, COARSE_TO_FINE, MIXTURE, MOG40, PATCHES
from ..students.base import Generator
from ..training.objective import Loss, Objective, Phase
from ..training.stage import Context, Recipe, Stage
from . import regression
from .base import Arm, Example, Method, Preset
from .regression import drawn_pairs

if TYPE_CHECKING:
    from ..problems.base import Problem
    from ..problems.linear import LinearProblem
    from ..students.affine import Affine

__all__ = [
    "CURES",
    "DMD",
    "DiffInstruct",
    "Fakes",
    "METHOD",
    "Settings",
    "options_of",
    "recipe",
    "score_difference",
    "shown",
]


# What to try against each alarm, see `vardiu.monitoring.alarms`.
CURES: Mapping[str, str] = {
    "collapse": "start from a spread student (--pairs.pairs), raise --levels.sigma-min, or give "
    "the fake more updates (--ratio)",
    "saturation": "the gradient is not noise: the fake may lag; raise --ratio or "
    "--fake-optimizer.lr",
    "worsening": "fewer --steps, a lower --lr, or a larger --regression-weight after "
    "--pairs.pairs",
    "divergence": "lower --lr or raise --levels.sigma-min",
}


def score_difference(fake: Tensor, real: Tensor, sigma: Tensor) -> Tensor:
    r"""Returns :math:`\nabla \log p_\sigma - \nabla \log q_\sigma` of two denoised tensors."""
    return (fake - real) / expand_like(sigma, fake).square()


class Fakes(NamedTuple):
    r"""Samples of the student, drawn without a graph."""

    z: Tensor
    """What the network was shown: the latents; of a later call the states, see `DMD2`."""
    x: Tensor
    """What the network made of what it was shown."""
    batch: Batch
    """The conditions of the rows, and clean samples where there are any."""
    call: int = 0
    """The call of a few-step student that made the samples, from zero."""
    real: Batch | None = None
    """Clean samples and their own conditions, where the rows have others."""


def shown(objective: Objective, batch: Batch) -> tuple[Tensor, int]:
    r"""Draws what the student is shown, and the place of the call that sees it, from zero.

    Latents; before a later call of a few-step student the state that its own calls make of them.
    """
    z, calls = objective.latents(batch.rows), objective.generator.calls
    # One index a step: rows of a batch, and processes, make the same calls.
    index = int(objective.streams.uniform("call", 1, shared=True) * calls) if calls > 1 else 0
    return objective.generator.simulated(index, z, **batch.cond), index


class DiffInstruct(Objective):
    r"""Diff-Instruct.

    .. math:: \mathcal{L}_\mathrm{fake} = \mathbb{E} \left[ \lambda(\sigma) \,
        \| D_\phi(x_t, \sigma) - g(z) \|^2 \right], \qquad
        \mathcal{L}_g = \mathbb{E} \left[ w(\sigma) \, \langle \mathrm{sg} \big[
        \tfrac{D_\phi(x_t, \sigma) - D(x_t, \sigma)}{\sigma^2} \big], g(z) \rangle \right]

    (Algorithm 1 of the paper.) A step is one update of the fake; each `ratio`-th step also updates
    the student, on draws that the fake has not seen.

    Needs:
        No data, no gradient of the teacher.

    Deviations:
        - The weight is an argument; :math:`w(\sigma) = \sigma^2` by default, as in the comparison
          of VarDiU (Wang et al., 2025).

    References:
        | Diff-Instruct: A Universal Approach for Transferring Knowledge From Pre-trained Diffusion
        | Models (Luo et al., 2023), https://arxiv.org/abs/2305.18455

    Arguments:
        teacher: The denoiser to distil.
        generator: The student :math:`g`.
        fake: The denoiser :math:`D_\phi` of the student's samples, best a copy of the teacher.
        levels: The distribution of noise levels for the student.
        fake_levels: That for the fake; the same by default.
        weight: The weight :math:`w(\sigma)` of a level, applied to the difference of scores.
        ratio: The number of fake updates a student update.
        normalised: Whether each row's direction is divided by the mean of
            :math:`| D(x_t, \sigma) - x |` over its dimensions (Yin et al., 2023, Equation 8,
            https://arxiv.org/abs/2311.18828).
        regression: Pairs of the teacher that the student keeps to (the regression of DMD).
        regression_weight: The weight of that regression, see `vardiu.methods.regression`.
        lattice: Whether latents and levels are spread evenly, see `Objective`.
        sigma_data: The data's standard deviation in :math:`\lambda`, EDM's weight.

    See also:
        `vardiu.methods.vardiu`, which needs no fake.
    """

    # The smallest divisor of a normalised direction, in units of the data.
    FLOOR = 0.02

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        *,
        levels: Levels,
        fake_levels: Levels | None = None,
        weight: Weight = torch.square,
        ratio: int = 5,
        normalised: bool = False,
        regression: Pairs | None = None,
        regression_weight: float = 0.0,
        lattice: bool = False,
        sigma_data: float = 0.5,
    ) -> None:
        super().__init__(teacher, generator)
        if ratio < 1:
            raise ValueError(f"ratio must be at least 1, got {ratio}")
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}")
        self.fake = fake
        self.levels, self.fake_levels = levels, levels if fake_levels is None else fake_levels
        self.weight, self.ratio, self.sigma_data = weight, ratio, sigma_data
        self.normalised, self.regression_weight = normalised, regression_weight
        self.lattice = lattice
        if (regression is None) != (regression_weight == 0):
            raise ValueError("pairs for regression and a positive regression_weight go together")
        # An artefact of the run: known to whoever made the objective, and in no checkpoint.
        self.regression = regression

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("fake", self.fake_loss, updates=("fake",)),
            Phase("student", self.student_loss, updates=("generator",), every=self.ratio),
        )

    def prepare(self, batch: Batch, step: int) -> Fakes:
        z = self.latents(batch.rows)
        return Fakes(z, self.generator(z, **batch.cond), batch)

    def fake_loss(self, drawn: Fakes, step: int) -> Loss:
        x, cond = drawn.x, drawn.batch.cond
        sigma = self.fake_levels(self.quantiles(len(x), "fake level", "fake order"), step)
        x_t = x + expand_like(sigma, x) * self.noise_like(x, "fake noise")
        weight = edm_weight(sigma, self.sigma_data)
        error = denoising(self.fake(x_t, sigma, **cond), x, weight).mean()
        return Loss(error, {"error": error.detach()})

    def student_loss(self, drawn: Fakes, step: int) -> Loss:
        cond = drawn.batch.cond
        loss = self.matching(self.generator(drawn.z, **cond), cond, step)
        return self.regressed(loss, drawn.batch.rows)

    def matching(self, x: Tensor, cond: Mapping[str, Tensor], step: int) -> Loss:
        r"""Returns the loss whose gradient moves samples of the student by their direction."""
        sigma = self.levels(self.quantiles(len(x)), step)
        return self.matched(x, sigma, self.noise_like(x), cond)

    def matched(
        self,
        x: Tensor,
        sigma: Tensor,
        noise: Tensor,
        cond: Mapping[str, Tensor],
        offset: Tensor | float = 0.0,
    ) -> Loss:
        r"""Returns the loss of given random numbers.

        Arguments:
            x: Samples of the student, with shape :math:`(B, *)`.
            sigma: Their levels, with shape :math:`(B)`.
            noise: Their noises, with shape :math:`(B, *)`.
            cond: Their conditions.
            offset: What is added to the fake's mean, with the shape of `x`.
        """
        x_t = (x + expand_like(sigma, x) * noise).detach()
        with torch.no_grad():
            mean = self.fake(x_t, sigma, **cond) + offset
        return self.directed(x, x_t, sigma, cond, mean)

    def directed(
        self, x: Tensor, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor], mean: Tensor
    ) -> Loss:
        r"""Returns the loss whose gradient moves samples against the difference of scores.

        Arguments:
            x: Samples of the student, with shape :math:`(B, *)`.
            x_t: Noisy ones, with shape :math:`(B, *)`.
            sigma: Their levels, with shape :math:`(B)`.
            cond: Their conditions.
            mean: What the fake makes of the noisy samples, with shape :math:`(B, *)`.
        """
        with torch.no_grad():
            real = self.teacher(x_t, sigma, **cond)
            difference = score_difference(mean, real, sigma)
            if self.normalised:
                size = mean_correction(real, x, self.FLOOR)
                difference = difference / expand_like(size, difference)
            factor = self.weight(sigma) * self.importance(x_t, sigma, cond)
        direction = expand_like(factor, x) * difference
        value = surrogate(x, direction).mean()
        # The surrogate's value means nothing; the size of the direction tells of convergence.
        return Loss(value, {"direction": direction.flatten(1).norm(dim=1).mean()})

    def importance(self, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r"""Returns the factor of each row's direction beside its level's weight, `(B,)`: one.

        Arguments:
            x_t: Noisy samples of the student, with shape :math:`(B, *)`.
            sigma: Their levels, with shape :math:`(B)`.
            cond: Their conditions.
        """
        return torch.ones_like(sigma)

    def regressed(self, loss: Loss, n: int) -> Loss:
        r"""Returns a loss of the student, and beside it that of its regression if there is one."""
        if self.regression is None:
            return loss
        distance = self.distance(self.regression, n)
        info = {**loss.info, "regression": distance.detach()}
        return Loss(loss.value + self.regression_weight * distance, info)

    def distance(self, known: Pairs, n: int) -> Tensor:
        r"""Returns the distance of the student to some of the teacher's pairs, a scalar."""
        pairs = drawn_pairs(self, known, n, "regression")
        return pseudo_huber(self.generator(pairs.z, **pairs.cond) - pairs.x).mean()


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""Diff-Instruct."""

    ratio: int = 5
    """The number of updates of the fake for each update of the student."""
    normalised: bool = False
    """Divide each row's direction by the teacher's mean absolute correction, as DMD does."""
    pairs: PairSettings = PairSettings()
    """A regression on the teacher's pairs, before the method's own training."""
    regression_weight: float = 0.0
    """The weight of the regression on pairs in the method's own training, as in DMD."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the fake is updated."""
    lattice: bool = False
    """Spread the latents and the levels of a batch evenly, by a randomly shifted lattice."""
    levels: LevelSettings = LevelSettings()
    """The noise levels of the student."""
    weight: WeightSettings = WeightSettings()
    """The weight of a noise level."""


class Matching(Protocol):
    r"""Settings of a method that is made from `DiffInstruct`."""

    @property
    def levels(self) -> LevelSettings: ...
    @property
    def weight(self) -> WeightSettings: ...
    @property
    def ratio(self) -> int: ...
    @property
    def normalised(self) -> bool: ...
    @property
    def regression_weight(self) -> float: ...
    @property
    def lattice(self) -> bool: ...


def options_of(
    problem: Problem, config: Matching, steps: int, pairs: Pairs | None
) -> dict[str, Any]:
    r"""Returns what settings say of `DiffInstruct` and of what is made from it.

    Arguments:
        problem: The problem.
        config: The settings.
        steps: The steps of the training.
        pairs: The pairs of the student's start, if it had one.
    """
    return {
        "levels": build.levels(config.levels, steps),
        "weight": build.weight(config.weight),
        "ratio": config.ratio,
        "normalised": config.normalised,
        "regression": pairs if config.regression_weight else None,
        "regression_weight": config.regression_weight,
        "lattice": config.lattice,
        "sigma_data": problem.space.sigma_data,
    }


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the fake at each step and the student at each `ratio`-th, after a start by pairs."""
    steps = config.steps * config.ratio
    student = problem.networks.student()
    student, pairs = yield from regression.train_on_pairs(
        problem, student, config.pairs, config, context
    )
    fake, options = problem.networks.fake(), options_of(problem, config, steps, pairs)
    objective = DiffInstruct(problem.known_teacher, student, fake, **options)
    optimisation = build.optimisation(config, fake=config.fake_optimizer)
    batches = problem.data.free(config.batch, context.seed)
    trained = yield Stage(
        "diff_instruct", objective, steps, batches, optimisation, of=2 if config.pairs.pairs else 1
    )
    return trained.network


def ideal(problem: LinearProblem, student: Affine) -> DiffInstruct:
    r"""Returns the objective with the fake that is exact: without lag."""
    fake = problem.networks.fake(student, follows=True)
    return DiffInstruct(problem.known_teacher, student, fake, levels=LogUniform(0.3, 3.0), ratio=1)


LUO = """@inproceedings{luo2023diffinstruct,
  title     = {{Diff-Instruct}: A Universal Approach for Transferring Knowledge From
               Pre-trained Diffusion Models},
  author    = {Luo, Weijian and Hu, Tianyang and Zhang, Shifeng and Sun, Jiacheng and Li, Zhenguo
               and Zhang, Zhihua},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023}
}"""


DMD = """@inproceedings{yin2024dmd,
  title     = {One-step Diffusion with Distribution Matching Distillation},
  author    = {Yin, Tianwei and Gharbi, Micha{\\"e}l and Zhang, Richard and Shechtman, Eli and
               Durand, Fr{\\'e}do and Freeman, William T. and Park, Taesung},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024}
}"""


def cites(settings: Settings) -> Iterator[str]:
    r"""Yields the keys of the papers that a run with these settings uses."""
    yield "diff_instruct"
    if settings.regression_weight or settings.normalised:
        yield "dmd"
    if settings.pairs.pairs:
        yield "luhman"


# How images are distilled: a regression on pairs first, and beside.
IMAGES = Settings(
    steps=800,
    batch=128,
    lr=3e-4,
    fake_optimizer=NetworkOptimizer(lr=8e-4),
    ratio=1,
    normalised=True,
    regression_weight=6.0,
    delay=100,
    warmup=50,
    beta_1=0.0,
    beta_2=0.99,
    clip=100.0,
    decay="trapezoid",
    levels=LevelSettings(sigma_min=0.1, sigma_max=6.0),
    halflife=17_700.0,
    pairs=PairSettings(pairs=16_000),
)


# How vectors are distilled; levels are in units of the data.
VECTORS = replace(
    IMAGES,
    steps=2_000,
    batch=256,
    lr=2e-4,
    fake_optimizer=NetworkOptimizer(lr=1e-3),
    levels=LevelSettings(sigma_min=0.02, sigma_max=2.0),
    clip=10.0,
    pairs=PairSettings(pairs=16_000, steps=2_500, batch=256),
)


PRESETS = {
    "mog40-diff-instruct": Preset(
        "Diff-Instruct with five fake updates a student update",
        MOG40,
        Settings(steps=4_000, batch=256, levels=COARSE_TO_FINE, weight=BOUNDED, ratio=5),
    ),
    "mixture-diff-instruct": Preset(
        "the residual student by Diff-Instruct with one fake update: best from 8 dimensions on",
        MIXTURE,
        Settings(
            steps=4_000,
            batch=512,
            lr=1e-3,
            fake_optimizer=NetworkOptimizer(lr=2e-3),
            beta_1=0.5,
            beta_2=0.99,
            delay=100,
            ratio=1,
            lattice=True,
            levels=AT_ONCE,
            weight=BOUNDED,
            halflife=20_000.0,
        ),
    ),
    "digits": Preset(
        "8x8 real images by class; Diff-Instruct after a regression on pairs",
        DigitsSettings(),
        IMAGES,
    ),
    "patches": Preset(
        "16x16 patches of photographs; Diff-Instruct after a regression on pairs",
        PATCHES,
        IMAGES,
    ),
    "images": Preset(
        "any teacher of images (--teacher, --data); Diff-Instruct after a regression on pairs",
        ImageSettings(),
        IMAGES,
    ),
    "vectors": Preset(
        "any teacher of vectors (--teacher, --data); Diff-Instruct after a regression on pairs",
        VectorSettings(),
        VECTORS,
    ),
}


# As many rows a batch as VarDiU's pairs of opposite noise make; the fake learns the first student
# before that one moves, in place of a fake that starts from the teacher's weights.
CONTENDER = Settings(
    batch=512,
    lr=2e-3,
    fake_optimizer=NetworkOptimizer(lr=4e-3),
    beta_1=0.5,
    beta_2=0.99,
    delay=200,
    levels=COARSE_TO_FINE,
    weight=BOUNDED,
    lattice=True,
)


ARMS = {
    "mog40": {
        f"diff-instruct-{ratio}": Arm(
            f"Diff-Instruct, {ratio} fake", replace(CONTENDER, ratio=ratio)
        )
        for ratio in (1, 5, 10)
    },
    "digits": {"diff-instruct": Arm("Diff-Instruct after pairs", IMAGES)},
    "vectors": {"diff-instruct": Arm("Diff-Instruct after pairs", VECTORS)},
}


TINY = Settings(
    steps=10, batch=8, ratio=2, levels=LevelSettings(sigma_min=0.2, sigma_max=5.0, start_min=1.0)
)


METHOD = Method(
    name="diff_instruct",
    title="Diff-Instruct",
    year=2023,
    address="https://arxiv.org/abs/2305.18455",
    networks=("student", "fake"),
    settings=Settings,
    recipe=recipe,
    bibtex={"diff_instruct": LUO, "dmd": DMD, **regression.METHOD.bibtex},
    cites_by=cites,
    presets=PRESETS,
    cures=CURES,
    arms=ARMS,
    examples={
        "diff-instruct": Example(TINY),
        "diff-instruct-lattice": Example(replace(TINY, ratio=1, lattice=True)),
        "diff-instruct-classes": Example(replace(TINY, ratio=1, normalised=True), classes=2),
    },
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
)
