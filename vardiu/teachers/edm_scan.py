r"""What a pickle would cost, before it is read: its opcodes are walked, and nothing is built.

A pickle of a few hundred bytes can take a reader gigabytes or for ever although nothing of it is
executed. Refused here, by the opcodes alone:

- a memo index beyond the number of opcodes so far: the reader makes room for every index below;
- tuples of tuples that share their parts, or that are nested deep: to hash one, as a key of a
  dictionary, each is visited as often as it is named;
- whole numbers of more than ten bytes, whose hashes can be made to collide;
- more opcodes than a file of networks has.

The stack of the reader is followed with one number a value: of a tuple the count of all that its
hash would visit, and its depth; of everything else one.

References:
    | Python's documentation, pickletools, https://docs.python.org/3/library/pickletools.html
"""

from __future__ import annotations

import io
import mmap
import pickle
import pickletools
from typing import Any, NamedTuple, TypeAlias

from ..errors import ConfigError
from ..storage.limits import refuse_beyond

__all__ = ["Refused", "scan"]


Stream: TypeAlias = io.BytesIO | mmap.mmap


class Refused(ConfigError):
    r"""A pickle that asks for what is not allowed, is damaged, or holds something else."""


class Cost(NamedTuple):
    r"""What the hash of a value visits, and how deep its tuples are nested."""

    visits: int = 1
    depth: int = 0


# Where values of a list, a set or a call begin on the stack.
MARK = Cost(0, 0)


TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "FROZENSET")


class Walk:
    r"""The stack and the memo of one pickle, as far as it has been walked."""

    def __init__(self) -> None:
        self.stack: list[Cost] = []
        self.memo: dict[int, Cost] = {}
        self.opcodes = 0

    def step(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        r"""Follows one opcode.

        Raises:
                Refused: It would cost more than is allowed.
            ValueError: The stack does not hold what it takes.
        """
        self.opcodes += 1
        refuse_beyond("pickle opcodes", self.opcodes, "it", Refused)
        if isinstance(argument, int) and opcode.name in ("INT", "LONG", "LONG1", "LONG4"):
            refuse_beyond("pickle number", argument.bit_length(), "a number", Refused)
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._keep(len(self.memo) if argument is None else argument)
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise ValueError(f"it asks for number {argument} of its memo, which was not kept")
            self.stack.append(self.memo[argument])
        elif opcode.name == "DUP":
            self.stack.append(self._top())
        else:
            self._replace(opcode)

    def _top(self) -> Cost:
        if not self.stack:
            raise ValueError("its stack is empty where a value is needed")
        return self.stack[-1]

    def _keep(self, index: object) -> None:
        if not isinstance(index, int) or not 0 <= index <= self.opcodes:
            raise Refused(f"it keeps a value under number {index} after {self.opcodes} opcodes")
        self.memo[index] = self._top()

    def _replace(self, opcode: pickletools.OpcodeInfo) -> None:
        r"""Takes from the stack what an opcode takes, and puts there what it gives."""
        before, after = opcode.stack_before, opcode.stack_after
        taken: list[Cost] = []
        if pickletools.markobject in before:
            while self._top() is not MARK:
                taken.append(self.stack.pop())
            self.stack.pop()  # the mark
            # Below the mark lies what is added to: a list, a dictionary, a set.
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            taken.append(self._top())
            self.stack.pop()
        if any(value is MARK for value in taken) and opcode.name != "POP":
            raise ValueError(f"a mark stands where {opcode.name} takes a value")
        if opcode.name in TUPLES:
            cost = Cost(
                1 + sum(value.visits for value in taken),
                1 + max((value.depth for value in taken), default=0),
            )
            refuse_beyond("pickle tuple values", cost.visits, "a tuple", Refused)
            refuse_beyond("pickle tuple depth", cost.depth, "a tuple", Refused)
            self.stack.append(cost)
            return
        self.stack += [MARK if kind is pickletools.markobject else Cost() for kind in after]


def scan(stream: Stream) -> None:
    r"""Walks one pickle, from the place where a stream is to the one behind it.

    Raises:
        Refused: Reading it would cost more than is allowed.
        pickle.UnpicklingError: It is damaged, or none.
    """
    walk = Walk()
    try:
        readable: Any = stream  # a map of a file reads as a file, and is not declared as one
        for opcode, argument, _ in pickletools.genops(readable):
            walk.step(opcode, argument)
    except (ValueError, UnicodeDecodeError, IndexError) as error:
        if isinstance(error, Refused):
            raise
        raise pickle.UnpicklingError(str(error)[:200]) from error
