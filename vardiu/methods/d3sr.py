r"""D3SR: super-resolution in one call, with a discriminator on a pre-trained denoiser's encoder.

.. math:: \mathcal{L}_g = \| \hat x - x \|^2 / d + \lambda_2 \, \text{EA-DISTS}(\hat x, x)
    + \lambda_1 \, \mathbb{E} \log \left( 1 + e^{-c(\hat z_t, \sigma)} \right), \qquad
    \hat z = g(y), \quad \hat x = \mathrm{Dec}(\hat z)

The student is shown a degraded image :math:`y` and nothing else; no score is distilled. The logits
:math:`c`, one a place, are those of an encoder that learns beside it, at noisy samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..data.batch import Batch
from ..data.batches import Batches
from ..denoisers.base import Denoiser
from ..denoisers.levels import Levels
from ..discriminators.diffusion import DiffusionDiscriminator, discriminator_on, named_taps
from ..discriminators.encoders import encoder_of
from ..discriminators.heads import position_head
from ..errors import ConfigError
from ..functional.adversarial import softplus_discriminator, softplus_generator
from ..functional.perception import edge_aware_dists
from ..functional.tensors import expand_like
from ..settings import build
from ..settings.fields import LevelSettings, NetworkOptimizer, Training
from ..settings.grounds import PATCH_PAIRS, RESTORATION
from ..students.base import Generator
from ..training.objective import Loss, Objective, Phase
from ..training.stage import Context, Recipe, Stage, Stages
from .base import Example, Method, Needs, Preset

if TYPE_CHECKING:
    from ..problems.base import Problem, Space

__all__ = ["D3SR", "METHOD", "Settings", "Shown", "Spatial", "recipe", "started"]


class Shown(NamedTuple):
    r"""What a step shows, in the teacher's space but for the clean images."""

    degraded: Tensor
    """The student's input."""
    clean: Tensor
    """What it was."""
    images: Tensor
    """The clean images; the same where the teacher is none of latents."""
    cond: Mapping[str, Tensor]


class Spatial:
    r"""The distance of restored images to the true ones, :math:`\mathrm{MSE} + \lambda_2
    \text{EA-DISTS}`, a scalar.

    Arguments:
        problem: The problem, whose space decodes and whose network compares.
        weight: :math:`\lambda_2`; with 0 no network is asked.
    """

    def __init__(self, problem: Problem, weight: float) -> None:
        self.space: Space = problem.space
        self.weight, self.net = weight, problem.networks.perceptual() if weight else None

    def shown(self, batch: Batch, like: Tensor) -> Shown:
        r"""Returns a batch of images in the teacher's space, on a device and of a type."""
        if batch.truth is None:
            raise ValueError("this needs pairs: batches of degraded samples with their truth")
        degraded, images = batch.clean().to(like), batch.truth.to(like)
        encode = self.space.encode
        return Shown(encode(degraded), encode(images), images, batch.cond)

    def __call__(self, sample: Tensor, images: Tensor) -> Loss:
        r"""Returns the loss of samples, of which the gradient goes through the decoder."""
        x = self.space.decode(sample)
        value = (x - images).square().mean()
        info = {"mse": value.detach()}
        if self.net is not None:
            pair, net = ((x + 1) / 2, (images + 1) / 2), self.net.to(x.device)
            unlike = edge_aware_dists(*pair, net, net.weights).mean()
            value, info = value + self.weight * unlike, {**info, "dists": unlike.detach()}
        return Loss(value, info)


