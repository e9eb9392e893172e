r"""What there is to distil, in four parts.

=========  ====================================================================================
space      where samples live: shape, mean, spread, classes, and the codec of latents
networks   fresh networks of the right size: students, encoders, denoisers
data       batches, clean samples, conditions, and samples of the teacher
scores     what samples are worth: metrics, histograms and pictures
=========  ====================================================================================

A recipe of a method asks a problem for its parts and never looks at which problem it is.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .. import models
from ..data.batches import Batches, DataFree
from ..data.labels import whole
from ..denoisers.base import Denoiser
from ..denoisers.guidance import Autoguided, Guided
from ..errors import ConfigError, known, shown
from ..metrics import Metric
from ..metrics.sets import TrainingSpace
from ..nn.perceptual import PerceptualNet
from ..posteriors.encoder import Encoder
from ..settings.fields import FrameSettings, VariableSettings
from ..storage.run_folder import RunFolder
from ..students.base import Generator, rows_at_once
from ..students.few_step import FewStep
from ..students.picture import Picture
from ..students.table import Table
from ..teachers.origin import Origin
from .kept import KeptTeacher
from .maps import FeatureMaps, SpaceFeatures
from .sampled_teachers import SOLVER_STEPS, TEACHER, SampledTeacher, Source

__all__ = [
    "DATA_FILES",
    "BesideTeacher",
    "Data",
    "Input",
    "Judged",
    "KnownSpace",
    "Networks",
    "Problem",
    "Scores",
    "Space",
    "TrainingGround",
    "beside_teacher",
    "save_student",
    "hash_of",
    "inputs_of",
]


# What the inputs of a problem call the files of its data.
DATA_FILES = "data files"


class Input(NamedTuple):
    r"""Something that a problem has read.

    Arguments:
        place: Where it lies, as the settings name it.
        sha256: The SHA-256 of what was read, or its first digits.
    """

    place: str
    sha256: str


class Judged(NamedTuple):
    r"""By which metrics students of a problem are judged.

    Arguments:
        metric: The headline metric.
        lower_is_better: Its direction.
        coverage: Metrics that fall where modes or directions are lost, the greater the better.
        reaches: Whether the reference is what a student is to reach, a teacher or true samples, so
            that one which is far off tells that the reference is broken; not so one that a student
            is to leave behind.
    """

    metric: str
    lower_is_better: bool = True
    coverage: tuple[str, ...] = ()
    reaches: bool = True


class BesideTeacher(NamedTuple):
    r"""Samples of a teacher and of its student, row by row under the same conditions.

    Arguments:
        teacher: Those of the teacher.
        student: Those of the student.
        same_latents: Whether a row is of the same noise.
        who: Whose samples stand in the teacher's place, where they are none of its own.
    """

    teacher: Tensor
    student: Tensor
    same_latents: bool
    who: str = TEACHER


class TrainingGround(NamedTuple):
    r"""What students may be trained on a distance of, and are never judged by.

    Arguments:
        space: The features.
        real: Real samples, of which those that judge are other ones where there are enough.
        label: Their classes; none without.
    """

    space: TrainingSpace
    real: Tensor
    label: Tensor | None = None


class Space(abc.ABC):
    r"""Where samples live.

    Attributes:
        shape: The shape of one sample.
        classes: The number of classes, or of prompts; zero without conditions.
        conditions: The names of the conditions, which every network takes.
        mean: The mean of the data, one number or one a dimension.
        sigma_data: The standard deviation of the data, a dimension.
        variance: The variance of the data about its mean, an average over dimensions.
        device: Where latents are decoded and images encoded; none where they are.
    """

    shape: tuple[int, ...]
    classes: int
    conditions: tuple[str, ...]
    device: torch.device | None = None

    if TYPE_CHECKING:  # attributes, or computed when they are asked for

        @property
        def mean(self) -> Tensor: ...
        @property
        def sigma_data(self) -> float: ...
        @property
        def variance(self) -> float: ...

    @property
    def unit(self) -> float:
        r"""The length that an objective's own lengths are multiples of: 1, where data lie about
        [-1, 1], or the data's standard deviation."""
        return 1.0

    @property
    def decodes(self) -> bool:
        r"""Whether samples are latents, which `decode` turns into images."""
        return False

    def decode(self, x: Tensor) -> Tensor:
        r"""Returns the images of latents, :math:`(B, *)`, with their gradients and on their
        device; samples that are no latents are returned as they are."""
        return x

    def encode(self, images: Tensor) -> Tensor:
        r"""Returns the latents of images in [-1, 1], with their gradients and on their device;
        the images themselves where samples are no latents."""
        return images

    def images(self, x: Tensor) -> Tensor:
        r"""Returns what samples stand for, to be measured and drawn: themselves, or the images of
        latents, on the CPU, in [-1, 1] and without gradients."""
        return x


