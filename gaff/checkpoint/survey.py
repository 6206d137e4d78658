# SPDX-License-Identifier: Apache-2.0
"""One pass over copies of parameters: their CRCs, whether they agree, and what they hold on the whole.

The model copy must be the master rounded to its dtype, bit for bit; a second master (tied embeddings, last pipeline
stage) must equal the first, but for rounding.  Files are read in parallel, in pieces, so memory stays bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gaff.checkpoint.crc import combined_crc, crc32
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, MASTER, MODEL, Copy
from gaff.checkpoint.reader import TASK_ELEMENTS, CopyReader, OpenFiles, in_parallel, pieces
from gaff.checkpoint.rounding import rounded
from gaff.errors import Location, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DRIFT = 0.005  # of an element and of the root mean square around it


@dataclass(frozen=True)
class Statistics:
    """What a parameter holds: Euclidean norm, mean and standard deviation of all elements, summed in float64."""

    norm: float
    mean: float
    std: float


@dataclass
class Survey:
    """What a pass found.

    Attributes:
        crcs: CRC-32 of each copy's bytes.
        differences: for each copy that must agree with another, how many elements do not.
        statistics: by parameter.
    """

    crcs: dict[Copy, int] = field(default_factory=dict)
    differences: dict[Copy, int] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)

    def problems(self, tag: Path) -> list[Problem]:
        """Copies that do not agree, one problem a copy."""
        return [_disagreement(tag, copy, count) for copy, count in self.differences.items() if count]


def _disagreement(tag: Path, copy: Copy, count: int) -> Problem:
    what = f"its {copy.kind} copy of {copy.parameter} differs from the master in {count} elements"
    return Problem("copies-disagree", what, "use an earlier tag, whose copies agree", Location(str(tag / copy.file)))


class _Task(NamedTuple):
    """Elements ``start`` to ``stop`` of one tensor rank's block."""

    parameter: str
    tensor_rank: int
    start: int
    stop: int


class _Part(NamedTuple):
    """What one task found."""

    crcs: dict[Copy, tuple[int, int, int]]  # first element, CRC, bytes
    differences: dict[Copy, int]
    total: float
    squares: float


def survey(layout: Layout, names: Iterable[str], *, states: bool = True) -> Survey:
    """Read all copies of the named parameters once.

    Args:
        states: whether the optimizer's states are read too (they agree with nothing, they only have a CRC).

    Raises:
        CheckpointError: a file ends too soon.
    """
    listed = list(names)
    reader = CopyReader(layout)
    reader.open_all(copy for name in listed for copy in layout.copies[name])
    surveyor = _Surveyor(reader, states)
    tasks = list(_tasks(layout, listed))
    return _joined(layout, tasks, in_parallel(surveyor.look, tasks))


def _tasks(layout: Layout, names: Sequence[str]) -> Iterable[_Task]:
    for name in names:
        parameter = layout.parameters[name]
        for rank in range(parameter.tensor):
            for start, stop in pieces(0, parameter.block_numel, TASK_ELEMENTS):
                yield _Task(name, rank, start, stop)


