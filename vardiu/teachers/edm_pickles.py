r"""Networks out of pickles, without executing what the pickles say.

A pickle is a program: it names functions and has them called. Here a name is looked up in a
table and nowhere else. The table holds inert classes that keep what they are given, and builtin
containers; whatever is not in it is refused. No name leads to a module of the system, to the
class that was pickled, or to its source.

The published EDM and EDM2 files are dictionaries of networks, `ema` among them. A network is
pickled as a call of `torch_utils.persistence._reconstruct_persistent_obj` with a dictionary:

- `type`: `"class"`, and `version`;
- `class_name`: what the network was, for instance `"EDMPrecond"`;
- `module_src`: the source of its module, for the original loader to execute. It is dropped here;
- `state`: the attributes of the `torch.nn.Module`: `_parameters`, `_buffers`, `_modules` (each
  again such a call), and the constructor's `_init_args` and `_init_kwargs`.

A tensor is a call of `torch._utils._rebuild_tensor_v2` with a storage, and a storage a call of
`torch.storage._load_from_bytes` with the bytes of a file of its own. Those bytes are a pickle
too, and only torch's own restricted reader sees them, `torch.load(..., weights_only=True)`.

References:
    | Python's documentation, "Restricting Globals"
    | https://docs.python.org/3/library/pickle.html#restricting-globals
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import shown
from .edm_records import (
    BROKEN,
    STORAGE_BYTES,
    Device,
    NumpyArray,
    NumpyScalar,
    NumpyType,
    Parameter,
    Record,
    Refused,
    Size,
    Storage,
    Strided,
)
from .edm_scan import scan

__all__ = ["Record", "Refused", "network", "read", "summary"]


TYPES = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64"


NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")


ALLOWED: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): dict,
    ("dnnlib.util", "EasyDict"): dict,
    ("builtins", "set"): set,
    ("torch", "Size"): Size,
    ("torch", "device"): Device,
    **{("torch", name): name for name in TYPES.split()},
    ("torch._utils", "_rebuild_tensor_v2"): Strided,
    ("torch._utils", "_rebuild_parameter"): Parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): Parameter,
    ("torch.storage", "_load_from_bytes"): Storage,
    ("torch.nn.modules.container", "ModuleDict"): Record,
    ("torch.nn.modules.container", "ModuleList"): Record,
    ("torch.nn.modules.container", "Sequential"): Record,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Record,
    ("numpy", "dtype"): NumpyType,
    ("numpy", "ndarray"): NumpyArray,
    **{(module, "scalar"): NumpyScalar for module in NUMPY},
    **{(module, "_reconstruct"): NumpyArray for module in NUMPY},
}


"""What a pickle may name, and what it gets: a builtin container, a text, or a class of
`records`."""


class Reader(pickle.Unpickler):
    r"""An unpickler for which no name outside `ALLOWED` exists."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if (module, name) not in ALLOWED:
            named = shown(f"{module}.{name}")
            raise Refused(f"it names {named}, which a network's weights do not need")
        return ALLOWED[module, name]


def read(path: str | Path) -> dict[str, Any]:
    r"""Returns the dictionary in a pickle, with a `Record` in place of each network.

    Nothing in the file is executed.

    Raises:
        Refused: The file names something that is not allowed, is truncated, or is no pickle of a
            dictionary. The message names the file and what was found.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mapped(file) as content:
            if content[:2] == b"PK":
                raise Refused("it is a zip archive, as torch.save writes, and not a bare pickle")
            scan(content)
            content.seek(0)
            STORAGE_BYTES.set(len(content))
            found = Reader(content).load()
    except Refused as error:
        raise Refused(f"{shown(path)} is refused: {error}") from error
    except (pickle.UnpicklingError, EOFError, *BROKEN) as error:
        what = shown(str(error))
        raise Refused(f"{shown(path)} is truncated, damaged or not a pickle: {what}") from error
    if not isinstance(found, dict):
        what = str(found) if isinstance(found, Record) else f"a {type(found).__name__}"
        raise Refused(f"{shown(path)} must hold a dictionary of networks, it holds {what}")
    return found


def mapped(file: BinaryIO) -> mmap.mmap:
    r"""Returns a file's content without reading it: what it claims to have beyond its end is
    not made room for.

    Raises:
        EOFError: It is empty.
    """
    if os.fstat(file.fileno()).st_size == 0:
        raise EOFError("it is empty")
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def summary(path: str | Path) -> str:
    r"""Returns a line for each thing in a pickle: classes, arguments, numbers of tensors."""
    return _list(read(path))


def network(path: str | Path, key: str = "ema") -> Record:
    r"""Returns the network that a pickle holds under a key.

    Raises:
        Refused: There is none; the message lists what there is.
    """
    found = read(path)
    if not isinstance(found.get(key), Record):
        lines = "; ".join(line.strip() for line in _list(found).splitlines())
        raise Refused(f"{shown(path)} holds no network {key!r}; it holds {lines}")
    return found[key]


def _list(found: Mapping[str, Any]) -> str:
    lines = (
        f"  {shown(str(key))}: {value if isinstance(value, Record) else type(value).__name__}"
        for key, value in found.items()
    )
    return "\n".join(lines) or "  nothing"
