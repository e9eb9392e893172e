"""The documentation does what it says: the README's quick start word for word, and all examples."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import vardiu
from vardiu.cli.main import COMMANDS
from vardiu.cli.tables import methods_table
from vardiu.methods.registry import newest_first, own_methods
from vardiu.runs.presets import PRESETS

ROOT = Path(__file__).parent.parent
MODULES = [m.name for m in pkgutil.walk_packages(vardiu.__path__, "vardiu.")]


def own_methods_newest_first():
    return newest_first(own_methods()).values()


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name):
    torch.set_default_dtype(torch.float32)
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_quick_start_word_for_word():
    torch.set_default_dtype(torch.float32)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["x"].shape == (64, 2)
    spread = torch.cdist(names["trained"].sample(2000), names["spec"].means).argmin(1)
    assert (spread.bincount(minlength=8) > 0).sum() >= 6


def test_commands_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    used = set(re.findall(r"^vardiu ([\w-]+)", text, re.MULTILINE))
    assert used == set(COMMANDS)
    for name in re.findall(r"vardiu distill ([a-z0-9-]+)", text):
        assert name in PRESETS or name.startswith("--")
    for target in ("demo", "test", "lint", "slow"):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_links_of_the_documents_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_table_of_methods_is_the_one_that_they_render():
    text = (ROOT / "README.md").read_text()
    (table,) = re.findall(
        r"<!-- methods: .*? -->\n(.*?)\n<!-- end of methods -->", text, re.DOTALL
    )
    assert table == methods_table(own_methods_newest_first())


def test_every_method_has_its_page():
    for method in own_methods_newest_first():
        page = (ROOT / "docs" / "methods" / f"{method.name}.md").read_text()
        assert method.address in page and f"vardiu/methods/{method.name}.py" in page
        assert f"methods/{method.name}.md" in (ROOT / "docs" / "index.md").read_text()


def test_every_public_thing_says_what_it_does():
    missing = []
    for name in MODULES:
        module = importlib.import_module(name)
        if not (module.__doc__ or "").strip():
            missing.append(name)
        for key in getattr(module, "__all__", []):
            thing = getattr(module, key)
            if inspect.isroutine(thing) or inspect.isclass(thing):
                pages = (thing.__doc__ or "").strip()
            else:
                continue
            if not pages:
                missing.append(f"{name}.{key}")
    assert not missing


def test_help_is_the_one_in_the_documents():
    from vardiu.cli.main import usage

    assert (ROOT / "docs" / "help.txt").read_text() == usage() + "\n"
