r"""What a network's pickle is read into: inert classes that keep what they are given.

Each stands for one name that published pickles use. None can be changed by a pickle: a class is
`Sealed`, and an instance refuses a state unless it says otherwise. All is checked in `__new__`,
which no way of making an object goes around.
"""

from __future__ import annotations

import contextvars
import io
import itertools
import math
import pickle
import sys
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ..errors import shown
from .edm_scan import Refused, scan

__all__ = [
    "BROKEN",
    "NumpyArray",
    "Record",
    "Refused",
    "STORAGE_BYTES",
    "Size",
    "Storage",
    "Strided",
]


# How many bytes of storages the file that is being read may still give: each byte of a file once.
STORAGE_BYTES = contextvars.ContextVar("STORAGE_BYTES", default=sys.maxsize)


# How torch's older format begins: its magic number. The newer one is an archive, which may be
# packed, and no published file has one inside of a pickle.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


# How many times the bytes of their storages the tensors of a network may have, as views.
VIEWS = 4


BROKEN = (
    AssertionError,  # of torch's reader: a storage that the bytes do not hold
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,  # a length beyond any memory, claimed by a damaged file
    OverflowError,
    TypeError,
    ValueError,
)


"""What reading a damaged pickle raises, besides `pickle.UnpicklingError` and `EOFError`."""


class Sealed(type):
    r"""The type of classes that a pickle can name: it must not be able to change them."""

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise Refused(f"it sets {name!r} on the class {cls.__name__}")


class Inert(metaclass=Sealed):
    r"""An object whose attributes a pickle cannot set."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401
        raise Refused(f"it sets the attributes of a {type(self).__name__}")


class Storage(Inert):
    r"""The numbers of one or more tensors, read by torch's restricted reader."""

    __slots__ = ("dtype", "numbers")
    dtype: torch.dtype
    numbers: torch.UntypedStorage

    def __new__(cls, data: bytes) -> Storage:
        if not isinstance(data, bytes):
            raise Refused(f"the bytes of a storage are a {type(data).__name__}")
        left = STORAGE_BYTES.get() - len(data)
        if left < 0:
            raise Refused("it makes storages of more bytes than it has itself")
        STORAGE_BYTES.set(left)
        try:
            check_legacy(data)
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Refused:
            raise
        except (pickle.UnpicklingError, EOFError, RuntimeError, *BROKEN) as error:
            raise Refused(f"torch's restricted reader refuses a storage: {error}") from error
        if not isinstance(found, torch.storage.TypedStorage):
            raise Refused(f"the bytes of a storage hold a {type(found).__name__}")
        self = super().__new__(cls)
        self.dtype, self.numbers = found.dtype, found._untyped_storage
        return self


def check_legacy(data: bytes) -> None:
    r"""Raises where reading a file of torch's older format would cost more than it is long.

    It is five pickles, magic number, version, machine, object and keys, and then the numbers.

    Raises:
        Refused: It is none, is damaged, or one of its pickles is refused, see `edm_scan.scan`.
    """
    if not data.startswith(LEGACY):
        raise Refused("torch's restricted reader refuses a storage: it is not of the older format")
    stream = io.BytesIO(data)
    for _ in range(5):
        scan(stream)


class Strided(Inert):
    r"""A tensor's view of its storage; the tensor itself is made after the pickle was read."""

    __slots__ = ("offset", "shape", "storage", "stride")
    offset: int
    shape: tuple[int, ...]
    storage: Storage
    stride: tuple[int, ...]

    def __new__(
        cls,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        *rest: object,
    ) -> Strided:
        numbers = [offset, *shape, *stride]
        if not isinstance(storage, Storage) or len(shape) != len(stride):
            raise Refused("a tensor has no storage, or its shape does not fit its strides")
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise Refused(f"the offset, shape and strides of a tensor are {shown(numbers)}")
        reach = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        size = storage.numbers.nbytes() // storage.dtype.itemsize
        if 0 not in shape and reach >= size:
            raise Refused(
                f"a tensor of shape {shown(tuple(shape))} reaches element {reach} of a storage "
                f"of {size}"
            )
        if math.prod(shape) > size:
            raise Refused(
                f"a tensor of shape {shown(tuple(shape))} and strides {shown(tuple(stride))} "
                f"has more elements than its storage, {size}"
            )
        self = super().__new__(cls)
        self.storage, self.offset = storage, offset
        self.shape, self.stride = tuple(shape), tuple(stride)
        return self

    def tensor(self) -> Tensor:
        r"""Returns the tensor, a view of the storage."""
        empty = torch.empty(0, dtype=self.storage.dtype)
        if 0 in self.shape:
            return empty.reshape(self.shape)
        return empty.set_(self.storage.numbers, self.offset, self.shape, self.stride)


class Parameter(Inert):
    r"""What was a parameter is its tensor."""

    __slots__ = ()

    def __new__(cls, data: Any, *rest: object) -> Any:  # noqa: ANN401
        return data


