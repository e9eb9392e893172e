r"""A multi-layer perceptron that takes a noise level and a class where they are given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .numbers import Numbered
from .recompute import Recomputed
from .taps import Tap, Tapped

__all__ = ["Coding", "MLP"]


class Coding(nn.Module):
    r"""An embedding of the interval that a standard normal number falls in.

    Arguments:
        codes: The number of intervals, of equal probability.
        width: The width of the embedding.
    """

    edges: Tensor

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        inner = torch.arange(1, codes, dtype=torch.float64) / codes
        edges = torch.special.ndtri(inner).to(torch.get_default_dtype())
        self.register_buffer("edges", edges, persistent=False)
        self.table = nn.Embedding(codes, width)

    def forward(self, u: Tensor) -> Tensor:
        # Comparisons are exact everywhere: a graph in another tool finds the same interval.
        return self.table((u[:, None] >= self.edges).sum(1))


class MLP(Numbered, Recomputed, Tapped):
    r"""A multi-layer perceptron on flattened tensors.

    Its taps are its hidden layers after their activation, `hidden.0`, `hidden.1`, ..., of shape
    `(B, width)`; its bottleneck is the middle one, `hidden.{depth // 2}`.

    Arguments:
        inputs: The shape of one input.
        outputs: The shape of one output.
        width: The width of each hidden layer.
        depth: The number of hidden layers.
        noisy: Whether it takes a noise level's feature, which is appended to the input.
        classes: The number of classes; each has an embedding, added to the first layer. With 0,
            no label is taken.
        final: Whether a linear layer follows the hidden ones. Without it, the last hidden layer's
            features are returned, and `outputs` must be `(width,)`.
        fourier: The number of octaves :math:`2^0, 2^1, \ldots` at which sines and cosines of the
            input are appended to it; they let a small network change fast, as a map that tears
            one Gaussian into many must (Tancik et al., 2020, https://arxiv.org/abs/2006.10739).
        codes: The number of intervals, equally likely under a normal, that the input's last
            coordinate is told apart by; each has an embedding, added to the first layer. Such a
            map has jumps: it need not stretch between what the intervals become. With 0, none.
        ends: Whether it is told where the map that it stands for ends, see `vardiu.nn.numbers`.
        guided: Whether it is told a scale of guidance.

    Example:
        >>> MLP((2,), (2,), noisy=True)(torch.zeros(5, 2), torch.zeros(5)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        width: int = 256,
        depth: int = 3,
        noisy: bool = False,
        classes: int = 0,
        final: bool = True,
        fourier: int = 0,
        codes: int = 0,
        ends: bool = False,
        guided: bool = False,
    ) -> None:
        super().__init__()
        if depth < 1 or width < 1:
            raise ValueError(f"width and depth must be at least 1, got {width}, {depth}")
        if not final and tuple(outputs) != (width,):
            raise ValueError(f"features have shape ({width},), got outputs={tuple(outputs)}")
        self.outputs = tuple(outputs)
        self.noisy = noisy
        self.taps = tuple(f"hidden.{i}" for i in range(depth))
        self.bottleneck = f"hidden.{depth // 2}"
        self.arguments = {
            "inputs": list(inputs),
            "outputs": list(outputs),
            "width": width,
            "depth": depth,
            "noisy": noisy,
            "classes": classes,
            "final": final,
            "fourier": fourier,
            "codes": codes,
            "ends": ends,
            "guided": guided,
        }
        self.octaves = [2.0**i for i in range(fourier)]
        size = int(torch.Size(inputs).numel()) * (1 + 2 * fourier) + noisy
        self.first = nn.Linear(size, width)
        self.embedding = nn.Embedding(classes, width) if classes else None
        self.coding = Coding(codes, width) if codes else None
        self.make_room(width, end=ends, guidance=guided)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, int(torch.Size(outputs).numel())) if final else None

    def start_at_zero(self) -> None:
        r"""Sets the last layer to zero: the output is zero until it is trained.

        Raises:
            ValueError: There is no last layer, without `final`.
        """
        if self.last is None:
            raise ValueError("an MLP with final=False has no last layer to set to zero")
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def run_layers(
        self,
        tap: Tap,
        x: Tensor,
        c_noise: Tensor | None = None,
        label: Tensor | None = None,
        end: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        if (c_noise is not None) != self.noisy:
            raise ValueError("a noise level must be given where `noisy`, and nowhere else")
        if (label is not None) != (self.embedding is not None):
            raise ValueError("a label must be given where there are `classes`, and nowhere else")
        h = x.flatten(1)
        last = h[:, -1]
        if self.octaves:
            angles = torch.cat([octave * h for octave in self.octaves], dim=1)
            h = torch.cat([h, angles.sin(), angles.cos()], dim=1)
        if c_noise is not None:
            h = torch.cat([h, c_noise[:, None]], dim=1)
        h = self.first(h)
        if label is not None and self.embedding is not None:
            h = h + self.embedding(label)
        if self.coding is not None:
            h = h + self.coding(last)
        h = self.embedded_numbers(h, end=end, guidance=guidance)
        h = nn.functional.silu(h)
        tap("hidden.0", h)
        for i, layer in enumerate(self.hidden, start=1):
            h = self.run(lambda h, layer=layer: nn.functional.silu(layer(h)), h)
            tap(f"hidden.{i}", h)
        return h if self.last is None else self.last(h).unflatten(1, self.outputs)
