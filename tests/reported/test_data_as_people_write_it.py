"""Folders, tables, labels, paths and shards as people write them: read as meant, or refused by name."""

import io
import json
import os
import sys
import tarfile
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from pipelines import pixels, stable

from vardiu.cli.main import main
from vardiu.data.sources import account, read_data, records
from vardiu.data.texts import read_prompts
from vardiu.errors import ConfigError
from vardiu.problems.image_data import refuse_classes
from vardiu.problems.images import ImageProblem
from vardiu.runs.errors import short_warnings
from vardiu.settings.fields import ImageSettings

SHAPE = (1, 4, 4)


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


def png(value=0):
    stream = io.BytesIO()
    Image.new("L", (4, 4), value).save(stream, "PNG")
    return stream.getvalue()


def put(folder, *names):
    """Images whose grey is their place among the names."""
    for value, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(value))
    return folder


def tar(path, *members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def labels(source):
    """The class of each image, by its grey."""
    x, cond = read_data(str(source), 99, shape=SHAPE)
    greys = ((x[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()
    return dict(sorted(zip(greys, cond["label"].tolist(), strict=True)))


def said(source):
    """What is warned of while a source is read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = records(str(source))
    return found, "\n".join(str(warning.message) for warning in caught)


# ---------------------------------------------------------------- class folders


@pytest.mark.parametrize(
    "names",
    [
        [str(i) for i in range(12)],
        [f"class{i}" for i in range(12)],
        [f"{i} kinds of" for i in range(12)],
        ["1.9", "1.10", "2.1"],
        ["a", "a2", "a10", "b"],
        ["007", "8", "11"],
    ],
)
def test_class_folders_count_in_natural_order_and_say_so(tmp_path, names):
    put(tmp_path, *(f"{name}/a.png" for name in names))
    assert labels(tmp_path) == {i: i for i in range(len(names))}
    lines = account(records(str(tmp_path)))
    assert lines[0] == f"{len(names)} images"
    shown = ", ".join(f"{i} = {name}" for i, name in enumerate(names))
    assert lines[1] == f"classes, in natural order of their names: {shown}"


LITTER = [".ipynb_checkpoints/a-checkpoint.png", "._a.png", "__MACOSX/._a.png", ".hidden/b.png"]


@pytest.mark.parametrize("classes", [False, True])
def test_what_systems_leave_behind_is_no_class_and_no_image(tmp_path, classes):
    good = ["x/a.png", "x/b.png", "y/a.png"] if classes else ["a.png", "b.png", "c.png"]
    put(tmp_path, *good)
    for name in (*LITTER, "Thumbs.db", ".DS_Store", "desktop.ini", "@eaDir/c.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
        if classes and "/" not in name:
            (tmp_path / "x" / name).write_bytes(b"\0\5\x16\7")
    found, told = said(tmp_path)
    assert len(found) == 3
    assert list(found.stated_classes()) == ([0, 0, 1] if classes else [None] * 3)
    assert f"left out: {6 if classes else 5} hidden images, such as" in told
    assert "Thumbs" not in told and "DS_Store" not in told


def test_every_image_that_is_left_out_is_counted_with_the_reason_and_an_example(tmp_path):
    put(tmp_path, "a.png", "b.png")
    for name in ("c.heic", "d.heic", "e.avif", "noname", "notes.txt", "e.json"):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "f.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "a.txt").write_text("a caption")
    found, told = said(tmp_path)
    assert len(found) == 2
    for line in (
        "2 of the suffix .heic, which is not read, such as",
        "1 of the suffix .avif, which is not read, such as",
        "1 without a suffix, which is not read, such as",
        "1 of the suffix .txt without an image of their name, such as",
        "1 of the suffix .json, which is not read",
        "2 that are no regular files, such as",
    ):
        assert f"left out: {line}" in told, told
    assert found.item(0).caption == "a caption"
    put(tmp_path / "none", "x.heic")
    (tmp_path / "none/x.heic").rename(tmp_path / "none/x.HEIC")
    with pytest.raises(ConfigError, match=r"holds no image .*left out: 1 of the suffix .heic"):
        records(str(tmp_path / "none"))


def test_a_link_that_leads_nowhere_is_a_corrupt_image(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"b.png: cannot be read: No such file"):
        read_data(str(tmp_path), 9, shape=SHAPE)


def test_names_with_escape_sequences_are_shown_escaped(tmp_path):
    (tmp_path / "\x1b]0;x\x07.png").write_bytes(b"broken")
    (tmp_path / "\x1b[31m.heic").write_bytes(b"x")
    _, told = said(tmp_path)
    assert r"\x1b[31m.heic" in told and told.replace("\n", "").isprintable()
    with warnings.catch_warnings(), pytest.raises(ValueError, match="corrupt") as caught:
        warnings.simplefilter("ignore")
        read_data(str(tmp_path), 1, shape=SHAPE)
    assert r"\x1b]0;x\x07.png" in str(caught.value) and str(caught.value).isprintable()


def test_one_stray_shard_does_not_hide_a_folder_nor_one_image_a_folder_of_shards(tmp_path):
    put(tmp_path / "images", "a.png", "b.png", "c.png")
    tar(tmp_path / "images" / "stray.tar", ("z.png", png()))
    found, told = said(tmp_path / "images")
    assert len(found) == 3 and "left out: 1 of the suffix .tar, which is not read" in told
    for i in range(3):
        (tmp_path / "shards").mkdir(exist_ok=True)
        tar(tmp_path / "shards" / f"{i}.tar", (f"{i}0.png", png()), (f"{i}1.png", png()))
    put(tmp_path / "shards", "preview.png")
    found, told = said(tmp_path / "shards")
    assert len(found) == 6 and "left out: 1 images beside shards, such as" in told


# ---------------------------------------------------------------- tables beside images

ROWS = [("a.png", 3), ("b.png", 1), ("sub/c.png", 3)]


def write_table(path, rows, columns=("file_name", "label")):
    kind = path.suffix
    if kind == ".jsonl":
        text = "\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows) + "\n"
        path.write_text(text, encoding="utf-8-sig")
    elif kind == ".csv":
        path.write_text("\r\n".join(",".join(map(str, row)) for row in [columns, *rows]))
    else:
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(
            arrow.table(dict(zip(columns, zip(*rows, strict=True), strict=True))), path
        )


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_metadata_states_classes_and_captions(tmp_path, kind):
    put(tmp_path, "a.png", "b.png", "sub/c.png")
    rows = [(*row, f"text of {row[0]}", "x") for row in ROWS]
    write_table(tmp_path / f"metadata.{kind}", rows, ("file_name", "label", "text", "url"))
    found, told = said(tmp_path)
    assert list(found.stated_classes()) == [3, 1, 3]
    assert [found.item(i).caption for i in range(3)] == [row[2] for row in rows]
    assert f"1 columns of metadata.{kind} that are not read, such as url" in told
    assert labels(tmp_path) == {0: 3, 1: 1, 2: 3}


def test_words_of_a_table_are_classes_in_natural_order(tmp_path):
    put(tmp_path, "a.png", "b.png", "c.png")
    rows = [("./c.png", "kind 10"), ("a.png", "kind 9"), ("b.png", "kind 10")]
    write_table(tmp_path / "metadata.csv", rows)
    assert labels(tmp_path) == {0: 0, 1: 1, 2: 1}
    assert "0 = kind 9, 1 = kind 10" in account(records(str(tmp_path)))[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"file_name": "a.png", "label": 0}\n', "states no class for b.png"),
        ('{"name": "a.png", "label": 0}\n', "must have `file_name`"),
        ('{"file_name": "a.png", "label": 0}\n{"file_name":\n', ", line 2 is not"),
        ('{"file_name": "a.png", "label": 0}\n{"file_name": "a.png", "label": 1}', "two classes"),
        ('{"file_name": "a.png", "label": 0}\n{"file_name": "b.png", "label": "x"}', "words and"),
        ('{"file_name": "a.png", "label": [0]}\n{"file_name": "b.png", "label": [0]}', "whole"),
        ('{"file_name": "a.png", "label": 1e999}\n{"file_name": "b.png", "label": 1}', "whole"),
        ('{"file_name": 3, "label": 0}\n', "file_name must be a text"),
        ("[1]\n", "a row must be a mapping"),
    ],
)
def test_a_table_that_is_wrong_is_named(tmp_path, text, words):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=f"metadata.jsonl.*{words}"):
        records(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["[1]", "null", "", '{"labels": 3}', '{"labels": [["a.png", null]]}', '{"labels": [["a.png"]]}',
     '{"labels": [["a.png", 1e999]]}', '{"labels": [[1, 2]]}', '{"labels": [["a.png", 0.5]]}'],
)  # fmt: skip
def test_a_dataset_json_that_is_damaged_is_named(tmp_path, text):
    put(tmp_path, "a.png")
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ConfigError, match="dataset.json"):
        records(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metadata.csv", "file_name,label\na.png,1\nb.png,\n", "states no class for b.png"),
        ("metadata.csv", "file_name,label\na.png,1\nb.png,  \n", "states no class for b.png"),
        ("metadata.csv", "file_name,label,label\na.png,1,2\nb.png,1,2\n", "two columns .* label"),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "label": NaN}\n{"file_name": "b.png", "label": 0}',
            "its class is nan",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "label": 1, "label": 2}\n{"file_name": "b.png", "label": 0}',
            "line 1 is not JSON: it states label twice",
        ),
        ("metadata.csv", "file_name,label\na.png,1\nb.png,0\n\0", "has a null character"),
    ],
)
def test_what_a_table_leaves_open_is_refused_by_its_name(tmp_path, name, text, words):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=f"{name}.*{words}"):
        records(str(tmp_path))


def test_a_dataset_json_without_classes_means_none(tmp_path):
    """EDM's tool writes null, and images in folders 00000, 00001 that are no classes."""
    put(tmp_path, "00000/img00000000.png", "00001/img00001000.png")
    (tmp_path / "dataset.json").write_text('{"labels": null}')
    found = records(str(tmp_path))
    assert list(found.stated_classes()) == [None, None]
    assert account(found)[1].endswith("dataset.json states none")


def test_names_are_compared_in_one_normal_form(tmp_path):
    put(tmp_path, unicodedata.normalize("NFD", "é.png"))
    rows = {"labels": [[unicodedata.normalize("NFC", "é.png"), 4], ["gone.png", 1]]}
    (tmp_path / "dataset.json").write_text(json.dumps(rows))
    found, told = said(tmp_path)
    assert list(found.stated_classes()) == [4]
    assert "1 rows of dataset.json whose image is not there, such as gone.png" in told


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("names", "label"),
    [(("x", "label"), 1), (("arr_0", "arr_1"), 1), (("images", "labels"), 1), (("x_train", "y_train"), 1),
     (("data", "targets"), 1)],
)  # fmt: skip
def test_arrays_by_the_names_that_people_give(tmp_path, names, label):
    x = np.arange(4 * 16, dtype=np.uint8).reshape(4, 4, 4)
    y = np.array([3, 1, 2, 0]).astype(np.float64 if label else np.int64)
    np.savez(tmp_path / "a.npz", **{names[0]: x, names[1]: y}, other=np.zeros(3))
    found, told = said(tmp_path / "a.npz")
    assert list(found.stated_classes()) == [3, 1, 2, 0]
    assert "1 arrays that are not read, such as" in told and "other" in told


@pytest.mark.parametrize("y", [np.eye(4), np.array([0.5, 1, 2, 3]), np.array([np.nan, 1, 2, 3])])
def test_classes_that_are_no_whole_numbers_are_refused(tmp_path, y):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 4, 4), np.uint8), y=y)
    with pytest.raises(ConfigError, match=r"a.npz: .*class"):
        records(str(tmp_path / "a.npz"))


