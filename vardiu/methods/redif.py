r"""ReDiF: a few-step student is a policy, and is rewarded where it agrees with the teacher.

.. math:: J(\theta) = \mathbb{E}_{z, \tau \sim \pi_\theta} [R] - \beta \sum_k \mathbb{E} \,
    \mathrm{KL}(\pi_{\theta, k} \,\|\, \pi_{0, k}), \qquad
    R = \mathrm{sim} \big( x_N, x_\mathrm{teacher}(z) \big)

The student's stochastic sampler makes an episode of the teacher's noise :math:`z`, and is rewarded
at its end. No gradient of reward, teacher or episode is taken: a reward may be any function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from ..errors import ConfigError
from ..samplers.policy import StepPolicy
from ..settings import build
from ..settings.fields import DigitsSettings, PairSettings, Training
from ..settings.grounds import MOG40
from ..training.stage import Context, Recipe
from .base import Arm, Example, Method, Needs, Preset
from .policy_gradient import PolicyGradient
from .regression import make_pairs
from .rewards import reward_of
from .starts import teacher_at_few_levels

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "Settings", "recipe"]


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""ReDiF; `steps` is the number of epochs, each of `batch` roll-outs and updates on them."""

    variant: Literal["grpo", "ddpo"] = "grpo"
    """What a reward is compared with: those of other roll-outs of its noise (grpo), or the latest
    ones of its class (ddpo)."""
    sampling_steps: int = 4
    """The number of the student's calls."""
    rho: float = 7.0
    """The exponent of the spacing of its levels."""
    eta: float = 0.3
    """The share of fresh noise of a step in training; the student that is shipped has none."""
    last: float | None = None
    """The level of which the last step's noise is that share; none for the teacher's smallest."""
    group: int = 8
    """The roll-outs of each noise."""
    divide: Literal["global", "group", "none"] = "global"
    """grpo: centred rewards are divided by the deviation of all of them, by that of their group
    (as the paper of GRPO does), or by nothing."""
    history: int = 32
    """ddpo: the rewards that are kept of each class."""
    least: int = 16
    """ddpo: the rewards of a class below which those of the whole batch stand in their place."""
    limit: float = 5.0
    """The largest advantage."""
    epochs: int = 2
    """The times that an epoch's roll-outs are gone through."""
    minibatches: int = 1
    """The equal parts of the roll-outs, each with an update of its own."""
    clip_range: float = 0.2
    """How far the ratio of new to old densities may be from one."""
    density: Literal["mean", "sum"] = "mean"
    """Whether log-densities are averaged over a sample's dimensions, as DDPO does, or summed:
    ranges of ratios are of that unit."""
    by_deviation: bool = True
    """Whether a step's part of the loss is weighed by its noise: without it the last step has
    nearly all of the gradient."""
    guard: Literal["gaussian", "k3", "mean"] = "gaussian"
    """The divergence from the student as it started: that of the Gaussian steps, GRPO's estimate
    of it, or the squared distance of their means."""
    guard_weight: float = 0.05
    """The factor of the divergence from the start; 0 for none."""
    reward: str | None = None
    """FILE.py:NAME of a function of samples, the teacher's samples of the same noise and the
    conditions, to a number each; none for the agreement with the teacher."""
    agreement: Literal["gaussian", "cosine"] = "gaussian"
    """How agreement is measured: exp(-d^2 / 2 near^2) of the distance a dimension, or the
    cosine, about the mean of the teacher's samples."""
    near: float = 0.15
    """gaussian: the distance that is near, a dimension, in the data's standard deviations."""
    principal: int = 0
    """The principal components of the teacher's samples that are compared; 0 for all numbers."""
    shuffled: bool = False
    """The control: each noise is compared with the teacher's sample of another one."""
    withheld: int = 256
    """Pairs that no roll-out starts from, for the reward of the student without noise; at most
    half of all."""
    pairs: PairSettings = PairSettings(pairs=4_000, solver_steps=16)
    """The teacher's pairs. Where the student does not start as the teacher, the regression on the
    teacher's answers at these samples comes first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eta > 0:
            raise ConfigError(
                f"eta must be positive, got {self.eta:g}: without noise there is no density"
            )
        if self.shuffled and self.batch == self.group:
            raise ConfigError(
                f"shuffled needs several noises, got batch={self.batch} of one group"
            )
        if self.group == 1 and self.variant == "grpo":
            raise ConfigError(
                "group must be at least 2 with variant=grpo: a reward beside itself teaches "
                "nothing; give --group 8, or --variant ddpo, which compares within a class"
            )
        for name in ("group", "minibatches"):
            if self.batch % getattr(self, name):
                raise ConfigError(
                    f"batch must be a multiple of {name} ({getattr(self, name)}), got {self.batch}"
                )


# Settings that the objective takes by the same names.
SAME: tuple[str, ...] = ("group", "divide", "least", "limit", "guard", "guard_weight")
SAME += ("by_deviation", "epochs", "minibatches", "shuffled")


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the student by its rewards, after a start where it has no weights to start from."""
    teacher, pairs = problem.known_teacher, make_pairs(problem, config.pairs, context)
    held = min(config.withheld, len(pairs.z) // 2)
    order = torch.arange(len(pairs.z))
    reward = reward_of(problem, config, pairs, context)
    # Those of a grid of one call more, without its last: one there changes next to nothing.
    levels = build.grid(teacher, config.sampling_steps + 1, None, config.rho)[:-2].tolist()
    student = yield from teacher_at_few_levels(
        problem, levels, pairs, config.pairs, config, context
    )
    last = teacher.sigma_min if config.last is None else config.last
    objective = PolicyGradient(
        teacher,
        student,
        StepPolicy(student.sigmas, config.eta, last, average=config.density == "mean"),
        reward,
        pairs.select(order[held:]),
        pairs.select(order[:held]),
        history=config.history if config.variant == "ddpo" else 0,
        classes=max(1, problem.space.classes),
        clip=config.clip_range,
        **{name: getattr(config, name) for name in SAME},
    )
    batches = problem.data.free(config.batch, context.seed)
    of = 1 if problem.networks.starts_as_teacher else 2
    return (yield build.last_stage("redif", objective, batches, config, of=of)).network


KHORSHID = """@article{tighkhorshid2025redif,
  title   = {{ReDiF}: Reinforced Distillation for Few Step Diffusion},
  author  = {Tighkhorshid, Amirhossein and Dehghanian, Zahra and Aminian, Gholamali and Shi,
             Chengchun and Rabiee, Hamid R.},
  journal = {arXiv preprint arXiv:2512.22802},
  year    = {2025}
}"""

BLACK = """@inproceedings{black2024ddpo,
  title     = {Training Diffusion Models with Reinforcement Learning},
  author    = {Black, Kevin and Janner, Michael and Du, Yilun and Kostrikov, Ilya and Levine,
               Sergey},
  booktitle = {International Conference on Learning Representations},
  year      = {2024}
}"""

SHAO = """@article{shao2024deepseekmath,
  title   = {{DeepSeekMath}: Pushing the Limits of Mathematical Reasoning in Open Language Models},
  author  = {Shao, Zhihong and Wang, Peiyi and Zhu, Qihao and Xu, Runxin and Song, Junxiao and
             Bi, Xiao and Zhang, Haowei and others},
  journal = {arXiv preprint arXiv:2402.03300},
  year    = {2024}
}"""

CURES: Mapping[str, str] = {
    "collapse": "raise --guard-weight: the reward rises while modes are lost",
    "saturation": "raise --eta, or more of --sampling-steps",
    "noise": "raise --group or --batch, or lower --lr",
    "worsening": "lower --lr, or raise --guard-weight",
    "divergence": "lower --lr or --clip-range",
}

MIXTURE = Settings(
    steps=100,
    batch=512,
    lr=2e-4,
    clip=1.0,
    halflife=10_000.0,
    last=0.75,
    pairs=PairSettings(pairs=4_000, solver_steps=32, steps=2_000, batch=256, lr=2e-3),
)
DIGITS = replace(
    MIXTURE,
    sampling_steps=2,
    eta=0.2,
    last=0.5,
    group=16,
    lr=1e-4,
    steps=150,
    agreement="cosine",
    principal=20,
    pairs=PairSettings(pairs=4_000, solver_steps=16),
)
PRESETS = {
    "mog40-redif": Preset("ReDiF: policy gradients of a student of 4 calls", MOG40, MIXTURE),
    "digits-redif": Preset("8x8 real images by class; ReDiF, 2 calls", DigitsSettings(), DIGITS),
}

TINY = Settings(
    steps=10,
    batch=8,
    group=4,
    epochs=1,
    sampling_steps=2,
    withheld=4,
    near=1.0,
    pairs=PairSettings(pairs=20, solver_steps=3, steps=10, batch=8),
)

METHOD = Method(
    name="redif",
    title="ReDiF",
    year=2025,
    address="https://arxiv.org/abs/2512.22802",
    family="trajectory",
    networks=("student",),
    needs=Needs(pairs=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"redif": KHORSHID, "ddpo": BLACK, "grpo": SHAO},
    cites_by=lambda settings: ("redif", settings.variant),
    presets=PRESETS,
    cures=CURES,
    arms={
        "mog40": {"redif": Arm("ReDiF, 4 calls", MIXTURE)},
        "digits": {"redif": Arm("ReDiF, 2 calls", DIGITS)},
    },
    examples={
        "redif": Example(TINY),
        "redif-ddpo": Example(
            replace(TINY, variant="ddpo", agreement="cosine", principal=2), classes=2
        ),
        "redif-classes": Example(replace(TINY, epochs=2, guard="k3", last=0.5), classes=2),
    },
    instruments=("held_out",),
)
