"""Data that somebody made to hang, to eat memory or to start programs: refused at once, by name."""

import io
import os
import struct
import tarfile
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from vardiu.data import sources
from vardiu.data.folders import Folder
from vardiu.data.images import Corrupt
from vardiu.data.sources import read_data, records
from vardiu.errors import ConfigError
from vardiu.storage import limits


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(autouse=True)
def soon():
    """Each within seconds, whatever it claims."""
    begin = time.perf_counter()
    yield
    assert time.perf_counter() - begin < 5


def png():
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    return stream.getvalue()


def lowered(monkeypatch, name, value):
    monkeypatch.setitem(limits.LIMITS, name, limits.LIMITS[name]._replace(value=value))


def header(**fields):
    """A tar header with the fields of `TarInfo`, and its checksum."""
    info = tarfile.TarInfo(fields.pop("name", "a.png"))
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("what", ["fifo", "zero", "socket", "tty"])
def test_what_is_no_regular_file_is_left_alone(tmp_path, what):
    import socket

    (tmp_path / "a.png").write_bytes(png())
    if what == "fifo":
        os.mkfifo(tmp_path / "b.png")
    elif what == "socket":
        socket.socket(socket.AF_UNIX).bind(str(tmp_path / "b.png"))
    else:
        (tmp_path / "b.png").symlink_to({"zero": "/dev/zero", "tty": "/dev/tty"}[what])
    assert len(read_data(str(tmp_path), 4)[0]) == 1


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".tar", ".parquet", ".txt"])
def test_nor_is_a_shard_an_array_or_a_table_that_is_none_opened(tmp_path, suffix):
    os.mkfifo(tmp_path / f"a{suffix}")
    (tmp_path / f"b{suffix}").symlink_to("/dev/zero")
    for name in "ab":
        with pytest.raises(ConfigError, match=f"{name}{suffix} is .*(regular|known)"):
            records(str(tmp_path / f"{name}{suffix}"))