class D3SR(Objective):
    r"""D3SR.

    .. math:: \mathcal{L}_D = \mathbb{E} \left[ \log \left( 1 + e^{c(\hat z_t, \sigma)} \right) +
        \log \left( 1 + e^{-c(z_{t}, \sigma)} \right) \right]

    with the clean :math:`z` of the same images. A step updates the student, then encoder and head.
    With :math:`\lambda_1 = 0` there is no discriminator, and it is a regression.

    Needs:
        Pairs of degraded and clean images. The teacher gives weights and is not asked.

    Deviations:
        - Any denoiser of any schedule; the level is the student's own.
        - The range of the discriminator's levels is an option; the paper has all times.

    References:
        | Unleashing the Power of One-Step Diffusion based Image Super-Resolution via a Large-Scale
        | Diffusion Discriminator (Li et al., 2025), https://arxiv.org/abs/2410.04224

    Arguments:
        generator: The student, shown a degraded image.
        spatial: The distance of restored images to the true ones.
        critic: The encoder that the discriminator reads; none without it.
        head: Its head, a logit a place.
        levels: The distribution of its noise levels.
        adversarial_weight: :math:`\lambda_1`.

    Raises:
        ValueError: A discriminator is there without its weight, levels or head, or the reverse.
    """

    def __init__(
        self,
        generator: Generator,
        spatial: Spatial,
        critic: Denoiser | None = None,
        head: DiffusionDiscriminator | None = None,
        *,
        levels: Levels | None = None,
        adversarial_weight: float = 0.0,
    ) -> None:
        super().__init__(None, generator)
        wanted = adversarial_weight > 0
        if any((part is not None) != wanted for part in (critic, head, levels)):
            raise ValueError("critic, head, levels and a positive adversarial_weight go together")
        self.spatial, self.critic, self.head = spatial, critic, head
        self.levels, self.adversarial_weight = levels, adversarial_weight

    @property
    def phases(self) -> tuple[Phase, ...]:
        student = Phase("student", self.student_loss, updates=("generator",))
        if self.head is None:
            return (student,)
        return student, Phase("critic", self.critic_loss, updates=("critic", "head"))

    def prepare(self, batch: Batch, step: int) -> Shown:
        return self.spatial.shown(batch, self.like)

    def logits(
        self, samples: Sequence[Tensor], cond: Mapping[str, Tensor], step: int, role: str
    ) -> list[list[Tensor]]:
        r"""Returns of each tensor of samples the logits of each tap, at the same levels."""
        assert self.critic is not None and self.head is not None and self.levels is not None
        n = len(samples[0])
        sigma = self.levels(self.quantiles(n, f"{role} level", f"{role} order"), step)
        found = []
        for index, z in enumerate(samples):
            z_t = z + expand_like(sigma, z) * self.noise_like(z, f"{role} noise {index}")
            found.append(self.head(self.critic, z_t, sigma, **cond))
        return found

    def student_loss(self, drawn: Shown, step: int) -> Loss:
        z = self.generator(drawn.degraded, **drawn.cond)
        loss = self.spatial(z, drawn.images)
        if self.head is None:
            return loss
        (logits,) = self.logits([z], drawn.cond, step, "adversarial")
        error = torch.stack([softplus_generator(c).mean() for c in logits]).mean()
        info = {**loss.info, "adversarial": error.detach()}
        return Loss(loss.value + self.adversarial_weight * error, info)

    def critic_loss(self, drawn: Shown, step: int) -> Loss:
        with torch.no_grad():
            z = self.generator(drawn.degraded, **drawn.cond)
        fake, real = self.logits([z, drawn.clean], drawn.cond, step, "critic")
        both = list(zip(real, fake, strict=True))
        error = torch.stack([softplus_discriminator(r, f).mean() for r, f in both]).mean()
        right = torch.stack([torch.cat([r > 0, f < 0]).float().mean() for r, f in both]).mean()
        return Loss(error, {"critic": error.detach(), "accuracy": right})


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""D3SR."""

    start_steps: int = 0
    """Updates of the student by the spatial loss alone, before the discriminator is there."""
    start_lr: float = 1e-3
    """The student's learning rate in these."""
    adversarial_weight: float = 0.02
    """lambda_1, the weight of the student's adversarial loss; at 0 there is no discriminator."""
    perceptual_weight: float = 1.0
    """lambda_2, the weight of the edge-aware DISTS beside the squared error."""
    critic: Literal["teacher", "fresh"] = "teacher"
    """Where the discriminator's encoder starts: a teacher's weights, or fresh ones."""
    critic_rank: int = 16
    """The rank of adapters on its weights; 0 trains a copy of them."""
    taps: str = ""
    """The features that it reads, separated by commas; the bottleneck by default."""
    levels: LevelSettings = LevelSettings(sigma_min=0.02, sigma_max=20.0)
    """The noise levels of what it reads; the paper has all times of a schedule."""
    critic_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How its encoder is updated."""
    head_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How its head is updated."""


def discriminator_of(
    problem: Problem, config: Settings
) -> tuple[Denoiser, DiffusionDiscriminator]:
    r"""Returns an encoder and its head, as settings ask for them.

    Raises:
        ConfigError: There are no such features, or none with places.
    """
    networks = problem.networks
    source = networks.judge() if config.critic == "teacher" else networks.denoiser()
    taps = named_taps(source, config.taps, config.critic, "--critic fresh")
    cond = problem.data.conditions(1, torch.Generator())
    try:
        critic = encoder_of(source, taps, config.critic_rank, **cond)
        return critic, discriminator_on(critic, taps, position_head, **cond)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"no discriminator can be made of this network: {error}") from error


