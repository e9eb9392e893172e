r"""Inverse problems: a teacher, an operator by its name, and measurements or images to measure."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.folders import Folder
from ..data.images import Corrupt, Records, channels_of, to_tensor
from ..data.measurements import check_measurement, check_operator
from ..data.operators import (
    HDR,
    Blur,
    Downsampling,
    FunctionOperator,
    Inpainting,
    NonlinearBlur,
    PhaseRetrieval,
    box_mask,
    gaussian_kernel,
    line_kernel,
    random_mask,
)
from ..data.sources import SUFFIXES, records
from ..denoisers.base import Denoiser
from ..errors import ConfigError, known, shown
from ..samplers.inverse import IDENTITY, Codec, Operator
from ..storage.bounded import DAMAGED
from ..storage.code import is_source, load_code
from ..storage.limits import refuse_beyond

__all__ = [
    "OPERATORS",
    "Measured",
    "OperatorSettings",
    "codec_of",
    "greatest",
    "image_shape",
    "operator_of",
    "read_images",
    "read_measurements",
    "refuse_missing",
]


@dataclass(frozen=True)
class OperatorSettings:
    r"""What is said of an operator of the table.

    Arguments:
        mask: `box:SIDE`, `random:SHARE` of hidden pixels, or a picture, white where one is seen.
        blur: The standard deviation of a blur, in pixels.
        motion: In place of it `LENGTH` or `LENGTH:ANGLE` of a motion, in pixels and degrees.
        kernel: In place of both an array of a file, `.npy`, which sums to one.
        padding: What is beyond the edges: `circular`, `reflect`, `replicate` or `constant`.
        factor: Of a reduction.
        filter: Its filter, `box` or `bicubic`.
        exposure: Of a picture that is exposed too long.
        gamma: The power of a camera's numbers.
        oversample: Of a transform.
    """

    mask: str = "box:6"
    blur: float = 1.5
    motion: str | None = None
    kernel: str | None = None
    padding: str = "reflect"
    factor: int = 2
    filter: str = "box"
    exposure: float = 2.0
    gamma: float = 2.2
    oversample: float = 2.0


Shape = tuple[int, ...]


class Row(NamedTuple):
    r"""A row of the table: what it is, the settings that it reads, and what makes it."""

    about: str
    settings: tuple[str, ...]
    make: Callable[[OperatorSettings, Shape], Operator]


def _blur(settings: OperatorSettings, shape: Shape) -> Blur:
    if settings.kernel is not None:
        kernel = torch.from_numpy(_array(Path(settings.kernel))).float()
    elif settings.motion is not None:
        found = re.fullmatch(r"(\d{1,4})(?::(-?\d{1,3}(?:\.\d{1,6})?))?", settings.motion)
        if found is None:
            raise ConfigError(
                f"--motion: give LENGTH or LENGTH:ANGLE, got {shown(settings.motion)}"
            )
        kernel = line_kernel(int(found[1]), float(found[2] or 0))
    else:
        kernel = gaussian_kernel(settings.blur, min(shape[1:]))
    return Blur(kernel, shape, settings.padding)


def _mask(settings: OperatorSettings, shape: Shape) -> Inpainting:
    text = settings.mask
    found = re.fullmatch(r"(box|random):(\d{1,6}(?:\.\d{1,9})?)", text)
    if found is not None and found[1] == "box" and "." not in found[2]:
        mask = box_mask(int(found[2]), shape)
    elif found is not None and found[1] == "random":
        mask = random_mask(float(found[2]), shape)
    elif Path(text).is_file():
        mask = _picture_of_mask(Path(text), shape)
    else:
        raise ConfigError(
            f"--mask: give box:SIDE, random:SHARE or a picture that is white where a pixel is "
            f"seen, got {shown(text)}"
        )
    return Inpainting(mask, shape)


def _picture_of_mask(path: Path, shape: Shape) -> Tensor:
    if path.suffix.lower() == ".npy":
        return torch.from_numpy(_array(path)).float()
    image = _image(path)
    x = to_tensor(image, (1, image.height, image.width), resize=False, name=str(path))
    if not bool((x.abs() == 1).all()):
        raise ConfigError(f"the mask {shown(path)} is to be black and white, and has greys")
    return (x > 0).float()


OPERATORS: Mapping[str, Row] = {
    "inpaint": Row("pixels are hidden by a mask", ("mask",), _mask),
    "blur": Row("out of focus, or moved", ("blur", "motion", "kernel", "padding"), _blur),
    "superresolve": Row(
        "reduced by a whole factor",
        ("factor", "filter"),
        lambda s, shape: Downsampling(s.factor, shape, s.filter),
    ),
    "hdr": Row("exposed too long", ("exposure",), lambda s, shape: HDR(s.exposure)),
    "nonlinear-blur": Row(
        "a blur of light, seen by a camera",
        ("blur", "motion", "kernel", "padding", "gamma"),
        lambda s, shape: NonlinearBlur(_blur(s, shape), s.gamma),
    ),
    "phase-retrieval": Row(
        "absolute values of a Fourier transform",
        ("oversample",),
        lambda s, shape: PhaseRetrieval(s.oversample),
    ),
}


class Measured(NamedTuple):
    r"""An operator with the shape of what it makes, and what a run keeps of it."""

    operator: Operator
    shape: Shape
    about: Mapping[str, Any]


def operator_of(source: str, settings: OperatorSettings, shape: Shape) -> Measured:
    r"""Returns an operator of the table, or one of the user's own code, tested on two images.

    Own code is something with `A(x)`, and with `A_adjoint(y)` where it is linear: an object, one
    of deepinv's, or a function without arguments that returns it; or a function of images.

    Arguments:
        source: A name of `OPERATORS`, or `FILE.py:NAME`.
        settings: What is said of one of the table.
        shape: The shape of an image.

    Raises:
        ConfigError: There is none of the name, or it is not what it is declared to be.
    """
    about: dict[str, Any]
    if is_source(source):
        code = load_code(source)
        found = code.value
        if isinstance(found, type) or (callable(found) and not _takes_images(found)):
            found = code.made()
        operator = found if hasattr(found, "A") else FunctionOperator(found)
        if not callable(operator.A):
            raise ConfigError(f"{source} is neither a function of images nor has it A(x)")
        about = code.to_mapping()
    else:
        name = known(source, OPERATORS, "operator")
        row = OPERATORS[name]
        try:
            operator = row.make(settings, shape)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"--operator {name}: {error}") from error
        about = {"name": name, **{key: getattr(settings, key) for key in row.settings}}
    return Measured(operator, check_operator(operator, shape, source), about)


def _takes_images(found: Any) -> bool:  # noqa: ANN401 (the user's own)
    r"""Whether a callable is an operator, or a function of images: not one without arguments."""
    if hasattr(found, "A"):
        return True
    try:
        return bool(inspect.signature(found).parameters)
    except (TypeError, ValueError):  # a builtin states none
        return True


# ---------------------------------------------------------------- teachers


def codec_of(teacher: Denoiser) -> Codec:
    r"""Returns what leads from a teacher's samples to images and back.

    Raises:
        ConfigError: Its samples are latents, and one of the two ways is missing.
    """
    origin = teacher.origin
    decode, encode = getattr(origin, "decode", None), getattr(origin, "compress", None)
    if decode is None:
        return IDENTITY
    if encode is None:
        raise ConfigError(
            f"the teacher {shown(origin.source)} makes latents and has no encoder of images: give "
            "it compress, see docs/usage/teachers.md"
        )
    return Codec(decode, encode)


@torch.no_grad()
def image_shape(teacher: Denoiser, codec: Codec, device: torch.device) -> Shape:
    r"""Returns the shape `(C, H, W)` of a teacher's images.

    Raises:
        ConfigError: They are no images.
    """
    x = codec.decode(torch.zeros(1, *teacher.shape, device=device))
    if x.ndim != 4:
        raise ConfigError(f"the teacher's samples have shape {tuple(x.shape[1:])}: no images")
    return tuple(x.shape[1:])


# ---------------------------------------------------------------- measurements


def read_measurements(
    source: str, expected: Shape, limit: float, most: int | None
) -> tuple[list[str], Tensor]:
    r"""Returns the names of measurements and the measurements, `(N, *)`.

    Arguments:
        source: A folder of pictures, one picture, or an array `.npy` or `.npz` with a row a
            measurement; bytes are levels from 0 to 255, floats are taken as they are.
        expected: The shape of one.
        limit: The greatest absolute value that one can have.
        most: How many are read; all by default.

    Raises:
        ConfigError: They cannot be read, or an operator cannot have made them.
    """
    path = Path(source)
    if path.suffix.lower() in (".npy", ".npz"):
        array = _array(path)
        scaled = array.dtype == np.uint8
        y = torch.from_numpy(array.astype(np.float32))
        y = y / 127.5 - 1 if scaled else y
        if y.ndim == len(expected):
            y = y[None]
        y = y[:most]
        names = [f"{path.stem}-{i}" for i in range(len(y))]
        if not names:
            raise ConfigError(f"{shown(path)} holds no measurement")
    else:
        if len(expected) != 3 or expected[0] not in (1, 3):
            raise ConfigError(
                f"the operator makes {expected}, which is no picture: give --measurement as an "
                "array, .npy or .npz"
            )
        # A folder is meant where there is one, whatever data of its name are on board.
        found = _records(str(path.resolve()) if path.is_dir() else source)
        names, rows = _names(found, most), []
        for index in range(len(names)):
            rows.append(_row(found, index, expected, "the measurement", whole=False))
        y = torch.stack(rows)
    check_measurement(y, expected, names, limit)
    return names, y


def read_images(source: str, shape: Shape, most: int | None) -> tuple[list[str], Tensor]:
    r"""Returns the names of clean images and the images, `(N, C, H, W)`; larger ones are reduced.

    Arguments:
        source: Data by their name, a folder or a picture.
        shape: The shape of the teacher's images.
        most: How many are read, evenly spaced over them; all by default.

    Raises:
        ConfigError: They cannot be read, or are smaller than the teacher's.
    """
    found = _records(source)
    total = len(found)
    few = total if most is None else min(most, total)
    places = torch.linspace(0, total - 1, few).long().tolist()
    names = _names(found, None)
    rows = [_row(found, place, shape, "the image", whole=True) for place in places]
    return [names[place] for place in places], torch.stack(rows)


def refuse_missing(source: str) -> None:
    r"""Raises a `ConfigError` if there are no images or measurements of a name; reads none."""
    path = Path(source)
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return
    _records(str(path.resolve()) if path.is_dir() else source)


def greatest(measured: Measured, shape: Shape, noise: float) -> float:
    r"""Returns what no measurement of images in [-1, 1] goes beyond, but for a hair: the largest
    value of some extreme images, half as much again, and six standard deviations of the noise."""
    source = torch.Generator().manual_seed(0)
    signs = torch.randn(4, *shape, generator=source).sign()
    extremes = torch.cat([signs, torch.ones(1, *shape), -torch.ones(1, *shape)])
    with torch.no_grad():
        peak = max(measured.operator.A(row[None]).abs().max().item() for row in extremes)
    return 1.5 * peak + 6 * noise + 0.1


def _records(source: str) -> Records:
    path = Path(source)
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return Folder(path.parent, [path])
    return records(source)


def _names(found: Records, most: int | None) -> list[str]:
    r"""Returns a name an image for files: the image's own, with its number where two are alike."""
    total = len(found) if most is None else min(most, len(found))
    if not total:
        raise ConfigError("there is no image in what is to be restored")
    names = []
    for index in range(total):
        files = getattr(found, "paths", None)
        name = Path(files[index]).stem if files is not None else f"image-{index:04d}"
        names.append(re.sub(r"[^\w.-]+", "-", name)[:80] or f"image-{index:04d}")
    times = Counter(names)
    return [f"{n}-{i}" if times[n] > 1 else n for i, n in enumerate(names)]


