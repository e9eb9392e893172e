"""One training step is read in five functions of three files, from the command to the optimiser."""

from __future__ import annotations

import ast
from pathlib import Path

import vardiu

ROOT = Path(vardiu.__file__).parent

# As docs/architecture.md states it.
CHAIN = [
    ("cli/runs.py", "distill"),
    ("runs/distill.py", "distill"),
    ("training/trainer.py", "fit"),
    ("training/trainer.py", "advance"),
    ("training/trainer.py", "update"),
]


def function(file: str, name: str) -> ast.FunctionDef:
    tree = ast.parse((ROOT / file).read_text())
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name]
    assert len(found) == 1, (file, name)
    return found[0]


def called(node: ast.AST) -> set[str]:
    """The names that a piece of code calls, without what they are attributes of."""
    functions = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    attributes = {f.attr for f in functions if isinstance(f, ast.Attribute)}
    return attributes | {f.id for f in functions if isinstance(f, ast.Name)}


def test_each_function_of_the_chain_calls_the_next():
    for (file, name), (_, following) in zip(CHAIN, CHAIN[1:], strict=False):
        assert following in called(function(file, name)), (name, following)


def test_the_last_function_steps_the_optimiser():
    assert "step" in called(function(*CHAIN[-1]))


def test_the_chain_is_short():
    assert len(CHAIN) <= 5 and len({file for file, _ in CHAIN}) <= 3


def test_the_page_states_the_chain():
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    for file, name in CHAIN:
        assert f"| `vardiu/{file}` | `{name}` |" in page
