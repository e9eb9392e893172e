"""Images in folders and arrays: values, order, resumption, and what is corrupt."""

import io
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from vardiu.data import sources
from vardiu.data.images import Corrupt, ImageBatches, TooManyCorrupt, decode, to_tensor
from vardiu.data.photos import PHOTOS, photo, photos
from vardiu.data.records import Tensors
from vardiu.data.sources import open_data, read_data
from vardiu.errors import ConfigError


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


def picture(value, size=(4, 4)):
    return Image.new("RGB", size, (value, 255 - value, 7))


def folder(path, n=12):
    """Pictures whose red is their number, in two classes."""
    for i in range(n):
        place = path / ("b" if i % 3 else "a")
        place.mkdir(parents=True, exist_ok=True)
        picture(i).save(place / f"{i:03}.png")
    return path


def numbers(batch):
    return ((batch.x[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()


# ---------------------------------------------------------------- values


def test_bytes_are_scaled_and_channels_first():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    x = to_tensor(Image.fromarray(pixels), (3, 4, 4))
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(x, expected)
    assert to_tensor(Image.new("RGB", (4, 4), (255, 0, 0)), (3, 2, 2))[0].eq(1).all()


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (96, "a batch of 96 needs as many images, and there are 12: give --batch 12 or less"),
        (0, "a batch must have at least one row, got 0"),
    ],
)
def test_a_batch_larger_than_the_data_is_refused_with_the_cure(size, said):
    found = Tensors(torch.zeros(12, 3, 4, 4), torch.zeros(12, dtype=torch.int64))
    with pytest.raises(ConfigError, match=said):
        ImageBatches(found, (3, 4, 4), size)
    assert ImageBatches(found, (3, 4, 4), 12).at(0).x.shape == (12, 3, 4, 4)


def test_the_centre_is_cut_out():
    # White in the middle half, black at both sides: of 8x4 the middle 4x4 is left.
    pixels = np.zeros((4, 8), dtype=np.uint8)
    pixels[:, 2:6] = 255
    assert to_tensor(Image.fromarray(pixels), (1, 4, 4)).eq(1).all()
    assert to_tensor(Image.fromarray(pixels.T.copy()), (1, 4, 4)).eq(1).all()


def test_a_reduced_image_keeps_its_mean():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    x = to_tensor(Image.fromarray(pixels), (1, 8, 8))
    assert x.mean().item() == pytest.approx(pixels.mean() / 127.5 - 1, abs=0.01)
    # One in two pixels without a filter would keep the spread of single pixels.
    assert x.std() < 0.4 * (pixels.std() / 127.5)


def test_sixteen_bits_and_palettes_are_scaled():
    deep = Image.fromarray(np.full((2, 2), 65535, dtype=np.uint16))
    assert to_tensor(deep, (1, 2, 2)).eq(1).all()
    assert to_tensor(picture(255).convert("P"), (3, 4, 4))[0].eq(1).all()


def test_shapes_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match="one channel or three"):
        to_tensor(picture(1), (2, 4, 4))
    with pytest.raises(ValueError, match=r"expected \(3, 8, 8\)"):
        to_tensor(torch.zeros(3, 4, 4), (3, 8, 8))


# ---------------------------------------------------------------- order


def test_folders_are_classes_in_order(tmp_path):
    folder(tmp_path)
    x, cond = read_data(str(tmp_path), 12)
    assert x.shape == (12, 3, 4, 4)
    assert cond["label"].tolist() == [0] * 4 + [1] * 8
    assert read_data(str(tmp_path), 3)[0].shape[0] == 3
    _, none = read_data(str(tmp_path), 12, labels=False)
    assert not none


