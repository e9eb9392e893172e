r"""Any teacher in: folders, pickles, functions, runs; and a probe of what it is worth."""

from .origin import Origin
from .readers import READERS, Reader, load

__all__ = ["READERS", "Origin", "Reader", "load"]
