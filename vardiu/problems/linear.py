r"""A Gaussian teacher and an affine student: all that a method estimates is known exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.batches import Batches, Shuffled
from ..denoisers.base import Denoiser
from ..denoisers.exact import GaussianDenoiser
from ..denoisers.levels import LevelRange
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..functional.bounds import gaussian_kl
from ..metrics import Metric
from ..metrics.mmd import mmd2
from ..metrics.transport import wasserstein2_sliced
from ..nn import MLP
from ..posteriors.affine import AffinePosterior
from ..posteriors.encoder import Encoder, UnitScale
from ..reports.samples import scatter_grid
from ..students.affine import Affine, AffineDenoiser
from .base import Data, Judged, KnownSpace, Networks, Problem, Scores, Space
from .sampled_teachers import SampledTeacher, Source

__all__ = ["LinearProblem", "LinearSettings"]


RANGE: LevelRange = {"sigma_min": 0.1, "sigma_max": 10.0}


@dataclass(frozen=True, kw_only=True)
class LinearSettings:
    r"""The settings of a linear problem."""

    name: str = "linear"
    """The name of the problem."""
    dim: int = 3
    """The dimensions of a sample."""
    latent: int = 2
    """The dimensions of the student's latent."""
    matched: bool = False
    """Whether students start with the teacher's law."""


@dataclass(frozen=True)
class Gaussian:
    r"""A normal distribution, and an affine map beside it.

    Arguments:
        mean: The mean of the data, with shape :math:`(d)`.
        covariance: Their covariance, with shape :math:`(d, d)`.
        matrix: The student's matrix, with shape :math:`(d, k)`.
        shift: The student's shift, with shape :math:`(d)`.
    """

    mean: Tensor
    covariance: Tensor
    matrix: Tensor
    shift: Tensor

    def sample(self, n: int, random: torch.Generator) -> Tensor:
        r"""Draws samples of the data, `(n, d)`."""
        noise = torch.randn(n, len(self.mean), generator=random, dtype=self.mean.dtype)
        return self.mean + noise @ torch.linalg.cholesky(self.covariance).T


class LinearNetworks(Networks):
    r"""Affine students, and all that goes with one in closed form.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        settings: The row of settings.
        law: The data's distribution, and the student's start.
    """

    def __init__(
        self, space: Space, teacher: SampledTeacher, settings: LinearSettings, law: Gaussian
    ) -> None:
        super().__init__(space, teacher)
        self.settings, self.law = settings, law

    def student(self) -> Affine:
        if self.settings.matched:
            return self.matched_student()
        return Affine(self.law.matrix, self.law.shift)

    def matched_student(self) -> Affine:
        r"""Returns the student with the teacher's law: :math:`A = C^{1/2}`, symmetric, and
        :math:`b = m`.

        It is the map of the teacher's probability-flow equation from infinite noise.

        Raises:
            ValueError: The latent has fewer dimensions than a sample.
        """
        d, k = self.law.matrix.shape
        if k < d:
            raise ValueError(
                f"no affine map of {k} latents has the law of {d} dimensions: give latent={d}"
            )
        matrix = torch.zeros_like(self.law.matrix)
        values, vectors = torch.linalg.eigh(self.law.covariance)
        matrix[:, :d] = vectors * values.sqrt() @ vectors.T
        return Affine(matrix, self.law.mean)

    def fake(self, student: Affine | None = None, *, follows: bool = False) -> AffineDenoiser:
        r"""Returns the exact denoiser of a student's samples; by default of a fresh student's."""
        return AffineDenoiser(student or self.student(), follows=follows, **RANGE)

    def posterior(
        self, student: Affine | None = None, *, follows: bool = False
    ) -> AffinePosterior:
        r"""Returns the exact posterior of a student's latent; by default of a fresh student's."""
        return AffinePosterior(student or self.student(), follows=follows)

    def encoder(self) -> Encoder:
        network = MLP(self.space.shape, (8,), width=8, depth=2, noisy=True, final=False)
        return Encoder(network, 8, UnitScale(self.space.sigma_data, self.space.mean))

    def denoiser(self) -> Denoiser:
        shape = self.space.shape
        return PreconditionedDenoiser(
            MLP(shape, shape, width=8, depth=2, noisy=True),
            shape=shape,
            sigma_data=self.space.sigma_data,
            mean=self.space.mean,
            **RANGE,
        )


