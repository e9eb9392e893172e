r"""Settings: documented dataclasses at the surface of the library, and nowhere below it.

Nothing here imports torch. A preset is a value of these classes; the command line overrides its
fields; the resolved value is saved beside the run as YAML, from which it is read back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError
from .ranges import check_ranges

__all__ = [
    "ChainSettings",
    "DegradationSettings",
    "DensitySettings",
    "DigitsSettings",
    "FrameSettings",
    "ImageSettings",
    "KernelSettings",
    "LevelSettings",
    "MemorySettings",
    "NetworkOptimizer",
    "PairSettings",
    "RelationSettings",
    "RestorationSettings",
    "StartSettings",
    "StateSettings",
    "Training",
    "VariableSettings",
    "VectorSettings",
    "WeightSettings",
]


@dataclass(frozen=True, kw_only=True)
class LevelSettings:
    r"""The distribution of noise levels, from coarse to fine where `start_min` is set."""

    kind: Literal["log_uniform", "power_law", "log_normal"] = "log_uniform"
    """The family: uniform in log sigma; sigma_min + u^rho (sigma_max - sigma_min); or EDM's."""
    sigma_min: float = 0.1
    """The smallest level, in units of the data."""
    sigma_max: float = 20.0
    """The largest level."""
    start_min: float | None = None
    """The smallest level at the first step, which falls to sigma_min during training; none takes
    sigma_min from the start."""
    anneal: float = 1.0
    """The share of the steps in which the smallest level falls from start_min to sigma_min."""
    rho: float = 1.0
    """power_law: the exponent at the first step."""
    rho_end: float | None = None
    """power_law: the exponent at the end; none keeps the first one."""
    rho_increment: float = 0.01
    """power_law: what is added to the exponent each time."""
    rho_every: int = 1000
    """power_law: the number of steps between additions."""
    mean: float = -1.2
    """log_normal: the mean of log sigma."""
    std: float = 1.2
    """log_normal: the standard deviation of log sigma."""

    def __post_init__(self) -> None:
        check_ranges("levels.", self)
        if not 0 < self.sigma_min < self.sigma_max:
            raise ConfigError(
                "levels.sigma_min must be positive and below levels.sigma_max, "
                f"got {self.sigma_min:g} and {self.sigma_max:g}"
            )
        if self.start_min is not None and not self.sigma_min <= self.start_min < self.sigma_max:
            raise ConfigError(
                f"levels.start_min must be within levels.sigma_min ({self.sigma_min:g}) and "
                f"levels.sigma_max ({self.sigma_max:g}), got {self.start_min:g}"
            )
        if not 0 < self.anneal <= 1:
            raise ConfigError(f"levels.anneal must be within (0, 1], got {self.anneal:g}")


