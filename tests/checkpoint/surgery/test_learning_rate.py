# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.surgery.learning_rate import RestartRequest, plan_restart_lr, restart_lr
from gaff.checkpoint.surgery.perform import finish_interrupted
from gaff.checkpoint.tag_copy import copy_tag
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError, GaffError, InputError
from gaff.plan.annealing import Schedule
from tests.conftest import ALL_NAMES

torch = pytest.importorskip("torch")

GetTag = Callable[[str], Path]
PLAIN, ZERO0, ZERO3 = "zero1-fp32-pp1-tp1-dp1", "zero0-fp32-dp2", "zero3-fp32-nopipe-dp2"
RATE_AT_5 = 0.0009397114317029975  # what GPT-NeoX wrote into the fixtures
COSINE = Schedule(start_lr=0.001, min_lr=0.0001, warmup_iter=2.0, end_iter=20, decay_style="cosine", num_iters=5)


def contents(tag: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(tag.glob("*.pt"))}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in what torch loaded, by its place; tensors with their dtype and bytes."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}/{number}")
    elif isinstance(value, torch.Tensor):
        yield path, (value.dtype, tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    elif type(value).__module__ == "numpy":
        yield path, value.tobytes()
    elif hasattr(value, "__dict__"):
        yield path, type(value).__name__
        yield from leaves(vars(value), path)
    else:
        yield path, value


def loaded(tag: Path) -> dict[str, Any]:
    return {
        f"{path.name}{place}": value
        for path in sorted(tag.glob("*.pt"))
        for place, value in leaves(torch.load(path, weights_only=False))
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    assert list(before) == list(after)
    return {place: value for place, value in after.items() if value != before[place]}


def resave(path: Path, change: Callable[[Any], None]) -> None:
    root = torch.load(path, weights_only=False)
    change(root)
    torch.save(root, path)


@pytest.mark.parametrize(
    ("style", "done", "rate"),
    [
        ("cosine", 5, RATE_AT_5),
        ("cosine", 0, 5e-4),
        ("cosine", 1, 5e-4),
        ("cosine", 2, 1e-3),
        ("cosine", 20, 1e-4),
        ("cosine", 38, 1e-3),  # it rises again
        ("linear", 11, 5e-4),
        ("linear", 40, 1e-4),
        ("exponential", 20, 1e-3 * math.exp(-0.693)),
        ("constant", 11, 1e-3),
    ],
)
def test_the_rate_is_that_of_gpt_neox(style: str, done: int, rate: float) -> None:
    found = replace(COSINE, decay_style=style, num_iters=done).rate()
    assert found == (rate if rate == RATE_AT_5 else pytest.approx(rate, rel=1e-12))


def test_without_warm_up_it_begins_at_the_top() -> None:
    assert replace(COSINE, warmup_iter=0.0, num_iters=0).rate() == 0.001


@pytest.mark.parametrize("name", ALL_NAMES)
def test_only_the_schedule_and_the_rates_change(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    bytes_before, before = contents(tag), loaded(tag)
    done = restart_lr(tag, RestartRequest()).operation
    difference = changed(before, loaded(tag))
    counts = {place for place in before if place.endswith("/lr_scheduler/num_iters")}
    rates = {place for place in before if "/param_groups/" in place and place.endswith("/lr")}
    assert len(counts) == len([n for n in bytes_before if n.endswith("model_states.pt") and "layer" not in n])
    assert len(rates) == 2 * len([n for n in bytes_before if n.endswith("optim_states.pt")] or counts)
    assert len(done.patches) == len(counts) + len(rates)
    assert difference == {**dict.fromkeys(counts, 0), **dict.fromkeys(rates, 5e-4)}
    assert all(type(difference[place]) is type(before[place]) for place in difference)
    assert {n: len(data) for n, data in contents(tag).items()} == {n: len(data) for n, data in bytes_before.items()}
    assert verify_tag(tag) == []
    restart_lr(tag, RestartRequest(5))  # the rate of iteration 5 is the one that GPT-NeoX had there, to the last bit
    assert contents(tag) == bytes_before
    assert verify_tag(tag) == []


@pytest.mark.parametrize("name", ["zero1-fp32-tp2-pp2-dp2", ZERO0, ZERO3, "zero2-fp32-nopipe-dp2"])
def test_a_number_that_needs_more_bytes_has_the_file_written_anew(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(name)
    before = loaded(tag)
    done = restart_lr(tag, RestartRequest(300, decay_iters=1000)).operation
    assert sorted(done.replaced) == [n for n in contents(tag) if n.endswith("model_states.pt") and "layer" not in n]
    difference = changed(before, loaded(tag))
    rate = replace(COSINE, num_iters=300, end_iter=1000).rate()
    assert {place.rpartition("/")[2]: value for place, value in difference.items()} == {
        "num_iters": 300,
        "end_iter": 1000,
        "lr": rate,
    }
    for path in tag.glob("*.pt"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    assert verify_tag(tag) == []
    assert not list(tag.glob("gaff/staged"))


def test_the_other_settings_can_be_changed_too(checkpoint: GetTag) -> None:
    tag = checkpoint(ZERO0)
    done = restart_lr(tag, RestartRequest(0, lr=0.5, min_lr=0.25, warmup_iters=4)).operation
    root = torch.load(tag / "mp_rank_00_model_states.pt", weights_only=False)
    assert root["lr_scheduler"] == {
        "start_lr": 0.5, "warmup_iter": 4.0, "num_iters": 0, "decay_style": "cosine", "end_iter": 20, "min_lr": 0.25,
    }  # fmt: skip
    assert [group["lr"] for group in root["optimizer"]["param_groups"]] == [0.125, 0.125]
    assert (done.about["lr_before"], done.about["lr_after"]) == ([RATE_AT_5], [0.125])
    assert any("use_checkpoint_lr_scheduler" in note for note in done.about["notes"])


def test_mup_divides_the_rate_by_the_width_of_the_group(checkpoint: GetTag) -> None:
    tag = checkpoint(PLAIN)
    shard = next(tag.glob("*_optim_states.pt"))

    def widen(root: Any) -> None:
        root["optimizer_state_dict"]["base_optimizer_state"]["param_groups"][1]["width_mult"] = 4.0

    resave(shard, widen)
    restart_lr(tag, RestartRequest())
    groups = torch.load(shard, weights_only=False)["optimizer_state_dict"]["base_optimizer_state"]["param_groups"]
    assert [group["lr"] for group in groups] == [5e-4, 1.25e-4]


def test_groups_inside_a_wrapper_inside_a_model_file_are_found(checkpoint: GetTag) -> None:
    """ZeRO 0 with fp16: ``optimizer.optimizer_state_dict.param_groups``."""
    tag = checkpoint(ZERO0)
    path = tag / "mp_rank_00_model_states.pt"

    def wrap(root: Any) -> None:
        optimizer = root["optimizer"]
        weights = [torch.zeros(1)]
        root["optimizer"] = {"optimizer_state_dict": optimizer, "fp32_groups": weights}

    layout = read_layout(tag)
    resave(path, wrap)
    operation = plan_restart_lr(layout, RestartRequest())
    assert operation.about["lr_before"] == [RATE_AT_5]
    assert operation.about["lr_after"] == [5e-4]


def test_the_same_restart_again_is_already_done(checkpoint: GetTag) -> None:
    tag = checkpoint(PLAIN)
    assert not restart_lr(tag, RestartRequest()).already_done
    after = contents(tag)
    assert restart_lr(tag, RestartRequest()).already_done
    assert contents(tag) == after
    assert not restart_lr(tag, RestartRequest(lr=0.5)).already_done


@pytest.mark.parametrize("request_", [RestartRequest(1), RestartRequest(300)])
def test_it_is_finished_when_cut_short(
    request_: RestartRequest, checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag, twin = checkpoint("zero1-fp32-tp2-pp2-dp2"), checkpoint(ZERO3)
    copy = copy_tag(tag, twin.parent / "copy")
    restart_lr(copy, request_)

    def cut_short(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gaff.checkpoint.surgery.perform.commit", cut_short)  # all is written, nothing is recorded
        with pytest.raises(KeyboardInterrupt):
            restart_lr(tag, request_)
    assert [fault.id for fault in verify_tag(tag)] == ["half-done"]
    assert finish_interrupted(tag) is not None
    assert contents(tag) == contents(copy)
    assert verify_tag(tag) == []


def test_a_copy_that_shares_files_leaves_the_first_alone(checkpoint: GetTag, tmp_path: Path) -> None:
    tag = checkpoint(ZERO3)
    before = contents(tag)
    restart_lr(copy_tag(tag, tmp_path / "patched"), RestartRequest())
    restart_lr(copy_tag(tag, tmp_path / "rewritten"), RestartRequest(300))
    assert contents(tag) == before


def refused(tag: Path, kind: type[GaffError], request: RestartRequest = RestartRequest()) -> str:  # noqa: B008
    before = contents(tag)
    with pytest.raises(kind) as caught:
        restart_lr(tag, request)
    assert contents(tag) == before
    assert not list(tag.glob("gaff/*"))
    return str(caught.value)


def test_files_that_disagree_are_refused(checkpoint: GetTag) -> None:
    tag = checkpoint("zero1-fp32-tp2-pp2-dp2")
    resave(tag / "mp_rank_02_model_states.pt", lambda root: root["lr_scheduler"].update(num_iters=4))
    said = refused(tag, CheckpointError)
    assert "mp_rank_02_model_states.pt and mp_rank_00_model_states.pt hold different learning rate schedules" in said


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "holds no learning rate schedule"),
        ({"num_iters": 5}, "its lr_scheduler is not GPT-NeoX's"),
        ({**vars(COSINE), "end_iter": "20"}, "its lr_scheduler is not GPT-NeoX's"),
    ],
)
def test_a_checkpoint_without_the_schedule_is_refused(state: Any, said: str, checkpoint: GetTag) -> None:
    tag = checkpoint(PLAIN)
    resave(tag / "mp_rank_00_model_states.pt", lambda root: root.update(lr_scheduler=state))
    assert said in refused(tag, CheckpointError)


def test_a_rate_that_is_no_number_is_refused(checkpoint: GetTag) -> None:
    tag = checkpoint(PLAIN)

    def tensor(root: Any) -> None:
        root["optimizer_state_dict"]["base_optimizer_state"]["param_groups"][0]["lr"] = torch.tensor(0.1)

    resave(next(tag.glob("*_optim_states.pt")), tensor)
    assert "keeps its learning rate in a way that is not known" in refused(tag, CheckpointError)


def test_a_warm_up_longer_than_the_decay_is_refused(checkpoint: GetTag) -> None:
    said = refused(checkpoint(PLAIN), InputError, RestartRequest(warmup_iters=21.0))
    assert "a warm-up of 21 iterations leaves no decay before iteration 20" in said


def test_a_damaged_record_is_not_written_anew_as_if_it_were_sound(checkpoint: GetTag) -> None:
    tag = checkpoint(ZERO0)
    path = tag / "mp_rank_00_model_states.pt"
    with zipfile.ZipFile(path) as archive:
        data = next(info for info in archive.infolist() if info.filename.endswith("data/1"))
        place = archive.read(data)
    whole = bytearray(path.read_bytes())
    whole[whole.index(place) + 5] ^= 1
    path.write_bytes(whole)
    before = contents(tag)
    with pytest.raises(CheckpointError, match="does not match its CRC-32"):
        restart_lr(tag, RestartRequest(300))
    assert contents(tag) == before
    assert not list(tag.glob("gaff/*"))
