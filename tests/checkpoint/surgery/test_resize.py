# SPDX-License-Identifier: Apache-2.0
"""A vocabulary of another size in nine real layouts: old rows kept in every copy, new ones where they belong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.archive_writer import write_archive
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, MASTER, MODEL
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.operation import record_crcs
from gaff.checkpoint.pickle_document import PickleDocument
from gaff.checkpoint.surgery import resize as resize_module
from gaff.checkpoint.surgery.perform import finish_interrupted
from gaff.checkpoint.surgery.resize import Fits, ResizeRequest, padded, plan_resize, resize
from gaff.checkpoint.transaction import begun_operation
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError, InputError
from gaff.plan.settings import InitSpec
from tests.checkpoint import synthetic
from tests.checkpoint.tags import contents, everything, flip, values
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]
NAME = "zero1-fp32-tp2-pp2-dp2"
PADDED = "zero1-fp32-learnedpos-dp2"
ROWS = 512
LARGER = ResizeRequest(vocab=1000, output_rows="init")  # 1024 rows, whatever the tensor ranks


def every_kind(tag: Path) -> Iterator[tuple[tuple[str, str, int], NDArray[np.float32]]]:
    """Each parameter as each kind of copy on each stage holds it."""
    layout = read_layout(tag)
    for name in layout.parameters:
        for kind in dict.fromkeys(copy.kind for copy in layout.copies[name]):
            for stage in layout.stages(name, kind):
                yield (name, kind, stage), values(tag, name, kind, stage)


# Every fifth in the usual suite, all of them with -m exhaustive, as CI does.
_GROWN = [name if i % 5 == 0 else pytest.param(name, marks=pytest.mark.exhaustive) for i, name in enumerate(ALL_NAMES)]


@pytest.mark.parametrize("name", _GROWN)
def test_growing_keeps_all_and_adds_rows_to_every_copy(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    before = dict(every_kind(tag))
    done = resize(tag, LARGER).operation
    after = dict(every_kind(tag))
    assert after.keys() == before.keys()
    for (parameter, kind, _), new in after.items():
        old = before[parameter, kind, _]
        np.testing.assert_array_equal(new[: len(old)], old)
        if parameter not in done.about["parameters"]:
            assert len(new) == len(old)
        else:
            assert len(new) == 1024
            assert new[ROWS:].any(axis=1).all() if kind in (MODEL, MASTER) else not new[ROWS:].any()
    assert verify_tag(tag) == []


@pytest.mark.parametrize("name", ALL_NAMES)
def test_shrinking_again_gives_back_every_record(name: str, checkpoint: GetTag) -> None:
    """Bit for bit, but for names in the pickles that torch wrote once and that are now written twice."""
    tag = checkpoint(name)
    untouched = shutil.copytree(tag, tag.with_name("untouched"))
    resize(tag, LARGER)
    resize(tag, ResizeRequest(vocab=ROWS))
    for path in sorted(untouched.glob("*.pt")):
        now, then = record_crcs(tag / path.name), record_crcs(path)
        now.pop("data.pkl"), then.pop("data.pkl")
        assert now == then
        assert dict(described(tag / path.name)) == dict(described(path))


def described(path: Path) -> Iterator[tuple[str, object]]:
    """All that torch loads from a file: numbers, texts, and each tensor's place in its storage."""
    import torch

    def walk(value: Any, where: str) -> Iterator[tuple[str, object]]:
        if torch.is_tensor(value):
            yield where, (value.shape, value.stride(), value.storage_offset(), value.untyped_storage().nbytes())
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, f"{where}/{key}")
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                yield from walk(item, f"{where}/{number}")
        elif isinstance(value, np.ndarray):
            yield where, value.tobytes()
        else:
            yield where, vars(value) if hasattr(value, "__dict__") else value

    return walk(torch.load(path, weights_only=False), "")


def test_new_rows_do_not_depend_on_the_layout(checkpoint: GetTag) -> None:
    found = []
    for name in ("zero0-fp32-dp2", NAME, "zero3-fp32-nopipe-dp2"):
        tag = checkpoint(name)
        resize(tag, LARGER)
        found.append(values(tag)[ROWS:])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert abs(float(found[0].std()) - (2 / (5 * 24)) ** 0.5) < 0.003  # small_init, as the config in the tag says


