"""How far real photo patches are from other real photo patches.

    python benchmarks/floors.py --out docs/results/floors.json

Patches that the teacher is trained on are the reference, as for `vardiu distill patches`. They are
compared with patches of the fifth of each photograph that is held out, and with other patches that
the teacher is trained on, which overlap those of the reference.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from vardiu.data.photos import photos
from vardiu.metrics.features import PrincipalComponents, RandomFeatures
from vardiu.metrics.frechet import frechet
from vardiu.settings.grounds import PATCHES
from vardiu.storage.provenance import provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/floors.json"))
    chosen = parser.parse_args()
    x, held_out = photos(16), photos(16, held_out=True)
    rows = torch.linspace(0, len(x) - 1, PATCHES.reference).long()
    real = x[rows]
    others = torch.ones(len(x), dtype=torch.bool)
    others[rows] = False
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    trained = x[order[others[order]][: len(held_out)]]
    spaces = {
        "random filters": RandomFeatures((3, 16, 16), real),
        "principal components": PrincipalComponents(real),
    }
    found = {}
    for title, space in spaces.items():
        found[title] = {
            name: frechet(space(real), space(images), features=space.name).row()
            for name, images in (("held-out patches", held_out), ("training patches", trained))
        }
        print(title, {name: row["value"] for name, row in found[title].items()}, flush=True)
    content = {"provenance": provenance(["python", "benchmarks/floors.py"], 0), "spaces": found}
    chosen.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
