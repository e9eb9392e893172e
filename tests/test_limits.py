"""The one table of limits, the page that shows it, and the reading of settings within them."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import pytest

from vardiu.errors import CheckpointError, ConfigError, shown
from vardiu.settings.ranges import RANGES
from vardiu.storage.bounded import read_bytes, read_json, read_text, read_yaml
from vardiu.storage.limits import LIMITS, limits_table, refuse_beyond

ROOT = Path(__file__).parent.parent


def test_the_page_shows_the_table():
    page = (ROOT / "docs" / "usage" / "limits.md").read_text()
    (table,) = re.findall(r"<!-- limits: .*? -->\n(.*?)\n<!-- end of limits -->", page, re.DOTALL)
    assert table == limits_table()


def test_every_limit_is_used_by_a_reader():
    code = "".join(p.read_text() for p in (ROOT / "vardiu").rglob("*.py"))
    for name, row in LIMITS.items():
        assert len(re.findall(f'"{name}"', code)) >= 2, name
        assert row.value > 0 and row.why.endswith(".")


def test_what_is_beyond_is_named_with_the_limit():
    refuse_beyond("settings depth", 100, "a.json")
    with pytest.raises(ConfigError, match=r"a.json has 101 levels of .*, and at most 100 are"):
        refuse_beyond("settings depth", 101, "a.json")


@pytest.mark.parametrize("make", ["fifo", "device", "folder", "missing"])
def test_only_regular_files_are_opened(tmp_path, make):
    path = tmp_path / "a.json"
    if make == "fifo":
        os.mkfifo(path)
    elif make == "device":
        path.symlink_to("/dev/zero")
    elif make == "folder":
        path.mkdir()
    words = {"fifo": "a FIFO", "device": "a device", "folder": "a folder", "missing": "No such"}
    with pytest.raises(CheckpointError, match=f"a.json .*{words[make]}"):
        read_bytes(path, error=CheckpointError)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not JSON: it is empty"),
        (b"{,}", "is not JSON: Expecting"),
        (b"[1]", r"must hold a mapping, got \[1\]"),
        (b"null", "must hold a mapping, got nothing"),
        (b"\xff\xfe\xff", "not text in UTF-8|not JSON"),
        (b'{"a": "\xe9"}', r"not text in UTF-8 \(byte 7\)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 150 + b"1" + b"}" * 150, "has 101 levels"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "is not JSON"),
    ],
)
def test_damaged_json_is_named(tmp_path, data, words):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ConfigError, match=f"a.json .*({words})"):
        read_json(tmp_path / "a.json")


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "a.json").write_text('{"a": "é"}', encoding="utf-8-sig")
    (tmp_path / "b.json").write_text('{"a": "é"}', encoding="utf-16")
    assert read_json(tmp_path / "a.json") == read_json(tmp_path / "b.json") == {"a": "é"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not YAML"),
        ("", "must hold a mapping, got nothing"),
        ("- 1", r"must hold a mapping, got \[1\]"),
        ("? [1]\n: 2", "is not YAML"),
        ("a: &a [*a]", "levels of lists"),
        ("a: !!python/object/apply:os.abort []", "is not YAML"),
        ("a: " + "[" * 500 + "]" * 500, "levels of lists|deeply"),
        ("a: \x00", "null character"),
        (
            "a0: &a0 [x]\n"
            + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)),
            "21 aliases of a YAML file, and at most 20",
        ),
    ],
)
def test_damaged_yaml_is_named(tmp_path, text, words):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"a.yaml .*({words})"):
        read_yaml(tmp_path / "a.yaml")


def test_files_beyond_the_limit_are_not_read(tmp_path):
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(2**40)  # a hole, which takes no room
    with pytest.raises(ConfigError, match=r"a.yaml has 1,099,511,627,776 bytes of"):
        read_text(tmp_path / "a.yaml")


def test_names_and_values_are_bounded_and_obey_no_terminal():
    assert shown("a\x1b]0;x\x07\n.png") == r"a\x1b]0;x\x07\n.png"
    assert shown(os.fsdecode(b"\xff.png")) == r"\udcff.png"
    assert shown("é 猫.png") == "é 猫.png"
    assert len(shown("x" * 10**6)) < 400 and "1,000,000" in shown("x" * 10**6)
    nested = [0]
    for _ in range(100):
        nested = [nested, nested]
    assert len(shown(nested)) < 200
    assert len(shown({"a": "x" * 10**7})) < 200


@pytest.mark.parametrize("name", RANGES)
def test_what_a_number_must_be_is_not_what_it_is(name):
    """At an end that is left out the end itself is not said to be allowed."""
    row = RANGES[name]
    low, high = row.refusal(row.low), row.refusal(row.high)
    assert (low is None) == (not row.open) and (high is None) == (not row.ends_below)
    assert low in (None, "be positive") or f"above {row.low:g}" in low
    assert high in (None, f"be below {row.high:,.12g}")
    assert row.refusal(math.nan) == "be a finite number"
