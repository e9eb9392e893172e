"""By how much distances of digits depend on the classifier that they are measured in.

    python benchmarks/digits_features.py RUN FILE.json

Samples of the teacher that `vardiu teach digits` wrote to RUN, by few calls and by many, are
measured in the classifier on board and in others: of the same training in single precision on one
and on two threads, which is how each machine made its own before one came with the library, and of
other seeds. Some five minutes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from digits_classifier import trained

from vardiu.data.digits import digits
from vardiu.metrics.features import DigitsClassifier, digits_classifier
from vardiu.metrics.frechet import frechet
from vardiu.problems.digits import DigitsProblem
from vardiu.settings.fields import DigitsSettings

SAMPLES, SEEDS, STEPS = 5_000, (2, 3, 4), (3, 5, 35)


def classifiers() -> dict[str, DigitsClassifier]:
    """The classifiers, by what sets them apart from the one on board."""
    found = {"on board": digits_classifier()}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        made = trained(0, torch.float32)
        found[f"single precision, threads: {threads}"] = made.float()
    return found | {f"seed {seed}": trained(seed).float() for seed in SEEDS}


def main(run: str, path: Path) -> None:
    problem = DigitsProblem(DigitsSettings(teacher_run=run))
    x, _ = digits()
    drawn = {}
    for steps in STEPS:
        source = problem.teacher_source(steps, measured=True)
        samples, _ = source(SAMPLES, torch.Generator().manual_seed(0))
        drawn[f"{2 * steps - 1} calls"] = samples.clamp(-1, 1)
    rows = []
    for what, classifier in classifiers().items():
        real = classifier.features(x)
        found = {of: frechet(real, classifier.features(samples)) for of, samples in drawn.items()}
        rows.append(
            {
                "classifier": what,
                "name": classifier.name,
                "frechet": {of: [metric.value, metric.error] for of, metric in found.items()},
            }
        )
        print(
            what, classifier.name, {of: round(m.value, 4) for of, m in found.items()}, flush=True
        )
    command = ["python", "benchmarks/digits_features.py", "runs/teach-digits", str(path)]
    about = {"command": command, "torch": torch.__version__, "samples": SAMPLES, "rows": rows}
    path.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
