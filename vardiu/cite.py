r"""BibTeX of what a run used: the method's papers, the data's, and this software."""

from __future__ import annotations

from collections.abc import Mapping

from .methods import METHODS, Method
from .settings.fields import Training

__all__ = ["GUIDING", "PAPERS", "cited"]


# What belongs to no method.
PAPERS: Mapping[str, str] = {
    "digits": """@misc{alpaydin1998digits,
  title        = {Optical Recognition of Handwritten Digits},
  author       = {Alpaydin, E. and Kaynak, C.},
  howpublished = {UCI Machine Learning Repository},
  year         = {1998},
  doi          = {10.24432/C50P49}
}""",
    "vardiu_software": """@software{vardiu_software,
  title  = {vardiu: one-step generators from diffusion models},
  author = {{The vardiu authors}},
  year   = {2026}
}""",
}


# Of what `--guide` and `vardiu guide` do.
GUIDING: Mapping[str, str] = {
    "park2024distillationpp": """@misc{park2024distillationpp,
  title  = {Inference-Time Diffusion Model Distillation},
  author = {Park, Geon Yeong and Lee, Sang Wan and Ye, Jong Chul},
  year   = {2024},
  note   = {arXiv 2412.08871}
}"""
}


def cited(method: Method, settings: Training, problem: str) -> dict[str, str]:
    r"""Returns the BibTeX entries, by key, of what a run used.

    Arguments:
        method: The method.
        settings: Its settings.
        problem: The name of the problem.
    """
    entries = method.citations(settings)
    if problem == "digits":
        # Its teacher is trained by the table's own method.
        teaching = METHODS["denoising"]
        entries |= {"digits": PAPERS["digits"], **teaching.citations(teaching.settings())}
    return entries | {"vardiu_software": PAPERS["vardiu_software"]}
