r"""The problem of distilling any teacher of images, with data or without."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import Batches, DataFree
from ..data.sources import open_data, read_data
from ..denoisers import lora
from ..denoisers.base import Denoiser
from ..denoisers.guidance import Autoguided, Guided
from ..denoisers.levels import karras_grid
from ..denoisers.lora_files import keep
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..denoisers.prompts import Captioned, Captions
from ..errors import ConfigError
from ..metrics import Metric
from ..metrics.features import RandomFeatures
from ..nn import Precision, UNet, Wrapper
from ..nn.taps import Features, ask_features
from ..posteriors.encoder import Encoder, UnitScale
from ..reports.samples import image_grid
from ..settings.fields import FrameSettings, ImageSettings
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..students.few_step import FewStep, OneStep
from ..students.framed import Frame
from ..students.prompted import bare, dress
from ..teachers.readers import load
from .base import Problem, Source, featured, precise, taught

__all__ = ["ImageProblem"]


class ImageProblem(Problem):
    r"""Images, or latents that a decoder turns into images.

    What is distilled lives in the teacher's space; metrics and pictures are of images in [-1, 1].

    Arguments:
        settings: The row of settings.
        seed: The seed of what stands for data where there are none.
        untaught: Whether the teacher is yet to be trained, on the data.

    Raises:
        ConfigError: There is no such teacher, or the settings do not fit it.
    """

    headline = ("frechet", "precision", "recall")
    QUICK = 1_000
    samples = 5_000
    RANGE = (0.02, 20.0)

    def __init__(self, settings: ImageSettings, seed: int = 0, *, untaught: bool = False) -> None:
        self.settings, self.seed = settings, seed
        self.inner = None if untaught else self._load()
        self.origin = getattr(self.inner, "origin", None)
        self.captions = self._captions()
        self.shape = self._own_shape if untaught else tuple(self.inner.shape)
        self.teacher = None if untaught else self._guided()

    # Sampling and exporting need none of these: what they cost is paid when they are asked for.

    @functools.cached_property
    def mean(self) -> Tensor:
        return self._sample.mean()

    @functools.cached_property
    def sigma_data(self) -> float:
        return float(self._sample.std())

    @functools.cached_property
    def variance(self) -> float:
        return float(self._sample.flatten(1).var(dim=0).mean())

    @functools.cached_property
    def _sample(self) -> Tensor:
        return self.reference(self.settings.reference)[0]

    # ---------------------------------------------------------------- the teacher

    @property
    def _own_shape(self) -> tuple[int, int, int]:
        return (self.settings.channels, self.settings.side, self.settings.side)

    def _load(self) -> Denoiser:
        row = self.settings
        source = row.teacher or taught(None, row.name, "--teacher")
        options = {} if row.prediction is None else {"prediction": row.prediction}
        return load(source, **options).float()

    def _captions(self) -> Captions | None:
        row = self.settings
        if self.inner is None or "text" not in self.inner.conditions:
            if row.prompts is not None:
                raise ConfigError("problem.prompts is given, and the teacher takes no text")
            return None
        if row.prompts is None:
            raise ConfigError(
                "the teacher takes text: give problem.prompts, a file with a prompt a line"
            )
        return Captions(self.origin.encode(self.prompts))

    @functools.cached_property
    def prompts(self) -> list[str]:
        r"""The prompts, one a row of the captions."""
        try:
            lines = Path(self.settings.prompts).read_text().splitlines()
        except OSError as error:
            raise ConfigError(f"problem.prompts: {error}") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise ConfigError(f"{self.settings.prompts} holds no prompt")
        return found

    def _guided(self) -> Denoiser:
        row, teacher = self.settings, self.inner
        if row.weak is not None:
            teacher = Autoguided(teacher, load(row.weak).float(), row.guidance)
        elif row.guidance != 1:
            teacher = Guided(teacher, row.guidance, self._null())
        return teacher if self.captions is None else Captioned(teacher, self.captions)

    def _null(self) -> dict[str, Tensor]:
        if "text" in self.inner.conditions:
            return self.origin.encode([self.settings.negative])
        if self.origin is None or self.origin.null is None:
            raise ConfigError(
                "problem.guidance is not 1, and this teacher has no class or text that stands for "
                "none; give problem.weak, a worse teacher, or leave guidance at 1"
            )
        return {"label": torch.tensor([self.origin.null])}

    @property
    def classes(self) -> int:
        r"""The number of classes or of prompts; zero without conditions."""
        if self.captions is not None:
            return len(self.captions)
        if self.teacher is None or not self.teacher.conditions:
            return 0
        if self.origin is None or not self.origin.classes:
            return self._embedded()
        return self.origin.classes

    def _embedded(self) -> int:
        r"""The classes of a network of ours, by its own arguments."""
        found = [m.arguments["classes"] for m in self.teacher.modules() if isinstance(m, UNet)]
        if not found:
            raise ConfigError("the teacher takes a label, and does not say of how many classes")
        return found[0]

    # ---------------------------------------------------------------- networks

    def fake(self) -> Denoiser:
        row = self.settings
        adapted = row.student == "lora"
        started = lora.adapt(self.inner, row.rank) if adapted else self.inner.start()
        if row.precision != "float32":
            started = narrowed(started, row.precision)
        return started if self.captions is None else Captioned(started, self.captions)

    def student(self) -> Generator:
        row = self.settings
        denoiser = self.network() if row.student == "fresh" else self.fake()
        if row.calls == 1:
            return OneStep(denoiser, row.sigma)
        high = row.sigma or denoiser.latent_sigma
        # Noise alone is a level of its own, and no end of a grid.
        grid = karras_grid(row.calls, denoiser.sigma_min, min(high, denoiser.sigma_max))
        return FewStep(denoiser, [high, *grid[1 : row.calls].tolist()])

    def frame(self, row: FrameSettings, seed: int) -> Frame:
        chosen = self.settings
        if chosen.calls != 1 or chosen.student == "fresh" or chosen.sigma is not None:
            raise ConfigError(
                "method.posterior framed starts from the teacher, asked once at "
                "method.frame.sigma: leave problem.calls, problem.sigma and --student fresh out"
            )
        return super().frame(row, seed)

    def grouped(self, cond: Mapping[str, Tensor]) -> Tensor | None:
        # A student of prompts is asked for others later: no prompt has a part of its own.
        return None if self.captions is not None else super().grouped(cond)

    def network(self) -> Denoiser:
        row, classes = self.settings, self.classes
        low, high = self.RANGE
        if self.inner is not None:
            low, high = self.inner.sigma_min, self.inner.sigma_max
        network = UNet(self.shape[0], widths=row.widths, depth=row.depth, classes=classes)
        return PreconditionedDenoiser(
            precise(network, row.precision),
            shape=self.shape,
            sigma_data=self.sigma_data,
            sigma_min=low,
            sigma_max=high,
            mean=float(self.mean),
            conditions=("label",) if classes else (),
        )

    def encoder(self) -> Encoder:
        # Any posterior gives a bound: a class helps it, a prompt it does not see.
        classes = 0 if self.captions is not None else self.classes
        network = UNet(self.shape[0], widths=(32, 64), depth=2, classes=classes, final=False)
        features = 64 * (self.shape[1] // 2) * (self.shape[2] // 2)
        seen = precise(Unseeing(network) if self.captions else network, self.settings.precision)
        return Encoder(seen, features, UnitScale(self.sigma_data, float(self.mean)))

    # ---------------------------------------------------------------- data

    def batches(self, size: int, seed: int) -> Batches:
        return DataFree(size, classes=self.classes or None, seed=seed)

    def data(self, size: int, seed: int) -> Batches:
        if self.settings.data is None:
            raise ConfigError("this needs data: give problem.data (--data)")
        return open_data(
            self.settings.data,
            batch=size,
            shape=self._pixels,
            seed=seed,
            corrupt=self.settings.corrupt,
            labels=bool(self.classes),
        )

    @property
    def _pixels(self) -> tuple[int, int, int]:
        r"""The shape of an image: that of a sample, or of what the decoder makes of one."""
        if self.origin is None or self.origin.decode is None:
            return self.shape
        c, height, width = self.decode(torch.zeros(1, *self.shape)).shape[1:]
        return (c, height, width)

    def decode(self, x: Tensor) -> Tensor:
        r"""Returns the images of samples, in [-1, 1]."""
        decoder = None if self.origin is None else self.origin.decode
        x = x.float().cpu()
        images = x if decoder is None else torch.cat([decoder(part) for part in x.split(64)])
        return images.clamp(-1, 1)

    @functools.cached_property
    def images(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Real images and their conditions, or the teacher's own samples in their place."""
        if self.settings.data is None:
            x, cond = self.drawn
            return self.decode(x), cond
        return read_data(
            self.settings.data,
            self.settings.reference,
            shape=self._pixels,
            corrupt=self.settings.corrupt,
            labels=bool(self.classes) and self.captions is None,
        )

    @functools.cached_property
    def drawn(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Samples of the teacher, by Heun's method, in its own space."""
        return self.from_teacher(18)(self.settings.reference // 2, self._random())

    def _random(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + 5)

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        data = self.settings.data is not None
        if data and self.captions is None and (self.origin is None or not self.origin.decode):
            x, cond = self.images
        elif data and self.origin.compress is not None and self.captions is None:
            rows = spread(len(self.images[0]), 512)
            x = self.origin.compress(self.images[0][rows])
            cond = {name: value[rows] for name, value in self.images[1].items()}
        else:
            x, cond = self.drawn
        wanted = () if self.teacher is None else self.teacher.conditions
        rows = spread(len(x), n)
        return x[rows], {name: cond[name][rows] for name in wanted}

    @property
    def probed(self) -> Denoiser:
        # A guided teacher is no conditional mean, and is not to be judged as one.
        return self.inner if self.captions is None else Captioned(self.inner, self.captions)

    @property
    def redraw(self) -> Callable[[], Tensor] | None:
        if self.settings.data is not None:
            return None
        _, cond = self.reference(512)
        n = len(next(iter(cond.values()))) if cond else 512
        return lambda: self.solve(n, self._random(), cond, 18)

    def conditions(self, n: int, random: torch.Generator) -> Mapping[str, Tensor]:
        return {"label": torch.arange(n) % self.classes}

    # ---------------------------------------------------------------- what it is worth

    @functools.cached_property
    def features(self) -> RandomFeatures:
        return RandomFeatures(tuple(self.images[0].shape[1:]), self.images[0])

    @functools.cached_property
    def _real(self) -> Tensor:
        return self.features(self.images[0])

    def measure(self, source: Source, n: int = 5_000, seed: int = 0) -> list[Metric]:
        x, _ = source(n, torch.Generator().manual_seed(seed))
        return featured(self._real, self.features(self.decode(x)), self.features.name)

    def histogram(self, x: Tensor) -> list[float]:
        # By brightness: which of ten equal shares of the real images a sample is as bright as.
        edges = self._brightness
        counts = torch.bucketize(self.decode(x).flatten(1).mean(1), edges)
        return (torch.bincount(counts, minlength=10) / len(x)).tolist()

    @functools.cached_property
    def _brightness(self) -> Tensor:
        means = self.images[0].flatten(1).mean(1)
        return means.quantile(torch.linspace(0.1, 0.9, 9))

    @property
    def due(self) -> list[float]:
        return [0.1] * 10

    def floor(self) -> float:
        return 0.0  # what the teacher's samples cost is paid at the end

    def compared_with(self, n: int) -> tuple[list[Metric], str]:
        return self.measure(self.from_teacher(), n), f"teacher, {2 * self.solver_steps - 1} calls"

    def draw(self, x: Tensor, path: Path) -> Path:
        return image_grid([(f"{len(x):,} samples", self.decode(x).numpy())], path)

    def panels(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        rows = [(title, self.decode(x[:40]).numpy()) for title, x in samples]
        return image_grid(rows, path, columns=20)

    def picture(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        n, random = 60, torch.Generator().manual_seed(seed)
        rows = []
        if self.settings.data is not None:
            real = self.images[0]
            rows.append(("data", real[torch.randperm(len(real), generator=random)[:n]].numpy()))
        if self.teacher is not None and not title.startswith("teacher"):
            x = self.from_teacher()(n, random)[0]
            rows.append((f"teacher, {2 * self.solver_steps - 1} calls", self.decode(x).numpy()))
        rows.append((title, self.decode(source(n, random)[0]).numpy()))
        return image_grid(rows, path, columns=20)

    # ---------------------------------------------------------------- on disk

    def bare(self, student: Generator) -> Generator:
        return lora.merge(bare(student))

    def save(self, student: Generator, folder: RunFolder, about: Mapping[str, Any]) -> None:
        for adapter in lora.adapters(student):
            keep(adapter, folder.file("adapter"))
        super().save(student, folder, about)

    def say(self, prompts: Sequence[str]) -> None:
        if self.captions is None:
            super().say(prompts)
        self.captions = Captions(self.origin.encode(prompts))

    def dress(self, student: Generator) -> Generator:
        return student if self.captions is None else dress(student, self.captions)


def narrowed(denoiser: Denoiser, precision: str) -> Denoiser:
    r"""Returns a denoiser whose network computes in the type of this name."""
    network = denoiser._modules.get("network")
    if network is None or any(isinstance(m, Precision) for m in network.modules()):
        return denoiser
    return lora.swapped(denoiser, "network", precise(network, precision))


def spread(total: int, n: int) -> Tensor:
    r"""Returns the indices of up to `n` rows, evenly over all."""
    return torch.linspace(0, total - 1, min(total, n)).long()


class Unseeing(Wrapper):
    r"""A network that is not told the conditions."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Any) -> Tensor:  # noqa: ANN401
        return self.network(x, c_noise)

    def features(
        self,
        x: Tensor,
        c_noise: Tensor,
        at: Sequence[str] = (),
        **cond: Any,  # noqa: ANN401
    ) -> Features:
        r"""Returns the output of a plain call, and the network's features."""
        return ask_features(self.network, x, c_noise, at, {})
