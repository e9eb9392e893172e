"""Trains the classifiers on board that digits are compared in (`vardiu/metrics/features.py`).

    python benchmarks/digits_classifier.py FILE.safetensors

Each learns four fifths of the real digits, half a minute on one thread. It is trained in double
precision: in single precision the order in which a processor adds, and the number of its threads,
led to other weights, and so to another name. Prints the accuracies on the held-out fifth, and
the SHA-256 of the file.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from vardiu.data.digits import digits
from vardiu.metrics.features import DigitsClassifier

# The seeds: that of 0 measures, a student is trained in the maps of that of 1.
SEEDS = (0, 1)
EPOCHS, ROWS, LR, NOISE = 15, 64, 1e-3, 0.1


def trained(seed: int, dtype: torch.dtype = torch.float64) -> DigitsClassifier:
    """A classifier after its training, with its scale and its accuracy."""
    x, label = digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    held, used = order[: len(x) // 5], order[len(x) // 5 :]
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float32)  # other types draw other weights
        try:
            model = DigitsClassifier().to(dtype)
        finally:
            torch.set_default_dtype(default)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(EPOCHS):
        epoch = used[torch.randperm(len(used), generator=generator)]
        for rows in epoch.split(ROWS):
            # A little noise keeps the features smooth off the grid of sixteen greys.
            noise = torch.randn(x[rows].shape, generator=generator, dtype=torch.float32)
            logits = model(x[rows].to(dtype) + NOISE * noise.to(dtype))
            loss = nn.functional.cross_entropy(logits, label[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.requires_grad_(False).eval()
    # Distances are read more easily where the real features have unit variance on average.
    model.scale = model.trunk(x.to(dtype)).var(0).mean().rsqrt()
    right = model(x[held].to(dtype)).argmax(1) == label[held]
    model.accuracy = right.double().mean()
    return model


def main(path: Path) -> None:
    found: dict[str, torch.Tensor] = {}
    for seed in SEEDS:
        model = trained(seed).float()
        found |= {f"{seed}.{name}": value for name, value in model.state_dict().items()}
        print(f"seed {seed}: {model.name}")
    save_file(found, path)
    print(f"{path}: SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
