r"""Backbones: the networks inside of the modules that give their outputs a meaning."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

__all__ = ["Interface", "backbones"]


class Interface(nn.Module):
    r"""A module that gives the outputs of the networks inside of it a meaning.

    Denoisers, generators, encoders and posteriors are such.
    """

    def inner_modules(self) -> Iterator[nn.Module]:
        r"""Yields the parts in which backbones are looked for; all of its parts by default."""
        return self.children()


def backbones(module: nn.Module) -> list[nn.Module]:
    r"""Returns the networks inside of a module, those without parameters left out."""
    if isinstance(module, Interface):
        return [network for part in module.inner_modules() for network in backbones(part)]
    return [module] if next(module.parameters(), None) is not None else []
