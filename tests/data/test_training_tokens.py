# SPDX-License-Identifier: Apache-2.0
"""Tokens of the training data: as many as the files hold, told from a few bytes of each index."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from gaff.data.indexed_dataset import IndexedDataset, idx_path, write_dataset
from gaff.data.samples import split_documents
from gaff.data.training_tokens import TrainingData, training_data
from gaff.plan.config import Config, load_config

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """``load(key=value …)``: a config with these keys and three data sets of 10, 1000 and 20 documents beside it."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    for name, documents, dtype in (("a", 10, "<u2"), ("b", 1000, "<i4"), ("c", 20, "<u2")):
        sizes = random.integers(1, 50, documents)
        write_dataset(name, ([7] * int(size) for size in sizes), np.dtype(dtype))

    def load(**keys: object) -> Config:
        path = tmp_path / "run.yml"
        path.write_text(yaml.safe_dump({"gaff": {"reset_every": 5}, "train_iters": 10, **keys}))
        return load_config([path])

    return load


def tokens_of(prefix: str) -> int:
    return IndexedDataset(prefix).tokens


def found(config: Config) -> TrainingData:
    data = training_data(config)
    assert isinstance(data, TrainingData), data
    return data


@pytest.mark.parametrize("split", ["969, 30, 1", "1", "8/1/1", "1,0,0", "50,50,0"])
@pytest.mark.parametrize("prefix", ["a", "b"])
def test_the_training_part_of_a_split_has_the_tokens_of_its_documents(load: Load, prefix: str, split: str) -> None:
    dataset = IndexedDataset(prefix)
    training = split_documents(split, dataset.documents)[0]
    data = found(load(data_path=prefix, split=split))
    assert data.tokens == int(dataset.sizes[training.start : training.stop].sum())
    assert [(item.key, item.share) for item in data.sets] == [("data_path", 1.0)]
    assert data.epochs(2 * data.tokens) == 2.0


def test_weighted_paths_are_taken_whole_each_with_its_share(load: Load) -> None:
    data = found(load(train_data_paths=["a", "b", "c"], train_data_weights=[3, 1, 0]))
    assert [(item.key, Path(item.prefix).name, item.share, item.tokens) for item in data.sets] == [
        ("train_data_paths.0", "a", 0.75, tokens_of("a")),
        ("train_data_paths.1", "b", 0.25, tokens_of("b")),
    ]
    assert data.epochs_of(data.sets[0], 1000) == 750 / tokens_of("a")
    told = data.to_json(1000)
    assert [item["epochs"] for item in told["sets"]] == [750 / tokens_of("a"), 250 / tokens_of("b")]
    assert data.to_json(None)["epochs"] is None


def test_without_weights_all_paths_count_alike(load: Load) -> None:
    data = found(load(train_data_paths=["a", "c"]))
    assert [item.share for item in data.sets] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("paths", "alpha", "shares"),
    [
        (["a", "c"], 0.3, [0.6189757386701197, 0.3810242613298804]),
        (["a", "c", "b"], None, [0.1688741721854305, 0.3344370860927153, 0.4966887417218542]),
        (["a"], 0.3, [1.0]),
    ],
)
def test_weights_by_documents_are_gpt_neoxs(
    load: Load, paths: list[str], alpha: float | None, shares: list[float]
) -> None:
    """Expected is what ``weights_by_num_docs`` of GPT-NeoX's data_utils.py returned for 10, 20 and 1000 documents."""
    more = {} if alpha is None else {"weighted_sampler_alpha": alpha}
    data = found(load(train_data_paths=paths, weight_by_num_documents=True, **more))
    assert [item.share for item in data.sets] == pytest.approx(shares, rel=1e-12)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({}, "names no training data"),
        ({"data_path": "absent"}, "absent.idx is not here"),
        ({"data_path": "empty"}, "is no whole index"),
        ({"data_path": "other"}, "is no index of a memory-mapped dataset"),
        ({"data_path": "cut"}, "is no whole index"),
        ({"data_path": "folder"}, "folder.idx cannot be read"),
        ({"data_path": "a", "split": "0,1,0"}, "is empty"),
        ({"data_path": "a", "split": "nonsense"}, "`split` does not say"),
        ({"data_path": "a", "pack_impl": "unpacked"}, "with pack_impl unpacked"),
        ({"train_data_paths": ["a", "absent"]}, "absent.idx is not here"),
        ({"train_data_paths": ["a"], "train_data_weights": [1, 2]}, "weights do not fit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_known_says_why(load: Load, tmp_path: Path, keys: dict[str, object], reason: str) -> None:
    (tmp_path / "empty.idx").write_bytes(b"")
    (tmp_path / "other.idx").write_bytes(b"TNTIDX\x00\x00" + bytes(100))
    (tmp_path / "cut.idx").write_bytes(idx_path("b").read_bytes()[:100])
    (tmp_path / "folder.idx").mkdir()
    told = training_data(load(**keys))
    assert isinstance(told, str)
    assert reason in told


def test_counting_reads_a_few_bytes_of_a_large_index_and_imports_no_numpy(tmp_path: Path) -> None:
    """An index of 400 million sequences, whose file is a hole of 5 GB: a process of 1 GB counts them."""
    import struct

    count, tokens = 400_000_000, 123_456_789_012
    with (tmp_path / "big.idx").open("wb") as file:
        file.write(struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, count, count + 1))
        file.seek(34 + 4 * (count - 1))
        file.write(struct.pack("<i", 12))
        file.seek(34 + 4 * count + 8 * (count - 1))
        file.write(struct.pack("<q", 2 * (tokens - 12)))
    (tmp_path / "run.yml").write_text(
        f"gaff: {{reset_every: 5}}\ntrain_iters: 10\ndata_path: {tmp_path}/big\nsplit: '1'\n"
    )
    program = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "from pathlib import Path\nfrom gaff.plan.config import load_config\n"
        "from gaff.data.training_tokens import training_data\n"
        f"data = training_data(load_config([Path({str(tmp_path / 'run.yml')!r})]))\n"
        "print(data.tokens, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tokens), "False"]
