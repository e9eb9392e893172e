r"""What `torchrun` tells the processes that it starts, by their environment.

Every command asks for it, also those that import no torch; torch is imported here only where
`torchrun` has started several processes.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

__all__ = ["are_launched", "following_parent", "is_first_to_tell", "meeting", "place_on_host"]


# Of the wait for torchrun itself, which may have ended.
SHORT = datetime.timedelta(seconds=10)


# Of the wait for a table that was there before the processes were started.
PATIENCE = datetime.timedelta(minutes=1)


# Seconds between two looks at whether the parent lives.
LOOK = 1.0


# This process and the one that started it, as they are before torch is imported: the other may die
# in the seconds which that takes.
BORN = os.getpid(), os.getppid()


def are_launched() -> bool:
    r"""Whether `torchrun` has started this process beside others."""
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    return launched and int(os.environ.get("WORLD_SIZE", "1")) > 1


def place_on_host() -> tuple[int, int]:
    r"""Returns the index of this process among those of its machine, and their number."""
    if not are_launched():
        return 0, 1
    return int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])


@contextlib.contextmanager
def following_parent() -> Iterator[None]:
    r"""Stops this process, as by SIGTERM, when the one that started it has died, for which alone
    it works: each worker of `torchrun` is in a session of its own, and nobody else would end it,
    or start it again."""
    itself, parent = BORN
    if os.getpid() != itself:  # a fork, of what imported this before
        parent = os.getppid()
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(LOOK):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=follow, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def meeting(patience: datetime.timedelta) -> tuple[Store, int, int]:
    r"""Returns the table by which the processes find each other, the index of this process, and
    their number.

    The table outlives a restart, with the addresses of processes that are dead: torch 2.13 takes
    them for those of the new ones, and waits for these for ever. Each attempt has entries of its
    own here.

    Arguments:
        patience: How long a process waits for another's address.
    """
    from torch.distributed import PrefixStore

    world = int(os.environ["WORLD_SIZE"])
    store = PrefixStore(f"vardiu/met/{_attempt()}/{world}", _table(patience))
    return store, int(os.environ["RANK"]), world


def _attempt() -> str:
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _table(patience: datetime.timedelta) -> TCPStore:
    r"""Returns the table that `torchrun` keeps for its processes, over their restarts.

    Where it keeps one of its own, that was there before them: who does not find it waits for
    somebody who has died.
    """
    from torch.distributed import TCPStore

    there = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    found = min(patience, PATIENCE) if there else patience
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=found)
    store.set_timeout(patience)
    return store


@functools.cache
def _store() -> TCPStore:
    return _table(SHORT)


def is_first_to_tell(text: str) -> bool:
    r"""Whether this process is the one that tells an error: the first one since the processes
    were started, and not what was told before they were started again.

    An error of one process ends the others, whose own errors are of nobody's interest.
    """
    if not are_launched():
        return True
    content = hashlib.sha256(text.encode()).hexdigest()
    try:
        first = _store().add(f"vardiu/told/{_attempt()}", 1) == 1
        return first and _store().add(f"vardiu/told/{content}", 1) == 1
    except RuntimeError:  # torchrun itself has ended: better twice than not at all
        return True
