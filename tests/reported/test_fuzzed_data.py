"""Damaged data of every kind end in one of the library's own errors, which names the file."""

import io
import json
import tarfile
import warnings

import numpy as np
import pytest
import torch
from fuzz import OURS, fuzz
from PIL import Image

from vardiu.data.images import Corrupt, TooManyCorrupt
from vardiu.data.points import read_points
from vardiu.data.sources import account, read_data, records
from vardiu.data.tables import TABLES
from vardiu.data.texts import read_prompts

ERRORS = (*OURS, Corrupt, TooManyCorrupt)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


def encoded(kind, image=None):
    stream = io.BytesIO()
    (Image.fromarray(PIXELS) if image is None else image).save(stream, kind)
    return stream.getvalue()


def array(save, **arrays):
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def shard():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in (("a.png", encoded("PNG")), ("a.json", b'{"label": 1, "text": "x"}'), ("b.png", encoded("PNG")), ("b.cls", b"2")):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()[: 512 * 10]


def parquet(**columns):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    stream = io.BytesIO()
    writer.write_table(arrow.table(columns), stream)
    return stream.getvalue()


X = PIXELS[None].repeat(3, 0)
TIFF = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
EXIF = Image.new("RGB", (4, 4)).getexif()
EXIF[0x0112] = 6

# The file that is damaged, what it holds, and the source that is read.
GOOD = {
    "a.npz": lambda: array(np.savez, x=X, label=np.arange(3)),
    "b.npz": lambda: array(np.savez_compressed, x=X.astype(np.float32) / 255 - 0.5),
    "a.npy": lambda: array(lambda stream, x: np.save(stream, x), x=X),
    "a.tar": shard,
    "a.parquet": lambda: parquet(image=[encoded("PNG")] * 2, label=[0, 1], text=["a", "b"]),
    "f/a.png": lambda: encoded("PNG"),
    "f/p.png": lambda: encoded("PNG", Image.fromarray(PIXELS).convert("P")),
    "f/a.jpg": lambda: encoded("JPEG"),
    "f/a.webp": lambda: encoded("WEBP"),
    "f/a.gif": lambda: encoded("GIF"),
    "f/a.bmp": lambda: encoded("BMP"),
    "f/a.ppm": lambda: encoded("PPM"),
    "f/a.tif": lambda: encoded("TIFF", TIFF),
    "g/dataset.json": lambda: json.dumps({"labels": [["a.png", 0], ["b/c.png", 1]]}).encode(),
    "g/metadata.jsonl": lambda: (
        b'{"file_name": "a.png", "label": 0}\n{"file_name": "b/c.png", "label": 1}\n'
    ),
    "g/metadata.csv": lambda: b'file_name,label,text\na.png,0,"x, y"\nb/c.png,1,z\n',
    "g/metadata.parquet": lambda: parquet(file_name=["a.png", "b/c.png"], label=["x", "y"]),
    "q.npz": lambda: array(np.savez, x=X[..., 0, 0].astype(float), label=np.arange(3)),
    "q.npy": lambda: array(lambda stream, x: np.save(stream, x), x=X[..., 0, 0].astype(float)),
    "q.csv": lambda: b"x1,x2,label\n0.5,1e-3,0\n-2,3,1\n",
    "q.tsv": lambda: b"0.5\t1\n-2\t3\n",
    "q.txt": lambda: b"# points\n0.5 1\n-2 3\n",
    "p.txt": lambda: "a cat\ntwo dogs é\n".encode(),
    "p.csv": lambda: b'id,prompt\n1,"a, b"\n2,c\n',
    "p.tsv": lambda: b"id\tprompt\n1\ta\n",
    "p.jsonl": lambda: b'"a"\n{"text": "b"}\n',
    "p.json": lambda: b'["a", {"caption": "b"}]',
    "p.parquet": lambda: parquet(prompt=["a", "b"]),
}


def read(path, root):
    """What a command reads of the data that a file belongs to."""
    if path.name.startswith("p.") and path.parent == root:
        return read_prompts(str(path))
    if path.name.startswith("q."):
        classes = 0 if path.suffix in (".tsv", ".txt", ".npy") else 3
        width = 4 if path.suffix in (".npz", ".npy") else 2
        return read_points(str(path), (width,), classes)
    found = records(str(path if path.parent == root else path.parent))
    account(found)
    return read_data(found, 9, shape=(3, 4, 4))


def all_of(tmp_path, name, n, seed):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if name.startswith("g/"):
        for image in ("a.png", "b/c.png"):
            (path.parent / image).parent.mkdir(exist_ok=True)
            (path.parent / image).write_bytes(encoded("PNG"))
    good = GOOD[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(good)
        read(path, tmp_path)
        own = path.name if path.suffix != ".tar" else "a.tar"
        return fuzz(
            path, lambda p: read(p, tmp_path), good=good, n=n, seed=seed, ours=ERRORS, name=own
        )


@pytest.mark.parametrize("name", GOOD)
def test_damaged_data_are_refused_by_name(tmp_path, name):
    assert all_of(tmp_path, name, 60, 0) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("name", GOOD)
def test_damaged_data_are_refused_by_name_many_times(tmp_path, name, seed):
    assert all_of(tmp_path, name, 1_000, seed) >= 20


def test_every_kind_of_table_is_fuzzed():
    assert set(TABLES) - {".ndjson"} <= {f".{name.rpartition('.')[2]}" for name in GOOD}
