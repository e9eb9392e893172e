"""Damaged pickles, weights and tables of points, from a fixed seed: one line that names the file."""

from __future__ import annotations

import io

import fuzz
import numpy as np
import pickled
import pytest
import torch
from safetensors.torch import save

from vardiu import models
from vardiu.data.points import read_points
from vardiu.errors import ConfigError
from vardiu.nn import MLP, SongUNet
from vardiu.teachers import edm


def network():
    return SongUNet(8, 1, 1, model_channels=8, channel_mult=[1], num_blocks=1)


def test_damaged_pickles(tmp_path):
    good = {"ema": pickled.preconditioned("EDMPrecond", network(), img_channels=1)}
    content = pickled.write(tmp_path / "good.pkl", good).read_bytes()
    # The numbers are most of the file, and any of them is a number: only the rest is damaged.
    refused = fuzz.fuzz(tmp_path / "a.pkl", edm.load, good=content, n=45)
    assert refused > 15


def test_damaged_weights(tmp_path):
    torch.set_default_dtype(torch.float32)
    folder = models.save(MLP((2,), (2,), width=4, depth=1), tmp_path / "model")
    good = (folder / "model.safetensors").read_bytes()

    def read(path):
        return models.load(path.parent)

    assert fuzz.fuzz(folder / "model.safetensors", read, good=good, n=60) > 40
    # Well-formed, and of other tensors.
    (folder / "model.safetensors").write_bytes(save({"other": torch.zeros(3)}))
    with pytest.raises(ValueError, match="model"):
        models.load(folder)


def tables():
    x, label = np.arange(24.0).reshape(8, 3), np.arange(8) % 2
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, x)
    np.savez(npz, x=x, label=label)
    rows = [f"{a},{b},{c},{k}" for (a, b, c), k in zip(x, label, strict=True)]
    csv = "\n".join(["a,b,c,label", *rows]).encode()
    return {"npy": npy.getvalue(), "npz": npz.getvalue(), "csv": csv}


@pytest.mark.parametrize("kind", ["npy", "npz", "csv"])
def test_damaged_points(kind, tmp_path):
    classes = 0 if kind == "npy" else 2
    path = tmp_path / f"a.{kind}"
    refused = fuzz.fuzz(
        path, lambda p: read_points(str(p), (3,), classes), good=tables()[kind], n=100
    )
    assert refused > 30
    path.write_bytes(tables()[kind])
    x, cond = read_points(str(path), (3,), classes)
    assert torch.equal(x, torch.arange(24.0).float().reshape(8, 3))
    assert cond == {} or cond["label"].tolist() == [0, 1] * 4
    assert read_points(str(path), (1, 3))[0].shape == (8, 1, 3)
    with pytest.raises(ConfigError, match=rf"a\.{kind}: points of the teacher have shape \(2,\)"):
        read_points(str(path), (2,))


@pytest.mark.parametrize(
    "name, text, match",
    [
        (
            "a.csv",
            "1,2\n3,nan\n",
            "1 point holds values that are not finite, the first is point 2",
        ),
        ("a.csv", "1,2\n3\n", "line 2: 1 column, and the first point has 2"),
        ("a.csv", "x,y\n", "holds no point"),
        ("a.csv", "1,2\n3,b\n", "line 2: 'b' is no number"),
        ("a.txt", "# a comment\n1 2\n3 4\n", None),
        ("a.tsv", "u\tv\n1\t2\n", None),
        ("a.csv", "x,y\n1,2\n", None),
        ("a.csv", "label,x,y\n0,1,2\n", None),
        ("a.csv", "x,label,y\n1,0,2\n", None),
        ("a.csv", "x1,x2,y\n1,2,0\n", None),
        ("a.csv", "x,label,y,label\n1,0,2,1\n", "two columns of the name label"),
        ("a.dat", "1 2\n", "no table of points"),
        ("a.csv", "u,v,label\n1,2,0\n3,4,7\n", "labels must be within 0 and 1"),
        ("a.csv", "u,v,label\n1,2,0.5\n", "label must be one whole number a point"),
    ],
)
def test_tables_are_read_as_they_are_meant_or_refused(name, text, match, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    classes = 2 if "label" in text else 0
    if match is None:
        assert read_points(str(path), (2,))[0][0].tolist() == [1.0, 2.0]
        return
    with pytest.raises(ConfigError, match=match):
        read_points(str(path), (2,), classes)
    with pytest.raises(ConfigError, match="there are no points at"):
        read_points(str(tmp_path), (2,))