def started(
    problem: Problem,
    student: Generator,
    spatial: Spatial,
    config: Any,  # noqa: ANN401 (the settings of each method that starts so)
    context: Context,
) -> Stages[tuple[Generator, Batches]]:
    r"""Yields the start of a student by the spatial loss, where settings ask for one; returns it
    and the pairs to go on with."""
    batches = problem.data.paired(config.batch, context.seed)
    if not config.start_steps:
        return student, batches
    row = build.optimisation(replace(config, lr=config.start_lr, delay=0))
    share, start = config.start_steps / config.steps, D3SR(student, spatial)
    trained = yield Stage("start", start, config.start_steps, batches, row, share, 2)
    return trained.network, problem.data.paired(config.batch, context.seed + 1)


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the student by the spatial loss, then against the discriminator."""
    student, spatial = problem.networks.student(), Spatial(problem, config.perceptual_weight)
    student, batches = yield from started(problem, student, spatial, config, context)
    if not config.adversarial_weight:
        last, row = D3SR(student, spatial), build.optimisation(config)
    else:
        critic, head = discriminator_of(problem, config)
        levels = build.levels(config.levels, config.steps)
        weight = config.adversarial_weight
        last = D3SR(student, spatial, critic, head, levels=levels, adversarial_weight=weight)
        own = {"critic": config.critic_optimizer, "head": config.head_optimizer}
        row = build.optimisation(config, **own)
    of = 2 if config.start_steps else 1
    trained = yield Stage("d3sr", last, config.steps, batches, row, of=of)
    return trained.network


LI = """@inproceedings{li2025d3sr,
  title     = {Unleashing the Power of One-Step Diffusion based Image Super-Resolution via a
               Large-Scale Diffusion Discriminator},
  author    = {Li, Jianze and Cao, Jiezhang and Zou, Zichen and Su, Xiongfei and Yuan, Xin and
               Zhang, Yulun and Guo, Yong and Yang, Xiaokang},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2025}
}"""
DISTS = """@article{ding2020dists,
  title   = {Image Quality Assessment: Unifying Structure and Texture Similarity},
  author  = {Ding, Keyan and Ma, Kede and Wang, Shiqi and Simoncelli, Eero P.},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year    = {2020}
}"""
CURES: Mapping[str, str] = {
    "collapse": "lower --adversarial-weight: the discriminator moves the student from its images",
    "worsening": "lower --lr or --adversarial-weight",
    "saturation": "narrow --levels.sigma-max: missing detail must not drown in noise",
    "divergence": "lower --lr or --critic-optimizer.lr",
}
# The published row, but for the weights, which are in a supplement that was not seen.
PUBLISHED = Settings(
    steps=100_000, batch=8, lr=5e-5, optimizer="adamw", weight_decay=1e-2, decay="constant"
)
# Small networks: missing detail is below the noise of all but the smallest levels.
SMALL = Settings(
    steps=600,
    batch=32,
    lr=1e-4,
    start_steps=1_200,
    critic_rank=0,
    perceptual_weight=0.0,
    delay=50,
    decay="constant",
    halflife=1_600.0,
    levels=LevelSettings(sigma_min=0.01, sigma_max=0.35),
    critic_optimizer=NetworkOptimizer(lr=1e-3, beta_1=0.5, beta_2=0.99),
    head_optimizer=NetworkOptimizer(lr=1e-3, beta_1=0.5, beta_2=0.99),
)
PRESETS = {
    "patches-d3sr": Preset("16x16 patches of photographs, four times; D3SR", PATCH_PAIRS, SMALL),
    "restoration": Preset(
        "any teacher of images and clean images (--teacher, --data); D3SR", RESTORATION, PUBLISHED
    ),
}
TINY = Settings(
    steps=10,
    batch=8,
    adversarial_weight=0.5,
    perceptual_weight=0.0,
    critic="fresh",
    critic_rank=0,
    levels=LevelSettings(sigma_min=0.2, sigma_max=5.0, start_min=1.0),
)
METHOD = Method(
    name="d3sr",
    title="D3SR",
    year=2025,
    address="https://arxiv.org/abs/2410.04224",
    family="adversarial",
    networks=("student", "critic", "head"),
    needs=Needs(data=True, paired=True, asked=False),
    settings=Settings,
    recipe=recipe,
    bibtex={"d3sr": LI, "dists": DISTS},
    cites_by=lambda config: ("d3sr", *(["dists"] if config.perceptual_weight else [])),
    presets=PRESETS,
    cures=CURES,
    examples={
        "d3sr": Example(TINY, student="restorer"),
        "d3sr-classes": Example(replace(TINY, start_steps=4), classes=2, student="restorer"),
        "d3sr-adapters": Example(replace(TINY, critic_rank=2), student="restorer"),
    },
)