@dataclass(frozen=True, kw_only=True)
class WeightSettings:
    r"""The weight of a noise level in the objective."""

    kind: Literal["square", "bounded", "power", "constant"] = "square"
    """sigma^2; sigma^2 / (sigma^2 + scale^2); sigma^power; or 1."""
    scale: float = 1.0
    """bounded: the level at which the weight has half of its largest value."""
    power: float = 1.0
    """power: the exponent."""

    def __post_init__(self) -> None:
        check_ranges("weight.", self)


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    r"""Regression on the teacher's pairs of noise and sample, before the method itself."""

    pairs: int = 0
    """The number of the teacher's pairs; with 0 there is no regression."""
    solver_steps: int = 10
    """The number of Heun's steps that solve a pair."""
    steps: int = 2_500
    """The number of updates of the regression."""
    batch: int = 128
    """The number of pairs of an update."""
    lr: float = 1e-3
    """The learning rate of the regression."""

    def __post_init__(self) -> None:
        check_ranges("pairs.", self)


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    r"""How a student learns the teacher's pairs before a method of discriminators."""

    kind: Literal["regression", "adversarial"] = "regression"
    """By a distance to each pair's sample, or by discriminators of samples (ADP)."""
    pure: float = 0.25
    """adversarial: the share of rows whose input is noise alone, as when one samples; the others'
    is between a pair's noise and its sample."""
    head_lr: float = 1e-3
    """adversarial: the learning rate of the discriminators."""
    pixel_weight: float = 0.0
    """adversarial: the weight of the discriminator of decoded images, the other's is one less it;
    the paper has 0.15."""
    squared_weight: float = 0.0
    """adversarial: the weight of the squared distance to each pair's sample, beside; the paper
    has none."""

    def __post_init__(self) -> None:
        check_ranges("start.", self)


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    r"""What is remembered of the features of earlier samples."""

    kind: Literal["ema", "queue"] = "ema"
    """A moving average of the first two moments, or the latest rows themselves."""
    decay: float = 0.999
    """ema: the share of the moments that a step keeps."""
    rows: int = 10_000
    """The samples of the first student that it is filled with; queue: the rows that it holds."""

    def __post_init__(self) -> None:
        check_ranges("memory.", self)


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    r"""A mixture of principal components of the teacher's samples, where a student starts."""

    samples: int = 16_000
    """The number of the teacher's samples that the frame is fitted to."""
    solver_steps: int = 10
    """The number of Heun's steps that make a sample."""
    clusters: int = 8
    """The number of clusters for each class."""
    by_class: bool = True
    """Whether each class has clusters of its own, or all share one set of them."""
    components: int = 16
    """The number of principal components of each cluster. The latent has a dimension for each of
    them, and one for the cluster."""
    sigma: float = 0.2
    """The level at which the student asks its denoiser for what the frame leaves out."""
    of_student: bool = False
    """Whether the posterior starts as that of the student's own samples, which are fitted to their
    latents, and not as that of the frame's samples; so many as the frame is fitted to."""

    def __post_init__(self) -> None:
        check_ranges("frame.", self)


@dataclass(frozen=True, kw_only=True)
class AnchorSettings:
    r"""How the anchor, a lagging copy of the student, follows it."""

    rate: float = 0.1
    """The share of the student that a moving average takes after each of its updates; 1 makes it
    the student."""
    rate_end: float | None = None
    """The share at the end of training, approached geometrically; none keeps the first share."""
    refresh: int = 0
    """Updates of the student for which the anchor is held, then becomes the student; 0 for a
    moving average."""
    trust: float | None = None
    """Nats, at the level in the middle, by which the student may leave a held anchor before it
    becomes the student."""
    settle: int = 0
    """Steps after each refresh in which the fake alone is trained."""
    gain: float = 1.0
    """What the student's distance from the anchor is multiplied by; only at 1 there is a bound."""
    bank: int = 0
    """Samples of the anchor for each row of a batch, beside the batch's own, whose exact mean
    stands in the fake's place; 0 for the fake alone."""
    bank_above: float = 0.0
    """The smallest level at which the bank stands in the fake's place."""

    def __post_init__(self) -> None:
        check_ranges("anchor.", self)
        average = {"rate": AnchorSettings.rate, "rate_end": None}
        for name, default in average.items() if self.refresh else ():
            if getattr(self, name) != default:
                raise ConfigError(
                    f"anchor.{name} must be {default or 'none'} with a refresh, got "
                    f"{getattr(self, name):g}: an anchor that is held becomes the whole student; "
                    "leave out anchor.refresh for a moving average"
                )
        if self.bank_above and not self.bank:
            raise ConfigError(
                f"anchor.bank_above must be 0 without a bank, got {self.bank_above:g}: give the "
                "number of its samples for each row, anchor.bank"
            )