# ---------------------------------------------------------------- shards


def test_names_with_dots_are_images_of_a_shard(tmp_path):
    shard = tar(
        tmp_path / "a.tar",
        *[("22.05.png", png(0)), ("22.05.cls", b"7"), ("a.png", png(1)), ("a.cls", b"8")],
        *[("b.v1.0.PNG", png(2)), ("b.v1.0.json", b'{"label": 9}')],
    )
    found, told = said(shard)
    assert not told and len(found) == 3
    assert {item.name.rpartition(":")[2]: item.label for item in map(found.item, range(3))} == {
        "a.png": 8, "22.05.png": 7, "b.v1.0.png": 9,
    }  # fmt: skip


def test_parts_of_an_image_are_no_images_and_what_is_left_out_of_a_shard_is_said(tmp_path):
    shard = tar(
        tmp_path / "a.tar",
        *[("a.png", png()), ("a.seg.png", png()), ("a.jpg", png()), ("b.jp2", b"x")],
        *[("c.cls", b"1"), ("._a.png", b"x"), ("a.png", png(9)), ("README", b"x")],
    )
    found, told = said(shard)
    assert len(found) == 1
    for line in (
        "1 members of the suffix .seg.png, which is not read",
        "1 images whose place one of the same name and .png has",
        "1 members of the suffix .jp2",
        "1 members without an image of their name",
        "1 hidden images",
        "1 members that come again later in their shard",
        "1 members without a suffix",
    ):
        assert line in told, told
    with pytest.raises(
        ConfigError, match=r"hold no image .*left out: 1 members of the suffix .jp2"
    ):
        records(str(tar(tmp_path / "b.tar", ("b.jp2", b"x"))))


