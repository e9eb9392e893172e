r"""Networks of a problem whose students start from the student of another run."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping

from torch import nn

from ..denoisers.base import Denoiser
from ..denoisers.consistency import ConsistencyDenoiser, LatentConsistencyDenoiser
from ..errors import ConfigError, amount, shown
from ..nn.perceptual import PerceptualNet
from ..posteriors.encoder import Encoder
from ..students.base import Generator
from ..students.few_step import FewStep, OneStep
from .base import Input, Networks, hash_of

__all__ = ["Continued"]


class Continued(Networks):
    r"""Networks whose students start from a given one, and all others as the problem's own do.

    Arguments:
        networks: The problem's own networks.
        student: The student to start from, with the problem's conditions.
        source: Where it lies.

    Attributes:
        used: Whether a student was asked for: a method may start in another way.
    """

    def __init__(self, networks: Networks, student: Generator, source: str) -> None:
        super().__init__(networks.space, networks.teacher)
        self.networks, self.settings, self.source = networks, networks.settings, source
        self._student, self.used = student, False

    @property
    def begins_elsewhere(self) -> bool:
        return True

    @property
    def starts_as_teacher(self) -> bool:
        r"""Whether no stage has to teach a student the teacher's answers: it was trained."""
        return True

    @property
    def null(self) -> int | None:
        return self.networks.null

    def inputs(self) -> Mapping[str, Input]:
        return {"start": Input(self.source, hash_of(self._student))}

    def student(self) -> Generator:
        r"""Returns a copy of the student.

        Raises:
            ConfigError: It is none that the problem would make itself: of another class, another
                number of calls, or with another network.
        """
        fresh, given = self.networks.student(), self._student
        if type(given) is not type(fresh):
            raise ConfigError(
                f"{self._called} is a {type(given).__name__}, and a {type(fresh).__name__} is "
                "trained here: start from a run of the same kind of student"
            )
        if given.calls != fresh.calls:
            raise ConfigError(
                f"{self._called} makes a sample in {amount(given.calls, 'call')}, and one of "
                f"{amount(fresh.calls, 'call')} is trained here: give --calls {given.calls}, or "
                "start from another run"
            )
        self._refuse_other(given, fresh)
        if tuple(given.latent_shape) != tuple(fresh.latent_shape):
            raise ConfigError(
                f"{self._called} takes latents of shape {tuple(given.latent_shape)}, and one of "
                f"{tuple(fresh.latent_shape)} is trained here: give its --rule, or start from "
                "another run"
            )
        return self._copied()

    def student_denoiser(self) -> Denoiser:
        r"""Returns a copy of the denoiser that the student asks, without the boundary of a
        consistency function around it.

        Raises:
            ConfigError: The student asks none, or another network than is trained here.
        """
        fresh, found = self.networks.student_denoiser(), self._asked().denoiser
        while isinstance(found, ConsistencyDenoiser | LatentConsistencyDenoiser):
            found = found.denoiser
        self._refuse_other(found, fresh)
        self.used = True
        return found.trainable_copy()

    def begun(self, calls: int, setting: str) -> FewStep | None:
        given = self._asked()
        if given.calls != calls:
            raise ConfigError(
                f"{setting} must be {given.calls}, the calls of {self._called}, got {calls}: give "
                f"--{setting.replace('_', '-')} {given.calls}, or start from another run"
            )
        student = self._copied()
        if isinstance(student, OneStep):
            student = FewStep(student.denoiser, [student.sigma], "ddim")
        assert isinstance(student, FewStep)
        if math.isinf(student.sigmas[0]):
            raise ConfigError(
                f"{self._called} asks its network at infinite noise first, from where no step can "
                "be taken here: start from a run with a finite --sigma"
            )
        self._refuse_other(student, student)
        return student

    def _asked(self) -> FewStep | OneStep:
        r"""Returns the student, one that asks a denoiser."""
        if not isinstance(self._student, FewStep | OneStep):
            raise ConfigError(
                f"{self._called} is a {type(self._student).__name__}, which asks no denoiser, and "
                "this method trains one: start from a run of progressive, lcm, consistency, or "
                "of another student of noise levels"
            )
        return self._student

    def _copied(self) -> Generator:
        self.used = True
        return copy.deepcopy(self._student).requires_grad_(True).train()

    @property
    def _called(self) -> str:
        return f"the student of {shown(self.source)}"

    def _refuse_other(self, given: Generator | Denoiser, fresh: Generator | Denoiser) -> None:
        space = tuple(self.space.shape)
        if tuple(given.shape) != space:
            raise ConfigError(
                f"{self._called} is of samples of shape {tuple(given.shape)}, and these are of "
                f"{space}: start from a run on the same data"
            )
        if set(given.conditions) != set(fresh.conditions):
            raise ConfigError(
                f"{self._called} takes the conditions {sorted(given.conditions)}, and "
                f"{sorted(fresh.conditions)} are given here: start from a run on the same "
                "conditions"
            )
        if weights_of(given) != weights_of(fresh):
            raise ConfigError(
                f"{self._called} has another network, of {numbers_in(given):,} numbers, than is "
                f"trained here, of {numbers_in(fresh):,}: start from a run with the same settings "
                "of the problem"
            )

    def encoder(self) -> Encoder:
        return self.networks.encoder()

    def denoiser(self) -> Denoiser:
        return self.networks.denoiser()

    def fake(self) -> Denoiser:
        return self.networks.fake()

    def judge(self) -> Denoiser:
        return self.networks.judge()

    def perceptual(self) -> PerceptualNet:
        return self.networks.perceptual()


def weights_of(module: nn.Module) -> Counter[tuple[int, ...]]:
    r"""Returns how often a network has weights of each shape: its names may differ."""
    return Counter(tuple(weight.shape) for weight in module.parameters())


def numbers_in(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
