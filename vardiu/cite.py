r"""BibTeX of what a run used: the method's papers, the data's, and this software."""

from __future__ import annotations

from collections.abc import Mapping

from .methods import METHODS, Method
from .settings.fields import Training

__all__ = ["PAPERS", "cited"]


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
