r"""What `torchrun` tells the processes that it starts, by their environment.

Every command asks for it, also those that import no torch; torch is imported here only where
`torchrun` has started several processes.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore

__all__ = ["are_launched", "is_first_to_tell", "place_on_host"]


# Of the wait for torchrun itself, which may have ended.
SHORT = datetime.timedelta(seconds=10)


def are_launched() -> bool:
    r"""Whether `torchrun` has started this process beside others."""
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    return launched and int(os.environ.get("WORLD_SIZE", "1")) > 1


def place_on_host() -> tuple[int, int]:
    r"""Returns the index of this process among those of its machine, and their number."""
    if not are_launched():
        return 0, 1
    return int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])


@functools.cache
def _store() -> TCPStore:
    r"""Returns the table that `torchrun` keeps for its processes, over their restarts."""
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=SHORT)


def is_first_to_tell(text: str) -> bool:
    r"""Whether this process is the one that tells an error: the first one since the processes
    were started, and not what was told before they were started again.

    An error of one process ends the others, whose own errors are of nobody's interest.
    """
    if not are_launched():
        return True
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    content = hashlib.sha256(text.encode()).hexdigest()
    try:
        first = _store().add(f"vardiu/told/{attempt}", 1) == 1
        return first and _store().add(f"vardiu/told/{content}", 1) == 1
    except RuntimeError:  # torchrun itself has ended: better twice than not at all
        return True
