r"""VarDiU: a variational diffusive upper bound for one-step distillation.

The student is :math:`x = g(z)`, :math:`z \sim p(z) = \mathcal{N}(0, I_k)`; its noisy marginal is
:math:`p_\sigma(x_t) = \int \mathcal{N}(x_t; g(z), \sigma^2 I) \, p(z) \, \mathrm{d}z`, the
teacher's is :math:`q_\sigma`. For latents :math:`z_0` that made :math:`x_t`, and
:math:`z_1, \ldots, z_K \sim r(\cdot \mid x_t)`,

.. math:: \mathrm{KL}(p_\sigma \,\|\, q_\sigma) \leq U^K_\sigma = \mathbb{E} \left[ \log
    \frac{1}{K + 1} \sum_{j=0}^{K} \frac{\mathcal{N}(x_t; g(z_j), \sigma^2 I) \, p(z_j)}
    {r(z_j \mid x_t)} \right] - \mathbb{E} \big[ \log q_\sigma(x_t) \big].

With :math:`K = 0` the bracket is :math:`-\log r(z_0 \mid x_t)` and a constant: the paper's bound,
whose slack is :math:`\mathbb{E} \, \mathrm{KL}(p(z \mid x_t) \,\|\, r(z \mid x_t))`. :math:`U^K`
does not increase with :math:`K` and tends to the divergence itself.

The teacher's log-density is never needed, only its score :math:`S`. In

.. math:: \nabla_\theta \, \mathbb{E} \big[ \log q_\sigma(x_t) \big]
    = \mathbb{E} \big[ S(x_t)^\top \nabla_\theta g(z) \big], \qquad
    S(x_t) = \frac{D(x_t) - g(z)}{\sigma^2} - \frac{\varepsilon}{\sigma}

the last term has zero mean, as :math:`\varepsilon` is independent of :math:`z`: it may be dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.exact import ExactDenoiser
from ..denoisers.levels import Levels, LogUniform
from ..errors import ConfigError
from ..functional.bounds import (
    diagonal_normal_log_prob,
    entropy_constant,
    importance_log_marginal,
    same_condition,
    shared_log_marginal,
    standard_normal_log_prob,
)
from ..functional.scores import Weight, surrogate, teacher_direction
from ..functional.tensors import expand_like, scale_gradient
from ..posteriors.diffusion import DiffusionPosterior
from ..posteriors.encoder import Encoder, Posterior
from ..posteriors.families import (
    CholeskyPosterior,
    FlowPosterior,
    GaussianPosterior,
    MixturePosterior,
    PriorPosterior,
)
from ..posteriors.framed import FramedPosterior
from ..settings import build
from ..settings.fields import (
    AnchorSettings,
    DensitySettings,
    DigitsSettings,
    FrameSettings,
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
from ..students.framed import Framed
from ..training.objective import Loss, Objective, Phase
from ..training.stage import Context, Recipe, Stage, Stages
from . import regression
from .anchored import Anchor, AnchoredVarDiU, steps_of
from .banked import BankedVarDiU
from .base import Arm, Example, Method, Preset
from .diff_instruct import options_of
from .frames import make_frame, pair_frame

if TYPE_CHECKING:
    from ..problems.base import Problem
    from ..problems.linear import LinearProblem
    from ..students.affine import Affine

__all__ = ["CURES", "Draw", "METHOD", "Settings", "VarDiU", "recipe"]


# What to try against each alarm, see `vardiu.monitoring.alarms`.
CURES: Mapping[str, str] = {
    "collapse": "start from a spread student (--pairs.pairs, --posterior framed), raise "
    "--levels.sigma-min, or take a tighter bound (--posterior shared or flow, --particles 4)",
    "saturation": "the gradient is not noise: the bound may be loose here; take a tighter "
    "--posterior",
    "worsening": "fewer --steps, a lower --lr, or a start that the method holds: more "
    "--frame.components for --posterior framed",
    "posterior": "raise --posterior-optimizer.lr, give the student a --delay, or lower its --lr",
    "divergence": "lower --lr or raise --levels.sigma-min",
    "anchor": "raise --anchor.rate, or give a held anchor a shorter --anchor.refresh or a limit "
    "(--anchor.trust); lower --lr, with momentum (--beta-1 0.9)",
    "fake": "raise --ratio, --fake-optimizer.lr or --anchor.settle, or lower --lr",
}


class Draw(NamedTuple):
    r"""The random numbers of one loss, and the conditions they go with."""

    z: Tensor
    noise: Tensor
    sigma: Tensor
    cond: Mapping[str, Tensor]


class VarDiU(Objective):
    r"""The variational diffusive upper bound.

    .. math:: \mathcal{L} = \mathbb{E}_{\sigma, z, \varepsilon} \left[ w(\sigma) \left(
        - \log r(z \mid x_t) - \langle \mathrm{sg}[S(x_t, \sigma)], g(z) \rangle \right) \right]

    (Section 3 of the paper.) One phase trains the student and the posterior together.

    Needs:
        No data, no gradient of the teacher, one call of the teacher a row.

    Deviations:
        - The weight multiplies each row. The authors' script broadcasts it over the batch, where
          it acts as a constant.
        - A flow posterior is conditioned on :math:`x_t`, and normalised; the authors' flow mixes
          the latent and the sample in a network that is not bijective, and detaches both.
        - `particles`, `shared` and `control_variate` are not in the paper.

    References:
        | VarDiU: A Variational Diffusive Upper Bound for One-Step Diffusion Distillation
        | (Wang, Zhang, Ou and Barber, 2025), https://arxiv.org/abs/2508.20646

    Arguments:
        teacher: The denoiser to distil.
        generator: The student :math:`g`.
        posterior: The posterior :math:`r`; `None` stands for the prior.
        levels: The distribution of noise levels.
        weight: The weight :math:`w(\sigma)` of a level; :math:`\sigma^2` by default.
        posterior_weight: The weight of a level in the posterior's own gradient, the same by
            default. At each level the best posterior is the same whatever it is; a weight that
            vanishes at small noise leaves the posterior untrained there.
        particles: The number :math:`K` of further latents from the posterior, which must then
            have reparametrised samples.
        shared: Whether all rows of a batch share their latents, which makes the student's marginal
            that of the minibatch. It goes with the prior, and with no particles.
        own: The weight of a row's own sample in that mixture: 1 for a bound, see
            `vardiu.functional.bounds.shared_log_marginal`.
        lattice: Whether latents and levels are spread evenly, see `Objective`. For shared latents
            the bound holds and is tighter: the mixture of the batch has the student's marginal
            for its mean, and the divergence is convex.
        antithetic: Whether each latent and level is used with :math:`\pm \varepsilon`.
        control_variate: Whether the part of zero mean is dropped from the teacher's score.

    Raises:
        ValueError: The options exclude each other.

    See also:
        `vardiu.methods.diff_instruct`, which learns the student's score instead.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        posterior: Posterior | None = None,
        *,
        levels: Levels,
        weight: Weight = torch.square,
        posterior_weight: Weight | None = None,
        particles: int = 0,
        shared: bool = False,
        own: float = 1.0,
        lattice: bool = False,
        antithetic: bool = True,
        control_variate: bool = True,
    ) -> None:
        super().__init__(teacher, generator)
        if not generator.latent_shape:
            raise ValueError(
                f"the bound needs a student of normal latents, got a {type(generator).__name__}, "
                "whose input is the index of a row: take diff_instruct"
            )
        k = math.prod(generator.latent_shape)
        posterior = PriorPosterior(k) if posterior is None else posterior
        if particles < 0:
            raise ValueError(f"particles must be at least 0, got {particles}")
        if shared != isinstance(posterior, PriorPosterior):
            raise ValueError(
                "shared latents go with the prior as posterior, and the prior with them: "
                "give a posterior and shared=False, or no posterior and shared=True"
            )
        if shared and particles:
            raise ValueError("shared latents take no further particles: set particles=0")
        if particles and generator.jumps:
            raise ConfigError(
                f"particles need a student that is continuous in its latent, and this "
                f"{type(generator).__name__} jumps: set particles=0, or codes=0 where it has codes"
            )
        if not 0 <= own <= 1 or (own != 1 and not shared):
            raise ValueError(f"own must be within [0, 1], and 1 unless shared, got {own}")
        if posterior_weight is not None and (shared or particles):
            raise ValueError(
                "a weight of the posterior's own takes no particles or shared latents"
            )
        self.posterior = posterior
        self.levels, self.weight = levels, weight
        self.posterior_weight = posterior_weight
        self.particles, self.shared, self.lattice = particles, shared, lattice
        self.own = own
        self.antithetic, self.control_variate = antithetic, control_variate

    @property
    def phases(self) -> tuple[Phase, ...]:
        # The prior has no parameters: it is not trained.
        names = ("generator",) if self.shared else ("generator", "posterior")
        return (Phase("bound", self.loss, updates=names),)

    @property
    def row_coupling(self) -> str:
        return "the minibatch mixture is made of all rows of a batch" if self.shared else ""

    def draw(self, batch: Batch, step: int) -> Draw:
        r"""Draws the latents, levels and noise of a batch."""
        n = batch.rows
        z = self.latents(n)
        sigma = self.levels(self.quantiles(n), step)
        noise = self.noise_like(z.new_empty(n, *self.generator.shape))
        return Draw(z, noise, sigma, batch.cond)

    @property
    def student_moves(self) -> bool:
        r"""Whether the student is to have a gradient; for the posterior's alone, before the
        student's first update, the teacher is not asked."""
        return any(p.requires_grad for p in self.generator.parameters())

    def loss(self, batch: Batch, step: int) -> Loss:
        return self.evaluate(self.draw(batch, step))

    def evaluate(self, draw: Draw) -> Loss:
        r"""Returns the loss of given random numbers."""
        z, noise, sigma, cond = draw
        x_0 = x = self.generator(z, **cond)
        if self.antithetic:
            z, x, sigma = torch.cat([z, z]), torch.cat([x, x]), torch.cat([sigma, sigma])
            noise = torch.cat([noise, -noise])
            cond = {name: torch.cat([value, value]) for name, value in cond.items()}
        x_t = x + expand_like(sigma, x) * noise
        weight = self.weight(sigma)
        if not self.student_moves:
            own = weight if self.posterior_weight is None else self.posterior_weight(sigma)
            entropy = self.negative_entropy(z, x, x_0, x_t, sigma, cond)
            return Loss((own * entropy).mean(), {"negative_entropy": entropy.mean().detach()})
        with torch.no_grad():
            denoised = self.teacher(x_t, sigma, **cond)
            direction = teacher_direction(
                denoised, x, x_t, sigma, control_variate=self.control_variate
            )
        if self.posterior_weight is None:
            entropy = self.negative_entropy(z, x, x_0, x_t, sigma, cond)
            value = weight * (entropy - surrogate(x, direction))
        else:
            # One evaluation serves both: the student's gradient arrives through x_t alone.
            own = self.posterior_weight(sigma)
            seen = scale_gradient(x_t, weight / own)
            entropy = self.negative_entropy(z, x, x_0, seen, sigma, cond)
            value = own * entropy - weight * surrogate(x, direction)
        return Loss(value.mean(), {"negative_entropy": entropy.mean().detach()})

    def negative_entropy(
        self,
        z: Tensor,
        x: Tensor,
        x_0: Tensor,
        x_t: Tensor,
        sigma: Tensor,
        cond: Mapping[str, Tensor],
        role: str = "particle",
    ) -> Tensor:
        r"""Returns the estimate of :math:`\log p_\sigma(x_t)`, never too low on average, `(B,)`.

        Arguments:
            z: The latents, with shape :math:`(B, *)`.
            x: The samples :math:`g(z)`, with shape :math:`(B, *)`.
            x_0: The distinct samples of the batch, for shared latents; :math:`(N, *)`.
            x_t: The noisy samples, with shape :math:`(B, *)`.
            sigma: Their levels, with shape :math:`(B)`.
            cond: Their conditions.
            role: The stream of the particles.
        """
        if self.shared:
            same = same_condition(cond, len(x_0))
            return shared_log_marginal(x_t, x_0, sigma, same, self.own)
        r = self.posterior(x_t, sigma, **cond)
        z = z.flatten(1)
        # The entropies of the prior and of the kernel are exact: only log r is estimated.
        constant = entropy_constant(sigma, x[0].numel(), z.shape[1])
        if not self.particles:
            if not self.posterior.estimated:
                return constant - r.log_prob(z)
            with self.streams.torch_seeded(f"{role} density", x.device):
                return constant - r.log_prob(z)
        if not r.has_rsample:
            raise TypeError(
                f"particles need a posterior with reparametrised samples; "
                f"{type(self.posterior).__name__} has none: set particles=0 or take a Gaussian or "
                "a flow"
            )
        with self.streams.torch_seeded(role, x.device):
            zs = torch.cat([z[None], r.rsample((self.particles,))])  # (K + 1, B, k)
        log_r = r.log_prob(zs)
        flat = zs[1:].flatten(0, 1).unflatten(1, self.generator.latent_shape)
        tiled = {
            name: value.repeat(self.particles, *[1] * (value.ndim - 1))
            for name, value in cond.items()
        }
        others = self.generator(flat, **tiled).unflatten(0, (self.particles, len(x)))
        difference = (x_t - torch.cat([x[None], others])).flatten(0, 1)
        kernel = diagonal_normal_log_prob(difference, sigma.repeat(self.particles + 1))
        log_ratio = kernel.view_as(log_r) - log_r
        log_ratio = log_ratio + standard_normal_log_prob(zs.flatten(0, 1)).view_as(log_r)
        return importance_log_marginal(log_ratio.T)

    def bound(self, draw: Draw, x: Tensor | None = None) -> Tensor:
        r"""Returns estimates of :math:`U^K_\sigma`, one a row, `(B,)`, without reductions of
        variance.

        Without a density of the teacher, the part :math:`- \log q_\sigma(x_t)` is left out.

        Arguments:
            draw: The random numbers.
            x: The samples :math:`g(z)`, if they are known.
        """
        z, noise, sigma, cond = draw
        x = self.generator(z, **cond) if x is None else x
        x_t = x + expand_like(sigma, x) * noise
        if self.shared:  # with weights of one, whatever those of training are
            value = shared_log_marginal(x_t, x, sigma, same_condition(cond, len(x)))
        else:
            value = self.negative_entropy(z, x, x, x_t, sigma, cond, "diagnostic particle")
        teacher = self.teacher.module
        return value - teacher.log_prob(x_t, sigma, **cond) if exact(teacher) else value

    def diagnostics(self, batch: Batch, step: int) -> dict[str, Tensor]:
        r"""Returns the bound's value at eight levels, each with its standard error over the batch,
        and the posterior's gap at three quantiles of the levels. The error is that of independent
        rows. Those of a lattice vary less together: there it is an upper limit (MoG-40: 1.3 to
        1.9 times the deviation of independent lattices for the shared bound, 4 to 8 otherwise).

        Named `bound` where the teacher's density is known, `negative_entropy` otherwise.
        """
        n = batch.rows
        ends = torch.tensor([0.0, 1 - 1e-6], dtype=torch.float64)
        # The levels of a finished annealing: the same ones at every report.
        low, high = self.levels(ends, 2**62).log10().tolist()
        name = "bound" if exact(self.teacher.module) else "negative_entropy"
        values: dict[str, Tensor] = {}
        z = self.latents(n, "diagnostic")
        noise = self.noise_like(z.new_empty(n, *self.generator.shape), "diagnostic")
        x = self.generator(z, **batch.cond)
        for sigma in torch.logspace(low, high, 8).tolist():
            value = self.bound(Draw(z, noise, z.new_full((n,), sigma), batch.cond), x)
            values[f"{name}/{sigma:.3g}"] = value.mean()
            values[f"{name}_error/{sigma:.3g}"] = value.std() / math.sqrt(n)
        if not self.shared:
            # At levels of this step's distribution: the posterior knows no others yet.
            for u in (0.1, 0.5, 0.9):
                sigma = self.levels(z.new_full((n,), u), step)
                gap = self.gap(Draw(z, noise, sigma, batch.cond), x)
                values[f"posterior_gap_quantile/{u}"] = gap.mean()
        return values

    def gap(self, draw: Draw, x: Tensor | None = None) -> Tensor:
        r"""Returns estimates of what the posterior lacks to be calibrated, one a row, `(B,)`.

        .. math:: \mathbb{E}_{z \sim p(z \mid x_t)} [- \log r(z \mid x_t)] -
            \mathbb{E}_{z \sim r} [- \log r(z \mid x_t)]

        Zero where the posterior is exact, and at the optimum of a Gaussian family, by moments;
        positive where it is too narrow or in the wrong place, negative where too broad: it lags.
        """
        z, noise, sigma, cond = draw
        x = self.generator(z, **cond) if x is None else x
        r = self.posterior(x + expand_like(sigma, x) * noise, sigma, **cond)
        with self.streams.torch_seeded("diagnostic posterior", x.device):
            own = r.sample()
            return r.log_prob(own) - r.log_prob(z.flatten(1))


