r"""The memory of this process: the most that it has held, and what it keeps of freed memory.

A training step allocates its activations and frees them all at its end. The C library of Linux
then gives the top of the heap back to the system, and the next step faults every page in again:
some three thousand faults a step for two networks 400 wide at 1,024 rows in bfloat16, a tenth
of the step's time.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["keep_freed_memory", "peak"]


# The numbers of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


LARGEST = 2**30


def keep_freed_memory() -> bool:
    r"""Makes this process keep freed memory for its next step, where the C library is glibc.

    The peak stays what it was; memory is given back when the process ends. It holds for the whole
    process, so that commands call it and the library does not.

    Returns:
        Whether the C library took both settings; other systems have other allocators.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    taken = [mallopt(number, LARGEST) for number in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD)]
    return taken == [1, 1]


def peak(device: torch.device) -> int:
    r"""Returns the most bytes that this process has held: of CUDA's allocator, or of memory."""
    if device.type == "cuda":
        import torch  # here: each command imports this module, and not each of them torch

        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    # In bytes on macOS, in kilobytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
