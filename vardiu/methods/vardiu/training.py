r"""The stages of a run: the student beside a posterior, or beside the fake of its anchor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ...denoisers.levels import LogUniform
from ...errors import ConfigError
from ...posteriors.encoder import Posterior
from ...posteriors.framed import FramedPosterior
from ...settings import build
from ...students.base import Generator
from ...students.framed import Framed
from ...training.stage import Context, Recipe, Stage, Stages
from .. import regression
from ..anchored import AnchoredVarDiU
from ..banked import BankedVarDiU
from ..diff_instruct import options_of
from ..frames import make_frame, pair_frame
from ..lagging import Anchor, steps_of

if TYPE_CHECKING:
    from ...problems.base import Problem
    from ...problems.linear import LinearProblem
    from ...students.affine import Affine
from .objective import VarDiU
from .settings import POSTERIORS, Settings

__all__ = ["ideal", "recipe"]


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
        temperature=config.temperature,
        lattice=config.lattice,
        antithetic=config.antithetic,
        control_variate=config.control_variate,
    )
    batches = problem.data.free(config.batch, context.seed)
    return build.last_stage("vardiu", objective, batches, config)


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
    row, ratio = config.anchor, config.ratio
    if row.bank and not row.bank_above:  # there is no fake whose updates would take steps
        row, ratio = dataclasses.replace(row, settle=0), 1
    steps = steps_of(row, config.steps, ratio)
    kind: Callable[..., AnchoredVarDiU] = AnchoredVarDiU
    if row.bank:
        kind = partial(BankedVarDiU, bank=row.bank, above=row.bank_above, own=config.own)
    objective = kind(
        problem.known_teacher,
        student,
        problem.networks.fake(),
        anchor=Anchor(student, row, ratio, steps),
        gain=row.gain,
        antithetic=config.antithetic,
        **options_of(problem, config, steps, pairs),
    )
    batches = problem.data.free(config.batch, context.seed)
    return build.last_stage("vardiu", objective, batches, config, steps=steps)


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