def exact(denoiser: Denoiser) -> TypeGuard[ExactDenoiser]:
    return isinstance(denoiser, ExactDenoiser)


# The families whose samples have a gradient.
REPARAMETRISED = ("gaussian", "residual", "cholesky", "flow")


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""VarDiU."""

    posterior: Literal[
        "anchored",
        "shared",
        "gaussian",
        "residual",
        "cholesky",
        "mixture",
        "flow",
        "diffusion",
        "framed",
    ] = "gaussian"
    """The family of r(z | x_t). anchored: the exact posterior of a lagging copy of the student,
    with a fake for its score. shared: the prior, with latents shared over the batch. residual: a
    Gaussian that is exact where a residual student starts (--residual). framed: that of a mixture
    of principal components of the teacher's samples, where the student starts."""
    posterior_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the posterior is updated."""
    components: int = 16
    """mixture: the number of components."""
    transforms: int = 3
    """flow: the number of transformations."""
    hidden: int = 64
    """flow: the width of each of the two hidden layers of each transformation's network."""
    particles: int = 0
    """The number K of further latents in the importance-weighted bound."""
    own: float = 1.0
    """shared, and a bank: the weight of a row's own sample in the mixture, from 0 to 1. Only at 1
    there is a bound; at 1/2 independent rows make no error of the first order in 1 / batch."""
    lattice: bool = False
    """Spread the latents and the levels of a batch evenly, by a randomly shifted lattice."""
    antithetic: bool = True
    """Use each latent and level with noise of both signs."""
    control_variate: bool = True
    """Leave out the part of the teacher's score whose mean is zero."""
    levels: LevelSettings = LevelSettings()
    """The noise levels."""
    weight: WeightSettings = WeightSettings()
    """The weight of a noise level."""
    posterior_weight: WeightSettings | None = None
    """The weight of a noise level in the posterior's own gradient; none takes --weight."""
    pairs: PairSettings = PairSettings()
    """A regression on the teacher's pairs, before the method's own training; not with framed."""
    frame: FrameSettings = FrameSettings()
    """framed: the mixture of principal components."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.particles and self.posterior not in REPARAMETRISED:
            raise ConfigError(
                f"particles must be 0 with posterior {self.posterior}, got {self.particles}: they "
                f"need one with reparametrised samples, {', '.join(REPARAMETRISED)}"
            )
        banked = self.posterior == "anchored" and self.anchor.bank
        if self.own != 1 and self.posterior != "shared" and not banked:
            raise ConfigError(
                f"own must be 1 with posterior {self.posterior}, got {self.own:g}: it weighs a "
                "row's own sample in the minibatch mixture (--posterior shared) or in a bank "
                "(--anchor.bank)"
            )

    anchor: AnchorSettings = AnchorSettings()
    """anchored: the lagging copy of the student."""
    ratio: int = 1
    """anchored: the number of updates of the fake for each update of the student."""
    normalised: bool = False
    """anchored: divide each row's direction by the teacher's mean absolute correction, as DMD
    does; no bound then."""
    regression_weight: float = 0.0
    """anchored: the weight of the regression on pairs beside the bound; it is the bound of another
    posterior, the teacher's own, see docs/methods/vardiu.md."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """anchored: how the fake is updated."""


