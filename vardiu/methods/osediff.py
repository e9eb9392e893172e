r"""OSEDiff: super-resolution in one call, by a distance to the true images and a matched score.

.. math:: \mathcal{L}_g = \| \hat x - x \|^2 / d + \lambda_2 \, \text{EA-DISTS}(\hat x, x) +
    \lambda \, \mathbb{E} \, \| \hat z - \mathrm{sg}[\hat z - v] \|^2 / d, \qquad
    v = \frac{D_\phi(\hat z_t, \sigma) - D(\hat z_t, \sigma)}{\mathrm{mean} | \hat z - D(\hat
    z_t, \sigma) |}

The direction is Diff-Instruct's, normalised as in DMD; the *fake* :math:`D_\phi` learns the
restored samples beside the student.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..settings import build
from ..settings.fields import LevelSettings, NetworkOptimizer, Training, WeightSettings
from ..settings.grounds import PATCH_PAIRS
from ..students.base import Generator
from ..training.objective import Loss, Phase
from ..training.stage import Context, Recipe
from .base import Example, Method, Needs, Preset
from .d3sr import DISTS, Shown, Spatial, started
from .diff_instruct import DMD, DiffInstruct, Fakes

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "OSEDiff", "Settings", "recipe"]


class Drawn(NamedTuple):
    r"""What a step shows, and what the student made of it without a graph."""

    shown: Shown
    fakes: Fakes


class OSEDiff(DiffInstruct):
    r"""OSEDiff.

    A step updates the student, then the fake on what the student made before.

    Needs:
        Pairs of degraded and clean images, and the teacher; no gradient of it.

    Deviations:
        - The level is the student's own; the paper's is the end of the schedule.
        - EA-DISTS in the place of LPIPS, in the same network as D3SR; no tagger writes prompts.
        - A latent teacher's encoder stays as it is; the paper trains adapters in it.

    References:
        | One-Step Effective Diffusion Network for Real-World Image Super-Resolution
        | (Wu et al., 2024), https://arxiv.org/abs/2406.08177

    Arguments:
        teacher: The teacher, guided or not.
        generator: The student, shown a degraded image.
        fake: The denoiser of the restored samples, never guided.
        spatial: The distance of restored images to the true ones.
        score_weight: The weight :math:`\lambda` of the matched score.
        options: See `DiffInstruct`.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        spatial: Spatial,
        *,
        score_weight: float = 1.0,
        **options: Any,  # noqa: ANN401 (those of Diff-Instruct)
    ) -> None:
        given = {"normalised": True, "ratio": 1, **options}
        super().__init__(teacher, generator, fake, **given)
        self.spatial, self.score_weight = spatial, score_weight

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("student", self.restoring_loss, updates=("generator",)),
            Phase("fake", self.restored_loss, updates=("fake",)),
        )

    def prepare(self, batch: Batch, step: int) -> Any:  # noqa: ANN401 (not Diff-Instruct's)
        shown = self.spatial.shown(batch, self.like)
        x = self.generator(shown.degraded, **shown.cond)
        return Drawn(shown, Fakes(shown.degraded, x, batch))

    def restored_loss(self, drawn: Drawn, step: int) -> Loss:
        r"""Returns the fake's loss on restored samples."""
        return self.fake_loss(drawn.fakes, step)

    def restoring_loss(self, drawn: Drawn, step: int) -> Loss:
        r"""Returns the student's loss."""
        shown = drawn.shown
        z = self.generator(shown.degraded, **shown.cond)
        loss, matched = self.spatial(z, shown.images), self.matching(z, shown.cond, step)
        # Of a squared distance without its half, and a mean over dimensions.
        weight = self.score_weight * 2 / z[0].numel()
        return Loss(loss.value + weight * matched.value, {**loss.info, **matched.info})


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""OSEDiff."""

    start_steps: int = 0
    """Updates of the student by the spatial loss alone, before the score is matched."""
    start_lr: float = 1e-3
    """The student's learning rate in these."""
    score_weight: float = 1.0
    """The weight of the matched score."""
    perceptual_weight: float = 2.0
    """The weight of the edge-aware DISTS beside the squared error; the paper has 2 LPIPS."""
    levels: LevelSettings = LevelSettings(sigma_min=0.02, sigma_max=20.0)
    """The noise levels at which the score is matched."""
    weight: WeightSettings = WeightSettings()
    """The weight of a noise level, of the difference of scores: sigma^2 leaves that of means."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the fake is updated."""


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the student by the spatial loss, then with the matched score beside it."""
    student, spatial = problem.networks.student(), Spatial(problem, config.perceptual_weight)
    student, batches = yield from started(problem, student, spatial, config, context)
    objective = OSEDiff(
        problem.known_teacher,
        student,
        problem.networks.fake(),
        spatial,
        score_weight=config.score_weight,
        levels=build.levels(config.levels, config.steps),
        weight=build.weight(config.weight),
        sigma_data=problem.space.sigma_data,
    )
    of = 2 if config.start_steps else 1
    return (yield build.last_stage("osediff", objective, batches, config, of=of)).network


WU = """@inproceedings{wu2024osediff,
  title     = {One-Step Effective Diffusion Network for Real-World Image Super-Resolution},
  author    = {Wu, Rongyuan and Sun, Lingchen and Ma, Zhiyuan and Zhang, Lei},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024}
}"""
CURES = {
    "collapse": "lower --score-weight: the score moves the student from its images",
    "worsening": "lower --lr or --score-weight",
    "saturation": "raise --fake-optimizer.lr: the fake may lag",
    "divergence": "lower --lr or raise --levels.sigma-min",
}
SMALL = Settings(
    steps=400,
    batch=16,
    lr=1e-4,
    start_steps=800,
    perceptual_weight=0.0,
    delay=50,
    decay="constant",
    halflife=800.0,
    score_weight=0.02,
    levels=LevelSettings(sigma_min=0.05, sigma_max=2.0),
    fake_optimizer=NetworkOptimizer(lr=4e-4),
)
TINY = Settings(
    steps=10,
    batch=8,
    perceptual_weight=0.0,
    levels=LevelSettings(sigma_min=0.2, sigma_max=5.0, start_min=1.0),
)
METHOD = Method(
    name="osediff",
    title="OSEDiff",
    year=2024,
    address="https://arxiv.org/abs/2406.08177",
    networks=("student", "fake"),
    needs=Needs(data=True, paired=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"osediff": WU, "dmd": DMD, "dists": DISTS},
    cites_by=lambda config: ("osediff", "dmd", *(["dists"] if config.perceptual_weight else [])),
    presets={
        "patches-osediff": Preset(
            "16x16 patches of photographs, four times; OSEDiff", PATCH_PAIRS, SMALL
        )
    },
    cures=CURES,
    examples={
        "osediff": Example(TINY, student="restorer"),
        "osediff-classes": Example(replace(TINY, start_steps=4), classes=2, student="restorer"),
    },
)
