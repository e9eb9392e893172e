r"""Score distillation: the teacher moves a generator, particles or one picture, in three variants.

.. math:: \nabla_\theta \mathcal{L} = \mathbb{E} \Big[ \sigma w(\sigma) \Big(
    \frac{y - D(x_t, \sigma)}{\sigma^2} \Big)^\top \nabla_\theta x \Big], \qquad x = g_\theta(z)

=======  =============================  ====================================
variant  :math:`x_t`                    :math:`y`
=======  =============================  ====================================
SDS      :math:`x + \sigma \varepsilon`  :math:`x`
SDI      the inversion of :math:`x`     :math:`x`
VSD      :math:`x + \sigma \varepsilon`  a *fake*'s :math:`D_\phi(x_t, \sigma)`
=======  =============================  ====================================

It is Diff-Instruct's gradient with the weight of a difference of *noises*: of SDS
:math:`w(\sigma) (\hat\varepsilon - \varepsilon)` (DreamFusion, Equation 3). Without a fake no
entropy of the student opposes the descent of :math:`-\mathbb{E} [\sigma w(\sigma) \log
q_\sigma(x_t)]`, and samples gather at modes; VSD's fake is that entropy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ...problems.base import Problem
from ...settings import build
from ...settings.fields import (
    DigitsSettings,
    LevelSettings,
    NetworkOptimizer,
    Training,
    VariableSettings,
    WeightSettings,
)
from ...settings.grounds import COARSE_TO_FINE, MOG40
from ...training.objective import Objective
from ...training.stage import Context, Recipe
from .. import diff_instruct
from ..base import Arm, Example, Method, Preset
from ..diff_instruct import DiffInstruct
from .objective import SDS, OfNoises

__all__ = ["METHOD", "OfNoises", "SDS", "Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""Score distillation."""

    variant: Literal["sds", "sdi", "vsd"] = "sds"
    """The sample with fresh noise, its inversion (SDI), or against a fake of the samples (VSD)."""
    variables: VariableSettings = VariableSettings()
    """What is moved."""
    inversion_steps: int = 10
    """sdi: the number of steps of the inversion."""
    eta: float = 0.3
    """sdi: the share of fresh noise in these steps; at 0 there is no randomness but the level."""
    ratio: int = 5
    """vsd: the number of updates of the fake for each update of what is moved."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """vsd: how the fake is updated."""
    lattice: bool = False
    """Spread the rows of a batch evenly: particles are then visited equally often."""
    levels: LevelSettings = LevelSettings(sigma_min=0.2, sigma_max=20.0)
    """The noise levels."""
    weight: WeightSettings = WeightSettings(kind="bounded")
    """The weight of a level; bounded with scale 1 is the papers' sigma_t^2."""


def recipe(problem: Problem, settings: Settings, context: Context) -> Recipe:
    r"""Moves the variables at each step; of VSD at each `ratio`-th, and at each step the fake."""
    fakes, inverted = settings.variant == "vsd", settings.variant == "sdi"
    steps = settings.steps * (settings.ratio if fakes else 1)
    levels, weight = build.levels(settings.levels, steps), build.weight(settings.weight)
    teacher, moved = problem.known_teacher, problem.networks.variables(settings.variables)
    objective: Objective
    if fakes:
        objective = DiffInstruct(
            teacher,
            moved,
            problem.networks.fake(),
            levels=levels,
            weight=OfNoises(weight),
            ratio=settings.ratio,
            lattice=settings.lattice,
            sigma_data=problem.space.sigma_data,
        )
    else:
        steps_up, eta = (settings.inversion_steps, settings.eta) if inverted else (0, 0.0)
        objective = SDS(
            teacher, moved, levels, weight, steps=steps_up, eta=eta, lattice=settings.lattice
        )
    batches = problem.data.free(settings.batch, context.seed)
    stage = build.last_stage(settings.variant, objective, batches, settings, steps=steps)
    return (yield stage).network


def cites(settings: Settings) -> Iterator[str]:
    r"""Yields the keys of the papers that a run with these settings uses."""
    yield {"sds": "dreamfusion", "sdi": "sdi", "vsd": "vsd"}[settings.variant]
    if settings.variant == "vsd" and settings.variables.kind == "generator":
        yield "diff_instruct"