@pytest.mark.parametrize("names", [("label", "text"), ("labels", "caption"), ("class", "prompt")])
def test_parquet_by_the_names_that_people_give(tmp_path, names):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "img": [png(i) for i in range(3)],
        names[0]: [2, None, 0],
        names[1]: ["a", "b", "c"],
    }
    parquet.write_table(arrow.table({**columns, "fine_label": [1, 2, 3]}), tmp_path / "a.parquet")
    found, told = said(tmp_path / "a.parquet")
    assert list(found.stated_classes()) == [2, None, 0] and found.item(2).caption == "c"
    assert "1 columns that are not read" in told and "fine_label" in told


# ---------------------------------------------------------------- paths


def test_paths_as_people_write_them(tmp_path, monkeypatch):
    folder = put(tmp_path / "my faces [1] é", "a.png", "b.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    name = folder.name
    decomposed = unicodedata.normalize("NFD", name)
    for source in (
        *(str(folder), f"{folder}/", f"~/{name}", f"./{name}/", f" {folder} ", folder.as_uri()),
        *(decomposed, f"{folder}//", f"{name}/../{name}", f"{tmp_path}/my*/*.png", "**/*.png"),
    ):
        assert len(records(source)) == 2, source


def test_what_is_not_read_is_refused_with_the_cure(tmp_path):
    put(tmp_path / "a", "x.png")
    put(tmp_path / "b", "x.png")
    for name in ("c.zip", "d.tar.gz", "e.pt", "f.h5", "g.xyz", "h.csv"):
        (tmp_path / name).write_bytes(b"x")
    np.save(tmp_path / "i.npy", np.zeros((2, 4, 4), np.uint8))
    np.save(tmp_path / "j.npy", np.zeros((2, 4, 4), np.uint8))
    for source, words in {
        "c.zip": "unpack it",
        "d.tar.gz": "uncompress it",
        "e.pt": "pickles are never opened",
        "f.h5": "save an .npz",
        "g.xyz": "of no kind that is known; give a folder of images, an .npz",
        "h.csv": "holds no image",
        "?": "names 2 of them, as .*give one",
        "*.npy": "names 2 of them",
        "[ac]*": "files of several kinds, as",
        "none*": "there is no data",
        "s-{9..2}.tar": "counts down",
        "s-{0..99999999999}.tar": "files that a pattern names, and at most",
    }.items():
        with pytest.raises(ConfigError, match=words):
            records(str(tmp_path / source))
    for source, words in {
        "https://a.b/c.zip": "is an address",
        "s3://bucket/x": "is an address",
        "Digits": "did you mean digits",
        "": "is empty",
        "a\0b": "there is no data",
    }.items():
        with pytest.raises(ConfigError, match=words):
            records(source)


# ---------------------------------------------------------------- prompts


def test_a_caption_of_the_web_is_one_line(tmp_path):
    for name, end in (("a.txt", "\n"), ("b.txt", "\r\n"), ("c.txt", "\r")):
        text = end.join(["a cat\u2028on a mat", "", "a\x0bdog\x85"]) + end
        (tmp_path / name).write_bytes(text.encode())
        assert read_prompts(str(tmp_path / name)) == ["a cat\u2028on a mat", "a\x0bdog"]


def test_rows_without_a_prompt_are_counted(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": " "}\n')
    with pytest.warns(UserWarning, match="left out: 2 rows without a prompt, such as row 2"):
        assert read_prompts(str(tmp_path / "p.jsonl")) == ["a"]


def test_letters_of_two_bytes_without_a_mark_are_no_prompts(tmp_path):
    (tmp_path / "p.txt").write_bytes("a cat\n".encode("utf-16-le"))
    with pytest.raises(
        ConfigError, match=r"p.txt, line 1: it is not text: it has a null character"
    ):
        read_prompts(str(tmp_path / "p.txt"))


def test_two_statements_of_a_class_in_a_shard_agree(tmp_path):
    image = ("a.png", png())
    shard = tar(tmp_path / "a.tar", image, ("a.cls", b"1"), ("a.json", b'{"label": 2}'))
    with pytest.raises(ValueError, match="a.png: .*.cls states the class 1 and .json 2"):
        read_data(str(shard), 1, shape=SHAPE)
    for about in (b'{"label": 1}', b'{"label": "cat"}', b"{}"):
        shard = tar(tmp_path / "b.tar", image, ("a.cls", b"1"), ("a.json", about))
        assert labels(shard) == {0: 1}


def test_an_array_of_no_image_is_refused_by_name(tmp_path):
    np.save(tmp_path / "none.npy", np.zeros((0, 4, 4), np.uint8))
    with pytest.raises(ConfigError, match="none.npy holds no image"):
        records(str(tmp_path / "none.npy"))


def test_prompts_from_every_table(tmp_path):
    wanted = ["a cat", "two, dogs", "é"]
    write = {
        "a.txt": "a cat\n\n  two, dogs \né\n",
        "a": "a cat\r\ntwo, dogs\r\né",
        "a.csv": 'id,caption\n1,a cat\n2,"two, dogs"\n3,é\n',
        "b.csv": 'id;Prompt\n1;a cat\n2;two, dogs\n3;é\n',
        "a.tsv": "Prompt\tCategory\na cat\tx\ntwo, dogs\ty\né\tz\n",
        "a.jsonl": '"a cat"\n{"text": "two, dogs"}\n{"text": "é"}\n',
        "a.json": json.dumps(wanted),
        "b.json": json.dumps([{"prompt": p} for p in wanted]),
    }  # fmt: skip
    for name, text in write.items():
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            (tmp_path / name).write_text(text, encoding=encoding)
            assert read_prompts(str(tmp_path / name)) == wanted, (name, encoding)
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table({"text": wanted, "x": [1, 2, 3]}), tmp_path / "a.parquet")
    assert read_prompts(str(tmp_path / "a.parquet")) == wanted


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.txt", b"\xe9t\xe9", "line 1: byte 0xe9 is not UTF-8"),
        ("a.csv", b"id,words\n1,a\n", "prompts are read from one of text, caption, prompt"),
        ("a.csv", b"prompt\na, b\n", "row 2 has 2 fields"),
        ("a.json", b'{"annotations": []}', "must hold a list of rows"),
        ("a.jsonl", b'{"text": 3}\n', "a prompt must be a text, got 3"),
        ("a.docx", b"PK", "is of no kind that prompts are read from"),
        ("a.txt", b"x" * 30_000, "30,000 characters of a prompt, and at most"),
        ("a.parquet", b"PAR1", "is not a parquet file"),
    ],
)
def test_prompts_that_cannot_be_read_are_named(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=f"{name} .*{words}|{name}.*{words}"):
        read_prompts(str(tmp_path / name))
    with pytest.raises(ConfigError, match="is a folder"):
        read_prompts(str(tmp_path))


