"""The documentation does what it says: the README's quick start word for word, and all examples."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pkgutil
import re
import sys
from pathlib import Path

import pytest
import torch

import vardiu
from vardiu.cli.main import COMMANDS
from vardiu.cli.tables import methods_table
from vardiu.methods.registry import newest_first, own_methods
from vardiu.runs.presets import PRESETS

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import collect  # noqa: E402
import tables  # noqa: E402

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
    _, section = (ROOT / "README.md").read_text().split("## In Python\n")
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    names: dict = {}
    exec(code, names)
    assert names["x"].shape == (64, 2)
    spread = torch.cdist(names["trained"].sample(2000), names["spec"].means).argmin(1)
    assert (spread.bincount(minlength=8) > 0).sum() >= 6


def test_commands_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    used = set(re.findall(r"^vardiu ([\w-]+)", text, re.MULTILINE))
    assert used == set(COMMANDS)
    for name in re.findall(r"vardiu distill ([a-z0-9.-]+)", text):
        assert name in PRESETS or name.startswith("--") or name.endswith(".csv")
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


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_tables_are_those_of_the_files_of_numbers(page):
    text = page.read_text()
    assert tables.written(text) == text, f"python benchmarks/tables.py writes {page}"
    assert text.count("<!-- table:") == text.count("<!-- end of table -->")


def test_a_wrong_number_in_a_table_is_seen():
    words = "cost docs/results/cost.json"
    right = f"<!-- table: {words} -->\n{tables.rendered(words)}\n<!-- end of table -->"
    assert tables.written(right) == right
    assert "| 1.03 |" in right
    assert tables.written(right.replace("| 1.03 |", "| 1.04 |")) == right


MEASURED = re.compile(r"^\W*-?\d[\d.,e-]*( ± .*)?( (s|ms|MB|nats|%))?\W*$")


def test_no_table_of_measurements_is_written_by_hand():
    """A row with three numbers and more is one of measurements: its table is made from a file."""
    ours = re.compile(r"<!-- (table|methods|limits|verdicts).*?<!-- end of .*? -->", re.DOTALL)
    outputs = ROOT / "docs/results"  # a file of numbers itself
    for page in pages():
        if outputs in page.parents:
            continue
        by_hand = ours.sub("", page.read_text())
        for row in re.findall(r"^\|(.*)\|$", by_hand, re.MULTILINE):
            cells = [cell for cell in row.split("|") if MEASURED.match(cell.strip())]
            assert len(cells) < 3, f"{page.name}: {row}"


def test_the_recorded_tables_say_how_they_were_made():
    recorded = json.loads((ROOT / "docs/results/recorded.json").read_text())["tables"]
    shown = "".join(page.read_text() for page in pages())
    for name, table in recorded.items():
        assert f"<!-- table: recorded {name} docs/results/recorded.json -->" in shown
        assert table["command"] and table["machine"]
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}, name
    # One of them has its raw output as well.
    raw = json.loads((ROOT / "docs/results/patches.json").read_text())["metrics"]
    values = {row["name"]: row["value"] for row in raw}
    student = recorded["patches"]["rows"][1]
    assert student[1].startswith(f"{values['frechet']:.1f} ")
    wanted = [values["precision"], values["recall"], values["coverage"]]
    assert student[2:5] == [f"{value:.3f}" for value in wanted]


WORDS = {
    "Frechet": "write Fréchet",
    "by the clock": "say wall-clock time",
    "to the bit": "say equal in every bit",
    " dear": "say expensive",
}


def test_words_that_readers_did_not_understand_are_not_used():
    """In documents, and in the docstrings and helps that users see."""
    sources = [*pages(), *sorted((ROOT / "vardiu").rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}: {word!r}: {cure}"
        for path in sources
        for word, cure in WORDS.items()
        if word in path.read_text()
    ]
    assert not found, found


def test_a_help_does_not_refer_to_the_row_above():
    """An option is read by itself."""
    from vardiu.methods import METHODS
    from vardiu.settings import fields

    modules = [fields, *(importlib.import_module(m.settings.__module__) for m in METHODS.values())]
    helps = [
        text
        for module in modules
        for text in re.findall(r'^    """(.*?)"""', inspect.getsource(module), re.MULTILINE | re.S)
    ]
    assert len(helps) > 80
    above = re.compile(r"^(Their|Its|Of them|The same)\b|none for the same|that regression")
    assert not [text for text in helps if above.search(text)]


def test_every_method_has_its_page():
    for method in own_methods_newest_first():
        page = (ROOT / "docs" / "methods" / f"{method.name}.md").read_text()
        folder = (ROOT / "vardiu" / "methods" / method.name).is_dir()
        place = f"vardiu/methods/{method.name}{'/' if folder else '.py'}"
        assert method.address in page and f"`{place}`" in page
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


def test_a_run_is_kept_without_the_folders_of_its_machine():
    words = ["vardiu", "distill", "digits", "--seed", "3", "--out", "/x/y", "--lr=1e-3"]
    assert collect.command_of([*words, "--teacher-run", "/z"]) == "vardiu distill digits --lr=1e-3"
    machine = {"accelerator": "a card"}
    assert collect.made_on_gpu(words, machine)
    assert not collect.made_on_gpu([*words, "--device", "cpu"], machine)
    assert not collect.made_on_gpu(words, {"accelerator": None})
