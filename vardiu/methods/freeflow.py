r"""FreeFlow: a flow map that predicts from noise alone, and corrects itself by its own score.

With :math:`D` the teacher, :math:`X = \tfrac{s}{T} x_T + (1 - \tfrac{s}{T}) G` the student's state
at level :math:`s`, :math:`\tau(s) = s / (\sigma_d + s)` and :math:`r` the noise of a sample,

.. math:: \nabla \mathcal{L} = \mathbb{E} \Big[ w \, \frac{R^\top \nabla G(x_T, T, s)}
    {\tau(s) \tau(T)} \Big] + \lambda \, \mathbb{E} \Big[ \frac{(D_\psi(x_r, r) -
    D(x_r, r))^\top \nabla G(x_T, T, 0)}{\tau(r) \tau(T)} \Big], \qquad
    R = G - D(X, s) - s \Big( 1 - \frac{s}{T} \Big) \frac{\partial G}{\partial s}

The first term, *prediction*, has the student move with the teacher's velocity where the student
itself is; the second, *correction*, is variational score distillation. No data is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.levels import Levels
from ..errors import ConfigError
from ..functional.scores import denoising, edm_weight, surrogate
from ..functional.tensors import expand_like
from ..functional.trajectories import step as moved
from ..settings import build
from ..settings.fields import DigitsSettings, LevelSettings, NetworkOptimizer, Training
from ..settings.grounds import COARSE_TO_FINE, MOG40, PATCHES
from ..students.flow_map import FlowMap
from ..training.objective import Loss, Objective, Phase
from ..training.stage import Context, Recipe, Stage
from .base import Arm, Example, Method, Preset

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "Drawn", "FreeFlow", "Settings", "difference", "forward", "recipe"]


# A function of levels `(B,)`, and a tangent of those: its values, and its derivative along them.
Derivative = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]


def forward(f: Callable[[Tensor], Tensor], s: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns a function's values with their graph, and its derivative along a tangent without,
    in one pass of the forward mode."""
    # Fused attention has no forward mode.
    with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        value, along = forward_ad.unpack_dual(f(forward_ad.make_dual(s, tangent)))
    return value, torch.zeros_like(value) if along is None else along.detach()


def difference(
    f: Callable[[Tensor], Tensor], s: Tensor, tangent: Tensor, h: float = 2e-3
) -> tuple[Tensor, Tensor]:
    r"""Returns the same by a centred difference in :math:`\ln s`, two more calls without a graph.

    Its error is :math:`\tfrac{h^2}{6} \partial^3 f / \partial (\ln s)^3` of the derivative by
    :math:`\ln s`, and beside that the rounding of the function over :math:`h`.
    """
    with torch.no_grad():
        rise = (f(s * (1 + h)) - f(s * (1 - h))) / (2 * h)
    return f(s), expand_like(tangent / s, rise) * rise


DERIVATIVES: Mapping[str, Derivative] = {"forward": forward, "difference": difference}


class Drawn(NamedTuple):
    r"""What a step is made of."""

    batch: Batch
    """The conditions of the rows."""
    z: Tensor
    """The latents of all rows: those of the prediction first, then those of the correction."""
    x: Tensor
    """What the student makes of the correction's latents."""


