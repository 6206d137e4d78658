# SPDX-License-Identifier: Apache-2.0
"""Which file is at fault where copies disagree, so that one fault is told as one.

A shard or a layer file of another step or run disagrees in most of what it holds, with the files on the other side in a
little each.  An edit of one copy alone disagrees by itself.  So the file is blamed first that disagrees more than it
agrees, by the most parameters; what is left over is told copy by copy, a file at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import MASTER, Copy
from gaff.checkpoint.reader import CopyReader, OpenFiles, in_parallel, pieces
from gaff.checkpoint.survey import Survey, disagreeing_elements
from gaff.errors import Location, Problem

_REMEDY = "use an earlier tag, whose copies agree"


class _Pair(NamedTuple):
    """A copy, a master that holds some of its elements, and how many of these differ."""

    copy: Copy
    master: Copy
    different: int

    @property
    def files(self) -> set[str]:
        return {self.copy.file, self.master.file}


def disagreements(layout: Layout, found: Survey, known: Collection[str] = ()) -> list[Problem]:
    """One problem for each file that is at fault; empty where all copies agree.

    Args:
        layout: of the tag.
        found: what a survey of the tag's parameters found.
        known: names of files that are known to be wrong; what they explain is not told again.

    Raises:
        CheckpointError: a file ends too soon.
    """
    wrong = {copy.parameter for copy, count in found.differences.items() if count}
    if not wrong:
        return []
    pairs = _pairs(layout, found, wrong)
    left = [pair for pair in pairs if pair.different and not pair.files & set(known)]
    told: list[Problem] = []
    while left:
        file = _most_at_fault(left, pairs)
        if file is None:
            return told + _one_by_one(layout.path, left)
        told.append(_foreign(layout.path, file, [pair for pair in left if file in pair.files]))
        left = [pair for pair in left if file not in pair.files]
    return told


def _pairs(layout: Layout, found: Survey, wrong: set[str]) -> list[_Pair]:
    held = [
        (copy, master)
        for copy in found.differences
        for master in layout.chain(copy.parameter, MASTER, copy.tensor_rank)
        if master.start < copy.stop and copy.start < master.stop
    ]
    reader = CopyReader(layout)
    reader.open_all(copy for name in wrong for copy in layout.copies[name])
    counts = in_parallel(lambda pair: _different(reader, *pair) if pair[0].parameter in wrong else 0, held)
    return [_Pair(copy, master, count) for (copy, master), count in zip(held, counts, strict=True)]


def _different(reader: CopyReader, copy: Copy, master: Copy) -> int:
    low, high = max(copy.start, master.start), min(copy.stop, master.stop)
    with OpenFiles(reader.layout.path) as files:
        return sum(
            disagreeing_elements(copy, reader.copy(files, copy, start, stop), reader.copy(files, master, start, stop))
            for start, stop in pieces(low, high)
        )


def _most_at_fault(left: list[_Pair], pairs: list[_Pair]) -> str | None:
    """The file with the most pairs that disagree above those that agree; it must be wrong in several parameters."""
    good = Counter(file for pair in pairs if not pair.different for file in pair.files)
    bad = Counter(file for pair in left for file in pair.files)
    several = [file for file in bad if len({p.copy.parameter for p in left if file in p.files}) > 1]
    worst = max(several, key=lambda file: bad[file] - good[file], default=None)
    return worst if worst is not None and bad[worst] > good[worst] else None


def _foreign(tag: Path, file: str, pairs: list[_Pair]) -> Problem:
    what = (
        f"its weights differ from their other copies in {_extent(pairs)}: it is of another step or run, or was edited"
    )
    return Problem("copies-disagree", what, _REMEDY, Location(str(tag / file)))


def _one_by_one(tag: Path, pairs: Iterable[_Pair]) -> list[Problem]:
    of_file: dict[tuple[str, str], list[_Pair]] = {}
    for pair in pairs:
        of_file.setdefault((pair.copy.file, pair.copy.kind), []).append(pair)
    return [
        Problem(
            "copies-disagree",
            f"its {'second master' if kind == MASTER else kind + ' copy'} differs from the master in {_extent(listed)}",
            _REMEDY,
            Location(str(tag / file)),
        )
        for (file, kind), listed in of_file.items()
    ]


def _extent(pairs: list[_Pair]) -> str:
    names = list(dict.fromkeys(pair.copy.parameter for pair in pairs))
    elements = sum(pair.different for pair in pairs)
    which = names[0] if len(names) == 1 else f"{len(names)} parameters, {names[0]} first"
    return f"{elements} elements of {which}"
