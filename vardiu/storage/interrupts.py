r"""SIGINT and SIGTERM as a wish: work ends where it can be gone on with."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["Wish", "wish_to_stop"]


class Wish:
    r"""Whether the process was asked to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextlib.contextmanager
def wish_to_stop(acknowledge: Callable[[], None] = lambda: None) -> Iterator[Wish]:
    r"""Turns the first SIGINT or SIGTERM into a wish; a second one is heard as ever.

    Only the main thread may listen to signals: elsewhere the wish is never asked.

    Arguments:
        acknowledge: Is called as soon as the wish is asked, before the work at hand has ended.
    """
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def ask(number: int, frame: FrameType | None) -> None:
        wish.asked = True
        signal.signal(number, previous[number])
        acknowledge()

    previous = {int(n): signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