class KnownSpace(Space):
    r"""A space whose moments are known beforehand, and whose samples are no latents.

    Arguments:
        shape: The shape of one sample.
        mean: The mean of the data.
        sigma_data: The standard deviation of the data, a dimension.
        variance: The variance of the data, an average over dimensions.
        classes: The number of classes; zero without.
    """

    mean: Tensor
    sigma_data: float
    variance: float

    def __init__(
        self,
        shape: Sequence[int],
        mean: Tensor,
        sigma_data: float,
        variance: float,
        classes: int = 0,
    ) -> None:
        self.shape, self.mean = tuple(shape), mean
        self.sigma_data, self.variance = sigma_data, variance
        self.classes = classes
        self.conditions = ("label",) if classes else ()


class Networks(abc.ABC):
    r"""Fresh networks of the right size.

    Arguments:
        space: Where samples live.
        teacher: The teacher, whose weights a network may start from.
    """

    def __init__(self, space: Space, teacher: SampledTeacher) -> None:
        self.space, self.teacher = space, teacher

    settings: Any = None

    # Whether a student of a method that asks no teacher starts from the teacher's weights.
    from_teacher: bool = False

    @property
    def begins_elsewhere(self) -> bool:
        r"""Whether students start from the teacher or from another run where a method of its own
        would start with a fresh network."""
        return self.from_teacher

    def begun(self, calls: int, setting: str) -> FewStep | None:
        r"""Returns the student of few calls of another run, where students start from one.

        Arguments:
            calls: The number of its calls.
            setting: The name of the setting that asks for so many, for the message.

        Raises:
            ConfigError: It is of another number of calls, or of another kind.
        """
        return None

    @property
    def calls(self) -> int:
        r"""The number of calls that a student is asked for."""
        calls: int = getattr(self.settings, "calls", 1)
        return calls

    @property
    def sigma(self) -> float | None:
        r"""The level at which a student is to ask its network first; none where that is left to
        the network."""
        sigma: float | None = getattr(self.settings, "sigma", None)
        return sigma

    def inputs(self) -> Mapping[str, Input]:
        r"""Returns what was read for the networks alone, see `Problem.inputs`."""
        return {}

    @property
    def null(self) -> int | None:
        r"""The class that stands for none in the networks of `denoiser`, if they know one."""
        return None

    @abc.abstractmethod
    def student(self) -> Generator:
        r"""Returns a fresh student, or one that starts from the teacher's weights."""

    def variables(self, row: VariableSettings) -> Generator:
        r"""Returns what a direction moves: the student, particles, or one picture.

        Arguments:
            row: Which, and where it starts.
        """
        space = self.space
        if row.kind == "generator":
            return self.student()
        classes, mean, std = space.classes, space.mean, row.std * space.sigma_data
        if row.kind == "particles":
            return Table(row.particles, space.shape, classes=classes, mean=mean, std=std)
        return Picture(
            space.shape,
            classes=classes,
            mean=mean,
            std=std,
            width=row.width,
            depth=row.depth,
            fourier=row.fourier,
        )

    @abc.abstractmethod
    def encoder(self) -> Encoder:
        r"""Returns a fresh encoder of noisy samples, for a posterior."""

    @abc.abstractmethod
    def denoiser(self) -> Denoiser:
        r"""Returns a fresh denoiser of the data, to be trained as a teacher or as a fake."""

    def fake(self) -> Denoiser:
        r"""Returns a denoiser that starts from the teacher's weights if it has any."""
        teacher = self.teacher.known
        if next(teacher.parameters(), None) is not None:
            return teacher.trainable_copy()
        return self.denoiser()

    def student_denoiser(self) -> Denoiser:
        r"""Returns a denoiser for a student of noise levels to ask: one that starts from the
        teacher's weights if it has any."""
        return self.fake()

    def judge(self) -> Denoiser:
        r"""Returns the denoiser whose encoder a discriminator starts from: the teacher."""
        return self.teacher.known

    def perceptual(self) -> PerceptualNet:
        r"""Returns the frozen network that images are compared in.

        Raises:
            ConfigError: Samples are no images.
        """
        raise ConfigError(
            "samples of this problem are no images, and are compared in no network: leave "
            "perceptual_weight at 0"
        )

    @property
    def starts_as_teacher(self) -> bool:
        r"""Whether `student_denoiser` answers as the teacher does before it is trained: it has the
        teacher's weights, and the teacher is not guided."""
        teacher = self.teacher.known
        taught = next(teacher.parameters(), None) is not None
        guided = any(isinstance(module, Guided | Autoguided) for module in teacher.modules())
        return taught and not guided and getattr(self.settings, "student", "") != "fresh"


