# SPDX-License-Identifier: Apache-2.0
"""What runs are called: by their directories, told apart by as much of the path as it takes.  Pure."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

_SEED_END = re.compile(r"[-_ ./]+((seed|run|s|r)?[-_=]*\d*)?$", re.IGNORECASE)


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path; where several end alike, so many parts that they differ.

    ``paths`` are of different places.
    """
    parts = [Path(os.path.abspath(path)).parts for path in paths]  # a link keeps its name
    depth = [1] * len(parts)
    while True:
        names = [str(Path(*part[-n:])) for part, n in zip(parts, depth, strict=True)]
        counts = Counter(names)
        again = [place for place, name in enumerate(names) if counts[name] > 1 and depth[place] < len(parts[place])]
        if not again:
            return names
        for place in again:
            depth[place] += 1


def common_name(names: Sequence[str]) -> str:
    """What runs that differ in their seeds alone are called together; the first one's name where they share none."""
    if len(names) == 1:
        return names[0]
    common = _SEED_END.sub("", _beginning(names))
    is_whole = all(not name[len(common) : len(common) + 1].isalpha() for name in names)
    return common if common and is_whole else names[0]


def _beginning(names: Sequence[str]) -> str:
    """The letters with which all of them begin."""
    columns = zip(*names, strict=False)  # as long as the shortest
    return "".join(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))
