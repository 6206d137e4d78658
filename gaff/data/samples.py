# SPDX-License-Identifier: Apache-2.0
"""Training samples of fixed length over the documents of a dataset, in an order that a seed decides.

Sample i is a pure function of (dataset, documents, seed, seq_length, count, i): a run that is resumed at iteration M
asks for the same samples as one that was never stopped.  Documents are shuffled anew in each epoch and laid end to
end; sample j before shuffling is tokens ``[j·s, j·s + s]`` of that stream (s+1 tokens, the last one is the label of
the one before it); then samples are shuffled.  The orders come from raw Philox words, whose stream NumPy promises to
keep, and a stable sort, so they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gaff.data.indexed_dataset import IndexedDataset, idx_path
from gaff.errors import InputError, Location, Problem

_SAMPLE_STREAM = 1 << 63  # keeps the key of the sample order apart from those of the epochs


class SampleSource(Protocol):
    """Something that gives sample i as ``seq_length + 1`` tokens."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NDArray[np.int64]: ...


def permutation(seed: int, stream: int, size: int) -> NDArray[np.int64]:
    """A permutation of ``range(size)`` that depends on its arguments alone."""
    mask = (1 << 64) - 1
    words = np.random.Philox(key=np.array([seed & mask, stream & mask], dtype=np.uint64)).random_raw(size)
    return np.argsort(np.atleast_1d(words), kind="stable").astype(np.int64)


class Samples:
    """``count`` samples over documents ``[first, last)`` of a dataset, as many epochs as that takes.

    Raises:
        InputError: the documents hold no token pair to learn from.
    """

    def __init__(self, dataset: IndexedDataset, documents: range, seq_length: int, seed: int, count: int) -> None:
        self._dataset, self._seq_length = dataset, seq_length
        first, last = dataset.doc_idx[documents.start], dataset.doc_idx[documents.stop]
        tokens = int(dataset.sizes[first:last].sum(dtype=np.int64))
        if tokens < 2:
            where = Location(str(idx_path(dataset.prefix)))
            what = f"documents {documents.start} to {documents.stop} hold {tokens} tokens"
            raise InputError(Problem("empty-dataset", what, "give more data or another split", where))
        self.epochs = max(1, -(-(count * seq_length + 1) // tokens))
        orders = [permutation(seed, epoch, len(documents)) for epoch in range(self.epochs)]
        self._sequences = _sequences_of(dataset.doc_idx, np.concatenate(orders) + documents.start)
        sizes = dataset.sizes[self._sequences].astype(np.int64)
        self._starts = np.cumsum(sizes) - sizes
        available = (self.epochs * tokens - 1) // seq_length
        self._order = permutation(seed, _SAMPLE_STREAM, available)[:count]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        """Sample ``index``: ``seq_length + 1`` tokens."""
        start = int(self._order[index]) * self._seq_length
        missing = self._seq_length + 1
        at = int(np.searchsorted(self._starts, start, side="right")) - 1
        offset = start - int(self._starts[at])
        pieces = []
        while missing:
            piece = self._dataset.sequence(int(self._sequences[at]), offset, offset + missing)
            pieces.append(piece)
            missing -= len(piece)
            at, offset = at + 1, 0
        return np.concatenate(pieces).astype(np.int64)


def _sequences_of(doc_idx: NDArray[np.int64], documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sequences of the documents, in the order of the documents."""
    first = doc_idx[documents]
    counts = doc_idx[documents + 1] - first
    ends = np.cumsum(counts)
    return np.repeat(first - (ends - counts), counts) + np.arange(int(ends[-1]) if len(ends) else 0)


class Blend:
    """``count`` samples of several sources in proportion to their weights, evenly interleaved.

    Which source serves sample i does not depend on ``count``.
    """

    def __init__(self, sources: Sequence[SampleSource], weights: Sequence[float], count: int) -> None:
        self._sources = sources
        total = float(sum(weights))
        shares = [weight / total for weight in weights]
        times, owners, indices = [], [], []
        for number, (share, source) in enumerate(zip(shares, sources, strict=True)):
            needed = min(len(source), int(np.ceil(count * share)) + 1) if share else 0
            times.append((np.arange(needed) + 0.5) / (share or 1.0))
            owners.append(np.full(needed, number))
            indices.append(np.arange(needed))
        order = np.argsort(np.concatenate(times), kind="stable")[:count]
        self._owners, self._indices = np.concatenate(owners)[order], np.concatenate(indices)[order]

    def __len__(self) -> int:
        return len(self._owners)

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        return self._sources[int(self._owners[index])][int(self._indices[index])]


def split_documents(split: str, documents: int) -> tuple[range, range, range]:
    """Training, validation and test documents of a ``split`` such as ``969, 30, 1``, cut as GPT-NeoX cuts them.

    Raises:
        ValueError: the parts are not numbers, are negative or sum to nothing.
    """
    parts = [float(part) for part in str(split).replace("/", ",").split(",")][:3]
    parts += [0.0] * (3 - len(parts))
    if min(parts) < 0 or sum(parts) <= 0:
        raise ValueError(f"split {split!r} must hold numbers that sum to more than 0")
    edges = [0]
    for part in parts:
        edges.append(edges[-1] + round(part / sum(parts) * documents))
    # Rounding may over- or undershoot; GPT-NeoX shifts all cuts by the difference.
    cuts = [0, *(min(max(edge - (edges[3] - documents), 0), documents) for edge in edges[1:])]
    return range(cuts[0], cuts[1]), range(cuts[1], cuts[2]), range(cuts[2], cuts[3])
