"""Files of prompts that are read by the places of their lines."""

import copy
import random

import numpy as np
import pytest

from vardiu.data import texts
from vardiu.data.batches import DataFree
from vardiu.data.texts import Lines, Listed, open_prompts
from vardiu.errors import ConfigError


def plain(data):
    """What a reader of the whole file would find."""
    lines = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


def test_any_line_is_found_at_its_place_whatever_ends_lines(tmp_path, monkeypatch):
    draw = random.Random(0)
    words = [
        "a",
        "é",
        "漢字",
        " ",
        "\t",
        "\u2028",
        "\u3000",
        "\x0b",
        "\x1c",
        "x" * 40,
        "🜁",
        "\x85",
    ]
    for case in range(60):
        monkeypatch.setattr(texts, "BLOCK", draw.choice([1, 2, 3, 7, 64, 2**20]))
        ends = draw.choice([["\n"], ["\r\n"], ["\r"], ["\n", "\r\n", "\r"]])
        text = "".join(
            "".join(draw.choices(words, k=draw.randrange(5))) + draw.choice(ends)
            for _ in range(draw.randrange(1, 30))
        )
        data = (b"\xef\xbb\xbf" if case % 3 == 0 else b"") + (text + "end").encode()
        path = tmp_path / f"{case}.txt"
        path.write_bytes(data)
        found = Lines(path)
        assert list(found) == plain(data)
        assert found[len(found) - 1] == found[-1] and found[1:3] == plain(data)[1:3]
        assert found.offsets.dtype == np.uint64


def test_empty_lines_are_counted_with_the_number_of_the_first(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"a cat\r\n\r\n \t\r\na dog\r\n\xe3\x80\x80\r\n")
    found = Lines(path)
    assert list(found) == ["a cat", "a dog"] and found.empty == (3, 2)
    path.write_bytes(b"a cat\na dog\n")
    assert Lines(path).empty == (0, 0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("a cat\nun éléphant\n".encode("latin-1"), r"p.txt, line 2: byte 0xe9 is not UTF-8; save"),
        (b"\n" * 70 + b"a\xff\n", "line 71: byte 0xff is not UTF-8"),
        ("a cat\na dog\n".encode("utf-16-le"), "line 1: it is not text: it has a null"),
        (b"a\nb\n" + b"x " * 15_000 + b"\n", "line 3 has 29,999 characters of a prompt"),
        (b"a\nb\n" + b" " * 200_000 + b"x\n", "line 3"),
        (b"a\n" + b"x" * 400_000, "line 2.* 20,000 char"),
        (b"a \xe2\x82", "line 1: byte 0xe2 is not UTF-8"),
        (b"\xef\xbb\xbf\n \r\n", "p.txt holds no prompt"),
        (b"", "p.txt holds no prompt"),
    ],
)
def test_what_is_no_file_of_prompts_is_refused_by_its_line(tmp_path, monkeypatch, data, words):
    (tmp_path / "p.txt").write_bytes(data)
    for block in (8, 2**20):
        monkeypatch.setattr(texts, "BLOCK", block)
        with pytest.raises(ConfigError, match=words) as error:
            open_prompts(tmp_path / "p.txt", tmp_path / "cache")
        assert "\n" not in str(error.value)


def test_an_index_is_made_once_kept_by_its_content_and_verified(tmp_path, monkeypatch):
    path, cache = tmp_path / "p.txt", tmp_path / "cache"
    path.write_text("".join(f"picture {i}\n\n" for i in range(1_000)))
    first = open_prompts(path, cache)
    assert isinstance(first.offsets, np.memmap) and first.offsets.dtype == np.uint64
    assert first.empty == (1_000, 2) and first[999] == "picture 999"
    (place,) = cache.iterdir()
    wanted = list(first)
    del first  # its map is of the file that is damaged below

    scans = []
    real = texts._scanned
    monkeypatch.setattr(texts, "_scanned", lambda *a: scans.append(a) or real(*a))
    moved = tmp_path / "moved.txt"
    moved.write_bytes(path.read_bytes())  # the same content by another name
    assert list(open_prompts(moved, cache)) == wanted and not scans
    for damage in ("flip", "cut", "none", "json"):
        offsets = place / "offsets.npy"
        if damage == "flip":
            data = bytearray(offsets.read_bytes())
            data[-3] ^= 1
            offsets.write_bytes(data)
        elif damage == "cut":
            offsets.write_bytes(offsets.read_bytes()[:-8])
        elif damage == "none":
            offsets.unlink()
        else:
            (place / "index.json").write_text("{")
        scans.clear()
        assert list(open_prompts(path, cache)) == wanted and len(scans) == 1, damage
    path.write_text("another\n")
    assert list(open_prompts(path, cache)) == ["another"] and len(list(cache.iterdir())) == 2


def test_a_file_that_changes_under_its_reader_is_refused(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a cat\na dog\n")
    found = open_prompts(path)
    with path.open("a") as file:
        file.write("a bird\n")
    with pytest.raises(ConfigError, match="p.txt was changed while it is read"):
        found[0]


def test_the_place_of_a_text_is_found_without_a_table_of_texts(tmp_path, monkeypatch):
    path = tmp_path / "p.txt"
    path.write_text("a\nb\na\nc\n")
    for found in (open_prompts(path), Listed(["a", "b", "a", "c"])):
        assert [found.place_of(text) for text in "abcd"] == [0, 1, 3, None]
    monkeypatch.setattr(texts, "_key", lambda text: np.uint64(7))  # all keys alike
    assert [open_prompts(path).place_of(text) for text in "abcd"] == [0, 1, 3, None]
    assert copy.deepcopy(found) is found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_draws_of_a_seed_do_not_depend_on_the_number_of_processes(tmp_path, world):
    path = tmp_path / "p.txt"
    path.write_text("".join(f"picture {i}\n" for i in range(5_000)))
    prompts, drawn = open_prompts(path), []
    for rank in range(world):
        batches = DataFree(8, classes=len(prompts), seed=3)
        batches.rank, batches.world = rank, world
        drawn.append([next(batches).cond["label"].tolist() for _ in range(3)])
    whole = [[prompts[i] for rows in step for i in rows] for step in zip(*drawn, strict=True)]
    alone = DataFree(8, classes=len(prompts), seed=3)
    assert whole == [[prompts[i] for i in next(alone).cond["label"].tolist()] for _ in range(3)]
