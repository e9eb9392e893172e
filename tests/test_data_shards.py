"""Shards of tar and parquet: in order, resumed in the middle, and nothing read twice."""

import io
import json
import tarfile

import pytest
import torch
from PIL import Image

from vardiu.data import shards
from vardiu.data.images import TooManyCorrupt
from vardiu.data.sources import open_data, read_data
from vardiu.errors import ConfigError


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


def png(value):
    stream = io.BytesIO()
    Image.new("L", (4, 4), value).save(stream, "PNG")
    return stream.getvalue()


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def tars(path, shards=3, each=4, beside="cls"):
    for i in range(shards):
        with tarfile.open(path / f"s-{i:02}.tar", "w") as archive:
            for j in range(each):
                n = i * each + j
                add(archive, f"{n:05}.png", png(n))
                if beside == "cls":
                    add(archive, f"{n:05}.cls", str(n % 5).encode())
                else:
                    about = {"label": n % 5, "caption": f"number {n}"}
                    add(archive, f"{n:05}.json", json.dumps(about).encode())
    return path


def parquets(path, shards=2, groups=3, each=2):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    n = 0
    for i in range(shards):
        size = groups * each
        rows = [{"bytes": png(n + j), "path": None} for j in range(size)]
        labels = [(n + j) % 5 for j in range(size)]
        table = arrow.table({"image": rows, "label": labels})
        parquet.write_table(table, path / f"part-{i}.parquet", row_group_size=each)
        n += size
    return path


def numbers(batch):
    return ((batch.x[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()


@pytest.mark.parametrize("make", [tars, parquets])
def test_shards_are_read_in_their_order(tmp_path, make):
    batches = open_data(str(make(tmp_path)), batch=4)
    seen, labels = [], []
    for _ in range(4):
        batch = next(batches)
        seen += numbers(batch)
        labels += batch.cond["label"].tolist()
    assert seen == [*range(12), 0, 1, 2, 3]
    assert labels == [n % 5 for n in seen]


@pytest.mark.parametrize("make", [tars, parquets])
@pytest.mark.parametrize("place", range(5))
def test_a_stream_goes_on_without_reading_what_was_read(tmp_path, monkeypatch, make, place):
    source = str(make(tmp_path))
    batches = open_data(source, batch=3)
    for _ in range(place):
        next(batches)
    state, expected = batches.state_dict(), numbers(next(batches))
    decoded = []
    real = shards.decode
    monkeypatch.setattr(shards, "decode", lambda d, n: decoded.append(n) or real(d, n))
    again = open_data(source, batch=3, shape=(1, 4, 4))
    again.load_state_dict(state)
    assert numbers(next(again)) == expected
    assert len(decoded) == 3


def test_processes_share_shards(tmp_path):
    source = str(tars(tmp_path))
    whole, parts = open_data(source, batch=4), [open_data(source, batch=4) for _ in range(2)]
    for rank, part in enumerate(parts):
        part.rank, part.world = rank, 2
    for _ in range(5):
        assert numbers(next(whole)) == [n for part in parts for n in numbers(next(part))]


def test_patterns_name_shards(tmp_path):
    tars(tmp_path)
    for pattern in ("s-{00..01}.tar", "s-0[01].tar"):
        assert len(read_data(str(tmp_path / pattern), 99)[0]) == 8
    with pytest.raises(ConfigError, match="no data at .*s-03.tar"):
        read_data(str(tmp_path / "s-{02..03}.tar"), 9)


def test_captions_become_conditions(tmp_path):
    tars(tmp_path, beside="json")

    def encode(captions):
        return {"text": torch.tensor([[float(c.split()[1])] for c in captions])}

    batch = next(open_data(str(tmp_path), batch=5, encode=encode))
    assert batch.cond["text"].flatten().tolist() == [0, 1, 2, 3, 4]
    assert batch.cond["label"].tolist() == [0, 1, 2, 3, 4]


def test_a_corrupt_member_is_named_with_its_shard(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for n in range(4):
            add(archive, f"{n}.png", b"broken" if n == 2 else png(n))
    with pytest.raises(TooManyCorrupt, match=r"s.tar:2.png"):
        next(open_data(str(tmp_path / "s.tar"), batch=4))
    with pytest.warns(UserWarning, match=r"s.tar:2.png"):
        assert numbers(next(open_data(str(tmp_path / "s.tar"), batch=4, corrupt=1))) == [
            0,
            1,
            3,
            3,
        ]


def test_a_class_that_is_no_number_is_corrupt(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        add(archive, "0.png", png(0))
        add(archive, "0.cls", b"cat")
    with pytest.raises(TooManyCorrupt, match="what lies beside it"):
        next(open_data(str(tmp_path / "s.tar"), batch=1))


def test_what_is_no_shard_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(ConfigError, match=r"a.tar is not an uncompressed tar archive"):
        read_data(str(tmp_path / "a.tar"), 1)
    pytest.importorskip("pyarrow")
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"b.parquet is not a parquet file"):
        read_data(str(tmp_path / "b.parquet"), 1)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    tars(tmp_path, shards=1)
    path = tmp_path / "s-00.tar"
    whole = path.read_bytes()
    assert len(read_data(str(path), 99)[0]) == 4
    with tarfile.open(path) as archive:
        place = archive.getmembers()[4].offset
    damaged = bytearray(whole)
    damaged[place : place + 100] = b"x" * 100
    path.write_bytes(bytes(damaged))
    with pytest.raises(ConfigError, match=r"s-00.tar .*(damaged|cut short)"):
        read_data(str(path), 99)
    path.write_bytes(whole[: place + 200])
    with pytest.raises(ConfigError, match=r"s-00.tar .*(damaged|cut short)"):
        read_data(str(path), 99)
