"""What a command imports before it does anything: no time is measured here, `benchmarks/startup.py` does.

The inventory that `vardiu list` and `vardiu completion` read is the one of the code.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

from vardiu.cli import inventory, stock
from vardiu.cli.main import main

HEAVY = {"torch", "numpy", "matplotlib", "scipy", "sklearn", "tyro", "zuko", "diffusers"}


def imported(*words):
    """The top names of the modules that a command imports, and the compiler of torch."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vardiu", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    names = {line.rpartition("|")[2].strip() for line in rows}
    return {name.partition(".")[0] for name in names} | names & {"torch._dynamo"}


@pytest.mark.parametrize(
    "words", ["--help", "--version", "list", "list --json", "completion bash"]
)
def test_what_only_tells_imports_no_torch(words):
    assert not imported(*words.split()) & HEAVY


def test_help_imports_nothing_that_prints_in_colour():
    assert not imported("--help") & {"rich", "yaml", "importlib_metadata"}


@pytest.mark.slow
def test_a_dry_run_imports_nothing_that_draws_or_reads_pipelines():
    loaded = imported("distill", "mog40", "--dry-run")
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "scipy", "sklearn", "diffusers", "transformers", "onnx"}
    assert "torch._dynamo" not in loaded
    # Where no option is given there is none to parse.
    assert "tyro" not in loaded


@pytest.mark.slow
def test_torch_is_imported_without_looking_for_garbage():
    """A quarter of its time; later the collector is there, and visits no module."""
    code = (
        "import gc, sys\n"
        "from vardiu.cli.main import importing\n"
        "before = gc.get_stats()\n"
        "with importing():\n"
        "    import torch\n"
        "    assert not gc.isenabled()\n"
        "assert gc.get_stats() == before and gc.isenabled() and gc.get_freeze_count() > 100_000\n"
        "with importing():\n"
        "    assert gc.isenabled()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_inventory_is_the_one_of_the_code():
    kept = json.loads(inventory.KEPT.read_text())
    assert kept == stock.counted(), "python -m vardiu.cli.stock writes it"


def test_methods_of_a_distribution_are_asked_of_the_code(monkeypatch):
    asked = []
    monkeypatch.setattr(stock, "counted", lambda: asked.append(1) or {"there is": {}})
    assert "modules" in inventory.inventory() and not asked
    found = importlib.metadata.EntryPoint("mine", "mine:METHOD", "vardiu.methods")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: (found,))
    assert inventory.inventory() == {"there is": {}} and asked


@pytest.mark.parametrize("row", ["modules", "words"])
def test_an_inventory_of_another_package_is_not_believed(row, monkeypatch, tmp_path):
    """A method's file or a command was added since it was written."""
    kept = json.loads(inventory.KEPT.read_text())
    kept[row].pop("list") if row == "words" else kept[row].pop()
    path = tmp_path / "inventory.json"
    path.write_text(json.dumps(kept))
    monkeypatch.setattr(inventory, "KEPT", path)
    monkeypatch.setattr(stock, "counted", lambda: {"asked": True})
    assert inventory.inventory() == {"asked": True}


def test_a_wrong_word_of_list_is_refused_without_torch(capsys):
    assert main(["list", "--jsn"]) == 2
    assert "did you mean --json" in capsys.readouterr().err
