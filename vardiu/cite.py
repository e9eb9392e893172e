r"""BibTeX of what a run used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["PAPERS", "bibtex"]


PAPERS: Mapping[str, str] = {
    "vardiu": """@article{wang2025vardiu,
  title   = {{VarDiU}: A Variational Diffusive Upper Bound for One-Step Diffusion Distillation},
  author  = {Wang, Leyang and Zhang, Mingtian and Ou, Zijing and Barber, David},
  journal = {arXiv preprint arXiv:2508.20646},
  year    = {2025}
}""",
    "diff_instruct": """@inproceedings{luo2023diffinstruct,
  title     = {{Diff-Instruct}: A Universal Approach for Transferring Knowledge From
               Pre-trained Diffusion Models},
  author    = {Luo, Weijian and Hu, Tianyang and Zhang, Shifeng and Sun, Jiacheng and Li, Zhenguo
               and Zhang, Zhihua},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023}
}""",
    "luhman": """@article{luhman2021knowledge,
  title   = {Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed},
  author  = {Luhman, Eric and Luhman, Troy},
  journal = {arXiv preprint arXiv:2101.02388},
  year    = {2021}
}""",
    "mppca": """@article{tipping1999mppca,
  title   = {Mixtures of Probabilistic Principal Component Analyzers},
  author  = {Tipping, Michael E. and Bishop, Christopher M.},
  journal = {Neural Computation},
  volume  = {11},
  year    = {1999}
}""",
    "edm": """@inproceedings{karras2022edm,
  title     = {Elucidating the Design Space of Diffusion-Based Generative Models},
  author    = {Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}""",
    "iwhvi": """@inproceedings{sobolev2019iwhvi,
  title     = {Importance Weighted Hierarchical Variational Inference},
  author    = {Sobolev, Artem and Vetrov, Dmitry P.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}""",
    "sivi": """@inproceedings{yin2018sivi,
  title     = {Semi-Implicit Variational Inference},
  author    = {Yin, Mingzhang and Zhou, Mingyuan},
  booktitle = {International Conference on Machine Learning},
  year      = {2018}
}""",
    "nsf": """@inproceedings{durkan2019nsf,
  title     = {Neural Spline Flows},
  author    = {Durkan, Conor and Bekasov, Artur and Murray, Iain and Papamakarios, George},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}""",
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


def bibtex(keys: Iterable[str]) -> str:
    r"""Returns the entries of these keys, each once, in order.

    Raises:
        KeyError: A key is unknown.
    """
    return "\n\n".join(PAPERS[key] for key in dict.fromkeys(keys))