def test_a_stated_class_goes_before_a_folder(tmp_path):
    folder(tmp_path)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    rows = [[name, i % 4] for i, name in enumerate(names)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": rows}))
    assert read_data(str(tmp_path), 12)[1]["label"].tolist() == [0, 1, 2, 3] * 3
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": rows[1:]}))
    with pytest.raises(ConfigError, match="states no class for a/000.png"):
        read_data(str(tmp_path), 12)


def test_an_epoch_is_every_image_once_and_another_each_time(tmp_path):
    batches = open_data(str(folder(tmp_path)), batch=4)
    epochs = [[n for _ in range(3) for n in numbers(next(batches))] for _ in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = open_data(str(tmp_path), batch=4)
    assert [n for _ in range(3) for n in numbers(next(again))] == epochs[0]
    other = open_data(str(tmp_path), batch=4, seed=1)
    assert [n for _ in range(3) for n in numbers(next(other))] != epochs[0]


@pytest.mark.parametrize("place", [0, 1, 2, 5])
def test_it_goes_on_at_any_place(tmp_path, place):
    source = str(folder(tmp_path))
    batches = open_data(source, batch=5)
    for _ in range(place):
        next(batches)
    state = json.loads(json.dumps(batches.state_dict()))
    expected = [numbers(next(batches)) for _ in range(6)]
    again = open_data(source, batch=5)
    again.load_state_dict(state)
    assert [numbers(next(again)) for _ in range(6)] == expected


def test_processes_share_a_batch(tmp_path):
    source = str(folder(tmp_path))
    whole = open_data(source, batch=6)
    parts = [open_data(source, batch=6) for _ in range(2)]
    for rank, part in enumerate(parts):
        part.rank, part.world = rank, 2
    for _ in range(5):
        assert numbers(next(whole)) == [n for part in parts for n in numbers(next(part))]


# ---------------------------------------------------------------- corrupt


def spoil(path, n):
    files = sorted(path.rglob("*.png"))[:n]
    for i, file in enumerate(files):
        data = file.read_bytes()
        file.write_bytes([b"", data[: len(data) // 2], b"not an image"][i % 3])
    return [str(file) for file in files]


@pytest.mark.parametrize(
    ("bad", "allowed", "words"),
    [
        (1, 0, "1 image is corrupt, 0 are allowed"),
        (2, 1, "2 images are corrupt, 1 is allowed"),
        (3, 2, "3 images are corrupt, 2 are allowed"),
    ],
)
def test_one_more_than_allowed_stops_and_names_all(tmp_path, bad, allowed, words):
    names = spoil(folder(tmp_path), bad)
    batches = open_data(str(tmp_path), batch=4, corrupt=allowed)
    with warnings.catch_warnings(), pytest.raises(TooManyCorrupt) as caught:
        warnings.simplefilter("ignore")
        for _ in range(3):
            next(batches)
    assert all(name in str(caught.value) for name in names)
    assert words in str(caught.value)


def test_those_allowed_are_left_out_and_named_once(tmp_path):
    names = spoil(folder(tmp_path), 3)
    batches = open_data(str(tmp_path), batch=4, corrupt=3)
    with pytest.warns(UserWarning, match="corrupt, and left out") as caught:
        seen = [n for _ in range(6) for n in numbers(next(batches))]
    assert len([w for w in caught if "corrupt" in str(w.message)]) == 3
    assert sorted(batches.corrupt) == sorted(names)
    assert set(seen) == set(range(12)) - {0, 3, 6}
    state = batches.state_dict()
    again = open_data(str(tmp_path), batch=4, corrupt=3)
    again.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they were named before
        next(again)
    assert again.corrupt == batches.corrupt


def test_where_one_is_left_out_ranks_still_agree(tmp_path):
    spoil(folder(tmp_path), 2)
    whole = open_data(str(tmp_path), batch=6, corrupt=2)
    parts = [open_data(str(tmp_path), batch=6, corrupt=2) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rank, part in enumerate(parts):
            part.rank, part.world = rank, 2
        for _ in range(4):
            assert numbers(next(whole)) == [n for part in parts for n in numbers(next(part))]


def test_a_bomb_is_corrupt(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    stream = io.BytesIO()
    picture(3, (6, 6)).save(stream, "PNG")
    with pytest.raises(Corrupt, match="some/name: .*bomb"):
        decode(stream.getvalue(), "some/name")


# ---------------------------------------------------------------- arrays


def test_arrays_of_bytes_and_floats_in_both_orders(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 4)).astype(np.uint8)
    label = np.arange(7) % 3
    expected = torch.from_numpy(x).float() / 127.5 - 1
    np.savez(tmp_path / "a.npz", images=x.transpose(0, 2, 3, 1), labels=label)
    np.savez(tmp_path / "b.npz", x=expected.numpy(), y=label)
    np.save(tmp_path / "c.npy", x)
    for name in ("a.npz", "b.npz", "c.npy"):
        found, cond = read_data(str(tmp_path / name), 7)
        assert torch.allclose(found, expected, atol=1e-6), name
        assert name == "c.npy" or cond["label"].tolist() == label.tolist()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((4, 5, 6, 7), np.uint8)}, "one channel or three"),
        ({"x": np.zeros((4, 3, 6, 6), np.int64)}, "bytes or floats"),
        ({"x": np.full((4, 3, 6, 6), 200.0)}, r"floats must be in \[-1, 1\]"),
        ({"x": np.zeros((4, 3, 6, 6), np.uint8), "y": np.zeros(3)}, r"classes must have shape"),
        ({"faces": np.zeros((4, 3, 6, 6), np.uint8)}, r"holds \['faces'\]"),
        ({"x": np.zeros(4, np.uint8)}, "three or four axes"),
        ({"x": np.zeros((4, 3, 8, 3), np.uint8)}, "may be NCHW or NHWC"),
        ({"x": np.linspace(0, 1, 48).reshape(1, 3, 4, 4)}, r"floats are in \[0, 1\]"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ConfigError, match=words):
        read_data(str(tmp_path / "a.npz"), 2)


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="cannot be read as an array"):
        read_data(str(tmp_path / "a.npy"), 1)


def test_values_that_are_not_finite_are_corrupt(tmp_path):
    x = np.zeros((4, 1, 2, 2), np.float32)
    x[2, 0, 0, 0] = np.nan
    np.savez(tmp_path / "a.npz", x=x)
    with pytest.raises(TooManyCorrupt, match=r"a.npz\[2\]: values are not finite"):
        read_data(str(tmp_path / "a.npz"), 4)


# ---------------------------------------------------------------- sources


def test_links_are_followed_and_loops_end(tmp_path):
    folder(tmp_path / "real", 6)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "c").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "linked" / "c2").symlink_to(tmp_path / "linked")
    assert len(read_data(str(tmp_path / "linked"), 9)[0]) == 2


def test_sizes_that_differ_need_a_shape(tmp_path):
    picture(1).save(tmp_path / "a.png")
    picture(2, (8, 8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="4x4 pixels and of 8x8: give the shape"):
        read_data(str(tmp_path), 2)
    assert read_data(str(tmp_path), 2, shape=(3, 4, 4))[0].shape == (2, 3, 4, 4)


def test_a_turned_camera_is_turned_back(tmp_path):
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[0] = 255  # the upper row
    image = Image.fromarray(pixels)
    about = image.getexif()
    about[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=about)
    x, _ = read_data(str(tmp_path), 1)
    assert x[0, 0, -1].eq(1).all() and x[0, 0, 0].eq(-1).all()


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="there is no data at .*one of: digits, photos"):
        read_data(str(tmp_path / "none"), 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no image"):
        read_data(str(tmp_path / "empty"), 3)
    picture(1).save(tmp_path / "one.png")
    with pytest.raises(ConfigError, match="give its folder"):
        read_data(str(tmp_path / "one.png"), 3)
    with pytest.raises(
        ValueError, match="a batch of 2000 needs as many images, and there are 1797"
    ):
        open_data("digits", batch=2000)


def test_a_hub_needs_its_library():
    try:
        import datasets  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ConfigError, match="datasets is needed here"):
            read_data("hf://someone/faces:test", 3)


def test_patterns_are_expanded():
    assert sources.expand("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert sources.expand("plain") == ["plain"]


def test_some_images_without_a_class_are_refused():
    records = Tensors(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1]))
    batches = ImageBatches(records, (1, 2, 2), 4, shuffle=False)
    item = records.item
    records.item = lambda i: item(i)._replace(label=None) if i == 2 else item(i)
    with pytest.raises(ValueError, match="image 2 has no class"):
        next(batches)