POSTERIORS: Mapping[str, Callable[[Encoder, int, Settings], Posterior]] = {
    "gaussian": lambda encoder, k, config: GaussianPosterior(encoder, k),
    "residual": lambda encoder, k, config: GaussianPosterior(encoder, k, residual=True),
    "cholesky": lambda encoder, k, config: CholeskyPosterior(encoder, k),
    "mixture": lambda encoder, k, config: MixturePosterior(encoder, k, config.components),
    "flow": lambda encoder, k, config: FlowPosterior(
        encoder, k, config.transforms, (config.hidden, config.hidden)
    ),
    "diffusion": lambda encoder, k, config: DiffusionPosterior(encoder, k),
    "shared": lambda encoder, k, config: PriorPosterior(k),
}


def players(
    problem: Problem, config: Settings, context: Context
) -> Stages[tuple[Generator, Posterior]]:
    r"""Returns the student where it starts, and its posterior; may train a stage of pairs."""
    if config.posterior == "framed":
        frame = make_frame(problem, config.frame, context)
        framed = Framed(problem.networks.fake(), frame, config.frame.sigma)
        model = pair_frame(problem, framed, config.frame, context)
        return framed, FramedPosterior(problem.networks.encoder(), model)
    student = problem.networks.student()
    student, _ = yield from regression.train_on_pairs(
        problem, student, config.pairs, config, context
    )
    k = math.prod(student.latent_shape)
    return student, POSTERIORS[config.posterior](problem.networks.encoder(), k, config)


