r"""The options by which a command line has a student guided while it samples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..denoisers.base import Denoiser, place_of
from ..errors import ConfigError, shown
from ..problems.base import Problem, hash_of
from ..problems.images import of_conditions
from ..samplers.guided import LEVELS, RENOISE, TeacherGuide
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..students.guided import GuidedStudent
from ..teachers import few_steps
from ..teachers.readers import load

__all__ = [
    "SETTINGS",
    "WithGuide",
    "add_guide_options",
    "guide_rows",
    "guide_teacher",
    "guided",
    "guided_by",
    "steps_in",
    "tag_of",
    "was_guided",
]


# What `--guide` is given for the run's own teacher.
OWN = "teacher"


# Of a sweep, in its folder.
SETTINGS = "sweep.json"


class WithGuide(NamedTuple):
    r"""A student that a command line has guided.

    Arguments:
        student: The student, guided.
        plain: The same student without its guide.
        guide: The guide.
        source: What the command line named.
    """

    student: GuidedStudent
    plain: Generator
    guide: TeacherGuide
    source: str

    @property
    def steps(self) -> list[int]:
        r"""The places of the guided steps."""
        return self.guide.guided(self.plain.calls)

    @property
    def tag(self) -> str:
        r"""What the name of a file has of the guide."""
        guide, steps = self.guide, "-".join(map(str, self.steps)) or "none"
        words = [f"{guide.strength:g}", f"steps{steps}"]
        words += [w for w in (guide.renoise, guide.level) if w not in (RENOISE[0], LEVELS[0])]
        return f"-guided{'-'.join(words)}"

    def about(self) -> dict[str, Any]:
        r"""Returns what is written of the guide, for JSON."""
        guide = self.guide
        return {
            "teacher": self.source,
            "hash": hash_of(guide.teacher),
            "strength": guide.strength,
            "steps": self.steps,
            "noise": guide.renoise,
            "level": guide.level,
        }

    def calls(self) -> dict[str, int]:
        r"""Returns the network evaluations a sample, and of all rows so far, for JSON."""
        return {
            "student": self.plain.calls,
            "guide": self.student.calls - self.plain.calls,
            "student_rows": self.plain.calls * self.student.rows,
            "guide_rows": self.guide.rows,
        }

    def told(self) -> str:
        r"""Returns the calls in words."""
        calls = self.calls()
        return (
            f"network calls a sample: {calls['student']} of the student, {calls['guide']} of the "
            f"guide; evaluated rows: {calls['student_rows']:,} and {calls['guide_rows']:,}"
        )


def add_guide_options(parser: argparse.ArgumentParser) -> None:
    r"""Adds the options of a guide: which, how strong, where."""
    parser.add_argument(
        "--guide",
        metavar="TEACHER",
        help=f"correct the student's states between two calls: {OWN} for the run's own teacher, "
        "or a folder, a hub id, an EDM pickle or FILE.py:NAME",
    )
    parser.add_argument(
        "--guide-strength",
        type=float,
        metavar="X",
        help="the part of the way to the guide's estimate, 0 to 1; 0.2 by default",
    )
    parser.add_argument(
        "--guide-steps",
        metavar="I,J,...",
        help="the calls after which it corrects, from 0, or all; 0 by default",
    )
    parser.add_argument(
        "--guide-noise",
        choices=RENOISE,
        help="the noise it is shown: that of the next state (shared, the default), or fresh",
    )
    parser.add_argument(
        "--guide-level",
        choices=LEVELS,
        help="the level it is asked at: the next (the default), or the same as before",
    )


def guided(student: Generator, chosen: argparse.Namespace, problem: Problem) -> WithGuide | None:
    r"""Returns a student guided as a command line asks for; none where it asks for no guide.

    Arguments:
        student: The student, on its device.
        chosen: A command line that has the options of `add_guide_options`.
        problem: The student's problem.

    Raises:
        ConfigError: The guide cannot be read or cannot guide this student, an option is out of
            its range, or there are options of a guide and no guide.
    """
    given = {name: getattr(chosen, f"guide_{name}") for name in ("strength", "steps", "noise")}
    given["level"] = chosen.guide_level
    if chosen.guide is None:
        name = next((name for name, value in given.items() if value is not None), None)
        if name is not None:
            raise ConfigError(
                f"--guide-{name} is of a guide, and there is none: give --guide {OWN}, or another "
                "teacher"
            )
        return None
    return guided_by(
        student,
        guide_teacher(chosen.guide, chosen.run, student, problem),
        chosen.guide,
        0.2 if given["strength"] is None else given["strength"],
        steps_in(given["steps"]),
        given["noise"] or RENOISE[0],
        given["level"] or LEVELS[0],
    )


def guide_rows(guide: WithGuide | None) -> dict[str, Any]:
    r"""Returns what is written of a guide, where there is one."""
    return {} if guide is None else {"guide": guide.about(), "calls": guide.calls()}


def tag_of(guide: WithGuide | None) -> str:
    r"""Returns what the name of a file has of a guide, where there is one."""
    return "" if guide is None else guide.tag


def was_guided(folder: RunFolder) -> bool:
    r"""Whether a run's student was sampled or measured with a guide into its folder."""
    names = ("samples-*-guided*.json", "evaluation-*-guided*.json", f"guide*/{SETTINGS}")
    return any(next(folder.path.glob(name), None) is not None for name in names)


def guided_by(
    student: Generator,
    teacher: Denoiser,
    source: str,
    strength: float,
    steps: Sequence[int] | None,
    noise: str,
    level: str,
) -> WithGuide:
    r"""Returns a student that a teacher guides.

    Raises:
        ConfigError: It cannot.
    """
    try:
        guide = TeacherGuide(teacher, strength, steps, renoise=noise, level=level)
        made = GuidedStudent(student, guide).train(student.training)
    except ValueError as error:
        raise ConfigError(f"--guide {shown(source)}: {error}") from error
    return WithGuide(made, student, guide, source)


def guide_teacher(source: str, run: str, student: Generator, problem: Problem) -> Denoiser:
    r"""Returns the teacher that guides, on the student's device, of the problem's own conditions.

    Arguments:
        source: `teacher`, or what names another one.
        run: What the command line named the student.
        student: The student.
        problem: The student's problem.

    Raises:
        ConfigError: It cannot be read.
    """
    if source == OWN and few_steps.matches(run):
        raise ConfigError(
            f"--guide {OWN}: a published student has no teacher of its own here: name one, a "
            "folder or a hub id"
        )
    if source == OWN:
        teacher = problem.known_teacher
    else:
        teacher = of_conditions(problem, load(source).float())
    return teacher.to(place_of(student))


def steps_in(text: str | None) -> tuple[int, ...] | None:
    r"""Returns the places that an option lists; the first without it, none for all.

    Raises:
        ConfigError: They are no whole numbers from zero, or one is there twice.
    """
    if text is None:
        return (0,)
    if text.strip() == "all":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise ConfigError(
            f"--guide-steps must be whole numbers from 0 with commas between, or all, got "
            f"{shown(text)}"
        )
    steps = [int(part) for part in parts]
    if len(set(steps)) < len(steps):
        raise ConfigError(f"--guide-steps names a step twice: {shown(text)}")
    return tuple(steps)