class _Surveyor:
    def __init__(self, reader: CopyReader, states: bool) -> None:
        self.reader = reader
        self.layout = reader.layout
        self.states = states

    def look(self, task: _Task) -> _Part:
        """One task, piece by piece."""
        import numpy as np

        part = _Part({}, {}, 0.0, 0.0)
        copies = [
            copy
            for copy in self.layout.copies[task.parameter]
            if copy.tensor_rank == task.tensor_rank
            and copy.start < task.stop
            and task.start < copy.stop
            and (self.states or not copy.is_state)
        ]
        total = squares = 0.0
        with OpenFiles(self.layout.path) as files:
            for start, stop in pieces(task.start, task.stop):
                values = self._piece(files, part, copies, start, stop).astype(np.float64)
                with np.errstate(invalid="ignore"):  # a run that diverged has infinities of both signs
                    total += float(values.sum())
                    values *= values  # not a dot product: BLAS would start threads of its own under ours
                    squares += float(values.sum())
        return part._replace(total=total, squares=squares)

    def _piece(self, files: OpenFiles, part: _Part, copies: list[Copy], start: int, stop: int) -> NDArray[Any]:
        """Look at one piece of every copy; returns the weights that training goes on from."""
        import numpy as np

        truth = self.layout.truth(copies[0].parameter)
        stage = self.layout.stages(copies[0].parameter, truth)[0]
        held: NDArray[Any] = np.empty(stop - start, np.float32)
        others = []
        for copy in copies:
            low, high = max(start, copy.start), min(stop, copy.stop)
            if low >= high:
                continue
            values = self.reader.copy(files, copy, low, high)
            first, crc, length = part.crcs.get(copy, (low, 0, 0))
            part.crcs[copy] = (first, crc32(values.view(np.uint8).data, crc), length + values.nbytes)
            if copy.kind == truth and copy.stage == stage:
                held[low - start : high - start] = values
            elif must_agree(copy) and self.layout.copies_follow:
                others.append((copy, low, high, values))
        for copy, low, high, values in others:
            different = disagreeing_elements(copy, values, held[low - start : high - start])
            part.differences[copy] = part.differences.get(copy, 0) + different
        return held


def must_agree(copy: Copy) -> bool:
    """Whether a copy beside the first master follows it.

    Of what the last stage keeps with tied embeddings, only the word embedding does: position embeddings there are never
    used, get no gradient, and stay as they began but for weight decay.
    """
    return copy.kind == MODEL or (copy.kind == MASTER and copy.parameter == INPUT_EMBEDDING)


def disagreeing_elements(copy: Copy, values: NDArray[Any], truth: NDArray[Any]) -> int:
    """How many elements of a copy that must agree do not.

    A second master is stepped on its own, in a partition that is cut elsewhere, so vector and scalar code may round it
    differently: seen 1 ulp apart after five iterations.  Half a percent of what the piece holds is far above what adds
    up, and far below another embedding.
    """
    import numpy as np

    if copy.kind != MASTER or np.array_equal(values.view(np.uint8), truth.view(np.uint8)):
        return different_elements(values, truth)
    expected = truth.astype(np.float64)
    allowed = _DRIFT * (np.abs(expected) + math.sqrt(float(np.mean(expected * expected))))
    return int(np.count_nonzero(~(np.abs(values - expected) <= allowed)))


def different_elements(mine: NDArray[Any], truth: NDArray[Any]) -> int:
    """How many elements of ``mine`` are not ``truth`` rounded to its dtype, bit for bit.

    Any NaN is as good as another: which bits a rounded one has is the hardware's choice.
    """
    import numpy as np

    expected = rounded(truth, mine.dtype)  # beyond float16's range is infinity, as in training
    if np.array_equal(mine.view(np.uint8), expected.view(np.uint8)):
        return 0
    bits = np.dtype(f"u{mine.dtype.itemsize}")
    differ = mine.view(bits) != expected.view(bits)
    return int(np.count_nonzero(differ & ~(np.isnan(mine) & np.isnan(expected))))


def _joined(layout: Layout, tasks: Sequence[_Task], parts: Sequence[_Part]) -> Survey:
    found = Survey()
    sums: dict[str, tuple[float, float]] = {}
    done: dict[Copy, int] = {}
    for task, part in zip(tasks, parts, strict=True):  # in order of start, so CRCs join from left to right
        for copy, (_, crc, length) in part.crcs.items():
            found.crcs[copy] = combined_crc(found.crcs[copy], crc, length) if copy in done else crc
            done[copy] = length
        for copy, count in part.differences.items():
            found.differences[copy] = found.differences.get(copy, 0) + count
        parameter = layout.parameters[task.parameter]
        if parameter.split is not None or task.tensor_rank == 0:
            total, squares = sums.get(task.parameter, (0.0, 0.0))
            sums[task.parameter] = (total + part.total, squares + part.squares)
    for name, (total, squares) in sums.items():
        numel = layout.parameters[name].numel
        mean = total / numel
        spread = max(squares / numel - mean * mean, 0.0)  # in this order, which keeps NaN
        found.statistics[name] = Statistics(math.sqrt(squares), mean, math.sqrt(spread))
    return found