# ---------------------------------------------------------------- the teacher's classes


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([1, 2, 3, 4], "image 3 has class 4, and the teacher has 4 .*counted from 1: subtract 1"),
        ([-1, 0, 1, 2], "image 0 has class -1"),
        ([0, 100, 200, 300], "image 1 has class 100, and the teacher has 4 classes, 0 to 3"),
        (None, "gives no classes .*the teacher takes one of 4"),
    ],
)
def test_classes_that_the_teacher_has_not_are_refused(tmp_path, y, words):
    arrays = {} if y is None else {"y": np.array(y)}
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 4, 4), np.uint8), **arrays)
    with pytest.raises(ConfigError, match=f"a.npz:? .*{words}"):
        refuse_classes(records(str(tmp_path / "a.npz")), "a.npz", 4)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["3", "7"], "has 2 class folders .0 = 3, 1 = 7., and the teacher has 4 classes: which"),
        (["0", "1", "3"], "which is which is not known"),
        (["cat", "dog"], "which is which is not known"),
        (["0", "1", "2"], None),
        (["1", "2", "3", "4"], None),
        (["a", "b", "c", "d"], None),
        (["0", "1", "2", "3", "4"], "image 4 has class 4"),
    ],
)
def test_class_folders_of_another_number_are_refused_where_it_matters(tmp_path, names, words):
    put(tmp_path, *(f"{name}/a.png" for name in names))
    found = records(str(tmp_path))
    if words is None:
        refuse_classes(found, str(tmp_path), 4)
    else:
        with pytest.raises(ConfigError, match=words):
            refuse_classes(found, str(tmp_path), 4)