class Device(Inert):
    r"""A device, by its name: everything is read to the CPU."""

    __slots__ = ()

    def __new__(cls, *parts: object) -> Any:  # noqa: ANN401
        if not all(isinstance(part, str | int) for part in parts):
            raise Refused(f"a device is {shown(parts)}")
        return ":".join(str(part) for part in parts)


class Size(Inert):
    r"""A shape, as a tuple of whole numbers."""

    __slots__ = ()

    def __new__(cls, numbers: Any = ()) -> Any:  # noqa: ANN401
        if not isinstance(numbers, list | tuple) or not all(type(n) is int for n in numbers):
            raise Refused(f"a shape is {shown(numbers)}")
        return tuple(numbers)


class NumpyType(Inert):
    r"""A NumPy type of plain numbers."""

    __slots__ = ("dtype",)
    dtype: np.dtype[Any]

    def __new__(cls, name: str, *rest: object) -> NumpyType:
        if not isinstance(name, str) or name.lstrip("<>|=")[:1] not in tuple("biufc"):
            raise Refused(f"an array is of type {shown(name)}, not one of plain numbers")
        self = super().__new__(cls)
        self.dtype = np.dtype(name)
        return self

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1]) if state[1] in ("<", ">") else self.dtype


class NumpyScalar(Inert):
    r"""A NumPy number, as Python's."""

    __slots__ = ()

    def __new__(cls, kind: NumpyType, data: bytes) -> Any:  # noqa: ANN401
        return np.frombuffer(data, kind.dtype, count=1)[0].item()


class NumpyArray(Inert):
    r"""A NumPy array of plain numbers, in `values`."""

    __slots__ = ("values",)
    values: np.ndarray

    def __new__(cls, *rest: object) -> NumpyArray:
        self = super().__new__(cls)
        self.values = np.zeros(0)
        return self

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        flat = np.frombuffer(data, kind.dtype)
        self.values = flat.reshape(shape, order="F" if fortran else "C")


class Record(Inert):
    r"""What a pickled module was: the name of its class, its arguments and its attributes.

    Attributes:
        class_name: The name of its class, which is not looked up.
        state: Its attributes.
    """

    __slots__ = ("class_name", "state")
    class_name: str
    state: dict[str, Any]

    def __new__(cls, meta: Any = None) -> Record:  # noqa: ANN401
        meta = {"type": "class", "class_name": "container", "state": {}} if meta is None else meta
        if not isinstance(meta, dict) or meta.get("type") != "class":
            raise Refused("a persistent object is not of the type 'class'")
        self = super().__new__(cls)
        name = meta.get("class_name")
        self.class_name = name[:200] if isinstance(name, str) else shown(name)
        self.__setstate__(meta.get("state"))
        return self

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401
        if not isinstance(state, dict):
            raise Refused(f"the state of {self.class_name} is a {type(state).__name__}")
        self.state = state

    @property
    def arguments(self) -> dict[str, Any]:
        r"""The keyword arguments of its constructor."""
        return dict(self.mapping("_init_kwargs"))

    @property
    def modules(self) -> dict[str, Record]:
        r"""Its parts, by name."""
        parts = self.mapping("_modules").items()
        return {name: part for name, part in parts if isinstance(part, Record)}

    def tensors(self) -> dict[str, Tensor]:
        r"""Returns the names and tensors that `state_dict` of the module would have.

        Raises:
            Refused: A module is a part of itself, or of two others, or tensors are views of each
                other's numbers so often that they are many times as large as the file.
        """
        found: dict[str, Tensor] = {}
        waiting, seen = [("", self)], set()
        while waiting:
            prefix, record = waiting.pop()
            if id(record) in seen:
                raise Refused(f"the module {prefix[:-1]!r} is a part twice, or of itself")
            seen.add(id(record))
            skipped = record.state.get("_non_persistent_buffers_set") or ()
            buffers = record.mapping("_buffers").items()
            kept = {name: value for name, value in buffers if name not in skipped}
            for name, value in {**record.mapping("_parameters"), **kept}.items():
                if isinstance(value, Strided):
                    found[f"{prefix}{name}"] = value.tensor()
            waiting += [(f"{prefix}{name}.", part) for name, part in record.modules.items()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in found.values()}
        size, own = (
            sum(t.nbytes for t in found.values()),
            sum(s.nbytes() for s in storages.values()),
        )
        if size > VIEWS * own:
            raise Refused(f"its tensors have {size:,} bytes, and what they are views of {own:,}")
        return found

    def mapping(self, name: str) -> dict[str, Any]:
        r"""Returns an attribute that is a dictionary, empty where there is none."""
        value = self.state.get(name) or {}
        if not isinstance(value, dict):
            raise Refused(f"{name} of {self.class_name} is a {type(value).__name__}, not a dict")
        return value

    def __str__(self) -> str:
        tensors = self.tensors().values()
        count = sum(tensor.numel() for tensor in tensors)
        known = itertools.islice(self.arguments.items(), 40)
        arguments = ", ".join(f"{shown(str(name))}={shown(value)}" for name, value in known)
        return f"{self.class_name}({arguments}): {len(tensors)} tensors, {count:,} numbers"
