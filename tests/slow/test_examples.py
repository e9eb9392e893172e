"""The eight programs of the gallery run, and each has its picture on the page."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_eight_of_at_most_forty_lines_with_their_pictures():
    page = (ROOT / "docs/examples.md").read_text()
    assert len(PROGRAMS) == 8
    for path in PROGRAMS:
        assert len(path.read_text().splitlines()) <= 40, path.name
        assert f"[`examples/{path.name}`](../examples/{path.name})" in page
        assert re.search(rf"!\[[^\]]{{20,}}\]\(pictures/examples/{path.stem}\.png\)", page)
        assert (ROOT / f"docs/pictures/examples/{path.stem}.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_an_example_draws_its_picture(path, tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    picture = tmp_path / "picture.png"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VARDIU_FAST", "1")
    monkeypatch.setattr(sys, "argv", [path.name, str(picture)])
    runpy.run_path(str(path), run_name="__main__")
    assert picture.stat().st_size > 5_000