def _row(found: Records, index: int, shape: Shape, what: str, *, whole: bool) -> Tensor:
    r"""Returns an image as a tensor; a larger one is reduced where `whole` ones are asked for."""
    try:
        item = found.item(index)
        if isinstance(item.image, Tensor):
            return to_tensor(item.image, shape, name=item.name)
        image, name = item.image, f"{what} {shown(Path(item.name).name)}"
        if image.has_transparency_data:
            raise ConfigError(
                f"{name} has an alpha channel: save it without, and give what is hidden as --mask"
            )
        if channels_of(image) != shape[0]:
            kinds = {1: "grey", 3: "of colours"}
            raise ConfigError(
                f"{name} is {kinds[channels_of(image)]}, and the teacher's images are "
                f"{kinds[shape[0]]}: convert it"
            )
        size, wanted = (image.width, image.height), (shape[2], shape[1])
        if whole and (size[0] < wanted[0] or size[1] < wanted[1]):
            raise ConfigError(
                f"{name} is too small: {size[0]}x{size[1]} pixels, and the teacher's images are "
                f"{wanted[0]}x{wanted[1]}"
            )
        if not whole and size != wanted:
            raise ConfigError(
                f"{name} has {size[0]}x{size[1]} pixels, and the operator makes "
                f"{wanted[0]}x{wanted[1]} of this teacher's images: cut it to that, or take a "
                "teacher of another resolution"
            )
        return to_tensor(image, shape, resize=whole, name=name)
    except Corrupt as error:
        raise ConfigError(f"{what} {error}") from error


def _image(path: Path) -> Any:  # noqa: ANN401 (Pillow's)
    try:
        return Folder(path.parent, [path]).item(0).image
    except Corrupt as error:
        raise ConfigError(str(error)) from error


def _array(path: Path) -> np.ndarray:
    r"""Returns the array of a file; of an `.npz` the only one, or that named `y` or `x`."""
    try:
        refuse_beyond("array bytes", path.stat().st_size, path)
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            with loaded:
                names = loaded.files
                key = next((n for n in ("y", "x") if n in names), names[0] if names else "")
                for info in loaded.zip.infolist():
                    refuse_beyond("array bytes", info.file_size, path)
                loaded = loaded[key]
    except ConfigError:
        raise
    except DAMAGED as error:
        why = shown(str(error) or type(error).__name__)
        raise ConfigError(f"{shown(path)} cannot be read as an array: {why}") from error
    if loaded.dtype.kind not in "fu" or loaded.ndim == 0:
        raise ConfigError(f"{shown(path)} holds {loaded.dtype} {loaded.shape}: floats are read")
    found: np.ndarray = loaded
    return found
