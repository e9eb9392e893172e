r"""EM distillation (EMD): maximum likelihood of the teacher's samples, by short Langevin chains.

.. math:: -\nabla_\theta \, \mathrm{KL}(q_\sigma \,\|\, p_\sigma) = \mathbb{E}_{\rho_\sigma}
    \left[ \nabla_\theta g(z)^\top \, \tfrac{x_t - g(z)}{\sigma^2} \right], \qquad
    \rho_\sigma(x_t, z) = q_\sigma(x_t) \, p_\sigma(z \mid x_t)

With :math:`x_t = g(z) + \sigma \varepsilon` the law of :math:`(\varepsilon, z)` is in proportion
to :math:`\tfrac{q_\sigma(x_t)}{p_\sigma(x_t)} \mathcal{N}(\varepsilon; 0, I) \mathcal{N}(z; 0, I)`
and needs two scores: the teacher's, and that of a *fake* of the student's samples. A chain starts
at a pair of the student's, and its noise is taken out of what the student is then moved by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from ..denoisers.levels import LogUniform
from ..errors import Diverged
from ..functional.scores import mean_correction, surrogate
from ..functional.tensors import expand_like
from ..samplers.chains import gain, run_chain
from ..settings import build
from ..settings.fields import ChainSettings, DigitsSettings, LevelSettings
from ..settings.grounds import BOUNDED, COARSE_TO_FINE, MOG40
from ..students.base import Generator
from ..training.objective import Loss
from ..training.stage import Context, Recipe, Stage
from . import diff_instruct, regression
from .base import Arm, Example, Method, Preset
from .diff_instruct import DMD, DiffInstruct, Fakes, score_difference

if TYPE_CHECKING:
    from ..problems.base import Problem
    from ..problems.linear import LinearProblem
    from ..students.affine import Affine

__all__ = ["EMD", "METHOD", "Settings", "recipe"]


class EMD(DiffInstruct):
    r"""EM distillation.

    .. math:: \mathcal{L}_g = \mathbb{E} \left[ w(\sigma) \, \Big\langle \mathrm{sg} \Big[
        - \tfrac{R^K}{\sigma (1 - (1 - \gamma)^K)} \Big], g(z^K) \Big\rangle \right]

    with the end :math:`z^K` and the residual :math:`R^K` of a chain, see `vardiu.samplers.chains`.
    A step is one update of the fake; each `ratio`-th step also updates the student. With one step
    of a chain and a latent that stays it is Diff-Instruct on the same draws; with many short ones,
    and no noise taken out, the gradient of the forward divergence.

    Needs:
        No data. A gradient of the student with respect to its latent.

    Deviations:
        - The residual is divided by what a chain has taken of a drift that stays the same, so that
          a learning rate holds for any number of steps.
        - Levels, weight and optimisers are those of the problem.

    References:
        | EM Distillation for One-step Diffusion Models (Xie et al., 2024)
        | https://arxiv.org/abs/2405.16852

    Arguments:
        teacher: The denoiser to distil.
        generator: The student, of normal latents.
        fake: The denoiser of the student's samples.
        chain: How chains are run.
        options: See `DiffInstruct`.

    Raises:
        ValueError: The student's input is the index of a row.
    """

    # The mean square of a chain's latents is one, and of one that runs away above this.
    GUARD = 4.0

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        *,
        chain: ChainSettings,
        **options: Any,  # noqa: ANN401 (those of Diff-Instruct)
    ) -> None:
        super().__init__(teacher, generator, fake, **options)
        if not generator.latent_shape:
            raise ValueError(
                f"a chain needs a student of normal latents, got a {type(generator).__name__}, "
                "whose input is the index of a row: take diff_instruct"
            )
        self.chain = chain

    def student_loss(self, drawn: Fakes, step: int) -> Loss:
        cond, row = drawn.batch.cond, self.chain
        sigma = self.levels(self.quantiles(len(drawn.z)), step)
        eps, sizes = self.noise_like(drawn.x), list[Tensor]()

        @torch.no_grad()
        def difference(x_t: Tensor) -> Tensor:
            real = self.teacher(x_t, sigma, **cond)
            if self.normalised and not sizes:
                sizes.append(expand_like(mean_correction(real, drawn.x, self.FLOOR), real))
            return score_difference(real, self.fake(x_t, sigma, **cond), sigma)

        end = run_chain(
            lambda z: self.generator(z, **cond),
            difference,
            drawn.z,
            eps,
            sigma,
            lambda role, like: self.noise_like(like, f"chain {role}"),
            steps=row.steps,
            gamma_eps=row.gamma_eps,
            gamma_z=row.gamma_z,
            form=row.form,
            cancel=row.cancel,
            trust=row.trust,
        )
        scale = self.weight(sigma) / sigma / gain(row.steps, row.gamma_eps)
        direction = -expand_like(scale, eps) * end.residual
        direction = direction / sizes[0] if sizes else direction
        value = surrogate(self.generator(end.z, **cond), direction).mean()
        info = {
            "direction": direction.flatten(1).norm(dim=1).mean(),
            "latent": self.guarded(end.z),
            "noise": end.eps.square().mean(),
        }
        return self.regressed(Loss(value, info), drawn.batch.rows)

    def guarded(self, z: Tensor) -> Tensor:
        r"""Returns the mean square of the latents at the ends of chains, a scalar.

        Raises:
            Diverged: It is too large, by more than chance: the chains are not stable.
        """
        found = z.square().mean()
        # Ten standard deviations of the mean square of so many normal numbers.
        largest = self.GUARD + 10 * math.sqrt(2 / z.numel())
        if not float(found) <= largest:
            raise Diverged(
                f"the latents at the ends of chains have a mean square of {float(found):.3g} in "
                f"place of 1: the chains are not stable. Lower --chain.gamma-z, which is "
                f"{self.chain.gamma_z:g}, --chain.trust or --chain.steps"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Settings(diff_instruct.Settings):
    r"""EM distillation."""

    chain: ChainSettings = ChainSettings()
    """The chain that the student learns from."""


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the fake at each step and the student at each `ratio`-th, after a start by pairs."""
    steps = config.steps * config.ratio
    student, pairs = yield from regression.train_on_pairs(
        problem, problem.networks.student(), config.pairs, config, context
    )
    objective = EMD(
        problem.known_teacher,
        student,
        problem.networks.fake(),
        chain=config.chain,
        levels=build.levels(config.levels, steps),
        weight=build.weight(config.weight),
        ratio=config.ratio,
        normalised=config.normalised,
        regression=pairs if config.regression_weight else None,
        regression_weight=config.regression_weight,
        lattice=config.lattice,
        sigma_data=problem.space.sigma_data,
    )
    optimisation = build.optimisation(config, fake=config.fake_optimizer)
    batches = problem.data.free(config.batch, context.seed)
    trained = yield Stage(
        "emd", objective, steps, batches, optimisation, of=2 if config.pairs.pairs else 1
    )
    return trained.network