@dataclass(frozen=True, kw_only=True)
class ChainSettings:
    r"""A chain of Langevin's method on the noise and the latent of a sample."""

    steps: int = 8
    """The number of steps of a chain."""
    gamma_eps: float = 0.16
    """The step size of the noise; of the noisy state it is multiplied by sigma^2."""
    gamma_z: float = 1.6e-5
    """The step size of the latent; at 0 it stays where it was drawn."""
    form: Literal["noise", "state"] = "noise"
    """What is moved beside the latent: the noise, or the noisy state."""
    cancel: Literal["none", "last", "all"] = "all"
    """Which of a chain's noise is taken out of what the student is moved by: none, that of the
    last step, or that of all steps and of the start."""
    trust: float | None = 1.0
    """The longest move of a latent by its drift in a step, in lengths of the step's noise; none
    for any."""

    def __post_init__(self) -> None:
        check_ranges("chain.", self)
        for name, value, fits, words in (
            ("gamma_eps", self.gamma_eps, 0 < self.gamma_eps < 1, "above 0"),
            ("gamma_z", self.gamma_z, 0 <= self.gamma_z < 1, "at least 0"),
        ):
            if not fits:
                raise ConfigError(
                    f"chain.{name} must be {words} and below 1, from where on a chain need not be "
                    f"stable, got {value:g}"
                )


@dataclass(frozen=True, kw_only=True)
class VariableSettings:
    r"""What a direction moves: the student that a method of directions trains."""

    kind: Literal["generator", "particles", "picture"] = "generator"
    """The problem's student; a table of samples; or one picture, a network of places in it. Of
    classes, each has particles, or a picture, of its own."""
    particles: int = 1_000
    """particles: their number, for each class."""
    std: float = 1.0
    """particles: their standard deviation where they start, about the data's mean; picture: the
    factor of its network. In units of the data's standard deviation."""
    width: int = 64
    """picture: the width of its network's layers."""
    depth: int = 3
    """picture: the number of its network's layers."""
    fourier: int = 4
    """picture: the octaves of sines and cosines of a place that its network sees."""

    def __post_init__(self) -> None:
        check_ranges("variables.", self)


@dataclass(frozen=True, kw_only=True)
class KernelSettings:
    r"""A Gaussian kernel around what is moved; its width falls geometrically during training."""

    width: float = 3.0
    """The kernel's standard deviation at the first step, in units of the data: about the distance
    of modes."""
    width_end: float = 0.3
    """That at the last step, where the search stops: about the finest detail."""
    low: float = 0.0
    """The kernel pulls in steps of the sampler that end at this noise level or above,"""
    high: float | None = None
    """and begin at this one or below; none for all."""

    def __post_init__(self) -> None:
        check_ranges("kernel.", self)
        if not self.width_end <= self.width:
            raise ConfigError(
                "kernel.width_end must be at most kernel.width: the kernel narrows, got "
                f"{self.width_end:g} and {self.width:g}"
            )
        if self.high is not None and not self.low < self.high:
            raise ConfigError(
                f"kernel.low must be below kernel.high, got {self.low:g} and {self.high:g}"
            )


@dataclass(frozen=True, kw_only=True)
class RelationSettings:
    r"""What a student is taught about the feature maps of its estimates."""

    calls: int = 4
    """The stages of a student of at most so many calls learn relations; earlier ones do not."""
    tap: str = ""
    """The part of the classifier whose maps are compared; empty for that of the problem's own."""
    pixel_weight: float = 0.0
    """The weight of progressive distillation's own loss, beside; the paper has none."""
    feature_weight: float = 1.0
    """The weight of the divergence of pooled features."""
    pair_weight: float = 1.0
    """The weight of the relations within a batch."""
    memory_weight: float = 0.1
    """The weight of the relations to a memory."""
    feature_temperature: float = 0.9
    """The teacher's temperature of pooled features; below 1 it sharpens."""
    pair_temperature: float = 1.0
    """The temperature of the relations within a batch."""
    memory_temperature: float = 0.1
    """The temperature of the relations to the memory."""
    share: int = 32
    """The images among which pairs are formed, a part of a batch; the paper's of one device."""
    queue: int = 20_000
    """The positions that the memory holds."""
    contrast: int = 4_096
    """The positions of the memory, evenly spaced, that those of a batch are compared with."""
    enqueue: int = 128
    """The positions of a step that the memory takes."""
    group: int = 16
    """The points that make up an image, where samples are points."""

    def __post_init__(self) -> None:
        check_ranges("relations.", self)
        if not any((self.feature_weight, self.pair_weight, self.memory_weight)):
            raise ConfigError(
                "one of relations.feature_weight, relations.pair_weight and "
                "relations.memory_weight must be positive: without them it is --method progressive"
            )
        if self.enqueue > self.queue:
            raise ConfigError(
                f"relations.enqueue must be at most relations.queue ({self.queue}), the rows of "
                f"the memory, got {self.enqueue}"
            )


