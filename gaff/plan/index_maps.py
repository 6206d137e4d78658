# SPDX-License-Identifier: Apache-2.0
"""The index maps that GPT-NeoX keeps beside the data, and whether they still belong to it.

Which sample stands where is worked out once and kept in ``.npy`` files whose names hold the number of samples, the
sequence length and the seed, but neither ``split`` nor anything of the data (contract section 3): after a change of
these, GPT-NeoX uses the old maps and says nothing.
"""

from __future__ import annotations

import ast
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gaff.plan.config import Config
from gaff.plan.estimates import batch
from gaff.plan.typed import integer, items, pipeline, text, word

_KINDS = ("doc", "sample", "shuffle")
_SPLITS = ("train", "valid", "test")
_INDEX = struct.Struct("<9sQBQ")  # magic, version, dtype code, number of sequences
_MAGIC = b"MMIDIDX\x00\x00"
_NUMPY = b"\x93NUMPY"


@dataclass(frozen=True)
class IndexMaps:
    """The three maps of one data set that a run will read.

    Attributes:
        key: the config's key that names the data.
        prefix: the data path, without suffix.
        stem: path of the maps without ``_doc_idx.npy`` and so on.
        split: 0, 1 or 2 for the part of ``split`` they are for; None where the data is taken whole.
    """

    key: str
    prefix: str
    stem: str
    split: int | None

    @property
    def paths(self) -> list[Path]:
        return [Path(f"{self.stem}_{kind}_idx.npy") for kind in _KINDS]

    @property
    def there(self) -> bool:
        """Whether GPT-NeoX will take them: it builds all anew when one is missing."""
        return all(path.is_file() for path in self.paths)

    @property
    def older_than_the_data(self) -> bool:
        data = [Path(self.prefix + suffix).stat().st_mtime for suffix in (".bin", ".idx")]
        return min(path.stat().st_mtime for path in self.paths) < max(data)

    def of_other_documents(self, split: str) -> bool:
        """Whether the document map is no whole number of epochs over the documents that ``split`` gives this data."""
        entries, documents = _array_length(self.paths[0]), _sequences(Path(f"{self.prefix}.idx"))
        if entries is None or documents is None:
            return False
        if self.split is not None:
            edges = split_edges(split, documents)
            documents = edges[self.split + 1] - edges[self.split] if edges else 0
        return documents > 0 and entries % documents != 0


def index_maps(config: Config) -> Iterator[IndexMaps]:
    """All maps that the run will look for, as far as their names can be told: the batch over all GPUs is in them."""
    sizes = batch(config)
    train_iters, sequence, seed = (integer(config, key) for key in ("train_iters", "seq_length", "seed"))
    if sizes is None or sizes.samples is None or not train_iters or not sequence or seed is None:
        return
    samples = {"train": train_iters * sizes.samples, **_evaluation(config, train_iters, sizes.samples)}
    packing = word(config, "pack_impl") or "packed"
    chopped = "" if config.get("allow_chopped") is False else "_ac"
    end = f"{sequence}sl_{seed}s_{packing}pi{chopped}"
    single = text(config, "data_path")
    if single is not None:
        for split, count in samples.items():
            yield IndexMaps("data_path", single, f"{single}_{split}_indexmap_{count}ns_{end}", _SPLITS.index(split))
        return
    for split, count in samples.items():
        key = f"{split}_data_paths"
        for number, (prefix, share) in enumerate(weighted_paths(config, split)):
            stem = f"{prefix}_{split}_{number}_indexmap_{math.ceil(count * share * 1.005)}ns_{end}"
            yield IndexMaps(f"{key}.{number}", prefix, stem, None)


def _evaluation(config: Config, train_iters: int, batch_samples: int) -> dict[str, int]:
    """Samples for validation and test; none in pipeline runs, where GAFF turns both off."""
    iters, interval = integer(config, "eval_iters") or 0, integer(config, "eval_interval") or 0
    if iters < 1 or interval < 1 or pipeline(config) >= 1:
        return {}
    return {"valid": (train_iters // interval + 1) * iters * batch_samples, "test": iters * batch_samples}


def weighted_paths(config: Config, split: str) -> Iterator[tuple[str, float]]:
    """(data path, its share of the samples); nothing where shares follow from the documents, or do not fit."""
    paths = [path for path in items(config, f"{split}_data_paths") if isinstance(path, str)]
    weights = items(config, f"{split}_data_weights") or [1.0] * len(paths)
    usable = len(weights) == len(paths) and all(type(w) in (int, float) and w >= 0 for w in weights)
    if usable and sum(weights) > 0 and not config.get("weight_by_num_documents"):
        yield from ((path, weight / sum(weights)) for path, weight in zip(paths, weights, strict=True))


def split_edges(split: str, documents: int) -> list[int] | None:
    """Where train, validation and test begin and end, as GPT-NeoX rounds them (``get_train_valid_test_split_``)."""
    mark = "," if "," in split else "/"
    try:
        parts = [*map(float, split.split(mark)), 0.0, 0.0][:3]
    except ValueError:
        return None
    if not sum(parts) > 0:
        return None
    edges = [0]
    for part in parts:
        edges.append(edges[-1] + round(part / sum(parts) * documents))
    surplus = edges[-1] - documents
    return [0, *(edge - surplus for edge in edges[1:])]


def _sequences(index: Path) -> int | None:
    """The number of sequences in a ``.idx`` file, each of which GPT-NeoX counts as one document."""
    with index.open("rb") as file:
        head = file.read(_INDEX.size)
    if len(head) < _INDEX.size or not head.startswith(_MAGIC):
        return None
    return int(_INDEX.unpack(head)[3])


def _array_length(path: Path) -> int | None:
    """The number of entries of a one-dimensional ``.npy`` file, from its header."""
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or not head.startswith(_NUMPY):
            return None
        size, begin = struct.unpack_from("<H", head, 8)[0], 10
        if head[6] >= 2:
            size, begin = struct.unpack_from("<I", head, 8)[0], 12
        file.seek(begin)
        words = file.read(min(size, 4096))
    try:
        shape = ast.literal_eval(words.decode("latin-1").strip())["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError):
        return None
    return int(shape[0]) if isinstance(shape, tuple) and len(shape) == 1 else None
