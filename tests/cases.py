"""The tiny objectives that every method is tried on: those of the methods' own examples."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import torch

from vardiu.data.batch import Batch
from vardiu.data.batches import Batches
from vardiu.denoisers.levels import Geometric, LogUniform
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.discriminators.diffusion import discriminator_on
from vardiu.methods import METHODS, Method
from vardiu.methods.base import Example
from vardiu.methods.dmd2 import DMD2
from vardiu.methods.vardiu import VarDiU
from vardiu.nn import MLP
from vardiu.posteriors.encoder import Encoder, UnitScale
from vardiu.posteriors.framed import FramedPosterior
from vardiu.problems.toy import ToyProblem, mixture_teacher
from vardiu.students.few_step import FewStep
from vardiu.students.framed import Frame, Framed
from vardiu.students.pushforward import Pushforward
from vardiu.training.frozen import Frozen
from vardiu.training.objective import Objective
from vardiu.training.stage import Context, Stage, Trained

LEVELS = LogUniform(Geometric(1.0, 0.2, 10), 5.0)


# By the name of an example, whose it is.
EXAMPLES: dict[str, tuple[Method, Example]] = {
    name: (method, example)
    for method in METHODS.values()
    for name, example in method.examples.items()
}


def driven(method: Method, example: Example) -> Iterator[Stage]:
    """The stages of an example's recipe; what comes out of each is its student as it was."""
    problem = ToyProblem(example.classes, example.student)
    recipe = method.recipe(problem, example.settings, Context())
    stage = next(recipe)
    while True:
        yield stage
        network = copy.deepcopy(stage.objective.generator)
        try:
            stage = recipe.send(Trained(network, stage.objective))
        except StopIteration:
            return


def stages_of(method: Method, example: Example, seed: int = 0) -> list[Stage]:
    """The stages of an example's recipe, with the weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return list(driven(method, example))


@functools.cache
def stages_made(name: str, dtype: torch.dtype) -> list[Stage]:
    return stages_of(*EXAMPLES[name])


def last_stage(name: str) -> Stage:
    """A copy of an example's last stage, the method's own."""
    stage = stages_made(name, torch.get_default_dtype())[-1]
    objective = copy.deepcopy(stage.objective)
    # What is held is shared by copies: a test that changes its type must not change another's.
    for child, module in objective.named_children():
        if isinstance(module, Frozen):
            setattr(objective, child, Frozen(copy.deepcopy(module.module)))
    return stage._replace(objective=objective, batches=copy.deepcopy(stage.batches))


def case(name: str) -> Callable[[], Objective]:
    return lambda: last_stage(name).objective


CASES: dict[str, Callable[[], Objective]] = {name: case(name) for name in EXAMPLES}


def batch_of(objective: Objective, n: int = 6) -> Batch:
    """A batch that fits any objective: data and their truth, which most leave alone, and classes."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    x = x.to(next(objective.generator.parameters()).dtype)
    cond = {"label": torch.arange(n) % 2} if objective.generator.conditions else {}
    return Batch(n, x, cond, truth=1.5 * x + 0.1)


class Repeat(Batches):
    """The batch of a case, scaled by its index, so that the place in the data matters."""

    def __init__(self, objective: Objective, n: int = 6) -> None:
        super().__init__()
        self.batch = batch_of(objective, n)

    def at(self, index: int) -> Batch:
        return self.batch._replace(x=self.batch.x * (1 + 0.01 * index))


def is_noised(x_t: torch.Tensor, x: torch.Tensor, sigma: torch.Tensor) -> bool:
    """Whether states are samples with standard normal noise of their levels, by five errors."""
    noise = (x_t - x) / sigma.view(-1, *[1] * (x.ndim - 1))
    n = noise.numel()
    return (
        abs(float(noise.mean())) < 5 / n**0.5 and abs(float(noise.std()) - 1) < 5 / (2 * n) ** 0.5
    )


# -------------------------------------------------------------------------------- single networks


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


def dmd2(classes: int = 0, calls: int = 1, **options: object) -> DMD2:
    fake = denoiser(classes)
    head = discriminator_on(fake, **({"label": torch.zeros(1).long()} if classes else {}))
    generator = student(classes) if calls == 1 else FewStep(denoiser(classes), [8.0, 1.0][:calls])
    teacher = mixture_teacher(labels=classes > 0)
    given = {"levels": LEVELS, "ratio": 2, "adversarial_weight": 0.5, **options}
    return DMD2(teacher, generator, fake, head, **given)


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


__all__ = [
    "CASES",
    "EXAMPLES",
    "LEVELS",
    "Repeat",
    "batch_of",
    "denoiser",
    "dmd2",
    "encoder",
    "framed",
    "last_stage",
    "stages_of",
    "student",
]
