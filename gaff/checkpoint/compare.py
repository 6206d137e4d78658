# SPDX-License-Identifier: Apache-2.0
"""How much the parameters of two tags differ, copy by copy, whatever the layouts: one pass over both.

Values are compared as float32, element by element of the whole parameter.  Where a tag keeps several instances of a
kind (norms on every tensor rank, tied embeddings on two stages of both) each is compared, and the worst is reported.
Files are read in parallel, in pieces, so memory stays bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from gaff.checkpoint.archive import numpy_dtype
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import MASTER, MODEL
from gaff.checkpoint.reader import TASK_ELEMENTS, CopyReader, OpenFiles, in_parallel, pieces
from gaff.checkpoint.rounding import rounded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Difference:
    """How two instances of one kind of copy differ.  Sums of squares are in float64.

    Attributes:
        numel: elements compared.
        different: elements that are not equal (two NaNs are).
        maximum: the largest magnitude of a difference; infinite where one side is not finite and the other not equal.
        squares: sum of the squared differences.
        squares_a, squares_b: sums of the squared values.
    """

    numel: int = 0
    different: int = 0
    maximum: float = 0.0
    squares: float = 0.0
    squares_a: float = 0.0
    squares_b: float = 0.0

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.numel + other.numel,
            self.different + other.different,
            max(self.maximum, other.maximum),
            self.squares + other.squares,
            self.squares_a + other.squares_a,
            self.squares_b + other.squares_b,
        )

    @property
    def relative(self) -> float:
        """L2 norm of the difference relative to the larger one of both sides' norms: between 0 and 2."""
        if not self.different:
            return 0.0
        larger = max(self.squares_a, self.squares_b)
        return math.sqrt(self.squares / larger) if larger and math.isfinite(self.squares) else math.inf

    @property
    def share(self) -> float:
        """Share of the elements that differ."""
        return self.different / self.numel if self.numel else 0.0


class _Instance(NamedTuple):
    """One instance of a kind in a tag; ``rank`` is None where the tensor ranks' blocks make up one whole."""

    kind: str
    rank: int | None
    stage: int


class _Pair(NamedTuple):
    """What is compared under the name ``kind``."""

    kind: str
    a: _Instance
    b: _Instance


class _Work(NamedTuple):
    """What is compared of a parameter: between the tags, and in each tag model copies with the masters they follow."""

    parameter: str
    pairs: tuple[_Pair, ...]
    own_a: tuple[tuple[_Instance, _Instance], ...]
    own_b: tuple[tuple[_Instance, _Instance], ...]


class _Task(NamedTuple):
    work: _Work
    start: int
    stop: int


@dataclass
class Comparison:
    """What a pass over two tags found.

    Attributes:
        differences: by parameter and kind of copy.  ``master`` stands for what training goes on from.
        edited_a, edited_b: by parameter, how many elements of a tag's model copy are not its own master, rounded.
    """

    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)
    edited_a: dict[str, int] = field(default_factory=dict)
    edited_b: dict[str, int] = field(default_factory=dict)


def compare(a: Layout, b: Layout, names: Iterable[str], kinds: Sequence[str] = ()) -> Comparison:
    """Compare parameters that both tags have, with rows of the same width; of more rows, those that both have.

    Args:
        a, b: the tags.
        names: parameters to compare, see :func:`shared_elements`.
        kinds: of copies, as in :attr:`Comparison.differences`; all when empty.

    Raises:
        CheckpointError: a file ends too soon.
    """
    listed = [_work(a, b, name, kinds) for name in names]
    both = _Pass(CopyReader(a), CopyReader(b))
    for reader in (both.a, both.b):
        reader.open_all(copy for work in listed for copy in reader.layout.copies[work.parameter])
    tasks = [
        _Task(work, start, stop)
        for work in listed
        for start, stop in pieces(0, shared_elements(a, b, work.parameter), TASK_ELEMENTS)
    ]
    return _joined(tasks, in_parallel(both.look, tasks))


def shared_elements(a: Layout, b: Layout, name: str) -> int:
    """How many elements of a parameter can be compared; 0 where its rows are not equally wide."""
    mine, other = a.parameters[name], b.parameters[name]
    return min(mine.numel, other.numel) if mine.shape[1:] == other.shape[1:] else 0


def _work(a: Layout, b: Layout, name: str, kinds: Sequence[str]) -> _Work:
    pairs = tuple(_pairs(a, b, name))
    if kinds:
        return _Work(name, tuple(pair for pair in pairs if pair.kind in kinds), (), ())
    return _Work(name, pairs, tuple(_own(a, name)), tuple(_own(b, name)))


def _own(tag: Layout, name: str) -> Iterator[tuple[_Instance, _Instance]]:
    if tag.truth(name) == MASTER and tag.of_kind(name, MODEL):
        masters = {instance.rank: instance for instance in _instances_of(tag, name, MASTER)}
        for model in _instances_of(tag, name, MODEL):
            yield model, masters[model.rank]


