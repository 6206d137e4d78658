# SPDX-License-Identifier: Apache-2.0
"""A reset of the input embedding in nine real layouts: exactly the oracle's places change, all to the right values."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING, MODEL
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.surgery.reset import ResetRequest, plan_reset, reset
from gaff.checkpoint.transaction import begun_operation, valid_records
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError, InputError
from gaff.plan.settings import InitSpec
from tests.checkpoint.tags import changed, contents, crc_places, everything, members, oracle_matrices, values
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]
GetOracle = Callable[[str], dict[str, Any]]
REQUEST = ResetRequest(number=1, seed=1234)
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


def place_in_file(path: Path, whole: bytes, place: dict[str, Any]) -> tuple[str, int, int]:
    """Member and byte range of an oracle's place: found by the hash of its bytes, without GAFF's reader."""
    size = ITEM_SIZES[place["dtype"]]
    low, high = ((place["storage_offset"] + edge) * size for edge in place["range"])
    for member, (first, last) in members(path).items():
        if last - first == place["storage_numel"] * size:
            part = whole[first + low : first + high]
            if hashlib.sha256(part).hexdigest() == place["sha256"]:
                return member, first + low, first + high
    raise AssertionError(f"no member holds {place['path_str']}")


@pytest.mark.parametrize("name", ALL_NAMES)
def test_exactly_the_bytes_that_the_oracle_lists_change(name: str, checkpoint: GetTag, oracle: GetOracle) -> None:
    tag, known = checkpoint(name), oracle(name)
    before = contents(tag)
    places = {
        file: [place_in_file(tag / file, whole, p) for p in known["places"] if Path(p["file"]).name == file]
        for file, whole in before.items()
    }
    crcs = {file: crc_places(tag / file) for file in before}
    reset(tag, REQUEST)
    after = contents(tag)
    assert after.keys() == before.keys()
    for file, whole in before.items():
        assert hashlib.sha256(whole).hexdigest() == known["files"][f"global_step5/{file}"]["sha256"]
        assert bool(places[file]) == known["files"][f"global_step5/{file}"]["holds_embedding"]
        moved = changed(whole, after[file])
        allowed: set[int] = set()
        for member, first, last in places[file]:
            assert np.any((moved >= first) & (moved < last)), f"{file} {member} was to change"
            allowed |= {*range(first, last)} | crcs[file][member]
        assert set(moved.tolist()) <= allowed, file


@pytest.mark.parametrize("name", ALL_NAMES)
def test_model_copy_is_the_master_rounded_and_moments_are_zero(
    name: str, checkpoint: GetTag, oracle: GetOracle
) -> None:
    pytest.importorskip("torch")
    tag, known = checkpoint(name), oracle(name)
    reset(tag, REQUEST)
    matrices = oracle_matrices(tag, known)
    truth = matrices.get(("master", "stage0"))
    if truth is None:
        truth = matrices["model", "stage0"]  # ZeRO stage 0, fp32
    assert 0.12 < truth.std() < 0.14  # small_init: sqrt(2 / (5 * 24)) = 0.129
    dtype = DTYPES[read_layout(tag).model_dtype]
    assert ("model", "stage0") in matrices or known["layout"]["zero_stage"] == 3
    for (kind, copy), matrix in matrices.items():
        if kind.startswith("exp_avg"):
            assert not matrix.any(), copy
        elif kind == "master":
            assert np.array_equal(matrix, truth), copy
        else:
            assert np.array_equal(matrix, truth.astype(dtype).astype(np.float32))


def test_every_layout_forgets_alike(checkpoint: GetTag, oracle: GetOracle) -> None:
    """Same seed and reset number: the same 512 rows, padded ones too, whatever the layout and the precision."""
    pytest.importorskip("torch")
    truths = {}
    for name in ALL_NAMES:
        tag = checkpoint(name)
        reset(tag, REQUEST)
        matrices = oracle_matrices(tag, oracle(name))
        kind = "model" if name.startswith("zero0-") else "master"
        truths[name] = matrices[kind, "stage0"]
    assert len(truths) == 9
    first = next(iter(truths.values()))
    assert not np.isnan(first).any()
    assert all(np.array_equal(first, other) for other in truths.values())


@pytest.mark.parametrize("name", ALL_NAMES)
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


@pytest.mark.parametrize("name", [n for n in ALL_NAMES if "nopipe" not in n])
def test_deepspeed_itself_loads_the_result(name: str, checkpoint: GetTag) -> None:
    """By the loaders that its engine uses; a live resume is tested with the trainers."""
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.state_dict_factory import SDLoaderFactory

    tag = checkpoint(name)
    reset(tag, REQUEST)
    engine = TorchCheckpointEngine()
    layers = sorted(str(p) for p in tag.glob("layer_00-*"))
    loader = SDLoaderFactory.get_sd_loader(layers, checkpoint_engine=engine)
    blocks = [
        loader.load(mp_world_size=len(layers), mp_rank=rank, module_key=None, is_pipe_parallel=True)[1]
        for rank in range(len(layers))
    ]
    found = np.concatenate([b["word_embeddings.weight"].detach().float().numpy() for b in blocks])
    assert np.array_equal(found, values(tag, kind=MODEL))


@pytest.mark.parametrize("name", ["zero2-fp32-nopipe-dp2", "zero3-fp32-nopipe-dp2"])
def test_deepspeeds_own_consolidation_finds_the_new_rows(name: str, checkpoint: GetTag) -> None:
    """``zero_to_fp32`` puts the shards together as DeepSpeed understands them; it reads no pipeline checkpoints."""
    pytest.importorskip("deepspeed")
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    tag = checkpoint(name)
    reset(tag, REQUEST)
    found = get_fp32_state_dict_from_zero_checkpoint(str(tag.parent), tag=tag.name)
    assert np.array_equal(found["sequential.0.word_embeddings.weight"].detach().numpy(), values(tag))


def test_another_number_or_seed_gives_other_rows(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    seen = []
    for request in (REQUEST, ResetRequest(2, 1234), ResetRequest(1, 99)):
        reset(tag, request)
        seen.append(values(tag))
    assert not np.any(seen[0] == seen[1])
    assert not np.any(seen[0] == seen[2])


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_reset_leaves_a_record_and_is_not_done_twice(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    assert not reset(tag, REQUEST).already_done
    files = everything(tag)
    assert reset(tag, REQUEST).already_done
    assert files == everything(tag)
    assert [r.operation.about["reset"] for r in valid_records(tag)] == [1]
    assert begun_operation(tag) is None
    assert verify_tag(tag) == []


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, number=2), replace(REQUEST, seed=1), replace(REQUEST, moments="keep"),
        replace(REQUEST, init=InitSpec("normal", 0.02)), replace(REQUEST, fraction=0.5),
        replace(REQUEST, parameters=("output_embedding",)),
    ],
    ids=["number", "seed", "moments", "init", "fraction", "parameters"],
)  # fmt: skip
def test_another_request_is_another_reset(other: ResetRequest, checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    reset(tag, REQUEST)
    assert not reset(tag, other).already_done
    assert reset(tag, other).already_done
    assert len(valid_records(tag)) == 2
    assert verify_tag(tag) == []


@pytest.mark.parametrize("name", ALL_NAMES)
def test_moments_can_be_kept(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    before = {kind: values(tag, kind=kind) for kind in ("exp_avg", "exp_avg_sq")}
    result = reset(tag, ResetRequest(1, 1234, moments="keep"))
    assert not any(edit.copy.is_state for edit in result.operation.edits)
    for kind, moment in before.items():
        assert moment.any()
        assert np.array_equal(values(tag, kind=kind), moment)
    assert verify_tag(tag) == []


def test_copies_that_disagree_already_are_refused_before_a_byte_is_written(
    checkpoint: GetTag, unpacked_checkpoints: Path
) -> None:
    """What happens to a run whose layer file alone was edited, or whose optimizer files were swapped."""
    name = "layer_00-model_01-model_states.pt"
    tag = checkpoint("zero1-bf16-tp2-dp2")
    reset(tag, REQUEST)
    shutil.copy(unpacked_checkpoints / "zero1-bf16-tp2-dp2" / "global_step5" / name, tag / name)
    before = everything(tag)
    with pytest.raises(CheckpointError, match=r"layer_00-model_01.*differs from the master"):
        reset(tag, ResetRequest(2, 1234))
    assert before == everything(tag)


def test_planning_writes_nothing_and_counts_what_will_be_written(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tied-tp2-pp2")
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tag.rglob("*")}
    operation = plan_reset(read_layout(tag), REQUEST)
    assert operation.bytes_changed == 14 * 6144 * 4
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tag.rglob("*")}


def test_values_that_the_model_cannot_hold_are_refused_before_a_byte_is_written(checkpoint: GetTag) -> None:
    for name, scale in (("zero1-fp16-tp2-dp2", 1e5), ("zero1-bf16-tp2-dp2", 1e38)):
        tag = checkpoint(name)
        before = everything(tag)
        with pytest.raises(InputError, match="not finite"):
            reset(tag, ResetRequest(1, 1, InitSpec("normal", scale)))
        assert everything(tag) == before


def test_an_unfinished_tag_is_not_operated_on(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    shutil.rmtree(tag / "configs")
    with pytest.raises(CheckpointError, match="has no configs/"):
        reset(tag, ResetRequest(1, 1, InitSpec("normal", 0.02)))


@pytest.mark.parametrize("name", ALL_NAMES)
def test_what_is_forgotten_is_as_torch_loads_it(
    name: str, checkpoint: GetTag, oracle: GetOracle, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from safetensors.numpy import load_file

    tag, known = checkpoint(name), oracle(name)
    before = oracle_matrices(tag, known)
    truth = "model" if known["layout"]["zero_stage"] == 0 else "master"
    reset(tag, replace(REQUEST, forgotten=tmp_path / "kept.safetensors"))
    kept = load_file(tmp_path / "kept.safetensors")
    assert kept.keys() == {INPUT_EMBEDDING, f"{INPUT_EMBEDDING}#exp_avg", f"{INPUT_EMBEDDING}#exp_avg_sq"}
    for key, tensor in kept.items():
        kind = key.partition("#")[2] or truth
        assert tensor.shape == (512, 24)
        assert np.array_equal(tensor.reshape(-1), before[kind, "stage0"]), key


def test_what_was_forgotten_is_kept_in_the_tag_and_can_be_put_back(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-bf16-tp2-dp2")
    before = values(tag)
    reset(tag, ResetRequest(3, 1, save_forgotten=True))
    saved = tag / "gaff" / "forgotten-0003.safetensors"
    reset(tag, ResetRequest(4, 1, InitSpec("file", path=str(saved)), moments="keep"))
    assert np.array_equal(values(tag), before)
    assert verify_tag(tag) == []
