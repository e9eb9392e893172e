"""What a run makes once: kept by its content, made in portions, whole or made again."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from vardiu.errors import Interrupted
from vardiu.storage.artefacts import Artefacts


class Maker:
    """Counts what it is asked for."""

    def __init__(self, stop_at: int = -1) -> None:
        self.asked: list[int] = []
        self.stop_at = stop_at

    def __call__(self, index: int) -> dict[str, torch.Tensor]:
        self.asked.append(index)
        if index == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"x": torch.full((2, 3), float(index)), "label": torch.tensor([index, index])}


def test_it_is_made_once_and_read_afterwards(tmp_path):
    maker = Maker()
    first = Artefacts(tmp_path).get("pairs", {"seed": 0}, 3, maker)
    assert maker.asked == [0, 1, 2]
    assert first["label"].tolist() == [0, 0, 1, 1, 2, 2] and first["x"].shape == (6, 3)
    again = Artefacts(tmp_path).get("pairs", {"seed": 0}, 3, maker)
    assert maker.asked == [0, 1, 2]
    assert all(torch.equal(first[name], again[name]) for name in first)
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "description.json").read_text()) == {"seed": 0}


def test_another_description_is_another_artefact(tmp_path):
    maker = Maker()
    for description in ({"seed": 0}, {"seed": 1}, {"steps": 0}):
        Artefacts(tmp_path).get("pairs", description, 1, maker)
    assert maker.asked == [0, 0, 0] and len(list(tmp_path.iterdir())) == 3
    # The order of the words is not content.
    same = Artefacts.address({"a": 1, "b": 2}, 1), Artefacts.address({"b": 2, "a": 1}, 1)
    assert same[0] == same[1] != Artefacts.address({"a": 1, "b": 2}, 2)


def test_in_memory_it_is_made_once(tmp_path):
    maker, artefacts = Maker(), Artefacts()
    assert artefacts.get("pairs", {}, 2, maker)["x"].shape == (4, 3)
    artefacts.get("pairs", {}, 2, maker)
    assert maker.asked == [0, 1]


def test_a_stop_keeps_what_was_made(tmp_path):
    maker = Maker(stop_at=1)
    with pytest.raises(Interrupted, match="stopped after portion 2 of 4 of the pairs"):
        Artefacts(tmp_path).get("pairs", {}, 4, maker)
    assert maker.asked == [0, 1]
    rest = Maker()
    found = Artefacts(tmp_path).get("pairs", {}, 4, rest)
    assert rest.asked == [2, 3] and found["label"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("damage", ["truncate", "change", "remove"])
def test_a_damaged_portion_is_made_again(tmp_path, damage):
    Artefacts(tmp_path).get("pairs", {}, 3, Maker())
    (folder,) = tmp_path.iterdir()
    file = folder / "000001" / "portion.safetensors"
    content = file.read_bytes()
    if damage == "truncate":
        file.write_bytes(content[:-8])
    elif damage == "change":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        file.unlink()
    maker = Maker()
    found = Artefacts(tmp_path).get("pairs", {}, 3, maker)
    assert maker.asked == [1] and found["label"].tolist() == [0, 0, 1, 1, 2, 2]


def test_progress_is_told(tmp_path):
    told = []
    artefacts = Artefacts(tmp_path, lambda name, done, total: told.append((name, done, total)))
    artefacts.get("frame", {}, 2, Maker())
    assert told == [("frame", 0, 2), ("frame", 1, 2), ("frame", 2, 2)]
