# SPDX-License-Identifier: Apache-2.0
"""Pickles that are edited and written again, proved by what torch makes of them."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.archive_writer import write_archive
from gaff.checkpoint.pickle_document import PickleDocument
from gaff.checkpoint.pickle_nodes import fragment_address, node_of, ordered_dict, torch_size
from gaff.checkpoint.unpickle import FragmentAddress

MODEL = "mp_rank_00_model_states.pt"
LAYER = "layer_00-model_00-model_states.pt"
OPTIMIZER = "zero_pp_rank_0_mp_rank_00_optim_states.pt"
REAL = "zero1-fp32-tp2-pp2-dp2"
Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module")
def torch() -> Any:
    pytest.importorskip("deepspeed")  # its classes stand in the pickles
    return pytest.importorskip("torch")


def load(torch: Any, path: Path) -> Any:
    return torch.load(path, weights_only=False)


def rewrite(path: Path, document: PickleDocument, sizes: dict[str, int] | None = None) -> Path:
    """The file with another data.pkl; records in ``sizes`` become zeros of as many bytes."""
    archive, data = Archive(path), document.to_bytes()
    new = path.with_suffix(".new.pt")
    records: list[tuple[str, int, Any]] = []
    for record in archive.records.values():
        if record.name == "data.pkl":
            records.append((record.name, len(data), [data]))
        elif sizes and record.name in sizes:
            records.append((record.name, sizes[record.name], [bytes(sizes[record.name])]))
        else:
            records.append((record.name, record.size, archive.chunks(record, 0, record.size)))
    write_archive(new, archive.prefix, records)
    return new


def pickle_of(path: Path) -> bytes:
    archive = Archive(path)
    record = archive.records["data.pkl"]
    return archive.read(record, 0, record.size)


def test_an_unedited_pickle_of_every_real_file_is_written_byte_for_byte(unpacked_checkpoints: Path) -> None:
    paths = sorted(unpacked_checkpoints.rglob("*.pt"))
    assert len(paths) > 90
    for path in paths:
        data = pickle_of(path)
        assert PickleDocument(data).to_bytes() == data, path


def test_a_schedule_is_restarted_in_place(checkpoint: Checkpoint, torch: Any) -> None:
    path = checkpoint(REAL) / MODEL
    document = Archive(path).document()
    start = Archive(path).records["data.pkl"].data_offset
    expected = load(torch, path)["lr_scheduler"]
    content = bytearray(path.read_bytes())
    for key, value in {"num_iters": 0, "start_lr": 0.25, "end_iter": 255}.items():
        patch = document.scalar_patch(document.at("lr_scheduler", key), value)
        assert patch is not None
        offset, old, new = patch
        assert content[start + offset : start + offset + len(old)] == old
        assert len(old) == len(new)
        content[start + offset : start + offset + len(new)] = new
        expected[key] = value
    path.write_bytes(content)
    assert load(torch, path)["lr_scheduler"] == expected


def test_learning_rates_of_all_groups_are_set_by_writing_anew(checkpoint: Checkpoint, torch: Any) -> None:
    path = checkpoint(REAL) / OPTIMIZER
    document = Archive(path).document()
    groups = document.at("optimizer_state_dict", "base_optimizer_state", "param_groups")
    for group in document.items(groups):
        document.replace(document.at("lr", start=group), 0.0)
    before = load(torch, path)["optimizer_state_dict"]["base_optimizer_state"]
    after = load(torch, rewrite(path, document))["optimizer_state_dict"]["base_optimizer_state"]
    for old, new in zip(before["param_groups"], after["param_groups"], strict=True):
        assert {**old, "lr": 0.0} == new
    assert torch.equal(before["state"][0]["exp_avg"], after["state"][0]["exp_avg"])


def test_a_layer_grows(checkpoint: Checkpoint, torch: Any) -> None:
    path = checkpoint(REAL) / LAYER
    document = Archive(path).document()
    node = document.at("word_embeddings.weight")
    tensor = document.tensor(node)
    assert (tensor.key, tensor.storage_numel, tensor.offset, tensor.shape) == ("0", 256 * 24, 0, (256, 24))
    document.resize_tensor(node, (300, 24))
    document.resize_storage(tensor.key, 300 * 24)
    assert document.tensor(node).shape == (300, 24)
    loaded = load(torch, rewrite(path, document, {"data/0": 300 * 24 * 4}))["word_embeddings.weight"]
    assert torch.equal(loaded, torch.zeros(300, 24))


def test_views_of_one_storage_stay_views_of_one_storage(checkpoint: Checkpoint, torch: Any) -> None:
    path = checkpoint("zero2-fp32-nopipe-dp2") / MODEL
    before = load(torch, path)["module"]
    document = Archive(path).document()
    name = "sequential.0.word_embeddings.weight"
    tensor = document.tensor(document.at("module", name))
    numel = tensor.storage_numel + 48
    document.resize_storage(tensor.key, numel)
    after = load(torch, rewrite(path, document, {f"data/{tensor.key}": numel * 4}))["module"]
    shared = [key for key, value in after.items() if value.data_ptr() and value.untyped_storage().nbytes() == numel * 4]
    assert len(shared) > 5
    assert len({after[key].untyped_storage().data_ptr() for key in shared}) == 1
    assert all(after[key].storage_offset() == before[key].storage_offset() for key in shared)


def test_shapes_fragments_and_numbers_are_replaced(checkpoint: Checkpoint, torch: Any) -> None:
    tag = checkpoint(REAL)
    document = Archive(tag / MODEL).document()
    name = "0.word_embeddings.weight"
    assert document.value(document.at("param_shapes", 0, name)) == (256, 24)
    assert document.value(document.at("param_shapes", 0, name, 1)) == 24
    document.replace(document.at("param_shapes", 0, name), torch_size((300, 24)))
    document.replace(document.at("args", "padded_vocab_size"), 1 << 40)
    header = load(torch, rewrite(tag / MODEL, document))
    assert header["param_shapes"][0][name] == torch.Size((300, 24))
    assert type(header["param_shapes"][0][name]) is torch.Size
    assert header["args"]["padded_vocab_size"] == 1 << 40

    document = Archive(tag / OPTIMIZER).document()
    mappings = document.at("optimizer_state_dict", "param_slice_mappings", 1)
    first, *_, last = [key for key, _ in document.entries(mappings)]
    assert document.value(document.at(first, "numel", start=mappings)) == 24
    document.remove(mappings, first)
    document.put(mappings, last, fragment_address(1 << 33, 7))
    document.put(mappings, "new", fragment_address(3, 4))
    assert document.value(mappings)["new"] == FragmentAddress(3, 4)
    loaded = load(torch, rewrite(tag / OPTIMIZER, document))["optimizer_state_dict"]["param_slice_mappings"][1]
    assert first not in loaded
    assert list(loaded)[-1] == "new"
    assert (loaded[last].numel, loaded[last].start) == (1 << 33, 7)
    assert type(loaded["new"]).__name__ == "fragment_address"


@pytest.mark.parametrize(
    ("old", "new", "fits"),
    [
        (5, 255, True), (5, 256, False), (5, -1, False), (1000, 0, True), (1000, 65536, False),
        (70000, -3, True), (70000, 1 << 31, False), (1 << 40, 1, True), (1 << 40, -(1 << 46), True),
        (1 << 40, 1 << 60, False), (0.5, -1e300, True), (True, False, True), (False, False, True),
        (5, 5.0, False), (5.0, 5, False), (1, True, False), (True, 1, False),
    ],
)  # fmt: skip
def test_a_scalar_is_patched_where_the_width_allows(old: Any, new: Any, fits: bool) -> None:
    data = pickle.dumps({"a": old, "b": "x"}, protocol=2)
    document = PickleDocument(data)
    patch = document.scalar_patch(document.at("a"), new)
    assert (patch is not None) is fits
    if patch is not None:
        offset, was, becomes = patch
        assert data[offset : offset + len(was)] == was
        loaded = pickle.loads(data[:offset] + becomes + data[offset + len(was) :])
        assert loaded == {"a": new, "b": "x"}
        assert type(loaded["a"]) is type(new)


def test_what_is_no_number_in_the_pickle_is_not_patched() -> None:
    document = PickleDocument(pickle.dumps(["text", None], protocol=2))
    assert document.scalar_patch(document.at(0), 1) is None
    assert document.scalar_patch(document.at(1), 1) is None
    assert document.scalar_patch(document.replace(document.at(1), 2), 1) is None


VALUES = [
    0, 255, 256, 65535, 65536, -1, -128, -(1 << 31), (1 << 31) - 1, 1 << 31, -(1 << 39), -(1 << 63), (1 << 64) - 1,
    0.1, float("inf"), "", "ü \ud800 𝄞", b"\x00\xff", None, True, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1],
    {}, {"a": 1}, {1: 2, "b": [3]}, {True: None}, list(range(2500)), {str(i): i for i in range(1001)}, ["s"] * 300,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:30])
def test_every_kind_of_value_can_be_put_in(value: Any) -> None:
    document = PickleDocument(pickle.dumps({"old": 1}, protocol=2))
    document.put(document.root, "new", value)
    assert pickle.loads(document.to_bytes()) == {"old": 1, "new": value}


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:30])
def test_every_protocol_that_torch_takes_is_read(value: Any, protocol: int) -> None:
    document = PickleDocument(pickle.dumps([value, OrderedDict(a=value)], protocol=protocol))
    assert document.value(document.root) == [value, OrderedDict(a=value)]
    assert pickle.loads(document.to_bytes()) == [value, OrderedDict(a=value)]


def test_sharing_survives() -> None:
    shared = ["s" * 300]
    document = PickleDocument(pickle.dumps([shared, {"again": shared}, shared[0]], protocol=2))
    document.replace(document.at(0, 0), "t" * 300)
    document.put(document.at(1), "other", ordered_dict({"k": document.at(0)}))
    loaded = pickle.loads(document.to_bytes())
    assert loaded == [["t" * 300], {"again": ["t" * 300], "other": OrderedDict(k=["t" * 300])}, "t" * 300]
    assert loaded[0] is loaded[1]["again"] is loaded[1]["other"]["k"]
    assert document.value(document.root) == loaded


def test_more_objects_than_one_byte_numbers() -> None:
    names = [[str(i)] for i in range(70000)]
    data = pickle.dumps([*names, *names], protocol=2)
    document = PickleDocument(data)
    assert document.to_bytes() == data


def test_paths_that_lead_nowhere_are_lookup_errors() -> None:
    document = PickleDocument(pickle.dumps({"a": [1], 1: {}}, protocol=2))
    for path in [("b",), ("a", 1), ("a", "x"), (1, 1), ("1",), (True,)]:
        with pytest.raises(LookupError):
            document.at(*path)
    with pytest.raises(KeyError):
        document.remove(document.root, "b")
    with pytest.raises(TypeError):
        document.tensor(document.at("a"))


def test_only_plain_values_become_nodes() -> None:
    for value in (object(), {1, 2}, OrderedDict(), {(1,): 2}):
        with pytest.raises(TypeError):
            node_of(value)


def test_a_tensor_subclass_and_a_parameter_are_tensors(torch: Any, tmp_path: Path) -> None:
    tagged = torch.ones(3)
    tagged.note = "an attribute makes torch write _rebuild_from_type_v2"
    path = tmp_path / "a.pt"
    torch.save({"tagged": tagged, "parameter": torch.nn.Parameter(torch.ones(2, 3))}, path)
    document = Archive(path).document()
    for name, shape in (("tagged", (3,)), ("parameter", (2, 3))):
        node = document.at(name)
        tensor = document.tensor(node)
        assert tensor.shape == shape
        document.resize_tensor(node, (1, *shape), offset=0)
    loaded = load(torch, rewrite(path, document))
    assert loaded["tagged"].shape == (1, 3)
    assert loaded["tagged"].note == tagged.note
    assert isinstance(loaded["parameter"], torch.nn.Parameter)
    assert loaded["parameter"].shape == (1, 2, 3)


def test_a_written_pickle_can_be_read_as_a_stream() -> None:
    data = PickleDocument(pickle.dumps([1], protocol=4)).to_bytes()
    stream = io.BytesIO(data + b"rest")
    assert pickle.load(stream) == [1]
    assert stream.read() == b"rest"
