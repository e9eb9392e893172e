"""Damaged folders of diffusers: whatever their settings hold, one line names the file."""

from __future__ import annotations

import pipelines
import pytest
import torch
from fuzz import fuzz

from vardiu.teachers.diffusers import load
from vardiu.teachers.unread import explained

FILES = {
    "model_index.json": 120,
    "unet/config.json": 120,
    "scheduler/scheduler_config.json": 120,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    where = tmp_path_factory.mktemp("fuzzed") / "teacher"
    pipelines.pixels(where, classes=0)
    return where


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


def damage(folder, name, n, seed=0):
    path = folder / name
    good = path.read_bytes()

    def read(_):
        load(str(folder))

    # What the index says of other files is told by the folder's name.
    return fuzz(path, read, good=good, n=n, seed=seed, name=str(folder))


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_folder_is_refused_in_one_line(folder, name):
    n = FILES[name]
    assert n // 4 < damage(folder, name, n)
    load(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("name", FILES)
def test_many_damaged_folders_are_refused_in_one_line(folder, name, seed):
    damage(folder, name, 2000, seed)


def test_damaged_weights_of_other_tools_are_refused_in_one_line(tmp_path):
    path = tmp_path / "weights.safetensors"
    torch_file = tmp_path / "weights.pt"
    torch.save({"all_modules.0.W": torch.zeros(2)}, torch_file)
    fuzz(torch_file, lambda p: explained(str(p)), good=torch_file.read_bytes(), n=200)
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    good = len(header).to_bytes(8, "little") + header + bytes(4)
    fuzz(path, lambda p: explained(str(p)), good=good, n=200)