def test_a_file_that_becomes_a_fifo_is_corrupt(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    found = records(str(tmp_path))
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(Corrupt, match="a.png: is a FIFO"):
        found.item(0)


def test_tables_and_captions_beside_images_are_regular_files_too(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    for name in ("dataset.json", "metadata.csv", "a.txt"):
        os.mkfifo(tmp_path / name)
    assert len(read_data(str(tmp_path), 4)[0]) == 1
    for name in ("dataset.json", "metadata.csv"):
        (tmp_path / name).unlink()
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**40)
        with pytest.raises(ConfigError, match=f"{name} has 1,099,511,627,776 bytes of a table"):
            records(str(tmp_path))
        (tmp_path / name).unlink()


def test_folders_end_though_links_lead_back_or_ever_deeper(tmp_path, monkeypatch):
    place = tmp_path / "a"
    place.mkdir()
    (place / "a.png").write_bytes(png())
    (place / "up").symlink_to(tmp_path)
    (place / "self").symlink_to(place / "self")
    assert len(Folder(tmp_path)) == 1
    lowered(monkeypatch, "folder depth", 3)
    (tmp_path / "b/c/d/e/f").mkdir(parents=True)
    with pytest.raises(ConfigError, match="levels of folders, and at most 3"):
        Folder(tmp_path)
    lowered(monkeypatch, "folder entries", 4)
    with pytest.raises(ConfigError, match="files below a folder, and at most 4"):
        Folder(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scan(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(place)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(ConfigError, match="closed cannot be read: Permission denied"):
        records(str(tmp_path))


# ---------------------------------------------------------------- tar


def test_members_that_are_links_devices_or_lead_away_touch_nothing(tmp_path):
    data = png()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("d.png", tarfile.CHRTYPE), ("f.png", tarfile.FIFOTYPE)):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/dev/zero"
            archive.addfile(info)
        for name in ("/etc/a.png", "../../b.png", "c.png"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = records(str(tmp_path / "a.tar"))
    assert len(found) == 3 and found.left_out.lines[0].startswith("left out: 4 members that are")
    assert len(read_data(found, 9)[0]) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize(
    "data",
    [
        header(size=8**11 - 1),
        header(size=2**40, type=tarfile.GNUTYPE_LONGNAME),
        header(size=2**40, type=tarfile.XHDTYPE),
        header(size=2**20 + 1, type=tarfile.XGLTYPE) + bytes(2**21),
        header(size=512, type=tarfile.GNUTYPE_SPARSE) + bytes(512),
    ],
)
def test_headers_that_claim_too_much_are_refused(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data + bytes(1024))
    with pytest.raises(ConfigError, match="a.tar"):
        read_data(str(tmp_path / "a.tar"), 4)


def test_a_sparse_member_is_left_out(tmp_path):
    s = bytearray(512)
    s[:5], s[100:108], s[124:136], s[156:157] = b"a.png", b"0000644\0", b"%011o\0" % 512, b"S"
    s[257:265], s[386:398], s[398:410] = b"ustar  \0", b"%011o\0" % 0, b"%011o\0" % 512
    s[483:495], s[148:156] = b"\x80\0\0\0" + struct.pack(">Q", 2**40), b" " * 8
    s[148:156] = b"%06o\0 " % sum(s)
    (tmp_path / "a.tar").write_bytes(bytes(s) + bytes(512 + 1024))
    with pytest.raises(ConfigError, match="a.tar"):
        read_data(str(tmp_path / "a.tar"), 4)


def test_too_many_members_and_too_large_parts_are_refused(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in (("a.png", png()), ("a.txt", b"x" * 100), ("b.png", png())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    lowered(monkeypatch, "settings bytes", 50)
    with pytest.raises(Corrupt, match=r"a.tar:a.png: it has 100 bytes, and at most 50 are read"):
        records(str(tmp_path / "a.tar")).item(0)
    lowered(monkeypatch, "tar members", 2)
    with pytest.raises(ConfigError, match=r"a.tar has 3 members of one tar shard, and at most 2"):
        records(str(tmp_path / "a.tar"))


# ---------------------------------------------------------------- arrays, parquet


def claim(shape):
    stream = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, about)
    return stream.getvalue() + b"x"


def test_arrays_that_claim_too_much_are_refused(tmp_path, monkeypatch):
    import zipfile

    data = claim((10**12, 8, 8, 3))
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ConfigError, match=f"{name} cannot be read as an array"):
            records(str(tmp_path / name))
    np.savez_compressed(tmp_path / "b.npz", x=np.zeros((100, 8, 8), np.uint8))
    lowered(monkeypatch, "array bytes", 6_000)
    with pytest.raises(ConfigError, match="b.npz: x has 6,528 bytes of an array"):
        records(str(tmp_path / "b.npz"))


def test_arrays_that_are_not_asked_for_are_not_read(tmp_path):
    x = np.zeros((4, 8, 8), np.uint8)
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "a.npz", x=x, other=objects)
    assert len(records(str(tmp_path / "a.npz"))) == 4
    np.savez(tmp_path / "b.npz", x=x, y=objects)
    with pytest.raises(ConfigError, match="b.npz cannot be read as an array: Object arrays"):
        records(str(tmp_path / "b.npz"))


def test_columns_that_are_not_asked_for_are_not_read(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = {"image": [png()] * 4, "label": [0, 1, 0, 1], "text": list("abcd"), "huge": ["x"] * 4}
    parquet.write_table(arrow.table(table), tmp_path / "a.parquet", row_group_size=2)
    asked = []
    real = parquet.ParquetFile.iter_batches

    def spy(file, columns=None, **options):
        asked.append(columns)
        return real(file, columns=columns, **options)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", spy)
    x, cond = read_data(str(tmp_path / "a.parquet"), 4)
    assert cond["label"].tolist() == [0, 1, 0, 1]
    assert asked and all(columns == ["image", "text"] for columns in asked)
    lowered(monkeypatch, "row group bytes", 10)
    with pytest.raises(ConfigError, match=r"a.parquet, row group 0 has .* bytes of a row group"):
        read_data(str(tmp_path / "a.parquet"), 4)
    lowered(monkeypatch, "table columns", 3)
    with pytest.raises(ConfigError, match="a.parquet has 4 columns of a table, and at most 3"):
        records(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": [1, 2]}, "the column image is of int64, and must be of bytes"),
        ({"image": ["a", "b"]}, "the column image is of string"),
        ({"image": [b"x"], "label": [[1]]}, "the column label is of list"),
        ({"image": [b"x"], "label": [float("inf")]}, "its class is inf"),
        ({"image": [{"bytes": None, "path": "/etc/passwd"}]}, "no bytes, only the path /etc/pass"),
        ({"picture": [b"x"]}, "none of image, img"),
    ],
)
def test_columns_of_other_kinds_are_refused_by_name(tmp_path, columns, words):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=f"a.parquet.*{words}"):
        read_data(str(tmp_path / "a.parquet"), 4, shape=(3, 8, 8))


@pytest.mark.parametrize("text", ["[1]", "null", '"x"', '{"label": [1]}', '{"label": 1e999}', "[" * 100_000, '{"label": true}', '{"label": "cat"}'])  # fmt: skip
def test_damaged_json_of_a_shard_is_a_corrupt_image(tmp_path, text):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in (("a.png", png()), ("a.json", text.encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(ValueError, match="a.tar:a.png: what lies beside it cannot be read"):
        read_data(str(tmp_path / "a.tar"), 1, shape=(3, 8, 8))


def test_a_thousand_corrupt_images_are_no_thousand_names_in_a_message():
    class Bad(sources.Records):
        def __len__(self):
            return 1_000

        def item(self, index):
            raise Corrupt(f"image {index}", "it is empty")

    with pytest.raises(ValueError, match="900 images are corrupt, 899 are allowed") as caught:
        read_data(Bad(), 1_000, shape=(1, 4, 4), corrupt=899)
    assert len(str(caught.value)) < 2_000 and "and 880 before them" in str(caught.value)
