r"""BibTeX of what a run used: the method's papers, the data's, and this software."""

from __future__ import annotations

from collections.abc import Mapping

from .methods import METHODS, Method
from .settings.fields import Training

__all__ = ["GUIDING", "PAPERS", "RESTORING", "SOLVED_BY", "cited", "restoring"]


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


# Of what `vardiu restore` does.
RESTORING: Mapping[str, str] = {
    "zirvi2025diffstategrad": """@inproceedings{zirvi2025diffstategrad,
  title     = {Diffusion State-Guided Projected Gradient for Inverse Problems},
  author    = {Zirvi, Rayhan and Tolooshams, Bahareh and Anandkumar, Anima},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv 2410.03463}
}""",
    "chung2023dps": """@inproceedings{chung2023dps,
  title     = {Diffusion Posterior Sampling for General Noisy Inverse Problems},
  author    = {Chung, Hyungjin and Kim, Jeongsol and McCann, Michael T. and Klasky, Marc L. and
               Ye, Jong Chul},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  note      = {arXiv 2209.14687}
}""",
    "rout2023psld": """@inproceedings{rout2023psld,
  title     = {Solving Linear Inverse Problems Provably via Posterior Sampling with Latent
               Diffusion Models},
  author    = {Rout, Litu and Raoof, Negin and Daras, Giannis and Caramanis, Constantine and
               Dimakis, Alexandros G. and Shakkottai, Sanjay},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  note      = {arXiv 2307.00619}
}""",
    "song2024resample": """@inproceedings{song2024resample,
  title     = {Solving Inverse Problems with Latent Diffusion Models via Hard Data Consistency},
  author    = {Song, Bowen and Kwon, Soo Min and Zhang, Zecheng and Hu, Xinyu and Qu, Qing and
               Shen, Liyue},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  note      = {arXiv 2307.08123}
}""",
    "zhang2025daps": """@inproceedings{zhang2025daps,
  title     = {Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing},
  author    = {Zhang, Bingliang and Chu, Wenda and Berner, Julius and Meng, Chenlin and
               Anandkumar, Anima and Song, Yang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2025},
  note      = {arXiv 2407.01521}
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


# The papers of solvers of inverse problems.
SOLVED_BY: Mapping[str, str] = {
    "dps": "chung2023dps",
    "psld": "rout2023psld",
    "resample": "song2024resample",
    "daps": "zhang2025daps",
}


def restoring(solver: str, projection: str) -> dict[str, str]:
    r"""Returns the BibTeX entries, by key, of what a restoration used.

    Arguments:
        solver: The name of the solver.
        projection: What its gradients were put through; `none` is of no paper.
    """
    keys = [SOLVED_BY[solver], *([] if projection == "none" else ["zirvi2025diffstategrad"])]
    entries = {key: RESTORING[key] for key in keys}
    return entries | {"vardiu_software": PAPERS["vardiu_software"]}
