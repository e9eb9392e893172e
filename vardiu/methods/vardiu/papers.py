r"""The papers that a run of VarDiU may stand on."""

from __future__ import annotations

from collections.abc import Iterator

from .settings import Settings

__all__ = ["BIBTEX", "cites"]


BIBTEX = {
    "vardiu": """@article{wang2025vardiu,
  title   = {{VarDiU}: A Variational Diffusive Upper Bound for One-Step Diffusion Distillation},
  author  = {Wang, Leyang and Zhang, Mingtian and Ou, Zijing and Barber, David},
  journal = {arXiv preprint arXiv:2508.20646},
  year    = {2025}
}""",
    "nsf": """@inproceedings{durkan2019nsf,
  title     = {Neural Spline Flows},
  author    = {Durkan, Conor and Bekasov, Artur and Murray, Iain and Papamakarios, George},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}""",
    "sivi": """@inproceedings{yin2018sivi,
  title     = {Semi-Implicit Variational Inference},
  author    = {Yin, Mingzhang and Zhou, Mingyuan},
  booktitle = {International Conference on Machine Learning},
  year      = {2018}
}""",
    "mppca": """@article{tipping1999mppca,
  title   = {Mixtures of Probabilistic Principal Component Analyzers},
  author  = {Tipping, Michael E. and Bishop, Christopher M.},
  journal = {Neural Computation},
  volume  = {11},
  year    = {1999}
}""",
    "iwhvi": """@inproceedings{sobolev2019iwhvi,
  title     = {Importance Weighted Hierarchical Variational Inference},
  author    = {Sobolev, Artem and Vetrov, Dmitry P.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}""",
}


# The papers that a family of posteriors is from.
PAPERS = {"flow": "nsf", "shared": "sivi", "framed": "mppca"}


def cites(settings: Settings) -> Iterator[str]:
    r"""Yields the keys of the papers that a run with these settings uses."""
    yield "vardiu"
    if settings.posterior in PAPERS:
        yield PAPERS[settings.posterior]
    if settings.particles:
        yield "iwhvi"
    if settings.pairs.pairs and settings.posterior != "framed":
        yield "luhman"