def test_why_there_are_no_classes_is_said(tmp_path):
    for name, images, words in (
        ("flat", ["a.png"], "its images lie in no sub-folders"),
        ("mixed", ["a.png", "x/a.png"], "a.png lies beside class folders"),
        ("deep", ["train/x/a.png"], "a.png lies two folders deep"),
    ):
        with pytest.raises(ConfigError, match=f"{name} gives no classes .*{words}"):
            refuse_classes(records(str(put(tmp_path / name, *images))), name, 4)
    with pytest.raises(ConfigError, match=r"a.tar gives no classes \(it states none\)"):
        refuse_classes(records(str(tar(tmp_path / "a.tar", ("a.png", png())))), "a.tar", 4)
    shard = tar(tmp_path / "b.tar", ("a.png", png()), ("a.cls", b"2"), ("b.png", png()))
    with pytest.raises(ConfigError, match="b.tar: image 1 has no class, and others have"):
        refuse_classes(records(str(shard)), "b.tar", 4)


def test_a_command_says_so_in_one_line_before_any_training(here, refused):
    pixels("teacher")
    put(here / "flat", *(f"{i}.png" for i in range(4)))
    words = ["--teacher", "teacher", "--data", "flat", "--out", "run"]
    assert "flat gives no classes" in refused("probe", *words[:4])
    assert "flat gives no classes" in refused("distill", *words)
    assert not list((here / "run").glob("checkpoints/*"))