def _pairs(a: Layout, b: Layout, name: str) -> Iterator[_Pair]:
    truths = a.truth(name), b.truth(name)
    kinds = [({c.kind for c in tag.copies[name]}) for tag in (a, b)]
    if MODEL in kinds[0] & kinds[1]:
        yield from _instances(MODEL, a, b, name, (MODEL, MODEL))
    if MASTER in truths:
        yield from _instances(MASTER, a, b, name, truths)
    for state in a.states(name):
        if state in kinds[1]:
            yield from _instances(state, a, b, name, (state, state))


def _instances(label: str, a: Layout, b: Layout, name: str, kinds: tuple[str, str]) -> Iterator[_Pair]:
    stages = min(len(a.stages(name, kinds[0])), len(b.stages(name, kinds[1])))
    mine, others = list(_instances_of(a, name, kinds[0], stages)), list(_instances_of(b, name, kinds[1], stages))
    for one, other in zip_longest(mine, others):
        yield _Pair(label, one or mine[0], other or others[0])


def _instances_of(tag: Layout, name: str, kind: str, stages: int = 1) -> Iterator[_Instance]:
    parameter = tag.parameters[name]
    replicated = parameter.split is None and parameter.tensor > 1
    for rank in range(parameter.tensor) if replicated else (None,):
        for stage in tag.stages(name, kind)[:stages]:
            yield _Instance(kind, rank, stage)


class _Pass:
    def __init__(self, a: CopyReader, b: CopyReader) -> None:
        self.a, self.b = a, b

    def look(self, task: _Task) -> tuple[list[Difference], int, int]:
        """One task: the difference of each of its pairs, and how far either model copy is from its own master."""
        work = task.work
        found = [Difference() for _ in work.pairs]
        edited_a = edited_b = 0
        with OpenFiles(self.a.layout.path) as files_a, OpenFiles(self.b.layout.path) as files_b:
            for start, stop in pieces(task.start, task.stop):
                one = _Values(self.a, files_a, work.parameter, start, stop)
                other = _Values(self.b, files_b, work.parameter, start, stop)
                for index, pair in enumerate(work.pairs):
                    found[index] += _difference(one[pair.a], other[pair.b])
                edited_a += sum(one.edited(*own) for own in work.own_a)
                edited_b += sum(other.edited(*own) for own in work.own_b)
        return found, edited_a, edited_b


class _Values:
    """One range of a parameter in one tag, each instance read once."""

    def __init__(self, reader: CopyReader, files: OpenFiles, parameter: str, start: int, stop: int) -> None:
        self.reader, self.files, self.parameter, self.range = reader, files, parameter, (start, stop)
        self.read: dict[_Instance, NDArray[np.float32]] = {}

    def __getitem__(self, instance: _Instance) -> NDArray[np.float32]:
        if instance not in self.read:
            kind, rank, stage = instance
            if rank is None:
                values = self.reader.values(self.files, self.parameter, kind, *self.range, stage)
            else:
                values = self.reader.block(self.files, self.parameter, kind, rank, *self.range, stage)
            self.read[instance] = values
        return self.read[instance]

    def edited(self, model: _Instance, master: _Instance) -> int:
        """Elements of the model copy that are not the master's, rounded."""
        import numpy as np

        dtype = numpy_dtype(self.reader.layout.of_kind(self.parameter, MODEL)[0].dtype)
        expected = rounded(self[master], dtype).astype(np.float32, copy=False)
        return int(np.count_nonzero(_unequal(self[model], expected)))


def _unequal(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    import numpy as np

    different: NDArray[np.bool_] = (a != b) & ~(np.isnan(a) & np.isnan(b))
    return different


def _difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> Difference:
    import numpy as np

    different = _unequal(a, b)
    count = int(np.count_nonzero(different))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    if not count:
        return Difference(len(a), 0, 0.0, 0.0, _squares(wide_a), _squares(wide_b))
    with np.errstate(invalid="ignore"):
        apart = np.where(different, np.abs(wide_a - wide_b), 0.0)
    apart[np.isnan(apart)] = np.inf
    maximum = float(apart.max())
    return Difference(len(a), count, maximum, _squares(apart), _squares(wide_a), _squares(wide_b))


def _squares(values: NDArray[np.float64]) -> float:
    """Sum of squares, in place; not a dot product, for which BLAS would start threads of its own under ours."""
    values *= values
    return float(values.sum())


def _joined(tasks: Sequence[_Task], parts: Sequence[tuple[list[Difference], int, int]]) -> Comparison:
    sums: dict[str, dict[_Pair, Difference]] = {}
    found = Comparison()
    for task, (differences, edited_a, edited_b) in zip(tasks, parts, strict=True):
        of_parameter = sums.setdefault(task.work.parameter, {})
        for pair, difference in zip(task.work.pairs, differences, strict=True):
            of_parameter[pair] = of_parameter.get(pair, Difference()) + difference
        for counts, edited in ((found.edited_a, edited_a), (found.edited_b, edited_b)):
            if edited:
                counts[task.work.parameter] = counts.get(task.work.parameter, 0) + edited
    for name, pairs in sums.items():
        worst: dict[str, Difference] = {}
        for pair, difference in pairs.items():
            if pair.kind not in worst or _badness(difference) > _badness(worst[pair.kind]):
                worst[pair.kind] = difference
        found.differences[name] = worst
    return found


def _badness(difference: Difference) -> tuple[int, float]:
    return difference.different, difference.squares
