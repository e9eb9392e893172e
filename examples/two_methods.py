"""Two methods on a checkerboard: `vardiu distill` and `vardiu compare` from Python."""

import os
import sys
from pathlib import Path

import numpy as np

from vardiu.cli.main import main
from vardiu.reports.samples import scatter_grid

out = sys.argv[1] if len(sys.argv) > 1 else "two_methods.png"
fast = "VARDIU_FAST" in os.environ  # a few steps, for the tests

words = ["--steps", "6" if fast else "800", "--threads", "1", "--evaluations", "1"]
words += ["--samples", "300", "--width", "8", "--batch", "16"] if fast else []
runs = {method: Path(f"runs/checkerboard-{method}") for method in ("vardiu", "diff_instruct")}
panels = []
for method, run in runs.items():
    told = ["distill", "checkerboard", "--method", method, "--out", str(run), *words]
    assert main(told) == 0, method
    assert main(["sample", str(run), "--num", "2000"]) == 0, method
    with np.load(next(run.glob("samples-2000-*.npz"))) as drawn:
        panels.append((method, drawn["x"]))
assert main(["compare", *map(str, runs.values())]) == 0
scatter_grid(panels, None, float(max(abs(x).max() for _, x in panels)), Path(out))
