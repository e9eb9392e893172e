r"""The README's table of methods: `python -m vardiu.cli.tables` prints it."""

from __future__ import annotations

from collections.abc import Iterable

from ..methods import Method
from ..methods.registry import newest_first, own_methods

__all__ = ["methods_table"]


def methods_table(methods: Iterable[Method]) -> str:
    r"""Returns the table of methods in Markdown, a row each, with links to papers and pages."""
    rows = ["| name | paper | needs | trains |", "|---|---|---|---|"]
    for method in methods:
        page = f"docs/methods/{method.name}.md"
        paper = f"{method.year}, [{method.title}]({method.address})"
        networks = ", ".join(method.networks)
        rows.append(f"| [`{method.name}`]({page}) | {paper} | {needs(method)} | {networks} |")
    return "\n".join(rows)


def needs(method: Method) -> str:
    r"""Returns what a method needs, in words."""
    wanted = {
        "teacher": method.needs.teacher,
        "its gradient": method.needs.gradient,
        "its pairs": method.needs.pairs,
        "data": method.needs.data and not method.needs.paired,
        "pairs of degraded and clean images": method.needs.paired,
    }
    return ", ".join(word for word, wants in wanted.items() if wants)


if __name__ == "__main__":
    print(methods_table(newest_first(own_methods()).values()))