def ideal(problem: LinearProblem, student: Affine) -> EMD:
    r"""Returns the objective with the fake that is exact: without lag."""
    fake, levels = problem.networks.fake(student, follows=True), LogUniform(0.3, 3.0)
    row = ChainSettings()
    return EMD(problem.known_teacher, student, fake, chain=row, levels=levels, ratio=1)


def cites(settings: Settings) -> Iterator[str]:
    r"""Yields the keys of the papers that a run with these settings uses."""
    yield "emd"
    if settings.regression_weight or settings.normalised:
        yield "dmd"
    if settings.pairs.pairs:
        yield "luhman"


XIE = """@inproceedings{xie2024emd,
  title     = {{EM} Distillation for One-step Diffusion Models},
  author    = {Xie, Sirui and Xiao, Zhisheng and Kingma, Diederik P. and Hou, Tingbo and Wu, Ying
               Nian and Murphy, Kevin and Salimans, Tim and Poole, Ben and Gao, Ruiqi},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024}
}"""

TWO = ChainSettings(steps=2)
# Where a student tears one Gaussian into forty, latents that move made it worse.
STILL = ChainSettings(steps=4, gamma_z=0.0)
MIXTURE = Settings(steps=2_800, batch=256, levels=COARSE_TO_FINE, weight=BOUNDED, chain=STILL)
IMAGES = Settings(**{**vars(diff_instruct.IMAGES), "chain": TWO})

PRESETS = {
    "mog40-emd": Preset(
        "EM distillation with chains of four steps, whose latents stay", MOG40, MIXTURE
    ),
    "digits-emd": Preset(
        "8x8 real images by class; EM distillation after pairs", DigitsSettings(), IMAGES
    ),
}

ARMS = {
    "mog40": {"emd": Arm("EMD, chains of 4", MIXTURE)},
    "digits": {"emd": Arm("EMD after pairs", IMAGES)},
}

TINY = Settings(
    steps=10,
    batch=8,
    ratio=2,
    levels=LevelSettings(sigma_min=0.5, sigma_max=5.0),
    chain=ChainSettings(steps=4),
)
STATES = ChainSettings(steps=3, form="state", cancel="last", gamma_z=1e-3)
PAIRS = replace(regression.TINY.pairs, pairs=20)

METHOD = Method(
    name="emd",
    title="EMD",
    year=2024,
    address="https://arxiv.org/abs/2405.16852",
    networks=("student", "fake"),
    settings=Settings,
    recipe=recipe,
    bibtex={"emd": XIE, "dmd": DMD, **regression.METHOD.bibtex},
    cites_by=cites,
    presets=PRESETS,
    arms=ARMS,
    cures=diff_instruct.CURES,
    examples={
        "emd": Example(TINY),
        "emd-states": Example(replace(TINY, lattice=True, chain=STATES)),
        "emd-classes": Example(replace(TINY, ratio=1, normalised=True), classes=2),
        "emd-regression": Example(
            replace(TINY, pairs=PAIRS, regression_weight=0.5), student="one_step"
        ),
    },
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
)