class FreeFlow(Objective):
    r"""FreeFlow.

    .. math:: \mathcal{L} = \mathbb{E} \, w \, F^\top \mathrm{sg}[v_G - u] + \lambda \, \mathbb{E}
        \, F^\top \mathrm{sg}[v_N - u], \qquad w = \big( \tfrac1d \| v_G - u \|^2 + c \big)^{-k}

    (Equations 9 and 11.) :math:`F = (G / \sigma_d - y_T) / \tau(T)` is the mean velocity of the
    student in flow coordinates :math:`y = x / (\sigma_d + s)`, so that :math:`v_G - u = R /
    (\sigma_d \tau(s))`, :math:`v_N - u = (D_\psi - D) / (\sigma_d \tau(r))`, and
    :math:`\lambda = a \, \mathbb{E} \| w (v_G - u) \| / \mathbb{E} \| v_N - u \|`.

    Needs:
        No data, no gradient of the teacher, one or two of its calls a row.

    Deviations:
        - A share of the rows starts at a lower level :math:`t`, at the student's own samples of
          one call, noised and without a gradient: so the map is learned from any level, and one
          network makes samples in any number of calls. In the paper all start at noise.
        - :math:`\lambda` balances the two directions as they are applied, :math:`w` included.
        - Prediction may train alone at first (`lead`); in the paper both start together.
        - The fake's loss has EDM's weight; in the paper it is flow matching.

    References:
        | Flow Map Distillation Without Data (Tong et al., 2025), https://arxiv.org/abs/2511.19428

    Arguments:
        teacher: The denoiser to distil.
        generator: The flow map.
        fake: The denoiser :math:`D_\psi` of the student's samples; none without correction.
        levels: The distribution of the ends :math:`s`, and of the lower levels of a start.
        noise_levels: The distribution of the levels :math:`r` of correction and fake.
        correction: The share of a batch's rows that correct; 0 for prediction alone, 1 for
            correction alone.
        balance: The factor :math:`a`.
        adaptive: The power :math:`k`.
        lead: The steps in which prediction trains alone; the fake learns meanwhile.
        below: The share of the rows that start below :math:`T`.
        derivative: `forward` or `difference`.
        ratio: The number of the fake's updates for each update of the student.
        sigma_data: The data's standard deviation :math:`\sigma_d`.

    Raises:
        ValueError: There is a fake without correction, or the reverse; or a number is out of its
            range.
    """

    FLOOR = 1e-3  # c, in units of the velocity

    def __init__(
        self,
        teacher: Denoiser,
        generator: FlowMap,
        fake: Denoiser | None = None,
        *,
        levels: Levels,
        noise_levels: Levels,
        correction: float = 0.25,
        balance: float = 1.0,
        adaptive: float = 1.0,
        lead: int = 0,
        below: float = 0.25,
        derivative: str = "forward",
        ratio: int = 1,
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__(teacher, generator)
        if (fake is not None) != (correction > 0):
            raise ValueError("a fake and a positive correction go together")
        if not (0 <= correction <= 1 and 0 <= below < 1 and ratio >= 1 and sigma_data > 0):
            raise ValueError(
                "correction must be within [0, 1], below within [0, 1), ratio at least 1 and "
                f"sigma_data positive, got {correction}, {below}, {ratio} and {sigma_data}"
            )
        if lead and correction == 1:
            raise ValueError(
                f"correction alone has no prediction that could lead, got lead={lead}"
            )
        if fake is not None:
            self.fake = fake
        self.levels, self.noise_levels = levels, noise_levels
        self.correction, self.balance, self.adaptive = correction, balance, adaptive
        self.lead = lead
        self.below, self.derivative, self.ratio = below, DERIVATIVES[derivative], ratio
        self.sigma_data = sigma_data

    @property
    def flow(self) -> FlowMap:
        r"""The student."""
        assert isinstance(self.generator, FlowMap)
        return self.generator

    @property
    def phases(self) -> tuple[Phase, ...]:
        student = Phase("student", self.student_loss, updates=("generator",), every=self.ratio)
        if not self.correction:
            return (student,)
        return (student, Phase("fake", self.fake_loss, updates=("fake",)))

    @property
    def row_coupling(self) -> str:
        if 0 < self.correction < 1:
            return "the weight of FreeFlow's correction is of the means over a batch"
        return ""

    def prepare(self, batch: Batch, step: int) -> Drawn:
        z = self.noise_like(self.like.new_empty(batch.rows, *self.flow.shape), "latent")
        rows = self.correcting(batch.rows)
        return Drawn(batch, z, self.sample(z[rows], cut(batch.cond, rows), step)[0])

    def correcting(self, n: int) -> slice:
        r"""The rows of a batch that correct, at least one where any do."""
        count = round(n * self.correction)
        return slice(n - max(count, 1 if self.correction else 0), n)

    def predicting(self, n: int) -> slice:
        r"""The rows of a batch that predict: the others, at least one where any do."""
        return slice(0, max(n - round(n * self.correction), 1 if self.correction < 1 else 0))

    def time(self, sigma: Tensor) -> Tensor:
        r"""Returns :math:`\tau = \sigma / (\sigma_d + \sigma)`, the time of flow matching."""
        return sigma / (self.sigma_data + sigma)

    def sample(self, z: Tensor, cond: Mapping[str, Tensor], step: int) -> tuple[Tensor, Tensor]:
        r"""Returns samples, `(B, *)`: of one call, and of a second one where a row starts below
        :math:`T`; and the levels of the last call's start, `(B,)`."""
        x_t, t = self.starts(z, cond, step)
        return self.flow.sampled(x_t, t, **cond), t

    def starts(self, z: Tensor, cond: Mapping[str, Tensor], step: int) -> tuple[Tensor, Tensor]:
        r"""Returns the states to start from, `(B, *)`, and their levels, `(B,)`: noise, and of
        some rows the student's own noised samples."""
        x_t = self.flow.start(z)
        t = z.new_full((len(z),), self.flow.sigmas[0])
        if self.below == 0:
            return x_t, t
        # Each row draws for itself: processes choose as one would.
        chosen = self.uniform(len(z), "start") < self.below
        lower = self.levels(self.uniform(len(z), "start level"), step).minimum(t)
        noise = self.noise_like(z, "start noise")[chosen]
        if bool(chosen.any()):
            kept = {name: value[chosen] for name, value in cond.items()}
            with torch.no_grad():
                x = self.flow.sampled(x_t[chosen], t[chosen], **kept)
            x_t[chosen] = x + expand_like(lower[chosen], x) * noise
        return x_t, torch.where(chosen, lower, t)

    def predicted(
        self, z: Tensor, cond: Mapping[str, Tensor], step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the answers :math:`G` with their graph, the velocity's error :math:`v_G - u`,
        each `(B, *)`, and the levels of the starts, `(B,)`."""
        x_t, t = self.starts(z, cond, step)
        share = self.levels(self.quantiles(len(z)), step) / self.flow.sigmas[0]
        s = (t * share).clamp_min(self.teacher.module.sigma_min).minimum(t)
        answer, along = self.derivative(
            lambda level: self.flow.answer(x_t, t, level, **cond), s, s * (1 - s / t)
        )
        with torch.no_grad():
            denoised = self.teacher(moved(x_t, t, s, answer), s, **cond)
            error = (answer - denoised - along) / self.sigma_data
        return answer, error / expand_like(self.time(s), error), t

    def corrected(
        self, z: Tensor, cond: Mapping[str, Tensor], step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns samples with their graph, :math:`v_N - u`, each `(B, *)`, and the levels of the
        starts, `(B,)`."""
        x, t = self.sample(z, cond, step)
        r = self.noise_levels(self.uniform(len(z), "noise level"), step)
        x_r = x.detach() + expand_like(r, x) * self.noise_like(x)
        with torch.no_grad():
            fake, real = (d(x_r, r, **cond) for d in (self.fake, self.teacher))
        gap = (fake - real) / self.sigma_data
        return x, gap / expand_like(self.time(r), gap), t

    def applied(self, x: Tensor, direction: Tensor, t: Tensor) -> Tensor:
        r"""Returns the loss whose gradient by the mean velocity is a direction, a scalar."""
        scale = 1 / (self.sigma_data * self.time(t))
        return (scale * surrogate(x, direction)).mean() / x[0].numel()

    def student_loss(self, drawn: Drawn, step: int) -> Loss:
        z, cond, n = drawn.z, drawn.batch.cond, len(drawn.z)
        value, info, size = z.new_zeros(()), {}, None
        if self.correction < 1:
            rows = self.predicting(n)
            answer, error, t = self.predicted(z[rows], cut(cond, rows), step)
            square = error.flatten(1).square().mean(1)
            weighted = error * expand_like((square + self.FLOOR) ** -self.adaptive, error)
            size = weighted.flatten(1).norm(dim=1).mean()
            value = (1 - self.correction) * self.applied(answer, weighted, t)
            info["prediction"] = square.mean()
        if self.correction > 0 and step >= self.lead:
            rows = self.correcting(n)
            x, gap, t = self.corrected(z[rows], cut(cond, rows), step)
            length = gap.flatten(1).norm(dim=1).mean()
            factor = 1.0 if size is None else self.balance * size / (length + 1e-6)
            value = value + (self.correction or 1.0) * self.applied(x, factor * gap, t)
            info["correction"] = gap.square().mean()
        return Loss(value, info)

    def fake_loss(self, drawn: Drawn, step: int) -> Loss:
        x, cond = drawn.x, cut(drawn.batch.cond, self.correcting(len(drawn.z)))
        r = self.noise_levels(self.uniform(len(x), "fake level"), step)
        x_r = x + expand_like(r, x) * self.noise_like(x, "fake noise")
        weight = edm_weight(r, self.sigma_data)
        error = denoising(self.fake(x_r, r, **cond), x, weight).mean()
        return Loss(error, {"error": error.detach()})


def cut(cond: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    r"""Returns some rows of conditions."""
    return {name: value[rows] for name, value in cond.items()}


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""FreeFlow."""

    correction: float = 0.25
    """The share of a batch's rows that correct; 0 for prediction alone, 1 for correction alone."""
    balance: float = 1.0
    """The size of the correction's direction against the prediction's."""
    adaptive: float = 1.0
    """The power k of the weight of a row of the prediction; 0 for none."""
    lead: float = 0.0
    """The share of the steps in which prediction trains alone. Before it has arrived at the data,
    the correction gathers samples at modes."""
    below: float = 0.25
    """The share of the rows that start below the highest level, at the student's own noised
    samples: what samples of several calls are learned from."""
    derivative: Literal["forward", "difference"] = "forward"
    """The derivative by the level: forward mode, or a centred difference where a network has
    none."""
    ratio: int = 1
    """The number of updates of the fake for each update of the student."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the fake is updated."""
    levels: LevelSettings = LevelSettings(sigma_min=0.02, sigma_max=20.0)
    """The levels at which the map ends."""
    noise_levels: LevelSettings = LevelSettings(
        kind="log_normal", mean=0.1, std=1.0, sigma_min=0.02, sigma_max=20.0
    )
    """The levels of correction and fake; log-normal is the paper's logit-normal time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.below < 1:
            raise ConfigError(f"below must be within [0, 1), got {self.below:g}")
        if self.lead and self.correction == 1:
            raise ConfigError("lead: correction alone has no prediction that could lead; give 0")


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the fake at each step and the flow map at each `ratio`-th, in one stage."""
    steps, data = config.steps * config.ratio, problem.space.sigma_data
    student = flow_map(problem)
    objective = FreeFlow(
        problem.known_teacher,
        student,
        problem.networks.fake() if config.correction else None,
        levels=build.levels(config.levels, steps),
        noise_levels=build.levels(config.noise_levels, steps),
        correction=config.correction,
        balance=config.balance,
        adaptive=config.adaptive,
        lead=round(config.lead * steps),
        below=config.below,
        derivative=config.derivative,
        ratio=config.ratio,
        sigma_data=data,
    )
    critics = {"fake": config.fake_optimizer} if config.correction else {}
    batches = problem.data.free(config.batch, context.seed)
    optimisation = build.optimisation(config, **critics)
    return (yield Stage("freeflow", objective, steps, batches, optimisation, of=1)).network


def flow_map(problem: Problem) -> FlowMap:
    r"""Returns the student, from the teacher's weights if it has any.

    Raises:
        ConfigError: Its network cannot be told where a map ends.
    """
    networks = problem.networks
    denoiser = networks.student_denoiser()
    high = denoiser.sigma_max if networks.sigma is None else networks.sigma
    spread = (high**2 + problem.space.sigma_data**2) ** 0.5
    try:
        return FlowMap.of(denoiser, networks.calls, high, spread)
    except TypeError as error:
        raise ConfigError(
            f"freeflow: {error}; the networks that can are MLP and UNet: give --student fresh, or "
            "a teacher from `vardiu teach`"
        ) from error


TONG = """@misc{tong2025freeflow,
  title         = {Flow Map Distillation Without Data},
  author        = {Tong, Shangyuan and Ma, Nanye and Xie, Saining and Jaakkola, Tommi},
  year          = {2025},
  eprint        = {2511.19428},
  archivePrefix = {arXiv}
}"""


CURES: Mapping[str, str] = {
    "collapse": "lower --correction: prediction alone keeps the pairing of noise and samples",
    "saturation": "raise --ratio or --fake-optimizer.lr, or --steps: the ends come last",
    "divergence": "lower --lr, or give --derivative difference",
}


MIXTURE = Settings(
    steps=4_000,
    batch=512,
    lr=2e-3,
    fake_optimizer=NetworkOptimizer(lr=4e-3),
    beta_1=0.5,
    beta_2=0.99,
    correction=0.5,
    lead=0.2,
    levels=LevelSettings(sigma_min=0.2, sigma_max=80.0),
    noise_levels=COARSE_TO_FINE,
)
DIGITS = Settings(
    steps=1_800,
    batch=128,
    lr=5e-4,
    fake_optimizer=NetworkOptimizer(lr=8e-4),
    warmup=50,
    beta_2=0.99,
    halflife=20_000.0,
    correction=0.5,
    balance=3.0,
    lead=0.3,
    levels=LevelSettings(sigma_min=0.05, sigma_max=20.0),
)
WIDE = replace(MOG40, sigma_max=80.0)
PRESETS = {
    "mog40-freeflow": Preset("a flow map from noise alone, any number of calls", WIDE, MIXTURE),
    "digits-freeflow": Preset(
        "8x8 real images by class; a flow map from noise alone, any number of calls",
        DigitsSettings(),
        DIGITS,
    ),
    "patches-freeflow": Preset(
        "16x16 patches of photographs; a flow map from noise alone, any number of calls",
        PATCHES,
        DIGITS,
    ),
}
ARMS = {
    "mog40": {"freeflow": Arm("FreeFlow", MIXTURE)},
    "digits": {"freeflow": Arm("FreeFlow", DIGITS)},
}


TINY = Settings(
    steps=10,
    batch=8,
    levels=LevelSettings(sigma_min=0.2, sigma_max=8.0),
    noise_levels=LevelSettings(sigma_min=0.2, sigma_max=8.0),
)


METHOD = Method(
    name="freeflow",
    title="FreeFlow",
    year=2025,
    address="https://arxiv.org/abs/2511.19428",
    family="trajectory",
    networks=("student", "fake"),
    settings=Settings,
    recipe=recipe,
    bibtex={"freeflow": TONG},
    presets=PRESETS,
    cures=CURES,
    arms=ARMS,
    examples={
        "freeflow": Example(TINY),
        "freeflow-prediction": Example(replace(TINY, correction=0.0)),
        "freeflow-correction": Example(replace(TINY, correction=1.0, ratio=2)),
        "freeflow-difference": Example(replace(TINY, derivative="difference", below=0.5)),
        "freeflow-classes": Example(TINY, classes=2),
    },
)
