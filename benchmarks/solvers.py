r"""How far from the data are a teacher's samples, by the method and the number of its steps?

    python benchmarks/solvers.py runs/teach-digits --out docs/results/solvers.json

Digits by class, on the levels of EDM. DDIM, which is Euler's method, falls short of the spread of
the data, and Heun's method with few steps goes beyond it: beside each distance stands the standard
deviation that the same steps make of N(0, 1/4), where 1/2 is right. A row that was measured stays,
so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from kept_rows import command_of, rows_before

from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import karras_grid
from vardiu.problems.digits import DigitsProblem
from vardiu.samplers.trajectories import trajectory
from vardiu.settings.fields import DigitsSettings
from vardiu.storage.files import write_text_atomic

ROWS = {"heun": (6, 7, 8, 9, 10, 12, 35), "ddim": (8, 16, 32, 64)}


def deviation(solver: str, sigmas: torch.Tensor) -> float:
    """Of samples of N(0, 1/4), from noise of the first level."""
    high, low = float(sigmas[0]), float(sigmas[-2])
    exact = GaussianDenoiser(torch.zeros(1), torch.full((1,), 0.25), sigma_min=low, sigma_max=high)
    x = torch.full((1, 1), high, dtype=sigmas.dtype)
    *_, x = trajectory(exact.to(sigmas.dtype), x, sigmas, correct=solver == "heun")
    return float(x)


def measured(problem: DigitsProblem, solver: str, steps: int, n: int) -> dict[str, object]:
    """Distances in two spaces, precision and recall of the same samples, and what they cost."""
    teacher = problem.known_teacher
    sigmas = karras_grid(steps, teacher.sigma_min, teacher.sigma_max)
    random = torch.Generator().manual_seed(0)
    cond, began = problem.data.conditions(n, random), time.perf_counter()
    z, parts = torch.randn(n, *teacher.shape, generator=random), []
    with torch.no_grad():
        for rows in torch.arange(n).split(500):
            known = {name: value[rows] for name, value in cond.items()}
            x = teacher.sigma_max * z[rows]
            *_, x = trajectory(teacher, x, sigmas, correct=solver == "heun", **known)
            parts.append(x)
    drawn, seconds = torch.cat(parts), time.perf_counter() - began
    found = {
        m.name: (m.value, m.error) for m in problem.scores.measure(lambda *_: (drawn, cond), n)
    }
    spaces = problem.scores.measure_spaces(lambda *_: (drawn, cond), n)
    ratios = [m.value for m in spaces if m.name == "frechet_ratio"]
    return {
        "calls": 2 * steps - 1 if solver == "heun" else steps,
        "deviation": deviation(solver, sigmas),
        **{name: found[name] for name in ("frechet", "precision", "recall")},
        "ratio in random filters": ratios[1],
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", help="the folder that `vardiu teach digits` wrote")
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="docs/results/solvers.json")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    problem = DigitsProblem(DigitsSettings(teacher_run=chosen.teacher))
    out = Path(chosen.out)
    program = "python benchmarks/solvers.py runs/teach-digits"
    command = command_of(program, parser, ("samples", "out"))
    kept = {
        "torch": torch.__version__,
        "samples": chosen.samples,
        "hashes": dict(problem.hashes()),
        "range": [problem.known_teacher.sigma_min, problem.known_teacher.sigma_max],
    }
    rows = rows_before(out, kept, "rows")
    for solver, steps in ROWS.items():
        for n in steps:
            if (name := f"{solver} {n}") in rows:
                continue
            rows[name] = measured(problem, solver, n, chosen.samples)
            print(name, rows[name], flush=True)
            found = {"command": command, **kept, "rows": rows}
            write_text_atomic(out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
