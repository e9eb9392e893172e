r"""VarDiU: a variational diffusive upper bound for one-step distillation.

The student is :math:`x = g(z)`, :math:`z \sim p(z) = \mathcal{N}(0, I_k)`; its noisy marginal is
:math:`p_\sigma(x_t) = \int \mathcal{N}(x_t; g(z), \sigma^2 I) \, p(z) \, \mathrm{d}z`, the
teacher's is :math:`q_\sigma`. For latents :math:`z_0` that made :math:`x_t`, and
:math:`z_1, \ldots, z_K \sim r(\cdot \mid x_t)`,

.. math:: \mathrm{KL}(p_\sigma \,\|\, q_\sigma) \leq U^K_\sigma = \mathbb{E} \left[ \log
    \frac{1}{K + 1} \sum_{j=0}^{K} \frac{\mathcal{N}(x_t; g(z_j), \sigma^2 I) \, p(z_j)}
    {r(z_j \mid x_t)} \right] - \mathbb{E} \big[ \log q_\sigma(x_t) \big].

With :math:`K = 0` the bracket is :math:`-\log r(z_0 \mid x_t)` and a constant: the paper's bound,
whose slack is :math:`\mathbb{E} \, \mathrm{KL}(p(z \mid x_t) \,\|\, r(z \mid x_t))`. :math:`U^K`
does not increase with :math:`K` and tends to the divergence itself.

The teacher's log-density is never needed, only its score :math:`S`. In

.. math:: \nabla_\theta \, \mathbb{E} \big[ \log q_\sigma(x_t) \big]
    = \mathbb{E} \big[ S(x_t)^\top \nabla_\theta g(z) \big], \qquad
    S(x_t) = \frac{D(x_t) - g(z)}{\sigma^2} - \frac{\varepsilon}{\sigma}

the last term has zero mean, as :math:`\varepsilon` is independent of :math:`z`: it may be dropped.
"""

from __future__ import annotations

from collections.abc import Mapping

from .. import regression
from ..base import Method
from .arms import ARMS
from .bound import Draw
from .examples import EXAMPLES
from .objective import VarDiU
from .papers import BIBTEX, cites
from .presets import PRESETS
from .settings import Settings
from .training import ideal, recipe

__all__ = ["CURES", "Draw", "METHOD", "Settings", "VarDiU", "recipe"]


# What to try against each alarm, see `vardiu.monitoring.alarms`.
CURES: Mapping[str, str] = {
    "collapse": "start from a spread student (--pairs.pairs, --posterior framed), raise "
    "--levels.sigma-min, take a tighter bound (--posterior shared or flow, --particles 4), or "
    "reward entropy (--temperature 1.05)",
    "saturation": "the gradient is not noise: the bound may be loose here; take a tighter "
    "--posterior",
    "worsening": "fewer --steps, a lower --lr, or a start that the method holds: more "
    "--frame.components for --posterior framed",
    "posterior": "raise --posterior-optimizer.lr, give the student a --delay, or lower its --lr",
    "divergence": "lower --lr or raise --levels.sigma-min",
    "anchor": "raise --anchor.rate, or give a held anchor a shorter --anchor.refresh or a limit "
    "(--anchor.trust); lower --lr, with momentum (--beta-1 0.9)",
    "fake": "raise --ratio, --fake-optimizer.lr or --anchor.settle, or lower --lr",
}


METHOD = Method(
    name="vardiu",
    title="VarDiU",
    year=2025,
    address="https://arxiv.org/abs/2508.20646",
    networks=("student", "posterior"),
    settings=Settings,
    recipe=recipe,
    bibtex={**BIBTEX, **regression.METHOD.bibtex},
    cites_by=cites,
    presets=PRESETS,
    cures=CURES,
    arms=ARMS,
    examples=EXAMPLES,
    instruments=("bound", "negative_entropy"),
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
)
