"""CASES: the name of a method to a tiny objective. The one place where a method is added."""

from __future__ import annotations

from collections.abc import Callable

import torch
from problems import mixture_teacher

from vardiu.data.batch import Batch
from vardiu.denoisers.levels import Geometric, LogUniform
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.discriminators.diffusion import discriminator_on
from vardiu.methods.denoising import Denoising
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.methods.dmd2 import DMD2
from vardiu.methods.regression import Regression
from vardiu.methods.vardiu import VarDiU
from vardiu.nn import MLP
from vardiu.posteriors.encoder import Encoder, UnitScale
from vardiu.posteriors.families import (
    CholeskyPosterior,
    FlowPosterior,
    GaussianPosterior,
    MixturePosterior,
)
from vardiu.posteriors.framed import FramedPosterior
from vardiu.samplers.pairs import Pairs, teacher_pairs
from vardiu.students.few_step import FewStep, OneStep
from vardiu.students.framed import Frame, Framed
from vardiu.students.pushforward import Pushforward
from vardiu.training.objective import Objective

LEVELS = LogUniform(Geometric(1.0, 0.2, 10), 5.0)


def student(classes: int = 0) -> Pushforward:
    names = ("label",) if classes else ()
    network = MLP((2,), (2,), width=8, depth=2, classes=classes)
    return Pushforward(network, latent_shape=(2,), shape=(2,), std=2.0, conditions=names)


def encoder(classes: int = 0) -> Encoder:
    network = MLP((2,), (8,), width=8, depth=2, noisy=True, classes=classes, final=False)
    return Encoder(network, 8, UnitScale(2.0))


def denoiser(classes: int = 0) -> PreconditionedDenoiser:
    names = ("label",) if classes else ()
    return PreconditionedDenoiser(
        MLP((2,), (2,), width=8, depth=2, noisy=True, classes=classes),
        shape=(2,),
        sigma_data=2.0,
        sigma_min=0.1,
        sigma_max=8.0,
        conditions=names,
    )


def framed() -> Objective:
    frame = Frame(2, 2, 2, 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    label = torch.arange(200) % 2
    frame.fit(x + 3 * label[:, None] + (torch.arange(200) % 4 > 1)[:, None], label)
    posterior = FramedPosterior(encoder(2), frame, hidden=8)
    return VarDiU(
        mixture_teacher(labels=True),
        Framed(denoiser(2), frame, 0.3),
        posterior,
        levels=LEVELS,
        weight=torch.abs,
        posterior_weight=torch.ones_like,
    )


def vardiu(make: Callable | None, classes: int = 0, **options: object) -> Callable[[], Objective]:
    def case() -> Objective:
        posterior = None if make is None else make(encoder(classes), 2)
        teacher = mixture_teacher(labels=classes > 0)
        return VarDiU(teacher, student(classes), posterior, levels=LEVELS, **options)

    return case


def residual() -> Objective:
    network = MLP((2,), (2,), width=8, depth=2)
    generator = Pushforward(network, latent_shape=(2,), shape=(2,), std=2.0, residual=True)
    posterior = GaussianPosterior(encoder(), 2, residual=True)
    return VarDiU(mixture_teacher(), generator, posterior, levels=LEVELS)


def dmd2(classes: int = 0, calls: int = 1, **options: object) -> DMD2:
    fake = denoiser(classes)
    head = discriminator_on(fake, **({"label": torch.zeros(1).long()} if classes else {}))
    generator = student(classes) if calls == 1 else FewStep(denoiser(classes), [8.0, 1.0][:calls])
    teacher = mixture_teacher(labels=classes > 0)
    given = {"levels": LEVELS, "ratio": 2, "adversarial_weight": 0.5, **options}
    return DMD2(teacher, generator, fake, head, **given)


def regression() -> Objective:
    teacher = mixture_teacher(labels=True)
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    pairs = teacher_pairs(teacher, z, {"label": torch.arange(20) % 2}, steps=3)
    return Regression(teacher, OneStep(denoiser(2), 8.0), pairs)


CASES: dict[str, Callable[[], Objective]] = {
    "vardiu-residual": residual,
    "vardiu-gaussian": vardiu(GaussianPosterior),
    "vardiu-gaussian-plain": vardiu(GaussianPosterior, antithetic=False, control_variate=False),
    "vardiu-gaussian-particles": vardiu(GaussianPosterior, particles=3),
    "vardiu-gaussian-weighted": vardiu(GaussianPosterior, posterior_weight=torch.ones_like),
    "vardiu-cholesky": vardiu(CholeskyPosterior, particles=2),
    "vardiu-mixture": vardiu(lambda e, k: MixturePosterior(e, k, components=3)),
    "vardiu-flow": vardiu(lambda e, k: FlowPosterior(e, k, transforms=2, hidden=(8,))),
    "vardiu-flow-particles": vardiu(
        lambda e, k: FlowPosterior(e, k, transforms=1, hidden=(8,)), particles=2
    ),
    "vardiu-shared": vardiu(None, shared=True),
    "vardiu-shared-lattice": vardiu(None, shared=True, lattice=True),
    "vardiu-shared-classes": vardiu(None, classes=2, shared=True),
    "vardiu-mixture-classes": vardiu(lambda e, k: MixturePosterior(e, k, 3), classes=2),
    "vardiu-framed": framed,
    "diff-instruct": lambda: DiffInstruct(
        mixture_teacher(), student(), denoiser(), levels=LEVELS, ratio=2
    ),
    "diff-instruct-lattice": lambda: DiffInstruct(
        mixture_teacher(), student(), denoiser(), levels=LEVELS, ratio=1, lattice=True
    ),
    "diff-instruct-classes": lambda: DiffInstruct(
        mixture_teacher(labels=True),
        student(2),
        denoiser(2),
        levels=LEVELS,
        ratio=1,
        normalised=True,
    ),
    "dmd2": lambda: DMD2(mixture_teacher(), student(), denoiser(), levels=LEVELS),
    "dmd2-adversarial": dmd2,
    "dmd2-classes": lambda: dmd2(classes=2, lattice=True),
    "dmd2-few-step": lambda: dmd2(calls=2),
    "dmd2-regression": lambda: dmd2(
        regression=Pairs(torch.ones(3, 2), torch.zeros(3, 2), {}), regression_weight=0.5
    ),
    "regression": regression,
    "denoising": lambda: Denoising(denoiser(), levels=LEVELS, sigma_data=2.0),
}


def batch_of(objective: Objective, n: int = 6) -> Batch:
    """A batch that fits: data where there is no teacher, zeros and classes elsewhere."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    x = x.to(next(objective.generator.parameters()).dtype)
    cond = {"label": torch.arange(n) % 2} if objective.generator.conditions else {}
    return Batch.of(x, cond)
