r"""Latent consistency models: a consistency function of a guided teacher, by skipping steps.

.. math:: \mathcal{L} = \mathbb{E}_{n, w, x_0, \varepsilon} \left[ d \big( f_\theta(x_{t_{n+k}},
    w, t_{n+k}), f_{\theta^-}(\hat x^w_{t_n}, w, t_n) \big) \right]

where :math:`\hat x^w_{t_n}` is one step of DDIM over :math:`k` levels of the grid, with the
teacher guided by :math:`w` of each row, which the student is told: it is sampled at any scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.grids import high_of, skipped_levels
from ..denoisers.guidance import Steerable
from ..errors import ConfigError
from ..functional.consistency import index_scalings
from ..functional.distances import Distance, distance_of, squared
from ..functional.tensors import expand_like
from ..settings import build
from ..settings.fields import DigitsSettings
from ..settings.grounds import MOG40, PATCHES
from ..training.stage import Context, Recipe
from .base import Arm, Example, Method, Needs, Preset
from .self_consistency import ConsistencySettings, Distilled, Neighbours

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["LCM", "METHOD", "Settings", "recipe"]


class LCM(Distilled):
    r"""Latent consistency distillation.

    .. math:: f(x, t) = c_\mathrm{skip}(\tau) \, x + c_\mathrm{out}(\tau) \, D(x, t)

    with :math:`\tau` the number of places from :math:`t` to the end of the grid, see
    `index_scalings`: :math:`D` itself but for the last places, and the identity at the end.

    Needs:
        Data; one call of the guided teacher a row, which asks its network twice.

    Deviations:
        - The boundary's state is that of this library's coordinate, and students leave it out.
        - The pseudo-Huber distance is of a row's length, that of the released code of each number.

    References:
        | Latent Consistency Models (Luo et al., 2023), https://arxiv.org/abs/2310.04378
        | LCM-LoRA (Luo et al., 2023), https://arxiv.org/abs/2311.05556

    Arguments:
        teacher: The teacher; one that takes a condition `guidance` where there is a range.
        network: The denoiser to train.
        levels: The levels of the grid, to the smallest.
        skip: The number :math:`k` of places that a step of the teacher goes.
        guidance: The range of scales :math:`w`, 1 being none; without it the teacher as it is.
        told: Whether the network is told the scale.
        correct: Whether the solver's step is Heun's; else it is DDIM's.
        target_decay: The rate of the target network; 0 for a copy, as with adapters.
        distance: The distance of neighbours.
        calls: The number of calls of the student.

    Raises:
        ValueError: A step goes beyond the grid, or the teacher takes no scale of guidance.
    """

    def __init__(
        self,
        teacher: Denoiser,
        network: Denoiser,
        levels: Tensor,
        *,
        skip: int = 20,
        guidance: tuple[float, float] | None = None,
        told: bool = True,
        correct: bool = False,
        target_decay: float = 0.95,
        distance: Distance = squared,
        calls: int = 1,
    ) -> None:
        if not (1 <= skip < len(levels) and 1 <= calls <= len(levels) // skip):
            raise ValueError(
                f"skip must be within [1, {len(levels)}), the grid, and calls within [1, "
                f"{len(levels)} / skip], got {skip} and {calls}"
            )
        if guidance is not None and "guidance" not in teacher.conditions:
            raise ValueError("the teacher takes no condition 'guidance': give Guided(..., None)")
        super().__init__(teacher, network, levels, target_decay, distance, calls)
        self.skip, self.guidance, self.told, self.correct = skip, guidance, told, correct

    def bounded(self, x_t: Tensor, left: Tensor, answer: Tensor) -> Tensor:
        skip, out = (expand_like(c, x_t) for c in index_scalings(left.to(x_t)))
        return skip * x_t + out * answer

    def prepare(self, batch: Batch, step: int) -> Neighbours:
        grid, cond = self.grid.to(self.like), dict(batch.cond)
        last = len(grid) - 1
        i = (self.quantiles(batch.rows) * last).long()
        after = (i + self.skip).clamp_max(last)
        sigma, lower = grid[i], grid[after]
        x_t = self.noised(batch, sigma)[-1]
        steered = cond
        if self.guidance is not None:
            low, high = self.guidance
            scale = low + (high - low) * self.uniform(batch.rows, "guidance")
            steered = {**cond, "guidance": scale}
        x_next = self.stepped(x_t, sigma, lower, steered)
        told = steered if self.told else cond
        value = self.answer(self.target, x_next, lower, last - after, told)
        return Neighbours(x_t, sigma, value, told, lower, last - i)

    @property
    def asked_at(self) -> list[float]:
        return self.levels[:: self.skip][: len(self.levels) // self.skip]

    @property
    def floor(self) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Settings(ConsistencySettings):
    r"""Latent consistency models; the paper has guidance of 3 to 15 beside these defaults."""

    grid: int = 1_000
    """Levels: the times of a discrete schedule, or evenly spaced by rho."""
    skip: int = 20
    """The number of levels that a step of the teacher goes down."""
    guidance_min: float = 1.0
    """The smallest scale of guidance; 1 for none."""
    guidance_max: float = 1.0
    """The largest one; the student is sampled at any between: vardiu sample RUN --guidance 3."""
    told: bool = True
    """Whether the student is told the scale; off, as an adapter must be, it learns the mean."""
    solver: Literal["ddim", "heun"] = "ddim"
    """The step of the teacher: one call, or two."""
    distance: Literal["l2", "l1", "pseudo_huber"] = "pseudo_huber"
    """The distance of neighbours: squared, absolute, or between the two."""
    softness: float = 0.001
    """pseudo_huber: the length below which it is squared, in units of the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.guidance_min, self.guidance_max
        if not self.skip < self.grid:
            raise ConfigError(
                f"skip must be below grid={self.grid:,}: a step goes that many levels down, got "
                f"{self.skip:,}"
            )
        calls, most = self.sampling_steps, self.grid // self.skip
        if not 1 <= calls <= most:
            raise ConfigError(f"sampling_steps must be within [1, {most}], grid / skip: {calls}")
        if not low <= high:
            raise ConfigError(
                f"guidance_min must be at most guidance_max, got {low:g} and {high:g}"
            )


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains a denoiser that starts from the teacher's weights if it has any, in one stage."""
    scales = config.guidance_min, config.guidance_max
    guided, network = scales != (1.0, 1.0), problem.networks.student_denoiser()
    if guided and config.told:
        try:
            network = Steerable.of(network, *scales)
        except TypeError as error:
            raise ConfigError(
                f"lcm: {error}; give --no-told for a student of the mean over the scales, as an "
                "adapter is, or a network of MLP, UNet or UNet2DConditionModel"
            ) from error
    levels = skipped_levels(network, config.grid, config.rho, high_of(network, config.grid_max))
    objective = LCM(
        problem.data.teacher.steered if guided else problem.known_teacher,
        network,
        levels,
        skip=config.skip,
        guidance=scales if guided else None,
        told=config.told,
        correct=config.solver == "heun",
        target_decay=config.target_decay,
        distance=distance_of(config.distance, config.softness),
        calls=config.sampling_steps,
    )
    batches = problem.data.clean(config.batch, context.seed)
    trained = yield build.last_stage("lcm", objective, batches, config)
    return objective.student_of(trained.network)


