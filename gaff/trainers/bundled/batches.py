# SPDX-License-Identifier: Apache-2.0
"""Which tokens a rank trains on at an iteration: a pure function of config and iteration, as in GPT-NeoX."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gaff.data.indexed_dataset import IndexedDataset
from gaff.data.samples import Blend, Samples, SampleSource, split_documents
from gaff.errors import InputError, Problem
from gaff.trainers.bundled.settings import given

Batch = tuple[torch.Tensor, torch.Tensor]
_DEFAULT_SPLIT = "969, 30, 1"


@dataclass(frozen=True)
class Counts:
    """How many samples of each kind a run can ask for."""

    train: int
    valid: int
    test: int


@dataclass(frozen=True)
class Sources:
    """The samples of a run; None where there are none."""

    train: SampleSource
    valid: SampleSource | None
    test: SampleSource | None


def open_sources(neox: Mapping[str, Any], counts: Counts) -> Sources:
    """The samples that a config's data keys name: one set with ``split``, or lists with weights."""
    length, seed = int(neox["seq_length"]), int(given(neox, "seed", 1234))
    path = given(neox, "data_path")
    if path is None:
        lists = [
            _listed(neox, kind, length, seed, count)
            for kind, count in (("train", counts.train), ("valid", counts.valid), ("test", counts.test))
        ]
        assert lists[0] is not None, "train_data_paths was checked before the launch"
        return Sources(lists[0], lists[1], lists[2])
    dataset = IndexedDataset(path)
    parts = split_documents(given(neox, "split", _DEFAULT_SPLIT), dataset.documents)
    train = Samples(dataset, parts[0], length, seed, counts.train)
    valid, test = (
        Samples(dataset, documents, length, seed, count) if len(documents) and count else None
        for documents, count in ((parts[1], counts.valid), (parts[2], counts.test))
    )
    return Sources(train, valid, test)


def _listed(neox: Mapping[str, Any], kind: str, length: int, seed: int, count: int) -> SampleSource | None:
    paths = given(neox, f"{kind}_data_paths", [])
    if not paths or not count:
        return None
    weights = given(neox, f"{kind}_data_weights", [1.0] * len(paths))
    total = sum(weights)
    sources = []
    for path, weight in zip(paths, weights, strict=True):
        dataset = IndexedDataset(path)
        needed = math.ceil(count * weight / total) + 1
        sources.append(Samples(dataset, range(dataset.documents), length, seed, needed))
    return Blend(sources, weights, count)


@dataclass(frozen=True)
class Batches:
    """The micro-batches of one data-parallel rank.

    Micro-batch m of iteration i (from 0) takes global samples ``((i·steps + m)·replicas + replica)·micro + 0…micro−1``.
    """

    source: SampleSource
    micro: int
    steps: int
    replica: int
    replicas: int
    vocab_size: int

    def of(self, iteration: int) -> Iterator[Batch]:
        """The ``steps`` micro-batches of the iteration that follows ``iteration`` completed ones."""
        for number in range(iteration * self.steps, (iteration + 1) * self.steps):
            first = (number * self.replicas + self.replica) * self.micro
            rows = [self.source[(first + row) % len(self.source)] for row in range(self.micro)]
            text = np.stack(rows)
            if int(text.max()) >= self.vocab_size:
                what = f"the data hold token {int(text.max())}, but the vocabulary has {self.vocab_size} entries"
                remedy = "use the tokenizer with which the data were prepared"
                raise InputError(Problem("token-out-of-range", what, remedy))
            tokens = torch.from_numpy(text)
            yield tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
