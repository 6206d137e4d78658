# SPDX-License-Identifier: Apache-2.0
"""Embeddings that are larger than what is read, written or compared at a time: every element counts."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.init_methods import Distribution
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, MASTER, MODEL, Copy
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.reader import PIECE_ELEMENTS, TASK_ELEMENTS
from gaff.checkpoint.sources import DrawnValues
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.verify import verify_tag
from gaff.plan.settings import InitSpec
from tests.checkpoint import synthetic
from tests.checkpoint.tags import values
from tests.live import tensors

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

ROWS, WIDTH, NEIGHBOUR, DATA_RANKS = 4300, 1000, 2999, 3
NUMEL = ROWS * WIDTH
PARTITION = (NUMEL + NEIGHBOUR) // DATA_RANKS  # 1,434,333: both boundaries fall into the middle of a row
MOMENTS = ("exp_avg", "exp_avg_sq")
REQUEST = ResetRequest(number=2, seed=99, init=InitSpec("normal", 0.02))


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def before(precision: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to, except for what is put back."""
    save = tmp_path_factory.mktemp(f"large-{precision}")
    return synthetic.write_tag(save, ROWS, WIDTH, NEIGHBOUR, DATA_RANKS, precision)


@pytest.fixture(scope="module")
def after(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a reset.  Not to be written to."""
    tag = tmp_path_factory.mktemp("reset") / before.name
    shutil.copytree(before, tag)
    reset(tag, REQUEST)
    return tag


@pytest.fixture(scope="module")
def drawn() -> Any:
    values = DrawnValues(Distribution("normal", 0.02), REQUEST.seed, REQUEST.number, INPUT_EMBEDDING, WIDTH)
    return torch.from_numpy(values.values(0, NUMEL))


def embedding_parts(found: dict[str, Any], precision: str, name: str) -> Any:
    """The embedding's elements of one kind of optimizer tensor, put together over the data ranks."""
    keys = [f"{synthetic.shard_name(rank, precision)}/optimizer_state_dict/{name}" for rank in range(DATA_RANKS)]
    return torch.cat([found[key] for key in keys])[:NUMEL]


def test_the_embedding_is_larger_than_any_piece_and_cut_in_the_middle_of_rows(before: Path) -> None:
    layout = read_layout(before)
    masters = layout.chain(INPUT_EMBEDDING, MASTER, 0)
    assert [c.start % WIDTH for c in masters] == [0, 333, 666]
    assert all(c.numel > 2 * PIECE_ELEMENTS for c in layout.copies[INPUT_EMBEDDING])
    assert NUMEL > TASK_ELEMENTS
    assert verify_tag(before) == []


def test_every_element_of_every_copy_is_new(after: Path, precision: str, drawn: Any) -> None:
    found = tensors(after)
    assert torch.equal(embedding_parts(found, precision, "single_partition_of_fp32_groups/0"), drawn)
    model = found[f"{synthetic.EMBEDDING_FILE}/word_embeddings.weight"]
    assert torch.equal(model.reshape(-1), drawn.to(model.dtype))
    for moment in MOMENTS:
        assert not embedding_parts(found, precision, f"base_optimizer_state/state/0/{moment}").any()


def test_every_stretch_of_the_new_matrix_is_drawn_anew(drawn: Any) -> None:
    """Whatever is made at a time: no row comes back, and each stretch of ten rows has the spread asked for."""
    rows = drawn.view(ROWS, WIDTH)
    assert len({row.numpy().tobytes() for row in rows}) == ROWS
    spread = rows.view(430, 10 * WIDTH).std(dim=1)
    assert float(spread.min()) > 0.018
    assert float(spread.max()) < 0.022


def test_nothing_but_the_embedding_changed(before: Path, after: Path, precision: str) -> None:
    old, new = tensors(before), tensors(after)
    assert old.keys() == new.keys()
    touched = {f"{synthetic.EMBEDDING_FILE}/word_embeddings.weight": NUMEL}
    for rank in range(DATA_RANKS):
        shard = f"{synthetic.shard_name(rank, precision)}/optimizer_state_dict"
        held = min(PARTITION, NUMEL - rank * PARTITION)  # behind them stands the neighbour
        touched[f"{shard}/single_partition_of_fp32_groups/0"] = held
        touched |= {f"{shard}/base_optimizer_state/state/0/{moment}": held for moment in MOMENTS}
    assert touched.keys() <= old.keys()
    for name in old:
        behind = touched.get(name, 0)
        assert torch.equal(old[name].reshape(-1)[behind:], new[name].reshape(-1)[behind:]), name
    for path in before.glob("*.pt"):
        if not any(name.startswith(path.name) for name in touched):
            assert path.read_bytes() == (after / path.name).read_bytes()


def test_the_result_is_sound_to_everybody(after: Path) -> None:
    assert verify_tag(after) == []
    for path in after.glob("*.pt"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None


@contextmanager
def changed_byte(tag: Path, copy: Copy, element: int) -> Iterator[None]:
    """One byte of an element of a copy is another, with CRCs that are right, while the block runs."""
    path = tag / copy.file
    before = path.read_bytes()
    record = Archive(path).records[copy.record]
    size = copy.length // copy.numel
    data = bytearray(before)
    data[record.data_offset + copy.offset + element * size] ^= 0x40
    crc = zlib.crc32(data[record.data_offset : record.data_offset + record.size])
    for field in record.crc_fields:
        data[field : field + 4] = crc.to_bytes(4, "little")
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    "element", [0, PIECE_ELEMENTS - 1, PIECE_ELEMENTS, TASK_ELEMENTS - 1, TASK_ELEMENTS, NUMEL - 1]
)
def test_one_byte_that_disagrees_anywhere_in_a_tag_never_reset_is_found(before: Path, element: int) -> None:
    copy = read_layout(before).of_kind(INPUT_EMBEDDING, MODEL)[0]
    with changed_byte(before, copy, element):
        (problem,) = verify_tag(before)
    assert (problem.id, Path(str(problem.where)).name) == ("copies-disagree", copy.file)
    assert "differs from the master in 1 elements" in problem.what
    assert verify_tag(before) == []


def test_a_byte_of_a_large_record_that_its_crc_does_not_cover_is_found(before: Path) -> None:
    """Also in the last of the chunks that are read to work out the CRC."""
    path = before / synthetic.EMBEDDING_FILE
    whole = path.read_bytes()
    record = Archive(path).records[read_layout(before).of_kind(INPUT_EMBEDDING, MODEL)[0].record]
    try:
        for offset in (0, record.size // 2, record.size - 1):
            data = bytearray(whole)
            data[record.data_offset + offset] ^= 1
            path.write_bytes(data)
            assert Archive(path).damaged_records() == [record.name], offset
    finally:
        path.write_bytes(whole)
    assert Archive(path).damaged_records() == []


def test_a_share_of_the_rows_changes_those_alone_across_all_boundaries(
    before: Path, after: Path, tmp_path: Path
) -> None:
    tag = tmp_path / before.name
    shutil.copytree(before, tag)
    operation = reset(tag, replace(REQUEST, fraction=0.4)).operation
    rows = torch.zeros(ROWS, dtype=torch.bool)
    for start, stop in operation.selections[INPUT_EMBEDDING].runs:
        rows[start:stop] = True
    assert int(rows.sum()) == round(0.4 * ROWS)
    for kind in (MASTER, MODEL, *MOMENTS):
        old, new, found = (torch.from_numpy(values(place, kind=kind)) for place in (before, after, tag))
        assert torch.equal(found, torch.where(rows[:, None], new, old)), kind
    assert verify_tag(tag) == []