class Data(abc.ABC):
    r"""Batches, clean samples, conditions, and samples of the teacher.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
    """

    def __init__(self, space: Space, teacher: SampledTeacher) -> None:
        self.space, self.teacher = space, teacher
        self.chosen: Sequence[int] | None = None  # the classes that are sampled; all without

    def free(self, size: int, seed: int, *, shares: bool = False) -> Batches:
        r"""Returns batches for methods without data: a number of rows, and their conditions.

        Arguments:
            size: The number of rows of a batch.
            seed: The seed of the conditions.
            shares: Whether classes have the shares of the data, see `labels`, not equal ones.
        """
        classes = self.space.classes or None
        return DataFree(size, classes=classes, seed=seed, label=self.labels if shares else None)

    @abc.abstractmethod
    def clean(self, size: int, seed: int) -> Batches:
        r"""Returns batches of clean samples, for a teacher or a method that needs data; latents
        where the teacher is one of latents."""

    def paired(self, size: int, seed: int) -> Batches:
        r"""Returns batches of degraded samples and, as their truth, clean ones; both are images
        where the teacher is one of latents.

        Raises:
            ConfigError: There are none.
        """
        raise ConfigError(
            "this needs pairs of degraded and clean images, and this problem has none: take "
            "vardiu distill restoration --teacher ... --data ..."
        )

    @abc.abstractmethod
    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Returns up to `n` clean samples and their conditions, for the probe."""

    def account(self) -> list[str]:
        r"""Returns what was read of the user's own data, a line each."""
        return []

    def left_out(self) -> list[str]:
        r"""Returns what of the user's own data is not read, a line each: they are warned of where
        the data are opened, and kept with a run."""
        return []

    def conditions(
        self, n: int, random: torch.Generator, *, measured: bool = False
    ) -> Mapping[str, Tensor]:
        r"""Returns conditions of `n` rows to sample with.

        They are all classes, or those that were chosen, equally often and in turn. A student that
        is perfect by class is as far from uneven data as its classes are unevenly drawn: what is
        measured has the data's shares.

        Arguments:
            n: The number of rows.
            random: The generator of what is drawn.
            measured: Whether the samples are compared with the data. Their classes are then in an
                order that is mixed, so that no part of the rows has other shares.
        """
        if not self.space.classes:
            return {}
        index, label = torch.arange(n), self.labels
        if measured and label is not None:
            mixed = torch.randperm(n, generator=torch.Generator().manual_seed(0))
            return {"label": label[mixed * len(label) // n]}
        if self.chosen is None:
            return {"label": index % self.space.classes}
        return {"label": torch.tensor(self.chosen)[index % len(self.chosen)]}

    @property
    def labels(self) -> Tensor | None:
        r"""The classes of the real samples that metrics compare with, `(N)`; none where they have
        none, or where the teacher's own samples stand in their place."""
        return None

    @property
    def names(self) -> tuple[str, ...]:
        r"""The names of the classes, in their order; empty where they have none."""
        return ()

    def choose_classes(self, classes: Sequence[str]) -> None:
        r"""Has only these classes be sampled, in turn, in place of all of them.

        Arguments:
            classes: Names of classes, or their numbers; what is both is a name.

        Raises:
            ConfigError: There are no classes here, or not these.
        """
        if not self.space.classes:
            raise ConfigError("this student has no classes: leave out --label")
        self.chosen = tuple(number_of(text, self.names, self.space.classes) for text in classes)

    @property
    def unguided(self) -> Denoiser:
        r"""The teacher without guidance: the denoiser that must denoise."""
        return self.teacher.known

    @property
    def resample(self) -> Callable[[], Tensor] | None:
        r"""Draws what `reference` gives anew, where it is the teacher's own samples."""
        return None

    def teacher_source(self, steps: int = SOLVER_STEPS, *, measured: bool = False) -> Source:
        r"""Returns the source that the teacher is.

        Arguments:
            steps: The number of steps of Heun's method.
            measured: Whether its samples are compared with the data, see `conditions`.
        """
        return self.teacher.source(partial(self.conditions, measured=measured), steps)

    def frame_samples(self, row: FrameSettings, seed: int) -> dict[str, Tensor]:
        r"""Returns samples of the teacher that a frame is fitted to.

        They depend on the arguments and the teacher only, and may be kept.

        Returns:
            `x`, with shape :math:`(N, *)`, and `label`, with shape :math:`(N)`, where each class
            has a part of the frame to itself.
        """
        random = torch.Generator().manual_seed(seed + 77)
        x, cond = self.teacher_source(row.solver_steps)(row.samples, random)
        label = self.frame_classes(cond) if row.by_class else None
        return {"x": x} if label is None else {"x": x, "label": label}

    def frame_classes(self, cond: Mapping[str, Tensor]) -> Tensor | None:
        r"""Returns the classes that each have a part of a frame to themselves."""
        return cond.get("label")


def number_of(text: str, names: Sequence[str], count: int) -> int:
    r"""Returns the number of a class of its name or number.

    Raises:
        ConfigError: There is no such class; the message has the nearest names.
    """
    if text in names:
        return list(names).index(text)
    try:
        number = whole(text)
    except ValueError as error:
        if not names:
            raise ConfigError(
                f"--label must be the number of a class, 0 to {count - 1}, as these have no "
                f"names, got {shown(text)}"
            ) from error
        return list(names).index(known(text, names, "class"))
    if not 0 <= number < count:
        raise ConfigError(f"--label must be within 0 and {count - 1}, got {shown(text)}")
    return number


class Scores(abc.ABC):
    r"""What samples are worth.

    Attributes:
        headline: The names of the metrics of the short summary.
        judged: By which metrics a student is judged.
        quick: The number of samples that are measured on the way.
        samples: The number of samples that are measured at the end.
    """

    headline: tuple[str, ...]
    judged: Judged
    quick: int
    samples: int

    @abc.abstractmethod
    def measure(self, source: Source, n: int, seed: int = 0) -> list[Metric]:
        r"""Returns the metrics of `n` samples of a source."""

    def measure_spaces(self, source: Source, n: int, seed: int = 0) -> list[Metric]:
        r"""Returns what `frechet_ratio` finds in each of two spaces of features, of up to `n`
        samples of a source; nothing where samples are no images."""
        return []

    def training_ground(self) -> TrainingGround | None:
        r"""Returns features that a student may be trained in, other than those that judge it;
        none where the problem has no other."""
        return None

    def feature_maps(self, tap: str = "") -> FeatureMaps:
        r"""Returns maps of samples, `(B, C, *)`, with their gradient, that a student may be taught
        relations in; of points features, `(B, C)`.

        Arguments:
            tap: The part of a classifier whose maps they are; empty for the problem's own.

        Raises:
            ConfigError: The problem has none, or not this tap.
        """
        ground = self.training_ground()
        if ground is None:
            raise ConfigError("this problem has no features to train in: give another --method")
        if tap:
            raise ConfigError(
                f"points have no maps to tap, got {shown(tap)}: leave --relations.tap out"
            )
        return FeatureMaps(SpaceFeatures(ground.space), same)

    @abc.abstractmethod
    def histogram(self, x: Tensor) -> list[float]:
        r"""Returns the share of samples in each mode or class."""

    @property
    @abc.abstractmethod
    def expected_shares(self) -> list[float]:
        r"""The shares that a perfect student has."""

    @abc.abstractmethod
    def teacher_metrics(self, n: int) -> tuple[list[Metric], str]:
        r"""Returns the metrics of what a student is to be compared with, and who that is; none of
        a student that has no teacher, where nothing else is known."""

    def best_value(self) -> float | None:
        r"""Returns the headline metric of the best a student can be, of as many samples as are
        measured on the way: some distances are the greater the fewer they are. `None` if it is
        not known."""
        known, _ = self.teacher_metrics(self.quick)
        return next((m.value for m in known if m.name == self.judged.metric), None)

    @abc.abstractmethod
    def plot_samples(self, x: Tensor, path: Path, of: str = "") -> Path:
        r"""Draws given samples, and nothing beside them.

        Arguments:
            x: The samples.
            path: The picture's file.
            of: What they are of, for the title: names of classes.
        """

    @abc.abstractmethod
    def plot_beside_data(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        r"""Draws samples of a source beside true ones."""

    @abc.abstractmethod
    def plot_side_by_side(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        r"""Draws titled samples side by side."""


class Problem(abc.ABC):
    r"""What there is to distil.

    Attributes:
        settings: The row of settings.
        seed: The seed of what is drawn once.
        space: Where samples live.
        networks: Fresh networks.
        data: Batches and samples.
        scores: What samples are worth.
        kept_teacher: What a finished run keeps of its teacher; none while it is distilled.
        headline: The headline of its scores, known before there is a problem.
        judged: By which metrics its students are judged, likewise.
    """

    settings: Any
    seed: int
    space: Space
    networks: Networks
    data: Data
    scores: Scores
    kept_teacher: KeptTeacher | None = None
    headline: ClassVar[tuple[str, ...]]
    judged: ClassVar[Judged]

    # Rows of a step of training, see `visit_in_parts`.
    part: int | None = None

    @property
    def teacher(self) -> Denoiser | None:
        r"""The denoiser to distil; none as long as it is yet to be trained."""
        return self.data.teacher.denoiser

    @teacher.setter
    def teacher(self, denoiser: Denoiser) -> None:
        self.data.teacher.denoiser = denoiser

    @property
    def known_teacher(self) -> Denoiser:
        r"""The denoiser to distil, where there must be one.

        Raises:
            ConfigError: It is yet to be trained.
        """
        return self.data.teacher.known

    def fitted(self, settings: Any, asked: Collection[str]) -> Any:  # noqa: ANN401 (any method's)
        r"""Returns a method's settings with noise levels in units of the data, where those of the
        problem's presets are multiples of the data's standard deviation; else as they are.

        Arguments:
            settings: The method's settings.
            asked: The names of those that the user gave values of; other levels are cut to the
                teacher's where they are beyond.

        Raises:
            ConfigError: A level that was asked for lies beyond the teacher's.
        """
        return settings

    def compute_on(self, device: torch.device, waits: bool = False) -> None:
        r"""Has the teacher be asked, and latents be decoded, on a device from now on.

        Arguments:
            device: The device.
            waits: Whether a teacher in host memory is back there after it was sampled.
        """
        self.data.teacher.device, self.data.teacher.waits = device, waits
        self.space.device = device

    def student_source(self, generator: Generator, *, measured: bool = False) -> Source:
        r"""Returns the source that a student is.

        Arguments:
            generator: The student.
            measured: Whether its samples are compared with the data, see `Data.conditions`.
        """

        def draw(n: int, random: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            given = bool(generator.conditions)
            cond = self.data.conditions(n, random, measured=measured) if given else {}
            batch = rows_at_once(self.space.shape, self.part)
            x = generator.sample(n, generator=random, batch=batch, **cond)
            return x.cpu(), cond

        return draw

    def teacher_source(self, steps: int = SOLVER_STEPS, *, measured: bool = False) -> Source:
        r"""Returns the source that the teacher is, see `Data.teacher_source`."""
        return self.data.teacher_source(steps, measured=measured)

    def beside(self, student: Generator, n: int, seed: int) -> BesideTeacher:
        r"""Returns what a report shows of a student beside its teacher, see `beside_teacher`."""
        return beside_teacher(self, student, n, seed)

    def set_prompts(self, prompts: Sequence[str]) -> None:
        r"""Has the conditions be these prompts, in place of those of the training.

        Raises:
            ConfigError: There are no texts here.
        """
        raise ConfigError("this student takes no text: leave out --prompt")

    def without_prompts(self, student: Generator) -> Generator:
        r"""Returns a student as it is shipped: one network that takes the teacher's own
        conditions, with no table of prompts and no adapter about it."""
        return student

    def with_prompts(self, student: Generator) -> Generator:
        r"""Returns a shipped student as one that takes the problem's own conditions."""
        return student

    def save(self, student: Generator, folder: RunFolder, about: Mapping[str, Any]) -> None:
        r"""Writes the trained student into its run."""
        save_student(self, student, folder.file("student"), about)

    def kept(self) -> KeptTeacher:
        r"""Returns what a run keeps of the teacher."""
        return KeptTeacher.of(self.teacher, self.space.classes, names=self.data.names)

    @property
    def origin(self) -> Origin | None:
        r"""What stood around the teacher; its networks may be read when they are asked for."""
        if self.kept_teacher is not None:
            return self.kept_teacher.origin(lambda: self.known_teacher.origin)
        origin: Origin | None = None if self.teacher is None else self.teacher.origin
        return origin

    def hashes(self) -> dict[str, str]:
        r"""Returns the hash of the teacher's weights or components, for the provenance."""
        return {} if self.teacher is None else {"teacher": hash_of(self.teacher)}

    def inputs(self) -> Mapping[str, Input]:
        r"""Returns what was read from files, by the name that the provenance has for it.

        A run that goes on, and one that is measured again, must find the same.
        """
        return {}


def inputs_of(problem: Problem) -> Mapping[str, Input]:
    r"""Returns what a problem has read, and the student of another run that students start
    from."""
    return {**problem.inputs(), **problem.networks.inputs()}


def save_student(
    problem: Problem, student: Generator, place: Path, about: Mapping[str, Any]
) -> None:
    r"""Writes a student into a folder of its own, with what is kept of its teacher."""
    kept = {"teacher": dataclasses.asdict(problem.kept())}
    models.save(problem.without_prompts(student), place, {**about, **kept})


def hash_of(module: nn.Module) -> str:
    r"""Returns the first twelve digits of the SHA-256 of a module's tensors."""
    # The bytes as they are, one tensor at a time: no copy in a wider type.
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()[:12]


def taught_input(problem: Problem, folder: str) -> Mapping[str, Input]:
    r"""Returns a teacher that was read from a folder as an input; nothing of one that is yet to be
    trained."""
    return {name: Input(folder, sha256) for name, sha256 in problem.hashes().items()}


def visit_in_parts(problem: Problem, rows: int) -> None:
    r"""Has large samples be made in parts of so many rows, as a step of training visits them: by
    the student and by the teacher, see `rows_at_once`."""
    problem.part = problem.data.teacher.part = rows


def beside_teacher(problem: Problem, student: Generator, n: int, seed: int = 0) -> BesideTeacher:
    r"""Returns samples of the teacher and of a student, from the same latents where the
    teacher's noise has the shape of a latent, or of its first part.

    Arguments:
        problem: The problem.
        student: The student.
        n: The number of samples.
        seed: The seed of the latents.
    """
    random, shape = torch.Generator().manual_seed(seed), tuple(problem.space.shape)
    given = {"student": student.conditions, "teacher": problem.known_teacher.conditions}
    drawn = problem.data.conditions(n, random) if any(given.values()) else {}
    cond = {who: {name: drawn[name] for name in names} for who, names in given.items()}
    state = random.get_state()
    batch = rows_at_once(problem.space.shape, problem.part)
    x = student.sample(n, generator=random, batch=batch, **cond["student"])
    z = student.latent(n, torch.Generator().set_state(state)).cpu()
    first = z[:, 0] if tuple(z.shape[2:]) == shape else z
    if tuple(first.shape[1:]) == shape and first.is_floating_point():
        solved = problem.data.teacher.solve_from(first, cond["teacher"], SOLVER_STEPS)
        return BesideTeacher(solved, x.cpu(), True)
    solved = problem.data.teacher.solve(n, random, cond["teacher"], SOLVER_STEPS)
    return BesideTeacher(solved, x.cpu(), False)


def same(x: Tensor) -> Tensor:
    r"""Returns samples as they are: they are no latents."""
    return x
