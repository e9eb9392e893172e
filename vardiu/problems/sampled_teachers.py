r"""Teachers that are sampled, and where those lie that this library trained."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..denoisers.base import Denoiser, place_of
from ..denoisers.guidance import Guided
from ..denoisers.levels import karras_grid
from ..errors import ConfigError
from ..metrics.metric import Metric, fingerprint
from ..nn import offload
from ..samplers.ode import ROWS_AT_ONCE, Heun
from ..storage.artefacts import Artefacts
from ..students.base import rows_at_once
from ..teachers.saved import matches

__all__ = ["SOLVER_CALLS", "SOLVER_STEPS", "TEACHER", "SampleStore", "SampledTeacher"]
__all__ += ["Source", "find_teacher", "teacher_folder"]


# A source of samples: of a number of them and a generator, to samples and their conditions.
Source = Callable[[int, torch.Generator], tuple[Tensor, Mapping[str, Tensor]]]


# Of the teacher that a student is compared with.
SOLVER_STEPS = 35
SOLVER_CALLS = 2 * SOLVER_STEPS - 1
TEACHER = f"teacher, {SOLVER_CALLS} calls"


# Why a teacher cannot be guided.
NO_NULL = (
    "this teacher has no class or text that stands for none, which guidance leads away from: "
    "leave --guidance-max at 1, or give a teacher that has one (vardiu teach ... --drop 0.1)"
)


class SampleStore(NamedTuple):
    r"""Where large samples of a teacher are kept, a portion at a time, as long as they are needed.

    Arguments:
        artefacts: Keeps them.
        about: Returns what they depend on besides their noise, their conditions and the solver.
    """

    artefacts: Artefacts
    about: Callable[[], Mapping[str, Any]]


class SampledTeacher:
    r"""A teacher that can be sampled by Heun's method.

    Arguments:
        denoiser: The teacher; none as long as it is yet to be trained.
        later: Reads it when it is first asked for, where there is no `denoiser`: a student is
            sampled without it.
        there: Whether it can be read then.
    """

    def __init__(
        self,
        denoiser: Denoiser | None,
        later: Callable[[], Denoiser] | None = None,
        there: Callable[[], bool] = lambda: True,
    ) -> None:
        self._denoiser, self._later, self._there = denoiser, later, there
        self.part: int | None = None
        self.store: SampleStore | None = None
        self.device: torch.device | None = None  # where it is sampled; where it is without
        self.waits = False  # in host memory, and is there for its samples only

    @property
    def denoiser(self) -> Denoiser | None:
        r"""The teacher; none as long as it is yet to be trained."""
        if self._denoiser is None and self._later is not None:
            self._denoiser = self._later()
        return self._denoiser

    @denoiser.setter
    def denoiser(self, denoiser: Denoiser | None) -> None:
        self._denoiser = denoiser

    @property
    def at_hand(self) -> Denoiser | None:
        r"""The teacher, if it has been read; it is not read now."""
        return self._denoiser

    @property
    def is_there(self) -> bool:
        r"""Whether it has been read, or lies where it is to be read from."""
        return self._denoiser is not None or (self._later is not None and self._there())

    @property
    def known(self) -> Denoiser:
        r"""The teacher, where there must be one.

        Raises:
            ConfigError: There is none.
        """
        if self.denoiser is None:
            raise ConfigError("this needs a teacher, and it is yet to be trained: vardiu teach")
        return self.denoiser

    @property
    def steered(self) -> Denoiser:
        r"""The teacher with the scale of its guidance as a condition `guidance`, of each row.

        Raises:
            ConfigError: It has no class or text that stands for none.
        """
        teacher = self.known
        null = None if teacher.origin is None else teacher.origin.null
        if null is None:
            raise ConfigError(NO_NULL)
        return Guided(teacher, None, {"label": torch.tensor([null])})

    @property
    def is_plain(self) -> bool:
        r"""Whether it is sampled as it was written: with no guidance, and no texts, around it."""
        return True

    def written_metrics(
        self, n: int, real: Tensor, features: str, chosen: Sequence[int] | None = None
    ) -> list[Metric]:
        r"""Returns what was measured of the teacher when it was written, or by `vardiu evaluate`
        since, which lies beside its weights; nothing where it would be measured otherwise now.

        Arguments:
            n: The number of samples.
            real: The features of the real images.
            features: The name of the features.
            chosen: The classes that are sampled; none for all, as it was measured.
        """
        origin = self.known.origin
        if origin is None or chosen is not None or not self.is_plain:
            return []
        # Precision and recall are of fewer samples where there are fewer real images.
        wanted = ("frechet", features, n, fingerprint(real.double()))
        for found in (origin.measured, *origin.evaluated(n)):
            rows = [Metric(**row) for row in found]
            if wanted in [(m.name, m.features, m.n, m.reference) for m in rows]:
                return rows
        return []

    def source(
        self,
        conditions: Callable[[int, torch.Generator], Mapping[str, Tensor]],
        steps: int = SOLVER_STEPS,
    ) -> Source:
        r"""Returns the source that the teacher is.

        Arguments:
            conditions: Gives the conditions of so many rows.
            steps: The number of steps of Heun's method.
        """

        def draw(n: int, random: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            cond = conditions(n, random) if self.known.conditions else {}
            return self.solve(n, random, cond, steps), cond

        return draw

    def solve(
        self, n: int, random: torch.Generator, cond: Mapping[str, Tensor], steps: int
    ) -> Tensor:
        r"""Returns `n` samples by so many steps of Heun's method, on the CPU."""
        rows = min(ROWS_AT_ONCE, rows_at_once(self.known.shape, self.part))
        # The same noise on every device, if the generator is the same.
        z = torch.randn((n, *self.known.shape), generator=random, device=random.device)

        def portion(index: int) -> dict[str, Tensor]:
            part = slice(index * rows, (index + 1) * rows)
            given = {name: value[part] for name, value in cond.items()}
            return {"x": self.solve_from(z[part], given, steps)}

        count = math.ceil(n / rows)
        if self.store is None or count == 1:
            return torch.cat([portion(index)["x"] for index in range(count)])
        drawn = {"z": z, **cond}
        about = {name: fingerprint(value.double()) for name, value in drawn.items()}
        row = {**self.store.about(), "steps": steps, "rows": rows, "drawn": about}
        return self.store.artefacts.get("samples", row, count, portion)["x"]

    def solve_from(self, z: Tensor, cond: Mapping[str, Tensor], steps: int) -> Tensor:
        r"""Returns the samples of given standard normal noise, `(B, *)`, on the CPU."""
        teacher = self.known
        solver = Heun(teacher, karras_grid(steps, teacher.sigma_min, teacher.sigma_max))
        with self.near() as device:
            there = {name: value.to(device) for name, value in cond.items()}
            x = solver.sigmas[0].item() * z.float().to(device)
            return solver(x, generator=None, **there).cpu()

    @contextlib.contextmanager
    def near(self) -> Iterator[torch.device]:
        r"""Has the teacher lie where it is sampled, and tells where; one that waits in host memory
        goes back there. It is moved and not copied, as what counts its calls knows it."""
        teacher, before = self.known, place_of(self.known)
        if self.device is not None:
            teacher.to(self.device)
        there = place_of(teacher)
        try:
            yield there
        finally:
            if self.waits and there != before:
                offload.move_to_host(teacher)


def teacher_folder(run: str | None, name: str) -> str:
    r"""Returns where `vardiu teach` writes a teacher, or wrote one, if it is named."""
    return f"runs/teach-{name}" if run is None else run


def find_teacher(
    run: str | None, name: str, option: str = "--teacher-run", words: str | None = None
) -> str:
    r"""Returns the folder of a teacher that `vardiu teach` wrote.

    Arguments:
        run: The folder; none for the one that `teach` writes to by default.
        name: The name of the problem.
        option: The option that names another folder, for the message.
        words: What `teach` is given to train it, if it is not the name.

    Raises:
        ConfigError: The folder holds no finished teacher; the message has the command that trains
        it.
    """
    folder = teacher_folder(run, name)
    if not matches(folder):
        raise ConfigError(
            f"there is no teacher in {folder}: train one with `vardiu teach {words or name} --out "
            f"{folder}`, or name another with {option}"
        )
    return folder