POOLE = """@inproceedings{poole2023dreamfusion, year = {2023},
  title = {{DreamFusion}: Text-to-{3D} using {2D} Diffusion},
  author = {Poole, Ben and Jain, Ajay and Barron, Jonathan T. and Mildenhall, Ben},
  booktitle = {International Conference on Learning Representations}}"""


LUKOIANOV = """@inproceedings{lukoianov2024sdi, year = {2024},
  title = {Score Distillation via Reparametrized {DDIM}},
  author = {Lukoianov, Artem and S{\\'a}ez de Oc{\\'a}riz Borde, Haitz and Greenewald, Kristjan and
            Campagnolo Guizilini, Vitor and Bagautdinov, Timur and Sitzmann, Vincent and
            Solomon, Justin},
  booktitle = {Advances in Neural Information Processing Systems}}"""


WANG = """@inproceedings{wang2023prolificdreamer, year = {2023},
  title = {{ProlificDreamer}: High-Fidelity and Diverse Text-to-{3D} Generation with Variational
           Score Distillation},
  author = {Wang, Zhengyi and Lu, Cheng and Wang, Yikai and Bao, Fan and Li, Chongxuan and
            Su, Hang and Zhu, Jun},
  booktitle = {Advances in Neural Information Processing Systems}}"""


PARTICLES = VariableSettings(kind="particles", particles=2_000)


MODES = LevelSettings(sigma_min=0.3, sigma_max=3.0)


STUDENT = Settings(steps=1_000)


# A step of Adam is of the size of its rate: in units of the data, not of a network's weights.
MOVED = Settings(
    steps=400, batch=2_000, lr=0.5, lattice=True, halflife=0.0, variables=PARTICLES, levels=MODES
)


INVERTED = replace(MOVED, variant="sdi")


VARIATIONAL = Settings(variant="vsd", steps=4_000, batch=256, levels=COARSE_TO_FINE)


FITTED = replace(
    VARIATIONAL,
    steps=2_000,
    batch=512,
    lr=0.1,
    beta_1=0.0,
    fake_optimizer=NetworkOptimizer(lr=2e-3, beta_1=0.9),
    lattice=True,
    halflife=20_000.0,
    variables=PARTICLES,
)


PICTURES = Settings(
    steps=500,
    batch=80,
    lr=1e-2,
    variables=VariableSettings(kind="picture"),
    levels=LevelSettings(sigma_min=0.2, sigma_max=3.0),
)


PRESETS = {
    "mog40-sds": Preset("SDS of a student, which seeks modes; see mog40-vsd", MOG40, STUDENT),
    "mog40-sds-particles": Preset("SDS of 2,000 particles", MOG40, MOVED),
    "mog40-sdi": Preset("score distillation via inversion, of 2,000 particles", MOG40, INVERTED),
    "mog40-vsd": Preset("variational score distillation of a student", MOG40, VARIATIONAL),
    "mog40-vsd-particles": Preset("the same of 2,000 particles", MOG40, FITTED),
    "digits-sdi": Preset(
        "one picture of each digit by SDI", DigitsSettings(), replace(PICTURES, variant="sdi")
    ),
}


ARMS = {"mog40": {"sds": Arm("SDS", Settings()), "vsd": Arm("VSD", VARIATIONAL)}}


TINY = Settings(steps=10, batch=8, levels=LevelSettings(sigma_min=0.2, sigma_max=5.0))


FEW = replace(PARTICLES, particles=3)


METHOD = Method(
    name="sds",
    title="SDS",
    year=2022,
    address="https://arxiv.org/abs/2209.14988",
    networks=("student", "fake"),
    settings=Settings,
    recipe=recipe,
    bibtex={
        "dreamfusion": POOLE,
        "sdi": LUKOIANOV,
        "vsd": WANG,
        "diff_instruct": diff_instruct.LUO,
    },
    cites_by=cites,
    presets=PRESETS,
    arms=ARMS,
    cures={
        "collapse": "--variant vsd, whose fake keeps samples apart: sds and sdi seek modes",
    },
    examples={
        "sds": Example(TINY),
        "sds-classes": Example(TINY, classes=2),
        "sds-particles": Example(replace(TINY, variables=FEW, lattice=True), classes=2),
        "sds-picture": Example(replace(TINY, variables=VariableSettings(kind="picture"))),
        "sdi": Example(replace(TINY, variant="sdi")),
        "vsd": Example(replace(TINY, variant="vsd", ratio=2)),
    },
)