class LinearData(Data):
    r"""Samples of a Gaussian.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        law: The data's distribution.
        seed: The seed of the clean samples.
    """

    ROWS = 512

    def __init__(self, space: Space, teacher: SampledTeacher, law: Gaussian, seed: int) -> None:
        super().__init__(space, teacher)
        self.law, self.seed = law, seed

    def clean(self, size: int, seed: int) -> Batches:
        x = self.law.sample(self.ROWS, torch.Generator().manual_seed(self.seed))
        return Shuffled(x, {}, size, seed=seed)

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.law.sample(n, torch.Generator().manual_seed(self.seed + 1)), {}


class LinearScores(Scores):
    r"""Distances to a Gaussian, which is one mode.

    Arguments:
        law: The data's distribution.
    """

    headline = ("mmd2", "sliced_wasserstein2")
    judged = Judged("mmd2")
    quick = 100
    samples = 400

    def __init__(self, law: Gaussian) -> None:
        self.law = law

    def measure(self, source: Source, n: int, seed: int = 0) -> list[Metric]:
        random = torch.Generator().manual_seed(seed)
        x, _ = source(n, random)
        truth = self.law.sample(n, torch.Generator().manual_seed(seed + 10_000))
        return [*mmd2(x, truth), wasserstein2_sliced(x, truth, generator=random)]

    def histogram(self, x: Tensor) -> list[float]:
        return [1.0]

    @property
    def expected_shares(self) -> list[float]:
        return [1.0]

    def teacher_metrics(self, n: int) -> tuple[list[Metric], str]:
        return self.measure(lambda m, random: (self.law.sample(m, random), {}), n), "true samples"

    def plot_samples(self, x: Tensor, path: Path, of: str = "") -> Path:
        return self.plot_side_by_side([(f"{len(x):,} samples{of}", x)], path)

    def plot_beside_data(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        random = torch.Generator().manual_seed(seed)
        truth = self.law.sample(self.samples, torch.Generator().manual_seed(seed + 1))
        x, _ = source(self.samples, random)
        return self.plot_side_by_side([("target", truth), (title, x)], path)

    def plot_side_by_side(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        extent = self.law.mean.abs().max() + 4 * self.law.covariance.diagonal().max().sqrt()
        panels = [(title, x[:, :2].numpy()) for title, x in samples]
        return scatter_grid(panels, None, float(extent), path)


class LinearProblem(Problem):
    r"""A teacher of :math:`\mathcal{N}(m, C)` and a student :math:`g(z) = A z + b`.

    Arguments:
        dim: The dimensions :math:`d` of a sample.
        latent: The dimensions :math:`k` of the student's latent.
        seed: The seed of :math:`m`, :math:`C`, :math:`A` and :math:`b`.
        matched: Whether students start with the teacher's law.
    """

    headline = LinearScores.headline
    judged = LinearScores.judged
    networks: LinearNetworks

    def __init__(
        self, dim: int = 3, latent: int = 2, seed: int = 0, *, matched: bool = False
    ) -> None:
        self.settings = LinearSettings(dim=dim, latent=latent, matched=matched)
        self.seed = seed
        self.law = random_law(dim, latent, seed)
        variance = float(self.law.covariance.diagonal().mean())
        self.space = KnownSpace((dim,), self.law.mean, variance**0.5, variance)
        teacher = SampledTeacher(GaussianDenoiser(self.law.mean, self.law.covariance, **RANGE))
        self.networks = LinearNetworks(self.space, teacher, self.settings, self.law)
        self.data = LinearData(self.space, teacher, self.law, seed)
        self.scores = LinearScores(self.law)

    def kl(self, matrix: Tensor, shift: Tensor, sigma: float) -> Tensor:
        r"""Returns :math:`\mathrm{KL}(q_\sigma \,\|\, p_\sigma)` of a student's noisy samples from
        the teacher's, in nats."""
        noise = sigma**2 * torch.eye(len(shift)).to(shift)
        law = self.law
        return gaussian_kl(shift, matrix @ matrix.T + noise, law.mean, law.covariance + noise)


def random_law(d: int, k: int, seed: int) -> Gaussian:
    r"""Returns a random Gaussian of variances above 0.3, and a random affine map."""
    g = torch.Generator().manual_seed(seed)
    matrix = torch.randn(d, k, generator=g)
    shift = torch.randn(d, generator=g)
    root = torch.randn(d, d, generator=g)
    mean = torch.randn(d, generator=g)
    return Gaussian(mean, root @ root.T / d + 0.3 * torch.eye(d), matrix, shift)
