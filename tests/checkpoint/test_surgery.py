# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gaff.checkpoint.layout import MASTER, MOMENTS, read_layout
from gaff.checkpoint.surgery import ResetRequest, plan_reset, reset
from gaff.checkpoint.tag_copy import copy_tag
from gaff.checkpoint.transaction import begun_operation, valid_records
from gaff.checkpoint.values import CopyReader
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError, InputError
from gaff.plan.settings import InitSpec
from tests.conftest import ZERO1_NAMES

GetTag = Callable[[str], Path]
GetOracle = Callable[[str], dict[str, Any]]
REQUEST = ResetRequest(number=1, seed=1234)
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def at(root: Any, path: list[Any]) -> Any:
    """Follow an oracle's path of keys into what torch loaded."""
    for key in path:
        root = root[key]
    return root


def storages(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("name", ZERO1_NAMES)
def test_exactly_the_bytes_that_the_oracle_lists_change(name: str, checkpoint: GetTag, oracle: GetOracle) -> None:
    torch = pytest.importorskip("torch")
    tag, known = checkpoint(name), oracle(name)
    before = {p.name: p.read_bytes() for p in tag.glob("*.pt")}
    members_before = {p.name: storages(p) for p in tag.glob("*.pt")}
    reset(tag, REQUEST)
    for path in tag.glob("*.pt"):
        listed = known["files"][f"global_step5/{path.name}"]
        assert hashlib.sha256(before[path.name]).hexdigest() == listed["sha256"]
        if not listed["holds_embedding"]:
            assert path.read_bytes() == before[path.name]
            continue
        # in each touched file: nothing but the listed element ranges, and the CRCs of their records
        allowed: dict[str, set[int]] = {}
        loaded = torch.load(path, weights_only=False)
        for place in (p for p in known["places"] if Path(p["file"]).name == path.name):
            tensor = at(loaded, place["path"])
            offset = tensor.storage_offset()
            size = tensor.element_size()
            record = record_of(members_before[path.name], place, before[path.name], size)
            first, last = (offset + place["range"][0]) * size, (offset + place["range"][1]) * size
            allowed.setdefault(record, set()).update(range(first, last))
        after = storages(path)
        assert after.keys() == members_before[path.name].keys()
        for member, old in members_before[path.name].items():
            new = after[member]
            assert len(new) == len(old)
            changed = {i for i in range(len(old)) if old[i] != new[i]}
            assert changed <= allowed.get(member, set()), (path.name, member)
            if member in allowed:
                assert changed, f"{member} was to change"
        assert len(path.read_bytes()) == len(before[path.name])


def record_of(members: dict[str, bytes], place: dict[str, Any], whole: bytes, item_size: int) -> str:
    """The zip member whose bytes at the oracle's range have the oracle's hash: found without GAFF's reader."""
    first, last = (place["storage_offset"] + edge for edge in place["range"])
    for member, data in members.items():
        part = data[first * item_size : last * item_size]
        if (
            len(data) == place["storage_numel"] * item_size
            and hashlib.sha256(part).hexdigest() == place["sha256"]
            and "/data/" in member
        ):
            return member
    raise AssertionError(f"no member of {len(whole)} bytes holds {place['path_str']}")


@pytest.mark.parametrize("name", ZERO1_NAMES)
def test_model_copy_is_the_master_rounded_and_moments_are_zero(
    name: str, checkpoint: GetTag, oracle: GetOracle
) -> None:
    torch = pytest.importorskip("torch")
    tag = checkpoint(name)
    reset(tag, REQUEST)
    matrices: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
    for place in oracle(name)["places"]:
        tensor = at(torch.load(tag / Path(place["file"]).name, weights_only=False), place["path"])
        flat = tensor.detach().to(torch.float32).reshape(-1)[slice(*place["range"])].numpy()
        matrix = matrices.setdefault((place["kind"], place["copy"]), np.full(12288, np.nan, np.float32))
        matrix[slice(*place["global_flat_range"])] = flat
    master = matrices["master", "stage0"]
    dtype = DTYPES[next(p["dtype"] for p in oracle(name)["places"] if p["kind"] == "model")]
    assert np.array_equal(matrices["model", "stage0"], master.astype(dtype).astype(np.float32))
    assert 0.12 < master.std() < 0.14  # small_init: sqrt(2 / (5 * 24)) = 0.129
    for (kind, copy), matrix in matrices.items():
        if kind.startswith("exp_avg"):
            assert not matrix.any()
        if kind == "master":
            assert np.array_equal(matrix, master), copy


@pytest.mark.parametrize("name", ZERO1_NAMES)
def test_zipfile_and_torch_accept_the_result(name: str, checkpoint: GetTag) -> None:
    torch = pytest.importorskip("torch")
    tag = checkpoint(name)
    reset(tag, REQUEST)
    for path in tag.glob("*.pt"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
        torch.load(path, weights_only=False)
        if path.name.startswith("layer_"):
            torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", ZERO1_NAMES)
def test_deepspeed_itself_loads_the_result(name: str, checkpoint: GetTag) -> None:
    """By the loaders that its engine uses; a live resume is tested with the trainers."""
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.state_dict_factory import SDLoaderFactory

    tag = checkpoint(name)
    reset(tag, REQUEST)
    engine = TorchCheckpointEngine()
    for path in tag.glob("*.pt"):
        engine.load(str(path), map_location="cpu")
    layers = sorted(str(p) for p in tag.glob("layer_00-*"))
    loader = SDLoaderFactory.get_sd_loader(layers, checkpoint_engine=engine)
    blocks = [
        loader.load(mp_world_size=len(layers), mp_rank=rank, module_key=None, is_pipe_parallel=True)[1]
        for rank in range(len(layers))
    ]
    found = np.concatenate([b["word_embeddings.weight"].detach().float().numpy().reshape(-1) for b in blocks])
    assert np.array_equal(found, CopyReader(read_layout(tag)).values("model", 0, 12288))


def test_every_layout_forgets_alike(checkpoint: GetTag) -> None:
    """Same seed and reset number: same rows on TP 1 and 2, PP 1 and 2, DP 1 and 2, and in every precision."""
    masters = []
    for name in ZERO1_NAMES:
        tag = checkpoint(name)
        reset(tag, REQUEST)
        masters.append(CopyReader(read_layout(tag)).values(MASTER, 0, 12288))
    assert len(masters) == 6
    assert all(np.array_equal(masters[0], other) for other in masters)


def test_another_number_or_seed_gives_other_rows(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    seen = []
    for request in (REQUEST, ResetRequest(2, 1234), ResetRequest(1, 99)):
        reset(tag, request)
        seen.append(CopyReader(read_layout(tag)).values(MASTER, 0, 12288))
    assert not np.any(seen[0] == seen[1])
    assert not np.any(seen[0] == seen[2])


@pytest.mark.parametrize("name", ZERO1_NAMES)
def test_a_reset_leaves_a_record_and_is_not_done_twice(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    assert not reset(tag, REQUEST).already_done
    files = {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()}
    assert reset(tag, REQUEST).already_done
    assert files == {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()}
    assert [r.operation.reset for r in valid_records(tag)] == [1]
    assert begun_operation(tag) is None
    assert verify_tag(tag) == []


def test_moments_can_be_kept(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    reset(tag, ResetRequest(1, 1234, moments="keep"))
    layout = read_layout(tag)
    assert all(CopyReader(layout).values(kind, 0, layout.numel).any() for kind in MOMENTS)
    assert verify_tag(tag) == []


def test_init_normal_and_uniform_take_their_number(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    reset(tag, ResetRequest(1, 1, InitSpec("normal", 0.5)))
    assert CopyReader(read_layout(tag)).values(MASTER, 0, 12288).std() == pytest.approx(0.5, rel=0.03)
    reset(tag, ResetRequest(1, 1, InitSpec("uniform", 0.25)))
    values = CopyReader(read_layout(tag)).values(MASTER, 0, 12288)
    assert 0.249 < np.abs(values).max() <= 0.25
    assert values.std() == pytest.approx(0.25 / np.sqrt(3), rel=0.03)


def test_init_matched_has_mean_and_std_of_what_was_there(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    before = CopyReader(read_layout(tag)).values(MASTER, 0, 12288)
    reset(tag, ResetRequest(1, 1, InitSpec("matched")))
    after = CopyReader(read_layout(tag)).values(MASTER, 0, 12288)
    assert after.std() == pytest.approx(before.std(), rel=0.03)
    assert after.mean() == pytest.approx(before.mean(), abs=0.005)
    assert not np.any(after == before)


def test_what_was_forgotten_is_kept_and_can_be_put_back(checkpoint: GetTag) -> None:
    from safetensors.numpy import load_file

    tag = checkpoint("zero1-bf16-tp2-dp2")
    before = CopyReader(read_layout(tag)).values(MASTER, 0, 12288)
    reset(tag, ResetRequest(3, 1, save_forgotten=True))
    saved = tag / "gaff" / "forgotten-0003.safetensors"
    assert np.array_equal(load_file(saved)["word_embeddings.weight"].reshape(-1), before)
    reset(tag, ResetRequest(4, 1, InitSpec("file", path=str(saved)), moments="keep"))
    assert np.array_equal(CopyReader(read_layout(tag)).values(MASTER, 0, 12288), before)
    assert verify_tag(tag) == []


def test_init_step0_takes_the_values_of_that_tag(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    with pytest.raises(InputError, match="step0"):
        reset(tag, ResetRequest(1, 1, InitSpec("step0")))
    step0 = checkpoint("zero1-fp32-pp1-tp1-dp1").rename(tag.parent / "global_step0")
    reset(tag, ResetRequest(1, 1, InitSpec("step0")))
    expected = CopyReader(read_layout(step0)).values(MASTER, 0, 12288)
    assert np.array_equal(CopyReader(read_layout(tag)).values(MASTER, 0, 12288), expected)
    assert verify_tag(tag) == []


def test_output_leaves_the_original_alone_and_shares_what_is_untouched(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    before = {p.name: p.read_bytes() for p in tag.glob("*.pt")}
    twin = copy_tag(tag, tmp_path / "elsewhere")
    reset(twin, REQUEST)
    assert {p.name: p.read_bytes() for p in tag.glob("*.pt")} == before
    assert verify_tag(tag) == []
    assert verify_tag(twin) == []
    untouched = "layer_03-model_00-model_states.pt"
    assert os.path.samefile(tag / untouched, twin / untouched)
    assert not os.path.samefile(tag / "layer_00-model_00-model_states.pt", twin / "layer_00-model_00-model_states.pt")
    with pytest.raises(InputError, match="already there"):
        copy_tag(tag, tmp_path / "elsewhere")


def test_a_hard_linked_file_is_replaced_not_patched(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    path = tag / "layer_00-model_00-model_states.pt"
    os.link(path, tmp_path / "other-checkpoint.pt")
    before = path.read_bytes()
    reset(tag, REQUEST)
    assert (tmp_path / "other-checkpoint.pt").read_bytes() == before
    assert path.read_bytes() != before


def test_copies_that_disagree_already_are_refused_before_a_byte_is_written(
    checkpoint: GetTag, unpacked_checkpoints: Path
) -> None:
    """What happens to a run whose layer file alone was edited, or whose optimizer files were swapped."""
    name = "layer_00-model_01-model_states.pt"
    tag = checkpoint("zero1-bf16-tp2-dp2")
    reset(tag, REQUEST)
    shutil.copy(unpacked_checkpoints / "zero1-bf16-tp2-dp2" / "global_step5" / name, tag / name)
    before = {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match=r"layer_00-model_01.*differs from the master"):
        reset(tag, ResetRequest(2, 1234))
    assert before == {p: p.read_bytes() for p in tag.rglob("*") if p.is_file()}


def test_planning_writes_nothing(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tag.rglob("*")}
    operation = plan_reset(read_layout(tag), REQUEST)
    assert operation.bytes_changed == 14 * 6144 * 4
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tag.rglob("*")}