@dataclass(frozen=True, kw_only=True)
class StateSettings:
    r"""Where the states of a training come from; what is neither the teacher's nor the student's
    is noised data."""

    teacher: float = 0.1
    """The share of states on the teacher's own path from noise."""
    student: float = 0.4
    """The share of states on the student's own path, as one samples with it."""
    start: float = 0.1
    """The share of the steps before the first state of a path: noised data alone until then."""
    ramp: float = 0.9
    """The share of the steps, after these, in which both shares of states grow linearly."""
    replay: int = 16
    """Batches of paths that are kept, the oldest of which are overwritten; 0 runs new paths for
    each batch."""
    refill: int = 4
    """Steps between two batches of new paths; at least the number of the student's calls."""
    bound: float | None = None
    """The half-width of the box that clean estimates of the teacher are brought back into, 1 for
    pixels; none for none."""
    quantile: float = 1.0
    """bound: the quantile of a row's absolute values that widens its box, which is shrunk then; 1
    for the box itself."""

    def __post_init__(self) -> None:
        check_ranges("states.", self)
        if self.teacher + self.student > 1:
            raise ConfigError(
                "states.teacher and states.student must together be at most 1, got "
                f"{self.teacher:g} and {self.student:g}"
            )


@dataclass(frozen=True, kw_only=True)
class NetworkOptimizer:
    r"""How another network than the student is updated. A field that is none takes the value of
    the student's optimiser."""

    kind: Literal["adam", "adamw", "radam", "sgd", "adam8bit", "adamw8bit"] | None = None
    """The network's optimiser; none takes the student's."""
    lr: float | None = None
    """The network's learning rate; none takes the student's."""
    beta_1: float | None = None
    """The decay rate of the first moment, for sgd the momentum; none takes the student's."""
    beta_2: float | None = None
    """The decay rate of the second moment; none takes the student's."""
    weight_decay: float | None = None
    """The network's weight decay; none takes the student's."""
    warmup: int | None = None
    """Steps in which the learning rate grows from zero; none takes the student's."""
    delay: int = 0
    """Steps before the network's first update, whatever the student's delay."""
    clip: float | None = None
    """The largest norm of the network's gradient; none takes the student's."""

    def __post_init__(self) -> None:
        check_ranges("", self)


@dataclass(frozen=True, kw_only=True)
class Training:
    r"""What every method is trained with. The optimiser is the student's."""

    steps: int = 10_000
    """The number of updates of the student; those that its delay takes are among them."""
    batch: int = 512
    """The number of samples of an update of the student. A pair of opposite noise counts once."""
    lr: float = 1e-3
    """The student's learning rate."""
    optimizer: Literal["adam", "adamw", "radam", "sgd", "adam8bit", "adamw8bit"] = "adam"
    """The student's optimiser."""
    beta_1: float = 0.9
    """The optimiser's decay rate of the first moment; for sgd the momentum."""
    beta_2: float = 0.999
    """The optimiser's decay rate of the second moment."""
    weight_decay: float = 0.0
    """The student's weight decay."""
    decay: Literal["constant", "cosine", "trapezoid"] = "cosine"
    """How the learning rate changes. trapezoid: it stays for 3/8 of the steps, then falls linearly
    to 1/50."""
    delay: int = 0
    """Steps before the student's first update; its posterior or critic learns meanwhile."""
    warmup: int = 0
    """Steps from the first on in which learning rates grow from zero; a student whose delay is
    longer begins at its full rate."""
    clip: float = 10.0
    """The largest norm of a network's gradient."""
    halflife: float = 200_000.0
    """The half-life of the student's average, in samples."""

    @property
    def fits_pairs(self) -> bool:
        r"""Whether the student is fitted to pairs of the teacher, which have one noise each."""
        return False

    def __post_init__(self) -> None:
        check_ranges("", self)