LUO = """@misc{luo2023latent,
  title         = {Latent Consistency Models},
  author        = {Luo, Simian and Tan, Yiqin and Huang, Longbo and Li, Jian and Zhao, Hang},
  year          = {2023},
  eprint        = {2310.04378},
  archivePrefix = {arXiv}
}"""

CURES: Mapping[str, str] = {
    "collapse": "lower --skip, or --target-decay: the end of the trajectory comes late",
    "saturation": "more of --sampling-steps, or a wider network: one call may be too few",
    "noise": "raise --batch or --target-decay, or lower --lr",
    "worsening": "lower --lr, or raise --target-decay",
    "divergence": "lower --lr, or --guidance-max",
}

# Small networks: great rates, and eighteen steps of the teacher from noise to data.
SMALL = Settings(
    grid=180, skip=10, sampling_steps=4, solver="heun", distance="l2", clip=1.0, beta_2=0.99
)
MIXTURE = replace(SMALL, steps=8_000, batch=256, lr=5e-3, halflife=1e5)
IMAGES = replace(SMALL, steps=4_000, batch=128, lr=5e-4, halflife=44_000.0)
# Half as many steps, of twice the length, end nearer to the digits.
DIGITS = replace(IMAGES, skip=20)
PRESETS = {
    "mog40-lcm": Preset("latent consistency, four calls", MOG40, MIXTURE),
    "digits-lcm": Preset("8x8 real images by class; LCM, four calls", DigitsSettings(), DIGITS),
    "patches-lcm": Preset("16x16 patches of photographs; LCM, four calls", PATCHES, IMAGES),
}

TINY = Settings(steps=10, batch=8, grid=12, skip=3)

METHOD = Method(
    name="lcm",
    title="Latent consistency models",
    year=2023,
    address="https://arxiv.org/abs/2310.04378",
    family="trajectory",
    networks=("student",),
    needs=Needs(data=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"lcm": LUO},
    presets=PRESETS,
    cures=CURES,
    arms={
        "mog40": {"lcm": Arm("LCM (with data, 4 calls)", MIXTURE)},
        "digits": {"lcm": Arm("LCM (with data, 4 calls)", DIGITS)},
    },
    examples={
        "lcm": Example(TINY),
        "lcm-classes": Example(replace(TINY, guidance_max=3.0, sampling_steps=2), classes=2),
    },
)
