# SPDX-License-Identifier: Apache-2.0
"""Samples: complete, in an order that the seed alone decides, the same for a run that was stopped and resumed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gaff.data.indexed_dataset import IndexedDataset, write_dataset
from gaff.data.samples import Blend, Samples, permutation, split_documents
from gaff.errors import InputError

LENGTHS = [5, 0, 17, 3, 40, 1]


@pytest.fixture
def dataset(tmp_path: Path) -> IndexedDataset:
    """Token t occurs once, so a sample's tokens tell where it comes from."""
    edges = np.cumsum([0, *LENGTHS])
    documents = [list(range(a, b)) for a, b in pairwise(edges)]
    write_dataset(tmp_path / "set", documents, np.dtype("<u2"))
    return IndexedDataset(tmp_path / "set")


def all_of(samples: Samples | Blend) -> list[list[int]]:
    return [samples[i].tolist() for i in range(len(samples))]


def test_one_epoch_holds_every_token_once(dataset: IndexedDataset) -> None:
    samples = Samples(dataset, range(len(LENGTHS)), seq_length=5, seed=1, count=13)
    assert samples.epochs == 1
    inputs = [token for sample in all_of(samples) for token in sample[:-1]]
    assert len(set(inputs)) == len(inputs) == 65
    assert all(len(sample) == 6 for sample in all_of(samples))


def test_more_samples_than_tokens_take_more_epochs_with_other_orders(dataset: IndexedDataset) -> None:
    samples = Samples(dataset, range(len(LENGTHS)), seq_length=8, seed=1, count=40)
    assert (len(samples), samples.epochs) == (40, 5)
    tokens = np.bincount(np.concatenate([samples[i][:-1] for i in range(40)]), minlength=66)
    assert tokens.min() >= 4
    assert tokens.max() <= 5


def test_documents_stay_whole_inside_the_stream(dataset: IndexedDataset) -> None:
    """Inside a document the next token is the successor; only at its end another document follows."""
    ends = set(np.cumsum(LENGTHS) - 1)
    for sample in all_of(Samples(dataset, range(len(LENGTHS)), seq_length=7, seed=3, count=9)):
        for token, following in pairwise(sample):
            assert following == token + 1 or token in ends


def test_samples_depend_on_the_seed_alone(dataset: IndexedDataset) -> None:
    def make(seed: int) -> list[list[int]]:
        return all_of(Samples(dataset, range(len(LENGTHS)), 5, seed, 13))

    assert make(1) == make(1)
    assert make(1) != make(2)


def test_only_the_given_documents_are_used(dataset: IndexedDataset) -> None:
    samples = Samples(dataset, range(2, 4), seq_length=4, seed=1, count=12)
    assert {token for sample in all_of(samples) for token in sample} <= set(range(5, 25))


def test_documents_without_tokens_are_refused(dataset: IndexedDataset) -> None:
    with pytest.raises(InputError, match="hold 0 tokens"):
        Samples(dataset, range(1, 2), 4, 1, 1)


def test_permutation_is_that_of_every_other_machine() -> None:
    assert permutation(1234, 0, 8).tolist() == [7, 3, 0, 1, 4, 2, 5, 6]


def test_a_blend_is_in_proportion_and_does_not_depend_on_its_length(dataset: IndexedDataset) -> None:
    first = Samples(dataset, range(3), 2, 1, 40)
    second = Samples(dataset, range(4, 5), 2, 1, 40)
    blend = Blend([first, second], [3.0, 1.0], 40)
    from_second = [min(sample) >= 25 for sample in all_of(blend)]
    assert sum(from_second) == 10
    assert all(sum(from_second[i : i + 4]) == 1 for i in range(0, 40, 4))
    assert all_of(Blend([first, second], [3.0, 1.0], 12)) == all_of(blend)[:12]


@pytest.mark.parametrize(
    ("split", "documents", "expected"),
    [
        ("969, 30, 1", 132, [128, 4, 0]),  # as GPT-NeoX said of 132 documents in tests/trainers/logs
        ("969,30,1", 1000, [969, 30, 1]),
        ("1", 7, [7, 0, 0]),
        ("50/50", 3, [1, 2, 0]),
    ],
)
def test_split_is_cut_as_gpt_neox_cuts_it(split: str, documents: int, expected: list[int]) -> None:
    parts = split_documents(split, documents)
    assert [len(part) for part in parts] == expected
    assert [part.start for part in parts] == [0, expected[0], expected[0] + expected[1]]


@pytest.mark.parametrize("split", ["0,0", "-1,2"])
def test_a_split_of_nothing_is_refused(split: str) -> None:
    with pytest.raises(ValueError, match="must hold numbers that sum to more than 0"):
        split_documents(split, 10)