@pytest.mark.parametrize("name", ALL_NAMES)
def test_model_files_say_the_new_size(name: str, checkpoint: GetTag) -> None:
    import torch

    tag = checkpoint(name)
    resize(tag, LARGER)
    layout = read_layout(tag)
    block = 1024 // layout.topology.tensor
    for path in [*tag.glob("mp_rank_*.pt"), *tag.glob("zero_pp_*_model_states.pt")]:
        state = torch.load(path, weights_only=False)
        assert state["args"]["padded_vocab_size"] == 1024
        shapes = {n: shape for group in state["param_shapes"] or [] for n, shape in group.items()}
        for parameter, shape in shapes.items():
            if parameter.endswith(("word_embeddings.weight", "final_linear.weight")):
                assert isinstance(shape, torch.Size)
                assert shape == (block, 24)


def test_partitions_are_padded_as_deepspeed_pads_them(checkpoint: GetTag) -> None:
    """The total of this group, learned positions included, is not a multiple of 2 x DP."""
    import torch

    tag = checkpoint(PADDED)
    resize(tag, LARGER)
    shapes = torch.load(tag / "mp_rank_00_model_states.pt", weights_only=False)["param_shapes"][0]
    total = sum(shape.numel() for shape in shapes.values())
    size = -(-total // 4) * 2
    for rank in (0, 1):
        state = torch.load(tag / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", weights_only=False)
        state = state["optimizer_state_dict"]
        padding = max(0, (rank + 1) * size - total)
        master, moments = state["single_partition_of_fp32_groups"][0], state["base_optimizer_state"]["state"][0]
        assert state["group_paddings"][0] == padding
        assert (master.numel(), master.untyped_storage().nbytes()) == (size - padding, 4 * size)
        assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == (size,)
        fragments = list(state["param_slice_mappings"][0].values())
        assert [f.start for f in fragments] == np.cumsum([0, *[f.numel for f in fragments[:-1]]]).tolist()
        assert sum(f.numel for f in fragments) == size - padding


def test_files_without_the_vocabulary_are_not_written(checkpoint: GetTag) -> None:
    tag = checkpoint(NAME)
    before = {path: path.stat().st_ino for path in tag.glob("*.pt")}
    resize(tag, LARGER)
    kept = {path.name for path, inode in before.items() if path.stat().st_ino == inode}
    assert kept == {f"layer_{n:02d}-model_{t:02d}-model_states.pt" for n in (2, 3, 5) for t in (0, 1)}


def test_a_smaller_vocabulary_loses_its_last_rows(checkpoint: GetTag) -> None:
    tag = checkpoint(NAME)
    before = values(tag)
    resize(tag, ResizeRequest(vocab=200))  # 128 x TP 2: 256 rows
    np.testing.assert_array_equal(values(tag), before[:256])
    assert verify_tag(tag) == []


def test_what_fits_into_the_padding_changes_nothing(checkpoint: GetTag) -> None:
    tag = checkpoint(NAME)
    before = everything(tag)
    for vocab in (257, 512):
        with pytest.raises(Fits) as caught:
            resize(tag, ResizeRequest(vocab=vocab))
        assert caught.value.rows == ROWS
    assert {path: data for path, data in everything(tag).items() if path.suffix == ".pt"} == {
        path: data for path, data in before.items() if path.suffix == ".pt"
    }


def test_padding_is_gpt_neox_s(checkpoint: GetTag) -> None:
    layout = read_layout(checkpoint(NAME))
    assert [padded(layout, vocab) for vocab in (1, 256, 257, 50277)] == [256, 256, 512, 50432]


@pytest.mark.parametrize("vocab", [0, -1])
def test_no_tokens_are_refused(vocab: int, checkpoint: GetTag) -> None:
    with pytest.raises(InputError, match="makes no model"):
        resize(checkpoint(NAME), ResizeRequest(vocab=vocab))


def test_the_same_resize_again_is_already_done(checkpoint: GetTag) -> None:
    tag = checkpoint(NAME)
    assert not resize(tag, LARGER).already_done
    before = everything(tag)
    assert resize(tag, LARGER).already_done
    assert everything(tag) == before


def test_new_rows_can_come_from_a_file(checkpoint: GetTag, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    whole = np.random.default_rng(3).standard_normal((1024, 24)).astype(np.float32)
    save_file({"word_embeddings.weight": whole, "final_linear.weight": -whole}, tmp_path / "rows.safetensors")
    tag = checkpoint(NAME)
    before = values(tag)
    request = ResizeRequest(1000, init=InitSpec("file", path=str(tmp_path / "rows.safetensors")), output_rows="init")
    resize(tag, request)
    np.testing.assert_array_equal(values(tag), np.concatenate([before, whole[ROWS:]]))
    np.testing.assert_array_equal(values(tag, "6.final_linear.weight")[ROWS:], -whole[ROWS:])


@pytest.mark.parametrize("swapped", [0, 1, 9, 15])
def test_killed_between_files_it_is_finished_by_the_next_one(
    swapped: int, checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = checkpoint(NAME)
    whole = shutil.copytree(tag, tag.with_name("whole"))
    resize(whole, LARGER)
    real, count = os.replace, iter(range(100))

    def dies(source: Any, target: Any) -> None:
        if Path(source).parent.name == "staged" and next(count) == swapped:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            resize(tag, LARGER)
    assert begun_operation(tag) is not None
    record = finish_interrupted(tag)
    assert record is not None
    assert contents(tag) == contents(whole)
    assert verify_tag(tag) == []


def test_killed_while_staging_nothing_has_changed(checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = checkpoint(NAME)
    before = everything(tag)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(resize_module, "fsync_directory", dies)
    with pytest.raises(KeyboardInterrupt):
        resize(tag, LARGER)
    assert begun_operation(tag) is None
    assert everything(tag) == before


def test_a_full_disk_is_seen_before_anything_is_written(checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = checkpoint(NAME)
    before = everything(tag)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=64 << 20))
    with pytest.raises(CheckpointError, match=r"no room for [\d,]+ bytes of new files"):
        resize(tag, LARGER)
    assert everything(tag) == before


@pytest.mark.parametrize(
    ("file", "record"),
    [("zero_pp_rank_0_mp_rank_00_optim_states.pt", "data/0"), ("mp_rank_03_model_states.pt", "data/1")],
)
def test_a_flipped_bit_is_not_written_into_a_record_with_a_new_crc(file: str, record: str, checkpoint: GetTag) -> None:
    tag = checkpoint(NAME)
    flip(tag / file, record, 40, mend_crc=False)
    before = contents(tag)
    with pytest.raises(CheckpointError, match=f"{record} does not match its CRC"):
        resize(tag, LARGER)
    assert contents(tag) == before


def test_embeddings_of_another_size_than_the_model_files_say_are_refused(checkpoint: GetTag) -> None:
    tag = checkpoint(NAME)
    rewrite_pickle(tag / "mp_rank_02_model_states.pt", ("args", "padded_vocab_size"), 640)
    with pytest.raises(CheckpointError, match="of another size than its model files say"):
        plan_resize(read_layout(tag), LARGER)


def test_zero3_sub_groups_that_would_be_made_up_otherwise_are_refused(checkpoint: GetTag) -> None:
    """The group has 15360 elements a rank and would have 27648, which DeepSpeed cuts in two before the head."""
    tag = checkpoint("zero3-fp32-nopipe-dp2")
    for path in tag.glob("*_optim_states.pt"):
        rewrite_pickle(path, ("ds_config", "zero_optimization"), {"stage": 3, "sub_group_size": 15360})
    with pytest.raises(CheckpointError, match="sub groups that DeepSpeed would put together otherwise"):
        plan_resize(read_layout(tag), LARGER)


def rewrite_pickle(path: Path, place: tuple[str, ...], value: object) -> None:
    """Put another value into a file's pickle."""
    archive = Archive(path)
    records = {name: archive.read(record, 0, record.size) for name, record in archive.records.items()}
    document = PickleDocument(records["data.pkl"])
    document.replace(document.at(*place), value)
    records["data.pkl"] = document.to_bytes()
    write_archive(path, archive.prefix, [(name, len(data), [data]) for name, data in records.items()])


def test_another_tag_that_shares_files_is_left_alone(checkpoint: GetTag) -> None:
    tag = checkpoint(NAME)
    twin = shutil.copytree(tag, tag.with_name("twin"), copy_function=os.link)
    before = contents(tag)
    resize(twin, LARGER)
    assert contents(tag) == before
    assert read_layout(twin).parameters[INPUT_EMBEDDING].shape == (1024, 24)


def test_a_tag_that_does_not_say_how_it_was_padded_is_refused(tmp_path: Path) -> None:
    tag = synthetic.write_tag(tmp_path, 64, 8, 8, 1)
    with pytest.raises(CheckpointError, match="make_vocab_size_divisible_by"):
        resize(tag, ResizeRequest(vocab=100, output_rows="init"))
