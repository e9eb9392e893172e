r"""What a run of VarDiU is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ...errors import ConfigError
from ...posteriors.diffusion import DiffusionPosterior
from ...posteriors.encoder import Encoder, Posterior
from ...posteriors.families import (
    CholeskyPosterior,
    FlowPosterior,
    GaussianPosterior,
    MixturePosterior,
    PriorPosterior,
)
from ...settings.fields import (
    AnchorSettings,
    FrameSettings,
    LevelSettings,
    NetworkOptimizer,
    OnPairs,
    PairSettings,
    WeightSettings,
)

__all__ = ["POSTERIORS", "Settings"]


# The families whose samples have a gradient.
REPARAMETRISED = ("gaussian", "residual", "cholesky", "flow")


@dataclass(frozen=True, kw_only=True)
class Settings(OnPairs):
    r"""VarDiU."""

    posterior: Literal[
        "anchored",
        "shared",
        "gaussian",
        "residual",
        "cholesky",
        "mixture",
        "flow",
        "diffusion",
        "framed",
    ] = "gaussian"
    """The family of r(z | x_t). anchored: the exact posterior of a lagging copy of the student,
    with a fake for its score. shared: the prior, with latents shared over the batch. residual: a
    Gaussian that is exact where a residual student starts (--residual). framed: that of a mixture
    of principal components of the teacher's samples, where the student starts."""
    posterior_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the posterior is updated."""
    components: int = 16
    """mixture: the number of components."""
    transforms: int = 3
    """flow: the number of transformations."""
    hidden: int = 64
    """flow: the width of each of the two hidden layers of each transformation's network."""
    particles: int = 0
    """The number K of further latents in the importance-weighted bound."""
    own: float = 1.0
    """shared, and a bank: the weight of a row's own sample in the mixture, from 0 to 1. Only at 1
    there is a bound; at 1/2 independent rows make no error of the first order in 1 / batch."""
    temperature: float = 1.0
    """The temperature of the teacher's law that is matched at each level; above 1 samples
    spread."""
    lattice: bool = False
    """Spread the latents and the levels of a batch evenly, by a randomly shifted lattice."""
    antithetic: bool = True
    """Use each latent and level with noise of both signs."""
    control_variate: bool = True
    """Leave out the part of the teacher's score whose mean is zero."""
    levels: LevelSettings = LevelSettings()
    """The noise levels."""
    weight: WeightSettings = WeightSettings()
    """The weight of a noise level."""
    posterior_weight: WeightSettings | None = None
    """The weight of a noise level in the posterior's own gradient; none takes --weight."""
    pairs: PairSettings = PairSettings()
    """A regression on the teacher's pairs, before the method's own training; not with framed."""
    frame: FrameSettings = FrameSettings()
    """framed: the mixture of principal components."""

    @property
    def fits_pairs(self) -> bool:
        return super().fits_pairs and self.posterior != "framed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.particles and self.posterior not in REPARAMETRISED:
            raise ConfigError(
                f"particles must be 0 with posterior {self.posterior}, got {self.particles}: they "
                f"need one with reparametrised samples, {', '.join(REPARAMETRISED)}"
            )
        banked = self.posterior == "anchored" and self.anchor.bank
        if self.own != 1 and self.posterior != "shared" and not banked:
            raise ConfigError(
                f"own must be 1 with posterior {self.posterior}, got {self.own:g}: it weighs a "
                "row's own sample in the minibatch mixture (--posterior shared) or in a bank "
                "(--anchor.bank)"
            )

    anchor: AnchorSettings = AnchorSettings()
    """anchored: the lagging copy of the student."""
    ratio: int = 1
    """anchored: the number of updates of the fake for each update of the student."""
    normalised: bool = False
    """anchored: divide each row's direction by the teacher's mean absolute correction, as DMD
    does; no bound then."""
    regression_weight: float = 0.0
    """anchored: the weight of the regression on pairs beside the bound; it is the bound of another
    posterior, the teacher's own, see docs/methods/vardiu.md."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """anchored: how the fake is updated."""


POSTERIORS: Mapping[str, Callable[[Encoder, int, Settings], Posterior]] = {
    "gaussian": lambda encoder, k, config: GaussianPosterior(encoder, k),
    "residual": lambda encoder, k, config: GaussianPosterior(encoder, k, residual=True),
    "cholesky": lambda encoder, k, config: CholeskyPosterior(encoder, k),
    "mixture": lambda encoder, k, config: MixturePosterior(encoder, k, config.components),
    "flow": lambda encoder, k, config: FlowPosterior(
        encoder, k, config.transforms, (config.hidden, config.hidden)
    ),
    "diffusion": lambda encoder, k, config: DiffusionPosterior(encoder, k),
    "shared": lambda encoder, k, config: PriorPosterior(k),
}