# ---------------------------------------------------------------- photographs


def test_patches_of_photographs_are_real_and_many():
    for name in PHOTOS:
        x = photo(name)
        assert x.shape[0] == 3 and min(x.shape[1:]) >= 300 and -1 <= x.min() < x.max() <= 1
    assert len(photos(16)) > 10_000 and photos(16).shape[1:] == (3, 16, 16)
    assert photos(16) is photos(16)
    with pytest.raises(ConfigError, match="8, 16 or 32"):
        photos(20)


def test_held_out_patches_share_no_pixel_with_the_others(monkeypatch):
    from vardiu.data import photos as module

    def ramp(name):  # each pixel has the number of its column
        return torch.arange(320.0).expand(3, 200, 320)

    monkeypatch.setattr(module, "photo", ramp)
    used = module.photos.__wrapped__(16)
    held = module.photos.__wrapped__(16, held_out=True)
    for block in (2, 4):
        columns = torch.nn.functional.avg_pool2d(ramp("")[None], block)[0, 0, 0]
        edge = columns[int(0.8 * len(columns))]
        for part, inside in ((used, lambda v, e: v < e), (held, lambda v, e: v >= e)):
            own = part[(part[:, 0, 0, 1] - part[:, 0, 0, 0]) == block]
            assert len(own) and bool(inside(own, edge).all())