def bound_stage(problem: Problem, config: Settings, context: Context) -> Stages[Stage]:
    r"""Returns the training of the student and a posterior together."""
    student, posterior = yield from players(problem, config, context)
    own = config.posterior_weight
    objective = VarDiU(
        problem.known_teacher,
        student,
        posterior,
        levels=build.levels(config.levels, config.steps),
        weight=build.weight(config.weight),
        posterior_weight=None if own is None else build.weight(own),
        particles=config.particles,
        shared=config.posterior == "shared",
        own=config.own,
        lattice=config.lattice,
        antithetic=config.antithetic,
        control_variate=config.control_variate,
    )
    # The prior, of shared latents, has nothing to train.
    others = {name: config.posterior_optimizer for name in objective.trained[1:]}
    batches = problem.data.free(config.batch, context.seed)
    optimisation = build.optimisation(config, **others)
    return Stage(
        "vardiu", objective, config.steps, batches, optimisation, of=2 if config.pairs.pairs else 1
    )


def anchored_stage(problem: Problem, config: Settings, context: Context) -> Stages[Stage]:
    r"""Returns the training of the student and the fake of its anchor's samples.

    Raises:
        ConfigError: A setting is given that this posterior has no place for.
    """
    if config.particles or config.posterior_weight is not None or not config.control_variate:
        raise ConfigError(
            "--posterior anchored knows its gradient alone: leave out --particles and "
            "--posterior-weight, and keep --control-variate"
        )
    student = problem.networks.student()
    student, pairs = yield from regression.train_on_pairs(
        problem, student, config.pairs, config, context
    )
    if config.regression_weight and pairs is None:
        raise ConfigError("--regression-weight needs pairs of the teacher: give --pairs.pairs")
    steps = steps_of(config.anchor, config.steps, config.ratio)
    kind: Callable[..., AnchoredVarDiU] = AnchoredVarDiU
    if config.anchor.bank:
        row = config.anchor
        kind = partial(BankedVarDiU, bank=row.bank, above=row.bank_above, own=config.own)
    objective = kind(
        problem.known_teacher,
        student,
        problem.networks.fake(),
        anchor=Anchor(student, config.anchor, config.ratio, steps),
        gain=config.anchor.gain,
        antithetic=config.antithetic,
        **options_of(problem, config, steps, pairs),
    )
    # A bank for all levels leaves the fake untrained.
    others = {"fake": config.fake_optimizer} if "fake" in objective.trained else {}
    optimisation = build.optimisation(config, **others)
    batches = problem.data.free(config.batch, context.seed)
    of = 2 if config.pairs.pairs else 1
    return Stage("vardiu", objective, steps, batches, optimisation, of=of)


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the student and what stands for its posterior, after a start if one is asked for."""
    make = anchored_stage if config.posterior == "anchored" else bound_stage
    stage = yield from make(problem, config, context)
    trained = yield stage
    return trained.network


def ideal(problem: LinearProblem, student: Affine) -> VarDiU:
    r"""Returns the bound with the posterior that is exact: without slack."""
    posterior = problem.networks.posterior(student, follows=True)
    return VarDiU(problem.known_teacher, student, posterior, levels=LogUniform(0.3, 3.0))


BIBTEX = {
    "vardiu": """@article{wang2025vardiu,
  title   = {{VarDiU}: A Variational Diffusive Upper Bound for One-Step Diffusion Distillation},
  author  = {Wang, Leyang and Zhang, Mingtian and Ou, Zijing and Barber, David},
  journal = {arXiv preprint arXiv:2508.20646},
  year    = {2025}
}""",
    "nsf": """@inproceedings{durkan2019nsf,
  title     = {Neural Spline Flows},
  author    = {Durkan, Conor and Bekasov, Artur and Murray, Iain and Papamakarios, George},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}""",
    "sivi": """@inproceedings{yin2018sivi,
  title     = {Semi-Implicit Variational Inference},
  author    = {Yin, Mingzhang and Zhou, Mingyuan},
  booktitle = {International Conference on Machine Learning},
  year      = {2018}
}""",
    "mppca": """@article{tipping1999mppca,
  title   = {Mixtures of Probabilistic Principal Component Analyzers},
  author  = {Tipping, Michael E. and Bishop, Christopher M.},
  journal = {Neural Computation},
  volume  = {11},
  year    = {1999}
}""",
    "iwhvi": """@inproceedings{sobolev2019iwhvi,
  title     = {Importance Weighted Hierarchical Variational Inference},
  author    = {Sobolev, Artem and Vetrov, Dmitry P.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}""",
}


# The papers that a family of posteriors is from.
PAPERS = {"flow": "nsf", "shared": "sivi", "framed": "mppca"}


def cites(settings: Settings) -> Iterator[str]:
    r"""Yields the keys of the papers that a run with these settings uses."""
    yield "vardiu"
    if settings.posterior in PAPERS:
        yield PAPERS[settings.posterior]
    if settings.particles:
        yield "iwhvi"
    if settings.pairs.pairs and settings.posterior != "framed":
        yield "luhman"


SHARED = Settings(
    posterior="shared",
    lattice=True,
    steps=14_000,
    batch=256,
    lr=2e-3,
    levels=COARSE_TO_FINE,
    weight=BOUNDED,
    halflife=200_000.0,
)


GAUSSIAN = replace(
    SHARED,
    posterior="gaussian",
    steps=6_000,
    posterior_optimizer=NetworkOptimizer(lr=1e-3),
)


# A student whose posterior is known at the start, see docs/methods/vardiu.md.
FRAMED = Settings(
    posterior="framed",
    steps=460,
    batch=128,
    lr=3e-4,
    posterior_optimizer=NetworkOptimizer(lr=1e-3),
    delay=100,
    beta_1=0.5,
    beta_2=0.99,
    decay="trapezoid",
    clip=100.0,
    levels=LevelSettings(sigma_min=0.15, sigma_max=5.0),
    weight=WeightSettings(kind="power", power=1.0),
    posterior_weight=WeightSettings(kind="constant"),
    antithetic=False,
    halflife=8_800.0,
    frame=FrameSettings(clusters=12, components=24),
)


# A start from pairs, then the bound of a lagging copy of the student, see docs/methods/vardiu.md.
ANCHORED = Settings(
    posterior="anchored",
    steps=800,
    batch=128,
    lr=1e-4,
    beta_1=0.9,
    beta_2=0.99,
    fake_optimizer=NetworkOptimizer(lr=8e-4, beta_1=0.0),
    delay=100,
    warmup=50,
    decay="trapezoid",
    clip=100.0,
    levels=LevelSettings(sigma_min=0.1, sigma_max=6.0),
    weight=WeightSettings(kind="square"),
    antithetic=False,
    halflife=17_700.0,
    pairs=PairSettings(pairs=16_000),
    regression_weight=2.0,
)


# Small images are nearest to the data soon: a large rate, and few updates.
SMALL = replace(
    ANCHORED,
    steps=350,
    lr=4e-4,
    beta_1=0.5,
    levels=LevelSettings(sigma_min=0.2, sigma_max=6.0),
    halflife=10_000.0,
    regression_weight=0.5,
    anchor=AnchorSettings(rate=0.05),
)


PUBLISHED = Settings(
    posterior="gaussian",
    steps=1_000_000,
    batch=512,
    lr=1e-4,
    decay="constant",
    clip=10.0,
    halflife=0.0,
    control_variate=False,
    levels=LevelSettings(
        kind="power_law", sigma_min=0.1, sigma_max=20.0, rho=0.1, rho_end=2.0, rho_every=1000
    ),
)


# A student that jumps, and a mixture that is not too high: see docs/methods/vardiu.md.
JUMPING = replace(
    SHARED,
    own=0.5,
    batch=512,
    steps=9_000,
    levels=replace(COARSE_TO_FINE, sigma_min=0.3),
    halflife=200_000.0,
)


PRESETS = {
    "mog40": Preset(
        "40 Gaussians, exact score; the bound of the minibatch mixture", MOG40, SHARED
    ),
    "mog40-codes": Preset(
        "the same with a student that jumps between modes, and a row's own weight of 1/2",
        replace(MOG40, latent=3, codes=512),
        JUMPING,
    ),
    "mog40-gaussian": Preset("the same with the paper's Gaussian posterior", MOG40, GAUSSIAN),
    "mog40-mixture": Preset(
        "the same with a mixture of 16 Gaussians as posterior",
        MOG40,
        replace(GAUSSIAN, posterior="mixture"),
    ),
    "mog40-flow": Preset(
        "the same with a spline flow as posterior, the paper's other family",
        MOG40,
        replace(GAUSSIAN, posterior="flow", steps=3_000),
    ),
    "mog40-particles": Preset(
        "the same with a Gaussian posterior and four particles",
        MOG40,
        replace(GAUSSIAN, particles=4, steps=3_000),
    ),
    "mog40-kde": Preset(
        "the default bound; the teacher is the score of 10,000 noised samples",
        replace(MOG40, teacher="kde"),
        replace(SHARED, steps=4_000),
    ),
    "mog40-learned": Preset(
        "the default bound; the teacher is a network, see `vardiu teach mog40`",
        replace(MOG40, teacher="learned"),
        SHARED,
    ),
    "mog40-paper": Preset(
        "the published setting: Gaussian posterior, 400-wide networks, a million steps",
        DensitySettings(width=400, depth=4, fourier=0, scaled=False),
        PUBLISHED,
    ),
    "mixture": Preset(
        "a random mixture in any dimension (--dim, --modes)",
        replace(MOG40, name="mixture", dim=8, latent=8),
        SHARED,
    ),
    "mixture-residual": Preset(
        "the same from a student whose posterior is known at the start; does not collapse",
        MIXTURE,
        replace(SHARED, posterior="residual", steps=6_000, lr=1e-3, levels=AT_ONCE),
    ),
    "digits-vardiu": Preset(
        "8x8 real images by class; VarDiU with the posterior of a lagging student",
        DigitsSettings(),
        SMALL,
    ),
    "patches-vardiu": Preset(
        "16x16 patches of photographs; VarDiU with the posterior of a lagging student",
        PATCHES,
        ANCHORED,
    ),
    "images-vardiu": Preset(
        "any teacher of images; VarDiU with the posterior of a lagging student",
        ImageSettings(),
        ANCHORED,
    ),
    "digits-framed": Preset(
        "8x8 real images by class; VarDiU from a frame of the teacher's samples, without a fake",
        DigitsSettings(),
        FRAMED,
    ),
    "images-framed": Preset(
        "any teacher of images; VarDiU from a frame of the teacher's samples, without a fake",
        ImageSettings(),
        replace(FRAMED, frame=FrameSettings(clusters=4, components=64)),
    ),
    "vectors-vardiu": Preset(
        "any teacher of vectors; the bound of the minibatch mixture, with a fresh student",
        VectorSettings(student="fresh"),
        replace(
            SHARED,
            levels=LevelSettings(sigma_min=0.01, sigma_max=1.0, start_min=0.5),
            weight=replace(BOUNDED, scale=0.05),
        ),
    ),
}


CONTENDER = replace(GAUSSIAN, posterior_optimizer=NetworkOptimizer())


ARMS = {
    "mog40": {
        "gaussian": Arm("VarDiU, Gaussian", CONTENDER),
        "mixture": Arm("VarDiU, mixture", replace(CONTENDER, posterior="mixture")),
        "flow": Arm("VarDiU, flow", replace(CONTENDER, posterior="flow")),
        "particles": Arm("VarDiU, Gaussian, 4 particles", replace(CONTENDER, particles=4)),
        "shared": Arm("VarDiU, minibatch mixture", SHARED),
    },
    "digits": {
        "anchored": Arm("VarDiU, anchored", SMALL),
        "framed": Arm("VarDiU, framed", FRAMED),
    },
    "images": {
        "anchored": Arm("VarDiU, anchored", ANCHORED),
        "framed": Arm("VarDiU, framed", PRESETS["images-framed"].settings),
    },
    "vectors": {"shared": Arm("VarDiU, minibatch mixture", PRESETS["vectors-vardiu"].settings)},
}


TINY = Settings(
    steps=10,
    batch=8,
    components=3,
    transforms=2,
    hidden=8,
    levels=LevelSettings(sigma_min=0.2, sigma_max=5.0, start_min=1.0),
)


EXAMPLES = {
    "vardiu-gaussian": Example(TINY),
    "vardiu-gaussian-plain": Example(replace(TINY, antithetic=False, control_variate=False)),
    "vardiu-gaussian-particles": Example(replace(TINY, particles=3)),
    "vardiu-gaussian-weighted": Example(
        replace(TINY, posterior_weight=WeightSettings(kind="constant"))
    ),
    "vardiu-gaussian-lattice": Example(replace(TINY, lattice=True)),
    "vardiu-residual": Example(replace(TINY, posterior="residual"), student="residual"),
    "vardiu-cholesky": Example(replace(TINY, posterior="cholesky", particles=2)),
    "vardiu-mixture": Example(replace(TINY, posterior="mixture")),
    "vardiu-mixture-classes": Example(replace(TINY, posterior="mixture"), classes=2),
    "vardiu-flow": Example(replace(TINY, posterior="flow")),
    "vardiu-flow-particles": Example(replace(TINY, posterior="flow", transforms=1, particles=2)),
    "vardiu-diffusion": Example(replace(TINY, posterior="diffusion"), classes=2),
    "vardiu-shared": Example(replace(TINY, posterior="shared")),
    "vardiu-shared-lattice": Example(replace(TINY, posterior="shared", lattice=True)),
    "vardiu-shared-classes": Example(replace(TINY, posterior="shared"), classes=2),
    "vardiu-anchored": Example(replace(TINY, posterior="anchored", ratio=2)),
    "vardiu-anchored-held": Example(
        replace(
            TINY,
            posterior="anchored",
            antithetic=False,
            anchor=AnchorSettings(refresh=2, settle=1, trust=5.0, gain=0.9),
        )
    ),
    "vardiu-anchored-classes": Example(
        replace(TINY, posterior="anchored", normalised=True, lattice=True), classes=2
    ),
    "vardiu-anchored-few-step": Example(replace(TINY, posterior="anchored"), student="few_step"),
    "vardiu-anchored-bank": Example(
        replace(
            TINY,
            posterior="anchored",
            own=0.5,
            anchor=AnchorSettings(rate=1.0, bank=2, bank_above=0.6),
        ),
        classes=2,
    ),
    "vardiu-framed": Example(
        replace(
            TINY,
            posterior="framed",
            weight=WeightSettings(kind="power", power=1.0),
            posterior_weight=WeightSettings(kind="constant"),
            frame=FrameSettings(samples=200, solver_steps=3, clusters=2, components=1, sigma=0.3),
        ),
        classes=2,
    ),
    "vardiu-framed-of-student": Example(
        replace(
            TINY,
            posterior="framed",
            posterior_weight=WeightSettings(kind="constant"),
            frame=FrameSettings(
                samples=200, solver_steps=3, clusters=2, components=1, sigma=0.3, of_student=True
            ),
        ),
        classes=2,
    ),
}


METHOD = Method(
    name="vardiu",
    title="VarDiU",
    year=2025,
    address="https://arxiv.org/abs/2508.20646",
    networks=("student", "posterior"),
    settings=Settings,
    recipe=recipe,
    bibtex={**BIBTEX, **regression.METHOD.bibtex},
    cites_by=cites,
    presets=PRESETS,
    cures=CURES,
    arms=ARMS,
    examples=EXAMPLES,
    instruments=("bound", "negative_entropy"),
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
)
