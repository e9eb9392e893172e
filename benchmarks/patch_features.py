"""Trains the small network on board that images are compared in (`vardiu/nn/perceptual.py`).

    python benchmarks/patch_features.py FILE.safetensors

It tells which of five photographs a patch of 16x16 pixels is from, and by how many quarter turns
it is turned, in colour or grey, brighter or darker. Some minutes on one thread, from seed 0; it
prints the accuracies on the held-out fifth of each photograph, and the SHA-256 of the file.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from vardiu.data.photos import patches
from vardiu.nn.perceptual import small_net

# Those whose licence is stated; see `vardiu.data.photos`.
NAMES = ("china", "flower", "astronaut", "chelsea", "coffee")
STEPS, ROWS = 1_500, 32


def rows(held_out: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches in [0, 1], and which photograph each is of."""
    parts = [(patches(name, 16, held_out) + 1) / 2 for name in NAMES]
    labels = [torch.full((len(part),), i) for i, part in enumerate(parts)]
    return torch.cat(parts), torch.cat(labels)


def varied(x: torch.Tensor, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Turned patches, by how many quarters, with other colours, brightness and noise."""
    n = len(x)
    turns = torch.randint(4, (n,), generator=random)
    x = torch.stack([torch.rot90(row, int(k), (1, 2)) for row, k in zip(x, turns, strict=True)])
    grey = (torch.rand(n, 1, 1, 1, generator=random) < 0.3).float()
    x = torch.lerp(x, x.mean(1, keepdim=True).expand_as(x), grey)
    gain = 0.7 + 0.6 * torch.rand(n, 3, 1, 1, generator=random)
    shift = 0.2 * torch.rand(n, 1, 1, 1, generator=random) - 0.1
    x = (gain * x + shift).clamp(0, 1)
    return x + 0.02 * torch.randn(x.shape, generator=random), turns


def main() -> None:
    path = Path(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    x, label = rows(held_out=False)
    net, heads = small_net(), nn.ModuleList([nn.Linear(64, len(NAMES)), nn.Linear(64 * 4, 4)])
    optimizer = torch.optim.Adam([*net.parameters(), *heads.parameters()], lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

    def logits(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        last = net(images)[-1]
        quarters = nn.functional.adaptive_avg_pool2d(last, 2).flatten(1)
        return heads[0](last.mean((2, 3))), heads[1](quarters)

    for _ in range(STEPS):
        chosen = torch.randint(len(x), (ROWS,), generator=random)
        images, turns = varied(x[chosen], random)
        which, turned = logits(images)
        loss = nn.functional.cross_entropy(which, label[chosen])
        loss = loss + nn.functional.cross_entropy(turned, turns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    held, truth = rows(held_out=True)
    with torch.no_grad():
        images, turns = varied(held, random)
        which, turned = logits(images)
    photo = (which.argmax(1) == truth).float().mean()
    turn = (turned.argmax(1) == turns).float().mean()
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"held out: photograph {photo:.3f}, turn {turn:.3f}\n{digest}")


if __name__ == "__main__":
    main()