class OnPairs(Training):
    r"""The training of a method whose student is first fitted to pairs of the teacher."""

    if TYPE_CHECKING:  # a field, which each method describes

        @property
        def pairs(self) -> PairSettings: ...

    @property
    def fits_pairs(self) -> bool:
        return self.pairs.pairs > 0


@dataclass(frozen=True, kw_only=True)
class DensitySettings:
    r"""A density with a known score, in two dimensions or more."""

    name: str = "mog40"
    """The density; `vardiu list` names them."""
    source: str | None = None
    """A table of points, or FILE.py:NAME, that the density is from; none for one of a name."""
    dim: int = 2
    """mixture: the number of dimensions."""
    modes: int = 40
    """mixture: the number of Gaussians."""
    teacher: Literal["exact", "kde", "learned"] = "exact"
    """The exact score; that of the noised empirical distribution; or a network from `teach`."""
    teacher_run: str | None = None
    """learned: the folder that `vardiu teach` wrote; runs/teach-<name> by default."""
    points: int = 10_000
    """kde, and a table: the most points that the teacher is made of."""
    bandwidth: float = 0.0
    """kde, and a table: the standard deviation of the kernel around each point; of a table 0
    stands for that of the greatest likelihood."""
    sigma_min: float = 0.1
    """The teacher's smallest noise level."""
    sigma_max: float = 40.0
    """The teacher's largest noise level."""
    latent: int = 2
    """Dimensions of the student's latent."""
    width: int = 256
    """The width of the student's, the posterior's and the fake's hidden layers."""
    depth: int = 3
    """The number of hidden layers of these networks: student, posterior and fake."""
    fourier: int = 5
    """The octaves of sines and cosines of the latent that the student's input has as well."""
    codes: int = 0
    """Intervals of equal probability of the latent's last coordinate, which the student tells
    apart by an embedding each; its map may jump between them. 0 for a continuous map."""
    residual: bool = False
    """Whether the student adds its latent to its network's output, and so starts as spread as the
    data; the latent then has the dimensions of a sample."""
    scaled: bool = True
    """Whether networks see and return tensors of unit scale; off, they are the published ones."""
    calls: int = 1
    """The number of calls of the student; more than one is a few-step student, a network like the
    fake's in place of one of a latent."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """What networks compute in; everything around them is float32. auto: bfloat16 on a device that
    has it in hardware, else float32."""

    def __post_init__(self) -> None:
        check_ranges("problem.", self)
        if self.codes and self.calls > 1:
            raise ConfigError(
                f"problem.codes must be 0 for a student of {self.calls} calls, got {self.codes}: "
                "it is a network of noisy samples, not of a latent"
            )


@dataclass(frozen=True, kw_only=True)
class DigitsSettings:
    r"""scikit-learn's digits: 1,797 real images of 8x8 pixels, ten classes."""

    name: Literal["digits"] = "digits"
    """The data set."""
    conditional: bool = True
    """Whether the class is asked for."""
    teacher_run: str | None = None
    """The folder that `vardiu teach` wrote; runs/teach-digits by default."""
    sigma: float = 20.0
    """The level at which the student asks the network that it took from the teacher."""
    calls: int = 1
    """The number of calls of the student; more than one is a few-step student."""
    width: int = 128
    """The width of the posterior's layers."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What networks compute in; everything around them is float32. auto: bfloat16 on a device that
    has it in hardware, else float32."""

    def __post_init__(self) -> None:
        check_ranges("problem.", self)


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    r"""Any teacher of images or of latents, with data or without."""

    name: str = "images"
    """The name of the problem."""
    teacher: str | None = None
    """A folder, a hub id, an EDM pickle or FILE.py:NAME; runs/teach-<name> by default."""
    data: str | None = None
    """Clean images to compare with, and for methods that need them: a folder, .npz, shards, or a
    set on board. Without them the teacher's own samples stand for the data."""
    conditional: bool = True
    """`vardiu teach`: whether the classes of the data, if they have any, are asked for."""
    corrupt: int = 0
    """How many corrupt images of the data are allowed before the run stops."""
    held_out: str | None = None
    """Images that teacher and student never saw, for `vardiu evaluate`: how far real images are
    from real images. By default two halves of the data."""
    background: Literal["white", "black", "grey"] = "white"
    """The colour behind what is transparent in the data's images."""
    prediction: str | None = None
    """What the teacher's network predicts, where its scheduler says it wrong."""
    size: tuple[int, ...] = ()
    """Height and width of a sample of a pipeline of diffusers, of videos frames before them, where
    they are not to be those of its configuration; of latents, if it has those."""
    guidance: float = 1.0
    """The scale of classifier-free guidance that is distilled into the student. A network that is
    told its guidance, as that of Flux, is told this one."""
    negative: str = ""
    """The prompt that guidance leads away from."""
    weak: str | None = None
    """A worse teacher for autoguidance, in place of the null condition."""
    classifier: str | None = None
    """FILE.py:NAME of a module of images in [-1, 1], for a method that compares its feature maps:
    a classifier most often."""
    prompts: str | None = None
    """A text file with a prompt a line, or a table with a column `text`, `caption` or `prompt`,
    for a teacher of texts."""
    cache: str | None = None
    """A folder that `vardiu cache` wrote: embeddings of the prompts and latents of the data are
    read from it, and no encoder is loaded to train."""
    student: Literal["auto", "teacher", "lora", "fresh"] = "auto"
    """Where a student starts: the teacher's weights, an adapter on them, or a fresh network; auto
    is an adapter of a network of more than a billion numbers, else the weights."""
    rank: int = 16
    """lora: the rank of the adapters of student and fake."""
    sigma: float | None = None
    """The level at which the student asks its network; by default the teacher's largest, or about
    2.5 where it predicts noise."""
    calls: int = 1
    """The number of calls of the student; more than one is a few-step student."""
    rule: Literal["renoise", "ddim"] = "renoise"
    """What leads a few-step student from one level to the next: fresh noise, or a step of DDIM,
    deterministic from one latent of an image's shape."""
    side: int = 16
    """fresh, and `vardiu teach`: the height and width of an image."""
    channels: int = 3
    """fresh, and `vardiu teach`: the channels of an image."""
    widths: tuple[int, int] = (32, 96)
    """fresh, and `vardiu teach`: the U-Net's channels at full and at half size."""
    depth: int = 3
    """fresh, and `vardiu teach`: the U-Net's blocks at half size."""
    reference: int = 5_000
    """Images that metrics compare with: of the data, or half as many of the teacher's own."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """What networks compute in; everything around them is float32. auto: bfloat16 on a device that
    has it in hardware, else float32."""

    def __post_init__(self) -> None:
        check_ranges("problem.", self)
        for side in self.size:
            if not 1 <= side <= 65_536:
                raise ConfigError(f"problem.size must be within [1, 65536], got {side}")
        for width in self.widths:
            if not 1 <= width <= 65_536:
                raise ConfigError(f"problem.widths must be within [1, 65536], got {width}")
        if self.side % 2:
            raise ConfigError(f"problem.side must be even, got {self.side}")


@dataclass(frozen=True, kw_only=True)
class DegradationSettings:
    r"""What is done to clean images, in rounds, before a student restores them."""

    rounds: int = 2
    """How often blur, resize, noise and JPEG follow each other."""
    blur: tuple[float, float] = (0.2, 2.0)
    """The least and the greatest deviation of a Gaussian, in pixels; 0 0 for none."""
    resize: tuple[float, float] = (0.6, 1.4)
    """The least and the greatest scale between rounds, beside the way to the smaller size."""
    noise: tuple[float, float] = (0.0, 0.1)
    """The least and the greatest deviation of noise, of images in [-1, 1]; 0 0 for none."""
    jpeg: tuple[int, int] = (50, 95)
    """The least and the greatest quality of JPEG; 0 0 for none."""

    def __post_init__(self) -> None:
        check_ranges("problem.degradation.", self)
        for name, low, high in (
            ("blur", 0.0, 20.0),
            ("resize", 0.1, 4.0),
            ("noise", 0.0, 2.0),
            ("jpeg", 0, 100),
        ):
            first, last = getattr(self, name)
            if not low <= first <= last <= high:
                raise ConfigError(
                    f"problem.degradation.{name} must be two numbers within {low:g} and {high:g}, "
                    f"the smaller one first, got {first:g} and {last:g}"
                )


@dataclass(frozen=True, kw_only=True)
class RestorationSettings(ImageSettings):
    r"""Degraded images to restore, with any teacher of images and clean images to degrade."""

    name: str = "restoration"
    """The name of the problem."""
    factor: int = 4
    """How many times images are reduced, and a student enlarges them."""
    degradation: DegradationSettings = DegradationSettings()
    """What else is done to them."""
    sigma: float | None = None
    """The level at which the student asks its network; by default three quarters of the data's
    standard deviation."""
    crops: int = 64
    """Pieces of each image that is larger than the teacher's, at places of the seed."""
    features: str = "small"
    """The network that images are compared in: the small one on board, or VGG-16's weights as a
    .safetensors file."""
    critic_teacher: str | None = None
    """Another teacher whose encoder the discriminator starts from; none for the teacher."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calls != 1:
            raise ConfigError(f"problem.calls must be 1: one call restores, got {self.calls}")


@dataclass(frozen=True, kw_only=True)
class VectorSettings:
    r"""Any teacher of vectors, or of tensors of any shape, with data or without.

    The method's noise levels are multiples of the data's standard deviation.
    """

    name: str = "vectors"
    """The name of the problem."""
    teacher: str | None = None
    """FILE.py:NAME or a folder; runs/teach-<name> by default."""
    data: str | None = None
    """Points to compare with, and for methods that need them: a file .npy, .npz, .csv, .tsv or
    .txt. Without them the teacher's own samples stand for the data."""
    guidance: float = 1.0
    """The scale of classifier-free guidance that is distilled into the student."""
    weak: str | None = None
    """A worse teacher for autoguidance, in place of the null condition."""
    student: Literal["teacher", "lora", "fresh"] = "teacher"
    """Where a student starts: the teacher's weights, an adapter on them, or a fresh network."""
    rank: int = 16
    """lora: the rank of the adapters of student and fake."""
    sigma: float | None = None
    """The level at which the student asks its network; by default the teacher's largest, or about
    2.5 where it predicts noise."""
    calls: int = 1
    """The number of calls of the student; more than one is a few-step student."""
    rule: Literal["renoise", "ddim"] = "renoise"
    """What leads a few-step student from one level to the next: fresh noise, or a step of DDIM."""
    width: int = 256
    """The width of the hidden layers of a fresh student, of a posterior and of a fresh fake."""
    depth: int = 3
    """The number of hidden layers of these networks: student, posterior and fake."""
    fourier: int = 5
    """fresh: the octaves of sines and cosines of the latent that the student sees as well."""
    reference: int = 10_000
    """Points that metrics compare with: of the data, or half as many of the teacher's own."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """What networks compute in; everything around them is float32. auto: bfloat16 on a device that
    has it in hardware, else float32."""

    def __post_init__(self) -> None:
        check_ranges("problem.", self)
