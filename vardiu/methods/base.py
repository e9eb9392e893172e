r"""What a method says of itself: one object in the method's own file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, nearest
from ..settings.fields import (
    DensitySettings,
    DigitsSettings,
    ImageSettings,
    Training,
    VectorSettings,
)
from ..training.cures import CURES
from ..training.stage import Recipe

if TYPE_CHECKING:
    from ..problems.linear import LinearProblem
    from ..students.affine import Affine
    from ..training.objective import Objective

__all__ = ["Arm", "CLAIMS", "FAMILIES", "Example", "Method", "Needs", "Preset"]


# What a method may claim of its student's gradient where everything beside it is exact.
CLAIMS: Mapping[str, str] = {
    "fixed_point": "its mean is zero where the student's law is the teacher's",
    "descent": "it lowers the divergence of an affine student from a Gaussian teacher",
}


# Families of methods: by what a student is moved, or, of what trains teachers, none of these.
FAMILIES = ("matching", "bound", "adversarial", "trajectory", "other")


@dataclass(frozen=True)
class Needs:
    r"""What a method needs beside the network that it trains.

    Arguments:
        data: Whether it needs clean data.
        teacher: Whether it asks a teacher.
        pairs: Whether it needs pairs of the teacher's noise and sample.
        gradient: Whether it needs the teacher's gradient with respect to the noisy sample.
        paired: Whether its data are pairs of a degraded and a clean sample.
        asked: Whether the teacher is asked in training; else networks start from its weights only.
    """

    data: bool = False
    teacher: bool = True
    pairs: bool = False
    gradient: bool = False
    paired: bool = False
    asked: bool = True


@dataclass(frozen=True)
class Preset:
    r"""A named row of settings.

    Arguments:
        about: One line for `vardiu list`.
        problem: The problem's settings.
        settings: The method's settings.
    """

    about: str
    problem: DensitySettings | DigitsSettings | ImageSettings | VectorSettings
    settings: Training


@dataclass(frozen=True)
class Arm:
    r"""How a method enters a contest.

    Arguments:
        title: Its name in tables and pictures.
        settings: The method's settings; the number of steps follows from the budget.
    """

    title: str
    settings: Training


@dataclass(frozen=True)
class Example:
    r"""A training of a few steps on a toy problem, for tests.

    Arguments:
        settings: The method's settings.
        classes: The number of the toy problem's classes; 0 for none.
        student: The form of its student.
    """

    settings: Training
    classes: int = 0
    student: str = "pushforward"


@dataclass(frozen=True, kw_only=True)
class Method:
    r"""A method: what its paper is, what it trains and needs, and how it is run.

    Arguments:
        name: The name as it is typed.
        title: The name in papers.
        year: The year of the paper.
        address: The paper's address.
        networks: What it trains.
        needs: What it needs beside.
        settings: The class of its settings.
        recipe: Of a problem and settings, the stages of a training.
        bibtex: BibTeX entries by key.
        cites_by: Of settings, the keys that a run cites; all of them by default.
        presets: Named rows of settings.
        arms: By the name of a contest, how the method enters it.
        cures: By the name of an alarm, what to try with this method.
        examples: Trainings of a few steps, by name.
        instruments: What of the log tells best that it converges, most telling first: the prefix
            of entries such as `bound/SIGMA`, or a name.
        trained_on: The metric that its students are trained on, in the features of
            `Scores.training_ground`; empty for none. What these features say of such a student is
            marked wherever it is shown, and judges nobody.
        claims: What holds of its student's gradient, of `CLAIMS`; the contract tests it.
        ideal: Of a linear problem and an affine student, the objective with everything beside the
            student exact, and as the student is at each call; none if there is no such objective.
        family: One of `FAMILIES`, for pictures of many methods; see `kin` for the default.

    Raises:
        ConfigError: A field is of another kind, or settings are not of the method's class; or it
            claims or cures what there is not.
    """

    name: str
    title: str
    year: int
    address: str
    networks: tuple[str, ...]
    settings: type[Training]
    recipe: Callable[..., Recipe]
    needs: Needs = Needs()
    bibtex: Mapping[str, str] = field(default_factory=dict)
    cites_by: Callable[[Any], Iterable[str]] | None = None
    presets: Mapping[str, Preset] = field(default_factory=dict)
    arms: Mapping[str, Mapping[str, Arm]] = field(default_factory=dict)
    cures: Mapping[str, str] = field(default_factory=dict)
    examples: Mapping[str, Example] = field(default_factory=dict)
    instruments: tuple[str, ...] = ("score_gap",)
    trained_on: str = ""
    claims: frozenset[str] = frozenset()
    ideal: Callable[[LinearProblem, Affine], Objective] | None = None
    family: str = ""

    def __post_init__(self) -> None:
        for wrong in self._wrong():
            raise ConfigError(f"the method {self.name!r}: {wrong}")

    @property
    def heading(self) -> str:
        r"""The title and the year."""
        return f"{self.title} ({self.year})"

    @property
    def kin(self) -> str:
        r"""The family; where it is not stated, by what is trained beside the student: a fake is
        one of distribution matching, a posterior one of a bound, a head alone adversarial."""
        signs = {"fake": "matching", "posterior": "bound", "head": "adversarial"}
        return self.family or next((signs[n] for n in signs if n in self.networks), "other")

    @property
    def teaches(self) -> bool:
        r"""Whether it trains teachers, for `vardiu teach`, and no students."""
        return "teacher" in self.networks

    def citations(self, settings: Training) -> dict[str, str]:
        r"""Returns the BibTeX entries, by key, of what a run with these settings uses."""
        keys = self.bibtex if self.cites_by is None else self.cites_by(settings)
        return {key: self.bibtex[key] for key in keys}

    def _wrong(self) -> Iterable[str]:
        r"""Yields what is wrong with the fields, one line each."""
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            yield "its name must be of lower-case letters, digits and underscores"
        if not isinstance(self.year, int):
            yield f"its year must be a number, got {self.year!r}"
        if not str(self.address).startswith(("http://", "https://")):
            yield f"its address must begin with https://, got {self.address!r}"
        if isinstance(self.networks, str) or not self.networks:
            yield f'its networks must be a tuple such as ("student",), got {self.networks!r}'
        if self.family not in ("", *FAMILIES):
            yield f"its family is {self.family!r}; {nearest(str(self.family), FAMILIES)}"
        if not isinstance(self.settings, type) or not issubclass(self.settings, Training):
            yield f"its settings must be a subclass of Training, got {self.settings!r}"
            return
        if not dataclasses.is_dataclass(self.settings) or not callable(self.recipe):
            yield "its settings must be a dataclass, and its recipe a function"
        for claim in sorted(set(self.claims) - set(CLAIMS)):
            yield f"it claims {claim!r}; {nearest(claim, CLAIMS)}"
        for alarm in sorted(set(self.cures) - set(CURES)):
            yield f"it has a cure of the alarm {alarm!r}; {nearest(alarm, CURES)}"
        if self.claims and self.ideal is None:
            yield "what it claims is tested on its ideal, and it has none"
        rows: dict[str, Preset | Arm | Example] = {
            **{f"preset {name!r}": row for name, row in self.presets.items()},
            **{
                f"arm {name!r} of {c!r}": a
                for c, arms in self.arms.items()
                for name, a in arms.items()
            },
            **{f"example {name!r}": row for name, row in self.examples.items()},
        }
        for where, row in rows.items():
            if type(row.settings) is not self.settings:
                yield f"the settings of its {where} are of {type(row.settings).__qualname__}"
        if self.cites_by is not None:
            for key in self.cites_by(self.settings()):
                if key not in self.bibtex:
                    yield f"it cites {key!r}; its bibtex has {', '.join(self.bibtex) or 'nothing'}"
