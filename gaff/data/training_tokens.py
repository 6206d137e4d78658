# SPDX-License-Identifier: Apache-2.0
"""How many tokens a config's training data holds, from a few bytes of each ``.idx`` file.

The pointers of an index are the running sum of its sizes (:mod:`gaff.data.indexed_dataset`), so the tokens of a range
of sequences are the difference of two pointers: nothing else is read, however large the file is, and numpy is not
needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gaff.plan.config import Config
from gaff.plan.index_maps import split_edges, weighted_paths
from gaff.plan.typed import flag, items, number, text, word

_HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, length of the document index
_MAGIC = b"MMIDIDX\x00\x00"
_SIZE, _POINTER = struct.Struct("<i"), struct.Struct("<q")
_ITEM_BYTES: Mapping[int, int] = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 4, 7: 8, 8: 2}  # by dtype code
_ALPHA = 1.0  # weighted_sampler_alpha, GPT-NeoX's default


@dataclass(frozen=True)
class DataSet:
    """One data set of a run.

    Attributes:
        key: the config's key that names it.
        prefix: its path, without suffix.
        share: of the run's samples that come from it.
        tokens: of its training part.
    """

    key: str
    prefix: str
    share: float
    tokens: int


@dataclass(frozen=True)
class TrainingData:
    """All data that a run trains on; ``sets`` is not empty, and none of them is."""

    sets: tuple[DataSet, ...]

    @property
    def tokens(self) -> int:
        return sum(item.tokens for item in self.sets)

    def epochs(self, trained: int) -> float:
        """How often ``trained`` tokens go through all of it; the data sets one by one may differ (``epochs_of``)."""
        return trained / self.tokens

    def epochs_of(self, item: DataSet, trained: int) -> float:
        """How often a run of ``trained`` tokens goes through one data set."""
        return trained * item.share / item.tokens

    def to_json(self, trained: int | None) -> dict[str, Any]:
        """As plain JSON values; epochs are None where the tokens of the run are not known."""

        def epochs(item: DataSet) -> float | None:
            return None if trained is None else self.epochs_of(item, trained)

        sets = [
            {"key": s.key, "prefix": s.prefix, "share": s.share, "tokens": s.tokens, "epochs": epochs(s)}
            for s in self.sets
        ]
        return {"tokens": self.tokens, "epochs": None if trained is None else self.epochs(trained), "sets": sets}


def training_data(config: Config) -> TrainingData | str:
    """The training data of a config, or a sentence why its tokens are not known.  Reads no token."""
    packing = word(config, "pack_impl")
    if packing not in ("", "packed"):
        return f"with pack_impl {packing} a sample is no fixed part of the data"
    try:
        sets = tuple(_single(config) if text(config, "data_path") else _several(config))
    except _Unreadable as error:
        return str(error)
    if not sets:
        return "the config names no training data, or its weights do not fit its paths"
    empty = next((item for item in sets if item.tokens == 0), None)
    return TrainingData(sets) if empty is None else f"the training part of {empty.prefix} is empty"


class _Unreadable(Exception):
    """Why the tokens of a file cannot be told."""


def _single(config: Config) -> Iterator[DataSet]:
    """``data_path``, of which ``split`` gives a part to training."""
    prefix = text(config, "data_path") or ""
    with _Index(prefix) as index:
        edges = split_edges(text(config, "split") or "", index.sequences)
        if edges is None:
            raise _Unreadable("`split` does not say which part of the data is for training")
        yield DataSet("data_path", prefix, 1.0, index.tokens(max(0, edges[1])))


def _several(config: Config) -> Iterator[DataSet]:
    """``train_data_paths``, all of each, in the proportion of their weights."""
    if flag(config, "weight_by_num_documents"):
        paths = [path for path in items(config, "train_data_paths") if isinstance(path, str)]
        weighted = list(zip(paths, _by_documents(config, paths), strict=True))
    else:
        weighted = list(weighted_paths(config, "train"))
    for place, (prefix, share) in enumerate(weighted):
        if share > 0:
            with _Index(prefix) as index:
                yield DataSet(f"train_data_paths.{place}", prefix, share, index.tokens(index.sequences))


def _by_documents(config: Config, paths: list[str]) -> list[float]:
    """GPT-NeoX's weights by the number of documents (``megatron/data/data_utils.py``, ``weights_by_num_docs``)."""
    if len(paths) == 1:
        return [1.0]
    alpha = number(config, "weighted_sampler_alpha")
    documents = []
    for prefix in paths:
        with _Index(prefix) as index:
            documents.append(index.sequences)
    whole = sum(documents) or 1
    parts = [count / whole for count in documents]
    weights = [part ** (_ALPHA if alpha is None else alpha) * (1 - part) for part in parts]
    total = sum(weights)
    return [weight / total for weight in weights] if total > 0 else [0.0] * len(paths)


class _Index:
    """An open ``.idx`` file.

    Attributes:
        sequences: how many there are; GPT-NeoX counts each as one document.
    """

    def __init__(self, prefix: str) -> None:
        self._path = Path(f"{prefix}.idx")
        try:
            self._file: BinaryIO = self._path.open("rb")
        except OSError as error:
            raise _Unreadable(f"{self._path} {_trouble(error)}") from None
        try:
            self.sequences, self._item = self._head()
        except _Unreadable:
            self._file.close()
            raise

    def __enter__(self) -> _Index:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _head(self) -> tuple[int, int]:
        """(number of sequences, bytes of a token)."""
        found = self._read(0, _HEADER.size)
        if not found.startswith(_MAGIC):
            raise _Unreadable(f"{self._path} is no index of a memory-mapped dataset")
        _, version, code, sequences, _ = _HEADER.unpack(found)
        if version != 1 or code not in _ITEM_BYTES:
            raise _Unreadable(f"{self._path} has an unknown version or token type")
        return int(sequences), _ITEM_BYTES[code]

    def tokens(self, stop: int) -> int:
        """Of the first ``stop`` sequences."""
        if stop < 1:
            return 0
        last = min(stop, self.sequences) - 1
        size = _SIZE.unpack(self._read(_HEADER.size + last * _SIZE.size, _SIZE.size))[0]
        pointers = _HEADER.size + self.sequences * _SIZE.size
        pointer = _POINTER.unpack(self._read(pointers + last * _POINTER.size, _POINTER.size))[0]
        return int(pointer) // self._item + int(size)

    def _read(self, begin: int, size: int) -> bytes:
        try:
            self._file.seek(begin)
            found = self._file.read(size)
        except (OSError, ValueError, OverflowError) as error:
            raise _Unreadable(f"{self._path} {_trouble(error)}") from None
        if len(found) < size:
            raise _Unreadable(f"{self._path} is no whole index of a dataset")
        return found


def _trouble(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is not here"
    return f"cannot be read ({error.strerror or error})" if isinstance(error, OSError) else "cannot be read"