def test_a_probe_says_what_it_read(here, capsys):
    pixels("teacher")
    put(here / "data", *(f"{i}/a.png" for i in range(10)))
    (here / "data" / "0" / "b.heic").write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda *told, **_: print(told[0], file=sys.stderr)
        main(["probe", "--teacher", "teacher", "--data", "data"])
    out, errors = capsys.readouterr()
    assert "data: 10 images\ndata: classes, in natural order of their names: 0 = 0, 1 = 1" in out
    # What is left out is told once, whoever opens the data again.
    assert errors.count("left out") == 1 and "left out" not in out
    assert "data: left out: 1 of the suffix .heic, which is not read, such as" in errors


def test_a_teacher_of_texts_takes_the_captions_of_images_that_are_among_its_prompts(here):
    """And never a class folder for the number of a prompt."""
    stable("teacher")
    put(here / "data", "0/a.png", "1/b.png", "1/c.png")
    (here / "prompts.csv").write_text("prompt\na dog\na cat\na bird\n")
    row = {"teacher": "teacher", "data": "data", "prompts": "prompts.csv", "reference": 200}
    with pytest.raises(ConfigError, match="png has no caption"):
        ImageProblem(ImageSettings(**row)).data.clean(3, 0)
    texts = [("0/a.png", "a cat"), ("1/b.png", "a bird"), ("1/c.png", "a dog")]
    write_table(here / "data/metadata.csv", texts, ("file_name", "text"))
    data = ImageProblem(ImageSettings(**row)).data
    batch = next(data.clean(3, 0))
    assert sorted(batch.cond["label"].tolist()) == [0, 1, 2] and set(batch.cond) == {"label"}
    assert not data.images[1]
    write_table(
        here / "data/metadata.csv", [*texts[:2], ("1/c.png", "a fish")], ("file_name", "text")
    )
    with pytest.raises(ConfigError, match="data: the caption a fish is none of prompts.csv"):
        ImageProblem(ImageSettings(**row)).data.clean(3, 0)


def test_warnings_of_a_command_are_one_line_each():
    import vardiu.data.sources as module

    given = (UserWarning("data: left out"), UserWarning)
    with short_warnings():
        assert warnings.formatwarning(*given, module.__file__, 3) == "warning: data: left out\n"
        assert "UserWarning" in warnings.formatwarning(*given, "other.py", 3)
    assert "UserWarning" in warnings.formatwarning(*given, module.__file__, 3)
