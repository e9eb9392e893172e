"""Attention on a processor: forward and backward pass by torch's function and by the library's.

    python benchmarks/attention.py [--rounds 15] > docs/results/attention.json

Each part is timed in turn, round after round, in one process with one thread: the median and the
least are of rounds that saw the same machine. The last rows are steps of whole networks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import small
import torch
from torch import nn

import vardiu.nn.attention as house
from vardiu.nn import Precision, UNet, has_bfloat16, unet
from vardiu.nn.diffusers import DiffusersNetwork
from vardiu.storage.provenance import provenance

# Images, heads, pixels, and features of a head.
SHAPES = {
    "digits": (128, 4, 16, 24),
    "patches": (128, 4, 64, 16),
    "256 tokens": (8, 6, 256, 64),
}
fused = nn.functional.scaled_dot_product_attention


def passes(shape: tuple[int, ...], dtype: torch.dtype, ours: bool) -> Callable[[], object]:
    parts = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
    function = house.attention if ours else fused

    def run() -> None:
        function(*parts).sum().backward()

    return run


def step(network: nn.Module, dtype: str, ours: bool) -> Callable[[], object]:
    network = Precision(network, dtype) if dtype != "float32" else network
    x, time_ = torch.randn(64, 3, 16, 16), torch.rand(64)

    def run() -> None:
        unet.attention = house.attention if ours else fused
        narrow, house._narrow = house._narrow, house._narrow if ours else lambda _: None
        network(x, time_).square().mean().backward()
        network.zero_grad()
        house._narrow = narrow

    return run


def network(name: str) -> nn.Module:
    """A network of images of 3x16x16."""
    if name == "patches":
        built = UNet(3, widths=(24, 64))
        for parameter in built.parameters():  # those that start at zero would tell nothing
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
        return built
    model = small.unet(0, 3, 16, (32, 64)).train()
    return DiffusersNetwork("UNet2DModel", dict(model.config), model)


def arms() -> dict[tuple[str, str], Callable[[], object]]:
    found: dict[tuple[str, str], Callable[[], object]] = {}
    ways = {
        "float32": ("float32", False),
        "bfloat16": ("bfloat16", False),
        "bfloat16, ours": ("bfloat16", True),
    }
    for name, shape in SHAPES.items():
        for way, (dtype, ours) in ways.items():
            found[name, way] = passes(shape, getattr(torch, dtype), ours)
    for name in ("patches", "UNet2DModel"):
        built = network(name)
        for way, (dtype, ours) in ways.items():
            found[f"a step, {name}", way] = step(built, dtype, ours)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not has_bfloat16("cpu"):
        print("this processor has no bfloat16: nothing is computed in it", file=sys.stderr)
        return 2
    every = arms()
    took: dict[tuple[str, str], list[float]] = {key: [] for key in every}
    for _ in range(chosen.rounds + 1):
        for key, run in every.items():
            started = time.perf_counter()
            run()
            took[key].append(1e3 * (time.perf_counter() - started))
    rows = [
        {
            "what": what,
            "how": how,
            "milliseconds": statistics.median(values[1:]),
            "least": min(values[1:]),
        }
        for (what, how), values in took.items()
    ]
    shapes = {name: list(shape) for name, shape in SHAPES.items()}
    about = provenance(["python", "benchmarks/attention.py", *sys.argv[1:]], 0)
    print(json.dumps({**about, "rounds": chosen.rounds, "shapes": shapes, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
