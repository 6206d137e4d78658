# SPDX-License-Identifier: Apache-2.0
"""A layout whose vocabulary gets another number of rows: what every block is made of afterwards.

Rows that stay keep their bytes in every copy, wherever the boundaries between tensor ranks and partitions move to.  New
rows are a source's values in the weights and zeros in the optimizer's states.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import MASTER, MODEL, Copy, Parameter, is_vocabulary
from gaff.checkpoint.unpickle import ITEM_SIZE


@dataclass(frozen=True)
class OldBytes:
    """Bytes of a record as it is now."""

    file: str
    record: str
    offset: int
    length: int


@dataclass(frozen=True)
class NewValues:
    """New values of a parameter, counted flat over all its rows, rounded to a dtype."""

    parameter: str
    start: int
    stop: int
    dtype: str

    @property
    def length(self) -> int:
        return (self.stop - self.start) * ITEM_SIZE[self.dtype]


@dataclass(frozen=True)
class Zeros:
    """Zero bytes: states of new rows, and padding."""

    length: int


Part = OldBytes | NewValues | Zeros


def length_of(parts: Iterable[Part]) -> int:
    """Bytes of several parts together."""
    return sum(part.length for part in parts)


@dataclass(frozen=True)
class Place:
    """Whose block, and which kind of copy of it."""

    kind: str
    stage: int
    tensor_rank: int


class ResizedLayout:
    """A tag's layout, and the geometry of its parameters once the vocabulary has ``rows`` rows.

    Attributes:
        changed: names of the parameters that have a row per token.
        parameters: all, with their new shapes.
    """

    def __init__(self, layout: Layout, rows: int) -> None:
        self.layout = layout
        self.rows = rows
        self.changed = tuple(name for name in layout.parameters if is_vocabulary(name))
        self.parameters: Mapping[str, Parameter] = {
            name: replace(parameter, shape=(rows, *parameter.shape[1:])) if name in self.changed else parameter
            for name, parameter in layout.parameters.items()
        }
        self._chains: dict[tuple[str, Place], tuple[Copy, ...]] = {}

    def block(self, name: str, place: Place) -> tuple[Part, ...]:
        """A tensor rank's whole block."""
        return tuple(self.parts(name, place, 0, self.parameters[name].block_numel))

    def parts(self, name: str, place: Place, start: int, stop: int) -> Iterator[Part]:
        """What a range of a tensor rank's new block is made of, in order; elements are counted flat in the block."""
        if name not in self.changed:
            yield from self._old(name, place, start, stop)
            return
        old, new = self.layout.parameters[name], self.parameters[name]
        first = new.first_row(place.tensor_rank) * new.width
        low, high = first + start, first + stop
        kept = min(high, min(old.rows, new.rows) * new.width)
        while low < kept:
            rank = low // old.block_numel
            top = rank * old.block_numel
            end = min(kept, top + old.block_numel)
            yield from self._old(name, replace(place, tensor_rank=rank), low - top, end - top)
            low = end
        if low < high:
            yield self._new(name, place, low, high)

    def _new(self, name: str, place: Place, low: int, high: int) -> Part:
        dtype = self._chain(name, replace(place, tensor_rank=0))[0].dtype
        if place.kind in (MODEL, MASTER):
            return NewValues(name, low, high, dtype)
        return Zeros((high - low) * ITEM_SIZE[dtype])

    def _old(self, name: str, place: Place, start: int, stop: int) -> Iterator[OldBytes]:
        for copy in self._chain(name, place):
            low, high = max(start, copy.start), min(stop, copy.stop)
            if low < high:
                offset = copy.offset + (low - copy.start) * copy.item_size
                yield OldBytes(copy.file, copy.record, offset, (high - low) * copy.item_size)

    def _chain(self, name: str, place: Place) -> tuple[Copy, ...]:
        if (name, place) not in self._chains:
            found = self.layout.chain(name, place.kind, place.tensor_rank, place.stage)
            self._chains[name, place] = found
        return self._chains[name, place]
