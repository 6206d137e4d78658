# SPDX-License-Identifier: Apache-2.0
"""Index maps beside the data: which ones a run will take, and when it is told that they are stale."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gaff.data.indexed_dataset import write_dataset
from gaff.plan.checks import warnings
from gaff.plan.config import Config
from gaff.plan.index_maps import index_maps

Load = Callable[..., Config]
DOCUMENTS = 100
TRAIN = "data/text_document_train_indexmap_1600ns_32sl_1234s_packedpi_ac"  # 400 iterations of 2 x 2 samples


@pytest.fixture
def data(project: Path) -> Path:
    """A data set of 100 documents, older than all maps that a test will write."""
    write_dataset(project / "data" / "text_document", ([1, 2, 3] for _ in range(DOCUMENTS)), np.dtype("<u2"))
    for suffix in (".bin", ".idx"):
        os.utime(project / "data" / f"text_document{suffix}", (1_000_000, 1_000_000))
    return project


def write_maps(stem: Path, documents: int, *, epochs: int = 3, time: float = 2_000_000) -> None:
    for kind in ("doc", "sample", "shuffle"):
        path = stem.with_name(f"{stem.name}_{kind}_idx.npy")
        np.save(path, np.zeros(documents * epochs, dtype=np.int32), allow_pickle=True)
        os.utime(path, (time, time))


def stale(config: Config) -> list[str]:
    return [str(warning) for warning in warnings(config) if warning.id == "index-maps-stale"]


def test_maps_of_this_data_and_split_are_fine(data: Path, load: Load) -> None:
    assert stale(load()) == []
    write_maps(data / TRAIN, 97)  # of 100 documents, 969, 30, 1 gives 97, 3, 0
    assert stale(load()) == []
    assert stale(load("split='90,5,5'", "seed=7")) == []  # maps of another seed are other files


@pytest.mark.parametrize(("split", "documents"), [("969, 30, 1", 97), ("90,5,5", 90), ("8/1/1", 80), ("1", 100)])
def test_maps_of_another_split_are_found_out(data: Path, load: Load, split: str, documents: int) -> None:
    write_maps(data / TRAIN, documents)
    assert stale(load(f"split='{split}'")) == []
    write_maps(data / TRAIN, 77)
    [said] = stale(load(f"split='{split}'"))
    assert "were built for another `split` or other data" in said
    assert said.startswith("run.yml:17: ")
    assert f"{TRAIN}_*_idx.npy" in said


def test_maps_older_than_the_data_are_told(data: Path, load: Load) -> None:
    write_maps(data / TRAIN, 97, time=999_999)
    [said] = stale(load())
    assert "are older than the data, and GPT-NeoX would use them silently; delete them" in said


def test_where_one_map_is_missing_gpt_neox_builds_all_anew(data: Path, load: Load) -> None:
    write_maps(data / TRAIN, 77)
    Path(f"{TRAIN}_shuffle_idx.npy").unlink()
    assert stale(load()) == []


def test_validation_and_test_have_maps_of_their_own_where_they_happen(load: Load) -> None:
    evaluated = load("pipe_parallel_size=0", "eval_iters=10", "eval_interval=100")
    names = [Path(maps.stem).name for maps in index_maps(evaluated)]
    assert names == [
        "text_document_train_indexmap_1600ns_32sl_1234s_packedpi_ac",
        "text_document_valid_indexmap_200ns_32sl_1234s_packedpi_ac",  # (400 / 100 + 1) x 10 x 4
        "text_document_test_indexmap_40ns_32sl_1234s_packedpi_ac",
    ]
    assert len(list(index_maps(load("eval_iters=10")))) == 1  # a pipeline


def test_lists_of_data_share_the_samples_by_weight(load: Load, project: Path) -> None:
    lists = ["data_path=", "train_data_paths=[data/a,data/b]", "train_data_weights=[1,3]", "allow_chopped=false"]
    assert [maps.stem for maps in index_maps(load(*lists))] == [
        f"{project}/data/a_train_0_indexmap_402ns_32sl_1234s_packedpi",  # 1600 / 4 x 1.005
        f"{project}/data/b_train_1_indexmap_1206ns_32sl_1234s_packedpi",
    ]
    assert list(index_maps(load(*lists, "weight_by_num_documents=true"))) == []


def test_lists_take_their_data_whole(data: Path, load: Load) -> None:
    lists = ["data_path=", *(f"{split}_data_paths=[data/text_document]" for split in ("train", "valid", "test"))]
    stem = data / "data/text_document_train_0_indexmap_1608ns_32sl_1234s_packedpi_ac"
    write_maps(stem, DOCUMENTS)
    assert stale(load(*lists)) == []
    write_maps(stem, 97)
    assert len(stale(load(*lists))) == 1


@pytest.mark.parametrize("broken", [b"", b"\x93NUMPY\x01\x00\xff\xff{", b"something else entirely"])
def test_files_that_are_no_maps_are_left_to_gpt_neox(data: Path, load: Load, broken: bytes) -> None:
    write_maps(data / TRAIN, 97)
    Path(f"{TRAIN}_doc_idx.npy").write_bytes(broken)
    assert stale(load()) == []


def test_without_the_whole_batch_their_names_are_not_known(data: Path, load: Load) -> None:
    write_maps(data / TRAIN, 77)
    assert stale(load("global_num_gpus=")) == []
    assert stale(load("gaff.trainer=bundled")) == []  # which keeps no maps
