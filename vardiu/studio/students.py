r"""Students of runs, loaded to be looked at: samples, maps of latents, noise, latency.

What loads a run is given by the caller, who knows what the command line named; nothing else is
loaded, and no code of a folder is executed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..denoisers.exact import EmpiricalDenoiser
from ..errors import ConfigError, RunError
from ..export import EXPORTS, refusal
from ..export.onnx import conditions
from ..export.peft import with_adapter
from ..problems.base import Problem
from ..reports.colours import css_name
from ..reports.panels import sample_panels
from ..runs.task import Task
from ..storage.run_folder import RunFolder
from ..students.base import Generator

__all__ = ["Loaded", "Loader", "Students", "teacher_of"]


Loader = Callable[[RunFolder], tuple[Generator, Problem, Task]]


# Samples that are drawn of images and of points; those that stand for the student's law.
IMAGES, POINTS, LAW = 12, 400, 2_048


# Problems whose teacher is somebody's own: it is read only where the command line names it.
OF_OTHERS = ("images", "restoration", "vectors")


# Lines of the lattice of latents, and how far it reaches, in standard deviations.
LINES, REACH = 25, 2.5


class Loaded(NamedTuple):
    r"""A student with its problem.

    Arguments:
        student: The student.
        problem: The problem.
        task: The task.
        stamp: When its weights were written.
        law: The samples that stand for its law, and their conditions; drawn when they are needed.
    """

    student: Generator
    problem: Problem
    task: Task
    stamp: float
    law: dict[str, Tensor]


class Students:
    r"""The students that were looked at last.

    Arguments:
        load: Loads the student of a run.
    """

    def __init__(self, load: Loader) -> None:
        self.load = load
        self.known: dict[str, Loaded] = {}
        self.lock = threading.Lock()  # networks are asked by one request at a time

    def get(self, folder: RunFolder) -> Loaded:
        r"""Returns the student of a finished run.

        Raises:
            RunError: The run is not finished, or is damaged.
            ConfigError: Something is needed that was not named at the start.
        """
        weights = folder.file("student/model.safetensors")
        if not weights.is_file():
            raise RunError("this run has no student yet: it is written when the run is finished")
        key, stamp = str(folder.path), weights.stat().st_mtime
        if key not in self.known or self.known[key].stamp != stamp:
            found = Loaded(*self.load(folder), stamp, {})
            self.known = {**dict(list(self.known.items())[-1:]), key: found}
        return self.known[key]

    def beside(self, folder: RunFolder) -> dict[str, Any]:
        r"""Returns samples of the teacher and of the student as figures."""
        with self.lock, torch.no_grad():
            student, problem, task, *_ = self.get(folder)
            n = number_of(problem)
            shown = problem.beside(student, n, 0)
            same = "same latents" if shown.same_latents else "each of its own latents"
            sets = [(shown.who, shown.teacher), (f"student, {student.words}", shown.student)]
            return {"html": panels(problem, task, sets), "note": same}

    def noised(self, folder: RunFolder, share: float) -> dict[str, Any]:
        r"""Returns samples of the student with noise, and what they are without it, as the teacher
        and as the student's own law have it.

        The student's law is that of its samples: its denoiser is their mean under the posterior
        of the noise, exact for so many samples.

        Arguments:
            folder: The run.
            share: The place of the level between the least and the greatest, in [0, 1].
        """
        with self.lock, torch.no_grad():
            student, problem, task, _, known = self.get(folder)
            if not known:
                drawn = problem.student_source(student)(LAW, torch.Generator().manual_seed(0))
                known.update({"x": drawn[0], **{f"cond.{k}": v for k, v in drawn[1].items()}})
            x = finite(known["x"])
            cond = {k[5:]: v for k, v in known.items() if k.startswith("cond.")}
            low, high = 0.02 * problem.space.sigma_data, 10 * problem.space.sigma_data
            sigma = low * (high / low) ** min(1.0, max(0.0, share))
            n = number_of(problem)
            noise = torch.randn((n, *x.shape[1:]), generator=torch.Generator().manual_seed(1))
            noisy = x[:n] + sigma * noise
            levels = torch.full((n,), sigma)
            law = EmpiricalDenoiser(x, sigma_min=low)
            denoised = law(noisy, levels)
            sets = [("noisy samples x_t", noisy), ("denoised by the student's law", denoised)]
            missing = ""
            try:
                teacher = problem.known_teacher
                given = {k: v[:n] for k, v in cond.items() if k in teacher.conditions}
                sets.append(("denoised by the teacher", teacher(noisy, levels, **given).cpu()))
            except ConfigError as error:
                missing = str(error)
            return {"html": panels(problem, task, sets), "sigma": sigma, "missing": missing}

    def mapped(self, folder: RunFolder, latent: tuple[float, float] | None) -> dict[str, Any]:
        r"""Returns where a student of two dimensions takes a latent; with none, a lattice of them.

        Raises:
            ConfigError: Its samples are not points of the plane.
        """
        with self.lock, torch.no_grad():
            student, problem, task, *_ = self.get(folder)
            if tuple(student.shape) != (2,) or math.prod(student.latent_shape) < 2:
                raise ConfigError("a map is drawn of students of two dimensions alone")
            line = torch.linspace(-REACH, REACH, LINES)
            z = torch.cartesian_prod(line, line) if latent is None else torch.tensor([latent])
            first = student.latent(1, torch.Generator().manual_seed(0)).repeat(len(z), 1)
            first = torch.zeros_like(first.flatten(1))
            first[:, :2] = z.to(first)
            rows = first.reshape(len(z), *student.latent_shape)
            cond = {name: torch.zeros(len(z), dtype=torch.long) for name in student.conditions}
            found: dict[str, Any] = {"x": finite(student(rows, **cond)).cpu().tolist()}
            if latent is None:
                x = problem.student_source(student)(POINTS, torch.Generator().manual_seed(0))[0]
                found |= {"lines": LINES, "reach": REACH, "samples": x.tolist()}
                found["colour"] = css_name(task.method)
            return found

    def forms(self, folder: RunFolder) -> dict[str, dict[str, str]]:
        r"""Returns the forms of an export with what each is, and why it does not fit this run;
        the reason is empty where it does."""
        with self.lock, torch.no_grad():
            student, problem, *_ = self.get(folder)
            origin = with_adapter(problem.origin, folder.file("adapter"))
            return {
                name: {"about": row.about, "refusal": refusal(student, name, origin)}
                for name, row in EXPORTS.items()
            }

    def latency(self, folder: RunFolder) -> list[dict[str, float]]:
        r"""Returns how long a batch of samples takes, a median of five after a first one.

        Raises:
            ValueError: The student takes texts, and no encoder of them is known.
        """
        with self.lock, torch.no_grad():
            student, problem, *_ = self.get(folder)
            rows = []
            for n in (1, 16):
                z = student.tried_on(n, torch.Generator().manual_seed(0))
                cond = conditions(student, n, problem.origin)
                took = []
                for _ in range(6):
                    start = time.perf_counter()
                    student(z, **cond)
                    took.append(time.perf_counter() - start)
                rows.append({"rows": n, "milliseconds": 1e3 * sorted(took[1:])[2]})
            return rows


def teacher_of(folder: RunFolder, named: str) -> str:
    r"""Returns the teacher that was named at the start, if a run's problem takes it; else none."""
    return named if folder.config().get("problem", {}).get("kind") in OF_OTHERS else ""


def finite(x: Tensor) -> Tensor:
    r"""Returns samples as they are.

    Raises:
        RunError: Some are not finite.
    """
    if not bool(x.isfinite().all()):
        raise RunError("this student makes samples that are not finite: it has diverged")
    return x


def number_of(problem: Problem) -> int:
    return IMAGES if len(problem.space.shape) == 3 else POINTS


def panels(problem: Problem, task: Task, sets: list[tuple[str, Tensor]]) -> str:
    r"""Returns figures of titled samples; the student's in its method's colour."""
    images = problem.space.images
    colour = css_name(task.method)
    return "".join(
        sample_panels(
            [
                (title, colour if "student" in title else "soft", images(x).float().numpy())
                for title, x in sets
            ]
        )
    )
